#include "cli/trtexec_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cli/args.h"
#include "cli/stats.h"
#include "ir/op.h"

namespace tokamak::cli {

namespace {

std::string summary_line(const char* title, const std::vector<double>& values, const std::vector<double>& percents) {
  const Summary s = summarize(values, percents);
  std::string line =
      fmt::format("{}: min = {:.6g} ms, max = {:.6g} ms, mean = {:.6g} ms, median = {:.6g} ms", title, s.min, s.max, s.mean, s.median);
  for (size_t i = 0; i < percents.size(); ++i) line += fmt::format(", percentile({:g}%) = {:.6g} ms", percents[i], s.percentiles[i]);
  return line;
}

std::vector<double> times(const Measurement& measured, double (Query::*of)() const) {
  std::vector<double> values;
  values.reserve(measured.queries.size());
  for (const Query& q : measured.queries) values.push_back((q.*of)());
  return values;
}

Json tensor_json(const std::string& name, const ir::TensorType& type) {
  return {{"Name", name},
          {"Location", "Host"},
          {"Dimensions", Json::array()},
          {"Format/Datatype", fmt::format("Row major linear {}", to_string(type.dtype))}};
}

Json tensors_json(std::span<ir::Value* const> values) {
  Json list = Json::array();
  for (const ir::Value* value : values) {
    if (!value || value->is_constant()) continue;
    Json tensor = tensor_json(value->name, value->type);
    for (const ir::Dim& dim : value->type.dims) tensor["Dimensions"].push_back(dim.is_const() ? Json(dim.value()) : Json(-1));
    list.push_back(std::move(tensor));
  }
  return list;
}

}  // namespace

std::vector<std::string> performance_summary(const Measurement& measured, const std::vector<double>& percents, int streams) {
  const std::vector<double> compute = times(measured, &Query::compute);
  const double compute_s = std::accumulate(compute.begin(), compute.end(), 0.0) * 1e-3;
  const double qps = measured.wall_s > 0 ? static_cast<double>(measured.queries.size()) / measured.wall_s : 0;
  return {
      fmt::format("Throughput: {:.6g} qps", qps),
      summary_line("Latency", times(measured, &Query::latency), percents),
      // On a CPU the call that enqueues also computes.
      summary_line("Enqueue Time", compute, percents),
      summary_line("H2D Latency", times(measured, &Query::h2d), percents),
      summary_line("GPU Compute Time", compute, percents),
      summary_line("D2H Latency", times(measured, &Query::d2h), percents),
      fmt::format("Total Host Walltime: {:.6g} s", measured.wall_s),
      fmt::format("Total GPU Compute Time: {:.6g} s", compute_s),
      fmt::format("Device Utilization: {:.1f} % (compute time / host walltime, mean over {} stream{})",
                  measured.wall_s > 0 ? 100 * compute_s / measured.wall_s / std::max(1, streams) : 0, streams, streams == 1 ? "" : "s"),
  };
}

std::vector<std::string> trace_lines(const Measurement& measured, int runs_per_line) {
  constexpr size_t kKept = 200;
  const size_t runs = static_cast<size_t>(std::max(1, runs_per_line)), groups = measured.queries.size() / runs;
  std::vector<std::string> lines;
  for (size_t group = 0; group < groups; ++group) {
    if (groups > 2 * kKept && group == kKept) {
      lines.push_back(fmt::format("... omitting {} lines", groups - 2 * kKept));
      group = groups - kKept;
    }
    double compute = 0, latency = 0;
    for (size_t i = group * runs; i < (group + 1) * runs; ++i)
      compute += measured.queries[i].compute(), latency += measured.queries[i].latency();
    lines.push_back(fmt::format("Average on {} runs - GPU latency: {:.6g} ms - Host latency: {:.6g} ms (enqueue {:.6g} ms)", runs,
                                compute / static_cast<double>(runs), latency / static_cast<double>(runs),
                                compute / static_cast<double>(runs)));
  }
  return lines;
}

std::vector<std::string> performance_warnings(const Measurement& measured, int streams) {
  std::vector<std::string> lines;
  const Summary compute = summarize(times(measured, &Query::compute)), h2d = summarize(times(measured, &Query::h2d)),
                d2h = summarize(times(measured, &Query::d2h));
  if (h2d.median > 0 && h2d.median >= compute.median)
    lines.emplace_back("Throughput is bound by copying inputs (H2D); --noDataTransfers leaves it out.");
  if (d2h.median > 0 && d2h.median >= compute.median)
    lines.emplace_back("Throughput is bound by copying outputs (D2H); --noDataTransfers leaves it out.");
  if (compute.coefficient_of_variation > 0.025)
    lines.push_back(
        fmt::format("Compute time is unstable, with coefficient of variance = {:.3g}%; other work on this machine may be the cause.",
                    100 * compute.coefficient_of_variation));
  if (streams > 1)
    lines.emplace_back("With several streams, latencies include waiting for shared caches and memory; throughput is the figure to read.");
  return lines;
}

std::vector<std::string> profile_lines(const std::vector<LayerTime>& layers) {
  double total = 0, total_mean = 0, total_median = 0;
  for (const LayerTime& layer : layers) total += std::accumulate(layer.ms.begin(), layer.ms.end(), 0.0);
  std::vector<std::string> lines = {fmt::format("=== Profile ({} iterations ) ===", layers.empty() ? 0 : layers[0].ms.size()),
                                    fmt::format("{:>12}{:>13}{:>13}{:>10}   {}", "Time(ms)", "Avg.(ms)", "Median(ms)", "Time(%)", "Layer")};
  for (const LayerTime& layer : layers) {
    const Summary s = summarize(layer.ms);
    const double time = std::accumulate(layer.ms.begin(), layer.ms.end(), 0.0);
    total_mean += s.mean;
    total_median += s.median;
    lines.push_back(
        fmt::format("{:12.2f}{:13.4f}{:13.4f}{:10.1f}   {}", time, s.mean, s.median, total > 0 ? 100 * time / total : 0, layer.name));
  }
  lines.push_back(fmt::format("{:12.2f}{:13.4f}{:13.4f}{:10.1f}   Total", total, total_mean, total_median, 100.0));
  return lines;
}

std::vector<std::string> layer_lines(const Engine& engine, bool detailed) {
  std::vector<std::string> lines;
  ir::for_each_graph(const_cast<ir::Graph&>(engine.graph()), [&](ir::Graph& graph) {
    for (const auto& node : graph.nodes()) {
      std::string line = node->label();
      if (detailed) {
        line = fmt::format("Name: {}, LayerType: {}, Kernel: {}, TacticName: {}", line, node->op().name, node->kernel, node->tactic);
        for (const ir::Value* v : node->outputs())
          if (v) line += fmt::format(", Output: {} {}", v->name, ir::to_string(v->type));
        line += fmt::format(", Metadata: {}", node->origin.empty() ? node->name : node->origin);
      }
      lines.push_back(std::move(line));
    }
  });
  return lines;
}

Json times_json(const Measurement& measured) {
  Json list = Json::array();
  for (const Query& q : measured.queries)
    list.push_back({{"startEnqMs", q.start_compute},
                    {"endEnqMs", q.end_compute},
                    {"startH2dMs", q.start_h2d},
                    {"endH2dMs", q.end_h2d},
                    {"startComputeMs", q.start_compute},
                    {"endComputeMs", q.end_compute},
                    {"startD2hMs", q.start_d2h},
                    {"endD2hMs", q.end_d2h},
                    {"h2dMs", q.h2d()},
                    {"computeMs", q.compute()},
                    {"d2hMs", q.d2h()},
                    {"latencyMs", q.latency()}});
  return list;
}

Json profile_json(const std::vector<LayerTime>& layers) {
  Json list = Json::array({Json{{"count", layers.empty() ? 0 : layers[0].ms.size()}}});
  double total = 0;
  for (const LayerTime& layer : layers) total += std::accumulate(layer.ms.begin(), layer.ms.end(), 0.0);
  for (const LayerTime& layer : layers) {
    const Summary s = summarize(layer.ms);
    const double time = std::accumulate(layer.ms.begin(), layer.ms.end(), 0.0);
    list.push_back({{"name", layer.name},
                    {"timeMs", time},
                    {"averageMs", s.mean},
                    {"medianMs", s.median},
                    {"percentage", total > 0 ? 100 * time / total : 0}});
  }
  return list;
}

Json outputs_json(const Engine& engine, const std::vector<Tensor>& outputs) {
  Json list = Json::array();
  for (size_t i = 0; i < outputs.size(); ++i) {
    Json values = Json::array();
    const Tensor& t = outputs[i];
    for (int64_t e = 0; e < t.count(); ++e) {
      if (t.dtype() == DType::String) values.push_back(t.strings()[e]);
      else if (is_integer(t.dtype()) || t.dtype() == DType::Bool) values.push_back(t.int_at(e));
      else values.push_back(t.float_at(e));  // JSON has no NaN or infinity: null
    }
    list.push_back({{"name", engine.outputs()[i].name}, {"dimensions", format_shape(t.shape())}, {"values", std::move(values)}});
  }
  return list;
}

Json layer_info_json(const Engine& engine, bool detailed) {
  Json json = {{"Layers", Json::array()}, {"Bindings", Json::array()}};
  ir::for_each_graph(const_cast<ir::Graph&>(engine.graph()), [&](ir::Graph& graph) {
    for (const auto& node : graph.nodes()) {
      if (!detailed) {
        json["Layers"].push_back(node->label());
        continue;
      }
      json["Layers"].push_back({{"Name", node->label()},
                                {"LayerType", node->op().name},
                                {"Inputs", tensors_json(node->inputs())},
                                {"Outputs", tensors_json(node->outputs())},
                                {"ParameterType", node->op().name},
                                {"TacticName", node->tactic.empty() ? node->kernel : node->kernel + " " + node->tactic},
                                {"TacticValue", node->tactic},
                                {"StreamId", 0},
                                {"Metadata", node->origin.empty() ? node->name : node->origin},
                                {"Kernel", node->kernel}});
    }
  });
  for (const auto* side : {&engine.inputs(), &engine.outputs()})
    for (const TensorInfo& t : *side) json["Bindings"].push_back(t.name);
  return json;
}

}  // namespace tokamak::cli
