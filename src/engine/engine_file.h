#pragma once
// The engine file. Goals: data only and safe to load from a stranger; mapped, never copied; byte-for-byte reproducible; readable with a
// pager. Not goals: compactness, patching in place.
//
//   offset 0    magic "TOKAMAK\n", u32 format version, u32 number of sections, u64 file size, u64 XXH3 of everything up to the first
//   section but this field then        per section: u32 kind, u32 zero, u64 offset, u64 size, u64 XXH3 sections    contiguous and 64-byte
//   aligned: a section's size and hash include its padding, so no byte of the file is outside a hash
//
// Section kinds, in order: Info (lines `key "value"`), Report (the builder's report, JSON), Graph (ir/text.h), Table (u64 offset, u64 size
// per constant, into Constants), Constants (each entry 64-byte aligned); of an engine for a GPU also Code (code_section.h), which makes the
// format version 2 instead of 1. Integers are little-endian. A large Constants section is hashed in
// chunks of 4 MiB (the section's hash is the hash of the chunks' hashes), so that loading can use every core.

#include <memory>
#include <string>

#include "runtime/engine.h"

namespace tokamak::engine {

inline constexpr uint32_t kFormatVersion = 2;  // the newest

// Writes to a temporary file and renames. Throws Io. `code` may be null.
void write(const std::string& path, const ir::Graph& graph, const EngineInfo& info, const cuda::CodeCache* code = nullptr);

struct Contents {
  std::unique_ptr<ir::Graph> graph;  // constants refer to the mapping and keep it alive
  EngineInfo info;
  std::shared_ptr<cuda::CodeCache> code;  // null unless the engine is for a GPU
};
// Throws NotFound, Io, Corrupt (not an engine, truncated, altered), Unsupported (newer format, other CPU).
Contents read(const std::string& path);
// From memory; `owner` keeps `bytes` alive.
Contents read(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, const std::string& what);

// True if the file starts like an engine.
bool is_engine_file(const std::string& path);

}  // namespace tokamak::engine
