#pragma once
// What a render may still do: templates and their inputs come from strangers.

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "llm/template/value.h"

namespace tokamak::llm::jinja {

class Budget {
 public:
  Budget(size_t max_steps, size_t max_bytes) : steps_left_(max_steps), max_bytes_(max_bytes) {}

  void spend(size_t steps) {
    if (steps > steps_left_) throw Fault(ErrorCode::ResourceExhausted, "the template does too much work");
    steps_left_ -= steps;
  }
  // Before a string of `bytes` is made.
  void spend_bytes(size_t bytes) {
    if (bytes > max_bytes_) too_long();
    spend(1 + bytes / kBytesPerStep);
  }
  void append(std::string& out, std::string_view piece) {
    if (piece.size() > max_bytes_ - std::min(out.size(), max_bytes_)) too_long();
    spend(1 + piece.size() / kBytesPerStep);
    out += piece;
  }

 private:
  [[noreturn]] void too_long() const {
    throw Fault(ErrorCode::ResourceExhausted, fmt::format("the template makes a string of more than {} bytes", max_bytes_));
  }

  static constexpr size_t kBytesPerStep = 16;
  size_t steps_left_, max_bytes_;
};

}  // namespace tokamak::llm::jinja
