#include "ir/graph.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "ir/infer.h"
#include "ir/op.h"

namespace tokamak::ir {

bool Value::is_graph_output() const {
  const auto outputs = graph_->outputs();
  return std::find(outputs.begin(), outputs.end(), this) != outputs.end();
}

bool Node::is(std::string_view op_name) const { return op_->name == op_name; }

namespace {

void drop_use(std::vector<Use>& uses, const Node* node, int index) {
  for (size_t i = 0; i < uses.size(); ++i) {
    if (uses[i].node == node && uses[i].index == index) {
      uses.erase(uses.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
  CHECK(false && "use lists out of step");
}

}  // namespace

void Node::set_input(int i, Value* value) {
  CHECK(i >= 0);
  while (num_inputs() <= i) inputs_.push_back(nullptr);
  if (inputs_[i] == value) return;
  if (inputs_[i]) drop_use(inputs_[i]->uses_, this, i);
  inputs_[i] = value;
  if (value) value->uses_.push_back({this, i});
}

void Node::add_input(Value* value) {
  inputs_.push_back(nullptr);
  set_input(num_inputs() - 1, value);
}

void Node::remove_input(int i) {
  std::vector<Value*> rest(inputs_.begin(), inputs_.end());
  rest.erase(rest.begin() + i);
  set_inputs(rest);
}

void Node::set_inputs(const std::vector<Value*>& values) {
  for (int i = 0; i < num_inputs(); ++i)
    if (inputs_[i]) drop_use(inputs_[i]->uses_, this, i);
  inputs_ = values;
  for (int i = 0; i < num_inputs(); ++i)
    if (inputs_[i]) inputs_[i]->uses_.push_back({this, i});
}

Graph::Graph() = default;
Graph::~Graph() = default;

Value* Graph::new_value() {
  values_.push_back(std::make_unique<Value>());
  values_.back()->graph_ = this;
  return values_.back().get();
}

Value* Graph::add_input(std::string input_name, TensorType type) {
  Value* v = new_value();
  v->name = std::move(input_name);
  v->type = std::move(type);
  v->is_input_ = true;
  inputs_.push_back(v);
  return v;
}

void Graph::remove_input(int i) {
  CHECK(inputs_[i]->uses_.empty() && !inputs_[i]->is_graph_output());
  inputs_.erase(inputs_.begin() + i);
}

Value* Graph::add_constant(Tensor value, std::string constant_name) {
  CHECK(value.defined());
  Value* v = new_value();
  v->name = std::move(constant_name);
  v->type = TensorType::of(value);
  v->constant = std::move(value);
  return v;
}

Node* Graph::add_node(std::string_view op_name, std::vector<Value*> inputs, Attrs attrs, std::string node_name, Node* before,
                      int num_outputs, bool infer_now) {
  const OpDef* op = find_op(op_name);
  if (op == nullptr) fail(ErrorCode::Unsupported, "there is no operator named `{}` (node \"{}\")", op_name, node_name);
  auto owned = std::make_unique<Node>();
  Node* node = owned.get();
  node->op_ = op;
  node->graph_ = this;
  node->name = std::move(node_name);
  node->attrs = std::move(attrs);
  node->set_inputs(inputs);
  const int count = num_outputs < 0 ? op->min_outputs : num_outputs;
  for (int i = 0; i < count; ++i) {
    Value* v = new_value();
    v->producer_ = node;
    v->output_index_ = i;
    node->outputs_.push_back(v);
  }
  node->position_ = nodes_.insert(before ? before->position_ : nodes_.end(), std::move(owned));
  if (infer_now) infer_node(*node);
  return node;
}

Value* Graph::build(std::string_view op_name, std::vector<Value*> inputs, Attrs attrs, Node* before, std::string node_name) {
  return add_node(op_name, std::move(inputs), std::move(attrs), std::move(node_name), before)->output(0);
}

void Graph::replace_all_uses(Value* from, Value* to) {
  CHECK(from != to);
  const std::vector<Use> uses = from->uses_;
  for (const Use& use : uses) use.node->set_input(use.index, to);
  // Outputs of this graph and of every subgraph that returns an outer value directly.
  for_each_graph(*this, [&](Graph& g) {
    for (Value*& output : g.outputs_)
      if (output == from) output = to;
  });
}

void Graph::erase(Node* node) {
  CHECK(node->graph_ == this);
  for (Value* output : node->outputs_) CHECK(output == nullptr || (output->uses_.empty() && !output->is_graph_output()));
  std::vector<Node*> inner;
  for (auto& sub : node->subgraphs)
    for_each_graph(*sub, [&](Graph& g) {
      for (auto& n : g.nodes_) inner.push_back(n.get());
    });
  for (Node* n : inner) n->set_inputs({});
  node->set_inputs({});
  for (Value* output : node->outputs_)
    if (output) output->producer_ = nullptr;  // stays in values_ as an orphan until drop_unused_values
  nodes_.erase(node->position_);
}

void Graph::move_before(Node* node, Node* before) {
  CHECK(node->graph_ == this && before->graph_ == this);
  if (node == before) return;
  nodes_.splice(before->position_, nodes_, node->position_);
}

namespace {

// The node of `graph` that `value` comes from, following values made inside subgraphs outwards; null for outer values, inputs, constants.
void collect_dependencies(const Node& node, const Graph& graph, std::vector<Node*>& out) {
  for (Value* v : node.inputs())
    if (v && v->producer() && v->graph() == &graph) out.push_back(v->producer());
  for (const auto& sub : node.subgraphs) {
    for (const auto& inner : sub->nodes()) collect_dependencies(*inner, graph, out);
    for (Value* v : sub->outputs())
      if (v && v->producer() && v->graph() == &graph) out.push_back(v->producer());
  }
}

}  // namespace

void Graph::sort() {
  std::unordered_map<Node*, int> missing;
  std::unordered_map<Node*, std::vector<Node*>> users;
  for (const auto& node : nodes_) {
    std::vector<Node*> needs;
    collect_dependencies(*node, *this, needs);
    std::sort(needs.begin(), needs.end());
    needs.erase(std::unique(needs.begin(), needs.end()), needs.end());
    missing[node.get()] = static_cast<int>(needs.size());
    for (Node* n : needs) users[n].push_back(node.get());
  }
  // Stable: always emit the first ready node in the present order.
  std::unordered_map<Node*, int> position;
  int next = 0;
  for (const auto& node : nodes_) position[node.get()] = next++;
  const auto later = [&](Node* a, Node* b) { return position[a] > position[b]; };
  std::vector<Node*> ready;
  for (const auto& node : nodes_)
    if (missing[node.get()] == 0) ready.push_back(node.get());
  std::make_heap(ready.begin(), ready.end(), later);
  std::list<std::unique_ptr<Node>> sorted;
  const size_t total = nodes_.size();
  while (!ready.empty()) {
    std::pop_heap(ready.begin(), ready.end(), later);
    Node* node = ready.back();
    ready.pop_back();
    sorted.splice(sorted.end(), nodes_, node->position_);
    for (Node* user : users[node]) {
      if (--missing[user] == 0) {
        ready.push_back(user);
        std::push_heap(ready.begin(), ready.end(), later);
      }
    }
  }
  if (sorted.size() != total) {
    const std::string culprit = nodes_.front()->label();
    sorted.splice(sorted.end(), nodes_);
    nodes_ = std::move(sorted);
    fail(ErrorCode::InvalidArgument, "the graph has a cycle through node \"{}\"; a model must be acyclic", culprit);
  }
  nodes_ = std::move(sorted);
}

std::vector<Node*> Graph::nodes_snapshot() const {
  std::vector<Node*> out;
  out.reserve(nodes_.size());
  for (const auto& node : nodes_) out.push_back(node.get());
  return out;
}

int Graph::num_nodes_deep() const {
  int count = 0;
  for (const auto& node : nodes_) {
    ++count;
    for (const auto& sub : node->subgraphs) count += sub->num_nodes_deep();
  }
  return count;
}

std::vector<Value*> Graph::constants() const {
  std::vector<Value*> out;
  for (const auto& v : values_)
    if (v->is_constant()) out.push_back(v.get());
  return out;
}

void Graph::drop_unused_values() {
  std::unordered_set<const Value*> returned;
  for_each_graph(*this, [&](Graph& g) { returned.insert(g.outputs_.begin(), g.outputs_.end()); });
  std::erase_if(values_, [&](const std::unique_ptr<Value>& v) {
    return v->producer_ == nullptr && !v->is_input_ && v->uses_.empty() && !returned.contains(v.get());
  });
}

Dim Graph::fresh_symbol() {
  Graph* top = this;
  while (top->parent) top = top->parent;
  return Dim::symbol("_" + std::to_string(top->next_symbol_++));
}

namespace {

void clone_into(const Graph& from, Graph& to, std::unordered_map<const Value*, Value*>& map) {
  to.name = from.name;
  to.metadata = from.metadata;
  for (Value* v : from.inputs()) map[v] = to.add_input(v->name, v->type);
  for (Value* v : from.constants()) map[v] = to.add_constant(v->constant, v->name);
  for (const auto& node : from.nodes()) {
    std::vector<Value*> inputs;
    for (Value* v : node->inputs()) inputs.push_back(v ? map.at(v) : nullptr);
    Node* copy = to.add_node(node->op().name, inputs, node->attrs, node->name, nullptr, node->num_outputs(), false);
    copy->origin = node->origin;
    copy->kernel = node->kernel;
    copy->tactic = node->tactic;
    for (const auto& sub : node->subgraphs) {
      auto inner = std::make_unique<Graph>();
      inner->parent = &to;
      clone_into(*sub, *inner, map);
      copy->subgraphs.push_back(std::move(inner));
    }
    for (int i = 0; i < node->num_outputs(); ++i) {
      Value* v = copy->output(i);
      v->name = node->output(i)->name;
      v->type = node->output(i)->type;
      v->ints = node->output(i)->ints;
      map[node->output(i)] = v;
    }
  }
  std::vector<Value*> outputs;
  for (Value* v : from.outputs()) outputs.push_back(map.at(v));
  to.set_outputs(std::move(outputs));
}

}  // namespace

std::unique_ptr<Graph> Graph::clone() const {
  CHECK(parent == nullptr);
  auto copy = std::make_unique<Graph>();
  std::unordered_map<const Value*, Value*> map;
  clone_into(*this, *copy, map);
  copy->next_symbol_ = next_symbol_;
  return copy;
}

}  // namespace tokamak::ir
