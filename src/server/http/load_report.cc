#include "server/http/load_report.h"

#include <fmt/format.h>

#include "server/llm_model.h"

namespace tokamak::server::http {

namespace {

class ReportingResponder final : public Responder {
 public:
  ReportingResponder(std::shared_ptr<Responder> inner, std::string format, std::shared_ptr<LlmModel> llm)
      : inner_(std::move(inner)), format_(std::move(format)), llm_(std::move(llm)) {}

  void send(Response response) override {
    add_report(response.headers);
    inner_->send(std::move(response));
  }
  void begin(int status, std::vector<Header> headers) override {
    add_report(headers);
    inner_->begin(status, std::move(headers));
  }
  void write(std::string piece) override { inner_->write(std::move(piece)); }
  void end() override { inner_->end(); }
  size_t queued_bytes() const override { return inner_->queued_bytes(); }
  void on_disconnect(std::function<void()> call) override { inner_->on_disconnect(std::move(call)); }
  void on_complete(std::function<void(int64_t, int64_t)> call) override { inner_->on_complete(std::move(call)); }

 private:
  void add_report(std::vector<Header>& headers) const {
    if (std::string report = load_report(format_, llm_->engine().statistics()); !report.empty())
      headers.emplace_back("endpoint-load-metrics", std::move(report));
  }

  const std::shared_ptr<Responder> inner_;
  const std::string format_;
  const std::shared_ptr<LlmModel> llm_;
};

}  // namespace

std::string load_report(std::string_view format, const llm::Statistics& s) {
  const double utilization = s.blocks_total > 0 ? static_cast<double>(s.blocks_used) / s.blocks_total : 0;
  const int64_t capacity = int64_t{s.blocks_total} * s.block_size;
  if (format == "json")
    return fmt::format(R"(JSON {{"named_metrics":{{"kv_cache_utilization":{},"max_token_capacity":{}}}}})", utilization, capacity);
  if (format == "text")
    return fmt::format("TEXT named_metrics.kv_cache_utilization={:.6f}, named_metrics.max_token_capacity={}", utilization, capacity);
  return {};
}

std::shared_ptr<Responder> with_load_report(std::shared_ptr<Responder> responder, const Request& request, std::shared_ptr<LlmModel> llm) {
  const std::string_view format = request.header("endpoint-load-metrics-format");
  if (format.empty() || !llm) return responder;
  return std::make_shared<ReportingResponder>(std::move(responder), std::string(format), std::move(llm));
}

}  // namespace tokamak::server::http
