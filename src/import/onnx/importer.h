#pragma once
// The state of one import: the model being read, the graph being made, and what could not be imported.

#include <memory>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "import/onnx/import.h"
#include "import/onnx/node_importer.h"
#include "import/onnx/tensor_data.h"

namespace tokamak::onnx {

class Importer {
 public:
  Importer(const ModelProto& model, TensorSource source, const ImportOptions& options);

  // Null when nodes are unsupported and options.unsupported took them.
  std::unique_ptr<ir::Graph> run();

  // A subgraph (branch or body) of `outer`, with inputs of these types, or as many as the graph declares. Null outputs never happen: an
  // unsupported node inside gives null instead.
  std::unique_ptr<ir::Graph> import_subgraph(Scope& outer, const GraphProto& proto, const std::vector<ir::TensorType>& input_types);
  // Frees a subgraph that is not kept, with its uses of outer values.
  static void discard_subgraph(std::unique_ptr<ir::Graph> graph);
  // The nodes of `proto` in place, in the current graph: a branch whose condition is known, an unrolled body. Bindings of its outputs.
  std::vector<Binding> inline_graph(Scope& outer, const GraphProto& proto, const std::vector<Binding>& inputs);

  ir::TensorType type_of(const TypeProto& type, const std::string& where);
  TensorSource& source() { return source_; }
  bool is_bindable_symbol(const std::string& name) const { return bindable_.contains(name); }
  // Subgraph bodies are imported more than once while their types settle; the reports of all but the last are dropped.
  size_t num_unsupported() const { return unsupported_.size(); }
  void forget_unsupported(size_t count) { unsupported_.resize(count); }

 private:
  void add_inputs(Scope& scope);
  void add_initializers(Scope& scope, const GraphProto& proto);
  void import_nodes(Scope& scope, const std::vector<NodeProto>& nodes);
  void import_node(Scope& scope, const NodeProto& node, size_t index);
  void import_supported(Scope& scope, const NodeProto& node, const OpImporter& importer, int64_t opset, const std::string& name);
  void inline_function(Scope& scope, const NodeProto& node, const FunctionProto& function, const std::string& name);
  void set_main_outputs(Scope& scope);
  void report(const Scope& scope, const NodeProto& node, const std::string& name, int64_t opset, UnsupportedReason reason);
  void survey(const Scope& scope, const GraphProto& graph);
  void survey_subgraphs(const Scope& scope, const NodeProto& node);
  std::vector<Binding> outputs_of(Scope& scope, const GraphProto& proto);
  void mark_unsupported(Scope& scope, const NodeProto& node);
  void define(Scope& scope, Text name, Binding binding, const std::string& by);
  ir::Dim symbol_for(Text param);
  ir::Dim input_dim(const DimProto& dim, const std::string& input, size_t axis);
  void refine(Scope& scope, const NodeProto& node);
  const FunctionProto* find_function(const NodeProto& node) const;
  [[noreturn]] void throw_unsupported() const;

  const ModelProto& model_;
  TensorSource source_;
  const ImportOptions& options_;
  std::unique_ptr<ir::Graph> main_;
  std::vector<UnsupportedNode> unsupported_;
  std::unordered_map<std::string, std::string> symbols_;  // dim_param → symbol
  std::set<std::string> symbol_names_;
  std::unordered_set<std::string> bindable_;
  std::set<std::string> fixes_used_;
  int64_t num_imported_ = 0;
};

// The order in which nodes can run. Throws Corrupt naming a node of a cycle, or a name that two nodes define.
std::vector<size_t> topological_order(const std::vector<NodeProto>& nodes);
// "Conv_3", or op_type + index for a node without a name.
std::string node_name(const Scope& scope, const NodeProto& node, size_t index);

}  // namespace tokamak::onnx
