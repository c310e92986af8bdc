#pragma once
// ModelInfer and ModelStreamInfer. Both read and write raw messages: the codec keeps what the tensors refer to.

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <regex>
#include <set>

#include "server/grpc/call_queue.h"
#include "server/server.h"

namespace tokamak::server {

class StreamInfer;

struct StreamLimits {
  // A stream is not read while it has this many requests without a final response, or this many bytes that the client has not taken.
  size_t max_requests = 1024;
  size_t max_queued_bytes = size_t{64} << 20;
  // A decoupled model does not wait for its client: past this the stream is ended with RESOURCE_EXHAUSTED.
  size_t max_unread_bytes = size_t{1} << 30;
};

// What the calls of one front end share. Outlives the last of them, which may end after the front end.
struct InferCalls {
  Server& server;
  std::optional<std::regex> forwarded_headers;  // metadata whose name matches becomes a request parameter
  StreamLimits limits;
  int max_inline = 0;  // threads that may execute at a time: all but the stand-in, as somebody must read what comes meanwhile
  std::atomic<int> num_inline = 0;
  std::atomic<int64_t> num_calls = 0;  // calls that gRPC has not done with

  std::mutex mutex;
  bool is_draining = false;
  std::set<StreamInfer*> streams;

  // Streams end as soon as they have answered what they have read.
  void drain();
};

// The client's cancellation, its deadline and its disappearance cancel the request and end the call at once, whether the model listens or
// not.
std::shared_ptr<CallHandler> make_infer(std::shared_ptr<InferCalls> calls, Call& call);
// Responses to requests for models that are not decoupled come in the order of those requests.
std::shared_ptr<CallHandler> make_stream(std::shared_ptr<InferCalls> calls, Call& call);

}  // namespace tokamak::server
