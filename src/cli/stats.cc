#include "cli/stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tokamak::cli {

double percentile(std::span<const double> sorted, double percent) {
  if (sorted.empty()) return 0;
  const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
  return sorted[static_cast<size_t>(std::clamp<double>(rank, 1, static_cast<double>(sorted.size()))) - 1];
}

double median(std::span<const double> sorted) {
  if (sorted.empty()) return 0;
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

Summary summarize(std::vector<double> values, std::span<const double> percents) {
  Summary s;
  s.percentiles.assign(percents.size(), 0);
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  const double count = static_cast<double>(values.size());
  s.min = values.front();
  s.max = values.back();
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  s.median = median(values);
  double squares = 0;
  for (const double v : values) squares += (v - s.mean) * (v - s.mean);
  if (s.mean > 0) s.coefficient_of_variation = std::sqrt(squares / count) / s.mean;
  for (size_t i = 0; i < percents.size(); ++i) s.percentiles[i] = percentile(values, percents[i]);
  return s;
}

}  // namespace tokamak::cli
