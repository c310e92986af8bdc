#pragma once
// The safetensors format: u64 length of a JSON header, the header, then the tensors' bytes, little-endian and dense
// (https://github.com/huggingface/safetensors, "Format"). Read through a mapping; nothing in the file is trusted.

#include <map>
#include <string>

#include "base/file.h"
#include "base/tensor.h"

namespace tokamak::hf {

// Every tensor of a file by name: views into the mapping, which they keep alive (copies where the file does not align them to their
// elements). Throws NotFound, Io; Corrupt when the header is absurd, repeats a name, or has offsets that overlap, leave gaps or disagree
// with dtype and shape; Unsupported for a dtype that no Tensor has.
std::map<std::string, Tensor> read_safetensors(const std::string& path);
// From memory that `owner` keeps alive. `what` names the file in messages.
std::map<std::string, Tensor> read_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                               const std::string& what);

}  // namespace tokamak::hf
