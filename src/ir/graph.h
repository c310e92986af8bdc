#pragma once
// The IR: a Graph of Nodes over Values, in SSA form and topological order. Subgraphs (If, Loop, Scan) are Graphs owned by their node; a
// subgraph may use values of the graphs around it directly. Not thread-safe; passes own the graph they change.

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/attr.h"
#include "ir/type.h"

namespace tokamak::ir {

struct OpDef;
class Graph;
class Node;

struct Use {
  Node* node;
  int index;  // which input
};

// A graph input, a constant, or one output of a node. Owned by its graph; the address is stable.
class Value {
 public:
  std::string name;  // unique within a model's text after printing; need not be before
  TensorType type;
  std::optional<Dims> ints;  // contents, when they are known integer expressions (shape arithmetic); row-major
  Tensor constant;           // defined() when this is a constant

  bool is_constant() const { return constant.defined(); }
  bool is_input() const { return is_input_; }
  Node* producer() const { return producer_; }  // null for inputs and constants
  int output_index() const { return output_index_; }
  Graph* graph() const { return graph_; }
  const std::vector<Use>& uses() const { return uses_; }  // node inputs only, subgraphs included; graph outputs are not uses
  bool is_graph_output() const;                           // of the graph that owns it
  bool has_one_use() const { return uses_.size() == 1 && !is_graph_output(); }

 private:
  friend class Graph;
  friend class Node;
  Node* producer_ = nullptr;
  int output_index_ = 0;
  Graph* graph_ = nullptr;
  bool is_input_ = false;
  std::vector<Use> uses_;
};

class Node {
 public:
  const OpDef& op() const { return *op_; }
  bool is(std::string_view op_name) const;

  std::string name;    // as the model named it; for messages, profiles and reports
  std::string origin;  // the source nodes it came from, "Conv_3+Relu_4"; empty = its own name
  Attrs attrs;
  std::vector<std::unique_ptr<Graph>> subgraphs;  // If: then, else. Loop, Scan: body.

  // Filled by the tuner; empty before. `kernel` is a KernelDef's name, `tactic` its parameters.
  std::string kernel;
  std::string tactic;

  // An absent optional input is null.
  std::span<Value* const> inputs() const { return inputs_; }
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  Value* input(int i) const { return i < num_inputs() ? inputs_[i] : nullptr; }  // null past the end too
  void set_input(int i, Value* value);
  void add_input(Value* value);
  void remove_input(int i);
  void set_inputs(const std::vector<Value*>& values);

  std::span<Value* const> outputs() const { return outputs_; }
  int num_outputs() const { return static_cast<int>(outputs_.size()); }
  // An output that nobody wants is null only if the op allows it to be absent (trailing optional outputs).
  Value* output(int i = 0) const { return i < static_cast<int>(outputs_.size()) ? outputs_[i] : nullptr; }

  Graph* graph() const { return graph_; }
  const std::string& label() const { return name.empty() ? output(0)->name : name; }

 private:
  friend class Graph;
  const OpDef* op_ = nullptr;
  Graph* graph_ = nullptr;
  std::vector<Value*> inputs_;
  std::vector<Value*> outputs_;
  std::list<std::unique_ptr<Node>>::iterator position_;
};

class Graph {
 public:
  Graph();
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::string name = "main";
  Graph* parent = nullptr;                      // the graph around this one, for a subgraph
  std::map<std::string, std::string> metadata;  // of the model; main graph only

  std::span<Value* const> inputs() const { return inputs_; }
  std::span<Value* const> outputs() const { return outputs_; }
  Value* add_input(std::string name, TensorType type);
  void remove_input(int i);  // must be unused
  void set_outputs(std::vector<Value*> values) { outputs_ = std::move(values); }
  void set_output(int i, Value* value) { outputs_[i] = value; }

  Value* add_constant(Tensor value, std::string name = "");

  // Appends a node, or inserts it before `before`, and infers its output types when `infer` (throws Error with the node's name if the
  // inputs do not fit). `num_outputs` < 0: as many as the op has at least.
  Node* add_node(std::string_view op, std::vector<Value*> inputs, Attrs attrs = {}, std::string name = "", Node* before = nullptr,
                 int num_outputs = -1, bool infer = true);

  // Shorthand for the common case: the only output of a new node placed before `before`.
  Value* build(std::string_view op, std::vector<Value*> inputs, Attrs attrs = {}, Node* before = nullptr, std::string name = "");

  // Every use of `from` (subgraphs included) and graph outputs of this graph become `to`.
  void replace_all_uses(Value* from, Value* to);
  // The node's outputs must be unused and not graph outputs.
  void erase(Node* node);
  // Places `node` right before `before`.
  void move_before(Node* node, Node* before);
  // Restores topological order (after rewiring); stable. Throws InvalidArgument naming a node of the cycle when there is one.
  void sort();

  // Nodes in order. Safe to erase the current node while iterating over `nodes_snapshot`.
  const std::list<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  std::vector<Node*> nodes_snapshot() const;
  int num_nodes() const { return static_cast<int>(nodes_.size()); }  // this graph only
  int num_nodes_deep() const;                                        // with subgraphs
  std::vector<Value*> constants() const;                             // of this graph, in creation order, used or not
  void drop_unused_values();                                         // constants without uses

  Dim fresh_symbol();                    // "_0", "_1", ...; unique in the whole model
  std::unique_ptr<Graph> clone() const;  // deep; constants share storage. Top-level graphs only.

 private:
  friend class Node;
  Value* new_value();

  std::vector<Value*> inputs_, outputs_;
  std::list<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Value>> values_;
  int next_symbol_ = 0;
};

// Calls f(graph) for the graph and every subgraph, outermost first.
template <class G, class F>
void for_each_graph(G& graph, const F& f) {
  f(graph);
  for (const auto& node : graph.nodes())
    for (const auto& sub : node->subgraphs) for_each_graph(*sub, f);
}

// Structure: SSA, order, uses, arity, op attributes known, types consistent. Throws Internal naming what is wrong.
void verify(const Graph& graph);

}  // namespace tokamak::ir
