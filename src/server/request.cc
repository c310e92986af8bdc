#include "server/request.h"

namespace tokamak::server {

void Cancellation::cancel() {
  std::function<void()> call;
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_.exchange(true, std::memory_order_acq_rel)) return;
    call = std::move(call_);
  }
  if (call) call();
}

void Cancellation::on_cancel(std::function<void()> call) {
  {
    const std::lock_guard lock(mutex_);
    if (!is_cancelled() || !call) {
      call_ = std::move(call);
      return;
    }
  }
  call();
}

void respond_error(InferRequest& request, ErrorCode code, std::string message) {
  InferResponse response{.model_name = request.model_name, .model_version = request.model_version, .id = request.id};
  response.error_code = code;
  response.error = std::move(message);
  request.on_response(std::move(response));
}

}  // namespace tokamak::server
