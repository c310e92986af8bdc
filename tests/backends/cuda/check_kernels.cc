#ifdef TOKAMAK_CUDA
#include "tests/backends/cuda/check_kernels.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "base/half.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::test {
namespace {

using namespace cuda;

std::mt19937& random_engine() {
  static std::mt19937 engine(std::random_device{}());  // fresh inputs every run
  return engine;
}

Tensor random_input(DType dtype, const Shape& shape, const CudaCase& c) {
  Tensor t = Tensor::empty(dtype, shape);
  std::normal_distribution<float> normal(0, static_cast<float>(c.scale));
  std::mt19937& random = random_engine();
  for (int64_t i = 0; i < t.count(); ++i) switch (dtype) {
      case DType::F32: t.data<float>()[i] = normal(random); break;
      case DType::F64: t.data<double>()[i] = normal(random); break;
      case DType::F16: t.data<uint16_t>()[i] = float_to_half(normal(random)); break;
      case DType::BF16: t.data<uint16_t>()[i] = float_to_bfloat16(normal(random)); break;
      case DType::Bool: t.data<uint8_t>()[i] = random() & 1; break;
      case DType::I8:
      case DType::U8: t.data<uint8_t>()[i] = static_cast<uint8_t>(random()); break;
      case DType::I32: t.data<int32_t>()[i] = static_cast<int32_t>(random() % c.max_int); break;
      case DType::I64: t.data<int64_t>()[i] = static_cast<int64_t>(random() % c.max_int); break;
      case DType::I4:
      case DType::U4:
        if (i % 2 == 0) t.data<uint8_t>()[i / 2] = static_cast<uint8_t>(random());
        break;
      default: ADD_FAILURE() << "give an input of " << to_string(dtype) << " yourself";
    }
  return t;
}

bool is_half(DType dtype) { return dtype == DType::F16 || dtype == DType::BF16; }

Tensor widened(const Tensor& t) {
  if (!t.defined() || !is_half(t.dtype())) return t;
  Tensor out = Tensor::empty(DType::F32, t.shape());
  for (int64_t i = 0; i < t.count(); ++i) out.data<float>()[i] = static_cast<float>(t.float_at(i));
  return out;
}

// The graph's one node with what it needs to be a NodeView.
struct Parsed {
  std::unique_ptr<ir::Graph> graph;
  const ir::Node* node = nullptr;
  std::vector<Tensor> inputs;  // of the node
  std::vector<bool> constant;
};

NodeView view_of(const Parsed& p, const std::vector<Tensor>& inputs, const std::vector<DType>& output_dtypes) {
  NodeView view;
  view.node = p.node;
  for (size_t i = 0; i < inputs.size(); ++i) {
    view.input_dtypes.push_back(inputs[i].defined() ? inputs[i].dtype() : DType::F32);
    view.input_shapes.push_back(inputs[i].defined() ? inputs[i].shape() : Shape());
    view.constants.push_back(inputs[i].defined() && p.constant[i] ? &inputs[i] : nullptr);
  }
  for (size_t i = 0; i < output_dtypes.size(); ++i) {
    view.output_dtypes.push_back(output_dtypes[i]);
    view.output_shapes.push_back(p.node->output(static_cast<int>(i))->type.static_shape());
  }
  return view;
}

std::vector<DType> output_dtypes(const ir::Node& node) {
  std::vector<DType> out;
  for (const ir::Value* v : node.outputs()) out.push_back(v->type.dtype);
  return out;
}

std::vector<Tensor> reference(const Parsed& p, const std::vector<Tensor>& rounded) {
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < p.inputs.size(); ++i)
    inputs.push_back(i < rounded.size() && rounded[i].defined() ? rounded[i] : widened(p.inputs[i]));
  std::vector<DType> dtypes = output_dtypes(*p.node);
  for (DType& d : dtypes)
    if (is_half(d)) d = DType::F32;
  const NodeView view = view_of(p, inputs, dtypes);
  std::string reasons;
  for (const KernelDef* def : cpu::kernels_for(p.node->op().name)) {
    if (!def->name().starts_with("ref.")) continue;
    if (const Support support = def->supports(view); !support) {
      reasons += support.reason() + "; ";
      continue;
    }
    const auto kernel = def->make(view, def->tactics(view).front());
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < dtypes.size(); ++i) outputs.push_back(Tensor::zeros(dtypes[i], view.output_shapes[i]));
    Tensor workspace = Tensor::empty(DType::U8, {kernel->workspace_bytes() + 64});
    ThreadPool pool(2);
    kernel->run({inputs, outputs, workspace.raw(), &pool});
    return outputs;
  }
  ADD_FAILURE() << "no ref kernel for " << p.node->op().name << ": " << reasons;
  return {};
}

constexpr int kGuard = 256;

struct DeviceTensors {
  std::vector<Buffer> buffers;
  std::vector<Tensor> tensors;
  void add(Device& device, const Tensor& host) {
    if (!host.defined()) {
      tensors.emplace_back();
      return;
    }
    Buffer buffer = device.allocate(host.size_bytes(), "test input");
    check(driver().cuMemcpyHtoD(buffer.pointer(), host.raw(), static_cast<size_t>(host.size_bytes())), "upload");
    tensors.push_back(host.layout().empty()
                          ? Tensor::view(host.dtype(), host.shape(), buffer.data())
                          : Tensor::packed_view(host.dtype(), host.shape(), host.layout(), buffer.data(), host.size_bytes(), nullptr));
    buffers.push_back(std::move(buffer));
  }
};

void compare(const Tensor& actual, const Tensor& expected, const CudaCase& c, const std::string& what) {
  double rtol = c.rtol, atol = c.atol;
  const DType dtype = actual.dtype();
  if (rtol < 0) rtol = dtype == DType::BF16 ? 8e-3 : dtype == DType::F16 ? 1e-3 : is_float(dtype) ? 1e-5 : 0;
  if (atol < 0) atol = dtype == DType::BF16 ? 8e-3 : dtype == DType::F16 ? 1e-3 : is_float(dtype) ? 1e-5 : 0;
  int wrong = 0;
  for (int64_t i = 0; i < actual.count(); ++i) {
    const double a = actual.float_at(i), e = expected.float_at(i);
    if (dtype == DType::F16 && std::isinf(a) && std::abs(e) > 65504 && std::signbit(a) == std::signbit(e)) continue;  // its largest
    if (a == e || (std::isnan(a) && std::isnan(e)) || std::abs(a - e) <= atol + rtol * std::abs(e)) continue;
    if (wrong++ == 0)
      ADD_FAILURE() << what << ": element " << i << " of " << to_string(actual.shape()) << " is " << a << ", expected " << e;
  }
  EXPECT_EQ(wrong, 0) << what << ": of " << actual.count();
}

void run_on_device(const KernelDef& def, const std::string& tactic, const Parsed& p, NodeView view, const std::vector<Tensor>& expected,
                   const CudaCase& c) {
  Device& device = *view.cuda->device();
  const std::string what = std::string(def.name()) + " \"" + tactic + "\"";
  std::vector<Tensor> packed = p.inputs;
  for (size_t i = 0; i < packed.size(); ++i) {
    if (view.constants[i] == nullptr) continue;
    if (Tensor t = def.pack(view, tactic, static_cast<int>(i)); t.defined()) packed[i] = t;
  }
  for (size_t i = 0; i < packed.size(); ++i)
    if (view.constants[i] != nullptr) view.constants[i] = &packed[i];
  const auto kernel = def.make(view, tactic);
  DeviceTensors inputs;
  for (const Tensor& t : packed) inputs.add(device, t);
  const int64_t workspace_bytes = kernel->workspace_bytes();
  const Buffer workspace = device.allocate(workspace_bytes + kGuard, "test workspace");
  const Stream stream(view.cuda->device());
  for (int round = 0; round < 2; ++round) {
    std::vector<Buffer> buffers;
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < view.output_dtypes.size(); ++i) {
      const int64_t bytes = bytes_of(view.output_dtypes[i], num_elements(view.output_shapes[i]));
      buffers.push_back(device.allocate(bytes + kGuard, "test output"));
      check(driver().cuMemsetD8(buffers.back().pointer(), 0xff, static_cast<size_t>(bytes + kGuard)), "poison");
      outputs.push_back(Tensor::view(view.output_dtypes[i], view.output_shapes[i], buffers.back().data()));
    }
    check(driver().cuMemsetD8(workspace.pointer(), 0xff, static_cast<size_t>(workspace_bytes + kGuard)), "poison");
    // Poison and uploads went through the default stream, which the kernel's does not wait for.
    check(driver().cuStreamSynchronize(nullptr), "poison");
    RunArgs args;
    args.inputs = inputs.tensors;
    args.outputs = outputs;
    args.workspace = workspace.data();
    args.stream = stream.get();
    kernel->run(args);
    stream.synchronize();
    const auto guard_intact = [&](const Buffer& buffer) {
      std::vector<uint8_t> guard(kGuard);
      check(driver().cuMemcpyDtoH(guard.data(), buffer.pointer() + static_cast<size_t>(buffer.size_bytes() - kGuard), kGuard), "guard");
      return std::all_of(guard.begin(), guard.end(), [](uint8_t b) { return b == 0xff; });
    };
    EXPECT_TRUE(guard_intact(workspace)) << what << ": wrote past its workspace";
    for (size_t i = 0; i < outputs.size(); ++i) {
      EXPECT_TRUE(guard_intact(buffers[i])) << what << ": wrote past output " << i;
      Tensor host = Tensor::empty(view.output_dtypes[i], view.output_shapes[i]);
      check(driver().cuMemcpyDtoH(host.raw(), buffers[i].pointer(), static_cast<size_t>(host.size_bytes())), "download");
      compare(host, expected[i], c, what + " output " + std::to_string(i));
    }
  }
}

bool is_checked(std::string_view kernel) {
  const char* prefix = std::getenv("TOKAMAK_TEST_KERNELS");
  return prefix == nullptr || kernel.starts_with(prefix);
}

}  // namespace

bool wants_all() {
  static const bool all = Device::is_available() || std::getenv("TOKAMAK_TEST_ALL") != nullptr;
  return all;
}

bool takes_next_case() {
  static const auto [share, shares] = [] {
    int i = 0, n = 1;
    if (const char* text = std::getenv("TOKAMAK_TEST_SHARE");
        text != nullptr && (std::sscanf(text, "%d/%d", &i, &n) != 2 || i < 0 || i >= n))
      fail(ErrorCode::InvalidArgument, "TOKAMAK_TEST_SHARE is \"{}\": expected I/N with 0 <= I < N", text);
    return std::pair(i, n);
  }();
  static std::atomic<int> count = 0;
  return count++ % shares == share;
}

Tensor random_f8(const Shape& shape) {
  Tensor t = Tensor::empty(DType::F8E4M3FN, shape);
  for (int64_t i = 0; i < t.count(); ++i) {
    const auto bits = static_cast<uint8_t>(random_engine()());
    t.data<uint8_t>()[i] = (bits & 0x7f) == 0x7f ? 0 : bits;
  }
  return t;
}

std::vector<const char*> float_types() {
  if (!wants_all()) return {"f16"};
  return {"f32", "f16", "bf16"};
}

CudaCase sum_case(std::string text, double k) {
  CudaCase c{std::move(text)};
  const bool bf16 = c.text.find("bf16") != std::string::npos, half = bf16 || c.text.find("f16") != std::string::npos;
  c.rtol = bf16 ? 1e-2 : half ? 2e-3 : 1e-4;
  c.atol = std::sqrt(k) * (bf16 ? 1e-2 : half ? 1e-3 : 1e-5);
  return c;
}

CudaCheck check_cuda_kernels(const CudaCase& c, const std::vector<std::string>& archs) {
  if (!takes_next_case()) return {};
  SCOPED_TRACE(c.text);
  Parsed p;
  p.graph = ir::parse(c.text);
  if (p.graph->num_nodes() != 1) {
    ADD_FAILURE() << "expected one node";
    return {};
  }
  p.node = p.graph->nodes().front().get();
  for (int i = 0; i < p.node->num_inputs(); ++i) {
    const ir::Value* v = p.node->input(i);
    if (v == nullptr) {
      p.inputs.emplace_back(), p.constant.push_back(false);
      continue;
    }
    size_t index = 0;
    while (index < p.graph->inputs().size() && p.graph->inputs()[index] != v) ++index;
    const bool given = index < c.inputs.size() && c.inputs[index].defined();
    p.inputs.push_back(v->is_constant() ? v->constant : given ? c.inputs[index] : random_input(v->type.dtype, v->type.static_shape(), c));
    p.constant.push_back(v->is_constant() || v->name.starts_with("w"));
  }
  const bool on_gpu = Device::is_available();
  std::vector<Context> contexts;
  static const auto code = std::make_shared<CodeCache>();  // of all cases: their code depends on few of the sizes
  if (on_gpu) {
    auto device = Device::get();
    contexts.emplace_back(device->target(), code, device);
  } else {
    std::vector<std::string> names = archs;
    if (names.empty()) names.push_back("sm_90");
    for (const std::string& name : names) contexts.emplace_back(Target::named(name), code, nullptr);
  }
  CudaCheck result;
  const std::vector<Tensor> expected = on_gpu ? reference(p, c.rounded) : std::vector<Tensor>();
  for (const Context& context : contexts) {
    NodeView view = view_of(p, p.inputs, output_dtypes(*p.node));
    view.cuda = &context;
    int accepted = 0;
    for (const KernelDef* def : kernels_for(p.node->op().name)) {
      if (!c.kernel.empty() && def->name() != c.kernel) continue;
      if (const Support support = def->supports(view); !support) {
        result.declined.push_back(std::string(def->name()) + ": " + support.reason());
        continue;
      }
      ++accepted;
      if (!is_checked(def->name())) continue;
      std::vector<std::string> tactics = def->tactics(view);
      // Compiling takes seconds a tactic, which share their code's text: the first and the last.
      if (!wants_all() && tactics.size() > 2) tactics = {tactics.front(), tactics.back()};
      for (const std::string& tactic : tactics) {
        if (on_gpu) {
          run_on_device(*def, tactic, p, view, expected, c);
        } else {
          NodeView packed_view = view;
          std::vector<Tensor> packed = p.inputs;
          for (size_t i = 0; i < packed.size(); ++i)
            if (view.constants[i])
              if (Tensor t = def->pack(view, tactic, static_cast<int>(i)); t.defined()) packed[i] = t;
          for (size_t i = 0; i < packed.size(); ++i)
            if (view.constants[i]) packed_view.constants[i] = &packed[i];
          EXPECT_NO_THROW(def->make(packed_view, tactic));
        }
      }
    }
    result.num_kernels = accepted;
    std::string declined;
    for (const std::string& reason : result.declined) declined += "\n  " + reason;
    EXPECT_GT(accepted, 0) << "no CUDA kernel accepts it:" << declined;
  }
  return result;
}

}  // namespace tokamak::test
#endif
