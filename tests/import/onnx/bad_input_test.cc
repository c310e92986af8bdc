// Every malformed model gives one clear error of the right kind, and no crash.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "import/onnx/import.h"
#include "tests/support/onnx_writer.h"

namespace tokamak::onnx {
namespace {

using namespace tokamak::test;
namespace fs = std::filesystem;

OnnxGraph relu() {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3}).output("y").node("Relu", {"x"}, {"y"}, {}, "relu");
  return g;
}

template <class F>
void expect_error(ErrorCode code, const std::string& part, const F& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(to_string(e.code()), std::string(to_string(code))) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << "expected \"" << part << "\" in: " << e.what();
    return;
  }
  ADD_FAILURE() << "nothing was thrown; expected \"" << part << "\"";
}

void expect_bad(const std::string& bytes, const std::string& part, ErrorCode code = ErrorCode::Corrupt) {
  expect_error(code, part, [&] { import_model(as_bytes(bytes)); });
}

void expect_bad(const OnnxGraph& graph, const std::string& part, ErrorCode code = ErrorCode::Corrupt) {
  expect_bad(onnx_model(graph), part, code);
}

// y = x + w with a hand-made initializer.
OnnxGraph with_initializer(const OnnxMessage& tensor) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Add", {"x", "w"}, {"y"});
  g.message.message(5, tensor);
  return g;
}

OnnxMessage tensor_with(const std::vector<int64_t>& dims, int64_t dtype, size_t raw_bytes) {
  OnnxMessage m;
  for (int64_t d : dims) m.integer(1, d);
  return m.integer(2, dtype).text(8, "w").text(9, std::string(raw_bytes, '\0'));
}

TEST(OnnxBadInput, Empty) { expect_bad("", "is empty"); }
TEST(OnnxBadInput, TextFile) { expect_bad("this is not a model, it is text\n", "not a valid ONNX file"); }
TEST(OnnxBadInput, NoGraph) { expect_bad(OnnxMessage().integer(1, 8).bytes(), "no graph"); }
TEST(OnnxBadInput, OverlongVarint) { expect_bad(std::string("\x08") + std::string(11, '\xff'), "byte 1"); }
TEST(OnnxBadInput, UnknownWireType) { expect_bad(std::string("\x0b"), "wire type 3"); }
TEST(OnnxBadInput, WrongWireType) { expect_bad(OnnxMessage().integer(7, 1).bytes(), "field 7"); }

TEST(OnnxBadInput, MissingFile) {
  expect_error(ErrorCode::NotFound, "no/such/model.onnx", [] { import_model(std::string("/no/such/model.onnx")); });
}

TEST(OnnxBadInput, EveryTruncation) {
  OnnxGraph g = relu();
  g.initializer("w", Tensor::of<float>({2}, {1, 2})).node("Add", {"x", "x"}, {"z"});
  const std::string bytes = onnx_model(g);
  for (size_t n = 0; n < bytes.size(); ++n) {
    try {
      import_model(as_bytes(bytes.substr(0, n)));
    } catch (const Error& e) {
      EXPECT_NE(e.code(), ErrorCode::Internal) << "cut at " << n << ": " << e.what();
    }
  }
}

TEST(OnnxBadInput, EveryByteChanged) {
  OnnxGraph g = relu();
  g.initializer("w", Tensor::of<int64_t>({2}, {3, 2})).node("Reshape", {"x", "w"}, {"z"}, {{"allowzero", 1}});
  const std::string bytes = onnx_model(g);
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int change : {1, 0x80, 0xff}) {
      std::string altered = bytes;
      altered[i] = static_cast<char>(altered[i] ^ change);
      try {
        import_model(as_bytes(altered));
      } catch (const Error& e) {
        EXPECT_NE(e.code(), ErrorCode::Internal) << "byte " << i << ": " << e.what();
      }
    }
  }
}

TEST(OnnxBadInput, Cycle) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Add", {"x", "b"}, {"a"}, {}, "first").node("Relu", {"a"}, {"b"}, {}, "second");
  g.node("Relu", {"b"}, {"y"}, {}, "after");
  try {
    import_model(as_bytes(onnx_model(g)));
    FAIL();
  } catch (const Error& e) {
    const std::string what = e.what();
    EXPECT_NE(what.find("cycle"), std::string::npos) << what;
    EXPECT_TRUE(what.find("\"first\"") != std::string::npos || what.find("\"second\"") != std::string::npos) << what;
  }
}

TEST(OnnxBadInput, UndefinedInput) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Add", {"x", "ghost"}, {"y"}, {}, "sum");
  expect_bad(g, "input 'ghost' is not defined");
}

TEST(OnnxBadInput, UndefinedOutput) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("ghost").node("Relu", {"x"}, {"y"});
  expect_bad(g, "'ghost'");
}

TEST(OnnxBadInput, NoOutputs) {
  OnnxGraph g;
  g.input("x", DType::F32, {2}).node("Relu", {"x"}, {"y"});
  expect_bad(g, "no outputs");
}

TEST(OnnxBadInput, DuplicateNames) {
  expect_bad(relu().node("Neg", {"x"}, {"y"}, {}, "again"), "value 'y' is defined twice");
  expect_bad(relu().node("Neg", {"y"}, {"x"}, {}, "again"), "value 'x' is defined twice");
  OnnxGraph g = relu();
  g.initializer("w", Tensor::of<float>({1}, {1})).initializer("w", Tensor::of<float>({1}, {1}));
  expect_bad(g, "value 'w' is defined twice");
}

TEST(OnnxBadInput, WrongShapes) {
  OnnxGraph g;
  g.input("a", DType::F32, {2, 3}).input("b", DType::F32, {4, 5}).output("y").node("MatMul", {"a", "b"}, {"y"}, {}, "product");
  expect_bad(g, "[MatMul \"product\"]");
}

TEST(OnnxBadInput, MissingAttribute) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3}).output("y").node("Concat", {"x", "x"}, {"y"}, {}, "join");
  expect_bad(g, "[Concat \"join\"] attribute 'axis' is required");
}

TEST(OnnxBadInput, WrongAttributeType) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3}).output("y").node("Concat", {"x", "x"}, {"y"}, {{"axis", "one"}});
  expect_bad(g, "attribute 'axis'");
}

TEST(OnnxBadInput, AxisOutside) {
  OnnxGraph g;
  g.input("x", DType::F32, {2, 3}).output("y").node("Softmax", {"x"}, {"y"}, {{"axis", 7}});
  expect_bad(g, "axis 7");
}

TEST(OnnxBadInput, UnknownDtype) {
  expect_bad(with_initializer(tensor_with({2}, 99, 8)), "data type 99");
  expect_bad(with_initializer(tensor_with({2}, 0, 8)), "undefined data type");
  OnnxGraph g;
  g.message.message(11, OnnxMessage().text(1, "x").message(2, OnnxMessage().message(1, OnnxMessage().integer(1, 77))));
  expect_bad(g.output("x"), "data type 77");
}

TEST(OnnxBadInput, RawDataSize) {
  expect_bad(with_initializer(tensor_with({2}, 1, 7)), "takes 8 bytes, raw_data has 7");
  expect_bad(with_initializer(tensor_with({2}, 1, 12)), "takes 8 bytes, raw_data has 12");
}

TEST(OnnxBadInput, TypedDataSize) {
  expect_bad(with_initializer(OnnxMessage().integer(1, 2).integer(2, 1).text(8, "w").real(4, 1)), "wants 8 bytes, found 4");
  expect_bad(with_initializer(OnnxMessage().integer(1, 1).integer(2, 1).text(8, "w").real(4, 1).real(4, 2)), "more data");
  expect_bad(with_initializer(OnnxMessage().integer(1, int64_t{1} << 40).integer(2, 1).text(8, "w").real(4, 1)), "holds fewer");
}

TEST(OnnxBadInput, Dims) {
  expect_bad(with_initializer(tensor_with({-2}, 1, 8)), "negative dimension", ErrorCode::OutOfRange);
  expect_bad(with_initializer(tensor_with({int64_t{1} << 40, int64_t{1} << 40}, 1, 8)), "tensor \"w\"", ErrorCode::OutOfRange);
  OnnxGraph g;
  g.input("x", DType::F32, {-5}).output("y").node("Relu", {"x"}, {"y"});
  expect_bad(g, "negative dimension -5");
}

TEST(OnnxBadInput, HugeInputDimsDoNotOverflow) {
  OnnxGraph g;
  g.input("x", DType::F32, {int64_t{1} << 62, int64_t{1} << 62}).output("y").node("Flatten", {"x"}, {"y"}, {{"axis", 0}});
  expect_bad(g, "Flatten", ErrorCode::OutOfRange);
}

TEST(OnnxBadInput, SubgraphBomb) {
  OnnxGraph inner;
  inner.output("c").node("Identity", {"x"}, {"c"});
  for (int i = 0; i < 200; ++i) {
    OnnxGraph outer;
    outer.output("c").node("If", {"cond"}, {"c"}, {{"then_branch", inner}, {"else_branch", inner}});
    inner = outer;
    if (inner.message.bytes().size() > (1 << 20)) break;  // doubles each time
  }
  OnnxGraph chain;
  chain.output("c").node("Identity", {"x"}, {"c"});
  for (int i = 0; i < 100; ++i) {
    OnnxGraph outer;
    outer.output("c").node("Loop", {"", "cond", "x"}, {"c"}, {{"body", chain}});
    chain = outer;
  }
  expect_bad(chain, "nested more than 64 deep");
}

TEST(OnnxBadInput, RecursiveFunction) {
  OnnxModelOptions options;
  options.more_opsets = {{"mine", 1}};
  options.functions = {{"Again", "mine", {"a"}, {"b"}, {}, {onnx_node("Again", {"a"}, {"b"}, {}, "", "mine")}}};
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("Again", {"x"}, {"y"}, {}, "call", "mine");
  expect_bad(onnx_model(g, options), "recursive");
}

TEST(OnnxBadInput, FunctionBomb) {  // 2^40 nodes, written in 40 functions
  OnnxModelOptions options;
  options.more_opsets = {{"mine", 1}};
  for (int i = 0; i < 40; ++i) {
    const std::string next = "F" + std::to_string(i + 1);
    options.functions.push_back({"F" + std::to_string(i),
                                 "mine",
                                 {"a"},
                                 {"c"},
                                 {},
                                 {onnx_node(next, {"a"}, {"b"}, {}, "", "mine"), onnx_node(next, {"b"}, {"c"}, {}, "", "mine")}});
  }
  options.functions.push_back({"F40", "mine", {"a"}, {"c"}, {}, {onnx_node("Identity", {"a"}, {"c"})}});
  OnnxGraph g;
  g.input("x", DType::F32, {2}).output("y").node("F0", {"x"}, {"y"}, {}, "call", "mine");
  expect_bad(onnx_model(g, options), "more than", ErrorCode::ResourceExhausted);
}

TEST(OnnxBadInput, SparseIndices) {
  const auto sparse = [](int64_t index, int64_t size) {
    OnnxGraph g;
    g.input("x", DType::F32, {4}).output("y").node("Add", {"x", "w"}, {"y"});
    OnnxMessage m = OnnxMessage()
                        .message(1, onnx_tensor("w", Tensor::of<float>({1}, {5})))
                        .message(2, onnx_tensor("", Tensor::of<int64_t>({1}, {index})));
    g.message.message(15, m.integer(3, size));
    return g;
  };
  EXPECT_NO_THROW(import_model(as_bytes(onnx_model(sparse(3, 4)))));
  expect_bad(sparse(4, 4), "outside");
  expect_bad(sparse(-1, 4), "outside");
  expect_bad(sparse(0, int64_t{1} << 40), "1 GiB", ErrorCode::ResourceExhausted);
}

TEST(OnnxBadInput, AllUnsupportedNodesAtOnce) {
  OnnxGraph g;
  g.input("x", DType::F16, {2}).output("y").node("Quux", {"x"}, {"a"}, {}, "n1").node("Relu", {"a"}, {"b"}, {}, "n2");
  g.node("Frob", {"b"}, {"y"}, {}, "n3", "acme");
  const std::string bytes = onnx_model(g);
  try {
    import_model(as_bytes(bytes));
    FAIL();
  } catch (const Error& e) {
    const std::string what = e.what();
    EXPECT_EQ(e.code(), ErrorCode::Unsupported);
    EXPECT_NE(what.find("\"n1\" Quux opset 17"), std::string::npos) << what;
    EXPECT_NE(what.find("\"n3\" acme.Frob"), std::string::npos) << what;
    EXPECT_EQ(what.find("\"n2\""), std::string::npos) << what;
  }
  std::vector<UnsupportedNode> unsupported;
  ImportOptions options;
  options.unsupported = &unsupported;
  EXPECT_EQ(import_model(as_bytes(bytes), nullptr, "", options), nullptr);
  ASSERT_EQ(unsupported.size(), 2u);
  EXPECT_EQ(unsupported[0].name, "n1");
  EXPECT_EQ(unsupported[0].dtype, "f16");
  EXPECT_EQ(unsupported[1].domain, "acme");
  EXPECT_FALSE(unsupported[1].advice.empty());
}

TEST(OnnxBadInput, FixDims) {
  OnnxGraph g;
  g.input("x", DType::F32, {"batch", 3}).output("y").node("Relu", {"x"}, {"y"});
  ImportOptions options;
  options.fix_dims = {{"nothing", 1}};
  expect_error(ErrorCode::InvalidArgument, "'nothing'", [&] { import_model(as_bytes(onnx_model(g)), nullptr, "", options); });
  options.fix_dims = {{"x:1", 4}};
  expect_error(ErrorCode::InvalidArgument, "is 3 in the model", [&] { import_model(as_bytes(onnx_model(g)), nullptr, "", options); });
}

// --- external data ---

class OnnxExternalData : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tokamak_onnx_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directories(root_ / "model" / "weights");
    write(root_ / "model" / "weights" / "w.bin", 64);
    write(root_ / "secret.bin", 64);
  }
  void TearDown() override { fs::remove_all(root_); }

  static void write(const fs::path& path, size_t floats) {
    std::vector<float> values(floats);
    for (size_t i = 0; i < floats; ++i) values[i] = static_cast<float>(i);
    write_file_atomic(path.string(), std::as_bytes(std::span(values)));
  }

  // A model whose weight is two floats with these external data entries.
  std::string model(const std::vector<std::pair<std::string, std::string>>& entries) {
    const OnnxGraph g = with_initializer(onnx_external_tensor("w", DType::F32, {2}, entries));
    const std::string path = (root_ / "model" / "model.onnx").string();
    write_file_atomic(path, onnx_model(g));
    return path;
  }

  void expect_bad_data(const std::vector<std::pair<std::string, std::string>>& entries, const std::string& part,
                       ErrorCode code = ErrorCode::Corrupt) {
    expect_error(code, part, [&] { import_model(model(entries)); });
  }

  fs::path root_;
};

TEST_F(OnnxExternalData, ReadsInPlace) {
  const auto graph = import_model(model({{"location", "weights/w.bin"}, {"offset", "16"}, {"length", "8"}}));
  const Tensor w = graph->constants().at(0)->constant;
  EXPECT_EQ(w.data<float>()[0], 4);
  EXPECT_EQ(w.data<float>()[1], 5);
}

TEST_F(OnnxExternalData, MissingFile) { expect_bad_data({{"location", "absent.bin"}}, "absent.bin", ErrorCode::NotFound); }
TEST_F(OnnxExternalData, NoLocation) { expect_bad_data({{"offset", "0"}}, "has no name"); }
TEST_F(OnnxExternalData, ParentFolder) { expect_bad_data({{"location", "../secret.bin"}}, "'..'"); }
TEST_F(OnnxExternalData, ParentInside) { expect_bad_data({{"location", "weights/../../secret.bin"}}, "'..'"); }
TEST_F(OnnxExternalData, Absolute) { expect_bad_data({{"location", (root_ / "secret.bin").string()}}, "absolute"); }

TEST_F(OnnxExternalData, LinkOut) {
  fs::create_symlink(root_ / "secret.bin", root_ / "model" / "link.bin");
  expect_bad_data({{"location", "link.bin"}}, "link out of the folder");
  fs::create_directory_symlink(root_, root_ / "model" / "up");
  expect_bad_data({{"location", "up/secret.bin"}}, "link out of the folder");
}

TEST_F(OnnxExternalData, LinkInsideIsFine) {
  fs::create_symlink(root_ / "model" / "weights" / "w.bin", root_ / "model" / "link.bin");
  EXPECT_NO_THROW(import_model(model({{"location", "link.bin"}})));
}

TEST_F(OnnxExternalData, OutsideFile) {
  expect_bad_data({{"location", "weights/w.bin"}, {"offset", "252"}}, "outside");
  expect_bad_data({{"location", "weights/w.bin"}, {"offset", "9223372036854775807"}}, "outside");
  expect_bad_data({{"location", "weights/w.bin"}, {"offset", "-4"}}, "offset '-4'");
  expect_bad_data({{"location", "weights/w.bin"}, {"offset", "99999999999999999999"}}, "offset");
  expect_bad_data({{"location", "weights/w.bin"}, {"length", "12"}}, "length 12");
}

TEST_F(OnnxExternalData, RefusedInMemory) {
  const std::string bytes = read_file(model({{"location", "weights/w.bin"}}));
  expect_bad(bytes, "model in memory", ErrorCode::Unsupported);
  EXPECT_NO_THROW(import_model(as_bytes(bytes), nullptr, (root_ / "model").string()));
}

}  // namespace
}  // namespace tokamak::onnx
