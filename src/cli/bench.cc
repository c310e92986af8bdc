// tokamak bench: throughput and latency on random inputs; language models go to bench_llm.

#include <fmt/format.h>

#include "backends/cpu/thread_pool.h"
#include "cli/args.h"
#include "cli/bench_llm.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/measure.h"
#include "cli/session.h"
#include "cli/stats.h"
#include "import/hf/hf.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
Tensors: inputs are random with a fixed seed; integers that index a table stay within it, masks are ones. Language models (a Hugging Face
folder, a GGUF file, an engine of one, or --synthetic NAME with random weights): --batch requests with random prompts start together. TTFT is
the time to a request's first token, TPOT per token after it, ITL the gap between two tokens; "decode t/s" counts the tokens of all requests
while every one is decoding (output_tokens_per_s in the JSON), "overall t/s" those of the whole run, prompts' time included.

Examples:
  tokamak bench model.onnx
  tokamak bench model.engine --shapes ids:8x128,mask:8x128 --duration 10
  tokamak bench model.engine --streams 2 --threads 2 --json result.json
  tokamak bench model.onnx --threads 1 --profile-layers
  tokamak bench model.onnx --device cuda --fp16 --shapes data:32x3x224x224
  tokamak bench llama-3.2-1b --int8 --batch 1,8,32 --prompt-tokens 512 --new-tokens 128
  tokamak bench --synthetic llama-2-7b --int4 --bandwidth --json bench.json
  tokamak bench --synthetic tinyllama-1.1b --batch 8 --profile-layers
  tokamak bench --synthetic llama-3.1-8b --device cuda --fp8 --requests 1000 --prompt-tokens 128 --new-tokens 128 --profile-layers
)";

void print_layers(FILE* out, const std::vector<LayerTime>& layers) {
  double total = 0;
  std::vector<std::pair<double, const LayerTime*>> order;
  for (const LayerTime& layer : layers) {
    const double mean = summarize(layer.ms).mean;
    order.emplace_back(mean, &layer);
    total += mean;
  }
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  fmt::print(out, "\n{:>10}{:>7}  {:20}{:36}{}\n", "mean us", "%", "op", "kernel", "layer");
  for (const auto& [ms, layer] : order)
    fmt::print(out, "{:10.1f}{:7.1f}  {:20}{:36}{}\n", ms * 1e3, total > 0 ? ms / total * 100 : 0, layer->op,
               layer->tactic.empty() ? layer->kernel : layer->kernel + " " + layer->tactic, layer->name);
}

// Splits "1,8,32". Throws InvalidArgument.
std::vector<int> parse_batches(const std::string& text) {
  std::vector<int> batches;
  for (const std::string& part : split(text, ',')) {
    const int64_t batch = parse_int(part, "--batch");
    if (batch < 1 || batch > 4096) fail(ErrorCode::InvalidArgument, "--batch: expected 1 to 4096, found {}", batch);
    batches.push_back(static_cast<int>(batch));
  }
  return batches;
}

std::vector<std::pair<int, int>> parse_loads(const std::string& text) {
  std::vector<std::pair<int, int>> loads;
  for (const std::string& part : split(text, ',')) {
    const size_t slash = part.find('/');
    if (slash == part.npos) fail(ErrorCode::InvalidArgument, "--loads: expected prompt and new tokens as 128/128, found '{}'", part);
    const int64_t prompt = parse_int(part.substr(0, slash), "--loads"), fresh = parse_int(part.substr(slash + 1), "--loads");
    if (prompt < 1 || fresh < 1 || prompt > 1 << 20 || fresh > 1 << 20)
      fail(ErrorCode::InvalidArgument, "--loads: expected 1 to 1048576 tokens, found '{}'", part);
    loads.emplace_back(static_cast<int>(prompt), static_cast<int>(fresh));
  }
  return loads;
}

// Options of one kind of model that were given with the other.
void refuse(const std::vector<CLI::Option*>& options, const char* kind, const std::string& model) {
  for (const CLI::Option* option : options)
    if (!option->empty()) fail(ErrorCode::InvalidArgument, "{} is for {}, which '{}' is not", option->get_name(), kind, model);
}

int run_tensor_bench(const std::string& model, const Opened& opened, const std::string& shapes, MeasureOptions options, bool show_layers,
                     uint64_t seed, const std::string& json_file) {
  FILE* out = text_stream(json_file);
  const Engine& engine = *opened.engine;
  const NamedShapes asked = parse_shapes(shapes);
  const NamedShapes resolved = resolve_shapes(engine, asked, options.profile);
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < resolved.size(); ++i) inputs.push_back(random_input(engine, engine.inputs()[i], resolved[i].second, seed));

  ProgressBar bar;
  options.progress = [&](double fraction) { bar.update("measure", fraction); };
  const Measurement measured = measure(opened.engine, inputs, options);
  bar.clear();
  std::vector<LayerTime> layers;
  if (show_layers)
    layers = profile_layers(opened.engine, inputs, options.threads, std::min(options.duration_s, 2.0), options.profile, options.device);

  std::vector<double> latency;
  for (const Query& q : measured.queries) latency.push_back(q.latency());
  const double percents[] = {90, 95, 99};
  const Summary s = summarize(latency, percents);
  const double qps = measured.wall_s > 0 ? static_cast<double>(latency.size()) / measured.wall_s : 0;
  const int64_t nodes = opened.built ? opened.report.nodes_before : engine.info().nodes_before;

  Json shapes_json = Json::object();
  std::string shapes_text;
  for (const auto& [name, shape] : resolved) {
    shapes_json[name] = shape;
    shapes_text += fmt::format("{}{}:{}", shapes_text.empty() ? "" : ",", name, format_shape(shape));
  }
  fmt::print(out, "{}  on {}, {}, {} thread{}, {} stream{}\n", model, running_on(engine), engine.info().precision, options.threads,
             options.threads == 1 ? "" : "s", options.streams, options.streams == 1 ? "" : "s");
  fmt::print(out, "  shapes      {}\n", shapes_text);
  if (opened.built) fmt::print(out, "  built       {:.2f} s, {} nodes -> {} kernels\n", opened.build_s, nodes, engine.num_kernels());
  else fmt::print(out, "  loaded      {:.2f} ms, {} nodes -> {} kernels\n", opened.load_ms, nodes, engine.num_kernels());
  fmt::print(out, "  throughput  {:.2f} qps ({} queries in {:.2f} s)\n", qps, latency.size(), measured.wall_s);
  fmt::print(out, "  latency ms  min {:.4f}  median {:.4f}  mean {:.4f}  p90 {:.4f}  p95 {:.4f}  p99 {:.4f}  max {:.4f}\n", s.min, s.median,
             s.mean, s.percentiles[0], s.percentiles[1], s.percentiles[2], s.max);
  if (measured.device_ms > 0) fmt::print(out, "  device ms   {:.4f} a run when runs are queued back to back\n", measured.device_ms);
  fmt::print(out, "  memory      activations {} (lower bound {}), weights {}, process peak {}\n", format_bytes(measured.memory.arena_bytes),
             format_bytes(measured.memory.lower_bound_bytes), format_bytes(engine.weights_bytes()), format_bytes(peak_memory_bytes()));
  if (show_layers) print_layers(out, layers);

  if (!json_file.empty()) {
    Json json = {{"model", model},
                 {"device", running_on(engine)},
                 {"precision", engine.info().precision},
                 {"threads", options.threads},
                 {"streams", options.streams},
                 {"shapes", shapes_json},
                 {"nodes", nodes},
                 {"kernels", engine.num_kernels()},
                 {"build_s", opened.build_s},
                 {"load_ms", opened.load_ms},
                 {"peak_memory_bytes", peak_memory_bytes()},
                 {"arena_bytes", measured.memory.arena_bytes},
                 {"lower_bound_bytes", measured.memory.lower_bound_bytes},
                 {"weights_bytes", engine.weights_bytes()},
                 {"queries", latency.size()},
                 {"throughput_qps", qps},
                 {"latency_ms",
                  {{"min", s.min},
                   {"max", s.max},
                   {"mean", s.mean},
                   {"median", s.median},
                   {"p90", s.percentiles[0]},
                   {"p95", s.percentiles[1]},
                   {"p99", s.percentiles[2]}}}};
    if (measured.device_ms > 0) json["device_ms"] = measured.device_ms;
    for (const LayerTime& layer : layers)
      json["layers"].push_back({{"name", layer.name},
                                {"origin", layer.origin},
                                {"op", layer.op},
                                {"kernel", layer.kernel},
                                {"tactic", layer.tactic},
                                {"mean_ms", summarize(layer.ms).mean}});
    write_json(json_file, json);
  }
  return 0;
}

}  // namespace

int run_bench(const Words& args) {
  CLI::App app("Measures throughput and latency of a model or engine.", "bench");
  app.footer(kExamples);
  std::string model, shapes, synthetic, batches = "1", loads, json_file;
  MeasureOptions tensors;
  LlmBenchOptions llm;
  LanguageModelFlags flags;
  bool show_layers = false;
  uint64_t seed = 1;
  auto* model_option = app.add_option("MODEL", model, "model (built first) or engine file");
  auto* synthetic_option =
      app.add_option("--synthetic", synthetic, fmt::format("random weights in the shape of {}", fmt::join(hf::synthetic_names(), ", ")));
  app.add_flag("--profile-layers", show_layers, "time each layer (of language models: each kind of node) in a separate run");
  app.add_option("--seed", seed, "of the random inputs")->capture_default_str();
  app.add_option("--json", json_file, "write the figures as JSON ('-': standard output)");
  const std::vector<CLI::Option*> of_tensors = {
      app.add_flag("--transfers", tensors.transfers, "copy inputs in and outputs out for every query, and count it (on a GPU: over PCIe)"),
      app.add_option("--shapes", shapes, "input shapes, NAME:1x128,...; default: the profile's optimum"),
      app.add_option("--warmup", tensors.warmup_ms, "milliseconds before timing")->capture_default_str()->check(CLI::NonNegativeNumber),
      app.add_option("--duration", tensors.duration_s, "seconds of timing")->capture_default_str()->check(CLI::NonNegativeNumber),
      app.add_option("--iterations", tensors.exact_iterations, "exactly so many queries per stream instead of --duration")
          ->check(CLI::PositiveNumber),
      app.add_option("--streams", tensors.streams, "contexts that run at the same time, each on its share of the threads")
          ->capture_default_str()
          ->check(CLI::Range(1, 256)),
      app.add_option("--profile-index", tensors.profile, "optimization profile to run under")->capture_default_str(),
  };
  const std::vector<CLI::Option*> of_llms = {
      app.add_option("--batch", batches, "requests at once, one run each: N,N,...")->capture_default_str(),
      app.add_option("--prompt-tokens", llm.prompt_tokens, "tokens of a prompt")->capture_default_str()->check(CLI::Range(1, 1 << 20)),
      app.add_option("--new-tokens", llm.new_tokens, "tokens of an answer")->capture_default_str()->check(CLI::Range(1, 1 << 20)),
      app.add_option("--repeat", llm.repeat, "measured runs of each batch; the medians are reported")
          ->capture_default_str()
          ->check(CLI::Range(1, 1000)),
      app.add_option("--max-num-batched-tokens", llm.max_num_batched_tokens,
                     "new tokens in one step, decoding and prompts together; default 512, with --requests on a GPU 8192")
          ->check(CLI::Range(1, 1 << 16)),
      app.add_option("--requests", llm.requests, "a saturated run instead of --batch: so many requests, throughput over the whole run")
          ->check(CLI::Range(1, 1 << 20)),
      app.add_option("--loads", loads,
                     "with --requests: their prompt and new tokens, a run each: P/N,P/N,... instead of --prompt-tokens and --new-tokens"),
      app.add_option("--concurrency", llm.concurrency, "of --requests, so many are submitted at once; default: all")
          ->check(CLI::Range(1, 1 << 20)),
      app.add_option("--max-num-seqs", llm.max_num_seqs, "with --requests: sequences in one step; default up to 1024 on a GPU, 64 on a CPU")
          ->check(CLI::Range(1, 1 << 16)),
      app.add_flag("--synchronous", llm.synchronous, "queue no step before the tokens of the one before are known"),
      app.add_flag("--bandwidth", llm.bandwidth, "measure the memory's read bandwidth too, and the share of it that decoding reaches"),
  };
  for (CLI::Option* option : of_tensors) option->group("Tensors");
  for (CLI::Option* option : of_llms) option->group("Language models");
  flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;
  if (model_option->empty() == synthetic_option->empty()) {
    fmt::print(stderr, "error: tokamak bench: give a model or --synthetic NAME{} (tokamak bench --help)\n",
               model_option->empty() ? "" : ", not both");
    return 2;
  }

  tensors.threads = flags.build.threads > 0 ? flags.build.threads : available_threads();
  llm.batches = parse_batches(batches);
  if (!loads.empty()) llm.loads = parse_loads(loads);
  if (llm.requests == 0 && !(llm.loads.empty() && llm.concurrency == 0 && llm.max_num_seqs == 0))
    fail(ErrorCode::InvalidArgument, "--loads, --concurrency and --max-num-seqs go with --requests");
  llm.threads = flags.build.threads;
  llm.seed = seed;
  llm.profile_layers = show_layers;
  llm.json_file = json_file;
  std::string path = model;
  const ModelKind kind = synthetic.empty() ? model_kind(path) : ModelKind::Checkpoint;
  if (kind == ModelKind::Checkpoint) {
    refuse(of_tensors, "models of tensors", synthetic.empty() ? model : synthetic);
    return run_llm_bench(open_language_model(model, synthetic, flags), llm);
  }
  std::vector<std::string> notes;
  const BuildOptions build_options = flags.build.options(notes);
  for (const std::string& note : notes) fmt::print(text_stream(json_file), "note: {}\n", note);
  tensors.device = device_ordinal(build_options);
  const Opened opened = open_model(model, build_options, parse_shapes(shapes));
  if (is_language_model(*opened.engine)) {
    refuse(of_tensors, "models of tensors", model);
    return run_llm_bench({model, opened.engine, LanguageModel::Source::EngineFile, opened.load_ms / 1e3, 0}, llm);
  }
  refuse(of_llms, "language models", model);
  return run_tensor_bench(model, opened, shapes, tensors, show_layers, seed, json_file);
}

}  // namespace tokamak::cli
