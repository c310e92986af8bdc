// Models of known shapes with random weights: nothing is read, and every byte is really there.

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"
#include "import/hf/models.h"

namespace tokamak::hf {
namespace {

struct Known {
  const char* name;
  const char* config;  // JSON, as in the model's config.json
};

constexpr Known kKnown[] = {
    {"tiny", R"({"architectures":["LlamaForCausalLM"],"vocab_size":512,"hidden_size":128,"intermediate_size":352,"num_hidden_layers":2,
      "num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":2048,"rope_theta":10000.0})"},
    {"tinyllama-1.1b", R"({"architectures":["LlamaForCausalLM"],"vocab_size":32000,"hidden_size":2048,"intermediate_size":5632,
      "num_hidden_layers":22,"num_attention_heads":32,"num_key_value_heads":4,"max_position_embeddings":2048,"rope_theta":10000.0,
      "bos_token_id":1,"eos_token_id":2})"},
    {"llama-2-7b", R"({"architectures":["LlamaForCausalLM"],"vocab_size":32000,"hidden_size":4096,"intermediate_size":11008,
      "num_hidden_layers":32,"num_attention_heads":32,"max_position_embeddings":4096,"rope_theta":10000.0,"bos_token_id":1,"eos_token_id":2})"},
    {"llama-2-13b", R"({"architectures":["LlamaForCausalLM"],"vocab_size":32000,"hidden_size":5120,"intermediate_size":13824,
      "num_hidden_layers":40,"num_attention_heads":40,"max_position_embeddings":4096,"rope_theta":10000.0,"bos_token_id":1,"eos_token_id":2})"},
    {"llama-3.1-8b", R"({"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":4096,"intermediate_size":14336,
      "num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"max_position_embeddings":131072,"rope_theta":500000.0,
      "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},
      "bos_token_id":128000,"eos_token_id":128001})"},
    {"llama-3.2-1b", R"({"architectures":["LlamaForCausalLM"],"vocab_size":128256,"hidden_size":2048,"intermediate_size":8192,
      "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"max_position_embeddings":131072,
      "rope_theta":500000.0,"tie_word_embeddings":true,
      "rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},
      "bos_token_id":128000,"eos_token_id":128001})"},
    {"mistral-7b", R"({"architectures":["MistralForCausalLM"],"vocab_size":32000,"hidden_size":4096,"intermediate_size":14336,
      "num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"max_position_embeddings":32768,"rope_theta":10000.0,
      "sliding_window":4096,"bos_token_id":1,"eos_token_id":2})"},
    {"qwen2.5-0.5b", R"({"architectures":["Qwen2ForCausalLM"],"vocab_size":151936,"hidden_size":896,"intermediate_size":4864,
      "num_hidden_layers":24,"num_attention_heads":14,"num_key_value_heads":2,"max_position_embeddings":32768,"rope_theta":1000000.0,
      "tie_word_embeddings":true,"eos_token_id":151643})"},
    {"qwen2.5-7b", R"({"architectures":["Qwen2ForCausalLM"],"vocab_size":152064,"hidden_size":3584,"intermediate_size":18944,
      "num_hidden_layers":28,"num_attention_heads":28,"num_key_value_heads":4,"max_position_embeddings":131072,"rope_theta":1000000.0,
      "eos_token_id":151643})"},
    {"qwen3-0.6b", R"({"architectures":["Qwen3ForCausalLM"],"vocab_size":151936,"hidden_size":1024,"intermediate_size":3072,
      "num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"max_position_embeddings":40960,
      "rope_theta":1000000.0,"tie_word_embeddings":true,"eos_token_id":151645})"},
    {"gemma-2-2b", R"({"architectures":["Gemma2ForCausalLM"],"vocab_size":256000,"hidden_size":2304,"intermediate_size":9216,
      "num_hidden_layers":26,"num_attention_heads":8,"num_key_value_heads":4,"head_dim":256,"max_position_embeddings":8192,
      "sliding_window":4096,"bos_token_id":2,"eos_token_id":1})"},
    {"phi-3-mini", R"({"architectures":["Phi3ForCausalLM"],"vocab_size":32064,"hidden_size":3072,"intermediate_size":8192,
      "num_hidden_layers":32,"num_attention_heads":32,"max_position_embeddings":4096,"rope_theta":10000.0,"sliding_window":2047,
      "bos_token_id":1,"eos_token_id":32000})"},
};

// splitmix64: any position of the stream at once, so that tasks need no order.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class RandomWeights : public Checkpoint {
 public:
  RandomWeights(const std::string& name, const char* config) : Checkpoint(name), config_(parse_json(config, name)) {}
  const Json& config() const override { return config_; }
  const Json* generation_config() const override { return nullptr; }
  const std::map<std::string, std::string>& texts() const override { return texts_; }
  bool has(const std::string& name) const override { return name.starts_with("model.") || name == "lm_head.weight"; }

 protected:
  // Uniform, with the variance that keeps a product's outputs at its inputs' size; norms are one, or zero where one is added.
  Weight load(const std::string& name, const Shape& shape) override {
    Tensor t = Tensor::empty(DType::BF16, shape);
    uint16_t* to = t.data<uint16_t>();
    if (name.find("norm") != name.npos) {
      const bool plus_one = config_["architectures"][0].get<std::string>().find("Gemma") == 0;
      std::fill_n(to, t.count(), float_to_bfloat16(plus_one ? 0.0f : 1.0f));
      return {name, t, {}, 0};
    }
    const float width = std::sqrt(3.0f / static_cast<float>(shape.back())) * 2;
    const uint64_t seed = mixed(std::hash<std::string>{}(name));
    pool().parallel_for((t.count() + 3) / 4, 1 << 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const uint64_t bits = mixed(seed + static_cast<uint64_t>(i));
        for (int64_t j = 0; j < std::min<int64_t>(4, t.count() - 4 * i); ++j) {
          // 16 bits, never exactly half of them: no weight is zero.
          const float unit = (static_cast<float>((bits >> (16 * j)) & 0xffff) + 0.5f) * 0x1p-16f - 0.5f;
          to[4 * i + j] = float_to_bfloat16(unit * width);
        }
      }
    });
    return {name, t, {}, 0};
  }
  std::vector<std::string> names() const override { return {}; }

 private:
  Json config_;
  std::map<std::string, std::string> texts_;
};

}  // namespace

std::vector<std::string> synthetic_names() {
  std::vector<std::string> out;
  for (const Known& k : kKnown) out.push_back(k.name);
  return out;
}

std::unique_ptr<ir::Graph> synthetic(const std::string& name, const HfOptions& options) {
  for (const Known& k : kKnown) {
    if (name != k.name) continue;
    RandomWeights weights(name, k.config);
    return import_from(weights, options);
  }
  fail(ErrorCode::NotFound, "no synthetic model is called \"{}\"; there are: {}", name, fmt::join(synthetic_names(), ", "));
}

}  // namespace tokamak::hf
