#pragma once
// An answer as the bytes of an HTTP/1.1 message. Knows no Boost.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/http/http.h"

namespace tokamak::server::http {

// What a request asks of the form of its answer.
struct AnswerForm {
  bool keep_alive = false, is_http10 = false;
  bool is_head = false;       // the answer has no body, only its length
  std::string encoding = {};  // "gzip", "deflate" or ""
};

// Status line and headers; without a length the body comes in chunks.
std::string head_of(const Response& response, const AnswerForm& form, std::optional<size_t> length);

// A whole answer, and how much of it is sent. Compresses bodies that are worth it.
class Outgoing {
 public:
  Outgoing(Response response, const AnswerForm& form);
  Outgoing(const Outgoing&) = delete;

  // Sends what a socket takes without waiting. An error shows when the rest is sent.
  void send_some(int socket);
  // What is not sent; valid as long as this.
  const std::vector<std::span<const std::byte>>& rest() const { return rest_; }

 private:
  Response response_;
  std::string head_, packed_;
  std::vector<std::span<const std::byte>> rest_;
};

}  // namespace tokamak::server::http
