// The built-in backend: engines and ONNX models as tensors, checkpoints as text.

#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>

#include "builder/builder.h"
#include "llm/tokenizer/tokenizer.h"
#include "runtime/execution_context.h"
#include "server/config.h"
#include "server/executed_model.h"
#include "server/llm_model.h"
#include "server/statistics.h"
#include "tests/server/fake_backend.h"
#include "tests/support/message_of.h"
#include "tests/support/onnx_writer.h"

namespace tokamak::server::test {
namespace {

namespace fs = std::filesystem;

class TokamakBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("tokamak_backend_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "1");
  }
  void TearDown() override {
    model_.reset();
    fs::remove_all(folder_);
  }
  Model& load(const std::string& config) {
    std::vector<std::string> warnings;
    LoadArgs args{.name = "m", .directory = folder_.string(), .version_directory = (folder_ / "1").string()};
    args.config = parse_config(
        "name: \"m\" backend: \"tokamak\" parameters { key: \"cache_dir\" value { string_value: \"\" } } "
        "parameters { key: \"opt_level\" value { string_value: \"0\" } } " +
            config,
        "the test", warnings);
    args.statistics = statistics_ = std::make_shared<ModelStatistics>("m", 1);
    model_ = load_model(args);
    return *model_;
  }
  static std::string example(const std::string& name) { return std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/" + name; }

  fs::path folder_;
  std::shared_ptr<ModelStatistics> statistics_;
  std::shared_ptr<Model> model_;
};

TEST_F(TokamakBackendTest, BatchesOfAnEngineAreTheEnginesOwnResults) {
  fs::copy(example("digits-resnet.ts/model.onnx"), folder_ / "1" / "model.onnx");
  Model& model = load("dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 2000000 }");
  EXPECT_EQ(model.config().max_batch_size(), 4);
  ASSERT_EQ(model.inputs().size(), 1u);
  const TensorMetadata& input = model.inputs()[0];
  ASSERT_EQ(input.dtype, DType::F32);
  Shape shape = input.shape;
  shape[0] = 1;
  for (int64_t& d : shape) d = d < 0 ? 16 : d;

  const auto engine = build_engine((folder_ / "1" / "model.onnx").string(), {.opt_level = 0});
  ExecutionContext context(engine);
  std::vector<Answer> answers;
  std::vector<Tensor> expected;
  for (int i = 0; i < 4; ++i) {
    Tensor x = Tensor::empty(DType::F32, shape);
    for (int64_t j = 0; j < x.count(); ++j) x.data<float>()[j] = static_cast<float>((j * 7 + i * 13) % 17) / 16;
    context.set_input(input.name, x);
    context.run();
    expected.push_back(context.output(0).clone());
    auto request = std::make_unique<InferRequest>();
    request->inputs.push_back({.name = input.name, .tensor = x});
    answers.emplace_back(model, std::move(request));
  }
  for (int i = 0; i < 4; ++i) {
    const InferResponse response = answers[i].wait();
    ASSERT_FALSE(response.error_code) << response.error;
    const Tensor& out = response.outputs.at(0).tensor;
    ASSERT_EQ(out.shape(), expected[i].shape());
    for (int64_t j = 0; j < out.count(); ++j) EXPECT_NEAR(out.data<float>()[j], expected[i].data<float>()[j], 1e-4);
  }
  EXPECT_EQ(statistics_->totals().execution_count, 1u);
  EXPECT_GT(statistics_->totals().compute_infer.ns, 0u);
}

// Row i of y is x + the sum of the batch's rows of x: it tells what else was in the batch.
std::string batch_sum() {
  using namespace tokamak::test;
  OnnxGraph g;
  g.input("x", DType::F32, {"batch", 2}).output("y", DType::F32, {"batch", 2});
  g.initializer("axes", Tensor::of<int64_t>({1}, {0}));
  g.node("ReduceSum", {"x", "axes"}, {"sum"}).node("Add", {"x", "sum"}, {"y"});
  return onnx_model(g);
}

TEST_F(TokamakBackendTest, BatchesArePaddedWithTheirLastRow) {
  std::ofstream(folder_ / "1" / "model.onnx", std::ios::binary) << batch_sum();
  for (const bool pads : {true, false}) {
    Model& model = load(std::string("max_batch_size: 8 dynamic_batching { preferred_batch_size: 5 max_queue_delay_microseconds: 500000 } "
                                    "parameters { key: \"pad_batches\" value { string_value: \"") +
                        (pads ? "on" : "off") + "\" } }");
    for (const auto& [counts, padded] : {std::pair{std::vector<int64_t>{3}, 4}, {{5}, 5}, {{3, 2}, 5}, {{4}, 4}}) {
      std::vector<Answer> answers;
      std::vector<float> values;
      float next = 1;
      for (const int64_t count : counts) {
        Tensor x = Tensor::empty(DType::F32, {count, 2});
        for (int64_t i = 0; i < x.count(); ++i) values.push_back(x.data<float>()[i] = next *= 2);
        auto request = std::make_unique<InferRequest>();
        request->inputs.push_back({.name = "x", .tensor = x});
        answers.emplace_back(model, std::move(request));
      }
      const size_t rows = values.size() / 2;
      float sums[2] = {};
      for (size_t i = 0; i < values.size(); ++i) sums[i % 2] += values[i];
      if (pads)
        for (int i = 0; i < 2; ++i) sums[i] += static_cast<float>(padded - static_cast<int>(rows)) * values[2 * (rows - 1) + i];
      size_t at = 0;
      for (size_t a = 0; a < answers.size(); ++a) {
        const InferResponse response = answers[a].wait();
        ASSERT_FALSE(response.error_code) << response.error;
        const Tensor& y = response.outputs.at(0).tensor;
        ASSERT_EQ(y.shape(), (Shape{counts[a], 2}));
        for (int64_t i = 0; i < y.count(); ++i, ++at) EXPECT_EQ(y.data<float>()[i], values[at] + sums[at % 2]) << pads << " " << rows;
      }
    }
  }
}

// y = 100 * START + x + state, where READY; state = x + state.
std::string accumulator() {
  using namespace tokamak::test;
  OnnxGraph g;
  for (const char* name : {"x", "START", "READY", "state"}) g.input(name, DType::F32, {"batch", 1});
  for (const char* name : {"y", "next"}) g.output(name, DType::F32, {"batch", 1});
  g.initializer("hundred", Tensor::of<float>({1}, {100}));
  g.node("Add", {"x", "state"}, {"next"}).node("Mul", {"START", "hundred"}, {"mark"}).node("Add", {"next", "mark"}, {"sum"});
  g.node("Mul", {"sum", "READY"}, {"y"});
  return onnx_model(g);
}

TEST_F(TokamakBackendTest, SequencesWithControlsAndState) {
  std::ofstream(folder_ / "1" / "model.onnx", std::ios::binary) << accumulator();
  for (const char* strategy : {"direct { }", "oldest { max_candidate_sequences: 4 }"}) {
    load(std::string("max_batch_size: 4 sequence_batching { ") + strategy + R"(
      control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
      control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } }
      state { input_name: "state" output_name: "next" data_type: TYPE_FP32 dims: 1 } })");
    ASSERT_EQ(model_->inputs().size(), 1u);
    ASSERT_EQ(model_->outputs().size(), 1u);
    std::map<uint64_t, float> state;
    for (int round = 0; round < 4; ++round) {
      std::vector<Answer> answers;
      for (uint64_t id = 1; id <= 3; ++id) {
        auto request = std::make_unique<InferRequest>();
        request->inputs.push_back(
            {.name = "x", .tensor = Tensor::of<float>({1, 1}, {static_cast<float>(10 * round) + static_cast<float>(id)})});
        request->sequence.number = id;
        request->sequence_start = round == 0;
        request->sequence_end = round == 3;
        answers.emplace_back(*model_, std::move(request));
      }
      for (uint64_t id = 1; id <= 3; ++id) {
        const InferResponse response = answers[id - 1].wait();
        ASSERT_FALSE(response.error_code) << response.error;
        ASSERT_EQ(response.outputs.size(), 1u);
        state[id] += static_cast<float>(10 * round) + static_cast<float>(id);
        EXPECT_EQ(response.outputs[0].tensor.float_at(0), state[id] + (round == 0 ? 100 : 0)) << strategy;
      }
    }
    EXPECT_EQ(statistics_->totals().inference_count, 12u);
    model_.reset();
  }
  EXPECT_NE(tokamak::test::message_of([&] {
              load(
                  "max_batch_size: 4 sequence_batching { control_input { name: \"BEGIN\" control { kind: CONTROL_SEQUENCE_START "
                  "fp32_false_true: [ 0, 1 ] } } }");
            }).find("configuration has input 'BEGIN', allowed inputs are: x, START, READY, state"),
            std::string::npos);
}

TEST_F(TokamakBackendTest, AFolderWithoutAModelSaysSo) {
  EXPECT_THROW(load(""), Error);
  std::ofstream(folder_ / "1" / "model.onnx") << "not a model";
  EXPECT_THROW(load(""), Error);
  std::ofstream(folder_ / "1" / "model.engine") << "not an engine";
  EXPECT_THROW(load(""), Error);
}

class LanguageModelFace : public TokamakBackendTest {
 protected:
  void SetUp() override {
    TokamakBackendTest::SetUp();
    fs::remove_all(folder_ / "1");
    fs::create_directory_symlink(example("llama3-docs-6m"), folder_ / "1");
    load("parameters { key: \"kv_cache_bytes\" value { string_value: \"64M\" } }");
  }
  Answer ask(const std::string& text, Parameters parameters) {
    auto request = std::make_unique<InferRequest>();
    Tensor input = Tensor::empty(DType::String, {1});
    input.strings()[0] = text;
    request->inputs.push_back({.name = "text_input", .tensor = std::move(input)});
    request->parameters = std::move(parameters);
    return Answer(*model_, std::move(request));
  }
};

TEST_F(LanguageModelFace, TextInTextOutWholeAndStreamed) {
  ASSERT_NE(model_->llm(), nullptr);
  EXPECT_TRUE(model_->is_decoupled());
  const Parameters greedy = {{"temperature", 0.0}, {"max_tokens", int64_t{24}}};
  const std::vector<InferResponse> whole = ask("The server", greedy).all();
  ASSERT_EQ(whole.size(), 1u);
  ASSERT_FALSE(whole[0].error_code) << whole[0].error;
  const std::string text = whole[0].outputs.at(0).tensor.strings().at(0);
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(std::get<int64_t>(whole[0].parameters.find("completion_tokens")->second), 24);

  Parameters stream = greedy;
  stream["stream"] = true;
  std::string streamed;
  const std::vector<InferResponse> pieces = ask("The server", stream).all();
  EXPECT_GT(pieces.size(), 4u);
  for (const InferResponse& piece : pieces) streamed += piece.outputs.at(0).tensor.strings().at(0);
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(std::get<std::string>(pieces.back().parameters.find("finish_reason")->second), "length");
}

TEST_F(LanguageModelFace, WrongParametersAndCancellation) {
  EXPECT_EQ(ask("x", {{"temprature", 0.5}}).wait().error_code, ErrorCode::InvalidArgument);
  EXPECT_EQ(ask("x", {{"temperature", std::string("hot")}}).wait().error_code, ErrorCode::InvalidArgument);
  EXPECT_EQ(ask("x", {{"max_tokens", int64_t{-1}}}).wait().error_code, ErrorCode::InvalidArgument);
  const Answer endless = ask("The", {{"max_tokens", int64_t{200}}, {"ignore_eos", true}});
  while (model_->llm()->engine().statistics().num_running == 0 && !endless.is_answered()) std::this_thread::yield();
  endless.cancellation->cancel();
  const InferResponse response = endless.wait();
  EXPECT_EQ(response.error_code, ErrorCode::Cancelled);
  EXPECT_EQ(model_->llm()->engine().statistics().blocks_used, 0);
}

}  // namespace
}  // namespace tokamak::server::test
