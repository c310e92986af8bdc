#include "import/hf/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace tokamak::hf {
namespace {

constexpr double kHuge = 1e12;

// theta^(-2i/dim) in the float arithmetic of the reference: its rounding is part of what models were trained with.
std::vector<double> plain_frequencies(double theta, int64_t dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    out.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  return out;
}

void scale_llama3(const RopeConfig& c, std::vector<double>& inverse) {
  const double low = c.original_max_positions / c.low_freq_factor, high = c.original_max_positions / c.high_freq_factor;
  for (double& f : inverse) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < high) continue;
    const double smooth = (c.original_max_positions / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor);
    f = wavelength > low ? f / c.factor : (1 - smooth) * f / c.factor + smooth * f;
  }
}

// Slow pairs are interpolated, fast ones left alone, those between mixed.
void scale_yarn(const RopeConfig& c, int64_t dim, std::vector<double>& inverse) {
  const auto pair_with_rotations = [&](double rotations) {
    return static_cast<double>(dim) * std::log(c.original_max_positions / (rotations * 2 * std::numbers::pi)) / (2 * std::log(c.theta));
  };
  double low = pair_with_rotations(c.beta_fast), high = pair_with_rotations(c.beta_slow);
  if (c.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = inverse[i] / c.factor * interpolated + inverse[i] * (1 - interpolated);
  }
}

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; }

void divide(std::vector<double>& inverse, const std::vector<double>& factors, const char* key) {
  if (factors.size() != inverse.size())
    fail(ErrorCode::Corrupt, "rotary embedding: \"{}\" has {} entries; expected {}, one for each pair of rotated elements", key,
         factors.size(), inverse.size());
  for (size_t i = 0; i < inverse.size(); ++i) inverse[i] /= factors[i];
}

}  // namespace

RopeConfig read_rope(const JsonObject& json, RopeConfig c, double max_positions) {
  c.theta = json.number("rope_theta", 1, kHuge, c.theta);
  c.partial = json.number("partial_rotary_factor", 1e-3, 1, c.partial);
  c.type = json.text("rope_type", json.text("type", "default"));
  if (c.type == "mrope") c.type = "default";  // of a vision model: text alone has equal positions in every section
  if (c.type == "su") c.type = "longrope";    // its first name
  if (c.type == "default") return c;
  if (c.type == "yarn" && json.has("short_factor")) c.type = "longrope";  // early Phi-3 files
  if (c.type != "linear" && c.type != "dynamic" && c.type != "llama3" && c.type != "yarn" && c.type != "longrope")
    fail(ErrorCode::Unsupported,
         "{}: rope_type \"{}\" is not supported; this version knows default, linear, dynamic, llama3, yarn, longrope", json.path(), c.type);
  if (c.type != "longrope") c.factor = json.number("factor", 1e-3, 1e6);
  else c.factor = json.number("factor", 1e-3, 1e6, 0);
  c.original_max_positions = json.number("original_max_position_embeddings", 1, kHuge, max_positions);
  if (c.type == "llama3") {
    c.low_freq_factor = json.number("low_freq_factor", 1e-6, 1e6);
    c.high_freq_factor = json.number("high_freq_factor", 1e-6, 1e6);
    if (c.high_freq_factor <= c.low_freq_factor)
      json.wrong("high_freq_factor", fmt::format("more than low_freq_factor, {}", c.low_freq_factor));
  }
  c.attention_factor = json.number("attention_factor", 1e-6, 1e6, 0);
  if (c.type == "yarn") {
    c.beta_fast = json.number("beta_fast", 1e-6, 1e6, 32);
    c.beta_slow = json.number("beta_slow", 1e-6, 1e6, 1);
    c.mscale = json.number("mscale", 0, 1e6, 0);
    c.mscale_all_dim = json.number("mscale_all_dim", 0, 1e6, 0);
    c.truncate = json.boolean("truncate", true);
    if (c.theta <= 1) json.wrong("rope_theta", "more than 1");
  }
  if (c.type == "longrope") {
    c.short_factors = json.numbers("short_factor", 1e-6, 1e6);
    c.long_factors = json.numbers("long_factor", 1e-6, 1e6);
  }
  return c;
}

RopeFrequencies rope_frequencies(const RopeConfig& c, int64_t head_dim, double max_positions, double context) {
  const int64_t dim = static_cast<int64_t>(static_cast<double>(head_dim) * c.partial);
  if (dim < 2 || dim % 2 != 0)
    fail(ErrorCode::Corrupt, "rotary embedding: {} of head_dim {} leaves {} rotated elements; expected an even number", c.partial, head_dim,
         dim);
  RopeFrequencies out;
  double theta = c.theta;
  if (c.type == "dynamic" && context > max_positions && dim > 2)
    theta *= std::pow(c.factor * context / max_positions - (c.factor - 1), static_cast<double>(dim) / static_cast<double>(dim - 2));
  std::vector<double> inverse = plain_frequencies(theta, dim);
  if (c.type == "linear")
    for (double& f : inverse) f /= c.factor;
  if (c.type == "llama3") scale_llama3(c, inverse);
  if (c.type == "yarn") {
    scale_yarn(c, dim, inverse);
    out.attention_factor = yarn_mscale(c.factor, 1);
    if (c.mscale != 0 && c.mscale_all_dim != 0)
      out.attention_factor = yarn_mscale(c.factor, c.mscale) / yarn_mscale(c.factor, c.mscale_all_dim);
  }
  if (c.type == "longrope") {
    const bool is_long = context > c.original_max_positions;
    divide(inverse, is_long ? c.long_factors : c.short_factors, is_long ? "long_factor" : "short_factor");
    const double factor = c.factor > 0 ? c.factor : max_positions / c.original_max_positions;
    if (factor > 1 && c.original_max_positions > 1)
      out.attention_factor = std::sqrt(1 + std::log(factor) / std::log(c.original_max_positions));
  }
  if (c.attention_factor > 0) out.attention_factor = c.attention_factor;
  out.inverse.assign(inverse.begin(), inverse.end());
  return out;
}

}  // namespace tokamak::hf
