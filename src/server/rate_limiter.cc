#include "server/rate_limiter.h"

#include <algorithm>

#include "base/error.h"

namespace tokamak::server {

RateLimiter::RateLimiter(std::map<std::string, int64_t> resources) : limits_(resources), explicit_limits_(std::move(resources)) {}

RateLimiter::Member* RateLimiter::add(const ResourceNeeds& needs) {
  std::lock_guard lock(mutex_);
  for (const auto& [name, count] : needs.resources) {
    const auto limit = explicit_limits_.find(name);
    if (limit != explicit_limits_.end() && limit->second < count)
      fail(ErrorCode::InvalidArgument, "an instance needs {} of the resource '{}', and there are {}: ask for less or raise the limit",
           count, name, limit->second);
  }
  for (const auto& [name, count] : needs.resources)
    if (!explicit_limits_.contains(name)) limits_[name] = std::max(limits_[name], count);
  Member& member = members_.emplace_back(needs);
  // A newcomer starts level with the one that had the fewest turns, not with a right to all that it missed.
  int64_t least = -1;
  for (const Member& m : members_)
    if (&m != &member && (least < 0 || m.turns_ < least)) least = m.turns_;
  member.turns_ = std::max<int64_t>(least, 0);
  changed_.notify_all();
  return &member;
}

void RateLimiter::remove(Member* member) {
  std::lock_guard lock(mutex_);
  members_.remove_if([member](const Member& m) { return &m == member; });
  changed_.notify_all();
}

bool RateLimiter::is_free(const ResourceNeeds& needs) const {
  return std::all_of(needs.resources.begin(), needs.resources.end(), [this](const auto& need) {
    const auto used = used_.find(need.first);
    return (used == used_.end() ? 0 : used->second) + need.second <= limits_.at(need.first);
  });
}

RateLimiter::Member* RateLimiter::next() const {
  const Member* best = nullptr;
  for (const Member& m : members_)
    if (m.is_waiting_ && is_free(m.needs_) && (!best || std::pair(m.turns_, m.arrival_) < std::pair(best->turns_, best->arrival_)))
      best = &m;
  return const_cast<Member*>(best);
}

void RateLimiter::acquire(Member* member) {
  if (member->needs_.resources.empty()) return;
  std::unique_lock lock(mutex_);
  member->is_waiting_ = true;
  member->arrival_ = ++arrivals_;
  changed_.wait(lock, [&] { return next() == member; });
  member->is_waiting_ = false;
  member->turns_ += std::max<uint32_t>(1, member->needs_.priority);
  for (const auto& [name, count] : member->needs_.resources) used_[name] += count;
  changed_.notify_all();  // what is left may do for another
}

void RateLimiter::release(Member* member) {
  if (member->needs_.resources.empty()) return;
  std::lock_guard lock(mutex_);
  for (const auto& [name, count] : member->needs_.resources) used_[name] -= count;
  changed_.notify_all();
}

}  // namespace tokamak::server
