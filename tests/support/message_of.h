#pragma once

#include <functional>
#include <string>

#include "base/error.h"

namespace tokamak::test {

// Of the Error that f throws; empty when it throws none.
inline std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace tokamak::test
