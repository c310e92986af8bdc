#include "llm/model_config.h"

#include <charconv>

#include "base/error.h"

namespace tokamak::llm {
namespace {

using Metadata = std::map<std::string, std::string>;

const std::string& text_of(const Metadata& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) fail(ErrorCode::Corrupt, "the engine's metadata has no \"{}\"; build it again from the checkpoint", key);
  return found->second;
}

int parse_int(const char* key, std::string_view text, int min, int max) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < min || value > max)
    fail(ErrorCode::Corrupt, "metadata \"{}\" is \"{}\", expected an integer from {} to {}", key, text.substr(0, 64), min, max);
  return value;
}

int int_of(const Metadata& metadata, const char* key, int max) { return parse_int(key, text_of(metadata, key), 1, max); }

}  // namespace

int64_t ModelConfig::kv_block_bytes() const {
  return int64_t{2} * num_layers * num_kv_heads * head_dim * block_size * bits_of(kv_dtype) / 8;
}

ModelConfig ModelConfig::from_metadata(const Metadata& metadata) {
  if (!metadata.contains("llm.architecture"))
    fail(ErrorCode::Unsupported, "this engine is not a language model (its metadata has no \"llm.architecture\")");
  ModelConfig config;
  config.architecture = text_of(metadata, "llm.architecture");
  config.vocab_size = int_of(metadata, "llm.vocab_size", 1 << 24);
  config.context_length = int_of(metadata, "llm.context_length", 1 << 28);
  config.num_layers = int_of(metadata, "llm.num_layers", 1 << 16);
  config.num_heads = int_of(metadata, "llm.num_heads", 1 << 16);
  config.num_kv_heads = int_of(metadata, "llm.num_kv_heads", 1 << 16);
  config.head_dim = int_of(metadata, "llm.head_dim", 1 << 16);
  config.hidden_size = int_of(metadata, "llm.hidden_size", 1 << 24);
  config.block_size = int_of(metadata, "llm.block_size", 1 << 12);
  const std::string& dtype = text_of(metadata, "llm.kv_dtype");
  const auto parsed = parse_dtype(dtype);
  if (parsed != DType::F32 && parsed != DType::BF16 && parsed != DType::F16 && parsed != DType::F8E4M3FN)
    fail(ErrorCode::Corrupt, "metadata \"llm.kv_dtype\" is \"{}\", expected f32, bf16, f16 or f8e4m3fn", dtype.substr(0, 64));
  config.kv_dtype = *parsed;
  std::string_view rest = text_of(metadata, "llm.eos_token_ids");
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    config.eos_token_ids.push_back(parse_int("llm.eos_token_ids", rest.substr(0, comma), 0, config.vocab_size - 1));
    rest = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  }
  const std::string& bos = text_of(metadata, "llm.bos_token_id");
  if (!bos.empty()) config.bos_token_id = parse_int("llm.bos_token_id", bos, 0, config.vocab_size - 1);
  return config;
}

}  // namespace tokamak::llm
