// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and (rarely switched on) sliding attention in the upper layers.

#include "import/hf/models.h"

namespace tokamak::hf::models {
namespace {

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = read_config(json, generation, {});
  c.qkv_bias = true;
  c.output_bias = false;
  const int64_t window = json.boolean("use_sliding_window", false) ? json.integer("sliding_window", 1, INT32_MAX, 4096) : 0;
  const int64_t full_layers = json.integer("max_window_layers", 0, INT32_MAX, 28);
  set_windows(json, c, window, [&](int64_t layer) { return layer >= full_layers; });
  return c;
}

}  // namespace

ModelDef qwen2() {
  return {"Qwen2ForCausalLM", "qwen2", configure, [](Decoder& d) { d.finish(d.pre_norm_blocks(d.embed())); }};
}

}  // namespace tokamak::hf::models
