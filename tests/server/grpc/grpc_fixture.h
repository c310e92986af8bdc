#pragma once
// A server with fake models behind a GrpcServer on a free port, and a client of it in the same process.

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "grpc_service.grpc.pb.h"
#include "server/grpc/grpc_server.h"
#include "server/server.h"

namespace tokamak::server {

// What the fake models have seen, and what holds them back. One per server.
struct FakeState {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::unique_ptr<InferRequest>> held;  // of "hold"
  int num_cancelled = 0;
  int num_blocked = 0;  // that "block" has
  bool is_open = false;
  // Of the last request to "echo".
  InferRequest last;  // without inputs
  std::vector<const void*> last_data;

  bool wait_for(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(10), condition);
  }
};

// By the model's name:
//   echo      output OUT<i> is input IN<i>; classification k: k strings
//   hold      as echo, once the test calls release(); until then it can be cancelled
//   deaf      never answers
//   repeat    decoupled: IN0 [n] i32 gives n responses [1] and an empty final one
//   fail      error with the code that parameter "code" names
//   block     as echo, but keeps the thread that brings the request until the state is open
//   big       OUT0 with as many bytes as parameter "bytes" says
// Models whose name ends in "_thread" answer from a thread of their own.
class GrpcTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  // Starts over with other options.
  void restart(GrpcOptions options);
  std::shared_ptr<grpc::Channel> connect(grpc::ChannelArguments arguments = {},
                                         const std::shared_ptr<grpc::ChannelCredentials>& credentials = grpc::InsecureChannelCredentials());
  void release(size_t index = 0);  // answers a request that "hold" has

  std::filesystem::path folder_;
  std::shared_ptr<SharedMemoryRegistry> shared_memory_;  // null: not allowed
  std::shared_ptr<FakeState> state_ = std::make_shared<FakeState>();
  std::unique_ptr<Server> server_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
};

std::shared_ptr<Model> make_fake_model(const LoadArgs& args, std::shared_ptr<FakeState> state);

// A request with one raw input IN0 of `values`.
template <class T>
inference::ModelInferRequest request_of(const std::string& model, const std::string& datatype, const std::vector<T>& values) {
  inference::ModelInferRequest request;
  request.set_model_name(model);
  auto& input = *request.add_inputs();
  input.set_name("IN0");
  input.set_datatype(datatype);
  input.add_shape(static_cast<int64_t>(values.size()));
  request.add_raw_input_contents(values.data(), values.size() * sizeof(T));
  return request;
}

template <class T>
std::vector<T> values_of(const std::string& bytes) {
  const auto* first = reinterpret_cast<const T*>(bytes.data());
  return {first, first + bytes.size() / sizeof(T)};
}

}  // namespace tokamak::server
