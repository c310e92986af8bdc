#include "builder/model_kind.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "import/hf/hf.h"

namespace tokamak {

namespace {

bool is_file(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

ModelKind model_kind(std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) fail(ErrorCode::NotFound, "no such model: '{}'", path);
  if (S_ISDIR(info.st_mode)) {
    if (is_file(path + "/model.onnx")) {
      path += "/model.onnx";
      return ModelKind::Onnx;
    }
    if (hf::is_checkpoint(path)) return ModelKind::Checkpoint;
    fail(ErrorCode::NotFound, "'{}' is a folder without model.onnx or config.json", path);
  }
  if (path.ends_with(".onnx")) return ModelKind::Onnx;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, 4);
  if (path.ends_with(".gguf") || std::memcmp(magic, "GGUF", 4) == 0) return ModelKind::Checkpoint;
  if (path.ends_with(".engine") || std::memcmp(magic, "TOKA", 4) == 0) return ModelKind::Engine;
  if (magic[0] == 8) return ModelKind::Onnx;  // its first field, ir_version
  fail(ErrorCode::InvalidArgument, "'{}' is no model: expected an .onnx file, a Hugging Face folder, a .gguf file or an .engine", path);
}

}  // namespace tokamak
