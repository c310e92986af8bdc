#pragma once
// A client without a socket: what an endpoint sends is kept, and the client may leave.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/http/http.h"

namespace tokamak::server {

class FakeResponder final : public http::Responder {
 public:
  void send(http::Response response) override {
    const std::lock_guard lock(mutex_);
    if (has_answer_) ++num_extra_answers;
    has_answer_ = true;
    response_ = std::move(response);
    complete();
  }
  void begin(int status, std::vector<http::Header> headers) override {
    const std::lock_guard lock(mutex_);
    if (has_answer_) ++num_extra_answers;
    has_answer_ = true;
    response_.status = status;
    response_.headers = std::move(headers);
  }
  void write(std::string piece) override {
    const std::lock_guard lock(mutex_);
    response_.body += piece;
    pieces_.push_back(std::move(piece));
    changed_.notify_all();
  }
  void end() override {
    const std::lock_guard lock(mutex_);
    complete();
  }
  size_t queued_bytes() const override { return queued; }
  void on_disconnect(std::function<void()> call) override {
    const std::lock_guard lock(mutex_);
    on_disconnect_ = std::move(call);
  }
  void on_complete(std::function<void(int64_t answered_ns, int64_t now_ns)> call) override {
    const std::lock_guard lock(mutex_);
    on_complete_ = std::move(call);
  }

  void leave() {
    std::function<void()> call;
    {
      const std::lock_guard lock(mutex_);
      call = std::move(on_disconnect_);
    }
    if (call) call();
  }
  // False after ten seconds without an answer.
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return is_complete_; });
  }
  bool wait_for_pieces(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), [&] { return pieces_.size() >= count || is_complete_; });
  }

  int status() {
    const std::lock_guard lock(mutex_);
    return response_.status;
  }
  std::string header(const std::string& name) {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, value] : response_.headers)
      if (key == name) return value;
    return {};
  }
  std::string body() {
    const std::lock_guard lock(mutex_);
    return response_.body;
  }
  nlohmann::json json() { return nlohmann::json::parse(body()); }
  // Of a stream: its data events, [DONE] as a string.
  std::vector<nlohmann::json> events() {
    std::vector<nlohmann::json> events;
    const std::string all = body();
    for (size_t at = 0; at < all.size();) {
      const size_t end = all.find("\n\n", at);
      if (end == std::string::npos || all.compare(at, 6, "data: ") != 0) throw std::runtime_error("not an event: " + all.substr(at));
      const std::string data = all.substr(at + 6, end - at - 6);
      events.push_back(data == "[DONE]" ? nlohmann::json(data) : nlohmann::json::parse(data));
      at = end + 2;
    }
    return events;
  }

  std::atomic<size_t> queued = 0;
  std::atomic<int> num_extra_answers = 0;

 private:
  void complete() {
    is_complete_ = true;
    if (const auto call = std::exchange(on_complete_, nullptr)) call(1, 2);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  http::Response response_;
  std::vector<std::string> pieces_;
  std::function<void()> on_disconnect_;
  std::function<void(int64_t, int64_t)> on_complete_;
  bool has_answer_ = false, is_complete_ = false;
};

}  // namespace tokamak::server
