#pragma once
// A TCP client that sends exactly what it is told.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "base/error.h"

namespace tokamak::server::http {

class RawClient {
 public:
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fail(ErrorCode::Io, "cannot connect to port {}", port);
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;

  void send(std::string_view text) { (void)::send(fd_, text.data(), text.size(), MSG_NOSIGNAL); }
  void finish_sending() { shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  // What arrives until `end` is in it, the peer closes, or `timeout_ms` pass without a byte.
  std::string read_until(std::string_view end, int timeout_ms = 3000) {
    std::string text = std::move(rest_);
    rest_.clear();
    char buffer[65536];
    for (size_t at; (at = text.find(end)) == std::string::npos || end.empty();) {
      pollfd entry = {fd_, POLLIN, 0};
      if (poll(&entry, 1, timeout_ms) <= 0) return text;
      const ssize_t size = recv(fd_, buffer, sizeof(buffer), 0);
      if (size <= 0) {
        is_closed_ = true;
        return text;
      }
      text.append(buffer, size);
    }
    const size_t stop = text.find(end) + end.size();
    rest_ = text.substr(stop);
    return text.substr(0, stop);
  }
  // One answer with a Content-Length: head and body.
  std::string read_answer(int timeout_ms = 3000) {
    std::string text = read_until("\r\n\r\n", timeout_ms);
    const size_t at = text.find("\r\nContent-Length: ");
    if (at == std::string::npos) return text;
    const size_t length = std::stoul(text.substr(at + 18));
    while (rest_.size() < length && !is_closed_) {
      const size_t before = rest_.size();
      rest_ = read_until(std::string_view("\0never\0", 7), timeout_ms);
      if (rest_.size() == before) break;
    }
    text += rest_.substr(0, length);
    rest_ = rest_.size() > length ? rest_.substr(length) : "";
    return text;
  }
  // The peer closed within `timeout_ms`.
  bool is_closed(int timeout_ms = 3000) {
    (void)read_until("", timeout_ms);
    return is_closed_;
  }

 private:
  int fd_;
  bool is_closed_ = false;
  std::string rest_;
};

}  // namespace tokamak::server::http
