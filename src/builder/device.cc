#include "builder/device.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/error.h"
#include "ir/op.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#endif

namespace tokamak {

DeviceName parse_device(const std::string& text) {
  if (text == "cpu") return {};
  DeviceName name{.is_cuda = true, .ordinal = 0, .architecture = ""};
  if (text == "cuda") return name;
  const std::string rest = text.starts_with("cuda:") ? text.substr(5) : "";
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!rest.empty() && rest.size() < 4 && std::all_of(rest.begin(), rest.end(), is_digit)) {
    name.ordinal = std::stoi(rest);
    return name;
  }
  if (!rest.starts_with("sm_"))
    fail(ErrorCode::InvalidArgument, "unknown device \"{}\"; expected cpu, cuda, cuda:N (GPU N of this machine) or cuda:sm_XX", text);
  name.architecture = rest;
  return name;
}

#ifdef TOKAMAK_CUDA

BuildDevice open_device(const std::string& text, bool allow_tf32) {
  BuildDevice device{.name = parse_device(text), .target = "", .device_name = "", .tuning = nullptr};
  if (!device.name.is_cuda) {
    device.target = cpu_features().to_string();
    device.device_name = cpu_model_name();
    return device;
  }
  device.is_present = device.name.architecture.empty();
  std::shared_ptr<cuda::Device> gpu;
  if (device.is_present) {
    if (!cuda::Device::is_available())
      fail(ErrorCode::Unsupported, "--device {}: {}; --device cuda:sm_90 builds for a GPU that is not here", text, cuda::driver_problem());
    gpu = cuda::Device::get(device.name.ordinal);
  }
  const cuda::Target target = gpu ? gpu->target() : cuda::Target::named(device.name.architecture);
  device.target = target.name();
  device.device_name = target.device_name;
  device.tuning = std::make_shared<cuda::Context>(target, std::make_shared<cuda::CodeCache>(), gpu, allow_tf32);
  return device;
}

std::shared_ptr<const cuda::Context> engine_context(const BuildDevice& device) {
  const cuda::Context& tuning = *device.tuning;
  const std::shared_ptr<const cuda::CodeCache> seed(device.tuning, &tuning.code());
  return std::make_shared<cuda::Context>(tuning.target(), std::make_shared<cuda::CodeCache>(seed), tuning.device(), tuning.allow_tf32());
}

std::shared_ptr<cuda::CodeCache> code_of(const cuda::Context& context) {
  auto code = std::make_shared<cuda::CodeCache>();
  for (const auto& [key, cubin] : context.code().entries()) code->insert(key, *cubin);
  return code;
}

#else

BuildDevice open_device(const std::string& text, bool) {
  BuildDevice device{.name = parse_device(text), .target = cpu_features().to_string(), .device_name = cpu_model_name(), .tuning = nullptr};
  if (device.name.is_cuda)
    fail(ErrorCode::Unsupported,
         "--device {}: this build of Tokamak has no CUDA backend (it is built where the CUDA toolkit's headers are)", text);
  return device;
}

std::shared_ptr<const cuda::Context> engine_context(const BuildDevice&) { return nullptr; }
std::shared_ptr<cuda::CodeCache> code_of(const cuda::Context&) { return nullptr; }

#endif

void compile_kernels(const ir::Graph& graph, const Binding& binding, const cuda::Context& context, ThreadPool& pool) {
  std::vector<const ir::Node*> nodes;
  const auto is_reached = [&](const ir::Value* v) { return v == nullptr || (binding.values.contains(v) && binding.at(v).is_static()); };
  for (const auto& node : graph.nodes()) {
    if (node->op().has(ir::kView) || node->op().has(ir::kControlFlow)) continue;
    bool reached = true, known = true;
    for (const ir::Value* v : node->inputs()) reached &= is_reached(v);
    for (const ir::Value* v : node->outputs()) {
      reached &= is_reached(v);
      known &= reached && binding.at(v).info.constant.defined();
    }
    if (reached && !known) nodes.push_back(node.get());
  }
  std::mutex mutex;
  std::exception_ptr error;
  pool.parallel_for(static_cast<int64_t>(nodes.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) try {
        make_kernel(make_view(*nodes[i], binding, pool.width(), &context));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace tokamak
