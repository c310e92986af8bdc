#include "runtime/engine.h"

#include <unordered_set>

#include "backends/cuda/code.h"
#include "engine/engine_file.h"
#include "ir/op.h"

namespace tokamak {
namespace {

int count_kernels(const ir::Graph& graph) {
  int count = 0;
  for (const auto& node : graph.nodes()) {
    if (!node->op().has(ir::kView)) ++count;
    for (const auto& sub : node->subgraphs) count += count_kernels(*sub);
  }
  return count;
}

}  // namespace

Engine::Engine(std::unique_ptr<ir::Graph> graph, EngineInfo info, std::shared_ptr<cuda::CodeCache> code)
    : graph_(std::move(graph)), info_(std::move(info)), code_(std::move(code)) {
  if (info_.device != "cpu" && info_.device != "cuda")
    fail(ErrorCode::Unsupported, "the engine is for the device \"{}\"; this version knows cpu and cuda", info_.device);
  if (is_cuda() && !code_) code_ = std::make_shared<cuda::CodeCache>();
  for (const ir::Value* v : graph_->inputs()) inputs_.push_back({v->name, v->type.dtype, v->type});
  for (const ir::Value* v : graph_->outputs()) outputs_.push_back({v->name, v->type.dtype, v->type});
  for (const OptimizationProfile& profile : info_.profiles) {
    for (const ShapeRange& range : profile) {
      bool fits = false;
      for (const TensorInfo& input : inputs_)
        fits |= input.name == range.input && (!input.type.ranked || input.type.rank() == static_cast<int64_t>(range.min.size()));
      if (!fits)
        fail(ErrorCode::InvalidArgument, "optimization profile: no input \"{}\" with {} dimensions", range.input, range.min.size());
    }
  }
}

Engine::~Engine() = default;

std::shared_ptr<const Engine> Engine::load(const std::string& path, bool trust_code) {
  engine::Contents contents = engine::read(path);
  if (!trust_code) contents.code = nullptr;
  return std::make_shared<const Engine>(std::move(contents.graph), std::move(contents.info), std::move(contents.code));
}

void Engine::save(const std::string& path) const { engine::write(path, *graph_, info_, code_.get()); }

std::shared_ptr<cuda::DeviceConstants> Engine::device_constants(int ordinal,
                                                                const std::function<std::shared_ptr<cuda::DeviceConstants>()>& make) const {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<cuda::DeviceConstants>& constants = device_constants_[ordinal];
  if (!constants) constants = make();
  return constants;
}

int Engine::num_kernels() const { return count_kernels(*graph_); }

int64_t Engine::weights_bytes() const {
  std::unordered_set<const void*> seen;
  int64_t total = 0;
  ir::for_each_graph(*graph_, [&](const ir::Graph& g) {
    for (const ir::Value* v : g.constants())
      if (seen.insert(v->constant.raw()).second) total += v->constant.size_bytes();
  });
  return total;
}

}  // namespace tokamak
