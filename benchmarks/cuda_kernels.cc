// Times every CUDA kernel (but fallbacks) and tactic on nodes given as IR text:
//   tokamak_cuda_kernels [--only TEXT] [--kernel TEXT] [--best N] FILE...
// A line of a file is "name: graph main(...) { ... }" with one node; inputs named %w... are constants, which kernels may pack. '#' starts
// a comment. Launches follow each other in a CUDA graph, as in an engine's step, and take turns at copies of the tensors that together are
// larger than the L2 cache. Prints, the fastest
// first, microseconds a launch (median of replays), the share of kBandwidth that reading each input and writing
// each output once comes to, and TFLOP/s of matrix products.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>

#include "backends/cuda/cuda_backend.h"
#include "base/error.h"
#include "base/half.h"
#include "benchmarks/cuda_replays.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak {
namespace {

using namespace cuda;

constexpr double kBandwidth = 3.06e12;  // bytes a second that an H100's memory reads
constexpr int kLaunches = 32;
constexpr int kMaxCopies = 16;

struct Case {
  std::string name, text;
};

std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(ErrorCode::NotFound, "no file {}", path);
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t colon = line.find(": graph");
    if (colon == std::string::npos) fail(ErrorCode::InvalidArgument, "{}: expected \"name: graph ...\", found \"{}\"", path, line);
    cases.push_back({line.substr(0, colon), line.substr(colon + 2)});
  }
  return cases;
}

// Random bits that are ordinary numbers: floats about 1, small non-negative integers in 32 and 64 bits.
Tensor random_tensor(DType dtype, const Shape& shape) {
  constexpr int64_t kPool = 4099;  // a prime: repeats do not line up with rows
  Tensor pool = Tensor::empty(dtype, {kPool * 2}), t = Tensor::empty(dtype, shape);
  std::mt19937 random(1);
  auto* bytes = static_cast<uint8_t*>(pool.raw());
  for (int64_t i = 0; i < pool.count(); ++i) {
    const uint32_t bits = random();
    const float real = static_cast<float>(bits) * 0x1p-31f - 1;
    switch (dtype) {
      case DType::F32: pool.data<float>()[i] = real; break;
      case DType::F16: pool.data<uint16_t>()[i] = float_to_half(real); break;
      case DType::BF16: pool.data<uint16_t>()[i] = float_to_bfloat16(real); break;
      case DType::I32: pool.data<int32_t>()[i] = static_cast<int32_t>(bits % 16); break;
      case DType::I64: pool.data<int64_t>()[i] = bits % 16; break;
      case DType::Bool: bytes[i] = bits & 1; break;
      case DType::F8E4M3FN: bytes[i] = static_cast<uint8_t>(bits & 0xbf); break;  // below 2
      default:
        if (i < pool.size_bytes()) bytes[i] = static_cast<uint8_t>(bits);
    }
  }
  auto* to = static_cast<uint8_t*>(t.raw());
  for (int64_t at = 0; at < t.size_bytes(); at += pool.size_bytes())
    std::memcpy(to + at, bytes, static_cast<size_t>(std::min(pool.size_bytes(), t.size_bytes() - at)));
  return t;
}

double flops_of(const NodeView& view) {
  const std::string_view op = view.node->op().name;
  const double out = static_cast<double>(num_elements(view.output_shapes[0]));
  if (op == "linear")
    return 2 * out / static_cast<double>(view.output_shapes[0].back()) * static_cast<double>(num_elements(view.input_shapes[1]));
  if (op == "matmul" || op == "quantized_matmul") return 2 * out * static_cast<double>(view.input_shapes[0].back());
  if (op == "conv") return 2 * out * static_cast<double>(num_elements(view.input_shapes[1]) / view.input_shapes[1][0]);
  return 0;
}

// Tensors of one launch, on the device.
struct Copy {
  std::vector<Buffer> buffers;
  std::vector<Tensor> inputs, outputs;
};

Copy upload(Device& device, const std::vector<Tensor>& inputs, const NodeView& view) {
  Copy copy;
  for (const Tensor& host : inputs) {
    if (!host.defined()) {
      copy.inputs.emplace_back();
      continue;
    }
    copy.buffers.push_back(device.allocate(host.size_bytes(), "benchmark input"));
    Buffer& buffer = copy.buffers.back();
    check(driver().cuMemcpyHtoD(buffer.pointer(), host.raw(), static_cast<size_t>(host.size_bytes())), "upload");
    copy.inputs.push_back(host.layout().empty()
                              ? Tensor::view(host.dtype(), host.shape(), buffer.data())
                              : Tensor::packed_view(host.dtype(), host.shape(), host.layout(), buffer.data(), host.size_bytes(), nullptr));
  }
  for (size_t i = 0; i < view.output_dtypes.size(); ++i) {
    copy.buffers.push_back(device.allocate(bytes_of(view.output_dtypes[i], num_elements(view.output_shapes[i])), "benchmark output"));
    copy.outputs.push_back(Tensor::view(view.output_dtypes[i], view.output_shapes[i], copy.buffers.back().data()));
  }
  return copy;
}

// Microseconds a launch.
double measure(const Kernel& kernel, std::vector<Copy>& copies, const std::shared_ptr<Device>& device) {
  const Buffer workspace = device->allocate(kernel.workspace_bytes(), "benchmark workspace");
  check(driver().cuMemsetD8(workspace.pointer(), 0, static_cast<size_t>(std::max<int64_t>(workspace.size_bytes(), 1))), "workspace");
  return median_launch_us(device, kLaunches, [&](CUstream stream, int i) {
    Copy& copy = copies[static_cast<size_t>(i) % copies.size()];
    RunArgs args;
    args.inputs = copy.inputs;
    args.outputs = copy.outputs;
    args.workspace = workspace.data();
    args.stream = stream;
    kernel.run(args);
  });
}

struct Result {
  double us = 0;
  std::string kernel, tactic;
};

void run_case(const Case& c, const std::string& kernel_filter, size_t best, const Context& context) {
  const auto graph = ir::parse(c.text);
  if (graph->num_nodes() != 1) fail(ErrorCode::InvalidArgument, "{}: expected one node, found {}", c.name, graph->num_nodes());
  const ir::Node& node = *graph->nodes().front();
  std::vector<Tensor> inputs;
  NodeView view;
  view.node = &node;
  view.cuda = &context;
  for (const ir::Value* v : node.inputs()) {
    inputs.push_back(v == nullptr ? Tensor() : v->is_constant() ? v->constant : random_tensor(v->type.dtype, v->type.static_shape()));
    view.input_dtypes.push_back(v == nullptr ? DType::F32 : v->type.dtype);
    view.input_shapes.push_back(v == nullptr ? Shape() : v->type.static_shape());
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ir::Value* v = node.inputs()[i];
    view.constants.push_back(v != nullptr && (v->is_constant() || v->name.starts_with("w")) ? &inputs[i] : nullptr);
  }
  double bytes = 0;
  for (const ir::Value* v : node.outputs()) {
    view.output_dtypes.push_back(v->type.dtype);
    view.output_shapes.push_back(v->type.static_shape());
    bytes += static_cast<double>(bytes_of(v->type.dtype, num_elements(view.output_shapes.back())));
  }
  for (const Tensor& t : inputs)
    if (t.defined()) bytes += static_cast<double>(t.size_bytes());
  const double flops = flops_of(view);
  std::printf("%s: %.2f MB, %.2f GFLOP, %.2f us at full bandwidth\n", c.name.c_str(), bytes / 1e6, flops / 1e9, bytes / kBandwidth * 1e6);
  const auto& device = context.device();
  const auto num_copies =
      std::clamp<int64_t>(static_cast<int64_t>(2 * static_cast<double>(device->target().l2_bytes) / bytes) + 1, 2, kMaxCopies);
  const auto upload_all = [&](const std::vector<Tensor>& tensors) {
    std::vector<Copy> copies;
    for (int64_t i = 0; i < num_copies; ++i) copies.push_back(upload(*device, tensors, view));
    return copies;
  };
  std::vector<Copy> dense = upload_all(inputs);
  std::vector<Result> results;
  for (const KernelDef* def : kernels_for(node.op().name)) {
    const std::string name(def->name());
    if (name.find(kernel_filter) == std::string::npos || (def->is_fallback() && !results.empty())) continue;
    if (const Support support = def->supports(view); !support) {
      std::printf("  %-28s declines: %s\n", name.c_str(), support.reason().c_str());
      continue;
    }
    for (const std::string& tactic : def->tactics(view)) {
      std::vector<Tensor> packed = inputs;
      NodeView packed_view = view;
      bool is_packed = false;
      for (size_t i = 0; i < packed.size(); ++i)
        if (view.constants[i] != nullptr) {
          if (Tensor t = def->pack(view, tactic, static_cast<int>(i)); t.defined()) packed[i] = t, is_packed = true;
          packed_view.constants[i] = &packed[i];
        }
      try {
        const auto kernel = def->make(packed_view, tactic);
        std::vector<Copy> copies = is_packed ? upload_all(packed) : std::vector<Copy>();
        results.push_back({measure(*kernel, is_packed ? copies : dense, device), name, tactic});
      } catch (const Error& e) {
        std::printf("  %-28s %-36s fails: %s\n", name.c_str(), tactic.c_str(), e.what());
      }
    }
  }
  std::stable_sort(results.begin(), results.end(), [](const Result& a, const Result& b) { return a.us < b.us; });
  if (results.size() > best) results.resize(best);
  for (const Result& r : results) {
    std::printf("  %-24s %-36.36s %9.2f us %6.1f %% of bandwidth", r.kernel.c_str(), r.tactic.c_str(), r.us,
                100 * bytes / kBandwidth / r.us * 1e6);
    if (flops > 0) std::printf(" %7.1f TFLOP/s", flops / r.us / 1e6);
    std::printf("\n");
  }
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  std::string only, kernel;
  size_t best = 1000;
  std::vector<Case> cases;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if ((arg == "--only" || arg == "--kernel") && i + 1 < argc) {
      (arg == "--only" ? only : kernel) = argv[++i];
      continue;
    }
    if (arg == "--best" && i + 1 < argc) {
      best = std::stoul(argv[++i]);
      continue;
    }
    for (Case& c : read_cases(arg)) cases.push_back(std::move(c));
  }
  if (cases.empty()) fail(ErrorCode::InvalidArgument, "give files of cases, as benchmarks/cuda/linear.txt");
  const auto device = Device::get();
  const Context context(device->target(), std::make_shared<CodeCache>(), device);
  std::printf("%s\n", device->target().device_name.c_str());
  for (const Case& c : cases)
    if (c.name.find(only) != std::string::npos) run_case(c, kernel, best, context);
  return 0;
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) {
  try {
    return tokamak::run(argc, argv);
  } catch (const tokamak::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
