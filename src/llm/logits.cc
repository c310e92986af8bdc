#include "llm/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cpu/cpu_features.h"
#include "base/error.h"

namespace tokamak::llm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool block_max(float* maxima, const float* x, int64_t n) {
  bool good = true;
  for (int64_t begin = 0; begin < n; begin += kMaxBlock) {
    float top = -kInfinity;
    for (int64_t i = begin; i < std::min(n, begin + kMaxBlock); ++i) {
      top = x[i] > top ? x[i] : top;
      good &= x[i] < kInfinity;  // false for NaN
    }
    *maxima++ = top;
  }
  return good;
}

double exp_sum(const float* x, int64_t n, float shift) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(x[i] - shift);
  return total;
}

double exp_weights(float* w, double* sums, const float* x, int64_t n, float shift, float scale) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    double sum = 0;
    for (int64_t i = begin; i < std::min(n, begin + kSumBlock); ++i) sum += w[i] = std::exp((x[i] - shift) * scale);
    total += * sums++ = sum;
  }
  return total;
}

int64_t collect(int32_t* ids, const float* x, int64_t n, float threshold) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i)
    if (x[i] >= threshold) ids[count++] = static_cast<int32_t>(i);
  return count;
}

}  // namespace

const LogitsFunctions& logits_functions_plain() {
  static constexpr LogitsFunctions functions = {block_max, exp_sum, exp_weights, collect};
  return functions;
}

const LogitsFunctions& logits_functions() {
  static const LogitsFunctions& functions = cpu_features().avx512 ? logits_functions_avx512()
                                            : cpu_features().avx2 ? logits_functions_avx2()
                                                                  : logits_functions_plain();
  return functions;
}

void LogitsRow::scan(std::span<const float> logits) {
  logits_ = logits;
  const auto n = static_cast<int64_t>(logits.size());
  maxima_.resize((n + kMaxBlock - 1) / kMaxBlock);
  ids_.resize(n + 16);
  if (!logits_functions().block_max(maxima_.data(), logits.data(), n)) fail(ErrorCode::InvalidArgument, "{}", kBadLogits);
  max_ = *std::ranges::max_element(maxima_);
  if (max_ == -kInfinity) fail(ErrorCode::InvalidArgument, "no token is allowed: every logit is -infinity");
}

int32_t LogitsRow::argmax() const {
  const auto block = std::ranges::find(maxima_, max_) - maxima_.begin();
  return static_cast<int32_t>(std::find(logits_.begin() + block * kMaxBlock, logits_.end(), max_) - logits_.begin());
}

std::span<int32_t> LogitsRow::at_least(float threshold) {
  // -infinity is no candidate, however low the threshold.
  threshold = std::max(threshold, std::numeric_limits<float>::lowest());
  return {ids_.data(), static_cast<size_t>(logits_functions().collect(ids_.data(), logits_.data(), std::ssize(logits_), threshold))};
}

// k blocks have a maximum of at least t, so k logits are: the k-th largest block maximum bounds the k-th largest logit from below, and few
// logits pass it.
std::span<int32_t> LogitsRow::top_k(int64_t k) {
  float threshold = -kInfinity;
  if (k <= std::ssize(maxima_)) {
    sorted_maxima_ = maxima_;
    std::nth_element(sorted_maxima_.begin(), sorted_maxima_.begin() + (k - 1), sorted_maxima_.end(), std::greater<>());
    threshold = sorted_maxima_[k - 1];
  }
  const auto ids = at_least(threshold);
  if (std::ssize(ids) <= k) return ids;
  std::nth_element(ids.begin(), ids.begin() + (k - 1), ids.end(),
                   [&](int32_t a, int32_t b) { return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b; });
  return ids.first(k);
}

}  // namespace tokamak::llm
