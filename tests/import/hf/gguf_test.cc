// GGUF: block formats against llama.cpp's own decoder, a model as GGUF against the same model as a folder, tokenizers, and damaged files.

#include "import/hf/gguf.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/half.h"
#include "import/hf/gguf_blocks.h"
#include "import/hf/gguf_tokenizer.h"
#include "import/hf/models.h"
#include "import/hf/safetensors.h"
#include "ir/op.h"
#include "tests/support/gguf_writer.h"

namespace tokamak::hf {
namespace {

namespace fs = std::filesystem;
using testing::GgufWriter;
const fs::path kGoldens = fs::path(TOKAMAK_SOURCE_DIR) / "tests/golden";

std::span<const std::byte> bytes_of_text(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_NE(e.code(), ErrorCode::Internal) << e.what();
    return e.what();
  }
  return "";
}

class GgufBlocks : public ::testing::TestWithParam<GgufType> {};

TEST_P(GgufBlocks, DecodeAsLlamaCpp) {
  ThreadPool pool(2);
  const auto golden = read_safetensors((kGoldens / "gguf_blocks.safetensors").string());
  const Tensor bytes = golden.at(std::string(to_string(GetParam())) + ".bytes"),
               values = golden.at(std::string(to_string(GetParam())) + ".values");
  const GgufTensor tensor{GetParam(), values.shape(), {bytes.data<std::byte>(), static_cast<size_t>(bytes.size_bytes())}};
  const Weight dense = to_weight(tensor, "w", nullptr, false, DType::F32, pool);
  const Weight kept = to_weight(tensor, "w", nullptr, true, DType::F32, pool);
  EXPECT_EQ(kept.is_quantized(), GetParam() == GgufType::Q8_0 || GetParam() == GgufType::Q4_0);
  const Tensor from_kept = to_dense(kept, DType::F32, pool);
  for (int64_t i = 0; i < values.count(); ++i) {
    ASSERT_NEAR(dense.data.data<float>()[i], values.data<float>()[i], 1e-6 * std::abs(values.data<float>()[i])) << i;
    ASSERT_EQ(from_kept.data<float>()[i], dense.data.data<float>()[i]) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocks, ::testing::Values(GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4_K, GgufType::Q6_K),
                         [](const auto& info) { return std::string(to_string(info.param)); });

// --- a golden checkpoint, converted the way llama.cpp's converter does

Tensor permuted(const Tensor& t, int64_t heads) {
  const int64_t rows = t.dim(0), size = rows / heads, row_bytes = t.size_bytes() / rows;
  Tensor out = Tensor::empty(t.dtype(), t.shape());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / size, pair = r % size / 2, part = r % 2;
    std::memcpy(out.data<std::byte>() + r * row_bytes, t.data<std::byte>() + (head * size + part * size / 2 + pair) * row_bytes, row_bytes);
  }
  return out;
}

GgufWriter converted(const fs::path& folder) {
  const auto config = nlohmann::json::parse(std::ifstream(folder / "config.json"));
  const auto tensors = read_safetensors((folder / "model.safetensors").string());
  GgufWriter w;
  w.text("general.architecture", "llama");
  for (const auto& [key, from] : {std::pair{"embedding_length", "hidden_size"},
                                  {"block_count", "num_hidden_layers"},
                                  {"feed_forward_length", "intermediate_size"},
                                  {"attention.head_count", "num_attention_heads"},
                                  {"attention.head_count_kv", "num_key_value_heads"},
                                  {"context_length", "max_position_embeddings"},
                                  {"attention.key_length", "head_dim"},
                                  {"rope.dimension_count", "head_dim"}})
    w.integer(std::string("llama.") + key, config.at(from).get<uint32_t>());
  w.real("llama.attention.layer_norm_rms_epsilon", config.at("rms_norm_eps").get<float>());
  w.real("llama.rope.freq_base", config.at("rope_parameters").at("rope_theta").get<float>());
  w.text("llama.rope.scaling.type", "linear");
  w.real("llama.rope.scaling.factor", config.at("rope_parameters").at("factor").get<float>());
  static const std::pair<const char*, const char*> kNames[] = {
      {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},   {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"}, {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},       {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"}};
  for (const auto& [name, tensor] : tensors) {
    std::string to = name == "model.embed_tokens.weight" ? "token_embd.weight"
                     : name == "model.norm.weight"       ? "output_norm.weight"
                                                         : "output.weight";
    for (const auto& [hf, gguf] : kNames)
      if (name.starts_with("model.layers.") && name.find(hf) != name.npos) to = fmt::format("blk.{}.{}.weight", name[13], gguf);
    const bool q = to.find("attn_q.") != to.npos, k = to.find("attn_k.") != to.npos;
    w.tensor(to, q || k ? permuted(tensor, config.at(q ? "num_attention_heads" : "num_key_value_heads").get<int64_t>()) : tensor);
  }
  return w;
}

// Everything that decides a model's results: operators, attributes and every constant's bytes.
TEST(GgufModel, IsTheSameGraphAsTheFolder) {
  const fs::path folder = kGoldens / "hf/llama_linear";
  const std::string file = converted(folder).file();
  std::vector<std::string> notes;
  HfOptions options;
  options.notes = &notes;
  const auto checkpoint = open_gguf(bytes_of_text(file), options);
  const auto gguf = import_from(*checkpoint, options), hf = import_checkpoint(folder.string(), options);
  EXPECT_TRUE(notes.empty()) << notes.front();
  ASSERT_EQ(gguf->num_nodes(), hf->num_nodes());
  const auto a = gguf->nodes_snapshot(), b = hf->nodes_snapshot();
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i]->op().name, b[i]->op().name);
    EXPECT_EQ(a[i]->name, b[i]->name);
    EXPECT_TRUE(ir::same_attrs(a[i]->attrs, b[i]->attrs)) << a[i]->name;
    for (int j = 0; j < a[i]->num_inputs(); ++j) {
      if (!a[i]->input(j) || !a[i]->input(j)->is_constant()) continue;
      EXPECT_TRUE(same_bytes(a[i]->input(j)->constant, b[i]->input(j)->constant)) << a[i]->name << " input " << j;
    }
  }
}

TEST(GgufModel, QuantizedMatricesStayQuantizedOrBecomeFloats) {
  const fs::path folder = kGoldens / "hf/llama_linear";
  const auto blocks_of = [](const Tensor& t) {  // Q8_0 by any rounding: the test is of the way in
    std::string out;
    for (int64_t i = 0; i < t.count(); ++i) {
      if (i % 32 == 0) {
        const uint16_t scale = float_to_half(0.03f);
        out.append(reinterpret_cast<const char*>(&scale), 2);
      }
      out += static_cast<char>(static_cast<int8_t>(std::clamp(t.float_at(i) / 0.03, -127.0, 127.0)));
    }
    return out;
  };
  GgufWriter w = converted(folder);
  w.text("tokenizer.ggml.model", "none");
  // The same model once more, all matrices of layer 0's MLP in blocks.
  GgufWriter q;
  std::string file = w.file();
  const Gguf original(bytes_of_text(file), "original");
  q.text("general.architecture", "llama");
  for (const char* key : {"embedding_length", "block_count", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
                          "context_length", "attention.key_length"})
    q.integer(std::string("llama.") + key, static_cast<uint32_t>(*original.integer(std::string("llama.") + key)));
  for (const auto& [name, t] : original.tensors()) {
    if (name != "blk.0.ffn_gate.weight" && name != "blk.0.attn_q.weight" && name != "blk.0.attn_k.weight" &&
        name != "blk.0.attn_v.weight") {
      q.tensor(name, t.shape, static_cast<uint32_t>(t.type), t.bytes.data(), t.bytes.size());
      continue;
    }
    const std::string blocks = blocks_of(Tensor::view(DType::BF16, t.shape, t.bytes.data()));
    q.tensor(name, t.shape, 8, blocks.data(), blocks.size());
  }
  file = q.file();
  HfOptions options;
  for (bool keep : {true, false}) {
    options.keep_quantized = keep;
    const auto checkpoint = open_gguf(bytes_of_text(file), options);
    const auto graph = import_from(*checkpoint, options);
    int quantized = 0;
    for (const auto& node : graph->nodes()) quantized += node->is("quantized_matmul");
    EXPECT_EQ(quantized, keep ? 2 : 0);  // qkv and gate of layer 0
    ir::verify(*graph);
  }
}

// --- tokenizers

TEST(GgufTokenizer, ByteLevel) {
  GgufWriter w;
  w.text("tokenizer.ggml.model", "gpt2");
  w.text("tokenizer.ggml.pre", "llama-bpe");
  w.texts("tokenizer.ggml.tokens", {"a", "b", "Ġ", "ab", "Ġab", "<|begin|>", "<|end|>"});
  w.integers("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 3, 3});
  w.texts("tokenizer.ggml.merges", {"a b", "Ġ ab"});
  w.integer("tokenizer.ggml.bos_token_id", 5);
  w.integer("tokenizer.ggml.eos_token_id", 6);
  w.text("tokenizer.chat_template", "{{ messages }}");
  const std::string file = w.file();
  const auto texts = tokenizer_texts(Gguf(bytes_of_text(file), "t"), "t");
  const auto json = nlohmann::json::parse(texts.at("tokenizer.json"));
  EXPECT_EQ(json.at("model").at("type"), "BPE");
  EXPECT_EQ(json.at("model").at("vocab").at("Ġab"), 4);
  EXPECT_EQ(json.at("model").at("merges").at(1), nlohmann::json({"Ġ", "ab"}));
  EXPECT_EQ(json.at("model").at("ignore_merges"), true);
  EXPECT_EQ(json.at("added_tokens").size(), 2u);
  EXPECT_EQ(json.at("post_processor").at("single").at(0).at("SpecialToken").at("id"), "<|begin|>");
  EXPECT_EQ(json.at("pre_tokenizer").at("pretokenizers").at(0).at("type"), "Split");
  const auto config = nlohmann::json::parse(texts.at("tokenizer_config.json"));
  EXPECT_EQ(config.at("eos_token"), "<|end|>");
  EXPECT_EQ(config.at("chat_template"), "{{ messages }}");
}

TEST(GgufTokenizer, SentencePieceMergesFollowScores) {
  GgufWriter w;
  w.text("tokenizer.ggml.model", "llama");
  w.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁ab", "▁a"});
  w.integers("tokenizer.ggml.token_type", {2, 3, 3, 6, 1, 1, 1, 1, 1, 1});
  w.reals("tokenizer.ggml.scores", {0, 0, 0, 0, -9, -9, -9, -1, -3, -2});
  w.integer("tokenizer.ggml.bos_token_id", 1);
  const std::string file = w.file();
  const auto json = nlohmann::json::parse(tokenizer_texts(Gguf(bytes_of_text(file), "t"), "t").at("tokenizer.json"));
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  // ab (-1), then _a (-2), then both ways to _ab (-3), the longer left side first.
  EXPECT_EQ(json.at("model").at("merges").get<Pairs>(), (Pairs{{"a", "b"}, {"▁", "a"}, {"▁a", "b"}, {"▁", "ab"}}));
  EXPECT_EQ(json.at("model").at("byte_fallback"), true);
  EXPECT_EQ(json.at("model").at("unk_token"), "<unk>");
  EXPECT_EQ(json.at("normalizer").at("normalizers").at(0).at("type"), "Prepend");
  EXPECT_EQ(json.at("post_processor").at("single").at(0).at("SpecialToken").at("id"), "<s>");
}

TEST(GgufTokenizer, UnknownKindsAreNamed) {
  for (const auto& [key, value] : {std::pair{"tokenizer.ggml.model", "t5"}, {"tokenizer.ggml.pre", "someday"}}) {
    GgufWriter w;
    if (key != std::string("tokenizer.ggml.model")) w.text("tokenizer.ggml.model", "gpt2");
    w.text(key, value);
    const std::string file = w.file();
    EXPECT_NE(message_of([&] { tokenizer_texts(Gguf(bytes_of_text(file), "t"), "t"); }).find(value), std::string::npos);
  }
}

// --- damaged files

TEST(GgufFile, Refused) {
  const auto message = [](const std::string& file) { return message_of([&] { Gguf(bytes_of_text(file), "x.gguf"); }); };
  const auto with = [](const std::function<void(GgufWriter&)>& f) {
    GgufWriter w;
    f(w);
    return w.file();
  };
  const float data[8] = {};
  const std::pair<std::string, const char*> kCases[] = {
      {"", "not a GGUF"},
      {"GGML000000000000000000000000", "not a GGUF"},
      {with([](GgufWriter& w) { w.version = 1; }), "version 1"},
      {with([](GgufWriter& w) { w.version = 0x03000000; }), "big-endian"},
      {std::string("GGUF\3\0\0\0", 8) + std::string(8, '\xff') + std::string(8, '\0'), "tensors"},
      {std::string("GGUF\3\0\0\0", 8) + std::string(8, '\0') + std::string(8, '\x7f'), "metadata entries"},
      {std::string("GGUF\3\0\0\0", 8) + std::string(8, '\0') + std::string("\1\0\0\0\0\0\0\0", 8) + std::string(8, '\xff') + "abcdefgh",
       "absurd"},
      {with([](GgufWriter& w) { w.integer("a", 1), w.integer("a", 2); }), "twice"},
      {with([&](GgufWriter& w) { w.tensor("t", {8}, 0, data, 32), w.raw_tensor("t", {8}, 0, 32); }), "twice"},
      {with([&](GgufWriter& w) { w.tensor("t", {8}, 0, data, 32), w.raw_tensor("u", {8}, 0, 0); }), "overlaps"},
      {with([&](GgufWriter& w) { w.raw_tensor("t", {8}, 0, 1 << 20); }), "at offset"},
      {with([&](GgufWriter& w) {
         w.raw_tensor("t", {int64_t{1} << 39, 1 << 20}, 0, 0);
       }),
       "absurd size"},
      {with([&](GgufWriter& w) { w.tensor("t", {8}, 3, data, 32); }), "ggml type 3"},
      {with([&](GgufWriter& w) { w.tensor("t", {8}, 8, data, 32); }), "whole Q8_0 blocks"},
      {with([&](GgufWriter& w) { w.integer("general.alignment", 3), w.tensor("t", {8}, 0, data, 32); }), "power of two"},
  };
  for (const auto& [file, expected] : kCases)
    EXPECT_NE(message(file).find(expected), std::string::npos) << message(file) << " / " << expected;
  // Cut anywhere, it is refused; never more than that.
  GgufWriter w;
  w.texts("list", {"one", "two"}), w.text("general.architecture", "llama"), w.tensor("t", {8}, 0, data, 32);
  const std::string whole = w.file();
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(message(whole.substr(0, size)), "") << size;
  EXPECT_EQ(message(whole), "");
}

TEST(GgufFile, UnknownArchitecture) {
  GgufWriter w;
  w.text("general.architecture", "mamba");
  const std::string file = w.file();
  const std::string message = message_of([&] { (void)open_gguf(bytes_of_text(file), {}); });
  EXPECT_NE(message.find("mamba"), std::string::npos);
  EXPECT_NE(message.find("qwen2"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::hf
