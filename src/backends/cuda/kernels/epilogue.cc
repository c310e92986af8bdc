#include "backends/cuda/kernels/epilogue.h"

#include <limits>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/expr_code.h"
#include "ir/op.h"

namespace tokamak::cuda {

bool broadcast_strides(const Shape& shape, const Shape& dims, std::vector<int64_t>& strides) {
  if (shape.size() > dims.size()) return false;
  strides.assign(dims.size(), 0);
  int64_t stride = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t size = shape[shape.size() - 1 - i];
    const size_t at = dims.size() - 1 - i;
    if (size != 1 && size != dims[at]) return false;
    strides[at] = size == 1 ? 0 : stride;
    stride *= size;
  }
  return true;
}

std::string strided_offset(const Shape& dims, const std::vector<int64_t>& strides, const std::string& index) {
  Shape sizes;  // runs of dimensions that one stride walks through, outermost first
  std::vector<int64_t> steps;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 1) continue;
    if (!sizes.empty() && steps.back() == strides[i] * dims[i]) sizes.back() *= dims[i], steps.back() = strides[i];
    else sizes.push_back(dims[i]), steps.push_back(strides[i]);
  }
  std::string text;
  int64_t inner = 1;
  for (size_t i = sizes.size(); i-- > 0; inner *= sizes[i]) {
    if (steps[i] == 0) continue;
    std::string term = index;
    if (inner != 1) term += fmt::format(" / {}", inner);
    if (i != 0) term = fmt::format("{} % {}", term, sizes[i]);
    if (steps[i] != 1) term = fmt::format("({}) * int64_t({})", term, steps[i]);
    text += (text.empty() ? "" : " + ") + ("(" + term + ")");
  }
  return text.empty() ? "0" : text;
}

namespace {

bool has_epilogue(const NodeView& node) { return node.attrs().has("epilogue"); }

int first_input(const NodeView& node) {
  return static_cast<int>(node.attrs().get_int("epilogue_input", std::numeric_limits<int32_t>::max()));
}

bool has_bias(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  if (op != "conv" && op != "conv_transpose") return false;
  return node.num_inputs() > 2 && node.has_input(2) && !(has_epilogue(node) && first_input(node) <= 2);
}

Shape bias_shape(const NodeView& node) {
  Shape shape(node.output_shapes[0].size(), 1);
  const bool last = node.attrs().get_string("layout", "NCHW") == "NHWC";
  shape[last ? shape.size() - 1 : 1] = node.input_shapes[2][0];
  return shape;
}

}  // namespace

Support Epilogue::supports(const NodeView& node) {
  std::vector<int64_t> strides;
  if (has_bias(node) && !broadcast_strides(bias_shape(node), node.output_shapes[0], strides))
    return Support::no("the bias does not fit the output");
  if (has_bias(node) && device_type(node.input_dtypes[2]).empty())
    return Support::no(fmt::format("the bias is {}", to_string(node.input_dtypes[2])));
  if (!has_epilogue(node)) return Support::yes();
  const ir::Expr expr = ir::Expr::parse(node.attrs().get_string("epilogue"));
  if (expr.has_row_reduction()) return Support::no("the epilogue reduces over rows");
  if (expr.results.size() != 1) return Support::no("the epilogue has several results");
  if (expr.num_inputs() > kMaxInputs) return Support::no(fmt::format("the epilogue has {} inputs", expr.num_inputs()));
  for (int i = 1; i < expr.num_inputs(); ++i) {
    const int index = first_input(node) + i - 1;
    if (index < 0 || index >= node.num_inputs() || !node.has_input(index))
      return Support::no(fmt::format("epilogue input {} is absent", index));
    if (device_type(node.input_dtypes[index]).empty())
      return Support::no(fmt::format("epilogue input {} is {}", index, to_string(node.input_dtypes[index])));
    if (!broadcast_strides(node.input_shapes[index], node.output_shapes[0], strides))
      return Support::no(fmt::format("epilogue input {} does not broadcast to the output", index));
  }
  return Support::yes();
}

Epilogue::Epilogue(const NodeView& node, bool column) : dims_(node.output_shapes[0]) {
  const auto add = [&](int index, const Shape& shape, bool is_bias) {
    Input input{index, node.input_dtypes[index], {}, is_bias};
    CHECK(broadcast_strides(shape, dims_, input.strides));
    inputs_.push_back(std::move(input));
  };
  if (has_bias(node)) add(2, bias_shape(node), true);
  if (has_epilogue(node)) {
    expr_ = ir::Expr::parse(node.attrs().get_string("epilogue"));
    for (int i = 1; i < expr_.num_inputs(); ++i) {
      const int index = first_input(node) + i - 1;
      add(index, node.input_shapes[index], false);
    }
  }
  if (column || dims_.empty()) {
    dims_.push_back(1);
    for (Input& input : inputs_) input.strides.push_back(0);
  }
}

bool Epilogue::is_row_vector(const Input& input) const {
  for (size_t i = 0; i + 1 < dims_.size(); ++i)
    if (input.strides[i] != 0 && dims_[i] != 1) return false;
  return input.strides.back() == 1 || dims_.back() == 1;
}

bool Epilogue::is_full(const Input& input) const {
  int64_t stride = 1;
  for (size_t i = dims_.size(); i-- > 0; stride *= dims_[i])
    if (dims_[i] != 1 && input.strides[i] != stride) return false;
  return true;
}

std::string Epilogue::code() const {
  std::string text = "#include \"prelude.cuh\"\n#include \"math.cuh\"\n#include \"epilogue.cuh\"\nstruct Extras {\n";
  for (size_t i = 0; i < inputs_.size(); ++i) text += fmt::format("  const {}* p{};\n", device_type(inputs_[i].dtype), i);
  if (inputs_.empty()) text += "  const void* none;\n";
  text += "};\n";
  if (!expr_.results.empty()) text += device_expression(expr_, "epilogue_value");
  text +=
      "template <int kCount>\n"
      "DEVICE void epilogue(float (&x)[kCount], int64_t row, int64_t col, const Extras& extras) {\n";
  const Shape rows(dims_.begin(), dims_.end() - 1);
  std::string arguments;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::vector<int64_t> row_strides(inputs_[i].strides.begin(), inputs_[i].strides.end() - 1);
    const int64_t stride = dims_.back() == 1 ? 0 : inputs_[i].strides.back();
    text += fmt::format("  float v{}[kCount];\n  load_extra<{}>(extras.p{} + {}{}, v{});\n", i, stride, i,
                        strided_offset(rows, row_strides, "row"), stride == 0 ? "" : fmt::format(" + col * {}", stride), i);
    if (!inputs_[i].is_bias) arguments += fmt::format(", v{}[c]", i);
  }
  const std::string value = !inputs_.empty() && inputs_[0].is_bias ? "x[c] + v0[c]" : "x[c]";
  if (!empty())
    text += fmt::format("#pragma unroll\n  for (int c = 0; c < kCount; ++c) x[c] = {};\n",
                        expr_.results.empty() ? value : fmt::format("epilogue_value({}{})", value, arguments));
  text += "}\nDEVICE void touch_extras(int64_t row, int64_t col, const Extras& extras) {\n";
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const std::vector<int64_t> row_strides(inputs_[i].strides.begin(), inputs_[i].strides.end() - 1);
    const int64_t stride = dims_.back() == 1 ? 0 : inputs_[i].strides.back();
    text += fmt::format("  touch(extras.p{} + {} + col * {});\n", i, strided_offset(rows, row_strides, "row"), stride);
  }
  return text + "}\n";
}

Epilogue::Pointers Epilogue::pointers(const RunArgs& args) const {
  Pointers pointers;
  for (size_t i = 0; i < inputs_.size(); ++i) pointers.at[i] = args.inputs[inputs_[i].index].raw();
  return pointers;
}

}  // namespace tokamak::cuda
