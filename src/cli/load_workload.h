#pragma once
// What `tokamak load` asks of a server, and how the answers are read: one class a protocol.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/client.h"

namespace tokamak::cli {

// One request as its client saw it. Times are steady-clock nanoseconds.
struct LoadRecord {
  int64_t start_ns = 0, first_ns = 0, end_ns = 0;  // sent (or due, in an open loop), first token or first byte, complete
  std::vector<int64_t> event_ns;                   // of every event that brought text
  int prompt_tokens = 0, output_tokens = 0;        // as the server counted them; requests that are no text have none
  int rows = 0;                                    // of tensors: inferences
  std::string error;                               // its kind; empty: it succeeded
};

// Reads the body of one answer, piece by piece.
class AnswerReader {
 public:
  virtual ~AnswerReader() = default;
  virtual void piece(int status, std::string_view bytes, int64_t now_ns, LoadRecord& record) = 0;
  // All of it has come: fills in what the body says, or an error.
  virtual void end(int status, LoadRecord& record) = 0;
};

class Workload {
 public:
  virtual ~Workload() = default;
  virtual std::string name() const = 0;                        // of the model
  virtual server::http::ClientRequest request(int index) = 0;  // deterministic in the index and the seed
  virtual std::unique_ptr<AnswerReader> reader() = 0;
  virtual bool is_text() const = 0;
};

struct LoadTarget {
  server::http::Url url;
  std::string model;    // empty: the only one the server has
  std::string api_key;  // sent as a Bearer key when not empty
  double timeout_s = 600;
  uint64_t seed = 1;
};

struct TextLoad {
  bool is_chat = false, stream = true, ignore_eos = true;
  int prompt_tokens = 128, max_tokens = 128;
  double temperature = 0;
  std::vector<std::string> prompts;  // not empty: these in turn, instead of random tokens
  std::string extra;                 // a JSON object whose members join every request
};
// Both ask the server which models it has. Throw NotFound when it has no such model, or several and none was named.
std::unique_ptr<Workload> make_openai_load(const LoadTarget& target, const TextLoad& load);

struct TensorLoad {
  int batch = 1;
  std::vector<std::pair<std::string, Shape>> shapes;  // of inputs with variable dims, without the batch
};
std::unique_ptr<Workload> make_kserve_load(const LoadTarget& target, const TensorLoad& load);

// "error" or "message" of a JSON body in OpenAI's or KServe's form; "" when there is none.
std::string message_of_body(std::string_view body);

}  // namespace tokamak::cli
