// The engine cache: what changes a key, what an entry survives, what is removed.

#include "builder/engine_cache.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "ir/text.h"
#include "tests/support/command_line.h"

namespace tokamak::cli {
namespace {

namespace fs = std::filesystem;

class CliEngineCache : public test::CommandLineTest {
 protected:
  void SetUp() override {
    test::CommandLineTest::SetUp();
    put("m/config.json", "{}");
    put("m/model.safetensors", "weights");
  }
  std::string key_of(const BuildOptions& options = {}) const {
    CacheKey key("m", describe_model_files(at("m")));
    key.add(options);
    return key.file_name();
  }
  static std::shared_ptr<const Engine> engine(int width = 4) {
    EngineInfo info;
    info.model_name = std::to_string(width);
    return std::make_shared<Engine>(ir::parse(fmt::format("graph main(%x: f32[{}]) {{\n %y = relu(%x)\n return %y\n}}", width)), info);
  }
};

TEST_F(CliEngineCache, KeyFollowsTheModelsFiles) {
  const std::string before = key_of();
  EXPECT_EQ(key_of(), before);
  put("m/reference.json", "nothing the model is read from");
  EXPECT_EQ(key_of(), before);
  put("m/config.json", "[]");  // the same size
  const std::string changed = key_of();
  EXPECT_NE(changed, before);
  put("m/tokenizer.json", "{}");
  EXPECT_NE(key_of(), changed);
  EXPECT_THROW(describe_model_files(at("absent")), Error);
}

TEST_F(CliEngineCache, SameSizeAndTimeButOtherBytesIsAnotherModel) {
  const std::string before = key_of();
  struct stat info {};
  ASSERT_EQ(stat(at("m/model.safetensors").c_str(), &info), 0);
  put("m/model.safetensors", "WEIGHTS");
  const timespec times[] = {info.st_atim, info.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, at("m/model.safetensors").c_str(), times, 0), 0);
  EXPECT_NE(key_of(), before);
}

TEST_F(CliEngineCache, LargeFilesAreKnownBySizeAndTime) {
  put("m/model.safetensors", "");
  fs::resize_file(at("m/model.safetensors"), (16 << 20) + 1);  // sparse
  const std::string before = key_of();
  const timespec times[] = {{1, 0}, {1, 1}};
  ASSERT_EQ(utimensat(AT_FDCWD, at("m/model.safetensors").c_str(), times, 0), 0);
  EXPECT_NE(key_of(), before);
}

TEST_F(CliEngineCache, KeyFollowsTheOptions) {
  std::vector<std::string> keys = {key_of()};
  const auto add = [&](auto change) {
    BuildOptions options;
    change(options);
    keys.push_back(key_of(options));
  };
  add([](BuildOptions& o) { o.precision = Precision::BF16; });
  add([](BuildOptions& o) { o.opt_level = 1; });
  add([](BuildOptions& o) { o.num_threads = 17; });
  add([](BuildOptions& o) { o.workspace_limit_bytes = 1; });
  add([](BuildOptions& o) { o.int8_group_size = 64; });
  add([](BuildOptions& o) { o.int4_group_size = 64; });
  add([](BuildOptions& o) { o.rope_dtype = DType::BF16; });
  add([](BuildOptions& o) { o.kv_block_size = 16; });
  add([](BuildOptions& o) { o.kv_dtype = DType::F32; });
  add([](BuildOptions& o) { o.max_context = 128; });
  add([](BuildOptions& o) { o.int4_calibration_gflop = 1; });
  add([](BuildOptions& o) { o.profiles = {{{"x", {1}, {1}, {2}}}}; });
  add([](BuildOptions& o) { o.profiles = {{{"x", {1}, {2}, {2}}}}; });
  add([](BuildOptions& o) { o.disabled_passes = {"a"}; });
  add([](BuildOptions& o) { o.disabled_kernels = {"a"}; });
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()), keys.end());
}

TEST_F(CliEngineCache, KeepsFindsAndRebuildsWhatIsDamaged) {
  const EngineCache cache(at("cache/tokamak"));
  struct stat info {};
  ASSERT_EQ(stat(at("cache/tokamak").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const CacheKey key("m", describe_model_files(at("m")));
  std::string note;
  EXPECT_EQ(cache.find(key, note), nullptr);
  EXPECT_EQ(note, "");
  cache.put(key, *engine());
  ASSERT_NE(cache.find(key, note), nullptr);
  EXPECT_EQ(cache.find(key, note)->info().model_name, "4");

  std::string bytes = read_file(cache.path(key));
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(cache.path(key), std::ios::binary) << bytes;
  EXPECT_EQ(cache.find(key, note), nullptr);
  EXPECT_NE(note.find("built again"), std::string::npos) << note;
  cache.put(key, *engine());
  EXPECT_NE(cache.find(key, note), nullptr);
}

TEST_F(CliEngineCache, LeastRecentlyUsedGoFirstAndTheNewestStays) {
  const std::string model = describe_model_files(at("m"));
  const CacheKey a("a", model), b("b", model), c("c", model);
  std::string note;
  EngineCache(at("cache")).put(a, *engine());
  const auto size = static_cast<int64_t>(fs::file_size(at("cache/" + a.file_name())));
  const EngineCache cache(at("cache"), size * 5 / 2);
  cache.put(b, *engine());
  const auto age = [&](const CacheKey& key, int hours) {
    fs::last_write_time(cache.path(key), fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  age(a, 3);
  age(b, 2);
  ASSERT_NE(cache.find(a, note), nullptr);  // used now
  put("cache/x.engine.tmp1.0", "left by a writer that died");
  fs::last_write_time(at("cache/x.engine.tmp1.0"), fs::file_time_type::clock::now() - std::chrono::hours(48));
  put("cache/y.engine.tmp2.0", "being written");
  put("cache/notes.txt", "not ours");
  cache.put(c, *engine());
  EXPECT_NE(cache.find(a, note), nullptr);
  EXPECT_EQ(cache.find(b, note), nullptr);
  EXPECT_NE(cache.find(c, note), nullptr);
  EXPECT_FALSE(fs::exists(at("cache/x.engine.tmp1.0")));
  EXPECT_TRUE(fs::exists(at("cache/y.engine.tmp2.0")));
  EXPECT_TRUE(fs::exists(at("cache/notes.txt")));
  EngineCache(at("cache"), 1).put(b, *engine());  // larger than the limit, and still kept
  EXPECT_NE(cache.find(b, note), nullptr);
  EXPECT_EQ(cache.find(a, note), nullptr);
}

TEST_F(CliEngineCache, ManyWritersAndReadersOfOneEntry) {
  const EngineCache cache(at("cache"));
  const CacheKey key("m", describe_model_files(at("m")));
  cache.put(key, *engine(1));
  std::atomic<int> bad{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        std::string note;
        if (t % 2) cache.put(key, *engine(t + i));
        else if (!cache.find(key, note)) ++bad;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(bad, 0);
}

TEST_F(CliEngineCache, FolderComesFromTheEnvironment) {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string old_xdg = xdg ? xdg : "", old_home = home ? home : "";
  setenv("XDG_CACHE_HOME", "/x", 1);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(default_cache_folder(), "/x/tokamak");
  setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_EQ(default_cache_folder(), "/h/.cache/tokamak");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  EXPECT_EQ(default_cache_folder(), "");
  if (xdg) setenv("XDG_CACHE_HOME", old_xdg.c_str(), 1);
  if (home) setenv("HOME", old_home.c_str(), 1);
}

}  // namespace
}  // namespace tokamak::cli
