#pragma once
// One client's request on its way through a language model: submits, turns events into the answer, and cancels when the client leaves.

#include <memory>
#include <string>
#include <vector>

#include "server/http/http.h"
#include "server/openai/choice_writer.h"
#include "server/request_observer.h"
#include "server/trace.h"
#include "server/work_queue.h"

namespace tokamak::server::openai {

struct GenerationJob {
  std::shared_ptr<LlmModel> model;
  std::vector<llm::Request> requests;                  // one a prompt; on_event is set here
  std::vector<std::unique_ptr<ChoiceWriter>> choices;  // of each request, its n answers
  std::shared_ptr<const ChunkFrame> frame;
  std::vector<http::Header> headers;  // of the answer
  bool stream = false;
  bool include_usage = false;        // a chunk of its own, when streamed
  std::string whole_extra;           // further members of a whole response: ,"name":value
  int num_kept = 0;                  // > 0: of each request's answers, those with the best mean log-probability (best_of)
  bool computes_nothing = false;     // answers end before they begin: the echo of a prompt
  int64_t received_ns = 0;           // steady clock
  std::shared_ptr<Trace> trace;      // null: not traced
  std::shared_ptr<const void> hold;  // let go of when the answer is complete
};

// Everything is answered through `responder`, errors too; throws ApiError or Error when the requests are refused, and has then answered
// nothing. The model is let go of on a thread of `queue`: the engine's own cannot end its engine. `observer` may be null.
void generate(GenerationJob job, std::shared_ptr<http::Responder> responder, std::shared_ptr<WorkQueue> queue,
              std::shared_ptr<RequestObserver> observer);

// Above this many bytes that a client does not take, its request is cancelled.
inline constexpr size_t kMaxQueuedBytes = 32u << 20;

}  // namespace tokamak::server::openai
