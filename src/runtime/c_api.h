#pragma once
// What the two halves of the C API (runtime and builder) share.

#include <memory>
#include <string>

#include "runtime/engine.h"
#include "runtime/execution_context.h"
#include "tokamak/c_api.h"

struct tk_engine {
  std::shared_ptr<const tokamak::Engine> engine;
};
struct tk_context {
  tokamak::ExecutionContext context;
};

namespace tokamak {

// Keeps the current exception's message for tk_last_error and returns its status.
tk_status keep_error();

template <class F>
tk_status guarded(const F& f) {
  try {
    f();
    return TK_OK;
  } catch (...) {
    return keep_error();
  }
}

}  // namespace tokamak
