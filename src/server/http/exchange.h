#pragma once
// One request's answer between the thread that makes it and the connection that writes it. Knows no sockets.

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>

#include "server/held_wakes.h"
#include "server/http/http.h"

namespace tokamak::server::http {

class Exchange : public Responder, public Wakeable, public std::enable_shared_from_this<Exchange> {
 public:
  // `wake` is called, from any thread, when there is something to write; never after detach(). `send_now`, which may be null, gets a whole
  // answer before that, on the thread that sends it; never after stop_sending() or detach().
  Exchange(std::function<void()> wake, std::function<void(Response)> send_now) : wake_(std::move(wake)), send_now_(std::move(send_now)) {}

  void send(Response response) override;
  void begin(int status, std::vector<Header> headers) override;
  void write(std::string piece) override;
  void end() override;
  size_t queued_bytes() const override { return queued_bytes_.load(std::memory_order_relaxed); }
  void on_disconnect(std::function<void()> call) override;
  void on_complete(std::function<void(int64_t answered_ns, int64_t now_ns)> call) override;
  void wake() override;  // for HeldWakes

  // The connection's side.
  struct Work {
    bool has_response = false;  // whole (`send_now` may have had it), or the status and headers of a streamed one
    bool is_streamed = false, is_complete = false;
    Response response;
    std::deque<std::string> pieces;
  };
  // What came since the last call.
  Work take();
  // Bytes of pieces that the client has taken.
  void wrote(size_t bytes) { queued_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  // The client is gone; calls what on_disconnect() registered, once.
  void disconnected();
  // `send_now` is not being called any more, nor will be.
  void stop_sending();
  // The connection ends its part: no more wake, everything that comes is dropped; calls what on_complete() registered.
  void detach();

 private:
  void wake_locked();
  void answered_locked();

  mutable std::mutex mutex_;
  std::function<void()> wake_, on_disconnect_;
  std::function<void(Response)> send_now_;
  std::function<void(int64_t, int64_t)> on_complete_;
  Work work_;
  bool answered_ = false, streaming_ = false, ended_ = false, gone_ = false, detached_ = false;
  int64_t answered_ns_ = 0;  // known when somebody wants to
  std::atomic<size_t> queued_bytes_ = 0;
};

// What handlers hold: when the last of them drops it without an answer, the client is told.
class ExchangeHandle : public Responder {
 public:
  explicit ExchangeHandle(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~ExchangeHandle() override;
  void send(Response response) override { exchange_->send(std::move(response)); }
  void begin(int status, std::vector<Header> headers) override { exchange_->begin(status, std::move(headers)); }
  void write(std::string piece) override { exchange_->write(std::move(piece)); }
  void end() override { exchange_->end(); }
  size_t queued_bytes() const override { return exchange_->queued_bytes(); }
  void on_disconnect(std::function<void()> call) override { exchange_->on_disconnect(std::move(call)); }
  void on_complete(std::function<void(int64_t, int64_t)> call) override { exchange_->on_complete(std::move(call)); }

 private:
  std::shared_ptr<Exchange> exchange_;
};

}  // namespace tokamak::server::http
