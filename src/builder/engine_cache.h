#pragma once
// Engines that `generate`, `perplexity` and `bench` have built, kept so that the next run starts at once.
//
// An entry is an ordinary engine file, FOLDER/NAME-HASH.engine; HASH covers everything that decides the engine's bytes (CacheKey). Entries
// never change, they are replaced as a whole, so any number of processes may share a folder: two that miss at once both build, and the
// last one's file stays. The least recently used entries go when the folder outgrows its limit. To clear the cache, delete the folder.

#include <cstdint>
#include <memory>
#include <string>

#include "builder/builder.h"
#include "runtime/engine.h"

namespace tokamak {

// $XDG_CACHE_HOME/tokamak, else ~/.cache/tokamak; "" when the environment names neither.
std::string default_cache_folder();

// One line for each file that a checkpoint folder or a single model file is read from: real path, size, modification time in ns, and the
// content's hash where the file is at most 16 MiB. Throws NotFound or Io.
std::string describe_model_files(const std::string& path);

// Lines of `key value`; two builds with equal text give equal engines.
class CacheKey {
 public:
  // `name` becomes part of the file's name. `model`: describe_model_files(), or whatever says what a model without files is.
  CacheKey(std::string name, const std::string& model);
  void add(std::string_view key, std::string_view value);
  // Everything in the options that changes what is built. With it: this program's version and own file, the CPU and its features.
  void add(const BuildOptions& options);
  const std::string& text() const { return text_; }
  std::string file_name() const;

 private:
  std::string name_, text_;
};

class EngineCache {
 public:
  static constexpr int64_t kDefaultLimitBytes = int64_t{32} << 30;

  // Creates the folder (readable by its owner alone). Throws Io.
  explicit EngineCache(std::string folder, int64_t limit_bytes = kDefaultLimitBytes);

  // Null when there is none. An entry that cannot be loaded counts as none, and `note` says why.
  std::shared_ptr<const Engine> find(const CacheKey& key, std::string& note) const;
  // Keeps the engine and makes room. Throws Io.
  void put(const CacheKey& key, const Engine& engine) const;
  std::string path(const CacheKey& key) const { return folder_ + "/" + key.file_name(); }

 private:
  // Removes the least recently used entries until the limit holds, never `keep`; and what writers that died left behind.
  void trim(const std::string& keep) const;

  std::string folder_;
  int64_t limit_bytes_;
};

}  // namespace tokamak
