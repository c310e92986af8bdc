#pragma once
// The inputs and outputs of a language model's step graph (docs/architecture.md, "The step graph").

#include "llm/model_config.h"
#include "runtime/engine.h"

namespace tokamak::llm {

std::string cache_input_name(int layer);  // "kv_cache.3"

// What the engine's metadata says, its inputs and outputs checked against it. Throws Unsupported naming the first that differs.
ModelConfig step_config(const Engine& engine);

}  // namespace tokamak::llm
