#pragma once
// How much of a GPU's memory a language model's KV cache gets.

#include <cstdint>
#include <string>

namespace tokamak::llm {

// In bytes.
struct CacheBudget {
  std::string device_name;
  int64_t free = 0;          // now
  int64_t weights = 0;       // not there yet
  int64_t activations = 0;   // and workspace, of the largest usual step
  int64_t arrays = 0;        // index arrays, tokens, values made for the shapes
  int64_t block = 0;         // of one block of the cache
  int64_t one_sequence = 0;  // the smallest cache that makes sense: one sequence of the largest length
  int64_t all_sequences = 0;
};

// Bytes of the cache, a multiple of a block: `wanted` when it is not 0, else what all sequences need, as far as memory goes (some is left
// for code, graphs and what libraries take). Throws ResourceExhausted, naming all parts, when not everything fits; before anything was
// allocated.
int64_t cache_bytes(const CacheBudget& budget, int64_t wanted);

}  // namespace tokamak::llm
