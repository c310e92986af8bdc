#include "tune/in_graph.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

namespace tokamak::tune {
namespace {

constexpr double kNear = 1.3;         // how long a rival may take alone, of the fastest
constexpr size_t kMostRivals = 4;     // of one choice
constexpr double kLeastShare = 0.02;  // of the graph's time: what takes less cannot matter
constexpr double kGain = 0.004;       // of the graph's time: below lies what two measurements differ by
constexpr double kHopeless = 1.02;    // what exchanging it costs the graph: not tried in the second round
constexpr int kRounds = 2;            // an exchange may make another one worth while

bool packs(const Choice& choice, size_t candidate) {
  const std::vector<Tensor> packed = pack_constants(choice.view, choice.candidates[candidate]);
  return std::any_of(packed.begin(), packed.end(), [](const Tensor& t) { return t.defined(); });
}

struct Rival {
  size_t candidate = 0;
  double ratio = 1;  // of the graph's time when it was tried
};

// A choice with others that may do better.
struct Contest {
  Choice* choice = nullptr;
  double us = 0;  // of all its nodes, alone
  std::vector<Rival> rivals;
};

// The heaviest first.
std::vector<Contest> contests_of(std::span<const PlacedChoice> nodes) {
  std::map<Choice*, int> counts;
  std::vector<Choice*> order;  // not by address: the same in every build
  for (const PlacedChoice& p : nodes)
    if (counts[p.choice]++ == 0) order.push_back(p.choice);
  double all_us = 0;
  const auto us_of = [&](const Choice& c) { return c.us.empty() ? 0 : c.us[c.chosen] * counts.at(const_cast<Choice*>(&c)); };
  for (const Choice* c : order) all_us += us_of(*c);
  std::vector<Contest> contests;
  for (Choice* c : order) {
    if (c->us.empty() || us_of(*c) < kLeastShare * all_us || packs(*c, c->chosen)) continue;
    std::vector<size_t> fast(c->candidates.size());
    std::iota(fast.begin(), fast.end(), size_t{0});
    std::stable_sort(fast.begin(), fast.end(), [&](size_t a, size_t b) { return c->us[a] < c->us[b]; });
    Contest contest{c, us_of(*c), {}};
    for (const size_t i : fast)
      if (i != c->chosen && c->us[i] <= kNear * c->us[c->chosen] && contest.rivals.size() < kMostRivals && !packs(*c, i))
        contest.rivals.push_back({i});
    if (!contest.rivals.empty()) contests.push_back(std::move(contest));
  }
  std::stable_sort(contests.begin(), contests.end(), [](const Contest& a, const Contest& b) { return a.us > b.us; });
  return contests;
}

// Everything that the graph's time depends on, in few letters (64-bit FNV-1a).
std::string key_of(std::span<const PlacedChoice> nodes) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    hash = (hash ^ 0xff) * 0x100000001b3;
  };
  for (const PlacedChoice& p : nodes) {
    add(p.choice->signature);
    add(p.choice->candidate().def->name());
    add(p.choice->candidate().tactic);
  }
  return fmt::format("{} nodes {:016x}", nodes.size(), hash);
}

}  // namespace

void choose_in_graph(std::span<const PlacedChoice> nodes, const std::string& machine, TimingCache& cache, ThreadPool& pool,
                     const std::function<std::unique_ptr<GraphClock>()>& clock, BuildReport& report) {
  std::vector<Contest> contests = contests_of(nodes);
  if (contests.empty()) return;
  std::unique_ptr<GraphClock> made;
  bool is_refused = false;
  std::set<std::string> timed;  // here
  const auto time = [&]() -> std::optional<double> {
    const std::string key = fmt::format("{} | graph | {}", machine, key_of(nodes));
    if (const auto cached = cache.find(key)) {
      report.cached += !timed.contains(key);
      return cached;
    }
    if (!made && !is_refused) {
      made = clock();
      is_refused = made == nullptr;
      std::vector<std::pair<const NodeView*, const Candidate*>> rivals;
      for (const Contest& c : contests)
        for (const Rival& r : c.rivals) rivals.emplace_back(&c.choice->view, &c.choice->candidates[r.candidate]);
      if (made) compile_candidates(rivals, pool);
    }
    if (!made) return {};
    const std::optional<double> us = made->us(nodes);
    if (!us) return {};
    ++report.timed;
    timed.insert(key);
    return cache.insert(key, *us);
  };

  const std::optional<double> first = time();
  if (!first) return;
  double best = *first;
  for (int round = 0, exchanged = 1; round < kRounds && exchanged > 0; ++round) {
    exchanged = 0;
    for (Contest& contest : contests)
      for (Rival& rival : contest.rivals) {
        if (rival.ratio > kHopeless) continue;
        const size_t before = std::exchange(contest.choice->chosen, rival.candidate);
        const std::optional<double> us = time();
        rival.ratio = us ? *us / best : kHopeless + 1;
        if (rival.ratio > 1 - kGain) {
          contest.choice->chosen = before;
          continue;
        }
        best = *us;
        rival = {before, 1 / rival.ratio};
        ++exchanged;
      }
  }
  if (best < *first) report.notes.push_back(fmt::format("kernels chosen in the whole graph: {:.0f} became {:.0f} us a run", *first, best));
}

}  // namespace tokamak::tune
