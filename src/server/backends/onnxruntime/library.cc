#include "server/backends/onnxruntime/library.h"

#include <dlfcn.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/error.h"

namespace tokamak::backends::onnxruntime {

namespace fs = std::filesystem;

namespace {

constexpr const char* kAdvice =
    "install it (pip install onnxruntime) for the Python that TOKAMAK_PYTHON names, or name the file: "
    "--backend-config=onnxruntime,library=/path/to/libonnxruntime.so";

fs::path own_folder() {
  Dl_info info;
  if (!::dladdr(reinterpret_cast<const void*>(&open_library), &info) || !info.dli_fname) return {};
  std::error_code error;
  return fs::absolute(info.dli_fname, error).parent_path();
}

// libonnxruntime.so or libonnxruntime.so.1.20.1, the shortest name first; "" when there is none.
std::string find_in(const fs::path& folder) {
  std::string best;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string path = entry.path().string();
    if (!entry.path().filename().string().starts_with("libonnxruntime.so")) continue;
    if (best.empty() || std::pair(path.size(), path) < std::pair(best.size(), best)) best = path;
  }
  return best;
}

// The folder of the interpreter's package, without importing it (that takes a second); "" when it has none.
std::string find_wheel(const std::string& python) {
  std::string command = "'";
  for (const char c : python) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
  command +=
      "' -c 'import importlib.util as u; s = u.find_spec(\"onnxruntime\"); "
      "print(list(s.submodule_search_locations)[0] if s else \"\")' 2>/dev/null";
  std::FILE* pipe = ::popen(command.c_str(), "re");
  if (!pipe) return {};
  std::string text;
  char piece[4096];
  while (const size_t count = std::fread(piece, 1, sizeof piece, pipe)) text.append(piece, count);
  if (::pclose(pipe) != 0) return {};
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

std::string find_library(std::string setting) {
  if (!setting.empty()) return setting;
  const fs::path own = own_folder();
  if (std::string path = find_in(own); !path.empty()) return path;
  const char* named = std::getenv("TOKAMAK_PYTHON");
  const std::string python = named && *named ? named : "python3";
  const std::string wheel = find_wheel(python);
  if (wheel.empty())
    fail(ErrorCode::NotFound,
         "there is no ONNX Runtime library: looked for libonnxruntime.so in '{}' and for the package onnxruntime of '{}'; {}", own.string(),
         python, kAdvice);
  const fs::path folder = fs::path(wheel) / "capi";
  if (std::string path = find_in(folder); !path.empty()) return path;
  fail(ErrorCode::NotFound,
       "there is no ONNX Runtime library: looked for libonnxruntime.so in '{}' and in '{}', a package that has none (those before 1.20 do "
       "not): upgrade it, or name a file by --backend-config=onnxruntime,library=/path/to/libonnxruntime.so",
       own.string(), folder.string());
}

void log(void* server, OrtLoggingLevel severity, const char*, const char*, const char* location, const char* message) {
  const int level = severity >= kOrtError ? 0 : severity == kOrtWarning ? 1 : 3;
  try {
    static_cast<const tkb_server*>(server)->log(level, fmt::format("onnxruntime: {} ({})", message, location).c_str());
  } catch (const std::exception&) {  // called from C
  }
}

Library load(const tkb_server& server, const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail(ErrorCode::NotFound, "the ONNX Runtime library cannot be opened: {}; {}", ::dlerror(), kAdvice);
  const auto get_base = reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(handle, "OrtGetApiBase"));
  const OrtApiBase* base = get_base ? get_base() : nullptr;
  if (!base) {
    ::dlclose(handle);
    fail(ErrorCode::Unsupported, "'{}' is no ONNX Runtime library: it has no function OrtGetApiBase()", path);
  }
  const std::string version = base->GetVersionString();
  const void* table = base->GetApi(kOrtApiVersion);
  if (!table)
    fail(ErrorCode::Unsupported, "the ONNX Runtime library '{}' is version {}, and this backend needs 1.{} or newer: upgrade it", path,
         version, kOrtApiVersion);
  Library library{.api = OrtApi(table), .path = path, .version = version};
  const OrtApi& api = library.api;
  library.check(api.CreateEnvWithCustomLogger(log, const_cast<tkb_server*>(&server), kOrtWarning, "tokamak", &library.env));
  library.check(api.CreateCpuMemoryInfo(kOrtArenaAllocator, kOrtMemTypeDefault, &library.cpu));
  library.check(api.GetAllocatorWithDefaultOptions(&library.allocator));
  server.log(2, fmt::format("ONNX Runtime {} from '{}' ({})", version, path, fmt::join(library.providers(), ", ")).c_str());
  return library;
}

}  // namespace

void Library::check(OrtStatus* status) const {
  if (!status) return;
  const std::string message = fmt::format("onnx runtime error {}: {}", api.GetErrorCode(status), api.GetErrorMessage(status));
  api.ReleaseStatus(status);
  throw Error(ErrorCode::Internal, message);
}

std::vector<std::string> Library::providers() const {
  char** names = nullptr;
  int count = 0;
  check(api.GetAvailableProviders(&names, &count));
  std::vector<std::string> result(names, names + count);
  check(api.ReleaseAvailableProviders(names, count));
  return result;
}

const Library& open_library(const tkb_server& server, const std::string& setting) {
  static std::mutex mutex;
  static auto& opened = *new std::map<std::string, Library>;  // by setting; never destroyed: outputs may outlive static objects
  const std::lock_guard lock(mutex);
  if (const auto found = opened.find(setting); found != opened.end()) return found->second;
  return opened.emplace(setting, load(server, find_library(setting))).first->second;
}

}  // namespace tokamak::backends::onnxruntime
