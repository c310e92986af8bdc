#include "ir/text.h"

#include <gtest/gtest.h>

namespace tokamak::ir {
namespace {

constexpr const char* kModel = R"(graph main(%x: f32[batch,4], %"odd name": i64[]) {
  meta "producer" = "a \"test\""
  %w = const f32[4,2] {1, -2.5, inf, nan, 0.1, 1e-30, 7, 8}
  %h = const f16[2] {0.5, 65504}
  %i = const i64[0] {}
  %s = const str[1] {"a\x0ab"}
  %y: f32[batch,2] = matmul(%x, %w) {alpha=0.5, trans_a=0} "layer/0" origin "MatMul_1+Add_2" kernel "ref.matmul" "mr=6"
  %z: f32[batch,2] = fused(%y) {expr="t0 = relu(i0); ret t0"}
  return %z, %x
}
)";

TEST(IrText, PrintOfParseIsAFixpoint) {
  const auto graph = parse(kModel);
  verify(*graph);
  const std::string once = print(*graph);
  const std::string twice = print(*parse(once));
  EXPECT_EQ(once, twice);
  EXPECT_NE(once.find("kernel \"ref.matmul\" \"mr=6\""), std::string::npos);
  EXPECT_EQ(graph->inputs()[1]->name, "odd name");
  EXPECT_EQ(graph->metadata.at("producer"), "a \"test\"");
}

// Found by fuzzing: a colon at the end of a name reads as the one before a type.
TEST(IrText, NamesThatEndInAColonAreQuoted) {
  const auto graph = parse("graph \"g:\"(%\"x:\": f32[n]) {\n %y = relu(%\"x:\")\n return %y\n}");
  const auto again = parse(print(*graph));
  EXPECT_EQ(again->name, "g:");
  EXPECT_EQ(again->inputs()[0]->name, "x:");
}

TEST(IrText, InfersMissingTypes) {
  const auto graph = parse("graph g(%x: f32[n,3]) {\n %y = relu(%x)\n return %y\n}");
  EXPECT_EQ(to_string(graph->outputs()[0]->type), "f32[n,3]");
}

TEST(IrText, ErrorsNameLineAndColumn) {
  const std::pair<const char*, const char*> bad[] = {
      {"graph g(%x: f32[2]) {\n %y = no_such_op(%x)\n return %y\n}", "no operator named `no_such_op`"},
      {"graph g(%x: f32[2]) {\n %y = relu(%q)\n return %y\n}", "%q is not defined"},
      {"graph g(%x: f32[2]) {\n %x = relu(%x)\n return %x\n}", "%x is defined twice"},
      {"graph g(%x: f31[2]) {\n return %x\n}", "`f31` is not an element type"},
      {"graph g() {\n %c = const f32[3] {1, 2}\n return %c\n}", "line 2"},
      {"graph g() {\n %c = const f32[99999999999] splat {1}\n return %c\n}", "cannot stand in the text"},
      {"graph g() {\n %c = const f32[2] @0\n return %c\n}", "does not have"},
      {"graph g(%x: f32[2]) {", "expected"},
      {"", "expected `graph`"},
  };
  for (const auto& [text, message] : bad) {
    try {
      parse(text);
      FAIL() << "accepted: " << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << e.what();
    }
  }
}

TEST(IrGraph, ReplaceEraseAndSort) {
  const auto graph = parse("graph g(%x: f32[2]) {\n %a = relu(%x)\n %b = exp(%a)\n %c = neg(%b)\n return %c\n}");
  Value* x = graph->inputs()[0];
  std::vector<Node*> nodes = graph->nodes_snapshot();
  graph->replace_all_uses(nodes[1]->output(0), nodes[0]->output(0));
  graph->erase(nodes[1]);
  graph->move_before(nodes[2], nodes[0]);
  EXPECT_THROW(verify(*graph), Error);
  graph->sort();
  verify(*graph);
  EXPECT_EQ(graph->num_nodes(), 2);
  EXPECT_EQ(x->uses().size(), 1u);
  nodes[0]->set_input(0, nodes[2]->output(0));
  EXPECT_THROW(graph->sort(), Error);
}

TEST(IrGraph, CloneIsEqualTextAndIndependent) {
  const auto graph = parse(kModel);
  const auto copy = graph->clone();
  EXPECT_EQ(print(*graph), print(*copy));
  copy->nodes().front()->attrs.set("alpha", 2.0);
  EXPECT_NE(print(*graph), print(*copy));
}

}  // namespace
}  // namespace tokamak::ir
