// Sequences and optionals exist only while importing: a sequence is a list of values whose length is known, an optional its value.

#include <algorithm>

#include "import/onnx/importer.h"
#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Value;

int64_t position(NodeImporter& n, int input, int64_t length, bool past_end) {
  const auto known = n.const_ints(n.input(input));
  if (!known || known->size() != 1)
    n.unsupported("its position in the sequence is not constant", "only sequences of known structure are supported");
  const int64_t at = (*known)[0] < 0 ? (*known)[0] + length : (*known)[0];
  if (at < 0 || at >= length + past_end) n.bad("position {} is outside a sequence of {}", (*known)[0], length);
  return at;
}

void sequence_empty(NodeImporter& n) { n.set_sequence(0, {}); }
void sequence_construct(NodeImporter& n) { n.set_sequence(0, n.inputs()); }

void sequence_insert(NodeImporter& n) {
  Values values = n.sequence(0);
  const int64_t length = static_cast<int64_t>(values.size());
  values.insert(values.begin() + (n.has_input(2) ? position(n, 2, length, true) : length), n.input(1));
  n.set_sequence(0, std::move(values));
}

void sequence_erase(NodeImporter& n) {
  Values values = n.sequence(0);
  const int64_t length = static_cast<int64_t>(values.size());
  if (length == 0) n.bad("the sequence is empty");
  values.erase(values.begin() + (n.has_input(1) ? position(n, 1, length, false) : length - 1));
  n.set_sequence(0, std::move(values));
}

void sequence_at(NodeImporter& n) {
  const Values& values = n.sequence(0);
  n.set_output(0, values[position(n, 1, static_cast<int64_t>(values.size()), false)]);
}

void sequence_length(NodeImporter& n) { n.set_output(0, n.i64_scalar(static_cast<int64_t>(n.sequence(0).size()))); }

void concat_from_sequence(NodeImporter& n) {
  Values values = n.sequence(0);
  if (values.empty()) n.unsupported("the sequence is empty");
  int64_t axis = n.int_attr("axis");
  if (n.int_attr("new_axis", 0) != 0) {
    for (Value*& v : values) v = n.unsqueeze(v, {axis});
  }
  n.set_output(0, n.concat(values, n.axis(axis, values[0])));
}

void split_to_sequence(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t axis = n.axis(n.int_attr("axis", 0), x);
  if (n.rank(x) == 0 || !x->type.dims[axis].is_const())
    n.unsupported("the length of the sequence is not known", "fix the shapes of the model's inputs");
  const int64_t size = x->type.dims[axis].value();
  ir::Dims sizes;
  bool drop = false;
  if (n.has_input(1)) {
    const auto split = n.const_ints(n.input(1));
    if (!split) n.unsupported("its split is not constant", "make the split a constant");
    if (n.rank(n.input(1)) == 0) {
      const int64_t part = (*split)[0];
      if (part <= 0) n.bad("the size of the parts is {}", part);
      if (size / part > 65536) n.unsupported("it makes more than 65536 parts");
      for (int64_t at = 0; at < size; at += part) sizes.push_back(std::min(part, size - at));
    } else {
      sizes.assign(split->begin(), split->end());
    }
  } else {
    if (size > 65536) n.unsupported("it makes more than 65536 parts");
    sizes.assign(size, 1);
    drop = n.int_attr("keepdims", 1) == 0;
  }
  if (sizes.empty()) return n.set_sequence(0, {});
  ir::Node* made = n.add_node("split", {x}, {{"axis", axis}, {"sizes", sizes}}, static_cast<int>(sizes.size()));
  Values parts(made->outputs().begin(), made->outputs().end());
  if (drop)
    for (Value*& v : parts) v = n.squeeze(v, {axis});
  n.set_sequence(0, std::move(parts));
}

// The body once for each element, in place.
void sequence_map(NodeImporter& n) {
  const GraphProto& body = n.graph_attr("body");
  const size_t length = n.sequence(0).size();
  std::vector<Values> results(n.num_outputs());
  for (size_t i = 0; i < length; ++i) {
    std::vector<Binding> inputs;
    for (int j = 0; j < n.num_inputs(); ++j) {
      if (!n.is_sequence(j)) {
        inputs.push_back({n.input(j), nullptr, false});
        continue;
      }
      if (n.sequence(j).size() != length) n.bad("its sequences have {} and {} elements", length, n.sequence(j).size());
      inputs.push_back({n.sequence(j)[i], nullptr, false});
    }
    const auto outputs = n.importer().inline_graph(n.scope(), body, inputs);
    if (outputs.size() != results.size()) n.bad("the body has {} outputs, the node {}", outputs.size(), results.size());
    for (size_t j = 0; j < outputs.size(); ++j) {
      if (outputs[j].is_unsupported) throw UnsupportedReason{};
      if (outputs[j].value == nullptr) n.unsupported("its body does not return a tensor");
      results[j].push_back(outputs[j].value);
    }
  }
  for (size_t j = 0; j < results.size(); ++j) n.set_sequence(static_cast<int>(j), results[j]);
}

void optional(NodeImporter& n) {
  if (n.num_inputs() == 0) n.unsupported("an empty optional is not supported");
  if (n.is_sequence(0)) n.set_sequence(0, n.sequence(0));
  else n.set_output(0, n.input(0));
}

void optional_has_element(NodeImporter& n) { n.set_output(0, n.scalar(n.num_inputs() > 0 ? 1 : 0, DType::Bool)); }

constexpr OpImporter kImporters[] = {
    {"SequenceEmpty", sequence_empty},
    {"SequenceConstruct", sequence_construct},
    {"SequenceInsert", sequence_insert},
    {"SequenceErase", sequence_erase},
    {"SequenceAt", sequence_at},
    {"SequenceLength", sequence_length},
    {"ConcatFromSequence", concat_from_sequence},
    {"SplitToSequence", split_to_sequence},
    {"SequenceMap", sequence_map},
    {"Optional", optional},
    {"OptionalGetElement", optional},
    {"OptionalHasElement", optional_has_element},
};

}  // namespace

std::span<const OpImporter> sequence_importers() { return kImporters; }

}  // namespace tokamak::onnx
