#pragma once
// Rotary position embeddings: from the parameters in a config to one frequency per pair of elements.

#include <string>
#include <vector>

#include "import/hf/json.h"

namespace tokamak::hf {

// Parameters of one kind of layer, as rope_parameters (or rope_theta and rope_scaling) give them.
struct RopeConfig {
  std::string type = "default";  // default, linear, dynamic, llama3, yarn, longrope
  double theta = 10000;
  double partial = 1;  // part of the head that rotates
  double factor = 1;
  double original_max_positions = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 0, mscale_all_dim = 0;             // yarn; 0: absent
  bool truncate = true;                              // yarn
  double attention_factor = 0;                       // yarn, longrope; 0: by the method's own rule
  std::vector<double> short_factors, long_factors;   // longrope
  bool operator==(const RopeConfig&) const = default;
};

// Reads the object of rope_parameters or rope_scaling over `defaults` (theta and partial). `max_positions` is max_position_embeddings.
// Throws Corrupt, and Unsupported naming the types there are.
RopeConfig read_rope(const JsonObject& json, RopeConfig defaults, double max_positions);

struct RopeFrequencies {
  std::vector<float> inverse;   // angle of pair i at position p: p * inverse[i]; as many as half the rotated elements
  double attention_factor = 1;  // multiplies sines and cosines
};

// `context` is how many positions the model is built for. dynamic and longrope change with the length of the text; keys that are in the
// cache keep the rotation they were stored with, so the length they are made for is `context` from the first token on.
// Method: transformers' modeling_rope_utils (NTK by parts: arXiv:2309.00071; LongRoPE: arXiv:2402.13753; llama3: Meta's reference code).
// Throws Corrupt when a list of factors has the wrong length.
RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim, double max_positions, double context);

}  // namespace tokamak::hf
