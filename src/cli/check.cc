// tokamak check: what would not build, and why, before building.

#include <fmt/format.h>

#include <algorithm>

#include "builder/device.h"
#include "cli/command.h"
#include "cli/session.h"
#include "import/onnx/import.h"

namespace tokamak::cli {

int run_check(const Words& args) {
  CLI::App app("Lists every node of a model that would not build, and why. Exit status 0 when there is none.", "check");
  app.footer(
      "\nExamples:\n  tokamak check model.onnx\n  tokamak check model.onnx --json - | jq '.unsupported[].op'\n  tokamak check model.onnx "
      "--device cuda:sm_90\n");
  std::string model, json_file, device = "cpu";
  app.add_option("MODEL", model, "ONNX file, Hugging Face folder or GGUF file")->required();
  app.add_option("--device", device, "cpu, or cuda, cuda:sm_90, ...: lists too what would run on the CPU there, and why")
      ->capture_default_str();
  app.add_option("--json", json_file, "write the list as JSON ('-': standard output)");
  if (const auto status = parse(app, args)) return *status;
  const ModelKind kind = model_kind(model);
  if (kind == ModelKind::Engine) fail(ErrorCode::InvalidArgument, "'{}' is an engine, which is built already", model);

  BuildOptions build;
  build.device = device;
  build.opt_level = 0;
  const bool on_gpu = parse_device(device).is_cuda;
  if (on_gpu) open_device(device, false);
  std::vector<onnx::UnsupportedNode> nodes;
  onnx::ImportOptions options;
  options.unsupported = &nodes;
  // A checkpoint is one architecture or none: what is wrong with it is the error.
  auto graph = kind == ModelKind::Checkpoint ? import_model(model, build) : onnx::import_model(model, options);
  const int num_nodes = graph ? graph->num_nodes_deep() : 0;
  // What has no kernel on the GPU shows when kernels are chosen.
  BuildReport report;
  if (on_gpu && nodes.empty() && graph) build_engine(std::move(graph), build, &report);

  FILE* out = text_stream(json_file);
  if (nodes.empty()) {
    fmt::print(out, "{}: every node is supported ({} nodes)\n", model, num_nodes);
  } else {
    size_t name_width = 4, op_width = 8;
    const auto op_name = [](const onnx::UnsupportedNode& n) {
      return n.domain.empty() || n.domain == "ai.onnx" ? n.op : n.domain + "::" + n.op;
    };
    for (const auto& n : nodes)
      name_width = std::max(name_width, std::min<size_t>(n.name.size(), 40)), op_width = std::max(op_width, op_name(n).size());
    fmt::print(out, "{:{}}  {:{}}  {:>5}  {:8}  {}\n", "node", name_width, "operator", op_width, "opset", "dtype", "reason");
    for (const auto& n : nodes)
      fmt::print(out, "{:{}}  {:{}}  {:>5}  {:8}  {}{}\n", n.name, name_width, op_name(n), op_width, n.opset, n.dtype, n.reason,
                 n.advice.empty() ? "" : "; " + n.advice);
    fmt::print(out, "{}: {} unsupported node{}\n", model, nodes.size(), nodes.size() == 1 ? "" : "s");
  }
  for (const TacticReport& t : report.tactics)
    if (!t.host_reason.empty()) fmt::print(out, "on the CPU: {} ({}): {}\n", t.node, t.op, t.host_reason);
  if (!json_file.empty()) {
    Json json = {{"model", model}, {"supported", nodes.empty()}, {"unsupported", Json::array()}};
    if (on_gpu) json["on_cpu"] = Json::array();
    for (const TacticReport& t : report.tactics)
      if (!t.host_reason.empty()) json["on_cpu"].push_back({{"name", t.node}, {"op", t.op}, {"reason", t.host_reason}});
    for (const auto& n : nodes)
      json["unsupported"].push_back({{"name", n.name},
                                     {"op", n.op},
                                     {"domain", n.domain},
                                     {"opset", n.opset},
                                     {"dtype", n.dtype},
                                     {"reason", n.reason},
                                     {"advice", n.advice}});
    write_json(json_file, json);
  }
  return nodes.empty() ? 0 : 1;
}

}  // namespace tokamak::cli
