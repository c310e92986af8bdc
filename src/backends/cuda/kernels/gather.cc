// gather, gather_elements, gather_nd. Floor: every gathered byte read once and written once.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/bounded_index.h"
#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/kernels/indexed_def.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

Support supports_gather(const NodeView& node) {
  if (num_elements(node.output_shapes[0]) > 0 && num_elements(node.input_shapes[0]) == 0) return Support::no("x is empty");
  return supports_moving(node);
}

class GatherKernel final : public Kernel {
 public:
  explicit GatherKernel(const NodeView& node) {
    const Shape& in = node.input_shapes[0];
    const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
    const int64_t row_bytes = num_elements(std::span(in).subspan(axis + 1)) * bytes_of_element(node.input_dtypes[0]);
    const int64_t outer = num_elements(std::span(in).first(axis)), count = num_elements(node.input_shapes[1]);
    const int64_t unit = unit_bytes({row_bytes}), units = row_bytes / unit, total = outer * count * units;
    const bool wide = std::max(total, outer * in[axis] * units) > INT32_MAX - 256;
    function_ = node.cuda->function(device_source("cuda.gather", "gather.cu",
                                                  {"UNIT=" + unit_type(unit), "INDEX=" + device_type(node.input_dtypes[1]),
                                                   std::string("WIDE=") + (wide ? "int64_t" : "int")}),
                                    "gather");
    launch_ = {.grid = {static_cast<unsigned>(ceil_div(total, 256))}, .block = {256}, .overlap = true};
    for (int pointer = 0; pointer < 3; ++pointer) words_.push(0);
    words_.push(static_cast<uint64_t>(total));
    words_.push(static_cast<uint64_t>(in[axis]));
    words_.push(DividerWords(units));
    words_.push(DividerWords(count));
  }
  void run(const RunArgs& args) const override { words_.launch(function_, launch_, args, {0, 1}, {0}); }

 private:
  Function function_;
  Launch launch_;
  ArgumentWords words_;
};

class GatherDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.gather"; }
  std::string_view op() const override { return "gather"; }
  Support supports(const NodeView& node) const override { return supports_gather(node); }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override { return std::make_unique<GatherKernel>(node); }
};

std::vector<IndexedCode> gather_elements(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  std::vector<int64_t> strides = strides_of(in);
  const int64_t step = strides[axis];
  strides[axis] = 0;
  const std::string type = unit_type(bytes_of_element(node.input_dtypes[0]));
  IndexedCode code{.name = {}, .preamble = kBoundedIndex, .body = {}};
  code.inputs = {{0, type}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, type}};
  code.count = num_elements(out), code.largest = num_elements(in);
  code.body =
      split_index(out) + fmt::format("  out0[i] = in0[{} + Index(bounded(in1[i], {})) * Index({})];", dot_index(strides), in[axis], step);
  return {code};
}

std::vector<IndexedCode> gather_nd(const NodeView& node) {
  const Shape &in = node.input_shapes[0], &indices = node.input_shapes[1];
  const int64_t batch_dims = node.attrs().get_int("batch_dims", 0), depth = indices.back();
  if (batch_dims + depth > static_cast<int64_t>(in.size()))
    fail(ErrorCode::InvalidArgument, "[gather_nd] indices {} address more axes than {} has", to_string(indices), to_string(in));
  const int64_t batches = num_elements(std::span(in).first(batch_dims)), bytes = bytes_of_element(node.input_dtypes[0]);
  const int64_t tuples = num_elements(std::span(indices).first(indices.size() - 1));
  const int64_t row_bytes = num_elements(std::span(in).subspan(batch_dims + depth)) * bytes;
  const int64_t unit = unit_bytes({row_bytes}), units = row_bytes / unit, per_unit = unit / bytes;
  IndexedCode code{.name = {}, .preamble = kBoundedIndex, .body = {}};
  code.inputs = {{0, unit_type(unit)}, {1, device_type(node.input_dtypes[1])}};
  code.outputs = {{0, unit_type(unit)}};
  code.count = tuples * units, code.largest = std::max(num_elements(in), tuples * depth);
  code.body = split_index({batches, tuples / std::max<int64_t>(batches, 1), units}) +
              fmt::format("  const Index tuple = i / Index({}), offset = c0 * Index({}) + {};\n  out0[i] = in0[offset / {} + c2];",
                          std::max<int64_t>(units, 1), num_elements(std::span(in).subspan(batch_dims)),
                          tuple_offset(in, batch_dims, depth, "tuple"), per_unit);
  return {code};
}

}  // namespace

std::vector<const KernelDef*> gather_kernels() {
  static const GatherDef gathers;
  static const IndexedDef elements("gather_elements", supports_gather, gather_elements), nd("gather_nd", supports_gather, gather_nd);
  return {&gathers, &elements, &nd};
}

}  // namespace tokamak::cuda
