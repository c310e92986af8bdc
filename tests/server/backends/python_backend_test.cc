// model.py in a process of its own, well-behaved and otherwise.

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "server/config.h"
#include "server/executed_model.h"
#include "server/statistics.h"
#include "tests/server/fake_backend.h"
#include "tests/support/message_of.h"

namespace tokamak::server::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class PythonBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system((python() + " -c 'import numpy' 2>/dev/null").c_str()) != 0)
      GTEST_SKIP() << python() << " has no numpy; TOKAMAK_PYTHON names another interpreter";
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("tokamak_python_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "1");
  }
  void TearDown() override {
    model_.reset();
    fs::remove_all(folder_);
  }
  static std::string python() {
    const char* own = std::getenv("TOKAMAK_PYTHON");
    return own ? own : "python3";
  }
  static std::shared_ptr<BackendSettings> settings() {
    auto result = std::make_shared<BackendSettings>();
    result->directories = {std::string(TOKAMAK_BINARY_DIR) + "/bin"};
    result->config["python"]["python"] = python();
    return result;
  }
  // `body`: the methods of TritonPythonModel.
  Model& load(const std::string& body, const std::string& config = "", const std::string& io = kIo) {
    std::ofstream(folder_ / "1" / "model.py")
        << "import os, sys, time, threading\nimport numpy as np\nimport triton_python_backend_utils as "
           "pb_utils\n\nclass TritonPythonModel:\n"
        << body;
    std::vector<std::string> warnings;
    LoadArgs args{.name = "m", .directory = folder_.string(), .version_directory = (folder_ / "1").string()};
    args.config = parse_config("name: \"m\" backend: \"python\" " + io + config, "the test", warnings);
    args.statistics = statistics_ = std::make_shared<ModelStatistics>("m", 1);
    args.settings = settings();
    model_ = load_model(args);
    return *model_;
  }
  Answer send(int32_t value) { return Answer(*model_, row(value)); }
  int64_t result(const Answer& answer) {
    const InferResponse response = answer.wait();
    EXPECT_FALSE(response.error_code) << response.error;
    return response.outputs.empty() ? -1 : response.outputs[0].tensor.int_at(0);
  }

  static constexpr const char* kIo =
      "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: -1 } max_batch_size: 8 ";
  static constexpr const char* kDouble = R"(
  def execute(self, requests):
    result = []
    for r in requests:
      x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
      result.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x * 2)]))
    return result
)";

  fs::path folder_;
  std::shared_ptr<ModelStatistics> statistics_;
  std::shared_ptr<Model> model_;
};

TEST_F(PythonBackendTest, RunsAModelWithItsLifeCycle) {
  load(std::string(R"(
  def initialize(self, args):
    assert args["model_name"] == "m" and args["model_version"] == "1" and args["model_instance_kind"] == "CPU"
    import json
    config = json.loads(args["model_config"])
    assert pb_utils.get_output_config_by_name(config, "OUT")["data_type"] == "TYPE_INT32"
    self.folder = args["model_repository"]
  def finalize(self):
    open(self.folder + "/finalized", "w").close()
)") + kDouble,
       "dynamic_batching { max_queue_delay_microseconds: 100000 preferred_batch_size: 3 }");
  std::vector<Answer> answers;
  for (int i = 1; i <= 3; ++i) answers.push_back(send(i));
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(result(answers[i - 1]), 2 * i);
  EXPECT_EQ(statistics_->totals().execution_count, 1u);
  // Shared memory grows for larger tensors.
  const InferResponse large = Answer(*model_, row(21, 500'000, 8)).wait();
  ASSERT_FALSE(large.error_code) << large.error;
  EXPECT_EQ(large.outputs[0].tensor.shape(), (Shape{8, 500'000}));
  EXPECT_EQ(large.outputs[0].tensor.int_at(3'999'999), 42);
  model_.reset();
  EXPECT_TRUE(fs::exists(folder_ / "finalized"));
}

TEST_F(PythonBackendTest, StringsParametersAndErrorsOfOneRequest) {
  load(R"(
  def execute(self, requests):
    result = []
    for r in requests:
      import json
      parameters = json.loads(r.parameters())
      if parameters.get("fail"):
        result.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("asked to", pb_utils.TritonError.INVALID_ARG)))
        continue
      x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
      y = np.array([b"<" + s + b">" for s in x.ravel()], dtype=np.object_).reshape(x.shape)
      result.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", y)], parameters={"id": r.request_id(), "n": 3}))
    return result
)",
       "", "input { name: \"IN\" data_type: TYPE_STRING dims: -1 } output { name: \"OUT\" data_type: TYPE_STRING dims: -1 } ");
  const auto ask = [&](bool fails) {
    Tensor in = Tensor::empty(DType::String, {3});
    in.strings() = {"a", std::string("b\0c", 3), ""};
    auto request = request_of(std::move(in));
    request->id = "seven";
    request->parameters["fail"] = fails;
    return Answer(*model_, std::move(request)).wait();
  };
  const InferResponse good = ask(false);
  ASSERT_FALSE(good.error_code) << good.error;
  EXPECT_EQ(good.outputs.at(0).tensor.strings(), (std::vector<std::string>{"<a>", std::string("<b\0c>", 5), "<>"}));
  EXPECT_EQ(std::get<std::string>(good.parameters.at("id")), "seven");
  EXPECT_EQ(std::get<int64_t>(good.parameters.at("n")), 3);
  const InferResponse bad = ask(true);
  EXPECT_EQ(bad.error_code, ErrorCode::InvalidArgument);
  EXPECT_EQ(bad.error, "asked to");
}

TEST_F(PythonBackendTest, CompletesTheConfig) {
  load(std::string(R"(
  @staticmethod
  def auto_complete_config(config):
    config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]})
    config.add_output({"name": "OUT", "data_type": "TYPE_INT32", "dims": [-1]})
    config.set_max_batch_size(6)
    config.set_dynamic_batching()
    return config
)") + kDouble,
       "", "");
  EXPECT_EQ(model_->config().max_batch_size(), 6);
  EXPECT_TRUE(model_->config().has_dynamic_batching());
  ASSERT_EQ(model_->config().output_size(), 1);
  EXPECT_EQ(result(send(4)), 8);
}

TEST_F(PythonBackendTest, DecoupledResponsesAndCancellation) {
  load(R"(
  def execute(self, requests):
    for r in requests:
      n = int(pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()[0])
      threading.Thread(target=self.count, args=(r, n)).start()
    return None
  def count(self, request, n):
    sender = request.get_response_sender()
    for i in range(n):
      if request.is_cancelled():
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("stopped", pb_utils.TritonError.CANCELLED)), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return
      sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([i], dtype=np.int32))]))
      if n > 100:
        time.sleep(0.005)
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
)",
       "model_transaction_policy { decoupled: true }",
       "input { name: \"IN\" data_type: TYPE_INT32 dims: 1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 } ");
  const auto ask = [&](int32_t n) { return Answer(*model_, request_of(Tensor::of<int32_t>({1}, {n}))); };
  const Answer endless = ask(100'000);
  const std::vector<InferResponse> three = ask(3).all();
  ASSERT_EQ(three.size(), 4u);
  EXPECT_EQ(three[2].outputs.at(0).tensor.int_at(0), 2);
  EXPECT_TRUE(three[3].is_empty);
  EXPECT_EQ(ask(0).all().size(), 1u);
  endless.cancellation->cancel();
  EXPECT_EQ(endless.wait().error_code, ErrorCode::Cancelled);
}

TEST_F(PythonBackendTest, WhatExecuteRaisesIsTheAnswer) {
  load(R"(
  def execute(self, requests):
    x = int(pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0, 0])
    if x == 1:
      raise pb_utils.TritonModelException("no ones")
    if x == 2:
      return []
    if x == 3:
      return [None]
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())]) for r in requests]
)");
  EXPECT_EQ(send(1).wait().error, "no ones");
  EXPECT_NE(send(2).wait().error.find("one a request"), std::string::npos);
  EXPECT_FALSE(send(3).wait().error_code);  // a response without outputs
  EXPECT_EQ(result(send(4)), 4);
}

TEST_F(PythonBackendTest, SequencesWithControlsAndState) {
  load(R"(
  @staticmethod
  def auto_complete_config(config):
    config.add_input({"name": "IN", "data_type": "TYPE_INT32", "dims": [-1]})
    return config
  def execute(self, requests):
    result = []
    for r in requests:
      x, start, ready, corrid, state = [pb_utils.get_input_tensor_by_name(r, n).as_numpy() for n in ("IN", "START", "READY", "CORRID", "STATE_IN")]
      assert r.requested_output_names() == ["OUT", "STATE_OUT"]
      if ready[0, 0]:
        assert corrid[0, 0].decode() == r.correlation_id() and bool(start[0, 0]) == bool(r.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
      else:
        assert r.correlation_id() == 0 and not x.any() and not state.any()
      result.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x + state), pb_utils.Tensor("STATE_OUT", x[:, :1] + state)]))
    return result
)",
       R"(sequence_batching {
    control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
    control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }
    control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }
    state { input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_INT32 dims: 1 } })");
  const auto ask = [&](const std::string& id, int32_t value, bool is_start) {
    auto request = row(value);
    request->sequence.text = id;
    request->sequence_start = is_start;
    return result(Answer(*model_, std::move(request)));
  };
  EXPECT_EQ(ask("a", 1, true), 1);
  EXPECT_EQ(ask("b", 10, true), 10);
  EXPECT_EQ(ask("a", 2, false), 3);
  EXPECT_EQ(ask("b", 20, false), 30);
  EXPECT_EQ(ask("a", 3, true), 3);
}

TEST_F(PythonBackendTest, IterationsOfARequest) {
  const char* body = R"(
  def initialize(self, args):
    self.left = {}
  def execute(self, requests):
    result = []
    for r in requests:
      x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
      if r.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
        self.left[r.correlation_id()] = int(x[0, 0])
      self.left[r.correlation_id()] -= 1
      if self.left[r.correlation_id()] > 0:
        r.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        result.append(None)
      else:
        result.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", x)]))
    return result
)";
  load(body, "sequence_batching { oldest { max_candidate_sequences: 8 } iterative_sequence: true }");
  std::vector<Answer> answers;
  for (int i = 1; i <= 5; ++i) answers.push_back(send(2 * i));
  for (int i = 1; i <= 5; ++i) EXPECT_EQ(result(answers[i - 1]), 2 * i);
  EXPECT_EQ(statistics_->totals().inference_count, 5u);
  EXPECT_GE(statistics_->totals().execution_count, 10u);
  load(body, "sequence_batching { oldest { max_candidate_sequences: 8 } }");
  auto request = row(3);
  request->sequence.number = 1;
  request->sequence_start = true;
  EXPECT_NE(Answer(*model_, std::move(request)).wait().error.find("iterative_sequence"), std::string::npos);
}

TEST_F(PythonBackendTest, IterationsOfADecoupledRequestStream) {
  load(R"(
  def initialize(self, args):
    self.count = {}
  def execute(self, requests):
    for r in requests:
      x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
      n = self.count[r.correlation_id()] = self.count.get(r.correlation_id(), 0) + 1
      is_last = n == int(x[0, 0])
      r.get_response_sender().send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.full_like(x, n))]), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0)
      if not is_last:
        r.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
    return None
)",
       "model_transaction_policy { decoupled: true } sequence_batching { oldest { max_candidate_sequences: 8 } iterative_sequence: true }");
  const Answer four = send(4), six = send(6);
  for (const auto& [answer, count] : {std::pair(&four, 4), std::pair(&six, 6)}) {
    const std::vector<InferResponse> all = answer->all();
    ASSERT_EQ(all.size(), static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) EXPECT_EQ(all[i].outputs.at(0).tensor.int_at(0), i + 1);
  }
}

TEST_F(PythonBackendTest, AProcessThatEndsIsStartedAgain) {
  load(R"(
  def execute(self, requests):
    x = int(pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0, 0])
    if x == 1:
      os._exit(3)
    if x == 2:
      os.kill(os.getpid(), 9)
    if x == 3:
      sys.exit(5)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())]) for r in requests]
)");
  const InferResponse exited = send(1).wait();
  EXPECT_EQ(exited.error_code, ErrorCode::Internal);
  EXPECT_NE(exited.error.find("exited with status 3"), std::string::npos) << exited.error;
  EXPECT_EQ(result(send(7)), 7);
  EXPECT_NE(send(2).wait().error.find("signal 9"), std::string::npos);
  EXPECT_EQ(result(send(8)), 8);
  EXPECT_TRUE(send(3).wait().error_code);
  EXPECT_EQ(result(send(9)), 9);
}

TEST_F(PythonBackendTest, AProcessThatHangsIsEnded) {
  const char* body = R"(
  def execute(self, requests):
    x = int(pb_utils.get_input_tensor_by_name(requests[0], "IN").as_numpy()[0, 0])
    if x == 1:
      time.sleep(3600)
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())]) for r in requests]
)";
  load(body, "parameters { key: \"execution_timeout_ms\" value { string_value: \"300\" } }");
  EXPECT_NE(send(1).wait().error.find("longer than 300 ms"), std::string::npos);
  EXPECT_EQ(result(send(7)), 7);
  // Without a limit: when nobody waits any more.
  load(body, "parameters { key: \"cancel_grace_ms\" value { string_value: \"100\" } }");
  const Answer unwanted = send(1), next = send(5);
  std::this_thread::sleep_for(200ms);
  unwanted.cancellation->cancel();
  EXPECT_TRUE(unwanted.wait().error_code);
  EXPECT_EQ(result(next), 5);
}

TEST_F(PythonBackendTest, ModelsThatDoNotStartSayWhy) {
  const auto message = [&](const std::string& body, const std::string& config = "") {
    return tokamak::test::message_of([&] { load(body, config); });
  };
  EXPECT_NE(message("  def initialize(self, args):\n    raise ValueError('no weights')\n  def execute(self, r):\n    return []\n")
                .find("ValueError: no weights"),
            std::string::npos);
  EXPECT_NE(message("  pass\n").find("execute"), std::string::npos);
  EXPECT_NE(message("  this is no Python\n").find("SyntaxError"), std::string::npos);
  EXPECT_NE(
      message("  def initialize(self, args):\n    os._exit(9)\n  def execute(self, r):\n    return []\n").find("exited with status 9"),
      std::string::npos);
  EXPECT_NE(message("  def initialize(self, args):\n    time.sleep(99)\n  def execute(self, r):\n    return []\n",
                    "parameters { key: \"start_timeout_ms\" value { string_value: \"1500\" } }")
                .find("did not initialize"),
            std::string::npos);
  EXPECT_NE(message(kDouble, "parameters { key: \"python\" value { string_value: \"/nowhere/python\" } }").find("could not be started"),
            std::string::npos);
  std::vector<std::string> warnings;
  fs::remove(folder_ / "1" / "model.py");
  const LoadArgs missing{.name = "m",
                         .config = parse_config("name: \"m\" backend: \"python\" ", "the test", warnings),
                         .directory = folder_.string(),
                         .version_directory = (folder_ / "1").string(),
                         .settings = settings()};
  EXPECT_NE(tokamak::test::message_of([&] { load_model(missing); }).find("has no model.py"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::server::test
