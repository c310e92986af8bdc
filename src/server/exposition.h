#pragma once
// Prometheus' text format, version 0.0.4.

#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/histogram.h"

namespace tokamak::server {

using Labels = std::vector<std::pair<std::string, std::string>>;

// Writes families one after the other; a family's samples follow its head.
class Exposition {
 public:
  // `type`: "counter", "gauge", "histogram" or "summary".
  void family(std::string_view name, std::string_view type, std::string_view help);
  // Of the family begun last.
  void sample(const Labels& labels, double value) { sample("", labels, value); }
  void sample(const Labels& labels, uint64_t value) { sample("", labels, static_cast<double>(value)); }
  void sample(const Labels& labels, const Histogram& histogram);
  // `values`: quantile and value.
  void sample(const Labels& labels, const std::vector<std::pair<double, double>>& values, double sum, uint64_t count);

  const std::string& text() const { return text_; }

 private:
  void sample(std::string_view suffix, const Labels& labels, double value, std::string_view extra_label = {},
              std::string_view extra_value = {});

  std::string text_, name_;
};

}  // namespace tokamak::server
