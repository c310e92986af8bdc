#include "import/hf/gguf_tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "import/hf/json.h"

namespace tokamak::hf {
namespace {

using Ids = std::unordered_map<std::string_view, int64_t>;
enum TokenType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<double> types;
  Ids ids;
  int type(size_t i) const { return types.empty() ? kNormal : static_cast<int>(types[i]); }
};

Vocabulary read_vocabulary(const Gguf& file, const std::string& what) {
  Vocabulary v;
  v.tokens = file.texts("tokenizer.ggml.tokens");
  v.types = file.numbers("tokenizer.ggml.token_type");
  if (!v.types.empty() && v.types.size() != v.tokens.size())
    fail(ErrorCode::Corrupt, "{}: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}", what, v.types.size(),
         v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) v.ids.emplace(v.tokens[i], static_cast<int64_t>(i));
  return v;
}

Json vocab_json(const Vocabulary& v) {
  Json out = Json::object();
  for (size_t i = 0; i < v.tokens.size(); ++i) out.emplace(std::string(v.tokens[i]), i);
  return out;
}

Json added_tokens(const Vocabulary& v) {
  Json out = Json::array();
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.type(i) != kControl && v.type(i) != kUserDefined && v.type(i) != kUnknown) continue;
    out.push_back({{"id", i},
                   {"content", std::string(v.tokens[i])},
                   {"single_word", false},
                   {"lstrip", false},
                   {"rstrip", false},
                   {"normalized", false},
                   {"special", v.type(i) != kUserDefined}});
  }
  return out;
}

// The split patterns of byte-level tokenizers, as their tokenizer.json files have them; the names are llama.cpp's.
const char* split_pattern(std::string_view pre) {
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3")
    return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (pre == "qwen2")
    return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (pre == "gpt-4o")
    return R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  return nullptr;
}

Json byte_level_bpe(const Gguf& file, const Vocabulary& v, const std::string& what) {
  const std::string_view pre = file.text("tokenizer.ggml.pre").value_or("default");
  const bool is_gpt2 = pre == "default" || pre == "gpt-2" || pre == "gpt2";
  const char* pattern = split_pattern(pre);
  if (pattern == nullptr && !is_gpt2)
    fail(ErrorCode::Unsupported, "{}: tokenizer.ggml.pre is \"{}\"; this version knows default, gpt-2, llama-bpe, qwen2, gpt-4o", what,
         pre);
  Json merges = Json::array();
  for (const std::string_view merge : file.texts("tokenizer.ggml.merges")) {
    const size_t blank = merge.find(' ', 1);  // a token does not begin with one: it is written as U+0120
    if (blank == merge.npos) fail(ErrorCode::Corrupt, "{}: tokenizer.ggml.merges has \"{}\"; expected two tokens", what, merge);
    merges.push_back({std::string(merge.substr(0, blank)), std::string(merge.substr(blank + 1))});
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", is_gpt2}};
  Json pre_tokenizer = byte_level;
  if (!is_gpt2)
    pre_tokenizer = {{"type", "Sequence"},
                     {"pretokenizers",
                      {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}}, byte_level}}};
  return {{"normalizer", pre == "qwen2" ? Json{{"type", "NFC"}} : Json()},
          {"pre_tokenizer", std::move(pre_tokenizer)},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3"},
            {"vocab", vocab_json(v)},
            {"merges", std::move(merges)}}}};
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// Every way to make a piece out of two others, best score first.
Json merges_from_scores(const Vocabulary& v, const std::vector<double>& scores) {
  struct Merge {
    std::string_view left, right;
    double score;
  };
  std::vector<Merge> merges;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string_view piece = v.tokens[i];
    if (v.ids.at(piece) != static_cast<int64_t>(i) || piece.size() > 1024) continue;
    std::vector<Merge> own;
    for (size_t at = 1; at < piece.size(); ++at) {
      if ((piece[at] & 0xc0) == 0x80) continue;  // inside a character
      const Merge m{piece.substr(0, at), piece.substr(at), scores[i]};
      if (v.ids.contains(m.left) && v.ids.contains(m.right)) own.push_back(m);
    }
    std::sort(own.begin(), own.end(), [&](const Merge& a, const Merge& b) {
      return std::pair(v.ids.at(a.left), v.ids.at(a.right)) < std::pair(v.ids.at(b.left), v.ids.at(b.right));
    });
    merges.insert(merges.end(), own.begin(), own.end());
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(a.score, characters(a.left), characters(a.right)) > std::tuple(b.score, characters(b.left), characters(b.right));
  });
  Json out = Json::array();
  for (const Merge& m : merges) out.push_back({std::string(m.left), std::string(m.right)});
  return out;
}

Json sentence_piece(const Gguf& file, const Vocabulary& v, const std::string& what) {
  const std::vector<double> scores = file.numbers("tokenizer.ggml.scores");
  if (scores.size() != v.tokens.size())
    fail(ErrorCode::Corrupt, "{}: tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens {}", what, scores.size(), v.tokens.size());
  const bool prefix = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  Json normalizers = Json::array(), decoders = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  Json unknown;
  for (size_t i = 0; i < v.tokens.size() && unknown.is_null(); ++i)
    if (v.type(i) == kUnknown) unknown = std::string(v.tokens[i]);
  return {{"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}},
          {"pre_tokenizer", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", std::move(unknown)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"ignore_merges", false},
            {"vocab", vocab_json(v)},
            {"merges", merges_from_scores(v, scores)}}}};
}

// The token that a key of the file names by id.
std::optional<std::string> named_token(const Gguf& file, const Vocabulary& v, const char* key) {
  const auto id = file.integer(key);
  if (!id || *id < 0 || *id >= static_cast<int64_t>(v.tokens.size())) return std::nullopt;
  return std::string(v.tokens[*id]);
}

Json template_with_bos(const std::string& bos, int64_t id) {
  const Json special = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto sequence = [](const char* name, int type) { return Json{{"Sequence", {{"id", name}, {"type_id", type}}}}; };
  return {{"type", "TemplateProcessing"},
          {"single", {special, sequence("A", 0)}},
          {"pair", {special, sequence("A", 0), special, sequence("B", 1)}},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", {id}}, {"tokens", {bos}}}}}}};
}

std::string dump(const Json& json, const std::string& what) {
  try {
    return json.dump();
  } catch (const Json::exception& e) {
    fail(ErrorCode::Corrupt, "{}: the tokenizer's texts are not UTF-8: {}", what, e.what());
  }
}

}  // namespace

std::map<std::string, std::string> tokenizer_texts(const Gguf& file, const std::string& what) {
  const auto model = file.text("tokenizer.ggml.model");
  if (!model || *model == "none") return {};
  const Vocabulary v = read_vocabulary(file, what);
  const bool is_bytes = *model == "gpt2";
  if (!is_bytes && *model != "llama")
    fail(ErrorCode::Unsupported,
         "{}: tokenizer.ggml.model is \"{}\"; this version knows gpt2 (byte-level BPE) and llama (SentencePiece BPE)", what, *model);
  Json json = is_bytes ? byte_level_bpe(file, v, what) : sentence_piece(file, v, what);
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = added_tokens(v);
  json["post_processor"] = nullptr;
  const auto bos = named_token(file, v, "tokenizer.ggml.bos_token_id");
  const std::string_view pre = file.text("tokenizer.ggml.pre").value_or("");
  const bool add_bos = file.boolean("tokenizer.ggml.add_bos_token").value_or(!is_bytes || pre == "llama-bpe");
  if (bos && add_bos) json["post_processor"] = template_with_bos(*bos, *file.integer("tokenizer.ggml.bos_token_id"));

  Json config = {{"add_bos_token", bos.has_value() && add_bos}, {"clean_up_tokenization_spaces", false}};
  for (const char* name : {"bos", "eos", "unk", "pad"}) {
    const std::string key = name == std::string_view("unk") ? "unknown" : name == std::string_view("pad") ? "padding" : name;
    if (const auto token = named_token(file, v, fmt::format("tokenizer.ggml.{}_token_id", key).c_str()))
      config[fmt::format("{}_token", name)] = *token;
  }
  if (const auto chat = file.text("tokenizer.chat_template")) config["chat_template"] = std::string(*chat);
  return {{"tokenizer.json", dump(json, what)}, {"tokenizer_config.json", dump(config, what)}};
}

}  // namespace tokamak::hf
