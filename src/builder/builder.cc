#include "builder/builder.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/version.h"
#include "builder/default_shapes.h"
#include "builder/device.h"
#include "builder/precision.h"
#include "builder/report_json.h"
#include "import/hf/hf.h"
#include "import/onnx/import.h"
#include "ir/infer.h"
#include "passes/pipeline.h"
#include "runtime/device_plan.h"
#include "runtime/execution_context.h"
#include "runtime/plan.h"
#include "tune/tuner.h"

namespace tokamak {
namespace {

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Turns the parts' progress into one fraction with an estimate of the time left.
class Progress {
 public:
  explicit Progress(const BuildOptions& options) : options_(options) {}
  void report(const char* step, double from, double to, double fraction) const {
    if (!options_.progress) return;
    BuildProgress p{step, from + (to - from) * fraction, -1};
    if (p.fraction > 0.05) p.remaining_s = clock_.seconds() * (1 - p.fraction) / p.fraction;
    options_.progress(p);
  }

 private:
  const BuildOptions& options_;
  Clock clock_;
};

enum class Corner { Min, Opt, Max };

// The layers with the largest values, for a message.
std::string largest_values(const quant::Ranges& ranges) {
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, most] : ranges.by_layer) order.emplace_back(most, name);
  std::sort(order.rbegin(), order.rend());
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(order.size(), 3); ++i)
    text += fmt::format("{}\"{}\" ({:.3g})", i ? ", " : "", order[i].second, order[i].first);
  return text;
}

// The graph's input shapes at one corner of a profile; inputs that the profile leaves out must be static.
std::vector<Shape> shapes_of(const ir::Graph& graph, const OptimizationProfile& profile, Corner corner) {
  std::vector<Shape> shapes;
  ir::Dim::Bindings symbols;
  for (const ShapeRange& r : profile) {
    bool known = false;
    for (const ir::Value* v : graph.inputs()) {
      if (v->name != r.input) continue;
      known = true;
      for (const Shape* s : {&r.min, &r.opt, &r.max}) {
        ir::Dim::Bindings ignored;
        bind_symbols(r.input, v->type, *s, ignored);
      }
      for (size_t d = 0; d < r.min.size(); ++d)
        if (r.min[d] > r.opt[d] || r.opt[d] > r.max[d])
          fail(ErrorCode::InvalidArgument, "optimization profile, input \"{}\": min {} <= opt {} <= max {} does not hold", r.input,
               to_string(r.min), to_string(r.opt), to_string(r.max));
      bind_symbols(r.input, v->type, corner == Corner::Min ? r.min : corner == Corner::Opt ? r.opt : r.max, symbols);
    }
    if (!known) fail(ErrorCode::NotFound, "optimization profile: the model has no input \"{}\"", r.input);
  }
  for (const ir::Value* v : graph.inputs()) {
    const ShapeRange* range = nullptr;
    for (const ShapeRange& r : profile)
      if (r.input == v->name) range = &r;
    if (range) {
      shapes.push_back(corner == Corner::Min ? range->min : corner == Corner::Opt ? range->opt : range->max);
      continue;
    }
    Shape shape;
    for (const ir::Dim& d : v->type.dims) {
      const ir::Dim bound = d.substitute(symbols);
      if (!bound.is_const())
        fail(ErrorCode::InvalidArgument, "optimization profile: input \"{}\" ({}) has a dynamic dimension; give its min, opt and max too",
             v->name, to_string(v->type));
      shape.push_back(bound.value());
    }
    shapes.push_back(std::move(shape));
  }
  return shapes;
}

// The largest shapes that are planned for: every profile's, else those that were tuned for.
std::vector<std::vector<Shape>> largest_shapes(const ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& tuned) {
  std::vector<std::vector<Shape>> corners;
  for (const OptimizationProfile& profile : options.profiles) corners.push_back(shapes_of(graph, profile, Corner::Max));
  if (corners.empty() && (!tuned.empty() || graph.inputs().empty())) corners.push_back(tuned);
  return corners;
}

void hold_against_limit(int64_t needed, const BuildOptions& options) {
  if (options.workspace_limit_bytes > 0 && needed > options.workspace_limit_bytes)
    fail(ErrorCode::ResourceExhausted,
         "the workspace limit is {} bytes, but the largest profile needs {} bytes of activations and workspace; --workspace={}M would do",
         options.workspace_limit_bytes, needed, (needed + (1 << 20) - 1) >> 20);
}

// Builds the plans that the profiles allow for and holds the largest against the limit.
void check_workspace(const ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& tuned, int num_threads,
                     BuildReport& report) {
  int64_t needed = 0;
  for (const auto& shapes : largest_shapes(graph, options, tuned)) {
    Binding binding = bind_shapes(graph, shapes, num_threads);
    if (!binding.is_static) {
      report.notes.push_back(
          "this model has data-dependent shapes: its memory is not planned ahead and the workspace limit does not bound it");
      return;
    }
    needed = std::max(needed, Plan(graph, std::move(binding), num_threads).arena_bytes());
  }
  hold_against_limit(needed, options);
}

// Where a GPU's plan is to find the inputs: in its memory what nodes write in place (KV caches), else on the host.
std::vector<Place> input_places(const ir::Graph& graph) {
  std::vector<Place> places;
  for (const ir::Value* v : graph.inputs()) {
    const bool written =
        std::any_of(v->uses().begin(), v->uses().end(), [](const ir::Use& use) { return use.node->op().written_input == use.index; });
    places.push_back(written ? Place::Device : Place::Host);
  }
  return places;
}

// Plans the tuned and the largest shapes for a GPU, which makes the code of every kernel that they take: what the engine carries. Holds
// the memory against the limit.
std::shared_ptr<cuda::CodeCache> plan_for_gpu(const ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& tuned,
                                              const std::vector<std::vector<Shape>>& others, const BuildDevice& device, ThreadPool& pool,
                                              BuildReport& report) {
  const auto context = engine_context(device);
  std::vector<std::vector<Shape>> all = largest_shapes(graph, options, tuned);
  if (!options.profiles.empty() && !tuned.empty()) all.push_back(tuned);
  all.insert(all.end(), others.begin(), others.end());
  int copies = 0;
  bool is_static = true;
  for (const auto& shapes : all) {
    Binding binding = bind_shapes(graph, shapes, pool.width());
    compile_kernels(graph, binding, *context, pool);
    is_static &= binding.is_static;
    if (!binding.is_static) continue;
    const DevicePlan plan(graph, std::move(binding), pool, *context, input_places(graph), Place::Host);
    report.planned_bytes = std::max(report.planned_bytes, plan.device_arena_bytes());
    copies = plan.num_copies();
  }
  hold_against_limit(report.planned_bytes, options);
  if (!is_static) report.notes.push_back("this model has data-dependent shapes: it runs node by node, and its memory is not planned ahead");
  if (const int on_host = report.num_host_nodes(); on_host > 0)
    report.notes.push_back(
        fmt::format("{} node{} on the CPU, where no CUDA kernel takes {} (inspect says why); {} copies a run, inputs and outputs included",
                    on_host, on_host == 1 ? " runs" : "s run", on_host == 1 ? "it" : "them", copies));
  if (!device.is_present)
    report.notes.push_back(fmt::format("built for {} without the GPU: kernels are compiled, nothing was timed", device.target));
  return code_of(*context);
}

// What is finite in fp32 and not in a run's outputs: empty when nothing is.
std::string not_finite(const ExecutionContext& context, const quant::Ranges& ranges) {
  for (size_t i = 0; i < ranges.outputs.size(); ++i) {
    const Tensor &wide = ranges.outputs[i], &narrow = context.output(static_cast<int>(i));
    if (wide.dtype() != DType::F32 || narrow.shape() != wide.shape()) continue;
    for (int64_t k = 0; k < wide.count(); ++k)
      if (std::isfinite(wide.data<float>()[k]) && !std::isfinite(narrow.float_at(k)))
        return fmt::format("output \"{}\" is not finite in fp16 where it is {} in fp32", context.engine().outputs()[i].name,
                           wide.data<float>()[k]);
  }
  return {};
}

// Outputs of a 16-bit engine on the inputs that its ranges were measured on: what is finite in fp32 must be finite. What comes and goes
// from run to run is no overflow.
void check_finite(const std::shared_ptr<const Engine>& engine, const quant::Ranges& ranges, int ordinal) {
  ExecutionContext context(engine, {.device = ordinal});
  for (size_t i = 0; i < ranges.inputs.size(); ++i) context.set_input(engine->inputs()[i].name, ranges.inputs[i]);
  context.run();
  const std::string problem = not_finite(context, ranges);
  if (problem.empty()) return;
  for (int run = 0; run < 3; ++run) {
    context.run();
    if (not_finite(context, ranges) != problem)
      fail(ErrorCode::Internal, "{}, but not in every run: kernels disturb each other; please report this with the model", problem);
  }
  fail(ErrorCode::Unsupported, "{}; the largest values are those of {}; build with --bf16", problem, largest_values(ranges));
}

}  // namespace

int BuildReport::num_host_nodes() const {
  return static_cast<int>(std::count_if(tactics.begin(), tactics.end(), [](const TacticReport& t) { return !t.host_reason.empty(); }));
}

std::unique_ptr<ir::Graph> import_model(const std::string& path, const BuildOptions& options, BuildReport* report) {
  const Clock clock;
  if (options.progress) options.progress({"import", 0, -1});
  std::unique_ptr<ir::Graph> graph;
  if (hf::is_checkpoint(path)) {
    hf::HfOptions checkpoint;
    checkpoint.block_size = options.kv_block_size;
    checkpoint.kv_dtype = kv_dtype_of(options);
    checkpoint.max_context = options.max_context;
    checkpoint.rope_dtype = options.rope_dtype;
    checkpoint.rank = options.rank;
    checkpoint.world_size = options.world_size;
    const bool is_fp32 = options.precision == Precision::F32 || options.precision == Precision::TF32;
    checkpoint.keep_quantized = !is_fp32 && options.precision != Precision::BF16 && options.precision != Precision::F16;
    checkpoint.dequantized = is_fp32 ? DType::F32 : DType::F16;
    if (report) checkpoint.notes = &report->notes;
    graph = hf::import_checkpoint(path, checkpoint);
  } else {
    graph = onnx::import_model(path);
  }
  if (!graph->metadata.contains("model_name")) {
    const size_t slash = path.find_last_of('/');
    graph->metadata["model_name"] = path.substr(slash == std::string::npos ? 0 : slash + 1);
  }
  if (report) report->import_s = clock.seconds();
  return graph;
}

std::shared_ptr<const Engine> build_engine(const std::string& path, const BuildOptions& options, BuildReport* report) {
  BuildReport local;
  BuildReport& r = report ? *report : local;
  auto graph = import_model(path, options, &r);
  return build_engine(std::move(graph), options, &r);
}

std::shared_ptr<const Engine> build_engine(std::unique_ptr<ir::Graph> graph, const BuildOptions& options, BuildReport* report) {
  BuildReport local;
  BuildReport& r = report ? *report : local;
  const Clock total;
  const Progress progress(options);
  const int num_threads = options.num_threads > 0 ? options.num_threads : available_threads();
  r.nodes_before = graph->num_nodes_deep();
  ir::verify(*graph);
  const BuildDevice device = open_device(options.device, options.precision == Precision::TF32);

  const Clock optimizing;
  progress.report("optimize", 0.02, 0.15, 0);
  passes::PipelineOptions pipeline;
  pipeline.disabled = options.disabled_passes;
  pipeline.dump_ir = options.dump_ir;
  pipeline.dump_sink = options.dump_sink;
  pipeline.precision = options.precision;
  pipeline.is_gpu = device.name.is_cuda;
  passes::run_pipeline(*graph, pipeline, r);
  ThreadPool pool(num_threads);
  std::vector<Shape> shapes =
      options.profiles.empty() ? default_shapes(*graph, num_threads) : shapes_of(*graph, options.profiles[0], Corner::Opt);
  // On a GPU one product has different best kernels for few rows and for many.
  std::vector<std::vector<Shape>> other_shapes;
  if (device.name.is_cuda) {
    for (size_t i = 1; i < options.profiles.size(); ++i) other_shapes.push_back(shapes_of(*graph, options.profiles[i], Corner::Opt));
    if (auto steps = options.profiles.empty() ? step_shapes(*graph) : decltype(other_shapes){}; !steps.empty()) {
      shapes = std::move(steps.front());
      other_shapes.assign(steps.begin() + 1, steps.end());
    }
  }
  std::optional<quant::Ranges> ranges;
  const char* precision =
      device.name.is_cuda ? choose_precision_for_gpu(*graph, options, shapes, pool, ranges, r) : choose_weights(*graph, options, pool, r);
  if (device.name.is_cuda) passes::run_gpu_pipeline(*graph, pipeline, r);
  r.optimize_s = optimizing.seconds();

  const Clock tuning;
  for (const OptimizationProfile& profile : options.profiles) bind_shapes(*graph, shapes_of(*graph, profile, Corner::Min), num_threads);
  if (shapes.empty() && !graph->inputs().empty()) {
    r.notes.push_back("no input shapes were found that the model accepts, so nothing was tuned; give --profile input:min,opt,max");
  } else {
    tune::TimingCache cache;
    if (!options.timing_cache.empty()) cache.merge_file(options.timing_cache);
    tune::TunerOptions tuner{options.opt_level, options.disabled_kernels, device.tuning.get(),
                             [&](double fraction) { progress.report("tune", 0.15, 0.98, fraction); }};
    std::vector<tune::TuningPoint> points{{bind_shapes(*graph, shapes, num_threads), {}}};
    for (const auto& other : other_shapes) points.push_back({bind_shapes(*graph, other, num_threads), {}});
    if (device.name.is_cuda && options.world_size == 1) {
      points[0].inputs = whole_graph_inputs(*graph, shapes);
      for (size_t i = 0; i < other_shapes.size(); ++i) points[i + 1].inputs = whole_graph_inputs(*graph, other_shapes[i]);
    }
    tune::tune(*graph, points, pool, cache, tuner, r);
    if (!options.timing_cache.empty()) cache.save(options.timing_cache);
  }
  r.tune_s = tuning.seconds();
  ir::verify(*graph);
  std::shared_ptr<cuda::CodeCache> code;
  if (device.name.is_cuda) code = plan_for_gpu(*graph, options, shapes, other_shapes, device, pool, r);
  else check_workspace(*graph, options, shapes, num_threads, r);

  EngineInfo info;
  if (const auto name = graph->metadata.find("model_name"); name != graph->metadata.end()) info.model_name = name->second;
  info.device = device.name.is_cuda ? "cuda" : "cpu";
  info.target = device.target;
  info.device_name = device.device_name;
  info.precision = precision;
  info.tokamak_version = kVersion;
  info.opt_level = options.opt_level;
  info.num_threads = num_threads;
  info.workspace_limit_bytes = options.workspace_limit_bytes;
  info.nodes_before = r.nodes_before;
  info.profiles = options.profiles;
  auto engine = std::make_shared<Engine>(std::move(graph), std::move(info), std::move(code));
  r.kernels_after = engine->num_kernels();
  if (ranges && device.is_present) check_finite(engine, *ranges, device.name.ordinal);
  r.total_s = r.import_s + total.seconds();
  progress.report("done", 1, 1, 0);
  engine->set_report(report_json(r));
  return engine;
}

}  // namespace tokamak
