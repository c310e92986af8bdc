// Gemma 3 (text): q and k norms, five sliding layers to one full one, and a rotary embedding for each of the two kinds. Also the text part
// of the models that see images.

#include "base/error.h"
#include "import/hf/gemma.h"

namespace tokamak::hf::models {
namespace {

// Rope 0 is the full layers', rope 1 the sliding ones'. Older files put the first in rope_theta and rope_scaling.
void read_ropes(const JsonObject& json, ModelConfig& c) {
  RopeConfig sliding;
  sliding.theta = json.number("rope_local_base_freq", 1, 1e12, 10000);
  if (const auto both = json.object("rope_parameters")) {
    const auto max_positions = static_cast<double>(c.max_positions);
    RopeConfig full;
    full.theta = 1'000'000;
    if (const auto one = both->object("full_attention")) c.ropes[0] = read_rope(*one, full, max_positions);
    if (const auto one = both->object("sliding_attention")) sliding = read_rope(*one, sliding, max_positions);
  }
  c.ropes.push_back(sliding);
  for (LayerConfig& layer : c.layers) layer.rope = layer.window > 0 ? 1 : 0;
}

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = configure_gemma(json, generation,
                                  {.tied_embeddings = true, .head_dim = 256, .rope_theta = 1'000'000, .activation = "gelu_pytorch_tanh"});
  if (json.boolean("use_bidirectional_attention", false))
    fail(ErrorCode::Unsupported, "{}: \"use_bidirectional_attention\" is true; only causal models can generate", json.path());
  c.qk_norm = true;
  c.attention_softcap = read_softcap(json, "attn_logit_softcapping", 0);
  c.logit_softcap = read_softcap(json, "final_logit_softcapping", 0);
  c.extra_tokens = 64;  // tokenizer.json of the text models has the image placeholder behind the vocabulary
  const int64_t period = json.integer("sliding_window_pattern", 1, INT32_MAX, 6);
  set_windows(json, c, json.integer("sliding_window", 1, INT32_MAX, 4096), [&](int64_t layer) { return (layer + 1) % period != 0; });
  read_ropes(json, c);
  return c;
}

// Its files leave out of text_config what has the default value.
ModelConfig configure_text_part(const JsonObject& json, const Json* generation) {
  const auto text = json.object("text_config");
  if (!text) json.wrong("text_config", "an object, the text model's configuration");
  Json full = {{"vocab_size", 262208}, {"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"max_position_embeddings", 131072}};
  for (const auto& [key, value] : text->items()) full[key] = value;
  for (const char* key : {"eos_token_id", "bos_token_id", "tie_word_embeddings"})
    if (json.has(key)) full[key] = *json.find(key);
  ModelConfig c = configure(JsonObject(full, text->path()), generation);
  return c;
}

}  // namespace

ModelDef gemma3() { return {"Gemma3ForCausalLM", "gemma3_text", configure, build_gemma}; }
ModelDef gemma3_multimodal() { return {"Gemma3ForConditionalGeneration", "gemma3", configure_text_part, build_gemma}; }

}  // namespace tokamak::hf::models
