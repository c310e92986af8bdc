#pragma once
// What the metadata of a language-model graph says about it (docs/architecture.md); the same for every backend.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace tokamak::llm {

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int vocab_size = 0;        // width of the logits
  int context_length = 0;    // most tokens a sequence may have, prompt and answer together
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  int block_size = 0;           // tokens in one block of the KV cache
  DType kv_dtype = DType::F32;  // f32 or bf16; on a GPU f16 and f8e4m3fn too
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;  // -1: none

  // Bytes of one block over all layers, keys and values.
  int64_t kv_block_bytes() const;

  // Reads the `llm.*` keys. Throws Unsupported when it is not a language model (no llm.architecture), Corrupt when a key is missing, is no
  // number, or is out of bounds; the message names the key.
  static ModelConfig from_metadata(const std::map<std::string, std::string>& metadata);
};

}  // namespace tokamak::llm
