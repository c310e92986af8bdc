// The backend for ONNX Runtime, with the library of the wheel that TOKAMAK_PYTHON (or python3) has.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "builder/builder.h"
#include "runtime/execution_context.h"
#include "server/config.h"
#include "server/executed_model.h"
#include "server/statistics.h"
#include "tests/server/fake_backend.h"
#include "tests/support/message_of.h"
#include "tests/support/onnx_writer.h"

namespace tokamak::server::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using tokamak::test::message_of;
using tokamak::test::onnx_model;
using tokamak::test::OnnxGraph;
using tokamak::test::OnnxModelOptions;

class OnnxRuntimeBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("tokamak_onnxruntime_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "1");
    settings_->directories = {std::string(TOKAMAK_BINARY_DIR) + "/bin"};
    OnnxGraph g;
    g.input("x", DType::F32, {"n"}).output("y", DType::F32, {"n"}).node("Neg", {"x"}, {"y"});
    const std::string problem = message_of([&] { load(g); });
    if (problem.find("there is no ONNX Runtime library") != std::string::npos) GTEST_SKIP() << problem;
    ASSERT_EQ(problem, "");
  }
  void TearDown() override {
    model_.reset();
    fs::remove_all(folder_);
  }
  Model& load(const std::string& config = "") {
    std::vector<std::string> warnings;
    LoadArgs args{.name = "m", .directory = folder_.string(), .version_directory = (folder_ / "1").string()};
    args.config = parse_config("name: \"m\" backend: \"onnxruntime\" " + config, "the test", warnings);
    args.statistics = statistics_ = std::make_shared<ModelStatistics>("m", 1);
    args.settings = settings_;
    model_ = load_model(args);
    return *model_;
  }
  Model& load(const OnnxGraph& graph, const std::string& config = "") {
    std::ofstream(folder_ / "1" / "model.onnx", std::ios::binary) << onnx_model(graph);
    return load(config);
  }
  Answer ask(std::vector<NamedTensor> inputs, const std::vector<std::string>& outputs = {}) {
    auto request = std::make_unique<InferRequest>();
    request->inputs = std::move(inputs);
    for (const std::string& name : outputs) request->outputs.push_back({.name = name});
    return Answer(*model_, std::move(request));
  }
  static Tensor good(const Answer& answer, size_t output = 0) {
    const InferResponse response = answer.wait();
    EXPECT_FALSE(response.error_code) << response.error;
    return response.outputs.size() > output ? response.outputs[output].tensor : Tensor();
  }

  fs::path folder_;
  std::shared_ptr<BackendSettings> settings_ = std::make_shared<BackendSettings>();
  std::shared_ptr<ModelStatistics> statistics_;
  std::shared_ptr<Model> model_;
};

// Values that are a little different for each `seed`; small whole numbers for integers.
Tensor values(DType dtype, const Shape& shape, int seed) {
  Tensor x = Tensor::empty(dtype, shape);
  for (int64_t i = 0; i < x.count(); ++i) {
    const int64_t v = (i * 7 + seed * 13) % 17;
    if (dtype == DType::F32) x.data<float>()[i] = static_cast<float>(v) / 16;
    else if (dtype == DType::I64) x.data<int64_t>()[i] = v;
    else fail(ErrorCode::Unsupported, "values of {}", to_string(dtype));
  }
  return x;
}

// y = 100 * START + x + state; the state becomes x + state, and stays in ONNX Runtime's own memory between the requests.
TEST_F(OnnxRuntimeBackendTest, SequencesWithControlsAndState) {
  OnnxGraph g;
  for (const char* name : {"x", "START", "state"}) g.input(name, DType::F32, {"batch", 1});
  for (const char* name : {"y", "next"}) g.output(name, DType::F32, {"batch", 1});
  g.initializer("hundred", Tensor::of<float>({1}, {100}));
  g.node("Add", {"x", "state"}, {"next"}).node("Mul", {"START", "hundred"}, {"mark"}).node("Add", {"next", "mark"}, {"y"});
  load(g, R"(max_batch_size: 4 sequence_batching {
    control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
    state { input_name: "state" output_name: "next" data_type: TYPE_FP32 dims: 1 } })");
  ASSERT_EQ(model_->inputs().size(), 1u);
  ASSERT_EQ(model_->outputs().size(), 1u);
  float state[3] = {};
  for (int round = 0; round < 4; ++round)
    for (int id = 2; id >= 0; --id) {
      auto request = std::make_unique<InferRequest>();
      request->inputs.push_back({.name = "x", .tensor = Tensor::of<float>({1, 1}, {static_cast<float>(10 * round + id)})});
      request->sequence.number = id + 1;
      request->sequence_start = round == 0;
      state[id] += static_cast<float>(10 * round + id);
      EXPECT_EQ(good(Answer(*model_, std::move(request))).float_at(0), state[id] + (round == 0 ? 100 : 0));
    }
}

TEST_F(OnnxRuntimeBackendTest, ResultsAreThoseOfOurEngine) {
  const fs::path examples = fs::path(TOKAMAK_SOURCE_DIR) / "examples" / "models";
  for (const char* name : {"digits-resnet.ts", "vit.ts", "whisper-encoder.dynamo", "bilstm-tagger.ts"}) {
    SCOPED_TRACE(name);
    fs::copy_file(examples / name / "model.onnx", folder_ / "1" / "model.onnx", fs::copy_options::overwrite_existing);
    load();
    const auto engine = build_engine((folder_ / "1" / "model.onnx").string(), {.opt_level = 0});
    ExecutionContext context(engine);
    for (int seed = 0; seed < 2; ++seed) {
      std::vector<NamedTensor> inputs;
      for (const TensorInfo& info : engine->inputs()) {
        Shape shape;
        for (const ir::Dim& dim : info.type.dims) shape.push_back(dim.is_const() ? dim.value() : 2);
        inputs.push_back({.name = info.name, .tensor = values(info.dtype, shape, seed)});
        context.set_input(info.name, inputs.back().tensor);
      }
      context.run();
      const InferResponse response = ask(inputs).wait();
      ASSERT_FALSE(response.error_code) << response.error;
      ASSERT_EQ(response.outputs.size(), engine->outputs().size());
      for (size_t o = 0; o < response.outputs.size(); ++o) {
        const Tensor& got = response.outputs[o].tensor;
        const Tensor& expected = context.output(static_cast<int>(o));
        EXPECT_EQ(response.outputs[o].name, engine->outputs()[o].name);
        ASSERT_EQ(got.shape(), expected.shape());
        for (int64_t i = 0; i < got.count(); ++i) ASSERT_NEAR(got.float_at(i), expected.float_at(i), 2e-4) << o << " " << i;
      }
    }
  }
}

TEST_F(OnnxRuntimeBackendTest, RequestsOfABatchAreOneExecution) {
  OnnxGraph g;
  g.input("x", DType::F32, {"batch", 3}).input("s", DType::String, {"batch"});
  g.output("y", DType::F32, {"batch", 3}).output("t", DType::String, {"batch"});
  g.node("Neg", {"x"}, {"y"}).node("Identity", {"s"}, {"t"});
  Model& model = load(g, "dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 2000000 }");
  EXPECT_EQ(model.config().max_batch_size(), 4);
  std::vector<Answer> answers;
  for (int i = 0; i < 3; ++i) {  // of 1, 2 and 1 rows
    const int64_t rows = i == 1 ? 2 : 1;
    Tensor text = Tensor::empty(DType::String, {rows, 1});
    for (int64_t r = 0; r < rows; ++r) text.strings()[r] = std::to_string(10 * i + r);
    answers.push_back(ask({{.name = "x", .tensor = values(DType::F32, {rows, 3}, i)}, {.name = "s", .tensor = std::move(text)}}));
  }
  for (int i = 0; i < 3; ++i) {
    const int64_t rows = i == 1 ? 2 : 1;
    const Tensor y = good(answers[i]), t = good(answers[i], 1);
    const Tensor expected = values(DType::F32, {rows, 3}, i);
    ASSERT_EQ(y.shape(), (Shape{rows, 3}));
    for (int64_t j = 0; j < y.count(); ++j) EXPECT_EQ(y.data<float>()[j], -expected.data<float>()[j]);
    ASSERT_EQ(t.shape(), (Shape{rows, 1}));
    for (int64_t r = 0; r < rows; ++r) EXPECT_EQ(t.strings()[r], std::to_string(10 * i + r));
  }
  EXPECT_EQ(statistics_->totals().execution_count, 1u);
  EXPECT_GT(statistics_->totals().compute_infer.ns, 0u);
}

TEST_F(OnnxRuntimeBackendTest, EveryTypeComesBackAsItWent) {
  constexpr DType types[] = {DType::F32, DType::F16, DType::BF16, DType::F64, DType::I8,  DType::I16, DType::I32,
                             DType::I64, DType::U8,  DType::U16,  DType::U32, DType::U64, DType::Bool};
  OnnxGraph g;
  std::vector<NamedTensor> inputs, empty;
  for (const DType type : types) {
    const std::string in = std::string("in_") + to_string(type), out = std::string("out_") + to_string(type);
    g.input(in, type, {2, "n"}).output(out, type, {2, "n"}).node("Identity", {in}, {out});
    Tensor x = Tensor::empty(type, {2, 3});
    for (int64_t i = 0; i < x.size_bytes(); ++i) x.data<uint8_t>()[i] = static_cast<uint8_t>(type == DType::Bool ? i % 2 : i * 5 + 1);
    inputs.push_back({.name = in, .tensor = std::move(x)});
    empty.push_back({.name = in, .tensor = Tensor::empty(type, {2, 0})});
  }
  g.input("in_s", DType::String, {2, "n"}).output("out_s", DType::String, {2, "n"}).node("Identity", {"in_s"}, {"out_s"});
  Tensor s = Tensor::empty(DType::String, {2, 3});
  s.strings() = {"a", std::string("b\0c", 3), "", "\xff\xfe", "\xc3\xa4", std::string(1000, 'x')};
  inputs.push_back({.name = "in_s", .tensor = s});
  empty.push_back({.name = "in_s", .tensor = Tensor::empty(DType::String, {2, 0})});
  load(g);
  const InferResponse response = ask(inputs).wait();
  ASSERT_FALSE(response.error_code) << response.error;
  ASSERT_EQ(response.outputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i)
    EXPECT_TRUE(same_bytes(response.outputs[i].tensor, inputs[i].tensor)) << response.outputs[i].name;
  const InferResponse none = ask(empty).wait();
  ASSERT_FALSE(none.error_code) << none.error;
  for (const NamedTensor& output : none.outputs) EXPECT_EQ(output.tensor.shape(), (Shape{2, 0})) << output.name;
}

TEST_F(OnnxRuntimeBackendTest, TheConfigIsCompletedFromTheModel) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 3}).output("sum", DType::F32, {}).output("y", DType::F16, {"n", 3});
  g.node("ReduceSum", {"x"}, {"sum"}, {{"keepdims", 0}}).node("Cast", {"x"}, {"y"}, {{"to", 10}});
  Model& model = load(g);
  EXPECT_EQ(model.config().max_batch_size(), 0);  // a scalar has no rows
  EXPECT_EQ(model.inputs().at(0).shape, (Shape{-1, 3}));
  EXPECT_EQ(model.outputs().at(0).shape, (Shape{1}));  // the protocols have no scalars
  EXPECT_EQ(model.outputs().at(1).dtype, DType::F16);
  const Tensor sum = good(ask({{.name = "x", .tensor = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6})}}, {"sum"}));
  EXPECT_EQ(sum.shape(), (Shape{1}));
  EXPECT_EQ(sum.float_at(0), 21);
  // First axes of other names are not all rows.
  OnnxGraph two;
  two.input("x", DType::F32, {"n", 3}).input("y", DType::F32, {"m", 3}).output("z", DType::F32, {"k", 3});
  two.node("Concat", {"x", "y"}, {"z"}, {{"axis", 0}});
  EXPECT_EQ(load(two).config().max_batch_size(), 0);
  // A shape that only the config knows, and one that it gets wrong.
  OnnxGraph unknown;
  unknown.input("x", DType::F32, {"n", 3}).input("shape", DType::I64, {"r"}).output("y", DType::F32, {});
  unknown.node("Reshape", {"x", "shape"}, {"y"});
  const std::string ios =
      "input { name: \"x\" data_type: TYPE_FP32 dims: [-1, 3] } input { name: \"shape\" data_type: TYPE_INT64 dims: -1 } ";
  load(unknown, ios + "output { name: \"y\" data_type: TYPE_FP32 dims: [-1, -1, 1] }");
  const Tensor y =
      good(ask({{.name = "x", .tensor = values(DType::F32, {2, 3}, 0)}, {.name = "shape", .tensor = Tensor::of<int64_t>({3}, {3, 2, 1})}}));
  EXPECT_EQ(y.shape(), (Shape{3, 2, 1}));
  EXPECT_NE(message_of([&] { load(g, "max_batch_size: 2"); }).find("does not support batching"), std::string::npos);
}

TEST_F(OnnxRuntimeBackendTest, AnInitializerThatTheConfigNamesIsAnOptionalInput) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 2}).input("w", DType::F32, {2}).output("y", DType::F32, {"n", 2});
  g.initializer("w", Tensor::of<float>({2}, {1, 10})).node("Mul", {"x", "w"}, {"y"});
  EXPECT_EQ(load(g).inputs().size(), 1u);
  load(g, "input { name: \"x\" data_type: TYPE_FP32 dims: [-1, 2] } input { name: \"w\" data_type: TYPE_FP32 dims: 2 optional: true }");
  const Tensor x = Tensor::of<float>({1, 2}, {3, 4});
  EXPECT_EQ(good(ask({{.name = "x", .tensor = x}})).float_at(1), 40);
  EXPECT_EQ(good(ask({{.name = "x", .tensor = x}, {.name = "w", .tensor = Tensor::of<float>({2}, {5, 6})}})).float_at(1), 24);
}

TEST_F(OnnxRuntimeBackendTest, WhatOnnxRuntimeSaysIsTheError) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 3}).input("i", DType::I64, {"n"}).output("y", DType::F32, {"n", "k"});
  g.node("Gather", {"x", "i"}, {"y"}, {{"axis", 1}});
  load(g, "input { name: \"x\" data_type: TYPE_FP32 dims: [-1, 3] } input { name: \"i\" data_type: TYPE_INT64 dims: -1 }");
  const Tensor x = values(DType::F32, {1, 3}, 0);
  const InferResponse bad = ask({{.name = "x", .tensor = x}, {.name = "i", .tensor = Tensor::of<int64_t>({1}, {7})}}).wait();
  EXPECT_EQ(bad.error_code, ErrorCode::Internal);
  EXPECT_EQ(bad.error.find("onnx runtime error "), 0u) << bad.error;
  EXPECT_NE(bad.error.find("out of data bounds"), std::string::npos) << bad.error;
  EXPECT_EQ(good(ask({{.name = "x", .tensor = x}, {.name = "i", .tensor = Tensor::of<int64_t>({1}, {2})}})).float_at(0), x.float_at(2));

  std::ofstream(folder_ / "1" / "model.onnx") << "not a model";
  EXPECT_NE(message_of([&] { load(); }).find("onnx runtime error 7"), std::string::npos);
  fs::remove(folder_ / "1" / "model.onnx");
  EXPECT_NE(message_of([&] { load(); }).find("has no model.onnx"), std::string::npos);
  EXPECT_NE(message_of([&] { load("default_model_filename: \"other.onnx\""); }).find("has no other.onnx"), std::string::npos);
}

TEST_F(OnnxRuntimeBackendTest, AnOutputThatIsNoTensorIsLeftOut) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 4}).output("y", DType::F32, {"n", 4}).node("Neg", {"x"}, {"y"});
  g.node("SplitToSequence", {"x"}, {"s"}, {{"axis", 1}});
  // ValueInfoProto { name, type { sequence_type { elem_type { tensor_type { elem_type } } } } }
  using tokamak::test::OnnxMessage;
  g.message.message(12, OnnxMessage().text(1, "s").message(
                            2, OnnxMessage().message(4, OnnxMessage().message(1, OnnxMessage().message(1, OnnxMessage().integer(1, 1))))));
  EXPECT_EQ(load(g).outputs().size(), 1u);
  EXPECT_EQ(good(ask({{.name = "x", .tensor = values(DType::F32, {1, 4}, 1)}})).count(), 4);
}

TEST_F(OnnxRuntimeBackendTest, AnInputThatIsAnOutputIsNotLentAway) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 2}).output("x", DType::F32, {"n", 2}).output("y", DType::F32, {"n", 2}).node("Neg", {"x"}, {"y"});
  load(g);
  std::vector<float> memory = {1, 2};
  const Tensor out = good(ask({{.name = "x", .tensor = Tensor::view(DType::F32, {1, 2}, memory.data())}}), 0);
  memory = {8, 9};
  EXPECT_EQ(out.float_at(0), 1);
}

TEST_F(OnnxRuntimeBackendTest, AnExecutionThatNobodyWantsEnds) {
  OnnxGraph body;
  body.message.text(2, "body");  // ONNX Runtime wants a name
  body.input("i", DType::I64, {}).input("c", DType::Bool, {}).input("v", DType::F32, {"n", 1});
  body.output("c2", DType::Bool, {}).output("v2", DType::F32, {"n", 1});
  body.node("Identity", {"c"}, {"c2"}).node("Cos", {"v"}, {"v2"});
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 1}).output("y", DType::F32, {"n", 1});
  g.initializer("times", Tensor::scalar<int64_t>(1'000'000'000));
  g.node("Loop", {"times", "", "x"}, {"y"}, {{"body", body}});
  load(g);
  const Answer endless = ask({{.name = "x", .tensor = values(DType::F32, {1, 1}, 0)}});
  std::this_thread::sleep_for(100ms);
  EXPECT_FALSE(endless.is_answered());
  endless.cancellation->cancel();
  const InferResponse response = endless.wait();
  EXPECT_EQ(response.error_code, ErrorCode::Cancelled);
  EXPECT_EQ(response.error, "Request cancelled");
  // That does not end the instance's next execution.
  const Answer next = ask({{.name = "x", .tensor = values(DType::F32, {1, 1}, 0)}});
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(next.is_answered());
  next.cancellation->cancel();
  next.wait();
}

TEST_F(OnnxRuntimeBackendTest, SettingsOfTheConfig) {
  OnnxGraph g;
  g.input("x", DType::F32, {"n", 2}).output("y", DType::F32, {"n", 2}).node("Neg", {"x"}, {"y"});
  const auto parameter = [](const std::string& name, const std::string& value) {
    return "parameters { key: \"" + name + "\" value { string_value: \"" + value + "\" } } ";
  };
  load(g, parameter("intra_op_thread_count", "1") + parameter("inter_op_thread_count", "2") + parameter("execution_mode", "1") +
              parameter("enable_mem_arena", "0") + parameter("enable_mem_pattern", "0") +
              parameter("session.intra_op.allow_spinning", "0") + parameter("memory.enable_memory_arena_shrinkage", "") +
              "optimization { graph { level: 1 } } instance_group { count: 3 }");
  EXPECT_EQ(good(ask({{.name = "x", .tensor = Tensor::of<float>({1, 2}, {1, 2})}})).float_at(1), -2);
  EXPECT_NE(message_of([&] { load(g, parameter("intra_op_thread_count", "many")); }).find("'intra_op_thread_count' is 'many'"),
            std::string::npos);
  EXPECT_NE(message_of([&] { load(g, parameter("execution_mode", "2")); }).find("expected 0 (sequential)"), std::string::npos);
  std::vector<std::string> warnings;
  EXPECT_TRUE(unused_fields(parse_config("backend: \"onnxruntime\" optimization { graph { level: 1 } }", "the test", warnings)).empty());
}

TEST_F(OnnxRuntimeBackendTest, AGpuNeedsALibraryWithTheProvider) {
  const std::string problem = message_of([&] { load("instance_group { kind: KIND_GPU }"); });
  if (problem.empty() || problem.find("no CUDAExecutionProvider") == std::string::npos) GTEST_SKIP() << "the library has the provider";
  EXPECT_NE(problem.find("onnxruntime-gpu"), std::string::npos) << problem;
}

TEST_F(OnnxRuntimeBackendTest, ALibraryThatIsNotThereIsNamed) {
  settings_->config["onnxruntime"]["library"] = "/nowhere/libonnxruntime.so";
  const std::string missing = message_of([&] { load(); });
  EXPECT_NE(missing.find("/nowhere/libonnxruntime.so"), std::string::npos) << missing;
  EXPECT_NE(missing.find("pip install onnxruntime"), std::string::npos) << missing;
  settings_->config["onnxruntime"]["library"] = std::string(TOKAMAK_BINARY_DIR) + "/bin/libtokamak_python.so";
  EXPECT_NE(message_of([&] { load(); }).find("no function OrtGetApiBase()"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::server::test
