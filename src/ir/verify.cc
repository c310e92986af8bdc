#include <unordered_set>

#include "ir/graph.h"
#include "ir/op.h"

namespace tokamak::ir {
namespace {

template <class... Args>
[[noreturn]] void broken(const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  fail(ErrorCode::Internal, "invalid graph: [{} \"{}\"] {}", node.op().name, node.label(),
       fmt::format(format, std::forward<Args>(args)...));
}

bool kind_matches(const Attr& value, AttrKind kind) {
  switch (kind) {
    case AttrKind::Int: return std::holds_alternative<int64_t>(value);
    case AttrKind::Float: return std::holds_alternative<double>(value) || std::holds_alternative<int64_t>(value);
    case AttrKind::String: return std::holds_alternative<std::string>(value);
    case AttrKind::Ints: return std::holds_alternative<Ints>(value);
    case AttrKind::Floats: return std::holds_alternative<Floats>(value) || std::holds_alternative<Ints>(value);
    case AttrKind::Strings: return std::holds_alternative<Strings>(value);
    case AttrKind::Dims: return std::holds_alternative<Dims>(value) || std::holds_alternative<Ints>(value);
    case AttrKind::DType: return std::holds_alternative<DType>(value);
    case AttrKind::Tensor: return std::holds_alternative<Tensor>(value);
  }
  return false;
}

// What the interpreter relies on: bodies with as many inputs and outputs as the node passes and takes.
void verify_control_flow(const Node& node) {
  const size_t graphs = node.is("if") ? 2 : 1, inputs = static_cast<size_t>(node.num_inputs()),
               outputs = static_cast<size_t>(node.num_outputs());
  if (node.subgraphs.size() != graphs) broken(node, "has {} subgraphs, expected {}", node.subgraphs.size(), graphs);
  const auto expect = [&](const Graph& body, size_t takes, size_t gives) {
    if (body.inputs().size() != takes) broken(node, "has a body of {} inputs, expected {}", body.inputs().size(), takes);
    if (body.outputs().size() != gives) broken(node, "has a body of {} outputs, expected {}", body.outputs().size(), gives);
  };
  const auto expect_length = [&](const char* name, size_t length) {
    if (const Ints list = node.attrs.get_ints(name, {}); !list.empty() && list.size() != length)
      broken(node, "has {} {}, expected {}", list.size(), name, length);
  };
  const auto present_from = [&](size_t first) {
    for (size_t i = first; i < inputs; ++i)
      if (node.input(static_cast<int>(i)) == nullptr) broken(node, "lacks input {}", i);
  };
  if (node.is("if")) {
    present_from(0);
    if (inputs != 1) broken(node, "has {} inputs, expected 1", inputs);
    for (const auto& branch : node.subgraphs) expect(*branch, 0, outputs);
  } else if (node.is("loop")) {
    if (inputs < 2 || outputs < inputs - 2) broken(node, "has {} inputs and {} outputs", inputs, outputs);
    present_from(2);
    expect(*node.subgraphs[0], inputs, outputs + 1);
  } else {
    const int64_t scanned = node.attrs.get_int("num_scan_inputs");
    if (scanned < 1 || scanned > node.num_inputs()) broken(node, "scans {} of {} inputs", scanned, inputs);
    const size_t state = inputs - static_cast<size_t>(scanned);
    if (outputs < state) broken(node, "has {} outputs for {} states", outputs, state);
    present_from(0);
    expect(*node.subgraphs[0], inputs, outputs);
    for (const char* name : {"scan_input_axes", "scan_input_directions"}) expect_length(name, static_cast<size_t>(scanned));
    for (const char* name : {"scan_output_axes", "scan_output_directions"}) expect_length(name, outputs - state);
  }
}

void verify_node(const Node& node, const std::unordered_set<const Value*>& visible) {
  const OpDef& op = node.op();
  if (node.num_inputs() < op.min_inputs || (op.max_inputs >= 0 && node.num_inputs() > op.max_inputs))
    broken(node, "has {} inputs, expected {} to {}", node.num_inputs(), op.min_inputs,
           op.max_inputs < 0 ? "any number" : std::to_string(op.max_inputs));
  if (node.num_outputs() < op.min_outputs || (op.max_outputs >= 0 && node.num_outputs() > op.max_outputs))
    broken(node, "has {} outputs, expected {} to {}", node.num_outputs(), op.min_outputs,
           op.max_outputs < 0 ? "any number" : std::to_string(op.max_outputs));
  for (int i = 0; i < node.num_inputs(); ++i) {
    const Value* v = node.input(i);
    if (v == nullptr) continue;
    if (!v->is_constant() && !visible.contains(v))
      broken(node, "input {} (%{}) is used before it is made, or from another graph", i, v->name);
    bool listed = false;
    for (const Use& use : v->uses()) listed |= use.node == &node && use.index == i;
    if (!listed) broken(node, "input {} (%{}) does not list this use", i, v->name);
  }
  for (const auto& [name, value] : node.attrs) {
    const AttrSpec* spec = nullptr;
    for (const AttrSpec& s : op.attrs)
      if (s.name == name) spec = &s;
    if (spec == nullptr) broken(node, "has an attribute `{}` that the operator does not know", name);
    if (!kind_matches(value, spec->kind)) broken(node, "attribute `{}` has the wrong type", name);
  }
  for (const AttrSpec& spec : op.attrs)
    if (spec.required && !node.attrs.has(spec.name)) broken(node, "lacks the attribute `{}`", spec.name);
  if (op.written_input >= 0) {
    const Value* v = node.input(op.written_input);
    if (v == nullptr || !v->is_input() || v->graph() != node.graph() || node.graph()->parent != nullptr)
      broken(node, "writes input {}{}, which must be an input of the main graph", op.written_input,
             v ? fmt::format(" (%{})", v->name) : "");
  }
  if (op.has(kControlFlow)) verify_control_flow(node);
  else if (!node.subgraphs.empty()) broken(node, "has a subgraph");
}

void verify_graph(const Graph& graph, std::unordered_set<const Value*> visible) {
  for (const Value* v : graph.inputs()) visible.insert(v);
  for (const auto& node : graph.nodes()) {
    if (node->graph() != &graph) broken(*node, "belongs to another graph");
    verify_node(*node, visible);
    for (const auto& sub : node->subgraphs) {
      if (sub->parent != &graph) broken(*node, "has a subgraph whose parent is another graph");
      verify_graph(*sub, visible);
    }
    for (const Value* v : node->outputs()) {
      if (v == nullptr) continue;
      if (v->producer() != node.get()) broken(*node, "output %{} names another producer", v->name);
      if (!visible.insert(v).second) broken(*node, "output %{} is defined twice", v->name);
    }
  }
  for (const Value* v : graph.outputs())
    if (v == nullptr || (!v->is_constant() && !visible.contains(v)))
      fail(ErrorCode::Internal, "invalid graph: output %{} of graph {} is not made in it", v ? v->name : "(null)", graph.name);
}

}  // namespace

void verify(const Graph& graph) { verify_graph(graph, {}); }

}  // namespace tokamak::ir
