// Qwen3 (dense): Llama with an RMSNorm on each head of q and k.

#include "import/hf/models.h"

namespace tokamak::hf::models {
namespace {

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = read_config(json, generation, {.head_dim = 128});
  c.qk_norm = true;
  const int64_t window = json.boolean("use_sliding_window", false) ? json.integer("sliding_window", 1, INT32_MAX, 4096) : 0;
  const int64_t full_layers = json.integer("max_window_layers", 0, INT32_MAX, 28);
  set_windows(json, c, window, [&](int64_t layer) { return layer >= full_layers; });
  return c;
}

}  // namespace

ModelDef qwen3() {
  return {"Qwen3ForCausalLM", "qwen3", configure, [](Decoder& d) { d.finish(d.pre_norm_blocks(d.embed())); }};
}

}  // namespace tokamak::hf::models
