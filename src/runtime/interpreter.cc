#include "runtime/interpreter.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backends/cpu/thread_pool.h"
#include "runtime/device_executor.h"

namespace tokamak {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Does the result of this op depend on the contents of its inputs in a way that shapes do not tell? Then the kernel cannot be reused on
// shapes alone.
bool is_shape_sensitive(const ir::Node& node) {
  for (const ir::Value* v : node.inputs())
    if (v && !v->is_constant() && (is_integer(v->type.dtype))) return true;
  return node.op().has(ir::kDataDependentShape);
}

// Joins equal-shaped tensors along a new leading axis.
Tensor stack(const ir::Node& node, const std::vector<Tensor>& parts, const ir::TensorType& type) {
  if (parts.empty()) {
    Shape shape{0};
    if (type.ranked)
      for (size_t i = 1; i < type.dims.size(); ++i) shape.push_back(type.dims[i].is_const() ? type.dims[i].value() : 0);
    return Tensor::empty(type.dtype, shape);
  }
  Shape shape = parts[0].shape();
  shape.insert(shape.begin(), static_cast<int64_t>(parts.size()));
  Tensor out = Tensor::empty(parts[0].dtype(), shape);
  const int64_t each = parts[0].size_bytes();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].shape() != parts[0].shape())
      fail(ErrorCode::InvalidArgument, "[{} \"{}\"] scan output {} has the shape {} in one iteration and {} in another", node.op().name,
           node.label(), i, to_string(parts[0].shape()), to_string(parts[i].shape()));
    if (out.dtype() == DType::String) {
      std::copy(parts[i].strings().begin(), parts[i].strings().end(),
                out.strings().begin() + static_cast<std::ptrdiff_t>(i * parts[i].strings().size()));
    } else if (each > 0) {
      std::memcpy(out.data<std::byte>() + static_cast<int64_t>(i) * each, parts[i].raw(), each);
    }
  }
  return out;
}

// Moves axis 0 to `axis` or back, for scan axes other than 0.
Tensor move_axis(const Tensor& t, int64_t from, int64_t to) {
  if (from == to) return t;
  Shape shape = t.shape();
  const int64_t size = shape[from];
  shape.erase(shape.begin() + from);
  shape.insert(shape.begin() + to, size);
  Tensor out = Tensor::empty(t.dtype(), shape);
  if (t.dtype() == DType::String || bits_of(t.dtype()) % 8 != 0)
    fail(ErrorCode::Unsupported, "[scan] a scan axis other than 0 needs whole-byte elements");
  const int64_t element = bits_of(t.dtype()) / 8, rank = t.rank();
  std::vector<int64_t> index(rank, 0);
  for (int64_t i = 0; i < t.count(); ++i) {
    std::vector<int64_t> source(index);
    const int64_t moved = source[to];
    source.erase(source.begin() + to);
    source.insert(source.begin() + from, moved);
    int64_t offset = 0;
    for (int64_t a = 0; a < rank; ++a) offset = offset * t.shape()[a] + source[a];
    std::memcpy(out.data<std::byte>() + i * element, t.data<std::byte>() + offset * element, element);
    for (int64_t a = rank - 1; a >= 0 && ++index[a] == shape[a]; --a) index[a] = 0;
  }
  return out;
}

// A flag or a count given as a tensor.
int64_t scalar_of(const ir::Node& node, const char* what, const Tensor& t) {
  if (t.count() != 1)
    fail(ErrorCode::InvalidArgument, "[{} \"{}\"] {} has {} elements, expected 1", node.op().name, node.label(), what, t.count());
  return t.int_at(0);
}

// Element `i` of axis 0.
Tensor slice_first(const Tensor& t, int64_t i) {
  const Shape shape(t.shape().begin() + 1, t.shape().end());
  Tensor out = Tensor::empty(t.dtype(), shape);
  if (t.dtype() == DType::String) {
    for (int64_t k = 0; k < out.count(); ++k) out.strings()[k] = t.strings()[i * out.count() + k];
  } else if (out.size_bytes() > 0) {
    std::memcpy(out.raw(), t.data<std::byte>() + i * out.size_bytes(), out.size_bytes());
  }
  return out;
}

}  // namespace

Tensor Interpreter::Frame::find(const ir::Value* value) const {
  if (value->is_constant()) return value->constant;
  for (const Frame* f = this; f; f = f->outer)
    if (const auto found = f->values.find(value); found != f->values.end()) return found->second;
  fail(ErrorCode::Internal, "value %{} has no contents", value->name);
}

std::vector<Tensor> Interpreter::run(const ir::Graph& graph, std::span<const Tensor> inputs, const ir::Dim::Bindings& symbols,
                                     Profiler* profiler) {
  symbols_ = symbols;
  profiler_ = profiler;
  return run_graph(graph, inputs, nullptr);
}

int Interpreter::num_device_kernels() const {
  return static_cast<int>(std::count_if(cache_.begin(), cache_.end(), [](const auto& c) { return c.second.place == Place::Device; }));
}

std::vector<Tensor> Interpreter::run_graph(const ir::Graph& graph, std::span<const Tensor> inputs, const Frame* outer) {
  Frame frame{outer, {}};
  CHECK(inputs.size() == graph.inputs().size());
  for (size_t i = 0; i < inputs.size(); ++i) frame.values[graph.inputs()[i]] = inputs[i];
  // Values whose last use has passed are dropped at once, so that memory follows the live set.
  std::unordered_map<const ir::Value*, int> uses;
  for (const auto& node : graph.nodes()) {
    run_node(*node, frame);
    for (const ir::Value* v : node->inputs()) {
      if (v == nullptr || v->graph() != &graph || v->is_graph_output()) continue;
      if (++uses[v] == static_cast<int>(v->uses().size())) frame.values.erase(v);
    }
  }
  std::vector<Tensor> outputs;
  for (const ir::Value* v : graph.outputs()) outputs.push_back(frame.find(v));
  return outputs;
}

void Interpreter::run_node(const ir::Node& node, Frame& frame) {
  std::vector<Tensor> inputs;
  for (const ir::Value* v : node.inputs()) inputs.push_back(v ? frame.find(v) : Tensor());
  const int64_t start = profiler_ ? now_ns() : 0;
  std::vector<Tensor> outputs;
  if (node.is("if")) outputs = run_if(node, inputs, frame);
  else if (node.is("loop")) outputs = run_loop(node, inputs, frame);
  else if (node.is("scan")) outputs = run_scan(node, inputs, frame);
  else outputs = run_kernel(node, inputs);
  if (profiler_) profiler_->on_node(node, start, now_ns());
  if (observer_) observer_(node, outputs);
  for (int i = 0; i < node.num_outputs(); ++i)
    if (node.output(i)) frame.values[node.output(i)] = std::move(outputs[i]);
}

std::vector<Tensor> Interpreter::run_kernel(const ir::Node& node, std::span<const Tensor> inputs) {
  Cached& cached = cache_[&node];
  bool same = cached.kernel != nullptr && cached.shapes.size() == inputs.size() && !is_shape_sensitive(node);
  for (size_t i = 0; same && i < inputs.size(); ++i)
    same = !inputs[i].defined() || (inputs[i].shape() == cached.shapes[i] && inputs[i].dtype() == cached.dtypes[i]);
  if (!same) {
    const bool on_device = device_ != nullptr && !node.kernel.empty();
    NodeView view = make_view(node, inputs, symbols_, num_threads_, cached.dynamic, on_device ? &device_->context() : nullptr);
    if (node.op().has(ir::kView) && !cached.dynamic[0]) {
      std::vector<Tensor> outputs;
      outputs.push_back(inputs[0].reshaped(view.output_shapes[0]));
      return outputs;
    }
    cached.shapes = view.input_shapes;
    cached.dtypes = view.input_dtypes;
    cached.output_shapes = view.output_shapes;
    cached.output_dtypes = view.output_dtypes;
    ReadyKernel ready = make_kernel(std::move(view));
    cached.kernel = std::move(ready.kernel);
    cached.place = ready.place;
    cached.packed = std::move(ready.packed);
    if (cached.place == Place::Device)
      for (Tensor& t : cached.packed)
        if (t.defined()) t = device_->to_device(t);
  }
  if (cached.place == Place::Device) return run_on_device(node, cached, inputs);
  std::vector<Tensor> actual(inputs.begin(), inputs.end());
  for (size_t i = 0; i < actual.size(); ++i)
    if (cached.packed[i].defined()) actual[i] = cached.packed[i];
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < cached.output_shapes.size(); ++i)
    outputs.push_back(cached.dynamic[i] ? Tensor() : Tensor::empty(cached.output_dtypes[i], cached.output_shapes[i]));
  const Tensor workspace = Tensor::empty(DType::U8, {cached.kernel->workspace_bytes()});
  cached.kernel->run({actual, outputs, const_cast<void*>(workspace.raw()), &pool_});
  return outputs;
}

std::vector<Tensor> Interpreter::run_on_device(const ir::Node& node, const Cached& cached, std::span<const Tensor> inputs) {
  std::vector<Tensor> actual, outputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ir::Value* v = node.input(static_cast<int>(i));
    if (v == nullptr || cached.packed[i].defined()) actual.push_back(cached.packed[i]);
    else actual.push_back(v->is_constant() ? device_->constant(inputs[i]) : device_->to_device(inputs[i]));
  }
  for (size_t i = 0; i < cached.output_shapes.size(); ++i) {
    if (cached.dynamic[i])
      fail(ErrorCode::Internal, "[{} \"{}\"] a kernel of the GPU cannot decide on the shape of output {}", node.op().name, node.label(), i);
    outputs.push_back(device_->empty(cached.output_dtypes[i], cached.output_shapes[i]));
  }
  Tensor workspace = device_->empty(DType::U8, {cached.kernel->workspace_bytes()});
  cached.kernel->run({actual, outputs, workspace.raw(), &pool_, device_->stream()});
  for (Tensor& t : outputs) t = device_->to_host(t);
  return outputs;
}

std::vector<Tensor> Interpreter::run_if(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame) {
  return run_graph(*node.subgraphs[scalar_of(node, "the condition", inputs[0]) != 0 ? 0 : 1], {}, &frame);
}

// ONNX Loop: inputs trip_count?, condition?, carried...; body (iteration, condition, carried...) -> (condition, carried..., scan...).
std::vector<Tensor> Interpreter::run_loop(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame) {
  const ir::Graph& body = *node.subgraphs[0];
  const int64_t limit = inputs.size() > 0 && inputs[0].defined() ? scalar_of(node, "the trip count", inputs[0]) : INT64_MAX;
  bool go_on = inputs.size() > 1 && inputs[1].defined() ? scalar_of(node, "the condition", inputs[1]) != 0 : true;
  std::vector<Tensor> carried(inputs.begin() + std::min<size_t>(2, inputs.size()), inputs.end());
  const size_t num_scans = body.outputs().size() - 1 - carried.size();
  std::vector<std::vector<Tensor>> scans(num_scans);
  for (int64_t i = 0; i < limit && go_on; ++i) {
    std::vector<Tensor> arguments{Tensor::scalar<int64_t>(i), Tensor::scalar<bool>(go_on)};
    arguments.insert(arguments.end(), carried.begin(), carried.end());
    std::vector<Tensor> results = run_graph(body, arguments, &frame);
    go_on = scalar_of(node, "the condition of the body", results[0]) != 0;
    for (size_t k = 0; k < carried.size(); ++k) carried[k] = results[1 + k];
    for (size_t k = 0; k < num_scans; ++k) scans[k].push_back(results[1 + carried.size() + k]);
  }
  std::vector<Tensor> outputs = carried;
  for (size_t k = 0; k < num_scans; ++k) {
    const ir::Value* scan = node.output(static_cast<int>(carried.size() + k));
    outputs.push_back(stack(node, scans[k], scan ? scan->type : ir::TensorType::unranked(DType::F32)));
  }
  return outputs;
}

// ONNX Scan (opset 9 and newer): inputs state..., scan...; body (state..., element...) -> (state..., element...).
std::vector<Tensor> Interpreter::run_scan(const ir::Node& node, std::span<const Tensor> inputs, const Frame& frame) {
  const ir::Graph& body = *node.subgraphs[0];
  const auto num_scan_inputs = static_cast<size_t>(node.attrs.get_int("num_scan_inputs"));
  const size_t num_state = inputs.size() - num_scan_inputs, num_scan_outputs = body.outputs().size() - num_state;
  const ir::Ints input_axes = node.attrs.get_ints("scan_input_axes", ir::Ints(num_scan_inputs, 0));
  const ir::Ints input_directions = node.attrs.get_ints("scan_input_directions", ir::Ints(num_scan_inputs, 0));
  const ir::Ints output_axes = node.attrs.get_ints("scan_output_axes", ir::Ints(num_scan_outputs, 0));
  const ir::Ints output_directions = node.attrs.get_ints("scan_output_directions", ir::Ints(num_scan_outputs, 0));
  std::vector<Tensor> state(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(num_state)), sequences;
  int64_t length = -1;
  for (size_t k = 0; k < num_scan_inputs; ++k) {
    const Tensor& t = inputs[num_state + k];
    const int64_t axis = input_axes[k] < 0 ? input_axes[k] + t.rank() : input_axes[k];
    if (t.rank() == 0 || axis < 0 || axis >= t.rank())
      fail(ErrorCode::InvalidArgument, "[scan \"{}\"] axis {} is outside scan input {}", node.label(), axis, k);
    sequences.push_back(move_axis(t, axis, 0));
    if (length >= 0 && sequences.back().dim(0) != length)
      fail(ErrorCode::InvalidArgument, "[scan \"{}\"] scan inputs have {} and {} elements", node.label(), length, sequences.back().dim(0));
    length = sequences.back().dim(0);
  }
  std::vector<std::vector<Tensor>> scans(num_scan_outputs);
  for (int64_t i = 0; i < length; ++i) {
    std::vector<Tensor> arguments = state;
    for (size_t k = 0; k < num_scan_inputs; ++k) arguments.push_back(slice_first(sequences[k], input_directions[k] ? length - 1 - i : i));
    std::vector<Tensor> results = run_graph(body, arguments, &frame);
    for (size_t k = 0; k < num_state; ++k) state[k] = results[k];
    for (size_t k = 0; k < num_scan_outputs; ++k) {
      if (output_directions[k]) scans[k].insert(scans[k].begin(), results[num_state + k]);
      else scans[k].push_back(results[num_state + k]);
    }
  }
  std::vector<Tensor> outputs = state;
  for (size_t k = 0; k < num_scan_outputs; ++k) {
    const ir::Value* scan = node.output(static_cast<int>(num_state + k));
    Tensor stacked = stack(node, scans[k], scan ? scan->type : ir::TensorType::unranked(DType::F32));
    const int64_t axis = output_axes[k] < 0 ? output_axes[k] + stacked.rank() : output_axes[k];
    if (axis < 0 || axis >= stacked.rank())
      fail(ErrorCode::InvalidArgument, "[scan \"{}\"] axis {} is outside scan output {}", node.label(), output_axes[k], k);
    outputs.push_back(move_axis(stacked, 0, axis));
  }
  return outputs;
}

}  // namespace tokamak
