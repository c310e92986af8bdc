#include "import/onnx/node_importer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "base/small_float.h"
#include "import/onnx/importer.h"
#include "ir/infer.h"
#include "ir/op.h"

namespace tokamak::onnx {

using ir::Attrs;
using ir::Dim;
using ir::Dims;
using ir::Ints;
using ir::Value;

const Binding* Scope::find(Text name) const {
  for (const Scope* s = this; s; s = s->outer)
    if (const auto found = s->names.find(name); found != s->names.end()) return &found->second;
  return nullptr;
}

NodeImporter::NodeImporter(Importer& importer, Scope& scope, const NodeProto& node, int64_t opset, std::string name)
    : importer_(importer), scope_(scope), node_(node), opset_(opset), name_(std::move(name)) {
  for (Text input : node.inputs) {
    const Binding* found = input.empty() ? nullptr : scope.find(input);
    inputs_.push_back(found ? *found : Binding{});
  }
  while (!inputs_.empty() && !inputs_.back().value && !inputs_.back().sequence) inputs_.pop_back();  // trailing absent ones
}

// --- inputs and outputs ---

Value* NodeImporter::input(int i) const {
  if (is_sequence(i)) unsupported(fmt::format("input {} is a sequence", i), "only sequences that the import can take apart are supported");
  Value* v = maybe(i);
  if (v == nullptr) bad("input {} is required, found none", i);
  return v;
}

Values NodeImporter::inputs() const {
  Values values;
  for (int i = 0; i < num_inputs(); ++i) {
    if (is_sequence(i)) (void)input(i);
    values.push_back(inputs_[i].value);
  }
  return values;
}

const std::vector<Value*>& NodeImporter::sequence(int i) const {
  if (!is_sequence(i)) bad("input {} should be a sequence", i);
  return *inputs_[i].sequence;
}

void NodeImporter::set_output(int i, Value* value) {
  if (!wants(i)) return;
  // A value that nobody named yet is this output; one that has a name (an input of this node, say) is another name for it.
  if (value->name.empty() && !value->is_input()) value->name = scope_.prefix + std::string(node_.outputs[i]);
  if (i == 0 && value->producer() && value->producer()->graph() == scope_.graph && value->producer()->origin == name_) {
    value->producer()->name = name_;
    value->producer()->origin.clear();
  }
  scope_.names[node_.outputs[i]] = Binding{value};
}

void NodeImporter::set_sequence(int i, Values values) {
  if (!wants(i)) return;
  Binding binding;
  binding.sequence = std::make_shared<const Values>(std::move(values));
  scope_.names[node_.outputs[i]] = std::move(binding);
}

void NodeImporter::set_outputs(const Values& values) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i]) set_output(static_cast<int>(i), values[i]);
}

// --- attributes ---

const AttributeProto* NodeImporter::attr(Text name) const {
  const AttributeProto* found = nullptr;
  for (const auto& a : node_.attributes)
    if (a.name == name) found = &a;
  if (found == nullptr || found->ref_attr_name.empty()) return found;
  if (scope_.call == nullptr) bad("attribute '{}' refers to '{}', but the node is not in a function", name, found->ref_attr_name);
  const auto at = scope_.call->attributes.find(found->ref_attr_name);
  return at == scope_.call->attributes.end() ? nullptr : at->second;
}

const AttributeProto* NodeImporter::typed_attr(Text name, AttributeProto::Type type) const {
  const AttributeProto* a = attr(name);
  if (a == nullptr || a->type == type) return a;
  // An empty list has no field to tell its type in files that do not write it.
  if (a->type == AttributeProto::Undefined) return a;
  bad("attribute '{}' has type {}, expected {}", name, static_cast<int>(a->type), static_cast<int>(type));
}

int64_t NodeImporter::int_attr(Text name, int64_t otherwise) const {
  const auto* a = typed_attr(name, AttributeProto::Int);
  return a ? a->i : otherwise;
}

int64_t NodeImporter::int_attr(Text name) const {
  const auto* a = typed_attr(name, AttributeProto::Int);
  if (a == nullptr) bad("attribute '{}' is required, found none", name);
  return a->i;
}

double NodeImporter::float_attr(Text name, double otherwise) const {
  const auto* a = typed_attr(name, AttributeProto::Float);
  return a ? a->f : otherwise;
}

std::string NodeImporter::string_attr(Text name, std::string otherwise) const {
  const auto* a = typed_attr(name, AttributeProto::String);
  return a ? std::string(a->s) : otherwise;
}

Ints NodeImporter::ints_attr(Text name, Ints otherwise) const {
  const auto* a = typed_attr(name, AttributeProto::Ints);
  return a ? a->ints : otherwise;
}

ir::Floats NodeImporter::floats_attr(Text name) const {
  const auto* a = typed_attr(name, AttributeProto::Floats);
  return a ? a->floats : ir::Floats{};
}

ir::Strings NodeImporter::strings_attr(Text name) const {
  const auto* a = typed_attr(name, AttributeProto::Strings);
  return a ? ir::Strings(a->strings.begin(), a->strings.end()) : ir::Strings{};
}

Tensor NodeImporter::tensor_attr(Text name) const {
  const auto* a = typed_attr(name, AttributeProto::Tensor);
  if (a == nullptr || !a->t) bad("attribute '{}' should hold a tensor", name);
  return make_tensor(*a->t, importer_.source());
}

const GraphProto& NodeImporter::graph_attr(Text name) const {
  const auto* a = typed_attr(name, AttributeProto::Graph);
  if (a == nullptr || !a->g) bad("attribute '{}' should hold a graph", name);
  return *a->g;
}

DType NodeImporter::dtype_attr(Text name) const { return dtype_from_onnx(int_attr(name), fmt::format("attribute '{}'", name)); }

// --- facts about values ---

std::optional<Tensor> NodeImporter::constant(const Value* v) const {
  if (v == nullptr || !v->is_constant()) return std::nullopt;
  return v->constant;
}

std::optional<Dims> NodeImporter::ints(const Value* v) const {
  if (v == nullptr) return std::nullopt;
  if (v->is_constant()) {
    if ((!is_integer(v->type.dtype) && v->type.dtype != DType::Bool) || v->constant.count() > 4096) return std::nullopt;
    const auto values = v->constant.to_ints();
    return Dims(values.begin(), values.end());
  }
  return v->ints;
}

std::optional<Ints> NodeImporter::const_ints(const Value* v) const {
  const auto dims = ints(v);
  if (!dims) return std::nullopt;
  Ints out;
  for (const Dim& d : *dims) {
    if (!d.is_const()) return std::nullopt;
    out.push_back(d.value());
  }
  return out;
}

std::optional<double> NodeImporter::const_scalar(const Value* v) const {
  if (v == nullptr || !v->is_constant() || v->constant.count() != 1) return std::nullopt;
  if (!is_float(v->type.dtype) && !is_integer(v->type.dtype) && v->type.dtype != DType::Bool) return std::nullopt;
  return v->constant.float_at(0);
}

bool NodeImporter::is_empty_tensor(const Value* v) const {
  if (v == nullptr || !v->type.ranked) return false;
  return std::any_of(v->type.dims.begin(), v->type.dims.end(), [](const Dim& d) { return d.is(0); });
}

int64_t NodeImporter::rank(const Value* v) const {
  if (!v->type.ranked) unsupported(fmt::format("the rank of '{}' is not known", v->name), "declare the shapes of the model's inputs");
  return v->type.rank();
}

int64_t NodeImporter::axis(int64_t axis, const Value* v) const {
  if (!v->type.ranked) return axis;
  return axes({axis}, v->type.rank())[0];
}

Ints NodeImporter::axes(Ints axes, int64_t rank) const {
  for (int64_t& a : axes) {
    if (a < -rank || a >= rank) bad("axis {} is outside a tensor of {} dimensions", a, rank);
    if (a < 0) a += rank;
  }
  std::sort(axes.begin(), axes.end());
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) bad("an axis is listed twice");
  return axes;
}

Ints NodeImporter::iota(int64_t begin, int64_t end) const {
  Ints out(std::max<int64_t>(0, end - begin));
  std::iota(out.begin(), out.end(), begin);
  return out;
}

bool NodeImporter::is_bindable(const Dim& dim) const {
  std::vector<std::string> symbols;
  dim.collect_symbols(symbols);
  return std::all_of(symbols.begin(), symbols.end(), [&](const std::string& s) { return importer_.is_bindable_symbol(s); });
}

// --- building ---

ir::Node* NodeImporter::add_node(Text op, Values inputs, Attrs attrs, int num_outputs, bool infer) {
  if (ir::find_op(op) == nullptr) unsupported(fmt::format("it needs the core operator '{}', which this build does not have", op));
  ir::Node* made = graph().add_node(op, std::move(inputs), std::move(attrs), fmt::format("{}/{}", name_, op), nullptr, num_outputs, false);
  made->origin = name_;
  if (infer) ir::infer_node(*made);
  return made;
}

Value* NodeImporter::add(Text op, Values inputs, Attrs attrs) { return add_node(op, std::move(inputs), std::move(attrs))->output(0); }

Value* NodeImporter::constant_value(Tensor tensor) { return graph().add_constant(std::move(tensor)); }

Value* NodeImporter::i64(Ints values) {
  const int64_t n = static_cast<int64_t>(values.size());
  return constant_value(Tensor::of<int64_t>({n}, values));
}

Value* NodeImporter::i64_scalar(int64_t value) { return constant_value(Tensor::scalar<int64_t>(value)); }

Value* NodeImporter::scalar(double value, DType dtype) {
  if (!is_float(dtype) && !is_integer(dtype) && dtype != DType::Bool) unsupported(fmt::format("it does not work on {}", to_string(dtype)));
  return constant_value(scalar_tensor(value, dtype));
}

Value* NodeImporter::cast(Value* v, DType dtype) { return v->type.dtype == dtype ? v : add("cast", {v}, {{"to", dtype}}); }

Value* NodeImporter::shape_of(Value* v, int64_t start, std::optional<int64_t> end) {
  Attrs attrs{{"start", start}};
  if (end) attrs.set("end", *end);
  return add("shape", {v}, attrs);
}

Value* NodeImporter::dim_of(Value* v, int64_t axis) {
  if (axis == -1) return shape_of(v, -1);
  return shape_of(v, axis, axis + 1);
}

Value* NodeImporter::reshape(Value* v, const Dims& dims) {
  const auto needs_input = [&](const Dim& d) { return d.is(-1) || !is_bindable(d); };
  if (std::none_of(dims.begin(), dims.end(), needs_input)) return add("reshape", {v}, {{"shape", dims}});
  Ints shape;
  int num_unknown = 0;
  for (const Dim& d : dims) {
    if (d.is(0)) num_unknown = 2;  // 0 copies a dimension and -1 is ambiguous
    if (!d.is_const() || d.is(-1)) ++num_unknown;
    shape.push_back(d.is_const() ? d.value() : -1);
  }
  if (num_unknown > 1) unsupported("a shape depends on more than one unknown dimension", "declare the shapes of the model's inputs");
  return reshape(v, i64(shape));
}

Value* NodeImporter::reshape_like(Value* v, Value* like) {
  const auto& dims = like->type.dims;
  if (like->type.ranked && std::all_of(dims.begin(), dims.end(), [&](const Dim& d) { return is_bindable(d); })) {
    return add("reshape", {v}, {{"shape", dims}});
  }
  return reshape(v, shape_of(like));
}

namespace {

// Can a reshape to `dims` be written without shape arithmetic in the graph?
bool is_simple(const NodeImporter& n, const Dims& dims) {
  int unbindable = 0, symbolic = 0;
  bool has_zero = false;
  for (const Dim& d : dims) {
    unbindable += !n.is_bindable(d);
    symbolic += !d.is_const();
    has_zero |= d.is(0);
  }
  return unbindable == 0 || (symbolic == 1 && !has_zero);
}

}  // namespace

Value* NodeImporter::unsqueeze(Value* v, Ints axes) {
  if (axes.empty()) return v;
  if (v->type.ranked) {
    const int64_t out_rank = v->type.rank() + static_cast<int64_t>(axes.size());
    axes = this->axes(axes, out_rank);
    Dims dims = v->type.dims;
    for (int64_t a : axes) dims.insert(dims.begin() + a, Dim(1));
    if (is_simple(*this, dims)) return reshape(v, dims);
  }
  // One at a time: axes from the front in rising order, then those from the back, the last first.
  std::sort(axes.begin(), axes.end());
  Ints ordered;
  std::copy_if(axes.begin(), axes.end(), std::back_inserter(ordered), [](int64_t a) { return a >= 0; });
  std::copy_if(axes.rbegin(), axes.rend(), std::back_inserter(ordered), [](int64_t a) { return a < 0; });
  Value* shape = shape_of(v);
  Value* one = i64({1});
  const auto part = [&](int64_t begin, int64_t end) { return slice(shape, 0, begin, end); };
  constexpr int64_t kEnd = INT64_MAX;
  for (int64_t a : ordered) {
    Values parts;
    if (a == -1) parts = {shape, one};
    else if (a == 0) parts = {one, shape};
    else if (a > 0) parts = {part(0, a), one, part(a, kEnd)};
    else parts = {part(0, a + 1), one, part(a + 1, kEnd)};
    shape = concat(parts, 0);
  }
  return reshape(v, shape);
}

Value* NodeImporter::squeeze(Value* v, Ints axes) {
  if (v->type.ranked) {
    const Dims& from = v->type.dims;
    const bool given = !axes.empty();
    axes = this->axes(axes, v->type.rank());
    bool known = true;
    Dims dims;
    for (int64_t i = 0; i < v->type.rank(); ++i) {
      const bool listed = std::binary_search(axes.begin(), axes.end(), i);
      if (listed && from[i].is_const() && !from[i].is(1)) bad("dimension {} of {} cannot be squeezed: it is not 1", i, to_string(v->type));
      if (!given && !from[i].is_const()) known = false;
      if (given ? !listed : !from[i].is(1)) dims.push_back(from[i]);
    }
    if (known && dims.size() == from.size()) return v;
    if (known && is_simple(*this, dims)) return reshape(v, dims);
    if (given) {
      Values parts;
      int64_t begin = 0;
      for (int64_t a : axes) {
        if (a > begin) parts.push_back(shape_of(v, begin, a));
        begin = a + 1;
      }
      if (begin < v->type.rank()) parts.push_back(shape_of(v, begin));
      return reshape(v, concat(parts, 0));
    }
  }
  Value* shape = shape_of(v);
  if (axes.empty()) {
    Value* is_one = add("equal", {shape, i64({1})});
    return reshape(v, add("compress", {shape, add("not", {is_one})}, {{"axis", int64_t{0}}}));
  }
  if (axes.size() > 1)
    unsupported("several dimensions of a tensor of unknown rank are squeezed", "declare the shapes of the model's inputs");
  const int64_t a = axes[0];
  constexpr int64_t kEnd = INT64_MAX;
  if (a == -1) return reshape(v, slice(shape, 0, 0, -1));
  return reshape(v, concat({slice(shape, 0, 0, a), slice(shape, 0, a + 1, kEnd)}, 0));
}

Value* NodeImporter::transpose(Value* v, Ints perm) {
  bool identity = true;
  for (size_t i = 0; i < perm.size(); ++i) identity &= perm[i] == static_cast<int64_t>(i);
  return identity ? v : add("transpose", {v}, {{"perm", std::move(perm)}});
}

Value* NodeImporter::slice(Value* v, int64_t axis, int64_t start, int64_t end, int64_t step) {
  return add("slice", {v}, {{"starts", Dims{start}}, {"ends", Dims{end}}, {"axes", Ints{axis}}, {"steps", Ints{step}}});
}

Value* NodeImporter::concat(Values values, int64_t axis) {
  if (values.size() == 1) return values[0];
  return add("concat", std::move(values), {{"axis", axis}});
}

Value* NodeImporter::gather(Value* v, int64_t index, int64_t axis) { return add("gather", {v, i64_scalar(index)}, {{"axis", axis}}); }

Value* NodeImporter::reduce(Text op, Value* v, Ints axes, bool keepdims) {
  return add(op, {v}, {{"axes", std::move(axes)}, {"keepdims", int64_t{keepdims}}});
}

// --- errors ---

void NodeImporter::unsupported(std::string reason, std::string advice) const {
  throw UnsupportedReason{std::move(reason), std::move(advice)};
}

void NodeImporter::bad_text(const std::string& message) const { fail(ErrorCode::Corrupt, "[{} \"{}\"] {}", node_.op_type, name_, message); }

namespace {

template <class T>
T saturated(double value) {
  if (std::isnan(value)) return 0;
  // The largest 64-bit integers are not doubles: compare with the power of two above them.
  if (value >= std::ldexp(1.0, std::numeric_limits<T>::digits)) return std::numeric_limits<T>::max();
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  return static_cast<T>(value);
}

}  // namespace

Tensor scalar_tensor(double value, DType dtype, Shape shape) {
  Tensor t = Tensor::zeros(dtype, std::move(shape));
  const auto put = [&](auto x) {
    for (int64_t i = 0; i < t.count(); ++i) std::memcpy(static_cast<char*>(t.raw()) + i * sizeof(x), &x, sizeof(x));
  };
  switch (dtype) {
    case DType::F32: put(static_cast<float>(value)); break;
    case DType::F64: put(value); break;
    case DType::F16: put(float_to_half(static_cast<float>(value))); break;
    case DType::BF16: put(float_to_bfloat16(static_cast<float>(value))); break;
    case DType::I8: put(saturated<int8_t>(value)); break;
    case DType::I16: put(saturated<int16_t>(value)); break;
    case DType::I32: put(saturated<int32_t>(value)); break;
    case DType::I64: put(saturated<int64_t>(value)); break;
    case DType::U8: put(saturated<uint8_t>(value)); break;
    case DType::U16: put(saturated<uint16_t>(value)); break;
    case DType::U32: put(saturated<uint32_t>(value)); break;
    case DType::U64: put(saturated<uint64_t>(value)); break;
    case DType::Bool: put(static_cast<uint8_t>(value != 0)); break;
    case DType::F8E4M3FN:
    case DType::F8E4M3FNUZ:
    case DType::F8E5M2:
    case DType::F8E5M2FNUZ:
    case DType::F8E8M0: put(float_to_small_float(dtype, static_cast<float>(value))); break;
    case DType::I4:
    case DType::U4:
    case DType::I2:
    case DType::U2:
    case DType::F4E2M1:
      if (value != 0) fail(ErrorCode::Unsupported, "a scalar of {} other than zero cannot be made", to_string(dtype));
      break;
    default: fail(ErrorCode::Unsupported, "a scalar of {} cannot be made", to_string(dtype));
  }
  return t;
}

}  // namespace tokamak::onnx
