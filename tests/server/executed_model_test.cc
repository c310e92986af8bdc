// Loading, checking, executing and answering, with a backend that does what the test says.

#include "server/executed_model.h"

#include <filesystem>
#include <fstream>

#include "server/rate_limiter.h"
#include "tests/server/fake_backend.h"
#include "tests/support/message_of.h"

namespace tokamak::server::test {
namespace {

using namespace std::chrono_literals;

class ExecutedModelTest : public FakeBackendTest {
 protected:
  std::string error_of(std::unique_ptr<InferRequest> request) {
    const InferResponse response = send(std::move(request)).wait();
    EXPECT_EQ(response.error_code, ErrorCode::InvalidArgument);
    return response.error;
  }
};

TEST_F(ExecutedModelTest, SaysWhatItIs) {
  load("max_batch_size: 4");
  EXPECT_EQ(model->name(), "m");
  EXPECT_EQ(model->platform(), "fake");
  EXPECT_FALSE(model->is_decoupled());
  EXPECT_EQ(model->llm(), nullptr);
  ASSERT_EQ(model->inputs().size(), 1u);
  EXPECT_EQ(model->inputs()[0].shape, (Shape{-1, -1}));
}

TEST_F(ExecutedModelTest, CompletesTheConfigFromTheModel) {
  fake.description = R"({"inputs": [{"name": "IN", "data_type": "TYPE_INT32", "shape": [-1, 3]}],
                         "outputs": [{"name": "OUT", "data_type": "TYPE_INT32", "shape": [-1, 3]}], "can_batch": true})";
  load("", "");
  EXPECT_EQ(model->config().max_batch_size(), 4);
  ASSERT_EQ(model->config().input_size(), 1);
  EXPECT_EQ(model->config().input(0).dims(0), 3);
  EXPECT_TRUE(model->config().has_dynamic_batching());
}

TEST_F(ExecutedModelTest, RefusesAConfigThatTheModelContradicts) {
  fake.description = R"({"inputs": [{"name": "IN", "data_type": "TYPE_FP32", "shape": [-1, 3]}],
                         "outputs": [{"name": "OUT", "data_type": "TYPE_INT32", "shape": [-1, 3]}], "can_batch": true})";
  EXPECT_THROW(load("max_batch_size: 4"), Error);
}

TEST_F(ExecutedModelTest, UnknownBackendSaysWhereItLooked) {
  std::vector<std::string> warnings;
  const LoadArgs args{.name = "m", .config = parse_config("name: \"m\" backend: \"nowhere\"", "the test", warnings)};
  const std::string message = tokamak::test::message_of([&] { load_model(args); });
  EXPECT_NE(message.find("libtokamak_nowhere.so"), std::string::npos) << message;
  LoadArgs outside = args;
  outside.config.set_backend("../x");
  EXPECT_THROW(load_model(outside), Error);
}

TEST_F(ExecutedModelTest, ALibraryThatIsNoBackendIsRefused) {
  const std::string folder = testing::TempDir() + "/tokamak_no_backend";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/libtokamak_text.so") << "not a library";
  settings->directories = {folder};
  std::vector<std::string> warnings;
  const LoadArgs args{.name = "m", .config = parse_config("name: \"m\" backend: \"text\"", "the test", warnings), .settings = settings};
  const std::string message = tokamak::test::message_of([&] { load_model(args); });
  EXPECT_NE(message.find("cannot be loaded"), std::string::npos) << message;
  std::filesystem::remove_all(folder);
}

TEST_F(ExecutedModelTest, WrongRequestsGetTritonsWords) {
  load("max_batch_size: 4",
       "input { name: \"IN\" data_type: TYPE_INT32 dims: [ 2, -1 ] } input { name: \"MORE\" data_type: TYPE_FP32 dims: 1 } "
       "output { name: \"OUT\" data_type: TYPE_INT32 dims: -1 } ");
  const auto request = [](std::vector<std::pair<std::string, Tensor>> inputs) {
    auto r = std::make_unique<InferRequest>();
    for (auto& [name, tensor] : inputs) r->inputs.push_back({.name = name, .tensor = tensor});
    return r;
  };
  const Tensor in = Tensor::zeros(DType::I32, {1, 2, 5}), more = Tensor::zeros(DType::F32, {1, 1});
  EXPECT_EQ(
      error_of(request({{"IN", in}})),
      "[request id: <id_unknown>] expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['IN'], but missing required input(s) "
      "['MORE']. Please provide all required input(s).");
  EXPECT_EQ(error_of(request({})),
            "[request id: <id_unknown>] expected 2 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) "
            "['IN','MORE']. Please provide all required input(s).");
  EXPECT_EQ(error_of(request({{"IN", in}, {"OTHER", more}})),
            "[request id: <id_unknown>] unexpected inference input 'OTHER' for model 'm'");
  EXPECT_EQ(error_of(request({{"IN", in}, {"IN", in}})), "[request id: <id_unknown>] input 'IN' already exists in request");
  EXPECT_EQ(error_of(request({{"IN", Tensor::zeros(DType::F32, {1, 2, 5})}, {"MORE", more}})),
            "[request id: <id_unknown>] inference input 'IN' data-type is 'FP32', but model 'm' expects 'INT32'");
  EXPECT_EQ(error_of(request({{"IN", Tensor::zeros(DType::I32, {5, 2, 5})}, {"MORE", Tensor::zeros(DType::F32, {5, 1})}})),
            "[request id: <id_unknown>] inference request batch-size must be <= 4 for 'm'");
  EXPECT_EQ(error_of(request({{"IN", in}, {"MORE", Tensor::zeros(DType::F32, {2, 1})}})),
            "[request id: <id_unknown>] input 'MORE' batch size does not match other inputs for 'm'");
  EXPECT_EQ(error_of(request({{"IN", Tensor::zeros(DType::I32, {})}, {"MORE", more}})),
            "[request id: <id_unknown>] input 'IN' has no shape but model requires batch dimension for 'm'");
  EXPECT_TRUE(
      error_of(request({{"IN", Tensor::zeros(DType::I32, {1, 3, 5})}, {"MORE", more}}))
          .starts_with("[request id: <id_unknown>] unexpected shape for input 'IN' for model 'm'. Expected [-1,2,-1], got [1,3,5]. NOTE: "
                       "Setting a non-zero max_batch_size"));
  auto output = request({{"IN", in}, {"MORE", more}});
  output->id = "7";
  output->outputs.push_back({.name = "NONE"});
  EXPECT_EQ(error_of(std::move(output)), "[request id: 7] unexpected inference output 'NONE' for model 'm'");
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Other)], 10u);
  EXPECT_TRUE(fake.seen().empty());
}

TEST_F(ExecutedModelTest, ABatchOfOneIsNotCopied) {
  load("max_batch_size: 4 dynamic_batching { }");
  const Tensor in = Tensor::of<int32_t>({1, 2}, {1, 2});
  EXPECT_FALSE(send(request_of(in)).wait().error_code);
  EXPECT_EQ(fake.first_inputs.at(0), in.raw());
}

TEST_F(ExecutedModelTest, ZeroElements) {
  load("max_batch_size: 4");
  const InferResponse response = send(request_of(Tensor::zeros(DType::I32, {1, 0}))).wait();
  ASSERT_FALSE(response.error_code) << response.error;
  EXPECT_EQ(response.outputs[0].tensor.shape(), (Shape{1, 0}));
}

TEST_F(ExecutedModelTest, ReshapesBothWays) {
  load("max_batch_size: 4",
       "input { name: \"IN\" data_type: TYPE_INT32 dims: [ -1, 2 ] reshape { shape: [ -1, 2, 1 ] } } "
       "output { name: \"OUT\" data_type: TYPE_INT32 dims: [ -1, 2 ] reshape { shape: [ -1, 2, 1 ] } } ");
  std::vector<int64_t> dims;
  fake.behaviour = [&](const tkb_request* const* requests, size_t) {
    const tkb_tensor& in = requests[0]->inputs[0];
    dims.assign(in.dims, in.dims + in.rank);
    FakeBackend::double_it(*requests[0]);
  };
  const InferResponse response = send(request_of(Tensor::of<int32_t>({1, 3, 2}, {1, 2, 3, 4, 5, 6}))).wait();
  ASSERT_FALSE(response.error_code) << response.error;
  EXPECT_EQ(dims, (std::vector<int64_t>{1, 3, 2, 1}));
  EXPECT_EQ(response.outputs[0].tensor.shape(), (Shape{1, 3, 2}));
  EXPECT_EQ(response.outputs[0].tensor.to_ints(), (std::vector<int64_t>{2, 4, 6, 8, 10, 12}));
}

TEST_F(ExecutedModelTest, Classification) {
  labels["OUT"] = {"cat", "dog"};
  load("max_batch_size: 4");
  auto request = request_of(Tensor::of<int32_t>({2, 3}, {1, 5, 3, 9, 9, 2}));
  request->outputs.push_back({.name = "OUT", .classification = 2});
  const InferResponse response = send(std::move(request)).wait();
  ASSERT_FALSE(response.error_code) << response.error;
  const Tensor& out = response.outputs[0].tensor;
  EXPECT_EQ(out.shape(), (Shape{2, 2}));
  EXPECT_EQ(out.strings(), (std::vector<std::string>{"10:1:dog", "6:2", "18:0:cat", "18:1:dog"}));
}

TEST_F(ExecutedModelTest, AFailureOfTheBackendIsEveryRequestsAnswer) {
  load("max_batch_size: 4 dynamic_batching { }");
  fake.open(false);
  const Answer first = send(row(0));
  fake.await_waiting(1);
  const Answer second = send(row(1)), third = send(row(2));
  fake.behaviour = [](const tkb_request* const* requests, size_t count) {
    if (count == 2) FakeBackend::double_it(*requests[0]);  // one has its answer already
    throw std::runtime_error("the backend broke");
  };
  fake.open();
  EXPECT_EQ(first.wait().error, "the backend broke");
  EXPECT_FALSE(second.wait().error_code);
  EXPECT_EQ(third.wait().error_code, ErrorCode::Internal);
  EXPECT_EQ(statistics->totals().failures[static_cast<int>(FailureReason::Backend)], 2u);
  fake.behaviour = nullptr;
  EXPECT_FALSE(send(row(3)).wait().error_code);  // and the model goes on
}

TEST_F(ExecutedModelTest, OutputsThatDoNotFitAreErrors) {
  load("max_batch_size: 4");
  fake.behaviour = [](const tkb_request* const* requests, size_t) { FakeBackend::answer(*requests[0], {1, 2, 3}, {1, 2}); };
  EXPECT_NE(send(row(1)).wait().error.find("12 bytes"), std::string::npos);
}

TEST_F(ExecutedModelTest, OutputsMayBeLent) {
  load("max_batch_size: 4");
  static std::atomic<int> released;
  released = 0;
  fake.behaviour = [](const tkb_request* const* requests, size_t) {
    auto* values = new std::vector<int32_t>{7, 8};
    const int64_t dims[] = {1, 2};
    tkb_tensor out = {.name = "OUT",
                      .dtype = TKB_I32,
                      .rank = 2,
                      .dims = dims,
                      .data = values->data(),
                      .size = 8,
                      .owner = values,
                      .release = [](void* owner) {
                        delete static_cast<std::vector<int32_t>*>(owner);
                        ++released;
                      }};
    const tkb_response response = {.outputs = &out, .num_outputs = 1, .is_final = 1};
    server_functions().respond(requests[0], &response);
  };
  {
    const InferResponse response = send(row(1)).wait();
    EXPECT_EQ(response.outputs.at(0).tensor.to_ints(), (std::vector<int64_t>{7, 8}));
    EXPECT_EQ(released, 0);
  }
  model.reset();  // the request, too, is gone
  EXPECT_EQ(released, 1);
}

TEST_F(ExecutedModelTest, DecoupledAnswersComeAsTheyAreMade) {
  load("model_transaction_policy { decoupled: true }");
  fake.behaviour = [](const tkb_request* const* requests, size_t) {
    const tkb_request* request = requests[0];
    FakeBackend::get().threads.emplace_back([request] {
      for (int i = 0; i < 3; ++i) FakeBackend::answer(*request, {i}, {1}, false);
      const tkb_response last = {.is_final = 1};
      server_functions().respond(request, &last);
    });
  };
  const std::vector<InferResponse> responses = send(request_of(Tensor::of<int32_t>({1}, {1}))).all();
  ASSERT_EQ(responses.size(), 4u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(responses[i].outputs.at(0).tensor.int_at(0), i);
  EXPECT_TRUE(responses[3].is_empty);
  model.reset();  // waits for what is still to come; nothing is
}

TEST_F(ExecutedModelTest, BackendsHearOfCancellation) {
  load("model_transaction_policy { decoupled: true }");
  static std::promise<void> heard;
  heard = {};
  fake.behaviour = [](const tkb_request* const* requests, size_t) {
    const tkb_request* request = requests[0];
    server_functions().on_cancel(
        request, [](void*) { heard.set_value(); }, nullptr);
    FakeBackend::get().threads.emplace_back([request] {
      heard.get_future().wait();
      EXPECT_TRUE(server_functions().is_cancelled(request));
      const tkb_response last = {.error = server_functions().error(TKB_CANCELLED, "stopped"), .is_final = 1};
      server_functions().respond(request, &last);
    });
  };
  const Answer answer = send(request_of(Tensor::of<int32_t>({1}, {1})));
  while (fake.seen().empty()) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(answer.is_answered());
  answer.cancellation->cancel();
  EXPECT_EQ(answer.wait().error_code, ErrorCode::Cancelled);
}

TEST_F(ExecutedModelTest, WarmUpRunsBeforeItIsReady) {
  load(
      "max_batch_size: 4 instance_group { count: 2 kind: KIND_CPU } model_warmup { name: \"w\" batch_size: 3 count: 2 inputs { key: \"IN\" "
      "value { "
      "data_type: TYPE_INT32 dims: 5 zero_data: true } } }");
  EXPECT_EQ(fake.batch_sizes().size(), 4u);
  EXPECT_EQ(statistics->totals().execution_count, 0u);
  fake.reset();
  fake.behaviour = [](const tkb_request* const*, size_t) { throw std::runtime_error("too cold"); };
  const std::string message = tokamak::test::message_of([&] {
    load(
        "max_batch_size: 4 model_warmup { name: \"w\" batch_size: 1 inputs { key: \"IN\" value { data_type: TYPE_INT32 dims: 5 "
        "random_data: true } } }");
  });
  EXPECT_NE(message.find("too cold"), std::string::npos) << message;
}

TEST_F(ExecutedModelTest, TimesAddUp) {
  load("max_batch_size: 4");
  fake.behaviour = [](const tkb_request* const* requests, size_t count) {
    const int64_t start = steady_now_ns();
    std::this_thread::sleep_for(5ms);
    server_functions().report_compute(requests, count, start, steady_now_ns());
    FakeBackend::double_it(*requests[0]);
  };
  send(row(1)).wait();
  const auto totals = statistics->totals();
  EXPECT_GE(totals.compute_infer.ns, 5'000'000u);
  EXPECT_GE(totals.success.ns, totals.queue.ns + totals.compute_input.ns + totals.compute_infer.ns + totals.compute_output.ns);
  EXPECT_LT(totals.success.ns, totals.compute_infer.ns + 1'000'000'000u);
}

TEST(RateLimiter, ResourcesAreHeldAndPrioritiesDivideTurns) {
  RateLimiter limiter({{"r", 4}});
  EXPECT_THROW(limiter.add({.resources = {{"r", 5}}}), Error);
  auto* high = limiter.add({.resources = {{"r", 3}}, .priority = 1});
  auto* low = limiter.add({.resources = {{"r", 3}}, .priority = 2});
  std::atomic<int> holders = 0, most = 0, turns[2] = {0, 0};
  std::atomic<bool> is_over = false;
  const auto work = [&](RateLimiter::Member* member, int who) {
    while (!is_over) {
      limiter.acquire(member);
      most = std::max<int>(most, ++holders);
      std::this_thread::sleep_for(1ms);
      if (++turns[who] + turns[1 - who] >= 90) is_over = true;
      --holders;
      limiter.release(member);
    }
  };
  std::thread a(work, high, 0), b(work, low, 1);
  a.join();
  b.join();
  limiter.remove(high);
  limiter.remove(low);
  EXPECT_EQ(most, 1);
  // Two to one, while both wait; on a busy machine a thread may be late for its turn.
  EXPECT_GE(turns[0], 30);
  EXPECT_LE(turns[0], 80);
}

}  // namespace
}  // namespace tokamak::server::test
