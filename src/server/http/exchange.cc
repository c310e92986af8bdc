#include "server/http/exchange.h"

#include <chrono>

namespace tokamak::server::http {

namespace {

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

}  // namespace

void Exchange::wake_locked() {
  if (detached_ || !wake_) return;
  if (auto self = weak_from_this().lock(); self && HeldWakes::keep(std::move(self))) return;
  wake_();
}

void Exchange::wake() {
  const std::lock_guard lock(mutex_);
  if (!detached_ && wake_) wake_();
}

void Exchange::answered_locked() {
  answered_ = true;
  if (on_complete_) answered_ns_ = now_ns();
}

void Exchange::send(Response response) {
  const std::lock_guard lock(mutex_);
  if (answered_) return;
  answered_locked();
  ended_ = true;
  if (detached_) return;
  work_.has_response = work_.is_complete = true;
  if (send_now_) send_now_(std::move(response));
  else work_.response = std::move(response);
  wake_locked();
}

void Exchange::begin(int status, std::vector<Header> headers) {
  const std::lock_guard lock(mutex_);
  if (answered_) return;
  answered_locked();
  streaming_ = true;
  if (detached_) return;
  work_.has_response = work_.is_streamed = true;
  work_.response = {.status = status, .headers = std::move(headers)};
  wake_locked();
}

void Exchange::write(std::string piece) {
  const std::lock_guard lock(mutex_);
  if (!streaming_ || ended_ || detached_ || gone_ || piece.empty()) return;
  queued_bytes_.fetch_add(piece.size(), std::memory_order_relaxed);
  const bool was_empty = work_.pieces.empty();
  work_.pieces.push_back(std::move(piece));
  if (was_empty) wake_locked();
}

void Exchange::end() {
  const std::lock_guard lock(mutex_);
  if (!streaming_ || ended_) return;
  ended_ = true;
  if (detached_) return;
  work_.is_complete = true;
  wake_locked();
}

void Exchange::on_disconnect(std::function<void()> call) {
  {
    const std::lock_guard lock(mutex_);
    if (!gone_) {
      on_disconnect_ = std::move(call);
      return;
    }
  }
  if (call) call();
}

void Exchange::on_complete(std::function<void(int64_t, int64_t)> call) {
  const std::lock_guard lock(mutex_);
  if (!detached_) on_complete_ = std::move(call);
}

Exchange::Work Exchange::take() {
  const std::lock_guard lock(mutex_);
  Work work = std::move(work_);
  work_ = {};
  return work;
}

void Exchange::disconnected() {
  std::function<void()> call;
  {
    const std::lock_guard lock(mutex_);
    if (gone_ || ended_) return;
    gone_ = true;
    call = std::move(on_disconnect_);
  }
  if (call) call();
}

void Exchange::stop_sending() {
  const std::lock_guard lock(mutex_);
  send_now_ = nullptr;
}

void Exchange::detach() {
  std::function<void()> wake, call;  // destroyed outside the lock
  std::function<void(int64_t, int64_t)> complete;
  {
    const std::lock_guard lock(mutex_);
    detached_ = true;
    send_now_ = nullptr;
    wake.swap(wake_);
    call.swap(on_disconnect_);
    complete.swap(on_complete_);
    work_ = {};
  }
  if (complete) complete(answered_ns_, now_ns());
}

ExchangeHandle::~ExchangeHandle() {
  exchange_->send({.status = 500,
                   .headers = {{"Content-Type", "application/json"}},
                   .body = R"({"error":"the request was dropped without an answer"})"});
  exchange_->end();
}

}  // namespace tokamak::server::http
