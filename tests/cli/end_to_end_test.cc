// The command line from words to files and exit status, on a model of two nodes written here byte by byte.

#include <gtest/gtest.h>

#include "tests/support/command_line.h"

namespace tokamak::cli {
namespace {

namespace fs = std::filesystem;

// Protobuf wire format, as far as an ONNX file needs it.
std::string varint(uint64_t v) {
  std::string out;
  for (; v >= 128; v >>= 7) out += static_cast<char>(v | 128);
  return out + static_cast<char>(v);
}
std::string field(int number, const std::string& bytes) { return varint(number << 3 | 2) + varint(bytes.size()) + bytes; }
std::string field(int number, int64_t value) { return varint(number << 3) + varint(static_cast<uint64_t>(value)); }

std::string tensor_proto(const std::string& name, const std::vector<int64_t>& dims, const std::vector<float>& values) {
  std::string out;
  for (const int64_t d : dims) out += field(1, d);
  return out + field(2, int64_t{1}) + field(8, name) +
         field(9, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
}

std::string value_info(const std::string& name) {
  const std::string shape = field(1, field(2, std::string("batch"))) + field(1, field(1, int64_t{3}));
  return field(1, name) + field(2, field(1, field(1, int64_t{1}) + field(2, shape)));
}

// y = op(x + w)
std::string model(const std::string& op) {
  const std::string add = field(1, std::string("x")) + field(1, std::string("w")) + field(2, std::string("t")) +
                          field(3, std::string("add_1")) + field(4, std::string("Add"));
  const std::string last = field(1, std::string("t")) + field(2, std::string("y")) + field(3, std::string("last_2")) + field(4, op);
  const std::string graph = field(1, add) + field(1, last) + field(2, std::string("g")) + field(5, tensor_proto("w", {3}, {1, -20, 3})) +
                            field(11, value_info("x")) + field(12, value_info("y"));
  return field(1, int64_t{8}) + field(7, graph) + field(8, field(1, std::string()) + field(2, int64_t{13}));
}

class CommandLine : public test::CommandLineTest {
 protected:
  void SetUp() override {
    test::CommandLineTest::SetUp();
    put("m/model.onnx", model("Relu"));
    put("m/test_data_set_0/input_0.pb", tensor_proto("x", {2, 3}, {1, 2, 3, 4, 5, 60}));
    put("m/test_data_set_0/output_0.pb", tensor_proto("y", {2, 3}, {2, 0, 6, 5, 0, 63}));
  }
};

TEST_F(CommandLine, HelpAndSlips) {
  EXPECT_EQ(run({"tokamak", "--help"}), 0);
  EXPECT_TRUE(printed("verify"));
  for (const char* command : {"build", "bench", "verify", "check", "inspect", "cost", "generate", "perplexity", "trtexec"}) {
    EXPECT_EQ(run({"tokamak", command, "--help"}), 0) << command;
    EXPECT_TRUE(printed("Examples")) << command;
  }
  EXPECT_EQ(run({"tokamak", "biuld"}), 2);
  EXPECT_TRUE(complained("did you mean build")) << err_;
  EXPECT_EQ(run({"tokamak", "bench", at("m"), "--duratoin", "1"}), 2);
  EXPECT_TRUE(complained("did you mean --duration")) << err_;
  EXPECT_EQ(run({"tokamak", "bench", at("nothing.onnx")}), 1);
  EXPECT_TRUE(complained("error: "));
}

TEST_F(CommandLine, WrongModelsAndNumbers) {
  put("notes.md", "# Notes\n");
  EXPECT_EQ(run({"tokamak", "bench", at("notes.md")}), 1);
  EXPECT_TRUE(complained("is no model: expected an .onnx file")) << err_;
  EXPECT_EQ(run({"tokamak", "generate", at("notes.md"), "-p", "hi", "--max-tokens", "0"}), 2);
  EXPECT_TRUE(complained("expected a number above 0, found 0")) << err_;
  EXPECT_EQ(run({"tokamak", "generate", at("notes.md"), "-p", "hi", "--max-tokens", "-3"}), 2);
  EXPECT_TRUE(complained("expected a number that is not negative, found -3")) << err_;
}

TEST_F(CommandLine, VerifyComparesAndFailsOnAChangedExpectation) {
  EXPECT_EQ(run({"tokamak", "verify", at("m"), "--json", at("r.json")}), 0) << out_ << err_;
  EXPECT_EQ(json("r.json")["passed"], 1);
  EXPECT_EQ(json("r.json")["cases"][0]["name"], "m/test_data_set_0");
  put("m/test_data_set_0/output_0.pb", tensor_proto("y", {2, 3}, {2, 0, 6, 5, 0, 63.5f}));
  EXPECT_EQ(run({"tokamak", "verify", at("m"), "--json", at("r.json")}), 1);
  EXPECT_EQ(json("r.json")["failed"], 1);
  EXPECT_NEAR(json("r.json")["cases"][0]["max_abs_error"].get<double>(), 0.5, 1e-6);
  EXPECT_TRUE(printed("failed")) << out_;
  put("m/meta.json", R"({"rtol": 0.01, "atol": 0})");
  EXPECT_EQ(run({"tokamak", "verify", at("m")}), 0) << out_;
  EXPECT_EQ(run({"tokamak", "verify", at("m"), "--rtol", "1e-5"}), 1);
  put("m/test_data_set_0/output_0.pb", tensor_proto("y", {3, 2}, {2, 0, 6, 5, 0, 63}));
  EXPECT_EQ(run({"tokamak", "verify", at("m")}), 1);
}

TEST_F(CommandLine, VerifyCountsUnsupportedAndSkipped) {
  put("m/model.onnx", model("NoSuchOperator"));
  EXPECT_EQ(run({"tokamak", "verify", at("m"), "--json", at("r.json")}), 1);
  EXPECT_EQ(json("r.json")["unsupported"], 1);
  fs::remove_all(folder_ / "m" / "test_data_set_0");
  EXPECT_EQ(run({"tokamak", "verify", at("m"), "--json", at("r.json")}), 1);
  EXPECT_EQ(json("r.json")["skipped"], 1);
}

TEST_F(CommandLine, CheckListsUnsupportedNodes) {
  EXPECT_EQ(run({"tokamak", "check", at("m/model.onnx")}), 0) << err_;
  put("bad.onnx", model("NoSuchOperator"));
  EXPECT_EQ(run({"tokamak", "check", at("bad.onnx"), "--json", at("c.json")}), 1);
  EXPECT_TRUE(printed("last_2")) << out_;
  EXPECT_EQ(json("c.json")["unsupported"][0]["op"], "NoSuchOperator");
}

TEST_F(CommandLine, BuildBenchInspect) {
  ASSERT_EQ(run({"tokamak", "build", at("m"), "-o", at("m.engine"), "--profile", "x:1x3,2x3,8x3", "-v", "--json", at("b.json")}), 0)
      << err_;
  EXPECT_EQ(json("b.json")["nodes"], 2);
  ASSERT_EQ(run({"tokamak", "bench", at("m.engine"), "--iterations", "5", "--warmup", "0", "--streams", "2", "--json", at("r.json")}), 0)
      << err_;
  const auto r = json("r.json");
  for (const char* key : {"model", "device", "precision", "threads", "shapes", "nodes", "kernels", "build_s", "load_ms",
                          "peak_memory_bytes", "throughput_qps"})
    EXPECT_TRUE(r.contains(key)) << key;
  for (const char* key : {"min", "max", "mean", "median", "p90", "p95", "p99"}) EXPECT_TRUE(r["latency_ms"].contains(key)) << key;
  EXPECT_EQ(r["shapes"]["x"], (std::vector<int>{2, 3}));
  EXPECT_EQ(r["queries"], 10);
  EXPECT_EQ(run({"tokamak", "bench", at("m.engine"), "--shapes", "x:9x3", "--iterations", "1"}), 1);  // outside the profile
  EXPECT_EQ(run({"tokamak", "bench", at("m.engine"), "--shapes", "z:1x3", "--iterations", "1"}), 1);
  ASSERT_EQ(run({"tokamak", "inspect", at("m.engine"), "--json", at("i.json"), "--html", at("i.html")}), 0) << err_;
  EXPECT_GE(json("i.json")["layers"].size(), json("i.json")["kernels"].get<size_t>());
  EXPECT_NE(read_file(at("i.html")).find("</table>"), std::string::npos);
  ASSERT_EQ(run({"tokamak", "inspect", at("m.engine"), "--ir"}), 0);
  EXPECT_TRUE(printed("graph "));
  EXPECT_EQ(run({"tokamak", "inspect", at("m"), "--why", "no such layer"}), 1);
  ASSERT_EQ(run({"tokamak", "inspect", at("m"), "--why", "add_1"}), 0) << err_;
  EXPECT_TRUE(printed("chosen"));
}

TEST_F(CommandLine, TrtexecTutorialLineAndExports) {
  ASSERT_EQ(run({"trtexec", "--onnx=" + at("m/model.onnx"), "--saveEngine=" + at("m.engine"), "--fp16", "--workspace=1G", "--warmUp=1",
                 "--duration=0.01", "--useCudaGraph"}),
            0)
      << err_;
  for (const char* line :
       {"&&&& RUNNING TensorRT.trtexec", "=== Model Options ===", "=== Device Information ===", "Engine built in ",
        "Created engine with size: ", "=== Performance summary ===", "Throughput: ", "Latency: min = ", "Enqueue Time: ", "H2D Latency: ",
        "GPU Compute Time: ", "D2H Latency: ", "percentile(99%) = ", "Total Host Walltime: ", "&&&& PASSED TensorRT.trtexec"})
    EXPECT_TRUE(printed(line)) << line;
  EXPECT_TRUE(complained("--useCudaGraph does nothing here"));

  put("x.bin", std::string("\0\0\0\0\0\0\xa0\x41\0\0\x80\x3f", 12));  // 0, 20, 1
  ASSERT_EQ(run({"tokamak", "trtexec", "--loadEngine=" + at("m.engine"), "--loadInputs=x:" + at("x.bin"), "--iterations=12", "--duration=0",
                 "--warmUp=0", "--dumpProfile", "--dumpLayerInfo", "--profilingVerbosity=detailed", "--exportTimes=" + at("t.json"),
                 "--exportOutput=" + at("o.json"), "--exportProfile=" + at("p.json"), "--exportLayerInfo=" + at("l.json")}),
            0)
      << err_;
  EXPECT_EQ(json("t.json").size(), 12u);
  for (const char* key : {"startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs",
                          "h2dMs", "computeMs", "d2hMs", "latencyMs"})
    EXPECT_TRUE(json("t.json")[0].contains(key)) << key;
  EXPECT_EQ(json("o.json")[0]["name"], "y");
  EXPECT_EQ(json("o.json")[0]["dimensions"], "1x3");
  EXPECT_NEAR(json("o.json")[0]["values"][2].get<double>(), 4, 0.05);  // bf16 at worst
  EXPECT_GE(json("p.json")[0]["count"].get<int>(), 10);
  EXPECT_TRUE(json("p.json")[1].contains("averageMs"));
  EXPECT_TRUE(json("l.json")["Layers"][0].contains("TacticName"));
  EXPECT_EQ(json("l.json")["Bindings"], (std::vector<std::string>{"x", "y"}));

  EXPECT_NE(run({"trtexec", "--onnx=" + at("m/model.onnx"), "--fp61"}), 0);
  EXPECT_TRUE(printed("&&&& FAILED"));
  EXPECT_TRUE(complained("--fp16")) << err_;
}

}  // namespace
}  // namespace tokamak::cli
