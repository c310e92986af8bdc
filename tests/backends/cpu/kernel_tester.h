#pragma once
// Runs one kernel on tensors, without a graph around it: outputs and workspace poisoned, guards behind them checked.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/thread_pool.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {

struct OutputSpec {
  DType dtype = DType::F32;
  Shape shape;
};

class KernelTester {
 public:
  // An input without storage is absent.
  KernelTester(const KernelDef& def, ir::Attrs attrs, std::vector<Tensor> inputs, std::vector<OutputSpec> outputs, int threads = 1)
      : inputs_(std::move(inputs)), pool_(threads) {
    node_.attrs = std::move(attrs);
    values_ = std::vector<ir::Value>(inputs_.size());
    for (size_t i = 0; i < inputs_.size(); ++i) {
      node_.add_input(inputs_[i].defined() ? &values_[i] : nullptr);
      view_.input_dtypes.push_back(inputs_[i].dtype());
      view_.input_shapes.push_back(inputs_[i].shape());
      view_.constants.push_back(nullptr);
    }
    view_.node = &node_;
    view_.num_threads = threads;
    for (const OutputSpec& output : outputs) {
      view_.output_dtypes.push_back(output.dtype);
      view_.output_shapes.push_back(output.shape);
      const int64_t bytes = bytes_of(output.dtype, num_elements(output.shape));
      guarded_.push_back(std::make_unique<std::vector<char>>(bytes + kGuard, char(0xFF)));  // all ones is NaN
      std::memset(guarded_.back()->data() + bytes, 0x5A, kGuard);
      outputs_.push_back(Tensor::view(output.dtype, output.shape, guarded_.back()->data()));
    }
    const Support support = def.supports(view_);
    supported_ = static_cast<bool>(support);
    reason_ = support.reason();
    if (supported_) kernel_ = def.make(view_, def.tactics(view_).front());
  }

  bool supported() const { return supported_; }
  const std::string& reason() const { return reason_; }
  const Kernel& kernel() const { return *kernel_; }
  ThreadPool& pool() { return pool_; }

  // Writes output `output` over input `input`'s memory.
  void alias(int output, int input) {
    ASSERT_TRUE(kernel_->can_alias(output, input));
    outputs_[output] = Tensor::view(view_.output_dtypes[output], view_.output_shapes[output], inputs_[input].raw());
  }

  const std::vector<Tensor>& run() {
    EXPECT_TRUE(supported_) << reason_;
    const int64_t bytes = kernel_->workspace_bytes();
    std::vector<char> memory(bytes + 64 + kGuard, char(0xFF));
    char* const workspace = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    std::memset(workspace + bytes, 0x5A, memory.data() + memory.size() - workspace - bytes);
    RunArgs args;
    args.inputs = inputs_;
    args.outputs = outputs_;
    args.workspace = workspace;
    args.pool = &pool_;
    kernel_->run(args);
    for (const char* p = workspace + bytes; p < memory.data() + memory.size(); ++p) EXPECT_EQ(*p, 0x5A) << "workspace overrun";
    for (const auto& memory : guarded_)
      for (int i = 1; i <= kGuard; ++i) EXPECT_EQ((*memory)[memory->size() - i], 0x5A) << "output overrun";
    return outputs_;
  }

 private:
  static constexpr int kGuard = 64;
  std::vector<Tensor> inputs_, outputs_;
  ThreadPool pool_;
  ir::Node node_;
  std::vector<ir::Value> values_;
  NodeView view_;
  std::vector<std::unique_ptr<std::vector<char>>> guarded_;
  bool supported_ = false;
  std::string reason_;
  std::unique_ptr<Kernel> kernel_;
};

inline Tensor random_tensor(const Shape& shape, uint32_t seed, float low = -2, float high = 2) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  Tensor t = Tensor::empty(DType::F32, shape);
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = uniform(random);
  return t;
}

}  // namespace tokamak::cpu
