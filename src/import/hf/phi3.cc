// Phi-3 and Phi-4-mini: Llama with q, k, v in one matrix and gate, up in another, part of each head rotated, LongRoPE in the long versions.

#include "import/hf/models.h"

namespace tokamak::hf::models {
namespace {

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = read_config(json, generation, {});
  c.fused_projections = true;
  c.qkv_bias = c.output_bias = false;
  // Unlike elsewhere, the key beside rope_scaling goes before one inside.
  if (json.has("original_max_position_embeddings"))
    c.ropes[0].original_max_positions = json.number("original_max_position_embeddings", 1, 1e12);
  set_windows(json, c, json.integer("sliding_window", 1, INT32_MAX, 0), [](int64_t) { return true; });
  return c;
}

}  // namespace

ModelDef phi3() {
  return {"Phi3ForCausalLM", "phi3", configure, [](Decoder& d) { d.finish(d.pre_norm_blocks(d.embed())); }};
}

}  // namespace tokamak::hf::models
