// tokamak cost: measured throughput to GPUs and money.

#include <fmt/format.h>

#include <cmath>

#include "base/file.h"
#include "cli/command.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
GPUs needed = ceil(qps * tokens per request / (tokens per second of one GPU * (1 - headroom))). A machine without GPUs counts as one "GPU":
give its price with --gpu-hour. Money per million tokens is what the whole fleet costs over the tokens it serves; "at full load" is the floor
that a busier fleet approaches. A bench file of a language model gives output tokens per second over a whole run (of the fastest run, or the one of
--batch) and the tokens per request; a bench file of tensors gives queries per second, and the figures are then per million queries.

Examples:
  tokamak cost --tokens-per-second 2500 --qps 40 --tokens-per-request 300 --gpu-hour 2.50
  tokamak bench llama.engine --batch 1,8,64 --json bench.json && tokamak cost --from bench.json --qps 200 --gpu-hour 1.99 --headroom 0.3
  tokamak cost --from bench.json --batch 8 --qps 12 --gpu-hour 0.40 --json -
)";

constexpr double kHoursPerMonth = 730;  // 365 * 24 / 12

// What one GPU does, in units ("token" or "query") per second.
struct Rate {
  double per_second = 0;
  double per_request = 1;  // units in one request
  const char* unit = "token";
  std::string source;
};

double number_in(const Json& json, const char* key, const std::string& file) {
  if (!json.contains(key) || !json[key].is_number())
    fail(ErrorCode::InvalidArgument, "'{}' has no number named {}: expected the output of tokamak bench --json", file, key);
  return json[key].get<double>();
}

Rate rate_of_bench(const std::string& file, int batch) {
  const Json json = Json::parse(read_file(file), nullptr, false);
  if (!json.is_object()) fail(ErrorCode::Corrupt, "'{}' is not a JSON object: expected the output of tokamak bench --json", file);
  if (!json.contains("runs")) {
    if (batch > 0) fail(ErrorCode::InvalidArgument, "--batch {}: '{}' measures tensors and has no runs by batch", batch, file);
    return {number_in(json, "throughput_qps", file), 1, "query", fmt::format("{}, queries", file)};
  }
  const Json& runs = json["runs"];
  if (!runs.is_array() || runs.empty()) fail(ErrorCode::InvalidArgument, "'{}' holds no runs", file);
  Rate best;
  std::vector<int64_t> batches;
  for (const Json& run : runs) {
    if (!run.is_object()) fail(ErrorCode::Corrupt, "'{}': a run is not an object", file);
    // The whole run's tokens per second, prompts included, is what a request costs; files of other tools may not have it.
    const double rate = number_in(run, run.contains("throughput_tokens_per_s") ? "throughput_tokens_per_s" : "output_tokens_per_s", file);
    const auto run_batch = static_cast<int64_t>(number_in(run, "batch", file));
    batches.push_back(run_batch);
    if ((batch > 0 && run_batch != batch) || rate <= best.per_second) continue;
    best = {rate, number_in(run, "new_tokens", file), "token", fmt::format("{}, batch {}", file, run_batch)};
  }
  if (batch > 0 && best.per_second == 0)
    fail(ErrorCode::NotFound, "--batch {}: '{}' has runs of batch {}", batch, file, fmt::join(batches, ", "));
  return best;
}

std::string money(double usd) {
  const double size = std::abs(usd);
  return size >= 100 ? fmt::format("${:.0f}", usd) : size >= 1 ? fmt::format("${:.2f}", usd) : fmt::format("${:.4f}", usd);
}

}  // namespace

int run_cost(const Words& args) {
  CLI::App app("Turns measured throughput into GPUs needed, money a month, and money per million tokens.", "cost");
  app.footer(kExamples);
  double tokens_per_second = 0, qps = 0, gpu_hour = 0, tokens_per_request = 0, headroom = 0, hours = kHoursPerMonth;
  int batch = 0;
  std::string from, json_file;
  auto* rate_option = app.add_option("--tokens-per-second", tokens_per_second, "output tokens per second of one GPU");
  auto* from_option = app.add_option("--from", from, "take it from the file that tokamak bench --json wrote");
  rate_option->excludes(from_option)->check(CLI::PositiveNumber);
  app.add_option("--batch", batch, "with --from: the run of this batch instead of the fastest")
      ->needs(from_option)
      ->check(CLI::PositiveNumber);
  app.add_option("--qps", qps, "requests per second to serve")->required()->check(CLI::PositiveNumber);
  app.add_option("--gpu-hour", gpu_hour, "USD for one GPU (or machine) for an hour")->required()->check(CLI::NonNegativeNumber);
  app.add_option("--tokens-per-request", tokens_per_request,
                 "output tokens of one request (default: the bench file's new tokens, else 256)")
      ->check(CLI::PositiveNumber);
  app.add_option("--headroom", headroom, "share of each GPU kept free for bursts and failures, 0 .. 0.95")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.95));
  app.add_option("--hours-per-month", hours, "hours the fleet is paid for")->capture_default_str()->check(CLI::Range(1.0, 744.0));
  app.add_option("--json", json_file, "write the figures as JSON ('-': standard output)");
  if (const auto status = parse(app, args)) return *status;
  if (rate_option->empty() && from_option->empty()) {
    fmt::print(stderr, "error: tokamak cost: give --tokens-per-second N or --from bench.json (tokamak cost --help)\n");
    return 2;
  }

  Rate rate = from.empty() ? Rate{tokens_per_second, 256, "token", ""} : rate_of_bench(from, batch);
  const bool tokens = std::string_view(rate.unit) == "token";
  if (tokens_per_request > 0) {
    if (!tokens) fail(ErrorCode::InvalidArgument, "--tokens-per-request: '{}' measures tensors, a request is one query", from);
    rate.per_request = tokens_per_request;
  }
  const double needed = qps * rate.per_request;  // units per second
  const double gpus = std::ceil(needed / (rate.per_second * (1 - headroom)) * (1 - 1e-12));
  if (!(rate.per_second > 0) || !std::isfinite(gpus) || gpus > 1e9)
    fail(ErrorCode::OutOfRange, "{} {}s per second at {} per GPU need {} GPUs: the figures cannot be meant", needed, rate.unit,
         rate.per_second, gpus);
  const double month = gpus * gpu_hour * hours;
  const double per_million = gpus * gpu_hour / (needed * 3600) * 1e6;
  const double floor = gpu_hour / (rate.per_second * 3600) * 1e6;
  const double load = needed / (gpus * rate.per_second);
  const char* units = tokens ? "tokens" : "queries";

  FILE* out = text_stream(json_file);
  if (!rate.source.empty()) fmt::print(out, "measured       {:.2f} {} per second per GPU ({})\n", rate.per_second, units, rate.source);
  if (tokens)
    fmt::print(out, "needed         {:.1f} tokens per second ({} requests per second, {} tokens each)\n", needed, qps, rate.per_request);
  else fmt::print(out, "needed         {} queries per second\n", qps);
  fmt::print(out, "GPUs           {:.0f}, {:.0f} % busy\n", gpus, load * 100);
  fmt::print(out, "a month        {} ({} GPU{} x {:.0f} h x {})\n", money(month), gpus, gpus == 1 ? "" : "s", hours, money(gpu_hour));
  fmt::print(out, "per million    {} a million {} ({} at full load)\n", money(per_million), units, money(floor));
  if (load > 0.9) fmt::print(out, "note: above 90 % busy, queues and latency grow quickly; --headroom 0.2 plans for that\n");

  if (!json_file.empty()) {
    const std::string per = fmt::format("cost_per_million_{}_usd", units);
    write_json(json_file, {{fmt::format("{}_per_second_per_gpu", units), rate.per_second},
                           {"qps", qps},
                           {"tokens_per_request", tokens ? Json(rate.per_request) : Json()},
                           {fmt::format("{}_per_second_needed", units), needed},
                           {"headroom", headroom},
                           {"gpu_hour_usd", gpu_hour},
                           {"gpus", static_cast<int64_t>(gpus)},
                           {"utilization", load},
                           {"cost_per_month_usd", month},
                           {per, per_million},
                           {per + "_at_full_load", floor}});
  }
  return 0;
}

}  // namespace tokamak::cli
