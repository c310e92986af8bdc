// Outputs that come back as inputs of the next request of their sequence.

#include "server/sequence_state.h"

#include <filesystem>
#include <fstream>

#include "tests/server/sequence_fixture.h"
#include "tests/support/message_of.h"

namespace tokamak::server::test {
namespace {

namespace fs = std::filesystem;

// OUT is IN plus the first element of the state, which it becomes.
class SequenceStateTest : public SequenceTest {
 protected:
  void SetUp() override {
    SequenceTest::SetUp();
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    directory = testing::TempDir() + "/tokamak_state_" + test->name();
    fs::create_directories(directory + "/initial_state");
    answer_with([this](const tkb_request& request) { accumulate(request); });
  }
  void TearDown() override {
    SequenceTest::TearDown();
    fs::remove_all(directory);
  }
  static tkb_tensor tensor(const char* name, const std::vector<int32_t>& values, const std::vector<int64_t>& dims) {
    return {.name = name,
            .dtype = TKB_I32,
            .rank = static_cast<int32_t>(dims.size()),
            .dims = dims.data(),
            .data = values.data(),
            .size = values.size() * sizeof(int32_t)};
  }
  void accumulate(const tkb_request& request) const {
    const Row row = Row::of(request);
    const std::vector<int32_t> sum = {static_cast<int32_t>(row.value + row.numbers.at("STATE_IN"))};
    std::vector<int64_t> dims = row.dims.at("STATE_IN");
    if (grows) dims.back() += 1;
    std::vector<int32_t> state(num_elements(dims), sum[0]);
    const std::vector<int64_t> one = {1, 1};
    const tkb_tensor outputs[] = {tensor("OUT", sum, one), tensor(state_name, state, dims)};
    const tkb_response response = {.outputs = outputs, .num_outputs = 2, .is_final = 1};
    server_functions().respond(&request, &response);
  }
  Model& load_state(const std::string& dims = "1", const std::string& more = "", const std::string& io = kIo) {
    return load(batching(dims, more), io);
  }
  static std::string batching(const std::string& dims, const std::string& more, const std::string& type = "TYPE_INT32") {
    return std::string("max_batch_size: 4 sequence_batching { ") + kControls +
           "state { input_name: \"STATE_IN\" output_name: \"STATE_OUT\" data_type: " + type + " dims: [ " + dims + " ] " + more + " } }";
  }
  void write_state(const std::vector<int32_t>& values) const {
    std::ofstream(directory + "/initial_state/start.bin", std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(int32_t)));
  }

  const char* state_name = "STATE_OUT";
  bool grows = false;
  static constexpr const char* kFromFile = "initial_state { name: \"s\" data_type: TYPE_INT32 dims: 2 data_file: \"start.bin\" }";
};

TEST_F(SequenceStateTest, ItAccumulatesFromZeroInEachSequence) {
  load_state();
  ASSERT_EQ(model->inputs().size(), 1u);
  ASSERT_EQ(model->outputs().size(), 1u);
  EXPECT_EQ(ask(1, 3, kStart), "3");
  EXPECT_EQ(ask(2, 100, kStart), "100");
  EXPECT_EQ(ask(1, 4), "7");
  EXPECT_EQ(ask(2, 1), "101");
  EXPECT_EQ(ask(1, 5, kEnd), "12");
  EXPECT_EQ(ask(1, 1, kStart), "1");
  EXPECT_EQ(ask(1, 1), "2");
  EXPECT_EQ(ask(1, 9, kStart), "9");  // without an END
  EXPECT_EQ(ask(2, 1), "102");
  const Row row = batches().at(0).at(0);
  EXPECT_EQ(row.outputs, (std::vector<std::string>{"OUT", "STATE_OUT"}));
  EXPECT_EQ(row.dims.at("STATE_IN"), (std::vector<int64_t>{1, 1}));
  // Clients may neither send nor get it.
  auto own = request({.number = 1}, 1, kNone);
  own->inputs.push_back({.name = "STATE_IN", .tensor = Tensor::zeros(DType::I32, {1, 1})});
  EXPECT_TRUE(Answer(*model, std::move(own)).wait().error_code);
  auto asks = request({.number = 1}, 1, kNone);
  asks->outputs.push_back({.name = "STATE_OUT"});
  EXPECT_EQ(text_of(Answer(*model, std::move(asks))), "[request id: <id_unknown>] unexpected inference output 'STATE_OUT' for model 'm'");
  EXPECT_EQ(Answer(*model, request({.number = 1}, 1, kNone)).wait().outputs.size(), 1u);
}

TEST_F(SequenceStateTest, PaddingHasAStateOfItsOwn) {
  load_state();
  EXPECT_EQ(ask(1, 5, kStart), "5");
  EXPECT_EQ(ask(2, 7, kStart), "7");  // slot 0 is padded
  EXPECT_EQ(batches().at(1).at(0).numbers.at("STATE_IN"), 0);
  EXPECT_EQ(batches().at(1).at(0).outputs, batches().at(1).at(1).outputs);
  EXPECT_EQ(ask(1, 1), "6");
  EXPECT_EQ(ask(2, 1), "8");
}

TEST_F(SequenceStateTest, ItMayBeginWithWhatAFileHolds) {
  write_state({40, 50});
  load_state("2", kFromFile);
  EXPECT_EQ(ask(1, 2, kStart), "42");
  EXPECT_EQ(ask(1, 2), "44");
  EXPECT_EQ(ask(1, 2, kStart), "42");
  model.reset();
  load_state("-1", "initial_state { name: \"s\" data_type: TYPE_INT32 dims: 3 zero_data: true }");
  EXPECT_EQ(ask(1, 2, kStart), "2");
  EXPECT_EQ(batches().back().at(0).dims.at("STATE_IN"), (std::vector<int64_t>{1, 3}));
}

TEST_F(SequenceStateTest, ItMayGrowAndThenDoesNotShareBatches) {
  grows = true;
  load(batching("-1", "") + " instance_group { count: 1 kind: KIND_CPU }");
  EXPECT_EQ(ask(1, 1, kStart), "1");
  EXPECT_EQ(ask(1, 1), "2");
  EXPECT_EQ(ask(2, 1, kStart), "1");
  fake.open(false);
  const Answer held = send(3, 1, kStart);
  fake.await_waiting(1);
  const Answer first = send(1, 1), second = send(2, 1);
  while (statistics->pending() < 2) std::this_thread::yield();
  fake.open();
  EXPECT_EQ(text_of(first), "3");
  EXPECT_EQ(text_of(second), "2");
  const auto seen = batches();
  ASSERT_EQ(seen.size(), 6u);
  EXPECT_EQ(seen[4].at(0).dims.at("STATE_IN"), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(seen[5].at(1).dims.at("STATE_IN"), (std::vector<int64_t>{1, 2}));
}

TEST_F(SequenceStateTest, AnOutputMayBeBoth) {
  load_state("1", "",
             "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: -1 } "
             "output { name: \"STATE_OUT\" data_type: TYPE_INT32 dims: 1 } ");
  ask(1, 3, kStart);
  const InferResponse response = send(1, 4).wait();
  ASSERT_EQ(response.outputs.size(), 2u);
  EXPECT_EQ(response.outputs[1].tensor.int_at(0), 7);
  auto asks = request({.number = 1}, 5, kNone);
  asks->outputs.push_back({.name = "OUT"});
  EXPECT_EQ(text_of(Answer(*model, std::move(asks))), "12");
  EXPECT_EQ(ask(1, 1), "13");
}

TEST_F(SequenceStateTest, StringsAreStates) {
  load(batching("1", "", "TYPE_STRING"));
  answer_with([](const tkb_request& request) {
    const std::string text = Row::of(request).texts.at("STATE_IN") + "x";
    const std::vector<int32_t> length = {static_cast<int32_t>(text.size())};
    const std::vector<int64_t> dims = {1, 1};
    const tkb_bytes bytes = {text.data(), text.size()};
    const tkb_tensor outputs[] = {tensor("OUT", length, dims),
                                  {.name = "STATE_OUT", .dtype = TKB_BYTES, .rank = 2, .dims = dims.data(), .strings = &bytes}};
    const tkb_response response = {.outputs = outputs, .num_outputs = 2, .is_final = 1};
    server_functions().respond(&request, &response);
  });
  EXPECT_EQ(ask(1, 0, kStart), "1");
  EXPECT_EQ(ask(1, 0), "2");
  EXPECT_EQ(ask(2, 0, kStart), "1");
}

TEST_F(SequenceStateTest, AStateThatIsMissingOrWrongIsAnErrorAndChangesNothing) {
  load_state();
  EXPECT_EQ(ask(1, 3, kStart), "3");
  state_name = "OTHER";
  EXPECT_EQ(ask(1, 4), "the model gave no output 'STATE_OUT', which sequence_batching.state names");
  state_name = "STATE_OUT";
  grows = true;
  EXPECT_EQ(ask(1, 4), "the model gives state 'STATE_OUT' as i32 [1,2], and the config says i32 [1,1]");
  grows = false;
  EXPECT_EQ(ask(1, 4), "7");
}

TEST_F(SequenceStateTest, IterationsCarryIt) {
  load(batching("1", "").substr(0, batching("1", "").size() - 1) + " iterative_sequence: true }");
  // Doubles the state, beginning at 1, until it passes IN.
  answer_with([](const tkb_request& request) {
    const Row row = Row::of(request);
    if (row.numbers.at("READY") == 0) return static_cast<void>(server_functions().reschedule(&request, nullptr, 0));  // is padding
    const std::vector<int32_t> next = {std::max(1, 2 * static_cast<int32_t>(row.numbers.at("STATE_IN")))};
    const std::vector<int64_t> dims = {1, 1};
    const tkb_tensor state = tensor("STATE_OUT", next, dims), wrong = tensor("OUT", next, dims);
    tkb_error* error = server_functions().reschedule(&request, &wrong, 1);
    ASSERT_NE(error, nullptr);
    server_functions().error_free(error);
    if (next[0] <= row.value) {
      ASSERT_EQ(server_functions().reschedule(&request, &state, 1), nullptr);
      return;
    }
    const tkb_tensor outputs[] = {tensor("OUT", next, dims), state};
    const tkb_response response = {.outputs = outputs, .num_outputs = 2, .is_final = 1};
    server_functions().respond(&request, &response);
  });
  EXPECT_EQ(text_of(FakeBackendTest::send(row(100, 1))), "128");
  EXPECT_EQ(text_of(FakeBackendTest::send(row(5, 1))), "8");
}

TEST_F(SequenceStateTest, WhatDoesNotFitIsRefusedAtLoad) {
  const auto message = [&](const std::string& dims, const std::string& more) {
    return tokamak::test::message_of([&] { load_state(dims, more); });
  };
  EXPECT_NE(message("2", kFromFile).find("start.bin"), std::string::npos);  // there is none
  write_state({1});
  EXPECT_NE(message("2", kFromFile).find("has 4 bytes, [1,2] needs 8"), std::string::npos);
  EXPECT_EQ(message("3", kFromFile), "'initial_state' dim for input name 'STATE_IN' doesn't match 'state' dim description. 2 != 3");
  EXPECT_NE(message("2, 2", kFromFile).find("'state' dimensions for state input 'STATE_IN'. 1 != 2"), std::string::npos);
  EXPECT_NE(
      message("2", "initial_state { name: \"s\" data_type: TYPE_FP32 dims: 2 zero_data: true }").find("does not match the state data type"),
      std::string::npos);
  EXPECT_NE(message("2", "initial_state { data_type: TYPE_INT32 dims: 2 zero_data: true }").find("Field 'name' must be set"),
            std::string::npos);
  EXPECT_NE(message("2", "initial_state { name: \"s\" data_type: TYPE_INT32 dims: 2 data_file: \"../start.bin\" }").find("outside"),
            std::string::npos);
  EXPECT_NE(message("2", "initial_state { name: \"s\" data_type: TYPE_INT32 dims: 2 }").find("state_data"), std::string::npos);
  std::vector<std::string> warnings;
  EXPECT_EQ(
      unused_fields(parse_config(batching("1", "use_same_buffer_for_input_output: true use_growable_memory: true"), "the test", warnings)),
      (std::vector<std::string>{"sequence_batching.state.use_growable_memory",
                                "sequence_batching.state.use_same_buffer_for_input_output"}));
}

TEST_F(SequenceStateTest, AModelsOwnControlsAndStatesAreNoInputsOfItsClients) {
  const auto describe = [&](const std::string& corrid, const std::string& state_shape) {
    fake.description = R"({"inputs": [{"name": "IN", "data_type": "TYPE_INT32", "shape": [-1, -1]},
      {"name": "START", "data_type": "TYPE_INT32", "shape": [-1, 1]}, {"name": "END", "data_type": "TYPE_FP32", "shape": [-1, 1]},
      {"name": "READY", "data_type": "TYPE_BOOL", "shape": [-1, 1]}, {"name": "CORRID", "data_type": ")" +
                       corrid + R"(", "shape": [-1, 1]},
      {"name": "STATE_IN", "data_type": "TYPE_INT32", "shape": )" +
                       state_shape + R"(}],
      "outputs": [{"name": "OUT", "data_type": "TYPE_INT32", "shape": [-1, -1]},
      {"name": "STATE_OUT", "data_type": "TYPE_INT32", "shape": [-1, -1]}], "can_batch": true})";
  };
  describe("TYPE_UINT64", "[-1, -1]");
  load_state("1", "", "");
  ASSERT_EQ(model->inputs().size(), 1u);
  EXPECT_EQ(model->inputs()[0].name, "IN");
  ASSERT_EQ(model->outputs().size(), 1u);
  EXPECT_EQ(ask(1, 3, kStart), "3");
  model.reset();
  describe("TYPE_INT64", "[-1, -1]");
  EXPECT_NE(tokamak::test::message_of([&] { load_state("1", "", ""); }).find("TYPE_UINT64 for input 'CORRID', model provides TYPE_INT64"),
            std::string::npos);
  describe("TYPE_UINT64", "[-1, 2]");
  EXPECT_NE(tokamak::test::message_of([&] { load_state("1", "", ""); }).find("'STATE_IN'"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::server::test
