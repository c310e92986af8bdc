#include "import/onnx/importer.h"

#include <algorithm>
#include <filesystem>
#include <queue>

#include "base/error.h"

namespace tokamak::onnx {

using ir::Dim;
using ir::Dims;
using ir::TensorType;
using ir::Value;

namespace {

// Inlining and bodies imported again can multiply nodes; no real model comes near.
constexpr int64_t kMaxNodes = 1'000'000;
constexpr int kMaxCallDepth = 64;

Text normalised(Text domain) { return domain == "ai.onnx" ? Text() : domain; }

int64_t opset_of(const Scope& scope, Text domain) {
  const auto found = scope.opsets->find(normalised(domain));
  return found == scope.opsets->end() ? 1 : found->second;
}

// Names that `node` reads: its inputs and what its subgraphs take from outside.
void collect_names(const NodeProto& node, std::vector<Text>& names);

void collect_names(const GraphProto& graph, std::vector<Text>& names) {
  std::vector<Text> inner;
  std::unordered_set<Text> defined;
  for (const auto& input : graph.inputs) defined.insert(input.name);
  for (const auto& initializer : graph.initializers) defined.insert(initializer.name);
  for (const auto& node : graph.nodes) {
    collect_names(node, inner);
    defined.insert(node.outputs.begin(), node.outputs.end());
  }
  for (const auto& output : graph.outputs) inner.push_back(output.name);
  for (Text name : inner)
    if (!defined.contains(name)) names.push_back(name);
}

void collect_names(const NodeProto& node, std::vector<Text>& names) {
  names.insert(names.end(), node.inputs.begin(), node.inputs.end());
  for (const auto& a : node.attributes)
    if (a.g) collect_names(*a.g, names);
}

void check_unique_outputs(const Scope& scope, const std::vector<NodeProto>& nodes) {
  std::unordered_set<Text> seen;
  for (size_t i = 0; i < nodes.size(); ++i)
    for (Text output : nodes[i].outputs)
      if (!output.empty() && (!seen.insert(output).second || scope.names.contains(output)))
        fail(ErrorCode::Corrupt, "value '{}' is defined twice, the second time by node \"{}\"; names must be unique", output,
             node_name(scope, nodes[i], i));
}

void discard(ir::Graph& graph) {
  ir::for_each_graph(graph, [](ir::Graph& g) {
    for (const auto& node : g.nodes()) node->set_inputs({});
  });
}

}  // namespace

std::string node_name(const Scope& scope, const NodeProto& node, size_t index) {
  if (!node.name.empty()) return scope.prefix + std::string(node.name);
  return fmt::format("{}{}_{}", scope.prefix, node.op_type, index);
}

std::vector<size_t> topological_order(const std::vector<NodeProto>& nodes) {
  std::unordered_map<Text, size_t> producer;
  for (size_t i = 0; i < nodes.size(); ++i)
    for (Text output : nodes[i].outputs)
      if (!output.empty()) producer.emplace(output, i);
  std::vector<std::vector<size_t>> users(nodes.size());
  std::vector<size_t> missing(nodes.size(), 0);
  bool sorted = true;
  for (size_t i = 0; i < nodes.size(); ++i) {
    std::vector<Text> names;
    collect_names(nodes[i], names);
    for (Text name : names) {
      const auto found = producer.find(name);
      if (found == producer.end()) continue;
      users[found->second].push_back(i);
      ++missing[i];
      sorted &= found->second < i;
    }
  }
  std::vector<size_t> order;
  order.reserve(nodes.size());
  if (sorted) {
    for (size_t i = 0; i < nodes.size(); ++i) order.push_back(i);
    return order;
  }
  std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;  // the file's order where it is free
  for (size_t i = 0; i < nodes.size(); ++i)
    if (missing[i] == 0) ready.push(i);
  while (!ready.empty()) {
    const size_t i = ready.top();
    ready.pop();
    order.push_back(i);
    for (size_t user : users[i])
      if (--missing[user] == 0) ready.push(user);
  }
  if (order.size() == nodes.size()) return order;
  // A node that waits may only hang below the cycle: go against the arrows until one comes twice.
  size_t at = std::find_if(missing.begin(), missing.end(), [](size_t m) { return m > 0; }) - missing.begin();
  std::vector<bool> visited(nodes.size(), false);
  while (!visited[at]) {
    visited[at] = true;
    std::vector<Text> names;
    collect_names(nodes[at], names);
    for (Text name : names) {
      const auto found = producer.find(name);
      if (found == producer.end() || missing[found->second] == 0) continue;
      at = found->second;
      break;
    }
  }
  fail(ErrorCode::Corrupt, "the graph has a cycle through node \"{}\" ({}); a model must be acyclic", node_name({}, nodes[at], at),
       nodes[at].op_type);
}

Importer::Importer(const ModelProto& model, TensorSource source, const ImportOptions& options)
    : model_(model), source_(std::move(source)), options_(options), main_(std::make_unique<ir::Graph>()) {}

std::unique_ptr<ir::Graph> Importer::run() {
  if (!model_.graph.name.empty()) main_->name = std::string(model_.graph.name);
  auto& metadata = main_->metadata;
  const auto note = [&](const char* key, Text text) {
    if (!text.empty()) metadata[key] = std::string(text);
  };
  for (const auto& [key, value] : model_.metadata) metadata[std::string(key)] = std::string(value);
  note("producer_name", model_.producer_name);
  note("producer_version", model_.producer_version);
  note("domain", model_.domain);
  note("doc_string", model_.doc_string);
  note("ir_version", std::to_string(model_.ir_version));
  if (model_.model_version != 0) note("model_version", std::to_string(model_.model_version));
  for (const auto& [domain, version] : model_.opsets)
    metadata[domain.empty() ? "opset" : "opset " + std::string(domain)] = std::to_string(version);

  Scope scope;
  scope.graph = main_.get();
  scope.opsets = &model_.opsets;
  for (const auto& info : model_.graph.value_infos) scope.declared[info.name] = &info.type;
  for (const auto& info : model_.graph.outputs) scope.declared[info.name] = &info.type;
  add_initializers(scope, model_.graph);
  add_inputs(scope);
  import_nodes(scope, model_.graph.nodes);
  set_main_outputs(scope);
  if (!unsupported_.empty()) {
    if (options_.unsupported == nullptr) throw_unsupported();
    options_.unsupported->insert(options_.unsupported->end(), unsupported_.begin(), unsupported_.end());
    return nullptr;
  }
  main_->drop_unused_values();
  return std::move(main_);
}

// --- inputs, types, symbols ---

Dim Importer::symbol_for(Text param) {
  const auto [at, is_new] = symbols_.emplace(std::string(param), "");
  if (is_new) {
    std::string name;
    for (char c : param) name += std::isalnum(static_cast<unsigned char>(c)) || c == '_' ? c : '_';
    // "_0" is how the graph names unknown dimensions, and a digit in front reads as a number.
    const size_t first = name.find_first_not_of('_');
    if (first == std::string::npos || std::isdigit(static_cast<unsigned char>(name[first]))) name = "d" + name;
    std::string unique = name;
    for (int i = 2; !symbol_names_.insert(unique).second; ++i) unique = fmt::format("{}_{}", name, i);
    at->second = unique;
  }
  return Dim::symbol(at->second);
}

Dim Importer::input_dim(const DimProto& dim, const std::string& input, size_t axis) {
  const std::string place = fmt::format("{}:{}", input, axis);
  for (const auto& [name, size] : options_.fix_dims) {
    const bool by_symbol = !dim.value && !dim.param.empty() && (name == dim.param || Dim::symbol(name) == symbol_for(dim.param));
    if (name != place && !by_symbol) continue;
    if (size < 0) fail(ErrorCode::InvalidArgument, "dimension '{}' cannot be fixed to {}", name, size);
    if (dim.value && *dim.value >= 0 && *dim.value != size)
      fail(ErrorCode::InvalidArgument, "dimension '{}' is {} in the model and cannot be fixed to {}", name, *dim.value, size);
    fixes_used_.insert(name);
    return size;
  }
  // Some converters write -1 for a size they do not know.
  if (dim.value && *dim.value < -1) fail(ErrorCode::Corrupt, "input '{}' has a negative dimension {} at axis {}", input, *dim.value, axis);
  if (dim.value && *dim.value >= 0) return *dim.value;
  return dim.param.empty() ? main_->fresh_symbol() : symbol_for(dim.param);
}

void Importer::add_inputs(Scope& scope) {
  std::unordered_set<Text> seen;
  for (const auto& info : model_.graph.inputs) {
    const std::string name(info.name);
    if (name.empty()) fail(ErrorCode::Corrupt, "an input of the graph has no name");
    if (!seen.insert(info.name).second) fail(ErrorCode::Corrupt, "input '{}' is declared twice", name);
    // An initializer that is an input too is a default value; it is taken as the value (files before IR 4 list every weight this way).
    if (scope.names.contains(info.name)) continue;
    if (info.type.kind != TypeProto::Dense) {
      static constexpr const char* kKinds[] = {"untyped", "tensor", "sequence", "map", "optional", "sparse tensor", "opaque"};
      unsupported_.push_back({name, "(model input)", "", "",
                              fmt::format("it is a {}; only dense tensors can be inputs", kKinds[info.type.kind]),
                              "export the model with tensor inputs", 0});
      scope.names[info.name] = Binding{nullptr, nullptr, true};
      continue;
    }
    const DType dtype = dtype_from_onnx(info.type.elem_type, fmt::format("input '{}'", name));
    TensorType type = TensorType::unranked(dtype);
    if (info.type.has_shape) {
      type.ranked = true;
      for (size_t axis = 0; axis < info.type.shape.size(); ++axis) {
        type.dims.push_back(input_dim(info.type.shape[axis], name, axis));
        if (const auto symbol = type.dims.back().as_symbol()) bindable_.insert(*symbol);
      }
    }
    scope.names[info.name] = Binding{main_->add_input(name, std::move(type)), nullptr, false};
  }
  for (const auto& [name, size] : options_.fix_dims)
    if (!fixes_used_.contains(name))
      fail(ErrorCode::InvalidArgument, "there is no dimension '{}' to fix to {}; name a symbol of an input's shape, or input:axis", name,
           size);
}

TensorType Importer::type_of(const TypeProto& type, const std::string& where) {
  TensorType out = TensorType::unranked(dtype_from_onnx(type.elem_type, where));
  if (!type.has_shape) return out;
  out.ranked = true;
  for (const auto& dim : type.shape) out.dims.push_back(dim.value && *dim.value >= 0 ? Dim(*dim.value) : main_->fresh_symbol());
  return out;
}

void Importer::add_initializers(Scope& scope, const GraphProto& proto) {
  const auto add = [&](Text name, Tensor tensor) {
    if (name.empty()) fail(ErrorCode::Corrupt, "an initializer has no name");
    if (scope.names.contains(name)) fail(ErrorCode::Corrupt, "value '{}' is defined twice; names must be unique", name);
    Value* value = scope.graph->add_constant(std::move(tensor), scope.prefix + std::string(name));
    scope.names[name] = Binding{value, nullptr, false};
  };
  for (const auto& initializer : proto.initializers) add(initializer.name, make_tensor(initializer, source_));
  for (const auto& sparse : proto.sparse_initializers) add(sparse.values.name, make_tensor(sparse, source_));
}

// --- nodes ---

void Importer::import_nodes(Scope& scope, const std::vector<NodeProto>& nodes) {
  check_unique_outputs(scope, nodes);
  for (size_t i : topological_order(nodes)) import_node(scope, nodes[i], i);
}

const FunctionProto* Importer::find_function(const NodeProto& node) const {
  for (const auto& f : model_.functions)
    if (f.name == node.op_type && normalised(f.domain) == normalised(node.domain) && f.overload == node.overload) return &f;
  return nullptr;
}

void Importer::import_node(Scope& scope, const NodeProto& node, size_t index) {
  const std::string name = node_name(scope, node, index);
  if (++num_imported_ > kMaxNodes)
    fail(ErrorCode::ResourceExhausted, "the model has more than {} nodes once functions and loops are expanded", kMaxNodes);
  const int64_t opset = opset_of(scope, node.domain);
  bool known = false;
  const OpImporter* importer = find_importer(normalised(node.domain), node.op_type, opset, &known);
  const FunctionProto* function = importer ? nullptr : find_function(node);

  bool input_unsupported = false;
  for (Text input : node.inputs) {
    if (input.empty()) continue;
    const Binding* binding = scope.find(input);
    if (binding == nullptr)
      fail(ErrorCode::Corrupt, "[{} \"{}\"] input '{}' is not defined: no input, initializer or node has that name", node.op_type, name,
           input);
    input_unsupported |= binding->is_unsupported;
  }
  try {
    if (!importer && !function) {
      const std::string domain = node.domain.empty() ? "ai.onnx" : std::string(node.domain);
      if (known)
        throw UnsupportedReason{fmt::format("this form of the operator (opset {}) is not supported", opset),
                                "convert the model to a newer opset"};
      throw UnsupportedReason{fmt::format("operator '{}' of domain '{}' is not known", node.op_type, domain),
                              "export it as standard operators, or as a function in the model"};
    }
    if (input_unsupported) throw UnsupportedReason{};
    if (function) inline_function(scope, node, *function, name);
    else import_supported(scope, node, *importer, opset, name);
    for (Text output : node.outputs)
      if (!output.empty() && !scope.names.contains(output))
        throw UnsupportedReason{fmt::format("its output '{}' is not supported", output), "export the model without it"};
    refine(scope, node);
  } catch (UnsupportedReason& reason) {
    // Without a reason it only hangs below a node that was reported.
    if (!reason.reason.empty()) report(scope, node, name, opset, std::move(reason));
    if (!importer || input_unsupported) survey_subgraphs(scope, node);
    for (Text output : node.outputs)
      if (!output.empty()) scope.names[output] = Binding{nullptr, nullptr, true};
  } catch (const Error& e) {
    const std::string prefix = fmt::format("[{} \"{}\"]", node.op_type, name);
    const std::string what = e.what();
    if (what.starts_with(prefix) || function) throw;
    if (e.code() == ErrorCode::Internal) throw;
    throw Error(e.code() == ErrorCode::InvalidArgument ? ErrorCode::Corrupt : e.code(), prefix + " " + what);
  }
}

void Importer::import_supported(Scope& scope, const NodeProto& node, const OpImporter& importer, int64_t opset, const std::string& name) {
  NodeImporter n(*this, scope, node, opset, name);
  importer.fn(n);
}

// Declared shapes are used only where inference does not know the rank: a file may be wrong about the rest.
void Importer::refine(Scope& scope, const NodeProto& node) {
  for (Text output : node.outputs) {
    const auto declared = scope.declared.find(output);
    if (output.empty() || declared == scope.declared.end() || !declared->second->has_shape) continue;
    Value* v = scope.names[output].value;
    if (v == nullptr || v->type.ranked || v->is_input()) continue;
    v->type.ranked = true;
    for (size_t i = 0; i < declared->second->shape.size(); ++i) v->type.dims.push_back(scope.graph->fresh_symbol());
  }
}

void Importer::inline_function(Scope& scope, const NodeProto& node, const FunctionProto& function, const std::string& name) {
  FunctionCall call;
  call.function = &function;
  call.caller = scope.call;
  call.depth = scope.call ? scope.call->depth + 1 : 1;
  if (call.depth > kMaxCallDepth)
    fail(ErrorCode::Corrupt, "[{} \"{}\"] functions call each other more than {} deep; a model's functions must not be recursive",
         node.op_type, name, kMaxCallDepth);
  const NodeImporter n(*this, scope, node, 1, name);
  if (node.inputs.size() > function.inputs.size() || node.outputs.size() > function.outputs.size())
    fail(ErrorCode::Corrupt, "[{} \"{}\"] has {} inputs and {} outputs, the function takes {} and gives {}", node.op_type, name,
         node.inputs.size(), node.outputs.size(), function.inputs.size(), function.outputs.size());
  for (Text attribute : function.attributes)
    if (const auto* a = n.attr(attribute)) call.attributes[attribute] = a;
  for (const auto& a : function.default_attributes) {
    const auto* given = n.attr(a.name);
    call.attributes[a.name] = given ? given : &a;
  }
  Scope inner;
  inner.graph = scope.graph;
  inner.opsets = &function.opsets;
  inner.call = &call;
  inner.prefix = name + "/";
  for (size_t i = 0; i < function.inputs.size(); ++i) {
    const Binding* found = i < node.inputs.size() && !node.inputs[i].empty() ? scope.find(node.inputs[i]) : nullptr;
    if (!inner.names.emplace(function.inputs[i], found ? *found : Binding{}).second)
      fail(ErrorCode::Corrupt, "function '{}' has two inputs named '{}'", function.name, function.inputs[i]);
  }
  import_nodes(inner, function.nodes);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    const Binding* found = inner.find(function.outputs[i]);
    if (found == nullptr) fail(ErrorCode::Corrupt, "function '{}' does not define its output '{}'", function.name, function.outputs[i]);
    scope.names[node.outputs[i]] = *found;
  }
}

// --- subgraphs ---

std::vector<Binding> Importer::outputs_of(Scope& scope, const GraphProto& proto) {
  std::vector<Binding> outputs;
  for (const auto& output : proto.outputs) {
    const Binding* found = scope.find(output.name);
    if (found == nullptr) fail(ErrorCode::Corrupt, "graph '{}': output '{}' is not defined by any node", proto.name, output.name);
    outputs.push_back(*found);
  }
  return outputs;
}

std::unique_ptr<ir::Graph> Importer::import_subgraph(Scope& outer, const GraphProto& proto, const std::vector<TensorType>& input_types) {
  if (input_types.size() != proto.inputs.size())
    fail(ErrorCode::Corrupt, "graph '{}' has {} inputs, its node gives {}", proto.name, proto.inputs.size(), input_types.size());
  auto graph = std::make_unique<ir::Graph>();
  graph->name = proto.name.empty() ? "body" : std::string(proto.name);
  graph->parent = outer.graph;
  Scope scope;
  scope.outer = &outer;
  scope.graph = graph.get();
  scope.opsets = outer.opsets;
  scope.call = outer.call;
  scope.prefix = outer.prefix;
  for (const auto& info : proto.value_infos) scope.declared[info.name] = &info.type;
  for (size_t i = 0; i < proto.inputs.size(); ++i) {
    const Text name = proto.inputs[i].name;
    if (scope.names.contains(name)) fail(ErrorCode::Corrupt, "graph '{}' has two inputs named '{}'", proto.name, name);
    scope.names[name] = Binding{graph->add_input(scope.prefix + std::string(name), input_types[i]), nullptr, false};
  }
  try {
    add_initializers(scope, proto);
    import_nodes(scope, proto.nodes);
    std::vector<Value*> outputs;
    bool complete = true;
    for (const Binding& output : outputs_of(scope, proto)) {
      if (output.sequence) throw UnsupportedReason{"a subgraph returns a sequence", "export the model without sequences"};
      complete &= output.value != nullptr;
      outputs.push_back(output.value);
    }
    if (!complete) {
      discard(*graph);
      return nullptr;
    }
    graph->set_outputs(std::move(outputs));
  } catch (...) {  // the outer graph must not keep uses by nodes that are gone
    discard(*graph);
    throw;
  }
  return graph;
}

void Importer::discard_subgraph(std::unique_ptr<ir::Graph> graph) {
  if (graph) discard(*graph);
}

std::vector<Binding> Importer::inline_graph(Scope& outer, const GraphProto& proto, const std::vector<Binding>& inputs) {
  if (inputs.size() != proto.inputs.size())
    fail(ErrorCode::Corrupt, "graph '{}' has {} inputs, its node gives {}", proto.name, proto.inputs.size(), inputs.size());
  Scope scope;
  scope.outer = &outer;
  scope.graph = outer.graph;
  scope.opsets = outer.opsets;
  scope.call = outer.call;
  scope.prefix = outer.prefix;
  for (size_t i = 0; i < inputs.size(); ++i) scope.names[proto.inputs[i].name] = inputs[i];
  add_initializers(scope, proto);
  import_nodes(scope, proto.nodes);
  return outputs_of(scope, proto);
}

// --- outputs and reports ---

void Importer::set_main_outputs(Scope& scope) {
  const GraphProto& proto = model_.graph;
  if (proto.outputs.empty()) fail(ErrorCode::Corrupt, "the graph has no outputs");
  std::vector<Value*> outputs;
  std::unordered_set<Text> names;
  const std::vector<Binding> bindings = outputs_of(scope, proto);
  for (size_t i = 0; i < bindings.size(); ++i) {
    const std::string name(proto.outputs[i].name);
    if (!names.insert(proto.outputs[i].name).second) fail(ErrorCode::Corrupt, "output '{}' is declared twice", name);
    if (bindings[i].sequence)
      unsupported_.push_back(
          {name, "(model output)", "", "", "it is a sequence; only tensors can be outputs", "return the tensors one by one", 0});
    Value* v = bindings[i].value;
    if (v == nullptr) continue;
    const bool taken = std::find(outputs.begin(), outputs.end(), v) != outputs.end();
    if (!v->producer() || v->graph() != main_.get() || taken) {  // an input, a constant, or an output already
      v = main_->build("identity", {v}, {}, nullptr, name);
    }
    v->name = name;
    outputs.push_back(v);
  }
  main_->set_outputs(std::move(outputs));
}

void Importer::report(const Scope& scope, const NodeProto& node, const std::string& name, int64_t opset, UnsupportedReason reason) {
  UnsupportedNode entry;
  entry.name = name;
  entry.op = std::string(node.op_type);
  entry.domain = std::string(normalised(node.domain));
  entry.opset = opset;
  for (size_t i = 0; i < node.inputs.size() && entry.dtype.empty(); ++i) {
    const Binding* input = scope.find(node.inputs[i]);
    if (input && input->value) entry.dtype = to_string(input->value->type.dtype);
  }
  entry.reason = std::move(reason.reason);
  entry.advice = std::move(reason.advice);
  unsupported_.push_back(std::move(entry));
}

void Importer::survey(const Scope& scope, const GraphProto& graph) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const NodeProto& node = graph.nodes[i];
    const int64_t opset = opset_of(scope, node.domain);
    if (!find_importer(normalised(node.domain), node.op_type, opset) && !find_function(node))
      report(scope, node, node_name(scope, node, i), opset,
             {fmt::format("operator '{}' is not supported", node.op_type), "export it as standard operators"});
    survey_subgraphs(scope, node);
  }
}

void Importer::survey_subgraphs(const Scope& scope, const NodeProto& node) {
  for (const auto& a : node.attributes)
    if (a.g) survey(scope, *a.g);
}

void Importer::throw_unsupported() const {
  std::string text = fmt::format("{} of the model's nodes cannot be imported:", unsupported_.size());
  for (const auto& u : unsupported_) {
    text += fmt::format("\n  \"{}\" {}{}", u.name, u.domain.empty() ? "" : u.domain + ".", u.op);
    if (u.opset > 0) text += fmt::format(" opset {}", u.opset);
    if (!u.dtype.empty()) text += " " + u.dtype;
    text += ": " + u.reason;
    if (!u.advice.empty()) text += "; " + u.advice;
  }
  throw Error(ErrorCode::Unsupported, text);
}

// --- entry points ---

namespace {

std::unique_ptr<ir::Graph> import_bytes(Bytes bytes, TensorSource source, const ImportOptions& options, const std::string& what) {
  if (bytes.empty()) fail(ErrorCode::Corrupt, "{} is empty; expected an ONNX model", what);
  try {
    const ModelProto model = parse_model(bytes);
    if (!model.has_graph) fail(ErrorCode::Corrupt, "it holds no graph; is this an ONNX model?");
    return Importer(model, std::move(source), options).run();
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}: {}", what, e.what()));
  } catch (const std::bad_alloc&) {
    fail(ErrorCode::ResourceExhausted, "{}: not enough memory to import it", what);
  }
}

}  // namespace

std::unique_ptr<ir::Graph> import_model(const std::string& path, const ImportOptions& options) {
  const auto file = MappedFile::open(path);
  TensorSource source;
  source.owner = file;
  source.folder = std::filesystem::path(path).parent_path().string();
  if (source.folder.empty()) source.folder = ".";
  return import_bytes(file->bytes(), std::move(source), options, path);
}

std::unique_ptr<ir::Graph> import_model(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, const std::string& folder,
                                        const ImportOptions& options) {
  TensorSource source;
  source.owner = std::move(owner);
  source.folder = folder;
  return import_bytes(bytes, std::move(source), options, "model");
}

}  // namespace tokamak::onnx
