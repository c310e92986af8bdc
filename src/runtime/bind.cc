#include "runtime/bind.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "runtime/size_choices.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/cuda_backend.h"
#endif

namespace tokamak {
namespace {

ir::Dims to_dims(const Shape& shape) { return ir::Dims(shape.begin(), shape.end()); }

// Integer contents that are all numbers, as a tensor.
std::optional<Tensor> tensor_of(const ir::ValueInfo& info) {
  if (!info.ints || !info.type.is_static() || !(is_integer(info.type.dtype) || info.type.dtype == DType::Bool)) return std::nullopt;
  const Shape shape = info.type.static_shape();
  if (num_elements(shape) != static_cast<int64_t>(info.ints->size())) return std::nullopt;
  for (const ir::Dim& d : *info.ints)
    if (!d.is_const()) return std::nullopt;
  Tensor t = Tensor::empty(info.type.dtype, shape);
  for (size_t i = 0; i < info.ints->size(); ++i) {
    const int64_t v = (*info.ints)[i].value();
    switch (info.type.dtype) {
      case DType::I64: t.data<int64_t>()[i] = v; break;
      case DType::I32: t.data<int32_t>()[i] = static_cast<int32_t>(v); break;
      case DType::Bool: t.data<uint8_t>()[i] = v != 0; break;
      default: return std::nullopt;
    }
  }
  return t;
}

int64_t output_bytes(const ir::ValueInfo& info) {
  if (info.type.dtype == DType::String) return num_elements(info.type.static_shape()) * 32;
  return bytes_of(info.type.dtype, num_elements(info.type.static_shape()));
}

// Runs a node whose inputs are all known; false when something stands against it.
bool evaluate(const ir::Node& node, Binding& binding, int64_t max_bytes) {
  if (!node.op().is_pure() || node.op().has(ir::kControlFlow) || node.op().has(ir::kDataDependentShape)) return false;
  std::vector<Tensor> inputs, outputs;
  for (const ir::Value* v : node.inputs()) {
    if (v && !binding.at(v).info.constant.defined()) return false;
    inputs.push_back(v ? binding.at(v).info.constant : Tensor());
    if (v && !inputs.back().layout().empty()) return false;
  }
  for (const ir::Value* v : node.outputs()) {
    const BoundValue& bound = binding.at(v);
    if (!bound.is_static() || output_bytes(bound.info) > max_bytes) return false;
    outputs.push_back(Tensor::empty(bound.info.type.dtype, bound.info.type.static_shape()));
  }
  if (node.op().has(ir::kView)) {
    binding.values.at(node.output(0)).info.constant = inputs[0].reshaped(outputs[0].shape());
    return true;
  }
  ReadyKernel ready;
  try {
    ready = make_kernel(make_view(node, binding, 1));
  } catch (const Error& e) {
    if (e.code() != ErrorCode::Unsupported) throw;
    return false;  // a kernel for the GPU may take it
  }
  for (size_t i = 0; i < inputs.size(); ++i)
    if (ready.packed[i].defined()) inputs[i] = ready.packed[i];
  const Tensor workspace = Tensor::empty(DType::U8, {ready.kernel->workspace_bytes()});
  static ThreadPool pool(1);
  ready.kernel->run({inputs, outputs, const_cast<void*>(workspace.raw()), &pool});
  for (int i = 0; i < node.num_outputs(); ++i) binding.values.at(node.output(i)).info.constant = outputs[i];
  return true;
}

}  // namespace

void bind_symbols(const std::string& name, const ir::TensorType& type, const Shape& shape, ir::Dim::Bindings& symbols) {
  if (!type.ranked) return;
  if (type.rank() != static_cast<int64_t>(shape.size()))
    fail(ErrorCode::InvalidArgument, "input \"{}\": expected {} ({} dimensions), found a shape {} of {}", name, to_string(type),
         type.rank(), to_string(shape), shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    const ir::Dim& dim = type.dims[i];
    if (shape[i] < 0) fail(ErrorCode::OutOfRange, "input \"{}\": dimension {} is negative ({})", name, i, shape[i]);
    int64_t expected = shape[i];
    if (dim.is_const()) {
      expected = dim.value();
    } else if (const auto symbol = dim.as_symbol()) {
      expected = symbols.emplace(*symbol, shape[i]).first->second;
    }
    if (expected != shape[i])
      fail(ErrorCode::OutOfRange, "input \"{}\": dimension {} is {} in the shape {}, expected {} ({})", name, i, shape[i], to_string(shape),
           expected, to_string(type));
  }
}

NodeView make_view(const ir::Node& node, const Binding& binding, int num_threads, const cuda::Context* cuda) {
  NodeView view;
  view.cuda = cuda;
  view.node = &node;
  view.bindings = binding.symbols;
  view.num_threads = num_threads;
  for (const ir::Value* v : node.inputs()) {
    if (v == nullptr) {
      view.input_dtypes.push_back(DType::F32);
      view.input_shapes.emplace_back();
      view.constants.push_back(nullptr);
      continue;
    }
    const BoundValue& bound = binding.at(v);
    view.input_dtypes.push_back(bound.info.type.dtype);
    view.input_shapes.push_back(bound.info.type.static_shape());
    view.constants.push_back(bound.info.constant.defined() ? &bound.info.constant : nullptr);
  }
  for (const ir::Value* v : node.outputs()) {
    const BoundValue& bound = binding.at(v);
    view.output_dtypes.push_back(bound.info.type.dtype);
    view.output_shapes.push_back(bound.info.type.static_shape());
  }
  return view;
}

NodeView make_view(const ir::Node& node, std::span<const Tensor> inputs, const ir::Dim::Bindings& symbols, int num_threads,
                   std::vector<bool>& dynamic, const cuda::Context* cuda) {
  NodeView view;
  view.cuda = cuda;
  view.node = &node;
  view.bindings = symbols;
  view.num_threads = num_threads;
  std::vector<ir::ValueInfo> infos;
  for (const Tensor& t : inputs) {
    ir::ValueInfo info;
    if (t.defined()) info = {ir::TensorType::of(t), std::nullopt, t};
    view.input_dtypes.push_back(t.defined() ? t.dtype() : DType::F32);
    view.input_shapes.push_back(t.defined() ? t.shape() : Shape{});
    infos.push_back(std::move(info));
  }
  for (int i = 0; i < node.num_inputs(); ++i) {
    const bool constant = node.input(i) && node.input(i)->is_constant();
    view.constants.push_back(constant ? &node.input(i)->constant : nullptr);
  }
  int64_t next = 0;
  ir::InferContext context(
      node, std::move(infos), node.num_outputs(), [&next] { return ir::Dim::symbol("_run" + std::to_string(next++)); }, &symbols);
  node.op().infer(context);
  dynamic.clear();
  for (const ir::ValueInfo& out : context.outputs()) {
    dynamic.push_back(!out.type.is_static());
    view.output_dtypes.push_back(out.type.dtype);
    view.output_shapes.push_back(out.type.is_static() ? out.type.static_shape() : Shape{});
  }
  return view;
}

namespace {

// Runs a node whose outputs have no elements: kernels need not think of divisions by an empty axis.
class Nothing final : public Kernel {
  void run(const RunArgs&) const override {}
};

bool computes_nothing(const NodeView& view) {
  for (const Shape& shape : view.output_shapes)
    if (num_elements(shape) != 0) return false;
  return !view.output_shapes.empty();
}

// Inputs that a kernel may find packed: the weights, and the scales that belong to them.
bool may_be_packed(const NodeView& view, size_t input) { return input == 1 || (input == 2 && view.node->is("quantized_matmul")); }

// Does this kernel take the node, packed constants included?
Support accepts(const KernelDef& def, const NodeView& view) {
  if (def.op() != view.node->op().name) return Support::no(fmt::format("it is a kernel for {}", def.op()));
  for (size_t i = 0; i < view.constants.size(); ++i)
    if (view.constants[i] && !view.constants[i]->layout().empty() &&
        (!may_be_packed(view, i) || !def.reads_layout(view.constants[i]->layout())))
      return Support::no(fmt::format("input {} is packed as \"{}\"", i, view.constants[i]->layout()));
  return def.supports(view);
}

ReadyKernel ready(const KernelDef& def, NodeView& view, const std::string& tactic) {
  ReadyKernel out;
  out.packed.resize(view.constants.size());
  for (size_t i = 0; i < view.constants.size(); ++i) {
    if (view.constants[i] == nullptr) continue;
    out.packed[i] = def.pack(view, tactic, static_cast<int>(i));
  }
  for (size_t i = 0; i < view.constants.size(); ++i)
    if (out.packed[i].defined()) view.constants[i] = &out.packed[i];
  out.kernel = def.make(view, tactic);
  out.name = def.name();
  out.place = def.place();
  return out;
}

const KernelDef* find_device_kernel(std::string_view name) {
#ifdef TOKAMAK_CUDA
  return cuda::find_kernel(name);
#else
  (void)name;
  return nullptr;
#endif
}

std::vector<const KernelDef*> device_kernels_for(std::string_view op) {
#ifdef TOKAMAK_CUDA
  return cuda::kernels_for(op);
#else
  (void)op;
  return {};
#endif
}

// A name of the GPU's kernels, known to this build or not.
bool names_device_kernel(std::string_view name) {
  return find_device_kernel(name) != nullptr || name.starts_with("cuda.") || name.starts_with("cublaslt.") || name.starts_with("cudnn.");
}

// The node's chosen kernel if it accepts, else the first that does, the GPU's before the CPU's, else none.
struct Choice {
  const KernelDef* def = nullptr;
  std::optional<std::string> tactic;  // when it is the node's own
  std::string fallback_reason;        // why the node's own was not taken
  std::string host_reason;            // why none of the GPU's was
  std::string reasons;                // of all that declined
};

// The kernels that the node was tuned for, the likeliest first.
std::vector<SizeChoice> own_choices(const NodeView& view) {
  const ir::Node& node = *view.node;
  if (node.kernel.empty()) return {};
  if (node.kernel != kBySize) return {{0, node.kernel, node.tactic}};
  std::vector<SizeChoice> table = parse_size_choices(node.tactic);
  sort_by_nearness(table, size_of(view));
  return table;
}

Choice choose(const NodeView& view) {
  Choice choice;
  const ir::Node& node = *view.node;
  const bool on_gpu = view.cuda != nullptr;
  for (SizeChoice& own : own_choices(view)) {
    if (!on_gpu && names_device_kernel(own.kernel)) continue;
    const KernelDef* def = cpu::find_kernel(own.kernel);
    if (def == nullptr && on_gpu) def = find_device_kernel(own.kernel);
    if (def == nullptr)
      fail(ErrorCode::Unsupported, "[{} \"{}\"] the engine wants the kernel `{}`, which this version does not have; rebuild the engine",
           node.op().name, node.label(), own.kernel);
    const Support support = accepts(*def, view);
    if (support) {
      choice.def = def;
      choice.tactic = std::move(own.tactic);
      if (on_gpu && def->place() == Place::Host) choice.host_reason = "chosen when the engine was built";
      return choice;
    }
    if (choice.fallback_reason.empty()) choice.fallback_reason = fmt::format("{}: {}", own.kernel, support.reason());
  }
  const auto take_first_of = [&](const std::vector<const KernelDef*>& kernels) {
    for (const KernelDef* def : kernels) {
      const Support support = accepts(*def, view);
      if (support) choice.def = def;
      if (support) return true;
      choice.reasons += fmt::format("\n  {}: {}", def->name(), support.reason());
    }
    return false;
  };
  if (on_gpu) {
    if (take_first_of(device_kernels_for(node.op().name))) return choice;
    choice.host_reason = choice.reasons.empty() ? "the CUDA backend has no kernel for this operator" : choice.reasons;
  }
  take_first_of(cpu::kernels_for(node.op().name));
  return choice;
}

}  // namespace

bool can_pitch_output(const NodeView& view) {
  if (computes_nothing(view)) return false;
  const Choice choice = choose(view);
  return choice.def != nullptr && choice.def->pitches_output(view);
}

ReadyKernel make_kernel(NodeView view) {
  if (computes_nothing(view)) {
    ReadyKernel out;
    out.kernel = std::make_unique<Nothing>();
    out.packed.resize(view.constants.size());
    // On either side: there where its neighbours are likely to be.
    const auto is_text = [](DType dtype) { return dtype == DType::String; };
    if (view.cuda && std::none_of(view.input_dtypes.begin(), view.input_dtypes.end(), is_text) &&
        std::none_of(view.output_dtypes.begin(), view.output_dtypes.end(), is_text))
      out.place = Place::Device;
    return out;
  }
  Choice choice = choose(view);
  if (choice.def != nullptr) {
    ReadyKernel out = ready(*choice.def, view, choice.tactic ? *choice.tactic : choice.def->tactics(view).front());
    out.fallback_reason = std::move(choice.fallback_reason);
    out.host_reason = std::move(choice.host_reason);
    return out;
  }
  std::string types;
  for (size_t i = 0; i < view.input_shapes.size(); ++i)
    types += fmt::format("{}{}{}", i ? ", " : "", to_string(view.input_dtypes[i]), to_string(view.input_shapes[i]));
  fail(ErrorCode::Unsupported, "[{} \"{}\"] no kernel accepts inputs ({}):{}", view.node->op().name, view.node->label(), types,
       choice.reasons.empty() ? " the CPU backend has none for this operator" : choice.reasons);
}

Binding bind_shapes(const ir::Graph& graph, const std::vector<Shape>& input_shapes, int num_threads, int64_t max_evaluated_bytes) {
  (void)num_threads;
  Binding binding;
  CHECK(input_shapes.size() == graph.inputs().size());
  for (size_t i = 0; i < input_shapes.size(); ++i) {
    const ir::Value* v = graph.inputs()[i];
    bind_symbols(v->name, v->type, input_shapes[i], binding.symbols);
    binding.values[v].info.type = ir::TensorType(v->type.dtype, to_dims(input_shapes[i]));
  }
  for (const ir::Value* v : graph.constants()) binding.values[v].info = {v->type, std::nullopt, v->constant};
  int64_t next = 0;
  for (const auto& node : graph.nodes()) {
    if (node->op().has(ir::kControlFlow)) binding.is_static = false;
    if (!binding.is_static) return binding;  // the rest is inferred while running
    std::vector<ir::ValueInfo> inputs;
    for (const ir::Value* v : node->inputs()) inputs.push_back(v ? binding.at(v).info : ir::ValueInfo{});
    ir::InferContext context(
        *node, std::move(inputs), node->num_outputs(), [&next] { return ir::Dim::symbol("_bind" + std::to_string(next++)); },
        &binding.symbols);
    node->op().infer(context);
    for (int i = 0; i < node->num_outputs(); ++i) {
      BoundValue& bound = binding.values[node->output(i)];
      bound.info = std::move(context.outputs()[i]);
      if (!bound.is_static()) binding.is_static = false;
      else if (!bound.info.constant.defined())
        if (auto known = tensor_of(bound.info)) bound.info.constant = std::move(*known);
    }
    if (!binding.is_static) return binding;
    bool all_known = true;
    for (const ir::Value* v : node->outputs()) all_known &= binding.at(v).info.constant.defined();
    if (!all_known) evaluate(*node, binding, max_evaluated_bytes);
  }
  return binding;
}

}  // namespace tokamak
