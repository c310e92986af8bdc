#pragma once
// Which values of a list of steps share memory, and from which step to which each piece of memory is needed.

#include <span>
#include <vector>

#include "memory/planner.h"
#include "runtime/kernel.h"

namespace tokamak {

// What one step does to the values ("slots") of one arena.
struct StepMemory {
  const Kernel* kernel = nullptr;  // null: a copy, which needs no workspace and never works in place
  std::vector<int> reads, writes;  // one an input and one an output; -1: not in this arena
  std::vector<int64_t> write_bytes;
  // Outputs written into their place in a larger value: by output, its slot (-1: none) and size. Empty: there are none.
  std::vector<int> part_of;
  std::vector<int64_t> whole_bytes;
  bool wants_workspace = true;  // in this arena
};

struct ArenaUse {
  std::vector<int> lifetime_of;  // by slot, -1: not in this arena
  std::vector<bool> is_shared;   // by slot: others are in the same lifetime, so nothing works on it in place
  std::vector<int> workspaces;   // by step, -1: none
  std::vector<memory::Lifetime> lifetimes;
};

// `kept`: slots needed after the last step. Lifetimes and slots that are in `use` already stay, and live as long as they are read.
// A step works in place where an input dies there, nobody else reads its bytes, and the kernel works element by element.
void plan_steps(std::span<const StepMemory> steps, std::span<const int> kept, ArenaUse& use);

}  // namespace tokamak
