// Operators whose result depends on an order or a condition.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Value;

void topk(NodeImporter& n) {
  Value* x = n.input(0);
  Value* k = n.opset() < 10 ? n.i64({n.int_attr("k")}) : n.input(1);
  ir::Node* made = n.add_node(
      "topk", {x, k},
      {{"axis", n.axis(n.int_attr("axis", -1), x)}, {"largest", n.int_attr("largest", 1)}, {"sorted", n.int_attr("sorted", 1)}}, 2);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void nonzero(NodeImporter& n) { n.set_output(0, n.add("nonzero", {n.input(0)})); }

void nms(NodeImporter& n) {
  Values inputs = n.inputs();
  n.set_output(0, n.add("nms", inputs, {{"center_point_box", n.int_attr("center_point_box", 0)}}));
}

void unique(NodeImporter& n) {
  Attrs attrs{{"sorted", n.int_attr("sorted", 1)}};
  if (n.has_attr("axis")) attrs.set("axis", n.axis(n.int_attr("axis"), n.input(0)));
  ir::Node* made = n.add_node("unique", {n.input(0)}, attrs, n.wants(3) ? 4 : n.wants(2) ? 3 : n.wants(1) ? 2 : 1);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void compress(NodeImporter& n) {
  Attrs attrs;
  if (n.has_attr("axis")) attrs.set("axis", n.axis(n.int_attr("axis"), n.input(0)));
  n.set_output(0, n.add("compress", {n.input(0), n.input(1)}, attrs));
}

constexpr OpImporter kImporters[] = {
    {"TopK", topk}, {"NonZero", nonzero}, {"NonMaxSuppression", nms}, {"Unique", unique}, {"Compress", compress},
};

}  // namespace

std::span<const OpImporter> search_importers() { return kImporters; }

}  // namespace tokamak::onnx
