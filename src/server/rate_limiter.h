#pragma once
// Instances of all models share counted resources: an instance that needs some executes only while it holds them. Among those that wait,
// one with priority 2 gets half as many turns as one with priority 1.

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace tokamak::server {

// Of one instance.
struct ResourceNeeds {
  // Name (with "@gpu" behind those of one device) and count.
  std::vector<std::pair<std::string, int64_t>> resources = {};
  uint32_t priority = 1;  // at least 1
};

class RateLimiter {
 public:
  // `resources`: what there is (--rate-limit-resource). A resource that is not named there has as much as the most demanding instance
  // needs.
  explicit RateLimiter(std::map<std::string, int64_t> resources = {});

  // One instance, from now on. Throws InvalidArgument when there is less of a resource than it needs.
  class Member;
  Member* add(const ResourceNeeds& needs);
  void remove(Member* member);  // holds nothing, waits for nothing

  void acquire(Member* member);  // waits
  void release(Member* member);

  class Member {
   public:
    explicit Member(ResourceNeeds needs) : needs_(std::move(needs)) {}

   private:
    friend class RateLimiter;
    ResourceNeeds needs_;
    bool is_waiting_ = false;
    int64_t turns_ = 0;    // taken, times priority: the smallest goes first
    int64_t arrival_ = 0;  // breaks ties
  };

 private:
  bool is_free(const ResourceNeeds& needs) const;
  Member* next() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, int64_t> limits_, explicit_limits_, used_;
  std::list<Member> members_;
  int64_t arrivals_ = 0;
};

}  // namespace tokamak::server
