// tokamak load: measures a server from outside, as its clients see it.

#include <fmt/format.h>

#include <fstream>
#include <map>
#include <random>

#include "cli/args.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/load_workload.h"
#include "cli/stats.h"

namespace tokamak::cli {

namespace {

namespace http = server::http;
using Clock = std::chrono::steady_clock;

constexpr const char* kExamples = R"(
Fixed concurrency (--users N) keeps N requests in flight; an open loop (--rate R) sends at random times (Poisson), whether or not answers come, and
counts a request's time from when it was due. TTFT: to the first token. TPOT: (whole time - TTFT) / (tokens - 1) of a request. ITL: between two
events of a stream. E2E: whole time. Goodput: requests a second that keep every limit given. Failed requests count in no time.

Examples:
  tokamak load http://localhost:8000 --users 64 --requests 1000 --prompt-tokens 128 --max-tokens 128
  tokamak load http://localhost:8000 --rate 20 --duration 60 --goodput ttft:200,tpot:20 --chat --prompts questions.txt
  tokamak load http://localhost:8000 --protocol kserve --model resnet50 --users 32 --batch 4 --duration 30 --json load.json
)";

int64_t now_ns() { return Clock::now().time_since_epoch().count(); }

struct Plan {
  int users = 8;
  double rate = 0;  // > 0: open loop
  int requests = 0;
  double duration_s = 0;
};

// The records of all requests that were sent, in that order.
std::vector<LoadRecord> drive(Workload& workload, const LoadTarget& target, const Plan& plan) {
  std::vector<std::unique_ptr<LoadRecord>> records;
  http::Client client(target.url, std::chrono::milliseconds(static_cast<int64_t>(target.timeout_s * 1e3)));
  ProgressBar bar;
  std::mt19937_64 random(target.seed);
  const int64_t begin = now_ns();
  int done = 0;
  const auto is_over = [&] {
    if (plan.requests > 0 && static_cast<int>(records.size()) >= plan.requests) return true;
    return plan.duration_s > 0 && static_cast<double>(now_ns() - begin) >= plan.duration_s * 1e9;
  };
  const auto progress = [&] {
    const double elapsed = static_cast<double>(now_ns() - begin) * 1e-9;
    const double fraction = std::min(1.0, plan.requests > 0 ? 1.0 * done / plan.requests : elapsed / plan.duration_s);
    bar.update(fmt::format("{} answers, {} in flight", done, static_cast<int>(records.size()) - done), fraction,
               fraction > 0 ? elapsed * (1 - fraction) / fraction : -1);
  };
  std::function<void(int64_t, std::function<void()>)> send = [&](int64_t due_ns, std::function<void()> then) {
    records.push_back(std::make_unique<LoadRecord>());
    LoadRecord* record = records.back().get();
    const std::shared_ptr<AnswerReader> reader = workload.reader();
    http::ClientRequest request = workload.request(static_cast<int>(records.size()) - 1);
    record->start_ns = due_ns > 0 ? due_ns : now_ns();
    client.send(std::move(request),
                {.on_piece = [record, reader](int status, std::string_view piece) { reader->piece(status, piece, now_ns(), *record); },
                 .on_end =
                     [&, record, reader, then = std::move(then)](const http::ClientResult& result) {
                       record->end_ns = now_ns();
                       if (result.error.empty()) reader->end(result.status, *record);
                       else record->error = result.error;
                       ++done;
                       progress();
                       if (then) then();
                     }});
  };
  std::function<void()> user = [&] {
    if (!is_over()) send(0, user);
  };
  std::exponential_distribution<double> gap(plan.rate > 0 ? plan.rate : 1);
  int64_t due = begin;
  std::function<void()> arrive = [&] {
    if (is_over()) return;
    send(due, nullptr);
    due += static_cast<int64_t>(gap(random) * 1e9);
    client.after(std::chrono::nanoseconds(due - now_ns()), arrive);
  };
  if (plan.rate > 0) arrive();
  else
    for (int i = 0; i < plan.users; ++i) user();
  client.run();
  std::vector<LoadRecord> out;
  for (auto& record : records) out.push_back(std::move(*record));
  return out;
}

struct Limits {
  double ttft_ms = 0, tpot_ms = 0, e2e_ms = 0;  // 0: none
  bool any() const { return ttft_ms > 0 || tpot_ms > 0 || e2e_ms > 0; }
};

Limits parse_limits(const std::string& text) {
  Limits limits;
  for (const std::string& item : split(text, ',')) {
    if (item.empty()) continue;
    const auto parts = split(item, ':');
    double* limit = parts.size() != 2    ? nullptr
                    : parts[0] == "ttft" ? &limits.ttft_ms
                    : parts[0] == "tpot" ? &limits.tpot_ms
                    : parts[0] == "e2e"  ? &limits.e2e_ms
                                         : nullptr;
    if (limit == nullptr)
      fail(ErrorCode::InvalidArgument, "--goodput '{}': expected ttft:MS, tpot:MS or e2e:MS, separated by commas", item);
    *limit = parse_number(parts[1], "--goodput");
  }
  return limits;
}

Json summary_json(std::vector<double> values) {
  static constexpr std::array kPercents = {90.0, 99.0};
  const Summary s = summarize(std::move(values), kPercents);
  return {{"mean", s.mean}, {"median", s.median}, {"p90", s.percentiles[0]}, {"p99", s.percentiles[1]}, {"max", s.max}};
}

Json evaluate(const std::vector<LoadRecord>& records, bool is_text, const Limits& limits) {
  std::vector<double> ttft, tpot, itl, e2e;
  std::map<std::string, int> errors;
  int64_t begin = INT64_MAX, end = 0, prompt_tokens = 0, output_tokens = 0, rows = 0;
  int completed = 0, good = 0;
  for (const LoadRecord& r : records) {
    begin = std::min(begin, r.start_ns);
    end = std::max(end, r.end_ns);
    if (!r.error.empty()) {
      ++errors[r.error];
      continue;
    }
    ++completed;
    prompt_tokens += r.prompt_tokens;
    output_tokens += r.output_tokens;
    rows += r.rows;
    const double whole = static_cast<double>(r.end_ns - r.start_ns) * 1e-6, first = static_cast<double>(r.first_ns - r.start_ns) * 1e-6;
    e2e.push_back(whole);
    const double each = r.output_tokens > 1 ? (whole - first) / (r.output_tokens - 1) : 0;
    if (is_text) {
      ttft.push_back(first);
      if (r.output_tokens > 1) tpot.push_back(each);
      for (size_t i = 1; i < r.event_ns.size(); ++i) itl.push_back(static_cast<double>(r.event_ns[i] - r.event_ns[i - 1]) * 1e-6);
    }
    good += (limits.ttft_ms <= 0 || first <= limits.ttft_ms) && (limits.tpot_ms <= 0 || each <= limits.tpot_ms) &&
            (limits.e2e_ms <= 0 || whole <= limits.e2e_ms);
  }
  const double seconds = records.empty() ? 0 : static_cast<double>(end - begin) * 1e-9;
  const auto per_second = [&](int64_t count) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; };
  Json json = {{"requests", records.size()},
               {"completed", completed},
               {"failed", records.size() - completed},
               {"duration_s", seconds},
               {"requests_per_s", per_second(completed)}};
  if (is_text) {
    json.update({{"prompt_tokens", prompt_tokens},
                 {"output_tokens", output_tokens},
                 {"output_tokens_per_s", per_second(output_tokens)},
                 {"total_tokens_per_s", per_second(prompt_tokens + output_tokens)},
                 {"ttft_ms", summary_json(std::move(ttft))},
                 {"tpot_ms", summary_json(std::move(tpot))},
                 {"itl_ms", summary_json(std::move(itl))}});
  } else {
    json["inferences_per_s"] = per_second(rows);
  }
  json["e2e_ms"] = summary_json(std::move(e2e));
  if (limits.any()) json["goodput_per_s"] = per_second(good);
  json["errors"] = Json::object();
  for (const auto& [kind, count] : errors) json["errors"][kind] = count;
  return json;
}

void print(FILE* out, const Json& json, const std::string& title) {
  fmt::print(out, "{}\n  requests    {} completed, {} failed in {:.2f} s: {:.2f} a second\n", title, json["completed"].get<int>(),
             json["failed"].get<int>(), json["duration_s"].get<double>(), json["requests_per_s"].get<double>());
  if (json.contains("output_tokens_per_s"))
    fmt::print(out, "  tokens      {:.1f} output tokens/s, {:.1f} in all ({} of prompts, {} of answers)\n",
               json["output_tokens_per_s"].get<double>(), json["total_tokens_per_s"].get<double>(), json["prompt_tokens"].get<int64_t>(),
               json["output_tokens"].get<int64_t>());
  if (json.contains("inferences_per_s")) fmt::print(out, "  inferences  {:.1f} a second\n", json["inferences_per_s"].get<double>());
  if (json.contains("goodput_per_s"))
    fmt::print(out, "  goodput     {:.2f} requests a second within the limits\n", json["goodput_per_s"].get<double>());
  fmt::print(out, "\n  ms {:>15} {:>10} {:>10} {:>10} {:>10}\n", "mean", "median", "P90", "P99", "max");
  for (const char* key : {"ttft", "tpot", "itl", "e2e"}) {
    if (!json.contains(fmt::format("{}_ms", key))) continue;
    const Json& s = json[fmt::format("{}_ms", key)];
    std::string name = key;
    for (char& c : name) c = static_cast<char>(std::toupper(c));
    fmt::print(out, "  {:8}{:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f} {:>10.3f}\n", name, s["mean"].get<double>(), s["median"].get<double>(),
               s["p90"].get<double>(), s["p99"].get<double>(), s["max"].get<double>());
  }
  for (const auto& [kind, count] : json["errors"].items()) fmt::print(out, "\n  {} failed: {}", count.get<int>(), kind);
  if (!json["errors"].empty()) fmt::print(out, "\n");
}

std::vector<std::string> lines_of(const std::string& file) {
  std::ifstream in(file);
  if (!in) fail(ErrorCode::NotFound, "--prompts: cannot read '{}'", file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) lines.push_back(line);
  if (lines.empty()) fail(ErrorCode::InvalidArgument, "--prompts: '{}' has no lines; expected a prompt each", file);
  return lines;
}

}  // namespace

int run_load(const Words& args) {
  CLI::App app("Measures an OpenAI or KServe v2 server: throughput, latencies, goodput, errors.", "load");
  app.footer(kExamples);
  LoadTarget target;
  TextLoad text;
  TensorLoad tensors;
  Plan plan;
  std::string url, protocol = "openai", prompts, shapes, goodput, json_file;
  bool no_stream = false, stop_at_eos = false;
  app.add_option("URL", url, "http://host[:port]")->required();
  app.add_option("--protocol", protocol, "openai or kserve")->check(CLI::IsMember({"openai", "kserve"}))->capture_default_str();
  app.add_option("--model", target.model, "its name; may be left out when an OpenAI server has only one");
  auto* users = app.add_option("--users", plan.users, "requests in flight at once")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--rate", plan.rate, "open loop: requests a second on average")->check(CLI::PositiveNumber)->excludes(users);
  app.add_option("--requests", plan.requests, "how many to send (default: 100, or no limit with --duration)")->check(CLI::PositiveNumber);
  app.add_option("--duration", plan.duration_s, "seconds to send for")->check(CLI::PositiveNumber);
  app.add_option("--prompt-tokens", text.prompt_tokens, "random tokens of a prompt")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--max-tokens", text.max_tokens, "tokens of an answer")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--prompts", prompts, "file with a prompt a line, instead of random tokens");
  app.add_flag("--chat", text.is_chat, "chat completions instead of completions");
  app.add_flag("--no-stream", no_stream, "whole answers; there is no TTFT then");
  app.add_flag("--stop-at-eos", stop_at_eos, "answers may end before --max-tokens");
  app.add_option("--temperature", text.temperature)->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--extra", text.extra, "JSON object whose members join every request");
  app.add_option("--batch", tensors.batch, "kserve: rows of a request")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--shape", shapes, "kserve: variable dims, without the batch: ids:128,mask:128");
  app.add_option("--goodput", goodput, "limits in ms: ttft:200,tpot:20,e2e:5000");
  app.add_option("--api-key", target.api_key, "sent as a Bearer key")->envname("OPENAI_API_KEY");
  app.add_option("--timeout", target.timeout_s, "seconds without progress after which a request has failed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", target.seed, "of prompts and arrival times")->capture_default_str();
  app.add_option("--json", json_file, "write the results here (- is standard output)");
  if (const auto status = parse(app, args)) return *status;

  target.url = http::parse_url(url);
  text.stream = !no_stream;
  text.ignore_eos = !stop_at_eos;
  if (!prompts.empty()) text.prompts = lines_of(prompts);
  if (plan.requests == 0 && plan.duration_s == 0) plan.requests = 100;
  tensors.shapes = parse_shapes(shapes);
  const Limits limits = parse_limits(goodput);
  const auto workload = protocol == "openai" ? make_openai_load(target, text) : make_kserve_load(target, tensors);
  const auto records = drive(*workload, target, plan);
  Json json = {{"url", url}, {"protocol", protocol}, {"model", workload->name()}};
  if (plan.rate > 0) json["rate_per_s"] = plan.rate;
  else json["users"] = plan.users;
  json.update(evaluate(records, workload->is_text(), limits));
  print(text_stream(json_file), json,
        fmt::format("{}  {} at {}, {}", workload->name(), protocol, url,
                    plan.rate > 0 ? fmt::format("{} requests a second", plan.rate) : fmt::format("{} users", plan.users)));
  if (!json_file.empty()) write_json(json_file, json);
  return json["completed"].get<int>() > 0 && json["failed"].get<int>() == 0 ? 0 : 1;
}

}  // namespace tokamak::cli
