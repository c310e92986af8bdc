// tokamak verify: a model's outputs against expected ones.

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "backends/cpu/thread_pool.h"
#include "cli/args.h"
#include "cli/command.h"
#include "cli/console.h"
#include "cli/data_sets.h"
#include "cli/session.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
A DIR holds model.onnx with case_N.npz (arrays in:NAME and out:NAME) or with test_data_set_N/input_I.pb and output_I.pb, or folders of such. Lower
precisions widen the tolerance unless --rtol or --atol is given: relative errors of 0.005 in tf32, 0.01 in fp16, 0.04 in bf16 and 0.1 with
quantized weights, and absolute ones of as much of the output's largest element.

Examples:
  tokamak verify models/resnet50
  tokamak verify models/* --json result.json
  tokamak verify conformance/light --rtol 2e-3 --threads 1
  tokamak verify models/* --device cuda --precision fp16
)";

struct CaseResult {
  std::string name, status, message;
  double max_abs_error = 0, max_rel_error = 0;
  int host_nodes = 0;  // of an engine for a GPU: nodes that ran on the CPU
};

// What a precision may cost: a relative error, and as an absolute one a share of the output's largest element (an element near zero is the
// difference of large ones). 0: the model's own tolerance holds.
double tolerance_of(const std::string& precision) {
  if (precision == "tf32") return 5e-3;
  if (precision == "fp16") return 1e-2;
  if (precision == "bf16") return 4e-2;
  return precision == "fp32" ? 0 : 0.1;
}

Tolerance widened(Tolerance tolerance, double precision_tolerance, const Tensor& want) {
  if (precision_tolerance == 0 || !is_float(want.dtype())) return tolerance;
  double largest = 0;
  for (int64_t i = 0; i < want.count(); ++i)
    if (const double a = std::fabs(want.float_at(i)); std::isfinite(a)) largest = std::max(largest, a);
  return {std::max(tolerance.rtol, precision_tolerance), std::max(tolerance.atol, precision_tolerance * largest)};
}

const char* const kStatuses[] = {"passed", "failed", "unsupported", "skipped"};

CaseResult run_case(ExecutionContext& context, const TestModel& model, const Case& c, const Tolerance& tolerance, bool widen) {
  CaseResult result{model.name + "/" + c.name, "passed", "", 0, 0};
  const double precision_tolerance = widen ? tolerance_of(context.engine().info().precision) : 0;
  const Engine& engine = context.engine();
  const CaseData data = read_case(c);
  for (size_t i = 0; i < data.inputs.size(); ++i) {
    const auto& [name, tensor] = data.inputs[i];
    if (name.empty() && i >= engine.inputs().size())
      fail(ErrorCode::InvalidArgument, "the case has {} inputs, the model {}", data.inputs.size(), engine.inputs().size());
    context.set_input(name.empty() ? engine.inputs()[i].name : name, tensor);
  }
  context.run();
  if (data.outputs.empty()) {
    result.status = "skipped";
    result.message = "the case holds no expected outputs";
    return result;
  }
  if (data.outputs[0].first.empty() && data.outputs.size() != engine.outputs().size()) {
    result.status = "failed";
    result.message = fmt::format("{} outputs where {} are expected", engine.outputs().size(), data.outputs.size());
    return result;
  }
  for (size_t i = 0; i < data.outputs.size(); ++i) {
    const auto& [name, want] = data.outputs[i];
    const Difference d = compare_tensors(name.empty() ? context.output(static_cast<int>(i)) : context.output(name), want,
                                         widened(tolerance, precision_tolerance, want));
    result.max_abs_error = std::max(result.max_abs_error, d.max_abs_error);
    result.max_rel_error = std::max(result.max_rel_error, d.max_rel_error);
    if (!d.same && result.status == "passed") {
      result.status = "failed";
      result.message = fmt::format("output '{}': {}", name.empty() ? engine.outputs()[i].name : name, d.message);
    }
  }
  return result;
}

CaseResult from_error(const std::string& name, const Error& error) {
  return {name, error.code() == ErrorCode::Unsupported ? "unsupported" : "failed", error.what(), 0, 0};
}

// `report` receives each result.
template <class F>
void verify_model(const TestModel& model, const BuildOptions& build_options, const Tolerance& tolerance, bool widen, const F& report) {
  if (!model.skip_reason.empty()) return report(CaseResult{model.name, "skipped", model.skip_reason, 0, 0});
  if (model.cases.empty()) return report(CaseResult{model.name, "skipped", "no case_N.npz and no test_data_set_N beside the model", 0, 0});
  std::unique_ptr<ExecutionContext> context;
  int host_nodes = 0;
  try {
    const Opened opened = open_model(model.model_path, build_options);
    host_nodes = opened.report.num_host_nodes();
    ContextOptions options;
    options.pool = std::make_shared<ThreadPool>(build_options.num_threads > 0 ? build_options.num_threads : available_threads());
    options.device = device_ordinal(build_options);
    context = std::make_unique<ExecutionContext>(opened.engine, options);
  } catch (const Error& error) {
    for (const Case& c : model.cases) report(from_error(model.name + "/" + c.name, error));
    return;
  }
  for (const Case& c : model.cases) {
    try {
      CaseResult result = run_case(*context, model, c, tolerance, widen);
      result.host_nodes = host_nodes;
      report(result);
    } catch (const Error& error) {
      report(from_error(model.name + "/" + c.name, error));
    }
  }
}

}  // namespace

int run_verify(const Words& args) {
  CLI::App app("Compares a model's outputs with expected ones; exit status 0 only when none differs.", "verify");
  app.footer(kExamples);
  std::vector<std::string> folders;
  std::string json_file;
  double rtol = -1, atol = -1;
  bool quiet = false;
  BuildFlags flags;
  app.add_option("DIR", folders, "folders with models and data, or .onnx files with data beside them")->required();
  app.add_option("--rtol", rtol, "relative tolerance instead of meta.json's or the index's")->check(CLI::NonNegativeNumber);
  app.add_option("--atol", atol, "absolute tolerance likewise")->check(CLI::NonNegativeNumber);
  app.add_option("--json", json_file, "write the results as JSON ('-': standard output)");
  app.add_flag("-q,--quiet", quiet, "only what did not pass, and the totals");
  flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;

  std::vector<std::string> notes;
  const BuildOptions build_options = flags.options(notes);
  std::vector<TestModel> models;
  for (const std::string& folder : folders)
    for (TestModel& model : find_test_models(folder)) models.push_back(std::move(model));

  FILE* out = text_stream(json_file);
  for (const std::string& note : notes) fmt::print(out, "note: {}\n", note);
  std::map<std::string, int> counts, fell_back;
  Json cases = Json::array();
  ProgressBar bar;
  for (size_t i = 0; i < models.size(); ++i) {
    Tolerance tolerance = models[i].tolerance;
    if (rtol >= 0) tolerance.rtol = rtol;
    if (atol >= 0) tolerance.atol = atol;
    BuildOptions options = build_options;
    options.progress = [&](const BuildProgress& p) {
      bar.update(models[i].name, (static_cast<double>(i) + p.fraction) / static_cast<double>(models.size()));
    };
    verify_model(models[i], options, tolerance, rtol < 0 && atol < 0, [&](const CaseResult& r) {
      bar.clear();
      ++counts[r.status];
      if (!quiet || r.status != "passed")
        fmt::print(out, "{:12}{:40} max_abs_error {:.2e}  max_rel_error {:.2e}{}{}\n", r.status, r.name, r.max_abs_error, r.max_rel_error,
                   r.message.empty() ? "" : "  ", r.message);
      cases.push_back({{"name", r.name},
                       {"status", r.status},
                       {"max_abs_error", r.max_abs_error},
                       {"max_rel_error", r.max_rel_error},
                       {"host_nodes", r.host_nodes},
                       {"message", r.message}});
      if (r.host_nodes > 0) ++fell_back[r.status];
    });
    std::fflush(out);
  }
  fmt::print(out, "{} passed, {} failed, {} unsupported, {} skipped\n", counts["passed"], counts["failed"], counts["unsupported"],
             counts["skipped"]);
  if (fell_back["passed"] + fell_back["failed"] > 0)
    fmt::print(out, "with nodes that ran on the CPU: {} of the passed, {} of the failed\n", fell_back["passed"], fell_back["failed"]);
  if (!json_file.empty()) {
    Json json = Json::object();
    for (const char* status : kStatuses) json[status] = counts[status];
    json["fell_back"] = {{"passed", fell_back["passed"]}, {"failed", fell_back["failed"]}};
    json["cases"] = std::move(cases);
    write_json(json_file, json);
  }
  if (counts["failed"] > 0 || counts["unsupported"] > 0) return 1;
  if (counts["passed"] == 0) fmt::print(stderr, "error: nothing was compared\n");
  return counts["passed"] > 0 ? 0 : 1;
}

}  // namespace tokamak::cli
