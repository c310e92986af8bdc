// Llama 2, 3, 3.1 and 3.2 (text), TinyLlama, and the many models that took over their layout.

#include "import/hf/models.h"

namespace tokamak::hf::models {

ModelDef llama() {
  return {"LlamaForCausalLM", "llama", [](const JsonObject& json, const Json* generation) { return read_config(json, generation, {}); },
          [](Decoder& d) { d.finish(d.pre_norm_blocks(d.embed())); }};
}

}  // namespace tokamak::hf::models
