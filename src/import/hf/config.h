#pragma once
// What a decoder's config.json says, in one form whatever the layout of the file.

#include <string>
#include <vector>

#include "import/hf/rope.h"

namespace tokamak::hf {

enum class Activation { Silu, GeluTanh, Gelu };

struct LayerConfig {
  int64_t window = 0;  // sliding attention: each token sees this many of the latest positions, its own included; 0: all
  int rope = 0;        // index into ModelConfig::ropes
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_positions = 0;
  double norm_epsilon = 1e-6;
  Activation activation = Activation::Silu;
  bool tied_embeddings = false, mlp_bias = false;
  double attention_scale = 0;                       // of q k^T
  double attention_softcap = 0, logit_softcap = 0;  // 0: none
  std::vector<RopeConfig> ropes;
  std::vector<LayerConfig> layers;
  std::vector<int64_t> eos_token_ids;  // generation_config.json's first
  int64_t bos_token_id = -1;           // -1: none

  // What the architecture's code does differently from Llama's; no key of the file says it.
  double embedding_scale = 1;
  bool norm_plus_one = false;                  // norms multiply by 1 + weight
  bool qkv_bias = false, output_bias = false;  // from attention_bias unless the architecture fixes them
  bool qk_norm = false;
  bool fused_projections = false;  // qkv_proj and gate_up_proj are one matrix each
  int64_t extra_tokens = 0;        // added tokens that tokenizer.json may have past vocab_size (placeholders that never reach the model)
};

// What an architecture's files leave out.
struct ConfigDefaults {
  bool tied_embeddings = false;
  int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  double rope_theta = 10000;
  const char* activation = "silu";
};

// The keys that all architectures share; every layer attends to everything, with the first rope. `generation` is generation_config.json or
// null. Throws Corrupt or Unsupported naming the key.
ModelConfig read_config(const JsonObject& json, const Json* generation, const ConfigDefaults& defaults);

// architectures[0], or "" when there is none.
std::string architecture_of(const JsonObject& json);

// Gives `window` to the layers that layer_types calls "sliding_attention"; without that key, to those for which `is_sliding(i)`. Does
// nothing when window is 0. Throws Corrupt when the list does not fit.
template <class F>
void set_windows(const JsonObject& json, ModelConfig& config, int64_t window, const F& is_sliding);

// Whether each layer slides, by layer_types; empty when the key is absent.
std::vector<bool> sliding_layers(const JsonObject& json, int64_t num_layers);

template <class F>
void set_windows(const JsonObject& json, ModelConfig& config, int64_t window, const F& is_sliding) {
  const std::vector<bool> listed = sliding_layers(json, config.num_layers);
  for (int64_t i = 0; i < config.num_layers; ++i)
    if (listed.empty() ? is_sliding(i) : listed[i]) config.layers[i].window = window;
}

}  // namespace tokamak::hf
