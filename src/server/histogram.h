#pragma once
// Distributions of observed values. Not thread-safe: their owners lock.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tokamak::server {

// Counts per bucket. `bounds` ascend; a value belongs to the first bucket whose bound it does not pass, or to the one past the last.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value, uint64_t times = 1);
  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<uint64_t>& counts() const { return counts_; }  // one more than bounds; not cumulative
  uint64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

// Quantiles over the last minute or so, to a relative error of 2 %: logarithmic buckets, in slices that rotate by time.
class Quantiles {
 public:
  void observe(double value, int64_t now_ns);
  // Of what was observed within the window that ends at `now_ns`; NaN when there was nothing. q in [0, 1].
  double quantile(double q, int64_t now_ns) const;
  uint64_t count() const { return count_; }  // since the start
  double sum() const { return sum_; }

 private:
  static constexpr int kNumSlices = 6;
  static constexpr int64_t kSliceNs = 10'000'000'000;
  struct Slice {
    int64_t number = -1;  // of the slice of time it holds
    std::vector<uint32_t> counts;
  };
  Slice slices_[kNumSlices];
  uint64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace tokamak::server
