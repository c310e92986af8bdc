#pragma once
// Statistics of repeated measurements.

#include <span>
#include <vector>

namespace tokamak::cli {

struct Summary {
  double min = 0, max = 0, mean = 0, median = 0;
  double coefficient_of_variation = 0;  // standard deviation / mean
  std::vector<double> percentiles;      // one for each asked
};

// Nearest rank: the smallest value with at least `percent` % of all values at or below it. `sorted` ascending; 0 when empty.
double percentile(std::span<const double> sorted, double percent);
// The middle value, or the mean of the two middle ones.
double median(std::span<const double> sorted);
Summary summarize(std::vector<double> values, std::span<const double> percents = {});

}  // namespace tokamak::cli
