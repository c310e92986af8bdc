#include "server/http/outgoing.h"

#include <fmt/format.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "server/http/compression.h"

namespace tokamak::server::http {

std::string head_of(const Response& response, const AnswerForm& form, std::optional<size_t> length) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", response.status, reason_of(response.status));
  for (const auto& [name, value] : response.headers) {
    // A line break in a value would begin another header.
    head += name + ": ";
    for (const char c : value) head += c == '\r' || c == '\n' || c == '\0' ? ' ' : c;
    head += "\r\n";
  }
  if (length) head += fmt::format("Content-Length: {}\r\n", *length);
  else if (!form.is_http10) head += "Transfer-Encoding: chunked\r\n";
  if (!form.keep_alive || (form.is_http10 && !length)) head += "Connection: close\r\n";
  else if (form.is_http10) head += "Connection: keep-alive\r\n";
  return head += "\r\n";
}

Outgoing::Outgoing(Response response, const AnswerForm& form) : response_(std::move(response)) {
  constexpr size_t kWorthwhile = 1024;
  rest_ = {{}, std::as_bytes(std::span(response_.body))};
  for (const auto& [owner, piece] : response_.pieces) rest_.push_back(piece);
  size_t size = 0;
  for (const auto& piece : rest_) size += piece.size();
  if (!form.encoding.empty() && size >= kWorthwhile) {
    packed_ = compress(form.encoding, rest_);
    size = packed_.size();
    rest_ = {{}, std::as_bytes(std::span(packed_))};
    response_.headers.emplace_back("Content-Encoding", form.encoding);
  }
  head_ = head_of(response_, form, size);
  if (form.is_head) rest_.resize(1);
  rest_[0] = std::as_bytes(std::span(head_));
}

void Outgoing::send_some(int socket) {
  std::vector<iovec> buffers;
  for (const auto& piece : rest_)
    if (buffers.size() < IOV_MAX) buffers.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
  const msghdr message = {.msg_iov = buffers.data(), .msg_iovlen = buffers.size()};
  const ssize_t sent = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  auto left = static_cast<size_t>(std::max<ssize_t>(sent, 0));
  auto first = rest_.begin();
  for (; first != rest_.end() && left >= first->size(); ++first) left -= first->size();
  if (first != rest_.end()) *first = first->subspan(left);
  rest_.erase(rest_.begin(), first);
}

}  // namespace tokamak::server::http
