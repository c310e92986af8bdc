#include "builder/builder.h"

#include <algorithm>
#include <chrono>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/version.h"
#include "builder/default_shapes.h"
#include "builder/report_json.h"
#include "import/hf/hf.h"
#include "import/onnx/import.h"
#include "ir/infer.h"
#include "passes/pipeline.h"
#include "quant/bf16.h"
#include "quant/f32.h"
#include "quant/int4.h"
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

// Builds the plans that the profiles allow for and holds the largest against the limit.
void check_workspace(const ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& tuned, int num_threads,
                     BuildReport& report) {
  std::vector<std::vector<Shape>> corners;
  for (const OptimizationProfile& profile : options.profiles) corners.push_back(shapes_of(graph, profile, Corner::Max));
  if (corners.empty() && !tuned.empty()) corners.push_back(tuned);
  int64_t needed = 0;
  for (const auto& shapes : corners) {
    Binding binding = bind_shapes(graph, shapes, num_threads);
    if (!binding.is_static) {
      report.notes.push_back(
          "this model has data-dependent shapes: its memory is not planned ahead and the workspace limit does not bound it");
      return;
    }
    needed = std::max(needed, Plan(graph, std::move(binding), num_threads).arena_bytes());
  }
  if (options.workspace_limit_bytes > 0 && needed > options.workspace_limit_bytes)
    fail(ErrorCode::ResourceExhausted,
         "the workspace limit is {} bytes, but the largest profile needs {} bytes of activations and workspace; --workspace={}M would do",
         options.workspace_limit_bytes, needed, (needed + (1 << 20) - 1) >> 20);
}

// Multiplications and additions of calibrating an int4 build: the passes over the text, then the rounding.
double calibration_gflop(ir::Graph& graph, const quant::MomentOptions& options) {
  double work = 0;
  for (const quant::ConstantMatrix& m : quant::constant_matrices(graph)) {
    const double n = static_cast<double>(m.n), k = static_cast<double>(m.k);
    work += 2 * n * k * options.sequences * options.length * (options.rounds + 1) + n * k * k + k * k * k / 3;
  }
  return work * 1e-9;
}

int weights_to_int4(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report) {
  const quant::MomentOptions text;
  if (!quant::is_step_graph(graph) || options.int4_calibration_gflop <= 0)
    return quant::weights_to_int4(graph, options.int4_group_size, nullptr, pool);
  const double needed = calibration_gflop(graph, text);
  if (needed > options.int4_calibration_gflop) {
    report.notes.push_back(
        fmt::format("4-bit weights are rounded one by one: rounding them for the model's own text would take {:.0f} GFLOP, "
                    "more than int4_calibration_gflop ({:.0f})",
                    needed, options.int4_calibration_gflop));
    return quant::weights_to_int4(graph, options.int4_group_size, nullptr, pool);
  }
  const quant::MeasuredMoments moments = quant::measure_moments(graph, text, pool);
  report.notes.push_back(fmt::format("4-bit weights are rounded for {} tokens of the model's own text", text.sequences * text.length));
  return quant::weights_to_int4(graph, options.int4_group_size, &moments, pool);
}

// Products whose weights are in integers of a dtype.
int count_quantized(const ir::Graph& graph, DType dtype) {
  int count = 0;
  ir::for_each_graph(graph, [&](const ir::Graph& g) {
    for (const auto& node : g.nodes()) count += node->is("quantized_matmul") && node->input(1)->type.dtype == dtype;
  });
  return count;
}

// Puts the weights of matrix products into the asked precision; returns the name of what it came to.
// After the passes: they fold and fuse float weights only. (Products that a GGUF file brings quantized get their epilogues as matmuls do.)
const char* choose_weights(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report) {
  const auto note = [&](int count, const char* text) {
    if (count > 0) report.notes.push_back(fmt::format("{} matrix products {}", count, text));
  };
  const int kept8 = count_quantized(graph, DType::I8), kept4 = count_quantized(graph, DType::I4);
  note(kept8 + kept4, "keep the quantized weights of the file");
  const char* kept = kept4 > 0 ? "int4" : kept8 > 0 ? "int8" : "fp32";
  switch (options.precision) {
    case Precision::Int8: {
      const int count = quant::weights_to_int8(graph, 0, pool);
      note(count, "have 8-bit weights, one scale a channel; everything else stays fp32");
      return count > 0 && kept4 == 0 ? "int8" : kept;
    }
    case Precision::Int4: {
      const int count = weights_to_int4(graph, options, pool, report);
      note(count_quantized(graph, DType::I4) - kept4, "have 4-bit weights, one scale a group; everything else stays fp32");
      note(count_quantized(graph, DType::I8) - kept8, "have 8-bit weights, one scale a channel");
      return count > 0 ? "int4" : kept;
    }
    case Precision::BF16:
    case Precision::Best:
      if (!cpu_features().avx512_bf16 && !cpu_features().amx_bf16) {
        report.notes.push_back("this CPU has no bf16 instructions: built in fp32");
      } else if (const int count = quant::weights_to_bf16(graph, pool); count > 0) {
        note(count, "multiply in bf16 with fp32 accumulation; everything else stays fp32");
        return kept4 + kept8 > 0 ? kept : "bf16";
      } else if (kept4 + kept8 == 0) {
        report.notes.push_back("no matrix product has constant weights to hold in bf16: built in fp32");
      }
      [[fallthrough]];
    case Precision::F32: quant::weights_to_f32(graph, pool); return kept;
  }
  return kept;
}

}  // namespace

std::unique_ptr<ir::Graph> import_model(const std::string& path, const BuildOptions& options, BuildReport* report) {
  const Clock clock;
  if (options.progress) options.progress({"import", 0, -1});
  std::unique_ptr<ir::Graph> graph;
  if (hf::is_checkpoint(path)) {
    hf::HfOptions checkpoint;
    checkpoint.block_size = options.kv_block_size;
    checkpoint.kv_dtype = options.kv_dtype.value_or(options.precision == Precision::F32 ? DType::F32 : DType::BF16);
    checkpoint.max_context = options.max_context;
    checkpoint.rope_dtype = options.rope_dtype;
    checkpoint.keep_quantized = options.precision != Precision::F32 && options.precision != Precision::BF16;
    checkpoint.dequantized = options.precision == Precision::F32 ? DType::F32 : DType::F16;
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

  const Clock optimizing;
  progress.report("optimize", 0.02, 0.15, 0);
  passes::PipelineOptions pipeline;
  pipeline.disabled = options.disabled_passes;
  pipeline.dump_ir = options.dump_ir;
  pipeline.dump_sink = options.dump_sink;
  pipeline.precision = options.precision;
  passes::run_pipeline(*graph, pipeline, r);
  ThreadPool pool(num_threads);
  const char* precision = choose_weights(*graph, options, pool, r);
  r.optimize_s = optimizing.seconds();

  const Clock tuning;
  const std::vector<Shape> shapes =
      options.profiles.empty() ? default_shapes(*graph, num_threads) : shapes_of(*graph, options.profiles[0], Corner::Opt);
  for (const OptimizationProfile& profile : options.profiles) bind_shapes(*graph, shapes_of(*graph, profile, Corner::Min), num_threads);
  if (shapes.empty() && !graph->inputs().empty()) {
    r.notes.push_back("no input shapes were found that the model accepts, so nothing was tuned; give --profile input:min,opt,max");
  } else {
    tune::TimingCache cache;
    if (!options.timing_cache.empty()) cache.merge_file(options.timing_cache);
    tune::TunerOptions tuner{options.opt_level, options.disabled_kernels,
                             [&](double fraction) { progress.report("tune", 0.15, 0.98, fraction); }};
    tune::tune(*graph, bind_shapes(*graph, shapes, num_threads), pool, cache, tuner, r);
    if (!options.timing_cache.empty()) cache.save(options.timing_cache);
  }
  r.tune_s = tuning.seconds();
  ir::verify(*graph);
  check_workspace(*graph, options, shapes, num_threads, r);

  EngineInfo info;
  if (const auto name = graph->metadata.find("model_name"); name != graph->metadata.end()) info.model_name = name->second;
  info.target = cpu_features().to_string();
  info.device_name = cpu_model_name();
  info.precision = precision;
  info.tokamak_version = kVersion;
  info.opt_level = options.opt_level;
  info.num_threads = num_threads;
  info.workspace_limit_bytes = options.workspace_limit_bytes;
  info.nodes_before = r.nodes_before;
  info.profiles = options.profiles;
  auto engine = std::make_shared<Engine>(std::move(graph), std::move(info));
  r.kernels_after = engine->num_kernels();
  r.total_s = r.import_s + total.seconds();
  progress.report("done", 1, 1, 0);
  engine->set_report(report_json(r));
  return engine;
}

}  // namespace tokamak
