#include "import/onnx/import.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "ir/op.h"
#include "ir/text.h"
#include "tests/support/onnx_writer.h"

namespace tokamak::onnx {
namespace {

using namespace tokamak::test;
namespace fs = std::filesystem;

std::unique_ptr<ir::Graph> import_graph(const OnnxGraph& g, int64_t opset = 17, const ImportOptions& options = {}) {
  OnnxModelOptions model;
  model.opset = opset;
  auto graph = import_model(as_bytes(onnx_model(g, model)), nullptr, "", options);
  ir::verify(*graph);
  return graph;
}

// "conv relu add": the operators in order.
std::string ops(const ir::Graph& graph) {
  std::string text;
  for (const auto& node : graph.nodes()) text += (text.empty() ? "" : " ") + std::string(node->op().name);
  return text;
}

const ir::Node& only_node(const ir::Graph& graph) {
  EXPECT_EQ(graph.num_nodes(), 1) << ir::print(graph);
  return *graph.nodes().front();
}

std::string output_type(const ir::Graph& graph, int i = 0) { return to_string(graph.outputs()[i]->type); }

// One node from x (f32 of these dims) to y, with more inputs as constants.
std::unique_ptr<ir::Graph> import_one(const char* op, const std::vector<OnnxDim>& dims, const std::vector<OnnxAttr>& attrs, int64_t opset,
                                      const std::vector<Tensor>& constants = {}, DType dtype = DType::F32) {
  OnnxGraph g;
  OnnxNames inputs{"x"};
  g.input("x", dtype, dims).output("y");
  for (size_t i = 0; i < constants.size(); ++i) {
    inputs.push_back("c" + std::to_string(i));
    g.initializer(inputs.back(), constants[i]);
  }
  return import_graph(g.node(op, inputs, {"y"}, attrs, "n"), opset);
}

Tensor i64s(std::vector<int64_t> values) {
  const int64_t n = static_cast<int64_t>(values.size());
  return Tensor::of<int64_t>({n}, values);
}

TEST(OnnxImport, NamesMetadataAndSymbols) {
  OnnxGraph g;
  g.input("x", DType::F32, {"batch size", "", 3}).input("z", DType::F32, {"batch size", "batch_size", 3}).output("y");
  g.node("Relu", {"x"}, {"a"}).node("Add", {"a", "z"}, {"y"}, {}, "the sum");
  OnnxModelOptions options;
  options.metadata = {{"author", "somebody"}};
  const auto graph = import_model(as_bytes(onnx_model(g, options)));
  EXPECT_EQ(graph->metadata.at("author"), "somebody");
  EXPECT_EQ(graph->metadata.at("producer_name"), "tokamak tests");
  EXPECT_EQ(graph->metadata.at("opset"), "17");
  EXPECT_EQ(graph->nodes().front()->name, "Relu_0");
  EXPECT_EQ(graph->nodes().back()->name, "the sum");
  EXPECT_EQ(graph->nodes().front()->output(0)->name, "a");
  EXPECT_EQ(graph->outputs()[0]->name, "y");
  // Two names that sanitise alike stay two symbols; the unnamed one is fresh.
  EXPECT_EQ(to_string(graph->inputs()[0]->type), "f32[batch_size,_0,3]");
  EXPECT_EQ(to_string(graph->inputs()[1]->type), "f32[batch_size,batch_size_2,3]");
}

TEST(OnnxImport, FixDims) {
  OnnxGraph g;
  g.input("x", DType::F32, {"batch", "", 3}).output("y").node("Relu", {"x"}, {"y"});
  ImportOptions options;
  options.fix_dims = {{"batch", 4}, {"x:1", 5}};
  EXPECT_EQ(output_type(*import_graph(g, 17, options)), "f32[4,5,3]");
}

TEST(OnnxImport, InitializerListedAsInputIsConstant) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).input("w", DType::F32, {2}).output("y");
  g.initializer("w", Tensor::of<float>({2}, {1, 2})).node("Add", {"x", "w"}, {"y"});
  const auto graph = import_graph(g, 8);
  ASSERT_EQ(graph->inputs().size(), 1u);
  EXPECT_TRUE(only_node(*graph).input(1)->is_constant());
}

TEST(OnnxImport, TypedDataAndStrings) {
  OnnxGraph g;
  g.input("x", DType::F16, {2}).output("y").node("Add", {"x", "w"}, {"y"});
  g.message.message(5, OnnxMessage().integer(1, 2).integer(2, 10).text(8, "w").integer(5, 0x3c00).integer(5, 0xc000));
  const auto graph = import_graph(g);
  EXPECT_EQ(graph->constants()[0]->constant.float_at(0), 1.0);
  EXPECT_EQ(graph->constants()[0]->constant.float_at(1), -2.0);

  const OnnxMessage m = OnnxMessage().integer(1, 2).integer(2, 8).text(6, "a").text(6, "bc");
  EXPECT_EQ(read_tensor_proto(as_bytes(m.bytes())).strings(), (std::vector<std::string>{"a", "bc"}));
}

TEST(OnnxImport, PackedAndUnpackedDims) {
  const std::string packed("\x02\x03", 2);
  const OnnxMessage m = OnnxMessage().text(1, packed).integer(2, 9).text(9, "\1\0\1\0\1\0");
  EXPECT_THROW(read_tensor_proto(as_bytes(m.bytes())), Error);  // C string: no bytes
  const OnnxMessage whole = OnnxMessage().text(1, packed).integer(2, 9).text(9, std::string("\1\0\1\0\1\0", 6));
  EXPECT_EQ(read_tensor_proto(as_bytes(whole.bytes())).shape(), (Shape{2, 3}));
}

TEST(OnnxImport, UnsortedNodes) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Neg", {"b"}, {"y"}).node("Exp", {"a"}, {"b"}).node("Abs", {"x"}, {"a"});
  EXPECT_EQ(ops(*import_graph(g)), "abs exp neg");
}

TEST(OnnxImport, OutputThatIsAnInput) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").output("z").node("Identity", {"x"}, {"y"}).node("Identity", {"y"}, {"z"});
  const auto graph = import_graph(g);
  EXPECT_EQ(graph->outputs()[0]->name, "y");
  EXPECT_EQ(graph->outputs()[1]->name, "z");
  EXPECT_EQ(ops(*graph), "identity identity");
}

TEST(OnnxImport, FunctionsAreInlined) {
  OnnxModelOptions options;
  options.more_opsets = {{"mine", 1}};
  OnnxFunction f{"Leaky", "mine", {"a", "b"}, {"c"}, {"slope"}, {}};
  f.nodes = {onnx_node("LeakyRelu", {"a"}, {"t"}, {OnnxAttr::reference("alpha", "slope", 1)}, "leaky"),
             onnx_node("Identity", {"t"}, {"c"})};
  options.functions = {f};
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Leaky", {"x"}, {"y"}, {{"slope", 0.25}}, "call", "mine");
  const auto graph = import_model(as_bytes(onnx_model(g, options)));
  EXPECT_EQ(only_node(*graph).name, "call/leaky");
  EXPECT_EQ(only_node(*graph).attrs.get_float("alpha"), 0.25);
}

TEST(OnnxImport, IfWithKnownConditionIsInlined) {
  OnnxGraph yes, no, g;
  yes.output("a").node("Exp", {"x"}, {"a"});
  no.output("b").node("Neg", {"x"}, {"b"});
  g.input("x", DType::F32, {2}).output("y").initializer("c", Tensor::scalar<bool>(false));
  g.node("If", {"c"}, {"y"}, {{"then_branch", yes}, {"else_branch", no}});
  EXPECT_EQ(ops(*import_graph(g)), "neg");
}

TEST(OnnxImport, IfKeepsBranches) {
  OnnxGraph yes, no, g;
  yes.output("a").node("Exp", {"x"}, {"a"});
  no.output("b").node("Flatten", {"x"}, {"b"});
  g.input("x", DType::F32, {2, 3}).input("c", DType::Bool, {}).output("y");
  g.node("If", {"c"}, {"y"}, {{"then_branch", yes}, {"else_branch", no}}, "choose");
  const auto graph = import_graph(g);
  ASSERT_EQ(ops(*graph), "if");
  ASSERT_EQ(only_node(*graph).subgraphs.size(), 2u);
  EXPECT_EQ(ops(*only_node(*graph).subgraphs[0]), "exp");
  EXPECT_EQ(output_type(*graph), "f32[2,3]");
}

TEST(OnnxImport, LoopWidensWhatGrows) {
  OnnxGraph body, g;
  body.input("i", DType::I64, {}).input("go", DType::Bool, {}).input("state", DType::F32, {});
  body.output("go2").output("next").output("scan");
  body.node("Identity", {"go"}, {"go2"})
      .node("Concat", {"state", "x"}, {"next"}, {{"axis", 0}})
      .node("ReduceSum", {"state"}, {"scan"}, {{"keepdims", 0}});
  g.input("x", DType::F32, {2, 3}).input("n", DType::I64, {}).output("y").output("sums");
  g.node("Loop", {"n", "", "x"}, {"y", "sums"}, {{"body", body}}, "grow");
  const auto graph = import_graph(g);
  const std::string type = output_type(*graph);
  EXPECT_TRUE(type.starts_with("f32[_") && type.ends_with(",3]")) << type;
  EXPECT_EQ(graph->outputs()[1]->type.rank(), 1);
  EXPECT_FALSE(only_node(*graph).subgraphs[0]->inputs()[2]->type.dims[0].is_const());
}

TEST(OnnxImport, ScanDropsTheScannedAxis) {
  OnnxGraph body, g;
  body.input("s", DType::F32, {}).input("e", DType::F32, {}).output("s2").output("o");
  body.node("Add", {"s", "e"}, {"s2"}).node("Identity", {"s2"}, {"o"});
  g.input("s0", DType::F32, {4}).input("x", DType::F32, {"n", 4}).output("last").output("all");
  g.node("Scan", {"s0", "x"}, {"last", "all"}, {{"body", body}, {"num_scan_inputs", 1}});
  const auto graph = import_graph(g);
  EXPECT_EQ(output_type(*graph, 0), "f32[4]");
  EXPECT_EQ(output_type(*graph, 1), "f32[n,4]");
}

// --- one operator in its versions ---

TEST(OnnxImport, UnsqueezeAttributeAndInput) {
  for (const auto& graph : {import_one("Unsqueeze", {"b", 3}, {{"axes", std::vector<int64_t>{0, -1}}}, 11),
                            import_one("Unsqueeze", {"b", 3}, {}, 13, {i64s({0, -1})})}) {
    EXPECT_EQ(ops(*graph), "reshape");
    EXPECT_EQ(output_type(*graph), "f32[1,b,3,1]");
  }
}

TEST(OnnxImport, Squeeze) {
  EXPECT_EQ(output_type(*import_one("Squeeze", {1, "b", 1}, {{"axes", std::vector<int64_t>{-1}}}, 11)), "f32[1,b]");
  EXPECT_EQ(output_type(*import_one("Squeeze", {1, 4, 1}, {}, 13)), "f32[4]");
  EXPECT_EQ(output_type(*import_one("Squeeze", {1, "b", 1}, {}, 13, {i64s({0, 2})})), "f32[b]");
}

TEST(OnnxImport, SoftmaxBefore13Flattens) {
  EXPECT_EQ(ops(*import_one("Softmax", {"b", 3, 4}, {}, 11)), "reshape softmax reshape");
  EXPECT_EQ(output_type(*import_one("Softmax", {"b", 3, 4}, {}, 11)), "f32[b,3,4]");
  EXPECT_EQ(ops(*import_one("Softmax", {"b", 3, 4}, {{"axis", 2}}, 11)), "softmax");
  EXPECT_EQ(only_node(*import_one("Softmax", {"b", 3, 4}, {}, 13)).attrs.get_int("axis"), 2);
}

TEST(OnnxImport, ReduceAxes) {
  EXPECT_EQ(output_type(*import_one("ReduceSum", {2, 3, 4}, {{"axes", std::vector<int64_t>{-1}}, {"keepdims", 0}}, 11)), "f32[2,3]");
  EXPECT_EQ(output_type(*import_one("ReduceSum", {2, 3, 4}, {}, 13, {i64s({1})})), "f32[2,1,4]");
  EXPECT_EQ(output_type(*import_one("ReduceMean", {2, 3, 4}, {{"axes", std::vector<int64_t>{1}}}, 17)), "f32[2,1,4]");
  EXPECT_EQ(output_type(*import_one("ReduceMean", {2, 3, 4}, {}, 18, {i64s({1})})), "f32[2,1,4]");
  EXPECT_EQ(output_type(*import_one("ReduceMax", {2, 3, 4}, {{"keepdims", 0}}, 13)), "f32[]");
  EXPECT_EQ(ops(*import_one("ReduceSum", {2, 3}, {{"noop_with_empty_axes", 1}}, 13)), "identity");
}

TEST(OnnxImport, ReduceWithAnEmptyAxesInput) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3})
      .input("axes", DType::I64, {0})
      .output("y")
      .node("ReduceSum", {"x", "axes"}, {"y"}, {{"noop_with_empty_axes", 1}});
  EXPECT_EQ(output_type(*import_graph(g)), "f32[2,3]");
}

TEST(OnnxImport, ComputedAxesKeepTheRank) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3}).input("axes", DType::I64, {2}).output("y").node("Unsqueeze", {"x", "axes"}, {"y"});
  EXPECT_EQ(import_graph(g)->outputs()[0]->type.rank(), 4);
  OnnxGraph h;
  h.input("x", DType::F32, {2, 1, 3}).input("axes", DType::I64, {1}).output("y").node("Squeeze", {"x", "axes"}, {"y"});
  EXPECT_EQ(import_graph(h)->outputs()[0]->type.rank(), 2);
}

TEST(OnnxImport, Losses) {
  OnnxGraph g;
  g.input("x", DType::F32, {"b", 5, 7}).input("t", DType::I64, {"b", 7}).output("l").output("p");
  g.node("SoftmaxCrossEntropyLoss", {"x", "t"}, {"l", "p"}, {{"reduction", "none"}, {"ignore_index", -1}});
  const auto graph = import_graph(g);
  EXPECT_EQ(output_type(*graph, 0), "f32[b,7]");
  EXPECT_EQ(output_type(*graph, 1), "f32[b,5,7]");
}

TEST(OnnxImport, GridSample) {
  for (const char* mode : {"nearest", "bilinear", "bicubic"}) {
    OnnxGraph g;
    g.input("x", DType::F32, {"b", 3, 4, 5}).input("grid", DType::F32, {"b", 6, 7, 2}).output("y");
    g.node("GridSample", {"x", "grid"}, {"y"}, {{"mode", mode}, {"padding_mode", "reflection"}});
    EXPECT_EQ(output_type(*import_graph(g)), "f32[b,3,6,7]");
  }
}

TEST(OnnxImport, Transforms) {
  EXPECT_EQ(output_type(*import_one("DFT", {"b", 10, 1}, {{"axis", 1}, {"onesided", 1}}, 17)), "f32[b,6,2]");
  EXPECT_EQ(output_type(*import_one("STFT", {"b", 128, 1}, {}, 17, {Tensor::scalar<int64_t>(8), Tensor::zeros(DType::F32, {16})})),
            "f32[b,15,9,2]");
}

TEST(OnnxImport, Clip) {
  const auto old = import_one("Clip", {2}, {{"min", 0.0}, {"max", 6.0}}, 6);
  EXPECT_EQ(only_node(*old).attrs.get_float("max"), 6.0);
  const auto now = import_one("Clip", {2}, {}, 13, {Tensor::scalar<float>(-1), Tensor::scalar<float>(1)});
  EXPECT_EQ(only_node(*now).attrs.get_float("min"), -1.0);
  EXPECT_EQ(only_node(*now).num_inputs(), 1);
}

TEST(OnnxImport, Slice) {
  const std::vector<int64_t> starts{1}, ends{3}, axes{1};
  EXPECT_EQ(output_type(*import_one("Slice", {"b", 5}, {{"starts", starts}, {"ends", ends}, {"axes", axes}}, 9)), "f32[b,2]");
  EXPECT_EQ(output_type(*import_one("Slice", {"b", 5}, {}, 13, {i64s({-1}), i64s({INT64_MIN}), i64s({1}), i64s({-2})})), "f32[b,3]");
}

TEST(OnnxImport, Pad) {
  EXPECT_EQ(output_type(*import_one("Pad", {2, 3}, {{"pads", std::vector<int64_t>{0, 1, 0, 2}}}, 2)), "f32[2,6]");
  EXPECT_EQ(output_type(*import_one("Pad", {2, 3}, {}, 18, {i64s({1, 2}), Tensor::scalar<float>(7), i64s({-1})})), "f32[2,6]");
}

TEST(OnnxImport, ReshapeAndFlatten) {
  EXPECT_EQ(output_type(*import_one("Reshape", {"b", 6}, {}, 13, {i64s({0, 2, -1})})), "f32[b,2,3]");
  EXPECT_EQ(output_type(*import_one("Flatten", {"b", 2, 3}, {}, 13)), "f32[b,6]");
  EXPECT_EQ(output_type(*import_one("Flatten", {"b", 2, 3}, {{"axis", 0}}, 13)), "f32[1,b*6]");
}

TEST(OnnxImport, SplitForms) {
  OnnxGraph g;
  g.input("x", DType::F32, {"b", 7}).output("p").output("q").node("Split", {"x"}, {"p", "q"}, {{"axis", 1}, {"num_outputs", 2}});
  const auto graph = import_graph(g, 18);
  EXPECT_EQ(output_type(*graph, 0), "f32[b,4]");
  EXPECT_EQ(output_type(*graph, 1), "f32[b,3]");
}

TEST(OnnxImport, Gemm) {
  const auto graph = import_one("Gemm", {"b", 3}, {{"transB", 1}, {"alpha", 0.5}, {"beta", 2.0}}, 13,
                                {Tensor::zeros(DType::F32, {4, 3}), Tensor::zeros(DType::F32, {4})});
  EXPECT_EQ(ops(*graph), "matmul mul add");
  EXPECT_EQ(output_type(*graph), "f32[b,4]");
  EXPECT_EQ(graph->nodes().front()->attrs.get_float("alpha"), 0.5);
}

TEST(OnnxImport, Einsum) {
  const auto check = [](const char* equation, std::vector<OnnxDim> a, std::vector<OnnxDim> b, const char* type, bool by_matmul) {
    OnnxGraph g;
    g.input("a", DType::F32, a).input("b", DType::F32, b).output("y").node("Einsum", {"a", "b"}, {"y"}, {{"equation", equation}});
    const auto graph = import_graph(g);
    EXPECT_EQ(output_type(*graph), type) << equation;
    EXPECT_EQ(ops(*graph).find("matmul") != std::string::npos, by_matmul) << equation << ": " << ops(*graph);
  };
  check("bij, bjk -> bik", {"b", 2, 3}, {"b", 3, 5}, "f32[b,2,5]", true);
  check("bhqd,bhkd->bhqk", {"b", 2, "q", 8}, {"b", 2, "k", 8}, "f32[b,2,q,k]", true);
  check("...ij,...jk", {4, 2, 3}, {4, 3, 5}, "f32[4,2,5]", true);
  check("i,j->ij", {2}, {3}, "f32[2,3]", false);
  check("ij,ij->", {2, 3}, {2, 3}, "f32[]", false);
}

TEST(OnnxImport, ConvAndPool) {
  const auto conv =
      import_one("Conv", {"b", 3, 8, 8}, {{"strides", std::vector<int64_t>{2, 2}}, {"pads", std::vector<int64_t>{1, 1, 1, 1}}}, 11,
                 {Tensor::zeros(DType::F32, {4, 3, 3, 3}), Tensor::zeros(DType::F32, {4})});
  EXPECT_EQ(output_type(*conv), "f32[b,4,4,4]");
  const std::vector<int64_t> kernel{2, 2};
  EXPECT_EQ(output_type(*import_one("MaxPool", {"b", 3, 8, 8}, {{"kernel_shape", kernel}, {"strides", kernel}}, 12)), "f32[b,3,4,4]");
  EXPECT_EQ(output_type(*import_one("GlobalAveragePool", {"b", 3, 8, 8}, {}, 12)), "f32[b,3,1,1]");
}

TEST(OnnxImport, DropoutVanishes) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Relu", {"x"}, {"a"}).node("Dropout", {"a"}, {"y"}, {{"ratio", 0.5}});
  const auto graph = import_graph(g, 7);
  EXPECT_EQ(ops(*graph), "relu");
  EXPECT_EQ(graph->outputs()[0]->name, "y");
}

TEST(OnnxImport, ResizeForms) {
  const Tensor scales = Tensor::of<float>({4}, {1, 1, 2, 2});
  for (const auto& graph :
       {import_one("Upsample", {"b", 3, 4, 4}, {}, 9, {scales}), import_one("Resize", {"b", 3, 4, 4}, {}, 10, {scales}),
        import_one("Resize", {"b", 3, 4, 4}, {}, 13, {Tensor::zeros(DType::F32, {0}), scales}),
        import_one("Resize", {"b", 3, 4, 4}, {}, 13, {Tensor::zeros(DType::F32, {0}), Tensor::zeros(DType::F32, {0}), i64s({2, 3, 8, 8})})})
    EXPECT_TRUE(output_type(*graph) == "f32[b,3,8,8]" || output_type(*graph) == "f32[2,3,8,8]") << ir::print(*graph);
  EXPECT_EQ(only_node(*import_one("Upsample", {1, 3, 4, 4}, {}, 9, {scales})).attrs.get_string("coordinate_transformation_mode"),
            "asymmetric");
}

TEST(OnnxImport, QuantizeDequantize) {
  const auto q = import_one("QuantizeLinear", {2, 3}, {}, 13, {Tensor::scalar<float>(0.1f), Tensor::scalar<int8_t>(3)});
  EXPECT_EQ(output_type(*q), "i8[2,3]");
  const auto d = import_one("DequantizeLinear", {2, 3}, {}, 13, {Tensor::scalar<float>(0.1f)}, DType::U8);
  EXPECT_EQ(output_type(*d), "f32[2,3]");
}

TEST(OnnxImport, Recurrent) {
  const auto lstm = import_one("LSTM", {"s", "b", 4}, {{"hidden_size", 3}, {"direction", "bidirectional"}}, 14,
                               {Tensor::zeros(DType::F32, {2, 12, 4}), Tensor::zeros(DType::F32, {2, 12, 3})});
  EXPECT_EQ(output_type(*lstm), "f32[s,2,b,3]");
}

TEST(OnnxImport, AttentionOfThreeDimensions) {
  OnnxGraph g;
  for (const char* name : {"q", "k", "v"}) g.input(name, DType::F32, {"b", "s", 32});
  g.output("y").node("Attention", {"q", "k", "v"}, {"y"}, {{"q_num_heads", 4}, {"kv_num_heads", 4}, {"is_causal", 1}});
  const auto graph = import_graph(g, 23);
  EXPECT_EQ(ops(*graph), "reshape reshape reshape attention reshape");
  EXPECT_EQ(output_type(*graph), "f32[b,s,32]");
}

TEST(OnnxImport, SequencesAreTakenApart) {
  OnnxGraph g;
  g.input("x", DType::F32, {4, 3}).output("y").output("n");
  g.node("SplitToSequence", {"x"}, {"parts"}, {{"axis", 0}, {"keepdims", 0}});
  g.initializer("two", Tensor::scalar<int64_t>(-2)).node("SequenceAt", {"parts", "two"}, {"y"}).node("SequenceLength", {"parts"}, {"n"});
  const auto graph = import_graph(g);
  EXPECT_EQ(output_type(*graph, 0), "f32[3]");
}

// A dimension that only a run can tell: shapes are computed in the graph.
TEST(OnnxImport, UnsqueezeOfUnknownDims) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3, 4}).output("y").node("NonZero", {"x"}, {"i"});
  g.initializer("a", i64s({1})).node("Unsqueeze", {"i", "a"}, {"y"});
  const auto graph = import_graph(g);
  EXPECT_EQ(graph->outputs()[0]->type.rank(), 3);
  for (const auto& node : graph->nodes())
    if (node->is("reshape")) {
      EXPECT_FALSE(node->attrs.has("shape"));
    }
}

// --- more than 2 GB, in files that are mostly holes ---

class OnnxLargeFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tokamak_large_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

OnnxGraph one_gather(DType dtype) {
  OnnxGraph g;
  g.input("i", DType::I64, {1}).output("y", dtype).node("Gather", {"w", "i"}, {"y"});
  return g;
}

TEST_F(OnnxLargeFiles, ExternalDataPast2GB) {
  constexpr int64_t kOffset = (int64_t{5} << 30) / 2;
  OnnxGraph g = one_gather(DType::I64);
  g.message.message(5, onnx_external_tensor("w", DType::I64, {2}, {{"location", "w.bin"}, {"offset", std::to_string(kOffset)}}));
  write_file_atomic((folder_ / "model.onnx").string(), onnx_model(g));
  std::ofstream data(folder_ / "w.bin", std::ios::binary);
  const int64_t values[] = {7, 8};
  data.seekp(kOffset).write(reinterpret_cast<const char*>(values), sizeof(values));
  data.close();
  const auto graph = import_model((folder_ / "model.onnx").string());
  EXPECT_EQ(graph->constants().at(0)->constant.to_ints(), (std::vector<int64_t>{7, 8}));
}

TEST_F(OnnxLargeFiles, ModelPast2GB) {
  constexpr int64_t kSize = (int64_t{9} << 30) / 4;
  // The message as it would be with an empty raw_data, its lengths those of the full one: every enclosing length is patched by building
  // the pieces from the inside out.
  const auto varint = [](uint64_t v) {
    std::string out;
    for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
    return out + static_cast<char>(v);
  };
  const std::string tensor_head =
      OnnxMessage().integer(1, kSize).integer(2, onnx_dtype(DType::U8)).text(8, "w").bytes() + "\x4a" + varint(kSize);
  const std::string graph_rest = one_gather(DType::U8).message.bytes();
  const std::string tensor_tag = "\x2a" + varint(tensor_head.size() + kSize);
  const std::string graph_tag = "\x3a" + varint(graph_rest.size() + tensor_tag.size() + tensor_head.size() + kSize);
  const std::string head =
      OnnxMessage().integer(1, 8).message(8, OnnxMessage().integer(2, 17)).bytes() + graph_tag + graph_rest + tensor_tag + tensor_head;
  const std::string path = (folder_ / "model.onnx").string();
  write_file_atomic(path, head);
  fs::resize_file(path, head.size() + kSize);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(head.size() + kSize - 1)).put(42);
  file.close();
  const auto graph = import_model(path);
  const Tensor& w = graph->constants().at(0)->constant;
  EXPECT_EQ(w.count(), kSize);
  EXPECT_EQ(w.int_at(kSize - 1), 42);
}

// --- whole models ---

const fs::path kModels = fs::path(TOKAMAK_SOURCE_DIR) / "../shared/models/onnx";

TEST(OnnxModels, AllImport) {
  std::error_code error;
  if (!fs::is_directory(kModels, error)) GTEST_SKIP() << "the model set is not beside this checkout";
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    const std::string path = (entry.path() / "model.onnx").string();
    if (!fs::exists(path)) continue;
    SCOPED_TRACE(entry.path().filename().string());
    try {
      const auto graph = import_model(path);
      ir::verify(*graph);
      EXPECT_GE(graph->inputs().size(), 1u);
      EXPECT_GE(graph->outputs().size(), 1u);
      for (const ir::Value* v : graph->inputs()) EXPECT_TRUE(v->type.ranked) << v->name;
      for (const ir::Value* v : graph->outputs()) EXPECT_TRUE(v->type.ranked) << v->name;
      // What was read prints and parses back to the same text.
      std::vector<Tensor> table;
      ir::PrintOptions print;
      print.constant_entry = [&](const ir::Value& v) {
        table.push_back(v.constant);
        return static_cast<int64_t>(table.size()) - 1;
      };
      const std::string text = ir::print(*graph, print);
      ir::ParseOptions parse;
      parse.constant = [&](int64_t i, DType, const Shape&, const std::string&) { return table.at(i); };
      const auto again = ir::parse(text, parse);
      table.clear();
      EXPECT_EQ(ir::print(*again, print), text);
      ++count;
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
  EXPECT_GE(count, 41);
}

TEST(OnnxModels, Signatures) {
  std::error_code error;
  if (!fs::is_directory(kModels, error)) GTEST_SKIP() << "the model set is not beside this checkout";
  const auto check = [](const char* name, const std::vector<std::string>& outputs) {
    const auto graph = import_model((kModels / name / "model.onnx").string());
    ASSERT_EQ(graph->outputs().size(), outputs.size()) << name;
    for (size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(to_string(graph->outputs()[i]->type), outputs[i]) << name;
  };
  check("gpt2.ts", {"f32[batch,seq,256]"});
  check("distilbert.ts", {"f32[batch,seq,64]"});
  check("unet.ts", {"f32[batch,2,48,64]"});
  check("swin.dynamo", {"f32[2,10]"});
  check("whisper-encoder.ts", {"f32[batch,100,64]"});
  check("while-loop.ts", {"f32[3,4]"});
  check("bilstm-tagger.ts", {"f32[batch,seq,7]"});
}

}  // namespace
}  // namespace tokamak::onnx
