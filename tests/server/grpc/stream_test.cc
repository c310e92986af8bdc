#include <thread>

#include "tests/server/grpc/grpc_fixture.h"

namespace tokamak::server {
namespace {

using inference::ModelInferRequest;
using inference::ModelStreamInferResponse;

class GrpcStream : public GrpcTest {
 protected:
  void open(const std::vector<std::pair<std::string, std::string>>& metadata = {}) {
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    for (const auto& [name, value] : metadata) context_->AddMetadata(name, value);
    stream_ = stub_->ModelStreamInfer(context_.get());
  }
  void send(const std::string& model, std::vector<int32_t> values, const std::string& id, bool enable_empty_final = false) {
    ModelInferRequest request = request_of<int32_t>(model, "INT32", values);
    request.set_id(id);
    if (enable_empty_final) (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
    ASSERT_TRUE(stream_->Write(request));
  }
  // "id:values[!]", "id:error: ..."; "!" on the final response. "" at the end of the stream.
  std::string receive() {
    ModelStreamInferResponse response;
    if (!stream_->Read(&response)) return "";
    const auto& infer = response.infer_response();
    std::string text = infer.id() + ":";
    if (!response.error_message().empty()) text += "error: " + response.error_message();
    for (const std::string& bytes : infer.raw_output_contents())
      for (const int32_t value : values_of<int32_t>(bytes)) text += std::to_string(value) + ",";
    return text + (infer.parameters().at("triton_final_response").bool_param() ? "!" : "");
  }
  ~GrpcStream() override {
    if (context_) context_->TryCancel();
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<ModelInferRequest, ModelStreamInferResponse>> stream_;
};

TEST_F(GrpcStream, AnswersEachRequest) {
  open();
  for (int i = 0; i < 20; ++i) {
    send(i % 2 ? "echo" : "echo_thread", {i}, std::to_string(i));
    EXPECT_EQ(receive(), fmt::format("{}:{},!", i, i));
  }
  stream_->WritesDone();
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, ResponsesComeInTheOrderOfRequests) {
  open();
  send("hold", {1}, "a");
  send("echo", {2}, "b");
  send("hold", {3}, "c");
  send("repeat", {4}, "d");
  EXPECT_EQ(receive(), "d:4,");  // a decoupled model waits for none
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 2; }));
  release(1);
  release(0);
  EXPECT_EQ(receive(), "a:1,!");
  EXPECT_EQ(receive(), "b:2,!");
  EXPECT_EQ(receive(), "c:3,!");
  stream_->WritesDone();
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, DecoupledModelsAnswerAnyNumberOfTimes) {
  open();
  send("repeat", {7, 8, 9}, "a");
  EXPECT_EQ(receive(), "a:7,");
  EXPECT_EQ(receive(), "a:8,");
  EXPECT_EQ(receive(), "a:9,");
  send("repeat", {}, "none");
  send("repeat_thread", {1}, "b", true);
  EXPECT_EQ(receive(), "b:1,");
  EXPECT_EQ(receive(), "b:!");
  send("repeat", {}, "c", true);
  EXPECT_EQ(receive(), "c:!");
  stream_->WritesDone();
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, ErrorsAreMessagesAndTheStreamGoesOn) {
  open();
  send("nothing", {1}, "a");
  EXPECT_EQ(receive().substr(0, 9), "a:error: ");
  ModelInferRequest request = request_of<int32_t>("fail", "INT32", {1});
  request.set_id("b");
  (*request.mutable_parameters())["code"].set_int64_param(static_cast<int64_t>(ErrorCode::Unavailable));
  ASSERT_TRUE(stream_->Write(request));
  EXPECT_EQ(receive(), fmt::format("b:error: fails with {}!", to_string(ErrorCode::Unavailable)));
  send("echo", {5}, "c");
  EXPECT_EQ(receive(), "c:5,!");
  stream_->WritesDone();
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, ErrorsAreStatusesForThoseWhoAsk) {
  open({{"triton_grpc_error", "true"}});
  send("echo", {1}, "a");
  EXPECT_EQ(receive(), "a:1,!");
  send("hold", {1}, "b");
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  send("nothing", {1}, "c");
  EXPECT_EQ(receive(), "");
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(state_->wait_for([&] { return state_->num_cancelled == 1; }));  // the others end with it
}

TEST_F(GrpcStream, CancelledStreamsCancelTheirRequests) {
  open();
  for (int i = 0; i < 3; ++i) send("hold", {i}, "h");
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 3; }));
  context_->TryCancel();
  EXPECT_EQ(receive(), "");
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(state_->wait_for([&] { return state_->num_cancelled == 3; }));
}

TEST_F(GrpcStream, HalfClosedStreamsAreAnswered) {
  open();
  send("hold", {1}, "a");
  stream_->WritesDone();
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  release();
  EXPECT_EQ(receive(), "a:1,!");
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, EndsOnStopWhenAnswered) {
  open();
  send("hold", {1}, "a");
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  std::thread stopper([&] { grpc_->stop(std::chrono::seconds(10)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  release();
  EXPECT_EQ(receive(), "a:1,!");
  EXPECT_EQ(receive(), "");
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  stopper.join();
}

TEST_F(GrpcStream, UnansweredRequestsStopReading) {
  GrpcOptions options;
  options.max_stream_requests = 4;
  restart(std::move(options));
  open();
  std::atomic<int> sent = 0;
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i, ++sent) send("hold", {i}, std::to_string(i));
    stream_->WritesDone();
  });
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 4; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  {
    const std::lock_guard lock(state_->mutex);
    EXPECT_EQ(state_->held.size(), 4U);
  }
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(state_->wait_for([&] { return !state_->held.empty(); }));
    release();
    EXPECT_EQ(receive(), fmt::format("{0}:{0},!", i));
  }
  writer.join();
  EXPECT_EQ(receive(), "");
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, ClientsThatDoNotReadAreNotRead) {
  GrpcOptions options;
  options.max_stream_queued_bytes = 1 << 20;
  restart(std::move(options));
  open();
  constexpr int kRequests = 200;
  const std::vector<int32_t> values(1 << 16, 1);  // 256 KiB
  std::atomic<int> sent = 0;
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i, ++sent) send("echo", values, "x");
    stream_->WritesDone();
  });
  int before = -1;
  while (before != sent) {
    before = sent;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  EXPECT_LT(before, kRequests);  // the client's own writes stand still
  int received = 0;
  ModelStreamInferResponse response;
  while (stream_->Read(&response)) ++received;
  writer.join();
  EXPECT_EQ(received, kRequests);
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(GrpcStream, ClientsThatNeverReadLoseTheirStream) {
  GrpcOptions options;
  options.max_stream_unread_bytes = 1 << 20;
  restart(std::move(options));
  open();
  send("repeat", std::vector<int32_t>(100'000, 1), "a");
  ASSERT_TRUE(state_->wait_for([&] { return state_->num_cancelled == 1; }));
  ModelStreamInferResponse response;
  while (stream_->Read(&response)) {
  }
  EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace tokamak::server
