#include "server/exposition.h"

#include <fmt/format.h>

#include <iterator>

namespace tokamak::server {

namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  if (value == std::floor(value) && std::abs(value) < 9e15) return fmt::format("{}", static_cast<int64_t>(value));
  return fmt::format("{}", value);
}

void append_label(std::string& out, std::string_view name, std::string_view value) {
  out += out.back() == '{' ? "" : ",";
  out += name;
  out += "=\"";
  for (const char c : value) {
    if (c == '\\' || c == '"') (out += '\\') += c;
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  out += '"';
}

}  // namespace

void Exposition::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = name;
  fmt::format_to(std::back_inserter(text_), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

void Exposition::sample(std::string_view suffix, const Labels& labels, double value, std::string_view extra_label,
                        std::string_view extra_value) {
  (text_ += name_) += suffix;
  if (!labels.empty() || !extra_label.empty()) {
    text_ += '{';
    for (const auto& [label, label_value] : labels) append_label(text_, label, label_value);
    if (!extra_label.empty()) append_label(text_, extra_label, extra_value);
    text_ += '}';
  }
  fmt::format_to(std::back_inserter(text_), " {}\n", number(value));
}

void Exposition::sample(const Labels& labels, const Histogram& histogram) {
  uint64_t below = 0;
  for (size_t i = 0; i < histogram.counts().size(); ++i) {
    below += histogram.counts()[i];
    sample("_bucket", labels, static_cast<double>(below), "le", i < histogram.bounds().size() ? number(histogram.bounds()[i]) : "+Inf");
  }
  sample("_sum", labels, histogram.sum());
  sample("_count", labels, static_cast<double>(histogram.count()));
}

void Exposition::sample(const Labels& labels, const std::vector<std::pair<double, double>>& values, double sum, uint64_t count) {
  for (const auto& [quantile, value] : values) sample("", labels, value, "quantile", number(quantile));
  sample("_sum", labels, sum);
  sample("_count", labels, static_cast<double>(count));
}

}  // namespace tokamak::server
