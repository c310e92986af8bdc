#pragma once
// A node that was tuned for several sizes of its work has several kernels: the same product is another problem for one row than for two
// thousand. Node::kernel is then kBySize and Node::tactic the table, as text: "4096 cuda.gemv rows=1; 8388608 cuda.linear_mma 128x128".

#include <string>
#include <string_view>
#include <vector>

#include "runtime/kernel.h"

namespace tokamak {

inline constexpr std::string_view kBySize = "by_size";

struct SizeChoice {
  int64_t size = 0;  // size_of() it was tuned at
  std::string kernel, tactic;
};

// Elements of the first output.
int64_t size_of(const NodeView& view);

std::string to_text(const std::vector<SizeChoice>& table);
// Throws Corrupt.
std::vector<SizeChoice> parse_size_choices(std::string_view text);
// Nearest in size first, by ratio; of two as near the smaller.
void sort_by_nearness(std::vector<SizeChoice>& table, int64_t size);

}  // namespace tokamak
