#include "runtime/step_memory.h"

#include <algorithm>
#include <unordered_set>

namespace tokamak {

void plan_steps(std::span<const StepMemory> steps, std::span<const int> kept, ArenaUse& use) {
  const int end = static_cast<int>(steps.size());
  std::vector<int> last_use(use.lifetime_of.size(), -1);
  for (int s = 0; s < end; ++s)
    for (int slot : steps[s].reads)
      if (slot >= 0) last_use[slot] = s;
  for (int slot : kept)
    if (slot >= 0) last_use[slot] = end;
  for (size_t slot = 0; slot < use.lifetime_of.size(); ++slot)
    if (const int l = use.lifetime_of[slot]; l >= 0) use.lifetimes[l].last = std::max(use.lifetimes[l].last, last_use[slot]);

  use.workspaces.assign(steps.size(), -1);
  for (int s = 0; s < end; ++s) {
    const StepMemory& step = steps[s];
    std::unordered_set<int> taken;
    for (size_t o = 0; o < step.writes.size(); ++o) {
      const int slot = step.writes[o];
      if (slot < 0) continue;
      int& mine = use.lifetime_of[slot];
      if (!step.part_of.empty() && step.part_of[o] >= 0) {  // the first part to be written begins the whole
        int& whole = use.lifetime_of[step.part_of[o]];
        if (whole < 0) {
          whole = static_cast<int>(use.lifetimes.size());
          use.lifetimes.push_back({step.whole_bytes[o], s, std::max(last_use[step.part_of[o]], s)});
        }
        use.lifetimes[whole].last = std::max(use.lifetimes[whole].last, s);
        mine = whole;
        continue;
      }
      const int last = std::max(last_use[slot], s);
      for (size_t i = 0; step.kernel && i < step.reads.size() && mine < 0; ++i) {
        const int source = step.reads[i];
        if (source < 0 || use.lifetime_of[source] < 0 || use.is_shared[source] || last_use[source] != s || taken.contains(source)) continue;
        if (std::count(step.reads.begin(), step.reads.end(), source) != 1) continue;
        memory::Lifetime& lifetime = use.lifetimes[use.lifetime_of[source]];
        if (lifetime.last != s || lifetime.size_bytes != step.write_bytes[o] ||
            !step.kernel->can_alias(static_cast<int>(o), static_cast<int>(i)))
          continue;
        mine = use.lifetime_of[source];
        lifetime.last = last;
        taken.insert(source);
      }
      if (mine >= 0) continue;
      mine = static_cast<int>(use.lifetimes.size());
      use.lifetimes.push_back({step.write_bytes[o], s, last});
    }
    if (!step.kernel || !step.wants_workspace) continue;
    if (const int64_t bytes = step.kernel->workspace_bytes(); bytes > 0) {
      use.workspaces[s] = static_cast<int>(use.lifetimes.size());
      use.lifetimes.push_back({bytes, s, s});
    }
  }
}

}  // namespace tokamak
