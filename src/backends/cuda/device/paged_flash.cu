// paged_attention with tensor cores (flash.cuh) for batches with several new tokens a sequence: a block takes kTileRows rows of one
// sequence and kv head, a row being a token and one of the query heads that share the kv head. HEADS, KV_HEADS, BLOCK_SIZE; the others:
// flash.cuh.
#define VALUE_DIM HEAD_DIM
#define SOURCE CACHE
#include "flash.cuh"
#include "paged_tile.cuh"

extern "C" __global__ void __launch_bounds__(kThreads)
    paged_attention(const ACTIVATION* q, const CACHE* cache, const int32_t* tables, const int32_t* lengths, const int32_t* starts,
                    ACTIVATION* __restrict__ y, float*, int rows, int sequences, int blocks_per_seq, int num_blocks, int, Score score,
                    int window, float v_scale) {
  wait_for_previous();
  allow_next();
  clear_unowned_rows<kThreads>(starts, sequences, rows, y);
  const PagedStep step{q, cache, tables, lengths, starts, y, rows, sequences, blocks_per_seq, num_blocks, score, window, v_scale};
  PagedProblem p;
  if (step.find(p, blockIdx.x, blockIdx.y)) flash(p);
}
