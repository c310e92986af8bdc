#include "llm/grammar/machine.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace tokamak::llm::grammar {

namespace {
constexpr size_t kMaxFrames = 20'000;  // in one configuration
}  // namespace

Machine::Machine(const Automaton& automaton) : automaton_(automaton), num_classes_(automaton.num_classes) {
  // Sets without frames, told apart by their number alone.
  caller_sets_.intern(std::array<int32_t, 1>{-1});
  caller_sets_.intern(std::array<int32_t, 1>{-2});
  resumed_ = {kDead, -1};
  intern_config(std::array<int32_t, 1>{0});
  resumed_[kNone] = intern_config(std::array<int32_t, 1>{kAccepting});

  const Rule& root = automaton_.rules[automaton_.root];
  ++stamp_;
  flags_ = root.nullable ? kAccepting : 0;
  visit({root.start, 0, kNone});
  while (!work_list_.empty()) {
    const FrameId id = work_list_.back();
    work_list_.pop_back();
    expand(id, false);
  }
  initial_ = close();
}

void Machine::spend(int64_t work) {
  work_ += work;
  if (work_ > work_limit_)
    fail(ErrorCode::ResourceExhausted, "the grammar is too ambiguous: one token takes too many steps; make its repetitions narrower");
}

void Machine::visit(Frame f) {
  const FrameId id = intern(f);
  if (static_cast<size_t>(id) >= seen_.size()) seen_.resize(id + 1 + id / 2);
  if (seen_[id] == stamp_) return;
  seen_[id] = stamp_;
  work_list_.push_back(id);
}

void Machine::expand(FrameId id, bool has_read) {
  spend(1);
  const Frame f = frame(id);
  // An end that was reached without reading is what `nullable` is for.
  if (has_read && automaton_.is_end(f.node)) {
    if (f.callers == kUnknown) {
      flags_ |= kEscaped;
    } else if (f.callers == kNone) {
      flags_ |= kAccepting;
    } else {
      const size_t n = caller_sets_.at(f.callers).size();
      spend(static_cast<int64_t>(n));
      for (size_t i = 0; i < n; ++i) visit(frame(caller_sets_.at(f.callers)[i]));
    }
  }
  bool reads = false;
  for (int32_t i = automaton_.edge_begin[f.node]; i < automaton_.edge_begin[f.node + 1]; ++i) {
    const Edge& edge = automaton_.edges[i];
    switch (edge.kind) {
      case Edge::Kind::Bytes: reads = true; break;
      case Edge::Kind::Epsilon: visit({edge.target, 0, f.callers}); break;
      case Edge::Kind::Call: {
        const Rule& rule = automaton_.rules[edge.index];
        pending_.push_back({rule.rank, edge.index, intern({edge.target, 0, f.callers})});
        if (rule.nullable) visit({edge.target, 0, f.callers});
        break;
      }
      case Edge::Kind::Repeat: {
        const Repeat& repeat = automaton_.repeats[edge.index];
        if (f.count < repeat.max) {
          const int32_t next = repeat.max == Repeat::kUnbounded ? std::min(f.count + 1, repeat.min) : f.count + 1;
          pending_.push_back({automaton_.rules[repeat.rule].rank, repeat.rule, intern({f.node, next, f.callers})});
        }
        if (f.count >= repeat.min) visit({edge.target, 0, f.callers});
        break;
      }
    }
  }
  if (reads) active_.push_back(id);
  if (active_.size() + pending_.size() + work_list_.size() > kMaxFrames)
    fail(ErrorCode::ResourceExhausted, "the grammar is too ambiguous: more than {} ways to go on at one place", kMaxFrames);
}

Machine::Config Machine::close() {
  // A rule is entered when all its callers are known: those of lower rank have been.
  const auto later = [](const PendingCall& a, const PendingCall& b) { return std::pair(a.rank, a.rule) > std::pair(b.rank, b.rule); };
  std::make_heap(pending_.begin(), pending_.end(), later);
  std::vector<FrameId> callers;
  while (!pending_.empty()) {
    const int32_t rule = pending_.front().rule;
    callers.clear();
    while (!pending_.empty() && pending_.front().rule == rule) {
      callers.push_back(pending_.front().caller);
      std::pop_heap(pending_.begin(), pending_.end(), later);
      pending_.pop_back();
    }
    std::sort(callers.begin(), callers.end());
    callers.erase(std::unique(callers.begin(), callers.end()), callers.end());
    bool is_new = false;
    const CallerSet set = caller_sets_.intern(callers, &is_new);
    if (is_new) resumed_.push_back(-1);
    visit({automaton_.rules[rule].start, 0, set});
    while (!work_list_.empty()) {
      const FrameId id = work_list_.back();
      work_list_.pop_back();
      const size_t before = pending_.size();
      expand(id, false);
      for (size_t n = before + 1; n <= pending_.size(); ++n) std::push_heap(pending_.begin(), pending_.begin() + n, later);
    }
  }
  std::sort(active_.begin(), active_.end());
  active_.insert(active_.begin(), flags_);
  const Config config = intern_config(active_);
  active_.clear();
  return config;
}

Machine::Config Machine::intern_config(std::span<const int32_t> flags_and_frames) {
  bool is_new = false;
  const Config config = configs_.intern(flags_and_frames, &is_new);
  // One that reads nothing more dies whatever comes.
  if (is_new) rows_.resize(rows_.size() + num_classes_, flags_and_frames.size() > 1 ? -1 : kDead);
  return config;
}

Machine::Config Machine::compute_step(Config config, int byte_class) {
  ++stamp_;
  flags_ = 0;
  active_.clear();
  pending_.clear();
  work_list_.clear();
  const size_t n = configs_.at(config).size();
  spend(static_cast<int64_t>(n));
  for (size_t i = 1; i < n; ++i) {
    const Frame f = frame(configs_.at(config)[i]);
    for (int32_t e = automaton_.edge_begin[f.node]; e < automaton_.edge_begin[f.node + 1]; ++e) {
      const Edge& edge = automaton_.edges[e];
      if (edge.kind == Edge::Kind::Bytes && edge.low <= byte_class && byte_class <= edge.high) visit({edge.target, 0, f.callers});
    }
  }
  while (!work_list_.empty()) {
    const FrameId id = work_list_.back();
    work_list_.pop_back();
    expand(id, true);
  }
  const Config next = close();
  rows_[static_cast<size_t>(config) * num_classes_ + byte_class] = next;
  return next;
}

Machine::Config Machine::resume(CallerSet callers) {
  if (resumed_[callers] >= 0) return resumed_[callers];
  ++stamp_;
  flags_ = 0;
  active_.clear();
  pending_.clear();
  work_list_.clear();
  const size_t n = caller_sets_.at(callers).size();
  for (size_t i = 0; i < n; ++i) visit(frame(caller_sets_.at(callers)[i]));
  while (!work_list_.empty()) {
    const FrameId id = work_list_.back();
    work_list_.pop_back();
    expand(id, true);
  }
  const Config config = close();
  resumed_[callers] = config;
  return config;
}

int32_t Machine::clamped(int32_t node, int32_t count, int horizon) const {
  if (count == 0 || automaton_.edge_begin[node] == automaton_.edge_begin[node + 1]) return count;
  const Edge& edge = automaton_.edges[automaton_.edge_begin[node]];
  if (edge.kind != Edge::Kind::Repeat) return count;
  // An iteration reads at least a byte.
  const Repeat& repeat = automaton_.repeats[edge.index];
  if (repeat.min - count > horizon) return repeat.min - horizon - 1;
  if (count >= repeat.min && repeat.max - count > horizon) return repeat.min;
  return count;
}

const std::vector<std::pair<Machine::CallerSet, Machine::FrameId>>& Machine::local_frames(FrameId id, int horizon) {
  if (static_cast<size_t>(id) < locals_.size() && !locals_[id].empty()) return locals_[id];
  const Frame f = frame(id);
  const int32_t count = clamped(f.node, f.count, horizon);
  std::vector<std::pair<CallerSet, FrameId>> out;
  if (!automaton_.rules[automaton_.rule_of[f.node]].is_fragment || f.callers <= kNone) {
    out.emplace_back(f.callers, intern({f.node, count, kUnknown}));
  } else {
    // Fragments do not call themselves, so this ends.
    std::map<CallerSet, std::vector<FrameId>> by_callers;
    const size_t n = caller_sets_.at(f.callers).size();
    for (size_t i = 0; i < n; ++i) {
      for (const auto& [callers, local] : local_frames(caller_sets_.at(f.callers)[i], horizon)) by_callers[callers].push_back(local);
    }
    for (auto& [callers, locals] : by_callers) {
      std::sort(locals.begin(), locals.end());
      locals.erase(std::unique(locals.begin(), locals.end()), locals.end());
      bool is_new = false;
      const CallerSet set = caller_sets_.intern(locals, &is_new);
      if (is_new) resumed_.push_back(-1);
      out.emplace_back(callers, intern({f.node, count, set}));
    }
  }
  spend(static_cast<int64_t>(out.size()));
  if (static_cast<size_t>(id) >= locals_.size()) locals_.resize(id + 1 + id / 2);
  locals_[id] = std::move(out);
  return locals_[id];
}

std::vector<Machine::Part> Machine::split(Config config, int horizon) {
  std::map<CallerSet, std::vector<int32_t>> by_callers;
  const size_t n = configs_.at(config).size();
  for (size_t i = 1; i < n; ++i) {
    for (const auto& [callers, local] : local_frames(configs_.at(config)[i], horizon)) by_callers[callers].push_back(local);
  }
  std::vector<Part> parts;
  for (auto& [callers, locals] : by_callers) {
    std::sort(locals.begin(), locals.end());
    locals.erase(std::unique(locals.begin(), locals.end()), locals.end());
    locals.insert(locals.begin(), 0);
    parts.push_back({callers, intern_config(locals)});
  }
  return parts;
}

Machine::Config Machine::move_to(Machine& other, Config config) const {
  // A frame is younger than those it goes back to, so moving them by age meets no unknown one.
  std::vector<FrameId> found, work;
  std::vector<bool> seen(frames_.size());
  const auto find = [&](std::span<const int32_t> ids) {
    for (const FrameId id : ids) {
      if (seen[id]) continue;
      seen[id] = true;
      found.push_back(id);
      work.push_back(id);
    }
  };
  find(configs_.at(config).subspan(1));
  while (!work.empty()) {
    const Frame f = frame(work.back());
    work.pop_back();
    if (f.callers > kNone) find(caller_sets_.at(f.callers));
  }
  std::sort(found.begin(), found.end());
  std::vector<FrameId> moved(frames_.size());
  std::vector<CallerSet> moved_sets(caller_sets_.size(), -1);
  moved_sets[kUnknown] = kUnknown;
  moved_sets[kNone] = kNone;
  std::vector<int32_t> ids;
  for (const FrameId id : found) {
    Frame f = frame(id);
    if (moved_sets[f.callers] < 0) {
      ids.clear();
      for (const FrameId caller : caller_sets_.at(f.callers)) ids.push_back(moved[caller]);
      std::sort(ids.begin(), ids.end());
      bool is_new = false;
      moved_sets[f.callers] = other.caller_sets_.intern(ids, &is_new);
      if (is_new) other.resumed_.push_back(-1);
    }
    f.callers = moved_sets[f.callers];
    moved[id] = other.intern(f);
  }
  ids.clear();
  for (const FrameId id : configs_.at(config).subspan(1)) ids.push_back(moved[id]);
  std::sort(ids.begin(), ids.end());
  ids.insert(ids.begin(), configs_.at(config)[0]);
  return other.intern_config(ids);
}

size_t Machine::bytes() const {
  // locals_ has about one entry of two integers for each frame.
  return frames_.bytes() + caller_sets_.bytes() + configs_.bytes() + (rows_.capacity() + resumed_.capacity() + seen_.capacity()) * 4 +
         locals_.capacity() * 40;
}

}  // namespace tokamak::llm::grammar
