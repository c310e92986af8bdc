// Mistral: Llama with sliding attention in every layer (where the file has a window; later versions do not).

#include "import/hf/models.h"

namespace tokamak::hf::models {
namespace {

ModelConfig configure(const JsonObject& json, const Json* generation) {
  ModelConfig c = read_config(json, generation, {});
  set_windows(json, c, json.integer("sliding_window", 1, INT32_MAX, 0), [](int64_t) { return true; });
  return c;
}

}  // namespace

ModelDef mistral() {
  return {"MistralForCausalLM", "mistral", configure, [](Decoder& d) { d.finish(d.pre_norm_blocks(d.embed())); }};
}

}  // namespace tokamak::hf::models
