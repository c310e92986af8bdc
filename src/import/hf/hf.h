#pragma once
// A language-model checkpoint → the step graph (decoder.h describes its inputs): a Hugging Face folder (config.json, safetensors,
// tokenizer.json) or a GGUF file. Not goals: training state, adapters, encoders, mixtures of experts.

#include <memory>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace tokamak::hf {

struct HfOptions {
  int block_size = 32;           // tokens in a block of the KV cache
  DType kv_dtype = DType::BF16;  // of the KV cache: F32, BF16, for a GPU F16 or F8E4M3FN too
  int64_t max_context = 0;       // 0: the checkpoint's; else llm.context_length, and what the rotary scalings that depend on length assume
  // Rotary frequencies are rounded to it: F32, or BF16 to reproduce results of a model that was cast to bf16 as a whole, frequencies
  // included (the rounding shifts angles by up to 0.2 %, far too much at long range for any other use).
  DType rope_dtype = DType::F32;
  // One of world_size parts of a model that computes on several devices (tensor parallelism): this rank's share of the heads and of the
  // MLP, all of the embedding, norms and head, and an all_reduce behind each attention and MLP. World size 1: the whole, no all_reduce.
  int rank = 0, world_size = 1;
  bool keep_quantized = true;                 // GGUF: Q8_0 and Q4_0 matrices become quantized_matmul as they are
  DType dequantized = DType::F16;             // GGUF: what other quantized matrices become (F32, F16 or BF16)
  std::vector<std::string>* notes = nullptr;  // receives what a user should know, one line each (weights that nothing reads)
};

// Whether `path` is something import_checkpoint reads, by its looks: a folder with config.json, a file that starts like GGUF.
bool is_checkpoint(const std::string& path);

// Weights stay in the file's dtype, [out, in], and are views into its mapping where they are not merged. All of them are checked for NaN
// and infinity. Metadata llm.* describes the model for the runtime; tokenizer.json and its companions are metadata too. Throws NotFound (a
// file is missing), Corrupt (what a file says cannot be), Unsupported (an architecture or format that this version does not know, sizes
// that world_size does not divide), InvalidArgument (a rank outside the world), naming file, key or tensor.
std::unique_ptr<ir::Graph> import_checkpoint(const std::string& path, const HfOptions& options = {});

// A model of a known shape with random bfloat16 weights and no tokenizer: for benchmarks. The same bytes for the same name. Throws NotFound
// with the names there are.
std::unique_ptr<ir::Graph> synthetic(const std::string& name, const HfOptions& options = {});
std::vector<std::string> synthetic_names();

}  // namespace tokamak::hf
