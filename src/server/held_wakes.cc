#include "server/held_wakes.h"

namespace tokamak::server {

namespace {

thread_local HeldWakes* current = nullptr;

}  // namespace

HeldWakes::HeldWakes() : outer_(current) { current = this; }

HeldWakes::~HeldWakes() {
  current = outer_;
  for (const auto& sleeper : sleepers_) sleeper->wake();
}

bool HeldWakes::keep(std::shared_ptr<Wakeable> sleeper) {
  if (current == nullptr) return false;
  auto& list = current->sleepers_;
  if (list.empty() || list.back() != sleeper) list.push_back(std::move(sleeper));
  return true;
}

}  // namespace tokamak::server
