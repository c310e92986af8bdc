// What can be wrong with a checkpoint: each is a clear error that names file, key or tensor, and nothing is left behind.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "builder/builder.h"
#include "engine/engine_file.h"
#include "import/hf/hf.h"
#include "import/hf/safetensors.h"
#include "ir/text.h"

namespace tokamak::hf {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
const fs::path kGolden = fs::path(TOKAMAK_SOURCE_DIR) / "tests/golden/hf/qwen2";

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_NE(e.code(), ErrorCode::Internal) << e.what();
    return e.what();
  }
  return "(no error)";
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string safetensors_file(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

// A good checkpoint in a folder of its own, to be damaged.
class BadCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = fs::path(::testing::TempDir()) / fmt::format("bad_{}", ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder);
    fs::create_directories(folder);
    for (const char* name : {"config.json", "model.safetensors"}) fs::copy_file(kGolden / name, folder / name);
    fs::permissions(folder / "model.safetensors", fs::perms::owner_all);
  }
  void TearDown() override { fs::remove_all(folder); }

  json config() const { return json::parse(std::ifstream(folder / "config.json")); }
  // The error with some keys of config.json changed; a null erases.
  std::string with_config(const json& changes) {
    json c = json::parse(std::ifstream(kGolden / "config.json"));
    for (const auto& [key, value] : changes.items()) {
      if (value.is_null()) c.erase(key);
      else c[key] = value;
    }
    write(folder / "config.json", c.dump());
    return message();
  }
  std::string message() const {
    return message_of([&] { (void)import_checkpoint(folder.string()); });
  }
  void expect(const std::string& message, std::initializer_list<const char*> parts) const {
    for (const char* part : parts) EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
  }
  // The weights file with its header changed.
  void rewrite_header(const std::function<void(json&)>& change) const {
    const std::string file = read_file((kGolden / "model.safetensors").string());
    uint64_t size = 0;
    std::memcpy(&size, file.data(), 8);
    json header = json::parse(file.substr(8, size));
    change(header);
    write(folder / "model.safetensors", safetensors_file(header.dump(), file.substr(8 + size)));
  }
  fs::path folder;
};

TEST_F(BadCheckpoint, GoodBeforeItIsDamaged) { EXPECT_EQ(message(), "(no error)"); }

TEST_F(BadCheckpoint, Configuration) {
  expect(with_config({{"hidden_size", "wide"}}), {"config.json", "hidden_size", "wide", "integer"});
  expect(with_config({{"hidden_size", nullptr}}), {"hidden_size", "missing"});
  expect(with_config({{"num_hidden_layers", -1}}), {"num_hidden_layers", "-1"});
  expect(with_config({{"num_hidden_layers", 1e18}}), {"num_hidden_layers"});
  expect(with_config({{"num_key_value_heads", 3}}), {"num_key_value_heads", "divisor"});
  expect(with_config({{"hidden_act", "quick_gelu"}}), {"hidden_act", "quick_gelu", "silu"});
  expect(with_config({{"eos_token_id", json::array({2, 64})}}), {"eos_token_id", "64"});
  expect(with_config({{"rope_parameters", {{"rope_type", "spiral"}}}}), {"spiral", "llama3"});
  expect(with_config({{"rope_parameters", {{"rope_type", "yarn"}}}}), {"factor", "missing"});
  expect(with_config({{"rope_parameters", {{"rope_type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}}}),
         {"short_factor", "4"});
  expect(with_config({{"layer_types", json::array({"full_attention"})}}), {"layer_types", "2"});
  expect(with_config({{"layer_types", json::array({"full_attention", "linear_attention"})}}), {"linear_attention"});
  expect(with_config({{"quantization_config", {{"quant_method", "gptq"}}}}), {"quantization_config", "gptq"});
  write(folder / "config.json", "{\"a\": 1, \"a\": 2}");
  expect(message(), {"\"a\"", "twice"});
  write(folder / "config.json", "{\"hidden_size\": ");
  expect(message(), {"not valid JSON"});
  write(folder / "config.json", std::string(100000, '[') + std::string(100000, ']'));
  expect(message(), {"nested deeper"});
  fs::remove(folder / "config.json");
  EXPECT_FALSE(is_checkpoint(folder.string()));
  expect(message(), {"config.json"});
}

TEST_F(BadCheckpoint, UnknownArchitecture) {
  expect(with_config({{"architectures", json::array({"Qwen2MoeForCausalLM"})}}),
         {"Qwen2MoeForCausalLM", "nearest that is: Qwen2ForCausalLM", "Phi3ForCausalLM"});
  expect(with_config({{"architectures", nullptr}, {"model_type", "gemma2x"}}), {"gemma2x", "nearest that is: Gemma2ForCausalLM"});
  EXPECT_EQ(with_config({{"architectures", nullptr}}), "(no error)");  // model_type alone will do
}

TEST_F(BadCheckpoint, Tensors) {
  rewrite_header([](json& h) { h["model.layers.1.mlp.up_proj.weight"]["shape"] = {32, 48}; });
  expect(message(), {"model.layers.1.mlp.up_proj.weight", "[32,48]", "[48,32]"});
  rewrite_header([](json& h) {
    h["extra"] = h["model.norm.weight"];
    h.erase("model.norm.weight");
  });
  expect(message(), {"model.norm.weight", "missing", "[32]"});
  rewrite_header([](json& h) { h["model.norm.weight"]["dtype"] = "I16"; });
  expect(message(), {"model.norm.weight", "i16", "bf16"});
  std::vector<std::string> notes;
  HfOptions options;
  options.notes = &notes;
  rewrite_header([](json& h) { h["spare"] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}}; });
  (void)import_checkpoint(folder.string(), options);
  ASSERT_EQ(notes.size(), 1u);
  expect(notes[0], {"1 tensors", "spare"});
}

TEST_F(BadCheckpoint, NotANumber) {
  for (const uint16_t bits : {uint16_t{0x7fc0}, uint16_t{0xff80}}) {
    std::string file = read_file((kGolden / "model.safetensors").string());
    uint64_t size = 0;
    std::memcpy(&size, file.data(), 8);
    const json header = json::parse(file.substr(8, size));
    const auto begin = header["model.layers.0.self_attn.k_proj.weight"]["data_offsets"][0].get<size_t>();
    std::memcpy(file.data() + 8 + size + begin + 10, &bits, 2);
    write(folder / "model.safetensors", file);
    expect(message(), {"model.layers.0.self_attn.k_proj.weight", "element 5", bits == 0x7fc0 ? "nan" : "-inf"});
  }
}

TEST_F(BadCheckpoint, Shards) {
  json index = {{"weight_map", json::object()}};
  for (const auto& [name, tensor] : read_safetensors((folder / "model.safetensors").string()))
    index["weight_map"][name] = "model-1.safetensors";
  fs::rename(folder / "model.safetensors", folder / "model-1.safetensors");
  const auto with_index = [&](const json& j) {
    write(folder / "model.safetensors.index.json", j.dump());
    return message();
  };
  EXPECT_EQ(with_index(index), "(no error)");
  json changed = index;
  changed["weight_map"]["model.norm.weight"] = "model-2.safetensors";
  expect(with_index(changed), {"model-2.safetensors", "model.norm.weight", "incomplete"});
  for (const char* name : {"../model-1.safetensors", "/etc/passwd", "", ".hidden", "a\\b"}) {
    changed["weight_map"]["model.norm.weight"] = name;
    expect(with_index(changed), {"same folder", name});
  }
  changed = index;
  changed["weight_map"]["ghost"] = "model-1.safetensors";
  expect(with_index(changed), {"ghost", "model-1.safetensors"});
  expect(with_index({{"metadata", 1}}), {"weight_map", "missing"});
  fs::remove(folder / "model.safetensors.index.json");
  expect(message(), {"neither model.safetensors"});
  write(folder / "pytorch_model.bin", "x");
  expect(message(), {"pickle"});
}

TEST_F(BadCheckpoint, TokenizerOfAnotherModel) {
  json tokenizer = {{"added_tokens", json::array()},
                    {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 63}}}, {"merges", json::array()}}}};
  const auto with = [&](const json& j) {
    write(folder / "tokenizer.json", j.dump());
    return message();
  };
  EXPECT_EQ(with(tokenizer), "(no error)");
  json larger = tokenizer;
  larger["model"]["vocab"]["c"] = 64;
  expect(with(larger), {"tokenizer.json", "64", "vocab_size", "different models"});
  larger = tokenizer;
  larger["added_tokens"].push_back({{"id", 70}, {"content", "<x>"}, {"special", true}});
  expect(with(larger), {"added tokens", "70"});
  json unigram = {{"added_tokens", json::array()}, {"model", {{"type", "Unigram"}, {"vocab", json::array()}}}};
  for (int i = 0; i < 65; ++i) unigram["model"]["vocab"].push_back({std::to_string(i), -1.0});
  expect(with(unigram), {"64", "vocab_size"});
  write(folder / "tokenizer.json", "{\"model\": [");
  expect(message(), {"tokenizer.json", "not valid JSON"});
}

TEST(Safetensors, Refused) {
  const auto entry = [](const char* dtype, const char* shape, int begin, int end) {
    return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", dtype, shape, begin, end);
  };
  const std::string data(16, '\0'), good = entry("F32", "[2,2]", 0, 16);
  const std::pair<std::string, const char*> kCases[] = {
      {"abc", "3 bytes"},
      {std::string(8, '\xff') + data, "header is said"},
      {safetensors_file("{", data), "not valid JSON"},
      {safetensors_file("[]", data), "expected an object"},
      {safetensors_file(fmt::format(R"({{"a":{},"a":{}}})", good, good), data), "twice"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[2,2]", 0, 32)), data), "outside"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[2,2]", 8, 0)), data), "outside"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[2,3]", 0, 16)), data), "takes 24 bytes"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[281474976710656,281474976710656]", 0, 16)), data), "62 bits"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[-1]", 0, 16)), data), "sizes"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F4", "[2]", 0, 16)), data), "F4"},
      {safetensors_file(fmt::format(R"({{"a":{},"b":{}}})", good, entry("F32", "[2]", 8, 16)), data), "inside the one before"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[2]", 8, 16)), data), "belong to no tensor"},
      {safetensors_file(fmt::format(R"({{"a":{}}})", entry("F32", "[2]", 0, 8)), data), "bytes behind"},
  };
  for (const auto& [file, expected] : kCases) {
    const std::string message = message_of([&] { (void)read_safetensors(std::as_bytes(std::span(file)), nullptr, "x"); });
    EXPECT_NE(message.find(expected), std::string::npos) << message << " / " << expected;
  }
}

// Weights are not copied: the graph's constants lie in the file's mapping.
TEST(Safetensors, TensorsAreViews) {
  const auto tensors = read_safetensors((kGolden / "model.safetensors").string());
  std::map<const void*, std::string> places;
  const std::byte* lowest = nullptr;
  for (const auto& [name, t] : tensors) lowest = lowest == nullptr ? t.data<std::byte>() : std::min(lowest, t.data<std::byte>());
  int64_t total = 0;
  for (const auto& [name, t] : tensors) total += t.size_bytes();
  for (const auto& [name, t] : tensors) {
    EXPECT_GE(t.data<std::byte>(), lowest);
    EXPECT_LE(t.data<std::byte>() + t.size_bytes(), lowest + total);
  }
}

// A tokenizer.json of 9 MB, control characters and all, through the IR text and an engine file.
TEST(Metadata, LongTextsSurvive) {
  auto graph = ir::parse("graph g(%x: f32[n]) {\n %y = neg(%x)\n return %y\n}");
  std::string text;
  for (int i = 0; text.size() < 9'000'000; ++i) text += fmt::format("\"tok\\u{:04x}\n\t\x01 é {}\": {},", i % 65536, i, i);
  graph->metadata["tokenizer.json"] = text;
  const fs::path path = fs::path(::testing::TempDir()) / "long_metadata.engine";
  const auto start = std::chrono::steady_clock::now();
  engine::write(path.string(), *graph, EngineInfo());
  const auto back = engine::read(path.string());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fs::remove(path);
  EXPECT_TRUE(back.graph->metadata.at("tokenizer.json") == text);
  EXPECT_LT(seconds, 5);  // quadratic anything would take minutes
}

TEST(Synthetic, KnownShapesAndUnknownNames) {
  const auto graph = synthetic("tiny");
  EXPECT_EQ(graph->metadata.at("llm.num_layers"), "2");
  ir::verify(*graph);
  for (const ir::Value* v : graph->constants()) {
    if (v->constant.dtype() != DType::BF16) continue;
    for (int64_t i = 0; i < v->constant.count(); ++i) ASSERT_NE(v->constant.float_at(i), 0) << v->name;
  }
  const auto again = synthetic("tiny");
  for (size_t i = 0; i < graph->constants().size(); ++i)
    ASSERT_TRUE(same_bytes(graph->constants()[i]->constant, again->constants()[i]->constant));
  EXPECT_NE(message_of([] { (void)synthetic("llama-9"); }).find("tinyllama-1.1b"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::hf
