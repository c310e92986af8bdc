#pragma once
// What a path names.

#include <string>

namespace tokamak {

enum class ModelKind { Onnx, Engine, Checkpoint };  // Checkpoint: a Hugging Face folder or a GGUF file

// By extension, then by the first bytes. Throws NotFound.
// A folder that holds model.onnx stands for that file; `path` is changed to it.
ModelKind model_kind(std::string& path);

}  // namespace tokamak
