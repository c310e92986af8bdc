#include "backends/cuda/code.h"

#include <dlfcn.h>
#include <nvrtc.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <exception>

#include "backends/cuda/code_folder.h"
#include "backends/cuda/device_files.h"
#include "backends/cuda/library.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

// NVRTC, found at run time: engines that carry their cubins run without it.
struct Nvrtc {
#define TOKAMAK_NVRTC_FUNCTIONS(F) \
  F(nvrtcCreateProgram)            \
  F(nvrtcDestroyProgram)           \
  F(nvrtcCompileProgram)           \
  F(nvrtcGetProgramLogSize) F(nvrtcGetProgramLog) F(nvrtcGetCUBINSize) F(nvrtcGetCUBIN) F(nvrtcGetErrorString) F(nvrtcVersion)
#define TOKAMAK_DECLARE(name) decltype(&::name) name = nullptr;
  TOKAMAK_NVRTC_FUNCTIONS(TOKAMAK_DECLARE)
#undef TOKAMAK_DECLARE
  std::string problem;

  Nvrtc() {
    void* library = open_library({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
    if (library == nullptr) {
      problem =
          "NVRTC (libnvrtc.so, of the CUDA toolkit) was not found; it compiles the kernels that an engine does not "
          "carry yet; TOKAMAK_CUDA_LIBRARY_PATH may name its folder";
      return;
    }
#define TOKAMAK_FIND(name) \
  if ((name = reinterpret_cast<decltype(name)>(dlsym(library, #name))) == nullptr) problem = "NVRTC is too old: it has no " #name;
    TOKAMAK_NVRTC_FUNCTIONS(TOKAMAK_FIND)
#undef TOKAMAK_FIND
  }
};

const Nvrtc& nvrtc() {
  static const Nvrtc library;
  return library;
}

void append_expanded(const std::string& code, std::string& out, std::vector<std::string>& seen) {
  constexpr std::string_view kInclude = "#include \"";
  size_t position = 0;
  while (position < code.size()) {
    const size_t end = std::min(code.find('\n', position), code.size() - 1) + 1;
    const std::string_view line(code.data() + position, end - position);
    position = end;
    if (!line.starts_with(kInclude)) {
      out += line;
      continue;
    }
    const std::string name(line.substr(kInclude.size(), line.find('"', kInclude.size()) - kInclude.size()));
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) continue;
    seen.push_back(name);
    append_expanded(device_file(name), out, seen);
  }
}

std::string hash(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::vector<char> compile(const Source& source, const std::string& text, const Target& target) {
  const Nvrtc& lib = nvrtc();
  if (!lib.problem.empty()) fail(ErrorCode::Unsupported, "kernel {}: {}", source.name, lib.problem);
  const auto check = [&](nvrtcResult result, const char* what) {
    if (result != NVRTC_SUCCESS) fail(ErrorCode::Internal, "kernel {}: {}: {}", source.name, what, lib.nvrtcGetErrorString(result));
  };
  nvrtcProgram program = nullptr;
  check(lib.nvrtcCreateProgram(&program, text.c_str(), (source.name + ".cu").c_str(), 0, nullptr, nullptr), "nvrtcCreateProgram");
  const std::shared_ptr<void> guard(nullptr, [&](void*) { lib.nvrtcDestroyProgram(&program); });
  std::vector<std::string> options = {"--gpu-architecture=" + target.compiler_arch(), "--std=c++20", "-default-device",
                                      fmt::format("-DTOKAMAK_ARCH={}", target.arch)};
  std::vector<const char*> pointers;
  for (const std::string& option : options) pointers.push_back(option.c_str());
  const nvrtcResult result = lib.nvrtcCompileProgram(program, static_cast<int>(pointers.size()), pointers.data());
  if (result != NVRTC_SUCCESS) {
    size_t size = 0;
    lib.nvrtcGetProgramLogSize(program, &size);
    std::string log(size, '\0');
    lib.nvrtcGetProgramLog(program, log.data());
    fail(ErrorCode::Internal, "kernel {} does not compile for {}: {}\n{}", source.name, target.compiler_arch(),
         lib.nvrtcGetErrorString(result), log.c_str());
  }
  size_t size = 0;
  check(lib.nvrtcGetCUBINSize(program, &size), "nvrtcGetCUBINSize");
  std::vector<char> cubin(size);
  check(lib.nvrtcGetCUBIN(program, cubin.data()), "nvrtcGetCUBIN");
  return cubin;
}

// From the folder that builds share, when there is one.
Cubin compile_or_find(const Source& source, const std::string& text, const std::string& key, const Target& target) {
  const auto version = [] {
    int major = 0, minor = 0;
    if (nvrtc().problem.empty()) nvrtc().nvrtcVersion(&major, &minor);
    return fmt::format("{}.{}", major, minor);
  };
  const CodeFolder* folder = CodeFolder::of_environment(version());
  if (folder != nullptr)
    if (Cubin found = folder->find(key)) return found;
  auto cubin = std::make_shared<const std::vector<char>>(compile(source, text, target));
  if (folder != nullptr) folder->store(key, *cubin);
  return cubin;
}

}  // namespace

const std::string& device_file(const std::string& name) {
  const auto& files = device_files();
  const auto found = files.find(name);
  if (found == files.end()) fail(ErrorCode::Internal, "there is no device file \"{}\"", name);
  return found->second;
}

CodeCache::Entry CodeCache::get(const Source& source, const Target& target) {
  // As text, not as compiler options: those would also reach NVRTC's own headers, whose template parameters are called T.
  std::string text;
  for (const std::string& define : source.defines) {
    const size_t equals = define.find('=');
    text += fmt::format("#define {} {}\n", define.substr(0, equals), equals == std::string::npos ? "1" : define.substr(equals + 1));
  }
  std::vector<std::string> seen;
  append_expanded(source.code, text, seen);
  const std::string key = hash(target.compiler_arch() + "\n" + text);
  {
    // What another thread is compiling is waited for: the layers of a model share most of their code.
    std::unique_lock lock(mutex_);
    compiled_.wait(lock, [&] { return !compiling_.contains(key); });
    if (const auto found = cubins_.find(key); found != cubins_.end()) return {key, found->second};
    compiling_.insert(key);
  }
  Cubin cubin = seed_ ? seed_->find(key) : nullptr;
  std::exception_ptr error;
  try {
    if (!cubin) cubin = compile_or_find(source, text, key, target);
  } catch (...) {
    error = std::current_exception();
  }
  {
    const std::lock_guard lock(mutex_);
    compiling_.erase(key);
    if (!error) cubins_.emplace(key, cubin);
  }
  compiled_.notify_all();
  if (error) std::rethrow_exception(error);
  return {key, std::move(cubin)};
}

Cubin CodeCache::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = cubins_.find(key);
  return found == cubins_.end() ? nullptr : found->second;
}

}  // namespace tokamak::cuda
