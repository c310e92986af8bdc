// If, Loop, Scan.

#include "import/onnx/importer.h"
#include "import/onnx/node_importer.h"
#include "ir/infer.h"

namespace tokamak::onnx {
namespace {

using ir::Dim;
using ir::Ints;
using ir::TensorType;
using ir::Value;

// A node with its subgraphs in place before its types are inferred.
void add_with_subgraphs(NodeImporter& n, Text op, Values inputs, ir::Attrs attrs, std::vector<std::unique_ptr<ir::Graph>> subgraphs) {
  ir::Node* made = n.add_node(op, std::move(inputs), std::move(attrs), n.num_outputs(), false);
  made->subgraphs = std::move(subgraphs);
  ir::infer_node(*made);
  made->name = n.name();
  made->origin.clear();
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void if_else(NodeImporter& n) {
  const auto condition = n.const_ints(n.input(0));
  const GraphProto& then_branch = n.graph_attr("then_branch");
  const GraphProto& else_branch = n.graph_attr("else_branch");
  if (condition && condition->size() == 1) {
    const GraphProto& taken = (*condition)[0] != 0 ? then_branch : else_branch;
    const auto outputs = n.importer().inline_graph(n.scope(), taken, {});
    if (static_cast<int>(outputs.size()) < n.num_outputs())
      n.bad("branch '{}' has {} outputs for {}", taken.name, outputs.size(), n.num_outputs());
    for (int i = 0; i < n.num_outputs(); ++i)
      if (n.wants(i)) n.scope().names[n.node().outputs[i]] = outputs[i];
    return;
  }
  std::vector<std::unique_ptr<ir::Graph>> branches;
  branches.push_back(n.importer().import_subgraph(n.scope(), then_branch, {}));
  branches.push_back(n.importer().import_subgraph(n.scope(), else_branch, {}));
  bool complete = true;
  for (const auto& branch : branches) complete &= branch != nullptr;
  if (!complete) {
    for (auto& branch : branches) Importer::discard_subgraph(std::move(branch));
    throw UnsupportedReason{};  // the nodes inside were reported
  }
  branches[0]->name = "then";
  branches[1]->name = "else";
  add_with_subgraphs(n, "if", {n.input(0)}, {}, std::move(branches));
}

// Imports a body until the types of its carried values hold for every iteration: a dimension that an iteration changes becomes unknown, and
// the body is imported again. `body_outputs[i]` is the output that carries input `first_input + i`.
std::unique_ptr<ir::Graph> import_body(NodeImporter& n, const GraphProto& body, std::vector<TensorType> types, size_t first_input,
                                       size_t first_output, size_t carried) {
  std::vector<std::vector<bool>> widened(carried);
  for (size_t i = 0; i < carried; ++i) widened[i].resize(types[first_input + i].dims.size());
  for (;;) {
    const size_t reports = n.importer().num_unsupported();
    auto graph = n.importer().import_subgraph(n.scope(), body, types);
    if (!graph) throw UnsupportedReason{};
    bool changed = false;
    for (size_t i = 0; i < carried; ++i) {
      if (first_output + i >= graph->outputs().size()) {
        const size_t count = graph->outputs().size();
        Importer::discard_subgraph(std::move(graph));
        n.bad("body '{}' has {} outputs, expected {} at least", body.name, count, first_output + carried);
      }
      TensorType& in = types[first_input + i];
      const TensorType out = graph->outputs()[first_output + i]->type;
      if (!in.ranked) continue;
      if (!out.ranked || out.rank() != in.rank()) {
        in = TensorType::unranked(in.dtype);
        changed = true;
        continue;
      }
      for (size_t d = 0; d < in.dims.size(); ++d) {
        if (widened[i][d] || in.dims[d] == out.dims[d]) continue;
        widened[i][d] = changed = true;
        in.dims[d] = n.graph().fresh_symbol();
      }
    }
    if (!changed) return graph;
    Importer::discard_subgraph(std::move(graph));
    n.importer().forget_unsupported(reports);
  }
}

void loop(NodeImporter& n) {
  const GraphProto& body = n.graph_attr("body");
  Values inputs = n.inputs();
  while (inputs.size() < 2) inputs.push_back(nullptr);
  std::vector<TensorType> types{TensorType(DType::I64, {}), TensorType(DType::Bool, {})};
  for (size_t i = 2; i < inputs.size(); ++i) types.push_back(n.input(static_cast<int>(i))->type);
  std::vector<std::unique_ptr<ir::Graph>> subgraphs;
  subgraphs.push_back(import_body(n, body, types, 2, 1, inputs.size() - 2));
  subgraphs[0]->name = "body";
  add_with_subgraphs(n, "loop", inputs, {}, std::move(subgraphs));
}

void scan(NodeImporter& n) {
  const GraphProto& body = n.graph_attr("body");
  const Values inputs = n.inputs();
  const int64_t scanned = n.int_attr("num_scan_inputs"), count = static_cast<int64_t>(inputs.size());
  if (scanned < 1 || scanned > count) n.bad("attribute 'num_scan_inputs' is {} for {} inputs", scanned, count);
  const int64_t states = count - scanned;
  const Ints axes = n.ints_attr("scan_input_axes", Ints(scanned, 0));
  if (static_cast<int64_t>(axes.size()) != scanned) n.bad("attribute 'scan_input_axes' has {} entries, expected {}", axes.size(), scanned);
  std::vector<TensorType> types;
  for (int64_t i = 0; i < count; ++i) {
    TensorType type = n.input(static_cast<int>(i))->type;
    if (i >= states && type.ranked) type.dims.erase(type.dims.begin() + n.axes({axes[i - states]}, type.rank())[0]);
    types.push_back(std::move(type));
  }
  ir::Attrs attrs{{"num_scan_inputs", scanned}};
  for (const char* name : {"scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions"})
    if (n.has_attr(name)) attrs.set(name, n.ints_attr(name));
  std::vector<std::unique_ptr<ir::Graph>> subgraphs;
  subgraphs.push_back(import_body(n, body, types, 0, 0, static_cast<size_t>(states)));
  subgraphs[0]->name = "body";
  add_with_subgraphs(n, "scan", inputs, attrs, std::move(subgraphs));
}

// Scan of opset 8 had a batch axis and sequence lengths.
constexpr OpImporter kImporters[] = {{"If", if_else}, {"Loop", loop}, {"Scan", scan, 9}};

}  // namespace

std::span<const OpImporter> control_flow_importers() { return kImporters; }

}  // namespace tokamak::onnx
