#pragma once

#include <cstdint>

namespace tokamak::test {

// Calls of malloc, calloc, realloc, aligned_alloc and operator new in this process so far; -1 where a sanitizer owns the allocator.
int64_t allocations();

}  // namespace tokamak::test
