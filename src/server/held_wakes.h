#pragma once
// Waking the threads that write answers once for many answers.

#include <memory>
#include <vector>

namespace tokamak::server {

// What a thread hands work to and then wakes.
class Wakeable {
 public:
  virtual ~Wakeable() = default;
  virtual void wake() = 0;
};

// While one exists on a thread, whom that thread would wake is woken when it ends. An engine that has a token for each of many streams then
// interrupts each server thread once, not once a stream.
class HeldWakes {
 public:
  HeldWakes();
  ~HeldWakes();
  HeldWakes(const HeldWakes&) = delete;
  HeldWakes& operator=(const HeldWakes&) = delete;

  // False: nothing is held on this thread, the caller wakes by itself.
  static bool keep(std::shared_ptr<Wakeable> sleeper);

 private:
  HeldWakes* const outer_;
  std::vector<std::shared_ptr<Wakeable>> sleepers_;
};

}  // namespace tokamak::server
