#include "tune/stopwatch.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>

#include "backends/cpu/thread_pool.h"
#include "base/half.h"

namespace tokamak::tune {
namespace {

double now_us() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Tensor random_tensor(DType dtype, const Shape& shape, std::mt19937& random) {
  constexpr int64_t kPeriod = 1 << 20;  // long tensors repeat: making the numbers would take longer than timing
  Tensor t = Tensor::zeros(dtype, shape);
  if (t.count() > kPeriod && bits_of(dtype) >= 8) {
    const Tensor part = random_tensor(dtype, {kPeriod}, random);
    auto* to = static_cast<char*>(t.raw());
    for (int64_t at = 0; at < t.size_bytes(); at += part.size_bytes())
      std::memcpy(to + at, part.raw(), static_cast<size_t>(std::min(part.size_bytes(), t.size_bytes() - at)));
    return t;
  }
  std::uniform_real_distribution<float> uniform(-1, 1);
  if (dtype == DType::F32) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = uniform(random);
  } else if (dtype == DType::F16) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint16_t>()[i] = float_to_half(uniform(random));
  } else if (dtype == DType::BF16) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint16_t>()[i] = float_to_bfloat16(uniform(random));
  } else if (dtype == DType::Bool) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = random() & 1;
  } else if (dtype == DType::I8 || dtype == DType::U8) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = static_cast<uint8_t>(random());
  } else if (dtype == DType::F8E4M3FN) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = static_cast<uint8_t>(random() & 0xbf);  // below 2, no NaN
  }
  return t;
}

class HostStopwatch final : public Stopwatch {
 public:
  HostStopwatch(const NodeView& view, ThreadPool& pool, int64_t streamed_bytes)
      : view_(view), pool_(pool), streamed_bytes_(streamed_bytes), inputs_(timing_inputs(view)) {
    for (size_t i = 0; i < view.output_shapes.size(); ++i) outputs_.push_back(Tensor::empty(view.output_dtypes[i], view.output_shapes[i]));
  }

  double measure(const Candidate& candidate, Budget budget, double best) override {
    std::vector<Tensor> inputs = inputs_;
    const std::vector<Tensor> packed = pack_constants(view_, candidate);
    int64_t bytes = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (packed[i].defined()) inputs[i] = packed[i];
      if (view_.constants[i]) bytes += inputs[i].size_bytes();
    }
    // Runs take turns at copies of the constants, each copy with a kernel of its own: some kernels keep what they read of them.
    const int64_t copies = bytes == 0 ? 1 : std::clamp<int64_t>((streamed_bytes_ + bytes - 1) / bytes, 1, budget.runs);
    std::vector<Turn> turns(copies);
    for (Turn& turn : turns) {
      turn.inputs = inputs;
      NodeView view = view_;
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (!view_.constants[i]) continue;
        if (&turn != &turns[0]) turn.inputs[i] = inputs[i].clone();
        view.constants[i] = &turn.inputs[i];
      }
      turn.kernel = candidate.def->make(view, candidate.tactic);
    }
    const Tensor workspace = Tensor::empty(DType::U8, {turns[0].kernel->workspace_bytes()});
    double fastest = 1e30;
    const double start = now_us();
    for (int run = 0; run < budget.runs; ++run) {
      const Turn& turn = turns[run % copies];
      const RunArgs args{turn.inputs, outputs_, const_cast<void*>(workspace.raw()), &pool_};
      const double begin = now_us();
      turn.kernel->run(args);
      const double end = now_us();
      fastest = std::min(fastest, end - begin);
      if (run >= 2 && fastest > 1.5 * best) break;
      if (run >= 2 && end - start > budget.us) break;
    }
    return fastest;
  }

 private:
  struct Turn {
    std::vector<Tensor> inputs;
    std::unique_ptr<Kernel> kernel;
  };
  const NodeView& view_;
  ThreadPool& pool_;
  int64_t streamed_bytes_;
  std::vector<Tensor> inputs_, outputs_;
};

}  // namespace

Budget budget_of(int opt_level) {
  constexpr Budget kBudgets[] = {{0, 0}, {1e3, 6}, {3e3, 15}, {8e3, 40}, {25e3, 100}, {80e3, 300}};
  return kBudgets[std::clamp(opt_level, 0, 5)];
}

std::vector<Tensor> pack_constants(const NodeView& view, const Candidate& candidate) {
  std::vector<Tensor> packed(view.input_shapes.size());
  for (size_t i = 0; i < packed.size(); ++i)
    if (view.constants[i]) packed[i] = candidate.def->pack(view, candidate.tactic, static_cast<int>(i));
  return packed;
}

Tensor timing_tensor(DType dtype, const Shape& shape) {
  std::mt19937 random(1);
  return random_tensor(dtype, shape, random);
}

std::vector<Tensor> timing_inputs(const NodeView& view) {
  std::mt19937 random(1);
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < view.input_shapes.size(); ++i) {
    if (!view.has_input(static_cast<int>(i))) inputs.emplace_back();
    else inputs.push_back(view.constants[i] ? *view.constants[i] : random_tensor(view.input_dtypes[i], view.input_shapes[i], random));
  }
  return inputs;
}

std::unique_ptr<Stopwatch> host_stopwatch(const NodeView& view, ThreadPool& pool, int64_t streamed_bytes) {
  return std::make_unique<HostStopwatch>(view, pool, streamed_bytes);
}

}  // namespace tokamak::tune
