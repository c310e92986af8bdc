// Which tile of query rows a block of a prefill kernel works on. A row is a token and one of the query heads that share a kv head. The
// includer has kTileRows, and HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, ACTIVATION, CACHE.
#pragma once
#include "cache.cuh"

constexpr int kGroup = HEADS / KV_HEADS;

// The sequence of a tile and its first row: tiles of all sequences one after another, the last of each (which has the most keys before it)
// first.
struct Tile {
  int sequence, first_row;  // sequence < 0: no such tile
};

// By one warp. `before` becomes the number of tiles of the sequences that were looked at: of all when there is no such tile.
DEVICE Tile warp_find_tile(const int32_t* starts, int num_sequences, int num_rows, int tile, int& before) {
  const int lane = threadIdx.x % 32;
  const int32_t last = min(starts[num_sequences], num_rows);
  before = 0;
  for (int base = 0; base < num_sequences; base += 32) {
    const int s = base + lane;
    int first = num_rows, count = 0;
    if (s < num_sequences) {
      first = min(max(starts[s], 0), num_rows);
      const int end = min(max(starts[s + 1], first), num_rows);
      count = int((int64_t(end - first) * kGroup + kTileRows - 1) / kTileRows);
    }
    if (__shfl_sync(~0u, first, 0) >= last) break;  // sequences that are not in use
    int sum = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += other;
    }
    const int first_tile = before + sum - count;
    const unsigned here = __ballot_sync(~0u, tile >= first_tile && tile < first_tile + count);
    before += __shfl_sync(~0u, sum, 31);
    if (here != 0) {
      const int found = __ffs(here) - 1;
      return {base + found, __shfl_sync(~0u, (count - 1 - (tile - first_tile)) * kTileRows, found)};
    }
  }
  return {-1, 0};
}

struct PagedProblem {
  const ACTIVATION* q;
  ACTIVATION* y;
  const CACHE* cache;
  const int32_t* table;
  int num_blocks, kv_head, first_row, num_rows, first_token, first_position, window;  // rows of the sequence, tokens of the step
  int begin, end;
  float scale, softcap, v_scale;

  DEVICE int position(int row) const { return first_position + (first_row + row) / kGroup; }
  DEVICE int64_t offset(int row) const {
    const int r = first_row + row;
    return (int64_t(first_token + r / kGroup) * HEADS + kv_head * kGroup + r % kGroup) * HEAD_DIM;
  }
  DEVICE const ACTIVATION* any_query() const { return q; }
  DEVICE const ACTIVATION* query(int row) const { return first_row + row < num_rows ? q + offset(row) : nullptr; }
  DEVICE ACTIVATION* output(int row) const { return y + offset(row); }
  DEVICE int row_end(int row) const { return max(position(row) + 1, 0); }
  DEVICE int row_begin(int row) const { return window > 0 ? max(position(row) + 1 - window, 0) : 0; }
  DEVICE bool sees_all(int first, int last) const { return first >= row_begin(kTileRows - 1) && last <= row_end(0); }
  // A block that does not exist counts as zeros.
  DEVICE bool find(int key, const CACHE*& k, const CACHE*& v) const {
    const int block = key < end ? table[key / BLOCK_SIZE] : -1;
    const bool valid = block >= 0 && block < num_blocks;
    k = cache + ((int64_t(valid ? block : 0) * 2 * KV_HEADS + kv_head) * BLOCK_SIZE + key % BLOCK_SIZE) * HEAD_DIM;
    v = k + int64_t(KV_HEADS) * BLOCK_SIZE * HEAD_DIM;
    return valid;
  }
  DEVICE float finish(float x, int, int) const { return softcap > 0.f ? softcap * tanhf(x * scale / softcap) : x * scale; }
};

// Rows before the first sequence and behind the last attend to nothing. By all threads of a grid of blocks of kThreads.
template <int kThreads>
DEVICE void clear_unowned_rows(const int32_t* starts, int sequences, int rows, ACTIVATION* y) {
  const int block = blockIdx.y * gridDim.x + blockIdx.x, blocks = gridDim.x * gridDim.y;
  for (int row = block; row < rows; row += blocks)
    if (row < starts[0] || row >= starts[sequences])
      for (int d = threadIdx.x; d < HEADS * HEAD_DIM; d += kThreads) y[int64_t(row) * HEADS * HEAD_DIM + d] = from_float<ACTIVATION>(0.f);
}

// What a step brings to every tile.
struct PagedStep {
  const ACTIVATION* q;
  const CACHE* cache;
  const int32_t *tables, *lengths, *starts;
  ACTIVATION* y;
  int rows, sequences, blocks_per_seq, num_blocks;
  Score score;
  int window;
  float v_scale;

  DEVICE void set(PagedProblem& p, int sequence, const SequenceRows& of, int first_row, int kv_head) const {
    p.q = q, p.y = y, p.cache = cache, p.table = tables + int64_t(sequence) * blocks_per_seq;
    p.num_blocks = num_blocks, p.kv_head = kv_head, p.first_row = first_row, p.num_rows = of.count * kGroup;
    p.first_token = of.first, p.first_position = of.length - of.count, p.window = window;
    p.scale = score.scale, p.softcap = score.softcap, p.v_scale = v_scale;
    const int last_row = min(kTileRows, p.num_rows - p.first_row) - 1;
    p.begin = p.row_begin(0), p.end = p.row_end(last_row);
  }
  // What is to be done for a tile and a kv head; false: there is no such tile. By one warp.
  DEVICE bool find(PagedProblem& p, int tile_index, int kv_head) const {
    int before;
    const Tile tile = warp_find_tile(starts, sequences, rows, tile_index, before);
    if (tile.sequence < 0) return false;
    set(p, tile.sequence, sequence_rows(starts, lengths, rows, int64_t(blocks_per_seq) * BLOCK_SIZE, tile.sequence), tile.first_row,
        kv_head);
    return true;
  }
};
