#pragma once
// How kernels that work on whole rows are cut: a warp or a block a row, vectors of V elements, ITEMS vectors a thread in registers.

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

struct RowPlan {
  int64_t cols = 0, vector = 1, threads = 32, items = 1, rows_per_block = 1;
  bool in_registers = true;  // else the row is read again in every pass

  // `vector` elements, a divisor of cols, are read at once.
  RowPlan(int64_t rows, int64_t cols_, int64_t widest_vector, int64_t max_items) : cols(cols_) {
    vector = widest_vector;
    while (cols % vector != 0) vector /= 2;
    const int64_t vectors = cols / vector;
    // Short rows: a warp each, as many to a block as fill it. Long ones: a block of up to 1024 threads. Few rows do not fill the GPU: the
    // least time is then that of one row, and more threads share it.
    const int64_t per_thread = rows >= 1024 ? 4 : 1;
    if (vectors <= 32 * per_thread) {
      threads = 32;
      rows_per_block = rows >= 4 ? 4 : 1;
    } else {
      threads = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(vectors, per_thread))));
      threads = threads < 64 ? 64 : threads > 1024 ? 1024 : threads;
    }
    items = ceil_div(vectors, threads);
    in_registers = items <= max_items;
  }

  std::vector<std::string> defines() const {
    return {fmt::format("COLS={}", cols),
            fmt::format("WIDTH={}", vector),
            fmt::format("ROW_THREADS={}", threads),
            fmt::format("ITEMS={}", items),
            fmt::format("BLOCK_ROWS={}", rows_per_block),
            fmt::format("IN_REGISTERS={}", in_registers ? 1 : 0)};
  }
  Launch launch(int64_t rows) const {
    return {.grid = {static_cast<unsigned>(ceil_div(rows, rows_per_block))},
            .block = {static_cast<unsigned>(threads * rows_per_block)},
            .overlap = true};
  }
};

}  // namespace tokamak::cuda
