#pragma once
// What an importer function sees: one ONNX node, its inputs as IR values, its attributes, and helpers that append core nodes.
//
//   void softmax(NodeImporter& n) { n.set_output(0, n.add("softmax", {n.input(0)}, {{"axis", n.axis(n.int_attr("axis", -1),
//   n.input(0))}})); }

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "import/onnx/onnx_model.h"
#include "ir/graph.h"

namespace tokamak::onnx {

class Importer;
class NodeImporter;

// What a name stands for. ONNX sequences exist only while importing: a list of values whose length is known.
struct Binding {
  ir::Value* value = nullptr;  // null: an absent optional (of a function call)
  std::shared_ptr<const std::vector<ir::Value*>> sequence;
  bool is_unsupported = false;  // made by a node that cannot be imported
};

// One inlined call of a model-local function: its attributes as the caller wrote them.
struct FunctionCall {
  const FunctionProto* function = nullptr;
  const FunctionCall* caller = nullptr;
  std::unordered_map<Text, const AttributeProto*> attributes;
  int depth = 1;
};

// The names visible to the nodes of one ONNX graph. Subgraphs see their outer scopes, functions do not.
struct Scope {
  const Scope* outer = nullptr;
  ir::Graph* graph = nullptr;
  const OpsetImports* opsets = nullptr;
  const FunctionCall* call = nullptr;
  std::string prefix;  // of node and value names, for inlined functions
  std::unordered_map<Text, Binding> names;
  std::unordered_map<Text, const TypeProto*> declared;  // value_info and outputs

  const Binding* find(Text name) const;
};

using Values = std::vector<ir::Value*>;
using ImportFn = void (*)(NodeImporter&);

struct OpImporter {
  Text op;
  ImportFn fn;
  int min_opset = 1;
  int max_opset = 1 << 20;
  Text domain = "";
};

// Null when there is none for this domain and opset. `known` tells whether the operator exists at another opset.
const OpImporter* find_importer(Text domain, Text op, int64_t opset, bool* known = nullptr);

// Thrown by NodeImporter::unsupported, caught where nodes are imported and collected.
struct UnsupportedReason {
  std::string reason, advice;
};

class NodeImporter {
 public:
  NodeImporter(Importer& importer, Scope& scope, const NodeProto& node, int64_t opset, std::string name);

  const NodeProto& node() const { return node_; }
  ir::Graph& graph() { return *scope_.graph; }
  Importer& importer() { return importer_; }
  Scope& scope() { return scope_; }
  int64_t opset() const { return opset_; }
  const std::string& name() const { return name_; }

  // Inputs. input() fails (Corrupt) when it is absent; maybe() is null then.
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  bool has_input(int i) const { return maybe(i) != nullptr; }
  ir::Value* input(int i) const;
  ir::Value* maybe(int i) const { return i < num_inputs() ? inputs_[i].value : nullptr; }
  Values inputs() const;  // all of them; absent ones are null
  const std::vector<ir::Value*>& sequence(int i) const;
  bool is_sequence(int i) const { return i < num_inputs() && inputs_[i].sequence != nullptr; }

  // Outputs.
  int num_outputs() const { return static_cast<int>(node_.outputs.size()); }
  bool wants(int i) const { return i < num_outputs() && !node_.outputs[i].empty(); }
  void set_output(int i, ir::Value* value);
  void set_sequence(int i, Values values);
  void set_outputs(const Values& values);  // values past the node's outputs are dropped

  // Attributes, through references inside functions. A wrong type is Corrupt.
  const AttributeProto* attr(Text name) const;
  bool has_attr(Text name) const { return attr(name) != nullptr; }
  int64_t int_attr(Text name, int64_t otherwise) const;
  int64_t int_attr(Text name) const;
  double float_attr(Text name, double otherwise) const;
  std::string string_attr(Text name, std::string otherwise) const;
  ir::Ints ints_attr(Text name, ir::Ints otherwise = {}) const;
  ir::Floats floats_attr(Text name) const;
  ir::Strings strings_attr(Text name) const;
  Tensor tensor_attr(Text name) const;
  const GraphProto& graph_attr(Text name) const;
  DType dtype_attr(Text name) const;

  // What is known about values.
  std::optional<Tensor> constant(const ir::Value* v) const;
  std::optional<ir::Dims> ints(const ir::Value* v) const;
  std::optional<ir::Ints> const_ints(const ir::Value* v) const;
  std::optional<double> const_scalar(const ir::Value* v) const;
  bool is_empty_tensor(const ir::Value* v) const;        // known to have no elements: how ONNX writes "absent" for Resize
  int64_t rank(const ir::Value* v) const;                // unsupported when unknown
  int64_t axis(int64_t axis, const ir::Value* v) const;  // normalised when the rank is known, checked then
  ir::Ints axes(ir::Ints axes, int64_t rank) const;      // all normalised and sorted; duplicates are Corrupt
  ir::Ints iota(int64_t begin, int64_t end) const;
  // Whether every symbol of `dim` is bound by the shapes of the model's inputs, so that an attribute may hold it.
  bool is_bindable(const ir::Dim& dim) const;

  // Building. New nodes carry this node's name; the one that makes output 0 has exactly it.
  ir::Value* add(Text op, Values inputs, ir::Attrs attrs = {});
  ir::Node* add_node(Text op, Values inputs, ir::Attrs attrs = {}, int num_outputs = -1, bool infer = true);
  ir::Value* constant_value(Tensor tensor);
  ir::Value* i64(ir::Ints values);  // 1-D
  ir::Value* i64_scalar(int64_t value);
  ir::Value* scalar(double value, DType dtype);
  ir::Value* scalar_like(double value, const ir::Value* v) { return scalar(value, v->type.dtype); }
  ir::Value* cast(ir::Value* v, DType dtype);  // v itself when it has that dtype
  ir::Value* shape_of(ir::Value* v, int64_t start = 0, std::optional<int64_t> end = {});
  ir::Value* dim_of(ir::Value* v, int64_t axis);  // [1]
  ir::Value* reshape(ir::Value* v, ir::Value* shape) { return add("reshape", {v, shape}); }
  ir::Value* reshape(ir::Value* v, const ir::Dims& dims);  // dims must be bindable, or one of them -1
  ir::Value* reshape_like(ir::Value* v, ir::Value* like);
  ir::Value* unsqueeze(ir::Value* v, ir::Ints axes);
  ir::Value* squeeze(ir::Value* v, ir::Ints axes);  // empty: every dimension of 1
  ir::Value* transpose(ir::Value* v, ir::Ints perm);
  ir::Value* slice(ir::Value* v, int64_t axis, int64_t start, int64_t end, int64_t step = 1);
  ir::Value* concat(Values values, int64_t axis);
  ir::Value* gather(ir::Value* v, int64_t index, int64_t axis);  // one index, axis dropped
  ir::Value* reduce(Text op, ir::Value* v, ir::Ints axes, bool keepdims = true);

  [[noreturn]] void unsupported(std::string reason, std::string advice = "") const;
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    bad_text(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  const AttributeProto* typed_attr(Text name, AttributeProto::Type type) const;
  [[noreturn]] void bad_text(const std::string& message) const;

  Importer& importer_;
  Scope& scope_;
  const NodeProto& node_;
  int64_t opset_;
  std::string name_;
  std::vector<Binding> inputs_;
};

// A tensor of one value of any numeric dtype.
Tensor scalar_tensor(double value, DType dtype, Shape shape = {});

}  // namespace tokamak::onnx
