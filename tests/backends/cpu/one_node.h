#pragma once
// Runs one kernel of the CPU backend on a node built by hand: for tests of kernels.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "runtime/kernel.h"

namespace tokamak::test {

inline Tensor random_tensor(Shape shape, unsigned seed, float scale = 1.0f) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
  return t;
}

inline Tensor poisoned(Shape shape) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = std::numeric_limits<float>::quiet_NaN();
  return t;
}

// A kernel for instructions that this CPU does not have; one that declines for another reason fails the test.
inline bool lacks_instructions(const KernelDef& def, const NodeView& view) {
  const Support support = def.supports(view);
  EXPECT_TRUE(support || support.reason().starts_with("this CPU has no ")) << def.name() << ": " << support.reason();
  return !support;
}

// A node with concrete input tensors (undefined = absent), some of them constants, and one f32 output of a given shape.
class OneNode {
 public:
  OneNode(std::vector<Tensor> inputs, std::vector<bool> constant, ir::Attrs attrs, Shape output, int num_threads)
      : tensors_(std::move(inputs)), pool_(num_threads) {
    node_.attrs = std::move(attrs);
    node_.name = "test";
    std::vector<ir::Value*> values;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const Tensor& t = tensors_[i];
      values.push_back(!t.defined() ? nullptr : graph_.add_input("i" + std::to_string(i), ir::TensorType::of(t)));
      view_.input_dtypes.push_back(t.dtype());
      view_.input_shapes.push_back(t.defined() ? t.shape() : Shape());
      view_.constants.push_back(t.defined() && constant[i] ? &tensors_[i] : nullptr);
    }
    node_.set_inputs(values);
    view_.node = &node_;
    view_.output_dtypes = {DType::F32};
    view_.output_shapes = {std::move(output)};
    view_.num_threads = num_threads;
  }
  ~OneNode() { node_.set_inputs({}); }

  const NodeView& view() const { return view_; }

  // Packs (once, as the builder does), makes the kernel and books the workspace.
  void prepare(const KernelDef& def, const std::string& tactic) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (view_.constants[i] == nullptr) continue;
      Tensor packed = def.pack(view_, tactic, static_cast<int>(i));
      if (packed.defined()) tensors_[i] = packed;
    }
    kernel_ = def.make(view_, tactic);
    // A guard behind the workspace tells of writes past its end.
    workspace_ = Tensor::empty(DType::U8, {kernel_->workspace_bytes() + kGuard});
    std::memset(workspace_.raw(), 0xff, workspace_.size_bytes());  // NaN
    outputs_ = {poisoned(view_.output_shapes[0])};
  }
  const Tensor& run() {
    RunArgs args;
    args.inputs = tensors_;
    args.outputs = outputs_;
    args.workspace = workspace_.raw();
    args.pool = &pool_;
    kernel_->run(args);
    return outputs_[0];
  }
  bool guard_intact() const {
    const uint8_t* end = workspace_.data<uint8_t>() + workspace_.size_bytes() - kGuard;
    for (int i = 0; i < kGuard; ++i)
      if (end[i] != 0xff) return false;
    return true;
  }

 private:
  static constexpr int kGuard = 256;
  ir::Graph graph_;
  ir::Node node_;
  std::vector<Tensor> tensors_;
  ThreadPool pool_;
  NodeView view_;
  std::unique_ptr<Kernel> kernel_;
  Tensor workspace_;
  std::vector<Tensor> outputs_;
};

// |a - b| <= atol + rtol * |b| everywhere, NaN nowhere; the first difference is reported.
inline void expect_close(const Tensor& actual, const std::vector<double>& expected, double rtol, double atol, const std::string& what) {
  ASSERT_EQ(actual.count(), static_cast<int64_t>(expected.size())) << what;
  for (int64_t i = 0; i < actual.count(); ++i) {
    const double a = actual.data<float>()[i], e = expected[i];
    if (!(std::abs(a - e) <= atol + rtol * std::abs(e))) {
      ADD_FAILURE() << what << ": element " << i << " of " << to_string(actual.shape()) << " is " << a << ", expected " << e;
      return;
    }
  }
}

}  // namespace tokamak::test
