// The trtexec personality: TensorRT's flags, its report in its order, its JSON files.

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <ctime>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/file.h"
#include "builder/device.h"
#include "cli/command.h"
#include "cli/compare.h"
#include "cli/console.h"
#include "cli/session.h"
#include "cli/trtexec_flags.h"
#include "cli/trtexec_options.h"
#include "cli/trtexec_report.h"
#include "import/onnx/import.h"

namespace tokamak::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// "[11/22/2026-16:20:31] [I] text"; warnings and errors go to standard error, as TensorRT's do.
void log(char severity, const std::string& text) {
  FILE* out = severity == 'I' || severity == 'V' ? stdout : stderr;
  std::fflush(stdout);
  fmt::print(out, "[{:%m/%d/%Y-%H:%M:%S}] [{}] {}\n", fmt::localtime(std::time(nullptr)), severity, text);
}
void info(const std::string& text) { log('I', text); }

void section(const char* title, std::initializer_list<std::pair<const char*, std::string>> lines) {
  info(fmt::format("=== {} ===", title));
  for (const auto& [key, value] : lines) info(fmt::format("{}: {}", key, value));
}

std::string shapes_text(const NamedShapes& shapes) {
  std::string text;
  for (const auto& [name, shape] : shapes) text += fmt::format("{}{}:{}", text.empty() ? "" : ",", name, format_shape(shape));
  return text.empty() ? "from the model or profile" : text;
}

std::string or_none(const std::string& text) { return text.empty() ? "none" : text; }
std::string yes_no(bool value) { return value ? "Enabled" : "Disabled"; }

const char* precision_text(Precision precision) {
  switch (precision) {
    case Precision::F32: return "FP32";
    case Precision::TF32: return "FP32+TF32";
    case Precision::F16: return "FP32+FP16";
    case Precision::BF16: return "FP32+BF16";
    default: return "best";
  }
}

void echo_options(const TrtOptions& o) {
  section("Model Options", {{"Format", o.onnx.empty() ? "Engine" : "ONNX"}, {"Model", o.onnx.empty() ? o.load_engine : o.onnx}});
  std::string profiles;
  for (const TrtProfileShapes& p : o.profiles)
    if (!p.opt.empty() || !p.min.empty() || !p.max.empty())
      profiles += fmt::format("{}{} + {} + {}", profiles.empty() ? "" : "; ", shapes_text(p.min), shapes_text(p.opt), shapes_text(p.max));
  const char* precision = precision_text(o.build.precision);
  section("Build Options", {{"Memory Pools", o.build.workspace_limit_bytes > 0 ? "workspace: " + format_bytes(o.build.workspace_limit_bytes)
                                                                               : "workspace: default"},
                            {"Precision", precision},
                            {"Builder optimization level", fmt::format("{}", o.build.opt_level)},
                            {"Timing cache", or_none(o.build.timing_cache)},
                            {"Profiling verbosity", o.no_layers         ? "none"
                                                    : o.detailed_layers ? "detailed"
                                                                        : "layer_names_only"},
                            {"Save engine", o.save_engine},
                            {"Load engine", o.load_engine},
                            {"Input build shapes", profiles.empty() ? "model" : profiles}});
  section("System Options", {{"Device", o.build.device == "cpu" ? "CPU" : o.build.device},
                             {"Threads", fmt::format("{}", o.measure.threads > 0 ? o.measure.threads : available_threads())}});
  std::string inputs;
  for (const auto& [name, file] : o.load_inputs) inputs += fmt::format("{}{}<-{}", inputs.empty() ? "" : ", ", name, file);
  section("Inference Options", {{"Batch", "Explicit"},
                                {"Input inference shapes", shapes_text(o.shapes)},
                                {"Iterations", fmt::format("{}", o.measure.min_iterations)},
                                {"Duration", fmt::format("{}s (+ {}ms warm up)", o.measure.duration_s, o.measure.warmup_ms)},
                                {"Sleep time", fmt::format("{}ms", o.measure.sleep_ms)},
                                {"Idle time", fmt::format("{}ms", o.measure.idle_ms)},
                                {"Inference Streams", fmt::format("{}", o.measure.streams)},
                                {"Data transfers", yes_no(o.measure.transfers)},
                                {"Skip inference", yes_no(o.skip_inference)},
                                {"Inputs", or_none(inputs)}});
  section("Reporting Options", {{"Verbose", yes_no(o.verbose)},
                                {"Averages", fmt::format("{} inferences", o.avg_runs)},
                                {"Percentiles", fmt::format("{:g}", fmt::join(o.percentiles, ","))},
                                {"Dump profile", yes_no(o.dump_profile)},
                                {"Dump output", yes_no(o.dump_output)},
                                {"Export timing to JSON file", o.export_times},
                                {"Export output to JSON file", o.export_output},
                                {"Export profile to JSON file", o.export_profile},
                                {"Export layer information to JSON file", o.export_layers}});
}

void device_information(const TrtOptions& o) {
  const BuildDevice device = open_device(o.build.device, false);
  section("Device Information", {{"Selected Device", device.device_name},
                                 {device.name.is_cuda ? "Architecture" : "Instruction sets", device.target},
                                 {"Threads available", fmt::format("{}", available_threads())}});
  info(fmt::format("TensorRT version: none; Tokamak {} builds and runs the engine", TOKAMAK_VERSION));
}

std::string mebibytes(int64_t bytes) { return fmt::format("{:.6g} MiB", static_cast<double>(bytes) / (1 << 20)); }

int64_t file_bytes(const std::string& path) {
  struct stat file {};
  return stat(path.c_str(), &file) == 0 ? file.st_size : 0;
}

std::shared_ptr<const Engine> build(const TrtOptions& o) {
  const auto start = Clock::now();
  info("Start parsing network model.");
  auto graph = onnx::import_model(o.onnx);
  info(fmt::format("Finished parsing network model. Parse time: {:.6g}", seconds_since(start)));
  BuildOptions options = o.build;
  std::vector<std::string> warnings;
  options.profiles = trt_profiles(o, graph->inputs(), warnings);
  for (const std::string& warning : warnings) log('W', warning);
  ProgressBar bar;
  options.progress = [&bar](const BuildProgress& p) { bar.update(p.step, p.fraction, p.remaining_s); };
  BuildReport report;
  auto engine = build_engine(std::move(graph), options, &report);
  bar.clear();
  for (const std::string& note : report.notes) info(note);
  if (o.verbose) {
    for (const PassReport& p : report.passes)
      log('V', fmt::format("pass {}: {} -> {} nodes, {} rewrites, {:.1f} ms", p.name, p.nodes_before, p.nodes_after, p.rewrites, p.ms));
    for (const TacticReport& t : report.tactics) log('V', fmt::format("{} ({}): {} {} {:.1f} us", t.node, t.op, t.kernel, t.tactic, t.us));
  }
  info(fmt::format("Layers: {} in the model, {} kernels in the engine; tactics timed: {}, from the timing cache: {}", report.nodes_before,
                   report.kernels_after, report.timed, report.cached));
  info(fmt::format("Engine built in {:.6g} sec.", seconds_since(start)));
  if (!o.save_engine.empty()) {
    engine->save(o.save_engine);
    info(fmt::format("Created engine with size: {}", mebibytes(file_bytes(o.save_engine))));
  } else {
    info(fmt::format("Created engine with weights of {} (not saved)", mebibytes(engine->weights_bytes())));
  }
  return engine;
}

std::shared_ptr<const Engine> load(const TrtOptions& o) {
  const auto start = Clock::now();
  auto engine = Engine::load(o.load_engine);
  info(fmt::format("Loaded engine with size: {}", mebibytes(file_bytes(o.load_engine))));
  info(fmt::format("Engine deserialized in {:.6g} sec.", seconds_since(start)));
  return engine;
}

std::vector<Tensor> prepare_inputs(const TrtOptions& o, const Engine& engine, const NamedShapes& shapes) {
  std::vector<std::string> names;
  for (const TensorInfo& input : engine.inputs()) names.push_back(input.name);
  for (const auto& [name, file] : o.load_inputs)
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail(ErrorCode::NotFound, "--loadInputs: no input is named '{}'{}", name, suggestion(name, names));
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto file = std::find_if(o.load_inputs.begin(), o.load_inputs.end(), [&](const auto& f) { return f.first == names[i]; });
    const bool from_file = file != o.load_inputs.end();
    info(fmt::format("Using {} for input {}", from_file ? file->second : "random values", names[i]));
    inputs.push_back(from_file ? raw_file_input(engine.inputs()[i], shapes[i].second, file->second)
                               : random_input(engine, engine.inputs()[i], shapes[i].second));
    info(fmt::format("Input binding for {} with dimensions {} and type {} is created.", names[i], format_shape(shapes[i].second),
                     to_string(engine.inputs()[i].dtype)));
  }
  return inputs;
}

void write_raw(const std::string& name, const char* kind, const Tensor& tensor) {
  std::string file = fmt::format("{}.{}.bin", name, kind);
  std::replace(file.begin(), file.end(), '/', '_');
  write_file_atomic(file,
                    std::span<const std::byte>(static_cast<const std::byte*>(tensor.raw()), static_cast<size_t>(tensor.size_bytes())));
}

bool outputs_match(const TrtOptions& o, const Engine& engine, const std::vector<Tensor>& outputs) {
  bool all = true;
  for (const auto& [name, file] : o.reference_outputs) {
    size_t i = 0;
    while (i < outputs.size() && engine.outputs()[i].name != name) ++i;
    if (i == outputs.size()) fail(ErrorCode::NotFound, "--loadRefOutputs: no output is named '{}'", name);
    const Difference d = compare_tensors(outputs[i], raw_file_input(engine.outputs()[i], outputs[i].shape(), file), {o.rtol, o.atol});
    log(d.same ? 'I' : 'E', fmt::format("Output {}: max abs error {:.3g}, max rel error {:.3g}{}{}", name, d.max_abs_error, d.max_rel_error,
                                        d.same ? "" : ": ", d.message));
    all &= d.same;
  }
  return all;
}

void report_layers(const TrtOptions& o, const Engine& engine) {
  if (o.dump_layers && !o.no_layers) {
    info("Layer Information:");
    for (const std::string& line : layer_lines(engine, o.detailed_layers)) info(line);
  }
  if (!o.export_layers.empty()) write_json(o.export_layers, layer_info_json(engine, o.detailed_layers));
  if (o.dump_profiles)
    for (size_t i = 0; i < engine.info().profiles.size(); ++i)
      for (const ShapeRange& r : engine.info().profiles[i])
        info(fmt::format("Optimization Profile {}: {} min={} opt={} max={}", i, r.input, format_shape(r.min), format_shape(r.opt),
                         format_shape(r.max)));
}

bool infer(const TrtOptions& o, const std::shared_ptr<const Engine>& engine) {
  const NamedShapes shapes = resolve_shapes(*engine, o.shapes, o.measure.profile);
  const std::vector<Tensor> inputs = prepare_inputs(o, *engine, shapes);
  ProgressBar bar;
  MeasureOptions options = o.measure;
  options.keep_outputs = o.dump_output || o.dump_bindings || !o.export_output.empty() || !o.reference_outputs.empty();
  options.progress = [&bar](double fraction) { bar.update("inference", fraction); };
  info("Starting inference");
  const Measurement measured = measure(engine, inputs, options);
  bar.clear();
  for (size_t i = 0; i < measured.outputs.size(); ++i)
    info(fmt::format("Output binding for {} with dimensions {} is created.", engine->outputs()[i].name,
                     format_shape(measured.outputs[i].shape())));
  info(fmt::format("Execution context: {} of activations and scratch memory, created in {:.4g} ms", mebibytes(measured.memory.arena_bytes),
                   measured.context_ms));
  info(fmt::format("Warmup completed {} queries over {:g} ms", measured.warmup_queries, o.measure.warmup_ms));
  info(fmt::format("Timing trace has {} queries over {:.6g} s", measured.queries.size(), measured.wall_s));
  info("");
  info("=== Trace details ===");
  info(fmt::format("Trace averages of {} runs:", o.avg_runs));
  for (const std::string& line : trace_lines(measured, o.avg_runs)) info(line);
  info("");
  info("=== Performance summary ===");
  for (const std::string& line : performance_summary(measured, o.percentiles, o.measure.streams)) info(line);
  info("");
  for (const std::string& line : performance_warnings(measured, o.measure.streams)) log('W', "* " + line);

  if (o.dump_output)
    for (const Json& output : outputs_json(*engine, measured.outputs)) {
      info(fmt::format("{}: ({})", output["name"].get<std::string>(), output["dimensions"].get<std::string>()));
      std::string values;
      for (const Json& value : output["values"]) values += (values.empty() ? "" : " ") + value.dump();
      info(values);
    }
  if (!o.export_times.empty()) write_json(o.export_times, times_json(measured));
  if (!o.export_output.empty()) write_json(o.export_output, outputs_json(*engine, measured.outputs));
  if (o.dump_bindings) {
    for (size_t i = 0; i < inputs.size(); ++i) write_raw(engine->inputs()[i].name, "input", inputs[i]);
    for (size_t i = 0; i < measured.outputs.size(); ++i) write_raw(engine->outputs()[i].name, "output", measured.outputs[i]);
  }
  if (o.dump_profile || !o.export_profile.empty()) {
    const double duration_s = std::min(3.0, std::max(0.1, o.measure.duration_s));
    const std::vector<LayerTime> layers =
        profile_layers(engine, inputs, o.measure.threads, duration_s, o.measure.profile, o.measure.device);
    if (o.dump_profile)
      for (const std::string& line : profile_lines(layers)) info(line);
    if (!o.export_profile.empty()) write_json(o.export_profile, profile_json(layers));
  }
  return outputs_match(o, *engine, measured.outputs);
}

bool run(const Words& args) {
  const TrtWords words = parse_trt_words(args);
  const TrtOptions o = trt_options(words);
  echo_options(o);
  for (const std::string& warning : words.warnings) log('W', warning);
  for (const std::string& note : o.notes) info(note);
  device_information(o);
  if (o.version_only) {
    info(fmt::format("Engine was created by Tokamak {}", Engine::load(o.load_engine)->info().tokamak_version));
    return true;
  }
  const std::shared_ptr<const Engine> engine = o.onnx.empty() ? load(o) : build(o);
  report_layers(o, *engine);
  if (o.time_deserialize) return true;
  if (o.skip_inference) {
    info("Skipped inference phase since --skipInference is added.");
    return true;
  }
  return infer(o, engine);
}

}  // namespace

int run_trtexec(const std::string& program, const Words& args) {
  for (const std::string& arg : args)
    if (arg == "--help" || arg == "-h" || arg == "--h") {
      fmt::print("{}", trt_help());
      return 0;
    }
  if (args.empty()) {
    fmt::print("{}", trt_help());
    return 1;
  }
  const std::string banner = fmt::format("TensorRT.trtexec [Tokamak v{}] # {} {}", TOKAMAK_VERSION, program, fmt::join(args, " "));
  fmt::print("&&&& RUNNING {}\n", banner);
  bool passed = false;
  try {
    passed = run(args);
  } catch (const std::exception& e) {
    std::fflush(stdout);
    fmt::print(stderr, "error: {}\n", e.what());
  }
  fmt::print("&&&& {} {}\n", passed ? "PASSED" : "FAILED", banner);
  return passed ? 0 : 1;
}

}  // namespace tokamak::cli
