#pragma once
// Passes over one row of logits, by instruction set. Rows are up to a few hundred thousand floats long, and the sampler makes one to three
// passes over each; everything else it does is over a handful of candidates.

#include <cstdint>
#include <span>
#include <vector>

namespace tokamak::llm {

inline constexpr int64_t kMaxBlock = 64;    // floats per entry of block_max
inline constexpr int64_t kSumBlock = 1024;  // floats per entry of exp_weights' sums

struct LogitsFunctions {
  // maxima[b] = largest of x[64 b .. 64 b + 64); returns whether every x is a number below infinity (-inf is one).
  bool (*block_max)(float* maxima, const float* x, int64_t n);
  // Sum of exp(x - shift).
  double (*exp_sum)(const float* x, int64_t n, float shift);
  // w = exp((x - shift) * scale); sums[b] = sum of w[1024 b .. 1024 b + 1024); returns the sum of all.
  double (*exp_weights)(float* w, double* sums, const float* x, int64_t n, float shift, float scale);
  // Writes the ids of all x >= threshold, ascending; returns how many. `ids` has room for n + 16.
  int64_t (*collect)(int32_t* ids, const float* x, int64_t n, float threshold);
};

const LogitsFunctions& logits_functions();  // the best this CPU has
const LogitsFunctions& logits_functions_plain();
const LogitsFunctions& logits_functions_avx2();
const LogitsFunctions& logits_functions_avx512();

inline constexpr const char* kBadLogits = "the model's logits hold NaN or infinity; its weights or the build's precision are at fault";

// One row with what is known of it; keeps its memory from row to row.
class LogitsRow {
 public:
  // Looks at a row, which must stay until the next call. Throws InvalidArgument when it holds NaN or +infinity, or nothing but -infinity.
  void scan(std::span<const float> logits);

  std::span<const float> logits() const { return logits_; }
  float max() const { return max_; }
  int32_t argmax() const;  // the lowest id among equals
  // The k largest (all above -infinity when k is larger), unordered; among equals at the border the lowest ids. Valid until the next call.
  std::span<int32_t> top_k(int64_t k);
  // Ids of all logits >= threshold, ascending. Valid until the next call.
  std::span<int32_t> at_least(float threshold);

 private:
  std::span<const float> logits_;
  std::vector<float> maxima_, sorted_maxima_;
  std::vector<int32_t> ids_;
  float max_ = 0;
};

}  // namespace tokamak::llm
