#include "builder/engine_cache.h"

#define XXH_INLINE_ALL
#include <fcntl.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/file.h"
#include "base/version.h"
#include "builder/device.h"
#include "engine/engine_file.h"

namespace tokamak {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kHashedContent = int64_t{16} << 20;

std::string hash_text(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

// Whether a checkpoint is read from this file; a reference.json or a README beside it does not matter.
bool is_checkpoint_file(const fs::path& path) {
  const std::string name = path.filename().string(), extension = path.extension().string();
  if (extension == ".safetensors" || extension == ".jinja" || extension == ".model") return true;
  if (name == "merges.txt" || name == "vocab.txt") return true;
  if (extension != ".json") return false;
  for (const char* stem :
       {"config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens", "vocab", "chat_template"})
    if (name == std::string(stem) + ".json") return true;
  return name.ends_with(".safetensors.index.json");
}

std::string describe_file(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail(ErrorCode::NotFound, "no such model file: '{}'", path.string());
  std::string content = "-";
  if (info.st_size <= kHashedContent) {
    const auto file = MappedFile::open(path.string());
    content = hash_text({reinterpret_cast<const char*>(file->bytes().data()), static_cast<size_t>(file->size_bytes())});
  }
  return fmt::format("file {} {} {}.{:09} {}\n", path.string(), info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, content);
}

}  // namespace

std::string default_cache_folder() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");  // the specification says to ignore a relative one
  if (xdg && xdg[0] == '/') return std::string(xdg) + "/tokamak";
  const char* home = std::getenv("HOME");
  return home && home[0] == '/' ? std::string(home) + "/.cache/tokamak" : "";
}

std::string describe_model_files(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error) fail(ErrorCode::NotFound, "no such model: '{}'", path);
  if (!fs::is_directory(real)) return describe_file(real);
  std::vector<fs::path> files;
  fs::directory_iterator entry(real, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error))
    if (is_checkpoint_file(entry->path()) && fs::is_regular_file(entry->path(), error)) files.push_back(entry->path());
  if (error) fail(ErrorCode::Io, "cannot list '{}': {}", real.string(), error.message());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) text += describe_file(file);
  return text;
}

CacheKey::CacheKey(std::string name, const std::string& model) : name_(std::move(name)), text_(model) {
  for (char& c : name_)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '-';
  if (name_.size() > 64) name_.resize(64);
  add("version", kVersion);
  add("format", std::to_string(engine::kFormatVersion));
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) add("program", describe_file(program));
  add("cpu", cpu_model_name());
  add("features", cpu_features().to_string());
}

void CacheKey::add(std::string_view key, std::string_view value) { text_ += fmt::format("{} {}\n", key, value); }

void CacheKey::add(const BuildOptions& options) {
  add("device", options.device);
  if (parse_device(options.device).is_cuda) {
    const BuildDevice device = open_device(options.device, false);
    add("gpu", device.device_name + " " + device.target);
    add("activations", to_string(options.activations));
  }
  add("precision", std::to_string(static_cast<int>(options.precision)));
  add("opt_level", std::to_string(options.opt_level));
  add("threads", std::to_string(options.num_threads > 0 ? options.num_threads : available_threads()));
  add("int8_group", options.int8_group_size ? std::to_string(*options.int8_group_size) : "default");
  add("int4_group", std::to_string(options.int4_group_size));
  add("kv_block", std::to_string(options.kv_block_size));
  add("kv_dtype", options.kv_dtype ? to_string(*options.kv_dtype) : "default");
  add("int4_calibration", fmt::format("{}", options.int4_calibration_gflop));
  add("rope_dtype", to_string(options.rope_dtype));
  add("rank", fmt::format("{}/{}", options.rank, options.world_size));
  add("context", std::to_string(options.max_context));
  add("workspace", std::to_string(options.workspace_limit_bytes));
  for (const OptimizationProfile& profile : options.profiles) {
    add("profile", "");
    for (const ShapeRange& r : profile)
      add(r.input, fmt::format("{},{},{}", fmt::join(r.min, "x"), fmt::join(r.opt, "x"), fmt::join(r.max, "x")));
  }
  for (const std::string& pass : options.disabled_passes) add("without_pass", pass);
  for (const std::string& kernel : options.disabled_kernels) add("without_kernel", kernel);
}

std::string CacheKey::file_name() const { return fmt::format("{}-{}.engine", name_, hash_text(text_)); }

EngineCache::EngineCache(std::string folder, int64_t limit_bytes) : folder_(std::move(folder)), limit_bytes_(limit_bytes) {
  const fs::path parent = fs::path(folder_).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  if (::mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST)
    fail(ErrorCode::Io, "cannot create the cache folder '{}': {}", folder_, std::strerror(errno));
  if (!fs::is_directory(folder_, error)) fail(ErrorCode::Io, "the cache folder '{}' is not a folder", folder_);
}

std::shared_ptr<const Engine> EngineCache::find(const CacheKey& key, std::string& note) const {
  const std::string file = path(key);
  try {
    auto engine = Engine::load(file);
    ::utimensat(AT_FDCWD, file.c_str(), nullptr, 0);  // recently used
    return engine;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::NotFound) note = fmt::format("the cached engine cannot be used and is built again: {}", error.what());
    return nullptr;
  }
}

void EngineCache::put(const CacheKey& key, const Engine& engine) const {
  engine.save(path(key));
  trim(key.file_name());
}

void EngineCache::trim(const std::string& keep) const {
  struct Entry {
    fs::path path;
    fs::file_time_type used;
    int64_t size;
  };
  std::vector<Entry> entries;
  int64_t total = 0;
  std::error_code error;  // another process may remove files meanwhile: what cannot be read or removed is passed over
  const auto yesterday = fs::file_time_type::clock::now() - std::chrono::hours(24);
  fs::directory_iterator at(folder_, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code gone;
    const fs::path& path = at->path();
    const auto used = fs::last_write_time(path, gone);
    const auto size = gone ? 0 : static_cast<int64_t>(fs::file_size(path, gone));
    if (gone) continue;
    if (path.filename().string().find(".engine.tmp") != std::string::npos && used < yesterday) {
      fs::remove(path, gone);
    } else if (path.extension() == ".engine") {
      total += size;
      if (path.filename() != keep) entries.push_back({path, used, size});
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= limit_bytes_) break;
    std::error_code gone;
    fs::remove(entry.path, gone);  // a process that has it mapped keeps its pages
    total -= entry.size;
  }
}

}  // namespace tokamak
