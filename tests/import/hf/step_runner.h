#pragma once
// Runs the step graph of a language model the plain way: one sequence, its own blocks, every token's logits.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "builder/builder.h"
#include "runtime/execution_context.h"

namespace tokamak::testing {

class StepRunner {
 public:
  explicit StepRunner(std::shared_ptr<const Engine> engine, int64_t max_tokens = 256, ContextOptions options = {})
      : context_(engine, std::move(options)) {
    for (const TensorInfo& input : engine->inputs()) {
      if (!input.name.starts_with("kv_cache.")) continue;
      block_size_ = input.type.dims[3].value();
      num_blocks_ = (max_tokens + block_size_ - 1) / block_size_;
      Shape shape{num_blocks_};
      for (int d = 1; d < 5; ++d) shape.push_back(input.type.dims[d].value());
      context_.set_input(input.name, Tensor::zeros(input.dtype, shape));
    }
  }

  // Appends `ids` to the sequence; logits of each of them, [ids, vocab]. Blocks are used from the last one down.
  Tensor step(const std::vector<int32_t>& ids) {
    const auto n = static_cast<int64_t>(ids.size());
    std::vector<int32_t> positions, slots, rows, table;
    for (int64_t b = 0; b < num_blocks_; ++b) table.push_back(static_cast<int32_t>(num_blocks_ - 1 - b));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t p = length_ + i;
      positions.push_back(static_cast<int32_t>(p));
      slots.push_back(static_cast<int32_t>(table.at(p / block_size_) * block_size_ + p % block_size_));
      rows.push_back(static_cast<int32_t>(i));
    }
    length_ += n;
    set("token_ids", {n}, ids);
    set("positions", {n}, positions);
    set("slot_mapping", {n}, slots);
    set("block_tables", {1, num_blocks_}, table);
    set("seq_lens", {1}, {static_cast<int32_t>(length_)});
    set("query_starts", {2}, {0, static_cast<int32_t>(n)});
    set("logit_rows", {n}, rows);
    context_.run();
    return context_.output("logits").clone();
  }

  // The whole of `ids` in steps of at most `chunk` tokens.
  Tensor run(const std::vector<int32_t>& ids, size_t chunk) {
    Tensor all;
    for (size_t at = 0; at < ids.size(); at += chunk) {
      const size_t n = std::min(chunk, ids.size() - at);
      const Tensor part = step({ids.begin() + at, ids.begin() + at + n});
      if (at == 0) all = Tensor::empty(DType::F32, {static_cast<int64_t>(ids.size()), part.dim(1)});
      std::memcpy(all.data<float>() + at * part.dim(1), part.raw(), part.size_bytes());
    }
    return all;
  }

 private:
  void set(const char* name, Shape shape, const std::vector<int32_t>& values) {
    context_.set_input(name, Tensor::of<int32_t>(std::move(shape), values));
  }
  ExecutionContext context_;
  int64_t block_size_ = 0, num_blocks_ = 0, length_ = 0;
};

inline double max_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double worst = 0;
  for (int64_t i = 0; i < std::min(a.count(), b.count()); ++i) {
    const double d = std::abs(double{a.data<float>()[i]} - double{b.data<float>()[i]});
    worst = d >= worst || std::isnan(d) ? d : worst;
  }
  return worst;
}

}  // namespace tokamak::testing
