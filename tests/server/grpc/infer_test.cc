#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <future>
#include <thread>

#include "server/kserve.h"
#include "tests/server/grpc/grpc_fixture.h"

namespace tokamak::server {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;

class GrpcInfer : public GrpcTest {
 protected:
  grpc::Status infer(const ModelInferRequest& request, std::vector<std::pair<std::string, std::string>> metadata = {}) {
    grpc::ClientContext context;
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    response_.Clear();
    return stub_->ModelInfer(&context, request, &response_);
  }
  void expect_error(const ModelInferRequest& request, grpc::StatusCode code, const std::string& part) {
    const grpc::Status status = infer(request);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_NE(status.error_message().find(part), std::string::npos) << status.error_message();
  }
  ModelInferResponse response_;
};

TEST_F(GrpcInfer, EchoesEveryDatatypeRaw) {
  for (const char* datatype :
       {"BOOL", "UINT8", "INT8", "UINT16", "INT16", "FP16", "BF16", "UINT32", "INT32", "FP32", "UINT64", "INT64", "FP64"}) {
    const size_t size = static_cast<size_t>(bits_of(*kserve::parse_datatype(datatype)) / 8);
    std::string bytes(size * 6, '\1');
    for (size_t i = 0; i < bytes.size(); i += size) bytes[i] = static_cast<char>(i / size % 2);
    ModelInferRequest request;
    request.set_model_name("echo");
    request.set_id("42");
    auto& input = *request.add_inputs();
    input.set_name("IN0");
    input.set_datatype(datatype);
    input.add_shape(2);
    input.add_shape(3);
    request.add_raw_input_contents(bytes);
    ASSERT_TRUE(infer(request).ok()) << datatype;
    ASSERT_EQ(response_.outputs_size(), 1);
    EXPECT_EQ(response_.id(), "42");
    EXPECT_EQ(response_.model_name(), "echo");
    EXPECT_EQ(response_.model_version(), "1");
    EXPECT_EQ(response_.outputs(0).name(), "OUT0");
    EXPECT_EQ(response_.outputs(0).datatype(), datatype);
    EXPECT_EQ(response_.outputs(0).shape_size(), 2);
    ASSERT_EQ(response_.raw_output_contents_size(), 1);
    EXPECT_EQ(response_.raw_output_contents(0), bytes) << datatype;
  }
}

TEST_F(GrpcInfer, EchoesBytes) {
  ModelInferRequest request;
  request.set_model_name("echo");
  auto& input = *request.add_inputs();
  input.set_name("IN0");
  input.set_datatype("BYTES");
  input.add_shape(3);
  const std::string wire("\3\0\0\0a\0b\0\0\0\0\1\0\0\0\xff", 16);
  request.add_raw_input_contents(wire);
  ASSERT_TRUE(infer(request).ok());
  EXPECT_EQ(response_.raw_output_contents(0), wire);

  request.clear_raw_input_contents();
  auto& contents = *request.mutable_inputs(0)->mutable_contents();
  contents.add_bytes_contents(std::string("a\0b", 3));
  contents.add_bytes_contents("");
  contents.add_bytes_contents("\xff");
  ASSERT_TRUE(infer(request).ok());
  EXPECT_EQ(response_.raw_output_contents(0), wire);
}

TEST_F(GrpcInfer, TakesTypedContents) {
  const auto typed = [&](const char* datatype, const auto& fill) {
    ModelInferRequest request;
    request.set_model_name("echo");
    auto& input = *request.add_inputs();
    input.set_name("IN0");
    input.set_datatype(datatype);
    input.add_shape(2);
    fill(*input.mutable_contents());
    const grpc::Status status = infer(request);
    EXPECT_TRUE(status.ok()) << datatype << ": " << status.error_message();
    return status.ok() ? response_.raw_output_contents(0) : std::string();
  };
  const auto ints = [](auto& c) { c.add_int_contents(-5), c.add_int_contents(100); };
  const auto uints = [](auto& c) { c.add_uint_contents(5), c.add_uint_contents(200); };
  EXPECT_EQ(values_of<int8_t>(typed("INT8", ints)), (std::vector<int8_t>{-5, 100}));
  EXPECT_EQ(values_of<int16_t>(typed("INT16", ints)), (std::vector<int16_t>{-5, 100}));
  EXPECT_EQ(values_of<int32_t>(typed("INT32", ints)), (std::vector<int32_t>{-5, 100}));
  EXPECT_EQ(values_of<uint8_t>(typed("UINT8", uints)), (std::vector<uint8_t>{5, 200}));
  EXPECT_EQ(values_of<uint16_t>(typed("UINT16", uints)), (std::vector<uint16_t>{5, 200}));
  EXPECT_EQ(values_of<uint32_t>(typed("UINT32", uints)), (std::vector<uint32_t>{5, 200}));
  EXPECT_EQ(values_of<int64_t>(typed("INT64", [](auto& c) { c.add_int64_contents(-1), c.add_int64_contents(INT64_MAX); })),
            (std::vector<int64_t>{-1, INT64_MAX}));
  EXPECT_EQ(values_of<uint64_t>(typed("UINT64", [](auto& c) { c.add_uint64_contents(1), c.add_uint64_contents(UINT64_MAX); })),
            (std::vector<uint64_t>{1, UINT64_MAX}));
  EXPECT_EQ(values_of<float>(typed("FP32", [](auto& c) { c.add_fp32_contents(1.5f), c.add_fp32_contents(-2); })),
            (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(values_of<double>(typed("FP64", [](auto& c) { c.add_fp64_contents(1.5), c.add_fp64_contents(-2); })),
            (std::vector<double>{1.5, -2}));
  EXPECT_EQ(typed("BOOL", [](auto& c) { c.add_bool_contents(true), c.add_bool_contents(false); }), std::string("\1\0", 2));
}

TEST_F(GrpcInfer, EmptyTensors) {
  ASSERT_TRUE(infer(request_of<float>("echo", "FP32", {})).ok());
  ASSERT_EQ(response_.raw_output_contents_size(), 1);
  EXPECT_EQ(response_.raw_output_contents(0), "");
  ModelInferRequest request = request_of<float>("echo", "BYTES", {});
  ASSERT_TRUE(infer(request).ok());
  EXPECT_EQ(response_.outputs(0).shape(0), 0);
}

TEST_F(GrpcInfer, RefusesWhatIsNotConsistent) {
  const auto invalid = grpc::StatusCode::INVALID_ARGUMENT;
  const ModelInferRequest good = request_of<int32_t>("echo", "INT32", {1, 2});
  ModelInferRequest request = good;
  request.set_model_name("nothing");
  expect_error(request, grpc::StatusCode::NOT_FOUND, "nothing");
  request = good;
  request.set_model_version("one");
  expect_error(request, invalid, "one");
  request = good;
  request.set_model_version("7");
  expect_error(request, grpc::StatusCode::NOT_FOUND, "7");
  request = good;
  request.mutable_inputs(0)->set_datatype("INT33");
  expect_error(request, invalid, "'INT33' is not a datatype");
  request = good;
  request.mutable_inputs(0)->set_shape(0, -2);
  expect_error(request, invalid, "negative dimension");
  request = good;
  request.mutable_inputs(0)->set_shape(0, 3);
  expect_error(request, invalid, "found 8 bytes");
  request = good;
  request.mutable_inputs(0)->set_shape(0, int64_t{1} << 62);
  expect_error(request, invalid, "found 8 bytes");
  request = good;
  request.add_raw_input_contents("more");
  expect_error(request, invalid, "expected 1 raw_input_contents");
  request = good;
  *request.add_inputs() = good.inputs(0);
  expect_error(request, invalid, "given twice");
  request = good;
  request.mutable_inputs(0)->mutable_contents()->add_int_contents(1);
  expect_error(request, invalid, "has contents");
  request = good;
  request.clear_raw_input_contents();
  expect_error(request, invalid, "expected 2 elements in int_contents by its shape [2], found 0");
  request.mutable_inputs(0)->set_datatype("FP16");
  expect_error(request, invalid, "raw_input_contents");
  request = good;
  request.add_outputs()->set_name("OUT0");
  request.add_outputs()->set_name("OUT0");
  expect_error(request, invalid, "requested twice");
  request = good;
  request.clear_raw_input_contents();
  request.mutable_inputs(0)->set_datatype("INT8");
  request.mutable_inputs(0)->mutable_contents()->add_int_contents(1);
  request.mutable_inputs(0)->mutable_contents()->add_int_contents(128);
  expect_error(request, invalid, "128 at element 1 is not a INT8");
  ASSERT_TRUE(infer(good).ok());
}

TEST_F(GrpcInfer, ParametersReachTheModel) {
  ModelInferRequest request = request_of<int32_t>("echo", "INT32", {1});
  auto& parameters = *request.mutable_parameters();
  parameters["sequence_id"].set_int64_param(7);
  parameters["sequence_start"].set_bool_param(true);
  parameters["sequence_end"].set_bool_param(true);
  parameters["priority"].set_uint64_param(2);
  parameters["timeout"].set_int64_param(5000);
  parameters["flag"].set_bool_param(true);
  parameters["count"].set_int64_param(-3);
  parameters["ratio"].set_double_param(0.5);
  parameters["text"].set_string_param("t");
  ASSERT_TRUE(infer(request, {{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}).ok());
  const InferRequest& last = state_->last;
  EXPECT_EQ(last.sequence.number, 7U);
  EXPECT_TRUE(last.sequence_start && last.sequence_end);
  EXPECT_EQ(last.priority, 2U);
  EXPECT_EQ(last.timeout_us, 5000U);
  EXPECT_EQ(last.parameters.size(), 4U);
  EXPECT_EQ(last.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  EXPECT_GT(last.received_ns, 0);
  // The model echoes its parameters.
  EXPECT_EQ(response_.parameters().at("flag").bool_param(), true);
  EXPECT_EQ(response_.parameters().at("count").int64_param(), -3);
  EXPECT_EQ(response_.parameters().at("ratio").double_param(), 0.5);
  EXPECT_EQ(response_.parameters().at("text").string_param(), "t");

  parameters["sequence_id"].set_string_param("seven");
  ASSERT_TRUE(infer(request).ok());
  EXPECT_EQ(state_->last.sequence.text, "seven");
  for (const char* reserved : {"headers", "triton_x", "binary_data_output", "triton_enable_empty_final_response"}) {
    ModelInferRequest refused = request_of<int32_t>("echo", "INT32", {1});
    (*refused.mutable_parameters())[reserved].set_bool_param(true);
    expect_error(refused, grpc::StatusCode::INVALID_ARGUMENT, "reserved");
  }
}

TEST_F(GrpcInfer, HeadersAreForwarded) {
  GrpcOptions options;
  options.forward_header_pattern = "^x-my";
  restart(std::move(options));
  ASSERT_TRUE(infer(request_of<int32_t>("echo", "INT32", {1}), {{"x-my-header", "v"}, {"other", "w"}}).ok());
  ASSERT_EQ(state_->last.parameters.size(), 1U);
  EXPECT_EQ(std::get<std::string>(state_->last.parameters.at("x-my-header")), "v");
}

TEST_F(GrpcInfer, Classification) {
  ModelInferRequest request = request_of<int32_t>("echo", "INT32", {4, 3, 2});
  auto& output = *request.add_outputs();
  output.set_name("OUT0");
  (*output.mutable_parameters())["classification"].set_int64_param(2);
  ASSERT_TRUE(infer(request).ok());
  EXPECT_EQ(response_.outputs(0).datatype(), "BYTES");
  EXPECT_EQ(response_.raw_output_contents(0), std::string("\3\0\0\0004:0\3\0\0\0003:1", 14));
  (*request.mutable_outputs(0)->mutable_parameters())["classification"].set_int64_param(0);
  expect_error(request, grpc::StatusCode::INVALID_ARGUMENT, "must be 1 or more");
}

TEST_F(GrpcInfer, ErrorCodesBecomeStatuses) {
  const std::pair<ErrorCode, grpc::StatusCode> codes[] = {
      {ErrorCode::InvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
      {ErrorCode::NotFound, grpc::StatusCode::NOT_FOUND},
      {ErrorCode::Unsupported, grpc::StatusCode::UNIMPLEMENTED},
      {ErrorCode::Corrupt, grpc::StatusCode::INVALID_ARGUMENT},
      {ErrorCode::OutOfRange, grpc::StatusCode::INVALID_ARGUMENT},
      {ErrorCode::ResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
      {ErrorCode::Io, grpc::StatusCode::INTERNAL},
      {ErrorCode::Unavailable, grpc::StatusCode::UNAVAILABLE},
      {ErrorCode::AlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
      {ErrorCode::Cancelled, grpc::StatusCode::CANCELLED},
      {ErrorCode::Internal, grpc::StatusCode::INTERNAL},
  };
  for (const auto& [code, expected] : codes) {
    ModelInferRequest request = request_of<int32_t>("fail", "INT32", {1});
    (*request.mutable_parameters())["code"].set_int64_param(static_cast<int64_t>(code));
    expect_error(request, expected, fmt::format("fails with {}", to_string(code)));
  }
}

TEST_F(GrpcInfer, DecoupledModelsNeedAStream) {
  expect_error(request_of<int32_t>("repeat", "INT32", {1, 2}), grpc::StatusCode::UNIMPLEMENTED, "ModelStreamInfer");
}

TEST_F(GrpcInfer, BytesThatAreNoMessage) {
  grpc::GenericStub generic(connect());
  const grpc::Slice slice(std::string("\x0a\xff\xff\xff\xff\x0f"));
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::promise<grpc::Status> done;
  generic.UnaryCall(&context, "/inference.GRPCInferenceService/ModelInfer", {}, &request, &response,
                    [&](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
}

TEST_F(GrpcInfer, CallsThatAreNotOfTheServices) {
  grpc::GenericStub generic(connect());
  const auto call = [&](const std::string& method) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto stream = generic.PrepareCall(&context, method, &queue);
    void* tag = nullptr;
    bool ok = false;
    stream->StartCall(nullptr);
    queue.Next(&tag, &ok);
    stream->WritesDone(nullptr);  // no message
    queue.Next(&tag, &ok);
    grpc::Status status;
    stream->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    return status.error_code();
  };
  EXPECT_EQ(call("/inference.GRPCInferenceService/ModelTrain"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(call("/grpc.health.v1.Health/Watch"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(call("/inference.GRPCInferenceService/ModelInfer"), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(call("/inference.GRPCInferenceService/ServerLive"), grpc::StatusCode::INTERNAL);
}

TEST_F(GrpcInfer, ThreadsThatAreHeldUpHaveAStandIn) {
  const int num_threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 2, 1u, 16u));
  std::atomic<int> num_answered = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < num_threads; ++i)
    clients.emplace_back([&] {
      grpc::ClientContext context;
      ModelInferResponse response;
      if (stub_->ModelInfer(&context, request_of<int32_t>("block", "INT32", {1}), &response).ok()) ++num_answered;
    });
  ASSERT_TRUE(state_->wait_for([&] { return state_->num_blocked == num_threads; }));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(infer(request_of<int32_t>("echo", "INT32", {i})).ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_TRUE(infer(request_of<int32_t>("echo_thread", "INT32", {1})).ok());
  EXPECT_EQ(num_answered, 0);
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_open = true;
  }
  state_->changed.notify_all();
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(num_answered, num_threads);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the stand-in sleeps now
  EXPECT_TRUE(infer(request_of<int32_t>("echo", "INT32", {1})).ok());
}

TEST_F(GrpcInfer, ClientsThatLeaveAtAnyMoment) {
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c)
    clients.emplace_back([&, c] {
      for (int i = 0; i < 100; ++i) {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::microseconds(i * 20));
        ModelInferResponse response;
        stub_->ModelInfer(&context, request_of<int32_t>(c % 2 ? "echo" : "echo_thread", "INT32", {i}), &response);
      }
    });
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < 1000 && grpc_->num_calls() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(grpc_->num_calls(), 0);
  EXPECT_TRUE(infer(request_of<int32_t>("echo", "INT32", {1})).ok());
}

TEST_F(GrpcInfer, LargeTensorsGoBothWays) {
  std::vector<float> values(3 << 20);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  ASSERT_TRUE(infer(request_of<float>("echo_thread", "FP32", values)).ok());
  EXPECT_EQ(values_of<float>(response_.raw_output_contents(0)), values);
}

TEST_F(GrpcInfer, AnswersBeyondAMessageAreRefused) {
  ModelInferRequest request = request_of<int32_t>("big", "INT32", {1});
  (*request.mutable_parameters())["bytes"].set_int64_param(std::numeric_limits<int32_t>::max());
  expect_error(request, grpc::StatusCode::INVALID_ARGUMENT, "a message of gRPC holds 2147483647");
}

TEST_F(GrpcInfer, CompressedRequestsAndResponses) {
  GrpcOptions options;
  options.response_compression = "high";
  restart(std::move(options));
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    const std::vector<int32_t> values(100'000, 7);
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    ASSERT_TRUE(stub_->ModelInfer(&context, request_of<int32_t>("echo", "INT32", values), &response_).ok());
    EXPECT_EQ(values_of<int32_t>(response_.raw_output_contents(0)), values);
  }
}

TEST_F(GrpcInfer, ClientsCancel) {
  grpc::ClientContext context;
  std::thread client([&] {
    const grpc::Status status = stub_->ModelInfer(&context, request_of<int32_t>("hold", "INT32", {1}), &response_);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  });
  ASSERT_TRUE(state_->wait_for([&] { return state_->held.size() == 1; }));
  context.TryCancel();
  client.join();
  EXPECT_TRUE(state_->wait_for([&] { return state_->num_cancelled == 1 && state_->held.empty(); }));
}

TEST_F(GrpcInfer, DeadlinesCancel) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const grpc::Status status = stub_->ModelInfer(&context, request_of<int32_t>("hold", "INT32", {1}), &response_);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(state_->wait_for([&] { return state_->num_cancelled == 1; }));
}

TEST_F(GrpcInfer, CallsEndThoughTheModelDoesNotListen) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(stub_->ModelInfer(&context, request_of<int32_t>("deaf", "INT32", {1}), &response_).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  for (int i = 0; i < 1000 && grpc_->num_calls() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(grpc_->num_calls(), 0);
  release();  // an answer to a call that is gone
}

TEST_F(GrpcInfer, ManyClientsAtOnce) {
  std::vector<std::thread> clients;
  std::atomic<int> wrong = 0;
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 100; ++i) {
        grpc::ClientContext context;
        ModelInferResponse response;
        const std::vector<int32_t> values = {c, i};
        const bool ok = stub_->ModelInfer(&context, request_of<int32_t>(i % 2 ? "echo" : "echo_thread", "INT32", values), &response).ok();
        if (!ok || values_of<int32_t>(response.raw_output_contents(0)) != values) ++wrong;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace tokamak::server
