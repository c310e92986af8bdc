#pragma once
// What the Gemma generations share: norms before and after attention and MLP, 1 + weight in norms, scaled embeddings, the tanh GELU, a
// scale of attention that the file gives.

#include "import/hf/models.h"

namespace tokamak::hf::models {

ModelConfig configure_gemma(const JsonObject& json, const Json* generation, const ConfigDefaults& defaults);
void build_gemma(Decoder& d);
// A softcap: `otherwise` when the key is absent, none when it is null.
double read_softcap(const JsonObject& json, const std::string& key, double otherwise);

}  // namespace tokamak::hf::models
