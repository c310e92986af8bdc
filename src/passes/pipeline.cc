#include "passes/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "ir/infer.h"
#include "ir/text.h"

namespace tokamak::passes {
namespace {

constexpr Pass kCanonicalize{"canonicalize", "identities, double casts and reshapes, neutral constants", canonicalize};
constexpr Pass kSimplifyShapes{"simplify-shapes", "shape arithmetic to constants and dims attributes", simplify_shapes};
constexpr Pass kFoldConstants{"fold-constants", "nodes with constant inputs are run now", fold_constants};
constexpr Pass kEliminateCommon{"eliminate-common", "equal nodes and equal constants merge", eliminate_common};
constexpr Pass kRemoveDead{"remove-dead", "nodes and constants without users", remove_dead};
constexpr Pass kFuseActivations{"fuse-activations", "gelu, silu, hard_swish and mish from primitive chains", fuse_activations};
constexpr Pass kFuseSoftmax{"fuse-softmax", "softmax and log_softmax from exponentials", fuse_softmax};
constexpr Pass kFuseNorms{"fuse-norms", "layer_norm and rms_norm from primitive chains", fuse_norms};
constexpr Pass kFoldBatchNorm{"fold-batch-norm", "batch_norm and channel constants into convolutions", fold_batch_norm};
constexpr Pass kMergeAffine{"merge-affine", "chains of constant additions and multiplications", merge_affine};
constexpr Pass kSinkReshapes{"sink-reshapes", "reshapes move below matmuls and pointwise work", sink_reshapes};
constexpr Pass kSinkRowTransposes{"sink-row-transposes", "transposes of whole rows move below matmuls", sink_row_transposes};
constexpr Pass kFoldScales{"fold-scales", "constant scales into matrices", fold_scales};
constexpr Pass kFuseRope{"fuse-rope", "rotary embedding from rotate-half chains", fuse_rope};
constexpr Pass kFuseAttention{"fuse-attention", "attention from matmul, softmax, matmul", fuse_attention};
constexpr Pass kMergeMatmuls{"merge-matmuls", "narrow matmuls of one input side by side", merge_matmuls};
constexpr Pass kPackProjections{"pack-projections", "for a GPU: q, k and v of one input as one product", pack_projections};
constexpr Pass kHoistSlices{"hoist-slices", "rows that nobody reads are not computed", hoist_slices};
constexpr Pass kPixelMatmuls{"pixel-matmuls", "for a GPU: 1x1 convolutions in NHWC as matmuls", pixel_matmuls};
constexpr Pass kChooseLayout{"choose-layout", "convolutions and pools in NHWC between transposes", choose_layout};
constexpr Pass kSinkTransposes{"sink-transposes", "transposes move down and cancel", sink_transposes};
constexpr Pass kFinishMovement{"finish-movement", "transposes that are reshapes, or a matmul's flag", finish_movement};
constexpr Pass kFuseEpilogues{"fuse-epilogues", "pointwise work behind matmul and conv", fuse_epilogues};
constexpr Pass kFuseAddNorm{"fuse-add-norm", "residual addition into the norm behind it", fuse_add_norm};
constexpr Pass kFuseRegions{"fuse-regions", "remaining pointwise work into fused nodes", fuse_regions};

constexpr Pass kFuseCachedAttention{"fuse-cached-attention", "writing a step's keys and values, and attending, as one",
                                    fuse_cached_attention};
constexpr Pass kFuseLinear{"fuse-linear", "linear layers with the norm before them and the gate behind them", fuse_linear};
constexpr Pass kScaleOperands{"scale-operands", "how far inputs of quantized layers can reach, from the weights before them",
                              scale_operands};

template <class F>
void for_each_graph_inner_first(ir::Graph& graph, const F& f) {
  for (const auto& node : graph.nodes())
    for (const auto& sub : node->subgraphs) for_each_graph_inner_first(*sub, f);
  f(graph);
}

int run_on_all(const Pass& pass, ir::Graph& graph, PassContext& context) {
  int rewrites = 0;
  for_each_graph_inner_first(graph, [&](ir::Graph& g) { rewrites += pass.run(g, context); });
  return rewrites;
}

void run_steps(const std::vector<Step>& steps, ir::Graph& graph, const PipelineOptions& options, BuildReport& report);

}  // namespace

const std::vector<Step>& pipeline() {
  static const std::vector<Step> steps = {
      // First of all, one form: every pattern below is written against canonical arithmetic, constants where values are known, and shapes
      // as attributes. Each feeds the others (a folded shape shows that a reshape does nothing, ...), so they repeat until quiet.
      {{kCanonicalize, kSimplifyShapes, kFoldConstants, kEliminateCommon, kRemoveDead}, 16},
      // Recognition wants chains as exporters wrote them: before anything reorders or merges constants. Activations first, they are leaves
      // of everything else; norms before attention has to look past their parts.
      {{kFuseActivations, kFuseSoftmax, kFuseNorms, kFuseNorms, kRemoveDead}},
      // Flattening around Gemms goes now that activations are single nodes; constants then meet (bias scale, batch norm) and fold into
      // weights, before attention so that the scale of q is already in its matrix where there is one.
      {{kSinkReshapes, kSinkRowTransposes, kCanonicalize, kFoldBatchNorm, kMergeAffine, kFoldScales, kFoldConstants, kEliminateCommon,
        kRemoveDead},
       8},
      // rope before attention, which moves the head transposes through it. It can settle a length that was open before, so shapes again.
      {{kFuseRope, kSimplifyShapes, kCanonicalize, kFoldConstants, kEliminateCommon, kRemoveDead}, 6},
      {{kFuseAttention, kCanonicalize, kEliminateCommon, kSimplifyShapes, kRemoveDead}},
      // After attention, whose reshapes tell how q, k and v are used; before epilogues take the biases. Packed projections first: attention
      // reads them in place, where the parts of merged matmuls are copied.
      {{kPackProjections, kMergeMatmuls}},
      // Layout after every fold that reads NCHW channel constants, before epilogues, which need channels in the last axis.
      {{kChooseLayout}},
      {{kSinkTransposes, kSinkRowTransposes, kCanonicalize, kFoldConstants, kMergeAffine, kEliminateCommon, kRemoveDead}, 8},
      {{kFinishMovement, kSinkReshapes, kCanonicalize, kFoldConstants, kEliminateCommon, kRemoveDead}, 4},
      // Equal slices meet before the value that they are of can be narrowed.
      {{kHoistSlices, kCanonicalize, kEliminateCommon, kRemoveDead}, 8},
      // Into the producer first (no extra pass over memory), then the norms, then whatever is left among itself.
      // What a convolution is must be settled then.
      {{kPixelMatmuls, kFuseEpilogues}},
      {{kFuseAddNorm, kRemoveDead}},
      {{kFuseRegions, kFoldConstants, kEliminateCommon, kRemoveDead}},
  };
  return steps;
}

const std::vector<Step>& gpu_pipeline() {
  static const std::vector<Step> steps = {
      {{kFuseCachedAttention, kFuseLinear, kScaleOperands}},
  };
  return steps;
}

const Pass* find_pass(std::string_view name) {
  for (const auto* steps : {&pipeline(), &gpu_pipeline()})
    for (const Step& step : *steps)
      for (const Pass& pass : step.passes)
        if (pass.name == name) return &pass;
  return nullptr;
}

void run_pipeline(ir::Graph& graph, const PipelineOptions& options, BuildReport& report) { run_steps(pipeline(), graph, options, report); }

void run_gpu_pipeline(ir::Graph& graph, const PipelineOptions& options, BuildReport& report) {
  run_steps(gpu_pipeline(), graph, options, report);
}

namespace {

void run_steps(const std::vector<Step>& steps, ir::Graph& graph, const PipelineOptions& options, BuildReport& report) {
  const auto check_name = [](std::string_view name) {
    if (find_pass(name) != nullptr) return;
    std::string known;
    for (const auto* all : {&pipeline(), &gpu_pipeline()})
      for (const Step& step : *all)
        for (const Pass& pass : step.passes)
          if (known.find(pass.name) == std::string::npos) known += (known.empty() ? "" : ", ") + std::string(pass.name);
    fail(ErrorCode::InvalidArgument, "no pass is called \"{}\"; the passes are: {}", name, known);
  };
  for (const std::string& name : options.disabled) check_name(name);
  const bool dump_all = options.dump_ir == "all";
  const bool dump_before = options.dump_ir.starts_with("before:"), dump_after = options.dump_ir.starts_with("after:");
  const std::string dump_name = dump_before || dump_after ? options.dump_ir.substr(options.dump_ir.find(':') + 1) : "";
  if (!options.dump_ir.empty() && !dump_all) check_name(dump_name);
  const auto dump = [&](std::string_view when, const Pass& pass) {
    const std::string text = fmt::format("# {} {}\n{}", when, pass.name, ir::print(graph));
    if (options.dump_sink) options.dump_sink(text);
    else std::fputs(text.c_str(), stderr);
  };

  const bool quantizes =
      options.precision == Precision::Int8 || options.precision == Precision::Int4 || options.precision == Precision::FP8;
  PassContext context{options.is_gpu, quantizes, {}};
  std::vector<PassReport> reports;
  ir::infer_types(graph);
  for (const Step& step : steps) {
    for (int round = 0; round < step.rounds; ++round) {
      int rewrites = 0;
      for (const Pass& pass : step.passes) {
        if (std::find(options.disabled.begin(), options.disabled.end(), pass.name) != options.disabled.end()) continue;
        if (dump_before && pass.name == dump_name) dump("before", pass);
        const auto start = std::chrono::steady_clock::now();
        PassReport r{std::string(pass.name), graph.num_nodes_deep(), 0, 0, 0};
        try {
          r.rewrites = run_on_all(pass, graph, context);
          ir::verify(graph);
        } catch (const Error& e) {
          throw Error(e.code(), fmt::format("pass {}: {}", pass.name, e.what()));
        }
        r.nodes_after = graph.num_nodes_deep();
        r.ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        rewrites += pass.run == remove_dead ? 0 : r.rewrites;
        const auto same = std::find_if(reports.begin(), reports.end(), [&](const PassReport& x) { return x.name == r.name; });
        if (same == reports.end()) {
          reports.push_back(r);
        } else {
          same->nodes_after = r.nodes_after - r.nodes_before + same->nodes_after;
          same->rewrites += r.rewrites;
          same->ms += r.ms;
        }
        if ((dump_after && pass.name == dump_name) || (dump_all && r.rewrites != 0)) dump("after", pass);
      }
      if (rewrites == 0) break;
      ir::infer_types(graph);
    }
  }
  graph.sort();
  ir::verify(graph);
  report.passes.insert(report.passes.end(), reports.begin(), reports.end());
  report.notes.insert(report.notes.end(), context.notes.begin(), context.notes.end());
}

}  // namespace

void run_passes(ir::Graph& graph, std::span<const std::string> names) {
  PassContext context{true, false, {}};
  ir::infer_types(graph);
  for (const std::string& name : names) {
    const Pass* pass = find_pass(name);
    if (pass == nullptr) fail(ErrorCode::InvalidArgument, "no pass is called \"{}\"", name);
    run_on_all(*pass, graph, context);
    ir::verify(graph);
    ir::infer_types(graph);
  }
}

}  // namespace tokamak::passes
