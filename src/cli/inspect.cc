// tokamak inspect: what is in a model or an engine, what each pass did, which kernels were chosen and why.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "cli/args.h"
#include "cli/command.h"
#include "cli/inspect_html.h"
#include "cli/session.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::cli {

namespace {

constexpr const char* kExamples = R"(
Examples:
  tokamak inspect model.onnx
  tokamak inspect model.engine --why /encoder/layer.0/attention
  tokamak inspect model.engine --ir | less
  tokamak inspect model.engine --html report.html
)";

Json tensors_json(const std::vector<TensorInfo>& tensors) {
  Json json = Json::array();
  for (const TensorInfo& t : tensors) json.push_back({{"name", t.name}, {"type", ir::to_string(t.type)}});
  return json;
}

Json profiles_json(const std::vector<OptimizationProfile>& profiles) {
  Json json = Json::array();
  for (const OptimizationProfile& profile : profiles) {
    Json ranges = Json::array();
    for (const ShapeRange& r : profile) ranges.push_back({{"input", r.input}, {"min", r.min}, {"opt", r.opt}, {"max", r.max}});
    json.push_back(std::move(ranges));
  }
  return json;
}

Json ops_json(const ir::Graph& graph) {
  std::map<std::string, int> counts;
  ir::for_each_graph(const_cast<ir::Graph&>(graph), [&](ir::Graph& g) {
    for (const auto& node : g.nodes()) ++counts[std::string(node->op().name)];
  });
  std::vector<std::pair<std::string, int>> order(counts.begin(), counts.end());
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  Json json = Json::object();
  for (const auto& [op, count] : order) json[op] = count;
  return json;
}

// The same form as the engine's info section holds.
Json report_json(const BuildReport& report) {
  Json json = {{"passes", Json::array()}, {"tactics", Json::array()}, {"notes", report.notes}};
  for (const PassReport& p : report.passes)
    json["passes"].push_back(
        {{"name", p.name}, {"nodes_before", p.nodes_before}, {"nodes_after", p.nodes_after}, {"rewrites", p.rewrites}, {"ms", p.ms}});
  for (const TacticReport& t : report.tactics)
    json["tactics"].push_back({{"node", t.node},
                               {"op", t.op},
                               {"origin", t.origin},
                               {"kernel", t.kernel},
                               {"tactic", t.tactic},
                               {"us", t.us},
                               {"host_reason", t.host_reason},
                               {"candidates", t.candidates},
                               {"declined", t.declined}});
  return json;
}

// Layers in execution order, with what the report knows about each.
Json layers_json(const Engine& engine, const Json& report) {
  std::map<std::string, const Json*> by_node;
  if (report.contains("tactics"))
    for (const Json& t : report["tactics"]) by_node[t.value("node", "")] = &t;
  Json layers = Json::array();
  ir::for_each_graph(const_cast<ir::Graph&>(engine.graph()), [&](ir::Graph& graph) {
    for (const auto& node : graph.nodes()) {
      Json layer = {{"name", node->label()},   {"op", node->op().name},  {"origin", node->origin.empty() ? node->name : node->origin},
                    {"kernel", node->kernel},  {"tactic", node->tactic}, {"inputs", Json::array()},
                    {"outputs", Json::array()}};
      for (const ir::Value* v : node->inputs()) layer["inputs"].push_back(v ? ir::to_string(v->type) : "");
      for (const ir::Value* v : node->outputs()) layer["outputs"].push_back(v ? ir::to_string(v->type) : "");
      const auto known = by_node.find(node->label());
      if (known != by_node.end())
        for (const char* key : {"us", "host_reason", "candidates", "declined"})
          if (known->second->contains(key)) layer[key] = (*known->second)[key];
      layers.push_back(std::move(layer));
    }
  });
  return layers;
}

// Engine memory at the first profile's optimum; of an engine for a GPU the copies between it and the host too.
Json memory_json(const std::shared_ptr<const Engine>& engine, int device, Json& copies) {
  ContextOptions options;
  options.device = device;
  ExecutionContext context(engine, options);
  const NamedShapes shapes = resolve_shapes(*engine, {});
  for (size_t i = 0; i < shapes.size(); ++i)
    context.set_input(shapes[i].first, random_input(*engine, engine->inputs()[i], shapes[i].second));
  context.prepare();
  for (const StepInfo& step : context.steps())
    if (step.node == nullptr) copies.push_back({{"name", step.name}, {"bytes", step.bytes}});
  const MemoryStats m = context.memory();
  Json json = {{"shapes", Json::object()},
               {"arena_bytes", m.arena_bytes},
               {"lower_bound_bytes", m.lower_bound_bytes},
               {"shape_constant_bytes", m.shape_constant_bytes},
               {"weights_bytes", engine->weights_bytes()}};
  for (const auto& [name, shape] : shapes) json["shapes"][name] = shape;
  return json;
}

void print_text(FILE* out, const Json& info) {
  fmt::print(out, "{}\n", info["file"].get<std::string>());
  for (const char* side : {"inputs", "outputs"}) {
    fmt::print(out, "{}\n", side);
    for (const Json& t : info[side]) fmt::print(out, "  {:40} {}\n", t["name"].get<std::string>(), t["type"].get<std::string>());
  }
  for (size_t i = 0; i < info["profiles"].size(); ++i)
    for (const Json& r : info["profiles"][i])
      fmt::print(out, "profile {}  {:28} min {}  opt {}  max {}\n", i, r["input"].get<std::string>(), format_shape(r["min"]),
                 format_shape(r["opt"]), format_shape(r["max"]));
  const Json& e = info["engine"];
  fmt::print(out, "precision {}, tuned for {} thread(s) on {}, opt level {}, needs {}\n", e["precision"].get<std::string>(),
             e["threads"].get<int>(), e["device"].get<std::string>(), e["opt_level"].get<int>(), e["target"].get<std::string>());
  fmt::print(out, "{} nodes in the model -> {} kernels\n", info["nodes"].get<int64_t>(), info["kernels"].get<int64_t>());
  if (info.contains("memory")) {
    const Json& m = info["memory"];
    fmt::print(out, "memory: weights {}, activations {} (lower bound {}), shape constants {}\n", format_bytes(m["weights_bytes"]),
               format_bytes(m["arena_bytes"]), format_bytes(m["lower_bound_bytes"]), format_bytes(m["shape_constant_bytes"]));
  }
  for (const char* key : {"model_ops", "ops"}) {
    if (!info.contains(key)) continue;
    fmt::print(out, "\n{}\n ", std::string(key) == "ops" ? "operators in the engine" : "operators as imported");
    for (const auto& [op, count] : info[key].items()) fmt::print(out, " {} {}", count.get<int>(), op);
    fmt::print(out, "\n");
  }
  const Json& report = info["report"];
  if (report.contains("passes") && !report["passes"].empty()) {
    fmt::print(out, "\n{:32}{:>8}{:>8}{:>10}\n", "pass", "before", "after", "rewrites");
    for (const Json& p : report["passes"])
      fmt::print(out, "{:32}{:>8}{:>8}{:>10}\n", p.value("name", ""), p.value("nodes_before", 0), p.value("nodes_after", 0),
                 p.value("rewrites", 0));
  }
  fmt::print(out, "\n{:18}{:40}{:>10}  {}\n", "op", "kernel and tactic", "us", "layer (what it came from)");
  for (const Json& l : info["layers"]) {
    const std::string name = l["name"], origin = l["origin"], kernel = l["kernel"], tactic = l["tactic"];
    const double us = l.contains("us") ? l["us"].get<double>() : 0;
    fmt::print(out, "{:18}{:40}{:>10}  {}{}\n", l["op"].get<std::string>(), tactic.empty() ? kernel : kernel + " " + tactic,
               us > 0 ? fmt::format("{:.1f}", us) : "", name, origin.empty() || origin == name ? "" : "  <- " + origin);
  }
  for (const Json& l : info["layers"])
    if (const std::string reason = l.value("host_reason", ""); !reason.empty())
      fmt::print(out, "on the CPU: {} ({}): {}\n", l["name"].get<std::string>(), l["op"].get<std::string>(), reason);
  if (info.contains("copies"))
    for (const Json& copy : info["copies"])
      fmt::print(out, "copy: {}, {}\n", copy["name"].get<std::string>(), format_bytes(copy["bytes"].get<int64_t>()));
  if (report.contains("notes"))
    for (const Json& note : report["notes"]) fmt::print(out, "note: {}\n", note.get<std::string>());
}

int print_why(FILE* out, const Json& info, const std::string& wanted) {
  std::vector<std::string> names;
  int found = 0;
  for (const Json& l : info["layers"]) {
    const std::string name = l["name"], origin = l["origin"];
    names.push_back(name);
    if (name.find(wanted) == std::string::npos && origin.find(wanted) == std::string::npos) continue;
    ++found;
    fmt::print(out, "{} ({}), from {}\n  chosen    {} {}\n", name, l["op"].get<std::string>(), origin, l["kernel"].get<std::string>(),
               l["tactic"].get<std::string>());
    if (l.contains("candidates"))
      for (const Json& c : l["candidates"]) {
        const double us = c.at(1);
        fmt::print(out, "  {}  {}\n", us > 0 ? fmt::format("{:>10.2f} us", us) : "not timed    ", c.at(0).get<std::string>());
      }
    if (l.contains("declined"))
      for (const Json& d : l["declined"]) fmt::print(out, "  declined  {}: {}\n", d.at(0).get<std::string>(), d.at(1).get<std::string>());
  }
  if (found == 0) fail(ErrorCode::NotFound, "no layer named or made from '{}'{}", wanted, suggestion(wanted, names));
  return 0;
}

}  // namespace

int run_inspect(const Words& args) {
  CLI::App app("Shows what is in a model or engine. A model is built first (without timing, unless --opt-level says so).", "inspect");
  app.footer(kExamples);
  std::string file, json_file, html_file, why;
  bool print_ir = false;
  BuildFlags flags;
  flags.opt_level = 0;
  app.add_option("FILE", file, "model or engine file")->required();
  app.add_option("--json", json_file, "write everything as JSON ('-': standard output)");
  app.add_option("--html", html_file, "write a self-contained report page");
  app.add_option("--why", why,
                 "for layers whose name or origin contains this: candidates, their times, and kernels that declined with reasons");
  app.add_flag("--ir", print_ir, "print the engine's graph as text");
  flags.add_to(app);
  if (const auto status = parse(app, args)) return *status;

  std::vector<std::string> notes;
  BuildOptions options = flags.options(notes);
  Json info = {{"file", file}};
  const bool is_model = model_kind(file) != ModelKind::Engine;
  if (is_model) info["model_ops"] = ops_json(*import_model(file, options));
  const Opened opened = open_model(file, options);
  const Engine& engine = *opened.engine;
  if (print_ir) {
    fmt::print("{}", ir::print(engine.graph()));
    return 0;
  }
  Json report = Json::object();
  if (opened.built) report = report_json(opened.report);
  else if (!engine.info().report.empty()) report = Json::parse(engine.info().report, nullptr, false);
  if (!report.is_object()) report = Json::object();
  const EngineInfo& e = engine.info();
  info["engine"] = {{"model", e.model_name},    {"kind", e.device},         {"target", e.target},
                    {"device", e.device_name},  {"precision", e.precision}, {"version", e.tokamak_version},
                    {"opt_level", e.opt_level}, {"threads", e.num_threads}, {"workspace_limit_bytes", e.workspace_limit_bytes}};
  info["nodes"] = opened.built ? opened.report.nodes_before : e.nodes_before;
  info["kernels"] = engine.num_kernels();
  info["inputs"] = tensors_json(engine.inputs());
  info["outputs"] = tensors_json(engine.outputs());
  info["profiles"] = profiles_json(e.profiles);
  info["ops"] = ops_json(engine.graph());
  try {
    Json copies = Json::array();
    info["memory"] = memory_json(opened.engine, device_ordinal(options), copies);
    if (engine.is_cuda()) info["copies"] = std::move(copies);
  } catch (const Error& error) {
    fmt::print(stderr, "note: memory is not shown: {}\n", error.what());
  }
  info["layers"] = layers_json(engine, report);
  report.erase("tactics");
  info["report"] = std::move(report);

  FILE* out = text_stream(json_file);
  if (!why.empty()) return print_why(out, info, why);
  print_text(out, info);
  if (!html_file.empty()) write_file_atomic(html_file, std::string_view(inspect_html(info)));
  if (!json_file.empty()) write_json(json_file, info);
  return 0;
}

}  // namespace tokamak::cli
