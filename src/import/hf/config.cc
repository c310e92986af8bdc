#include "import/hf/config.h"

#include <cmath>

#include "base/error.h"

namespace tokamak::hf {
namespace {

// No model comes near these; products of two stay far inside 64 bits.
constexpr int64_t kMaxWidth = 1 << 20, kMaxVocabulary = 1 << 24, kMaxLayers = 1024, kMaxHeads = 4096, kMaxPositions = int64_t{1} << 30;

Activation read_activation(const JsonObject& json, const std::string& otherwise) {
  const std::string key = json.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  const std::string name = json.text(key, otherwise);
  if (name == "silu" || name == "swish") return Activation::Silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::GeluTanh;
  if (name == "gelu") return Activation::Gelu;
  fail(ErrorCode::Unsupported, "{}: \"{}\" is \"{}\"; this version knows silu, gelu, gelu_pytorch_tanh", json.path(), key, name);
}

std::vector<int64_t> read_token_ids(const JsonObject& json, const std::string& key, int64_t vocab_size) {
  const Json* value = json.find(key);
  if (value == nullptr) return {};
  std::vector<int64_t> out;
  for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
    if (!item.is_number_integer() || (item.is_number_unsigned() && item.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)))
      json.wrong(key, fmt::format("a token id below vocab_size ({}), or a list of them", vocab_size));
    if (item.get<int64_t>() >= 0) out.push_back(item.get<int64_t>());  // -1 is how some files say none
  }
  return out;
}

void read_special_tokens(const JsonObject& json, const Json* generation, ModelConfig& config) {
  std::vector<int64_t> bos = read_token_ids(json, "bos_token_id", config.vocab_size);
  config.eos_token_ids = read_token_ids(json, "eos_token_id", config.vocab_size);
  if (generation != nullptr) {
    const JsonObject from(*generation, "generation_config.json");
    if (from.has("eos_token_id")) config.eos_token_ids = read_token_ids(from, "eos_token_id", config.vocab_size);
    if (from.has("bos_token_id")) bos = read_token_ids(from, "bos_token_id", config.vocab_size);
  }
  if (!bos.empty()) config.bos_token_id = bos.front();
}

RopeConfig read_single_rope(const JsonObject& json, const ConfigDefaults& defaults, double max_positions) {
  RopeConfig rope;
  rope.theta = json.number("rope_theta", 1, 1e12, defaults.rope_theta);
  rope.partial = json.number("partial_rotary_factor", 1e-3, 1, 1);
  const std::string key = json.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const auto parameters = json.object(key);
  // One object for each layer type is the architecture's to read.
  if (!parameters || parameters->has("full_attention") || parameters->has("sliding_attention")) return rope;
  return read_rope(*parameters, rope, json.number("original_max_position_embeddings", 1, 1e12, max_positions));
}

}  // namespace

std::string architecture_of(const JsonObject& json) {
  if (!json.has("architectures")) return "";
  const std::vector<std::string> names = json.texts("architectures");
  return names.empty() ? "" : names.front();
}

ModelConfig read_config(const JsonObject& json, const Json* generation, const ConfigDefaults& defaults) {
  ModelConfig c;
  c.architecture = architecture_of(json);
  c.vocab_size = json.integer("vocab_size", 1, kMaxVocabulary);
  c.hidden_size = json.integer("hidden_size", 1, kMaxWidth);
  c.intermediate_size = json.integer("intermediate_size", 1, kMaxWidth);
  c.num_layers = json.integer("num_hidden_layers", 1, kMaxLayers);
  c.num_heads = json.integer("num_attention_heads", 1, kMaxHeads);
  c.num_kv_heads = json.integer("num_key_value_heads", 1, kMaxHeads, c.num_heads);
  if (c.num_heads % c.num_kv_heads != 0)
    json.wrong("num_key_value_heads", fmt::format("a divisor of num_attention_heads ({})", c.num_heads));
  const int64_t head_dim = defaults.head_dim > 0 ? defaults.head_dim : c.hidden_size / c.num_heads;
  if (!json.has("head_dim") && defaults.head_dim == 0 && c.hidden_size % c.num_heads != 0)
    json.wrong("hidden_size", fmt::format("a multiple of num_attention_heads ({}), as head_dim is missing", c.num_heads));
  c.head_dim = json.integer("head_dim", 2, 4096, head_dim);
  if (c.head_dim % 2 != 0) fail(ErrorCode::Unsupported, "{}: head_dim is {}; expected an even number", json.path(), c.head_dim);
  c.max_positions = json.integer("max_position_embeddings", 1, kMaxPositions, 2048);
  c.norm_epsilon = json.number("rms_norm_eps", 0, 1, 1e-6);
  c.activation = read_activation(json, defaults.activation);
  c.tied_embeddings = json.boolean("tie_word_embeddings", defaults.tied_embeddings);
  c.qkv_bias = c.output_bias = json.boolean("attention_bias", false);
  c.mlp_bias = json.boolean("mlp_bias", false);
  c.attention_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  c.layers.resize(c.num_layers);
  c.ropes = {read_single_rope(json, defaults, static_cast<double>(c.max_positions))};
  read_special_tokens(json, generation, c);
  return c;
}

std::vector<bool> sliding_layers(const JsonObject& json, int64_t num_layers) {
  if (!json.has("layer_types")) return {};
  const std::vector<std::string> types = json.texts("layer_types");
  if (static_cast<int64_t>(types.size()) != num_layers)
    json.wrong("layer_types", fmt::format("{} entries, one for each layer (num_hidden_layers), found {}", num_layers, types.size()));
  std::vector<bool> out;
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      fail(ErrorCode::Unsupported, "{}: \"layer_types\" has \"{}\"; this version knows full_attention and sliding_attention", json.path(),
           type);
    out.push_back(type == "sliding_attention");
  }
  return out;
}

}  // namespace tokamak::hf
