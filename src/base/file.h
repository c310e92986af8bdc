#pragma once
// Files: read-only mappings and atomic replacement.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tokamak {

// A whole file mapped read-only; any size. Shared, because tensors that refer to the bytes keep the mapping alive.
class MappedFile {
 public:
  // Throws NotFound when there is no such file, Io when it cannot be opened or mapped or is not a regular file.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  int64_t size_bytes() const { return static_cast<int64_t>(size_); }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Replaces (or creates) `path` with `bytes`: written to a temporary beside it, flushed to disk, renamed. Readers see the old file or the
// new one, never a part; the temporary is removed on failure. Throws NotFound when the folder does not exist, Io otherwise.
void write_file_atomic(const std::string& path, std::span<const std::byte> bytes);
void write_file_atomic(const std::string& path, std::string_view text);
// The same from several pieces, for files that are not in one buffer.
void write_file_atomic(const std::string& path, std::span<const std::span<const std::byte>> pieces);

// The file's text. Throws as MappedFile::open.
std::string read_file(const std::string& path);

}  // namespace tokamak
