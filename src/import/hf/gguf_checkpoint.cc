// A GGUF file as a Checkpoint: its metadata in the words of config.json, its tensors under Hugging Face's names and in their order.
// Facts: llama.cpp's convert_hf_to_gguf.py and gguf-py/gguf/constants.py, whose steps this takes back.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/file.h"
#include "import/hf/checkpoint.h"
#include "import/hf/gguf_blocks.h"
#include "import/hf/gguf_tokenizer.h"
#include "import/hf/hf.h"

namespace tokamak::hf {
namespace {

struct Family {
  std::string_view gguf;  // general.architecture
  const char* architecture;
  bool is_gemma = false;
  bool permutes = false;  // rows of q and k are in the order of neighbouring pairs
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", false, true}, {"qwen2", "Qwen2ForCausalLM"},         {"qwen3", "Qwen3ForCausalLM"},
    {"gemma2", "Gemma2ForCausalLM", true},      {"gemma3", "Gemma3ForCausalLM", true}, {"phi3", "Phi3ForCausalLM"}};

// "blk.3.attn_q.weight" to "model.layers.3.self_attn.q_proj.weight"; a name that no rule knows stays.
std::string hf_name(const std::string& name, const Family& family) {
  static const std::map<std::string, std::string, std::less<>> kWhole = {
      {"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model.norm.weight"}, {"output.weight", "lm_head.weight"}};
  static const std::map<std::string, std::string, std::less<>> kInLayer = {{"attn_norm", "input_layernorm"},
                                                                           {"attn_q", "self_attn.q_proj"},
                                                                           {"attn_k", "self_attn.k_proj"},
                                                                           {"attn_v", "self_attn.v_proj"},
                                                                           {"attn_qkv", "self_attn.qkv_proj"},
                                                                           {"attn_output", "self_attn.o_proj"},
                                                                           {"attn_q_norm", "self_attn.q_norm"},
                                                                           {"attn_k_norm", "self_attn.k_norm"},
                                                                           {"ffn_gate", "mlp.gate_proj"},
                                                                           {"ffn_up", "mlp.up_proj"},
                                                                           {"ffn_down", "mlp.down_proj"},
                                                                           {"post_attention_norm", "post_attention_layernorm"},
                                                                           {"post_ffw_norm", "post_feedforward_layernorm"}};
  if (const auto found = kWhole.find(name); found != kWhole.end()) return found->second;
  const size_t number = 4, dot = name.find('.', number), end = name.rfind('.');
  if (!name.starts_with("blk.") || dot == name.npos || end <= dot) return name;
  const std::string module = name.substr(dot + 1, end - dot - 1), prefix = "model.layers." + name.substr(number, dot - number + 1);
  if (module == "ffn_norm") return prefix + (family.is_gemma ? "pre_feedforward_layernorm" : "post_attention_layernorm") + name.substr(end);
  if (module == "ffn_up" && family.gguf == "phi3") return prefix + "mlp.gate_up_proj" + name.substr(end);
  const auto found = kInLayer.find(module);
  return found == kInLayer.end() ? name : prefix + found->second + name.substr(end);
}

class GgufCheckpoint : public Checkpoint {
 public:
  GgufCheckpoint(const std::string& path, std::shared_ptr<const void> owner, std::span<const std::byte> bytes, const HfOptions& options)
      : Checkpoint(path), owner_(std::move(owner)), file_(bytes, path), options_(options), family_(find_family()) {
    for (const auto& [name, tensor] : file_.tensors()) names_[hf_name(name, family_)] = name;
    texts_ = tokenizer_texts(file_, path);
    read_configuration();
  }

  const Json& config() const override { return config_; }
  const Json* generation_config() const override { return nullptr; }
  const std::map<std::string, std::string>& texts() const override { return texts_; }
  bool norms_include_one() const override { return family_.is_gemma; }
  bool has(const std::string& name) const override { return names_.contains(name); }

 protected:
  Weight load(const std::string& name, const Shape&) override {
    const GgufTensor& tensor = file_.tensors().find(names_.at(name))->second;
    const Weight weight = to_weight(tensor, name, owner_, options_.keep_quantized, options_.dequantized, pool());
    const bool is_q = name.find("self_attn.q_proj") != name.npos, is_k = name.find("self_attn.k_proj") != name.npos;
    return family_.permutes && (is_q || is_k) ? in_halves(weight, is_q ? heads_ : kv_heads_) : weight;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [hf, gguf] : names_)
      if (!gguf.starts_with("rope_f")) out.push_back(gguf);
    return out;
  }
  std::string shown(const std::string& name) const override {
    const auto found = names_.find(name);
    return found == names_.end() ? name : found->second;
  }

 private:
  Family find_family() const {
    const std::string_view name = file_.text("general.architecture").value_or("");
    std::string known;
    for (const Family& f : kFamilies) {
      if (f.gguf == name) return f;
      known += (known.empty() ? "" : ", ") + std::string(f.gguf);
    }
    fail(ErrorCode::Unsupported, "{}: general.architecture is \"{}\"; this version reads {}", path(), name, known);
  }

  std::string key(const char* name) const { return fmt::format("{}.{}", family_.gguf, name); }
  bool has_tensor(std::string_view name) const { return file_.tensors().find(name) != file_.tensors().end(); }

  // Each head's rows (0,1), (2,3), ... become the first and second halves.
  Weight in_halves(const Weight& weight, int64_t heads) const {
    const int64_t rows = weight.data.dim(0);
    if (heads < 1 || rows % (2 * heads) != 0) return weight;  // the shape is refused where it is taken
    const int64_t size = rows / heads;
    std::vector<int64_t> source(rows);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t head = r / size, i = r % size;
      source[r] = head * size + (i < size / 2 ? 2 * i : 2 * (i - size / 2) + 1);
    }
    return select_rows(weight, source);
  }

  void copy(const char* to, const char* from, bool required = false) {
    const std::string name = key(from);
    if (const auto value = file_.number(name)) {
      if (std::abs(*value) < 9e15 && *value == std::floor(*value)) config_[to] = static_cast<int64_t>(*value);
      else config_[to] = std::strtod(fmt::format("{}", static_cast<float>(*value)).c_str(), nullptr);  // 1e-5, which f32 has not quite
    } else if (required) {
      fail(ErrorCode::Corrupt, "{}: metadata \"{}\" is missing", path(), name);
    }
  }

  std::vector<double> factors(const char* tensor) {
    const auto found = file_.tensors().find(std::string_view(tensor));
    if (found == file_.tensors().end() || num_elements(found->second.shape) > 4096) return {};
    const Weight w = to_weight(found->second, tensor, owner_, false, DType::F32, pool());
    check_finite(w, pool());
    const std::vector<float> values = to_floats(w);
    return {values.begin(), values.end()};
  }

  Json rope() {
    Json rope = {{"rope_type", "default"},
                 {"rope_theta", file_.number(key("rope.freq_base")).value_or(family_.gguf == "gemma3" ? 1e6 : 1e4)}};
    const std::string_view type = file_.text(key("rope.scaling.type")).value_or("none");
    const auto factor = file_.number(key("rope.scaling.factor")), original = file_.number(key("rope.scaling.original_context_length"));
    if ((type == "linear" || type == "yarn") && factor) {
      rope["rope_type"] = type;
      rope["factor"] = *factor;
    }
    if (original) rope["original_max_position_embeddings"] = *original;
    std::vector<double> short_factors = factors("rope_factors_short.weight"), long_factors = factors("rope_factors_long.weight");
    if (const auto fixed = factors("rope_freqs.weight"); !fixed.empty()) {  // Llama 3.1's scaling, worked out
      short_factors = long_factors = fixed;
      rope["attention_factor"] = 1;
    }
    if (!short_factors.empty() || !long_factors.empty()) {
      rope["rope_type"] = "longrope";
      rope["short_factor"] = short_factors.empty() ? long_factors : short_factors;
      rope["long_factor"] = long_factors.empty() ? short_factors : long_factors;
      if (const auto attention = file_.number(key("rope.scaling.attn_factor"))) rope["attention_factor"] = *attention;
    }
    return rope;
  }

  void read_configuration() {
    config_ = {{"architectures", {family_.architecture}}, {"tie_word_embeddings", !has_tensor("output.weight")}};
    copy("hidden_size", "embedding_length", true);
    copy("num_hidden_layers", "block_count", true);
    copy("intermediate_size", "feed_forward_length", true);
    copy("num_attention_heads", "attention.head_count", true);
    copy("num_key_value_heads", "attention.head_count_kv");
    copy("head_dim", "attention.key_length");
    copy("max_position_embeddings", "context_length", true);
    copy("rms_norm_eps", "attention.layer_norm_rms_epsilon");
    copy("sliding_window", "attention.sliding_window");
    copy("attn_logit_softcapping", "attn_logit_softcapping");
    copy("final_logit_softcapping", "final_logit_softcapping");
    heads_ = file_.integer(key("attention.head_count")).value_or(0);
    kv_heads_ = file_.integer(key("attention.head_count_kv")).value_or(heads_);
    const auto embedding = file_.tensors().find(std::string_view("token_embd.weight"));
    if (embedding == file_.tensors().end()) fail(ErrorCode::Corrupt, "{}: tensor \"token_embd.weight\" is missing", path());
    config_["vocab_size"] = embedding->second.shape.front();
    if (has_tensor("blk.0.attn_q.bias") && family_.gguf == "llama") config_["attention_bias"] = true;
    const int64_t hidden = file_.integer(key("embedding_length")).value_or(0);
    const int64_t head_dim = file_.integer(key("attention.key_length")).value_or(heads_ > 0 ? hidden / heads_ : 0);
    if (const auto rotated = file_.integer(key("rope.dimension_count")); rotated && head_dim > 0 && *rotated < head_dim)
      config_["partial_rotary_factor"] = static_cast<double>(*rotated) / static_cast<double>(head_dim);
    // The one size whose scale is not head_dim's is told by its depth, as llama.cpp does.
    const int64_t layers = file_.integer(key("block_count")).value_or(0);
    const bool is_27b = (family_.gguf == "gemma2" && layers == 46) || (family_.gguf == "gemma3" && layers == 62);
    if (family_.is_gemma && heads_ > 0) config_["query_pre_attn_scalar"] = is_27b ? hidden / heads_ : head_dim;
    if (family_.gguf == "gemma3")
      config_["rope_parameters"] = {
          {"full_attention", rope()},
          {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", file_.number(key("rope.freq_base_swa")).value_or(1e4)}}}};
    else config_["rope_parameters"] = rope();
    Json eos = Json::array();
    for (const char* name : {"eos", "eot", "eom"})
      if (const auto id = file_.integer(fmt::format("tokenizer.ggml.{}_token_id", name));
          id && std::find(eos.begin(), eos.end(), Json(*id)) == eos.end())
        eos.push_back(*id);
    if (!eos.empty()) config_["eos_token_id"] = std::move(eos);
    if (const auto id = file_.integer("tokenizer.ggml.bos_token_id")) config_["bos_token_id"] = *id;
  }

  std::shared_ptr<const void> owner_;
  Gguf file_;
  HfOptions options_;
  Family family_;
  std::map<std::string, std::string> names_;  // Hugging Face's → the file's
  Json config_;
  std::map<std::string, std::string> texts_;
  int64_t heads_ = 0, kv_heads_ = 0;
};

}  // namespace

std::unique_ptr<Checkpoint> open_gguf(const std::string& path, const HfOptions& options) {
  const auto file = MappedFile::open(path);
  return std::make_unique<GgufCheckpoint>(path, file, file->bytes(), options);
}

std::unique_ptr<Checkpoint> open_gguf(std::span<const std::byte> bytes, const HfOptions& options) {
  return std::make_unique<GgufCheckpoint>("model.gguf", nullptr, bytes, options);
}

}  // namespace tokamak::hf
