#include "server/histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tokamak::server {

namespace {

// Bucket i holds values up to kGrowth^i: half a step either way is the relative error.
constexpr double kGrowth = 1.04;
constexpr int kNumBuckets = 704;  // up to 1e12

int bucket_of(double value) {
  if (!(value > 1)) return 0;
  return std::min(static_cast<int>(std::ceil(std::log(value) / std::log(kGrowth))), kNumBuckets - 1);
}

}  // namespace

void Histogram::observe(double value, uint64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

void Quantiles::observe(double value, int64_t now_ns) {
  const int64_t number = now_ns / kSliceNs;
  Slice& slice = slices_[number % kNumSlices];
  if (slice.number != number) {
    slice.number = number;
    slice.counts.assign(kNumBuckets, 0);
  }
  ++slice.counts[static_cast<size_t>(bucket_of(value))];
  ++count_;
  sum_ += value;
}

double Quantiles::quantile(double q, int64_t now_ns) const {
  const int64_t number = now_ns / kSliceNs;
  uint64_t total = 0;
  std::vector<uint64_t> counts(kNumBuckets);
  for (const Slice& slice : slices_) {
    if (slice.number < 0 || slice.number <= number - kNumSlices) continue;
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] += slice.counts[i];
      total += slice.counts[i];
    }
  }
  if (total == 0) return std::numeric_limits<double>::quiet_NaN();
  const double rank = q * static_cast<double>(total);
  uint64_t below = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    below += counts[i];
    if (static_cast<double>(below) >= rank && below > 0) return i == 0 ? 1 : std::pow(kGrowth, static_cast<double>(i) - 0.5);
  }
  return std::pow(kGrowth, kNumBuckets - 1);
}

}  // namespace tokamak::server
