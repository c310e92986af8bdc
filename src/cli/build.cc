// tokamak build: model file to engine file.

#include <fmt/format.h>
#include <sys/stat.h>

#include "base/file.h"
#include "builder/device.h"
#include "cli/args.h"
#include "cli/command.h"
#include "cli/session.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
Examples:
  tokamak build model.onnx -o model.engine
  tokamak build bert.onnx -o bert.engine --profile ids:1x1,1x128,8x512 --profile mask:1x1,1x128,8x512
  tokamak build resnet50.onnx -o resnet50.engine --bf16 --workspace 256M --timing-cache cpu.cache -v
  tokamak build vit.onnx -o vit.engine --device cuda:sm_90 --fp16
  tokamak build model.onnx -o model.engine --dump-ir after:fold_constants --opt-level 0
)";

// Arena of the first profile's optimum; 0 when shapes depend on data or nothing is known.
int64_t planned_memory_bytes(const std::shared_ptr<const Engine>& engine, int device) {
  ContextOptions options;
  options.device = device;
  ExecutionContext context(engine, options);
  for (const auto& [name, shape] : resolve_shapes(*engine, {}))
    for (const TensorInfo& input : engine->inputs())
      if (input.name == name) context.set_input(name, random_input(*engine, input, shape));
  context.prepare();
  return context.memory().arena_bytes;
}

void print_passes(FILE* out, const BuildReport& report) {
  fmt::print(out, "\n{:32}{:>8}{:>8}{:>10}{:>10}\n", "pass", "before", "after", "rewrites", "ms");
  for (const PassReport& pass : report.passes)
    fmt::print(out, "{:32}{:>8}{:>8}{:>10}{:>10.1f}\n", pass.name, pass.nodes_before, pass.nodes_after, pass.rewrites, pass.ms);
  fmt::print(out, "\n");
}

}  // namespace

int run_build(const Words& args) {
  CLI::App app("Compiles a model into an engine file.", "build");
  app.footer(kExamples);
  std::string model, output, json_file;
  bool verbose = false;
  BuildFlags flags;
  app.add_option("MODEL", model, "ONNX file, Hugging Face folder or GGUF file")->required();
  app.add_option("-o,--output", output, "engine file to write")->required();
  flags.add_to(app);
  app.add_option("--dump-ir", flags.dump_ir, "print the graph to standard error: after:PASS, before:PASS or all");
  app.add_option("--json", json_file, "write the summary as JSON ('-': standard output)");
  app.add_flag("-v,--verbose", verbose, "one line for each pass");
  if (const auto status = parse(app, args)) return *status;

  std::vector<std::string> notes;
  const BuildOptions options = flags.options(notes);
  FILE* out = text_stream(json_file);
  for (const std::string& note : notes) fmt::print(out, "note: {}\n", note);
  if (model_kind(model) == ModelKind::Engine) fail(ErrorCode::InvalidArgument, "'{}' is an engine; tokamak bench runs engines", model);
  const Opened opened = open_model(model, options);
  opened.engine->save(output);

  struct stat info {};
  stat(output.c_str(), &info);
  const BuildReport& report = opened.report;
  // A GPU that is only named cannot be planned on from here; the builder has done it.
  const bool is_here = !opened.engine->is_cuda() || parse_device(options.device).architecture.empty();
  const int64_t arena_bytes = is_here ? planned_memory_bytes(opened.engine, device_ordinal(options)) : report.planned_bytes;
  if (verbose) print_passes(out, report);
  for (const std::string& note : report.notes) fmt::print(out, "note: {}\n", note);
  fmt::print(out, "{} -> {}\n", model, output);
  fmt::print(out, "  nodes before {}, kernels after {}\n", report.nodes_before, report.kernels_after);
  fmt::print(out, "  built in {:.2f} s (import {:.2f}, optimize {:.2f}, tune {:.2f}); tactics timed {}, from the cache {}\n",
             opened.build_s, report.import_s, report.optimize_s, report.tune_s, report.timed, report.cached);
  fmt::print(out, "  engine {}, of it weights {}; planned memory {}; precision {}, {} thread{}\n", format_bytes(info.st_size),
             format_bytes(opened.engine->weights_bytes()), format_bytes(arena_bytes), opened.engine->info().precision,
             opened.engine->info().num_threads, opened.engine->info().num_threads == 1 ? "" : "s");

  if (!json_file.empty()) {
    Json json = {{"model", model},
                 {"engine", output},
                 {"device", opened.engine->info().device_name},
                 {"target", opened.engine->info().target},
                 {"precision", opened.engine->info().precision},
                 {"threads", opened.engine->info().num_threads},
                 {"nodes", report.nodes_before},
                 {"kernels", report.kernels_after},
                 {"host_nodes", report.num_host_nodes()},
                 {"build_s", opened.build_s},
                 {"import_s", report.import_s},
                 {"optimize_s", report.optimize_s},
                 {"tune_s", report.tune_s},
                 {"timed", report.timed},
                 {"cached", report.cached},
                 {"engine_bytes", static_cast<int64_t>(info.st_size)},
                 {"weights_bytes", opened.engine->weights_bytes()},
                 {"planned_memory_bytes", arena_bytes},
                 {"passes", Json::array()}};
    for (const PassReport& pass : report.passes)
      json["passes"].push_back({{"name", pass.name},
                                {"nodes_before", pass.nodes_before},
                                {"nodes_after", pass.nodes_after},
                                {"rewrites", pass.rewrites},
                                {"ms", pass.ms}});
    json["notes"] = report.notes;
    write_json(json_file, json);
  }
  return 0;
}

}  // namespace tokamak::cli
