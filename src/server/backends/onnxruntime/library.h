#pragma once
// The ONNX Runtime library itself: found, opened, and its errors as exceptions.

#include <string>
#include <vector>

#include "server/backends/onnxruntime/ort_api.h"
#include "tokamak/backend.h"

namespace tokamak::backends::onnxruntime {

// An opened library; lives as long as the process.
struct Library {
  OrtApi api;
  std::string path, version;  // "1.20.1"
  OrtEnv* env = nullptr;
  OrtMemoryInfo* cpu = nullptr;       // describes memory of the host
  OrtAllocator* allocator = nullptr;  // of the host

  // Throws Internal with ONNX Runtime's own text, as Triton gives it; nothing when `status` is null.
  void check(OrtStatus* status) const;
  // "CPUExecutionProvider", ...
  std::vector<std::string> providers() const;
};

// Opens the library, once a path: `setting` (a path, or a name for the loader) if not empty, else libonnxruntime.so* in this backend's own
// folder, else in the `onnxruntime` wheel of the Python that TOKAMAK_PYTHON names, or of python3. Throws NotFound with where it was looked
// for, Unsupported for a library that is too old. Its log goes to the server's. Thread-safe.
const Library& open_library(const tkb_server& server, const std::string& setting);

}  // namespace tokamak::backends::onnxruntime
