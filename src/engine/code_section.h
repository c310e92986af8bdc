#pragma once
// The engine file's code section: compiled kernels of a GPU, each with the key of what it was compiled from.
//
//   u64 number of entries; per entry: 32 characters of the key, u64 offset into the section, u64 size; then the cubins, 64-byte aligned.
//
// A cubin is machine code: what is checked here is that it is an ELF file whose parts lie inside it, so that a loader that trusts its
// offsets stays inside, not what it computes.

#include <span>
#include <string>

#include "backends/cuda/code.h"

namespace tokamak::engine {

std::string to_bytes(const cuda::CodeCache& code);

// Throws Corrupt naming `what`.
std::shared_ptr<cuda::CodeCache> code_from_bytes(std::span<const std::byte> bytes, const std::string& what);

}  // namespace tokamak::engine
