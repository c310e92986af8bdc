// LSTM, GRU, RNN.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Value;

void recurrent(NodeImporter& n, Text op, int num_outputs) {
  Value* r = n.input(2);
  Attrs attrs;
  int64_t hidden = n.int_attr("hidden_size", 0);
  if (hidden == 0 && r->type.ranked && r->type.rank() == 3 && r->type.dims[2].is_const()) hidden = r->type.dims[2].value();
  if (hidden <= 0) n.bad("attribute 'hidden_size' is missing and cannot be told from R, {}", to_string(r->type));
  attrs.set("hidden_size", hidden);
  attrs.set("direction", n.string_attr("direction", "forward"));
  if (n.has_attr("activations")) attrs.set("activations", n.strings_attr("activations"));
  for (const char* name : {"activation_alpha", "activation_beta"})
    if (n.has_attr(name)) attrs.set(name, n.floats_attr(name));
  if (n.has_attr("clip")) attrs.set("clip", n.float_attr("clip", 0));
  if (n.int_attr("layout", 0) != 0) attrs.set("layout", int64_t{1});
  if (op == "lstm" && n.int_attr("input_forget", 0) != 0) attrs.set("input_forget", int64_t{1});
  if (op == "gru" && n.int_attr("linear_before_reset", 0) != 0) attrs.set("linear_before_reset", int64_t{1});
  ir::Node* made = n.add_node(op, n.inputs(), attrs, num_outputs);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void lstm(NodeImporter& n) { recurrent(n, "lstm", 3); }
void gru(NodeImporter& n) { recurrent(n, "gru", 2); }
void rnn(NodeImporter& n) { recurrent(n, "rnn", 2); }

// Before opset 7 these had other defaults (outputs flags, GRU's gates).
constexpr OpImporter kImporters[] = {{"LSTM", lstm, 7}, {"GRU", gru, 7}, {"RNN", rnn, 7}};

}  // namespace

std::span<const OpImporter> recurrent_importers() { return kImporters; }

}  // namespace tokamak::onnx
