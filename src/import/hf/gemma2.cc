// Gemma 2: softcapped scores and logits, sliding attention in every other layer, beginning with the first.

#include <cmath>

#include "import/hf/gemma.h"

namespace tokamak::hf::models {
namespace {

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = configure_gemma(json, generation, {.tied_embeddings = true, .head_dim = 256, .activation = "gelu_pytorch_tanh"});
  c.attention_softcap = read_softcap(json, "attn_logit_softcapping", 50);
  c.logit_softcap = read_softcap(json, "final_logit_softcapping", 30);
  const int64_t window = json.is_null("sliding_window") ? 0 : json.integer("sliding_window", 1, INT32_MAX, 4096);
  set_windows(json, c, window, [](int64_t layer) { return layer % 2 == 0; });
  return c;
}

}  // namespace

ModelConfig configure_gemma(const JsonObject& json, const Json* generation, const ConfigDefaults& defaults) {
  ModelConfig c = read_config(json, generation, defaults);
  c.norm_plus_one = true;
  c.embedding_scale = std::sqrt(static_cast<double>(c.hidden_size));
  c.attention_scale = 1 / std::sqrt(json.number("query_pre_attn_scalar", 1e-6, 1e6, 256));
  return c;
}

void build_gemma(Decoder& d) {
  auto* x = d.embed();
  for (int64_t i = 0; i < d.num_layers(); ++i) {
    auto* y = d.norm(i, "input_layernorm", x);
    x = d.wanted(i, x);
    y = d.attention(i, y);
    x = d.add(x, d.norm(i, "post_attention_layernorm", y));
    y = d.gated_mlp(i, d.norm(i, "pre_feedforward_layernorm", x));
    x = d.add(x, d.norm(i, "post_feedforward_layernorm", y));
  }
  d.finish(x);
}

double read_softcap(const JsonObject& json, const std::string& key, double otherwise) {
  return json.is_null(key) ? 0 : json.number(key, 0, 1e6, otherwise);
}

ModelDef gemma2() { return {"Gemma2ForCausalLM", "gemma2", configure, build_gemma}; }

}  // namespace tokamak::hf::models
