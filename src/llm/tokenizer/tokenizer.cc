#include "llm/tokenizer/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "llm/tokenizer/added_tokens.h"
#include "llm/tokenizer/decoder.h"
#include "llm/tokenizer/model.h"
#include "llm/tokenizer/normalizer.h"
#include "llm/tokenizer/post_processor.h"
#include "llm/tokenizer/pre_tokenizer.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm {

namespace tokenizer {

struct Parts {
  std::unique_ptr<const Normalizer> normalizer;
  std::vector<std::unique_ptr<const PreTokenizer>> pre_tokenizers;
  bool model_maps_bytes = false;  // the last pre-tokenizer's work, left to the model
  std::unique_ptr<const Model> model;
  AddedTokens added;
  SpecialTokens special;
  std::vector<std::unique_ptr<const Decoder>> decoders;
  bool has_decoder = false;

  // The text that `id` decodes to; nothing for an id without a token and for a special one to skip.
  std::optional<std::string_view> decoded_text(int32_t id, bool skip_special_tokens) const {
    const AddedToken* token = added.find(id);
    if (!token && !model->vocabulary().has(id)) return std::nullopt;
    const std::string_view text = token ? std::string_view(token->pattern) : model->vocabulary().text(id);
    if (skip_special_tokens) {
      const AddedToken* named = added.find(text);
      if (named && named->special) return std::nullopt;
    }
    return text;
  }

  // Working memory, lent to one encode() at a time: as many as run at once.
  std::unique_ptr<Scratch> borrow_scratch() {
    const std::lock_guard lock(mutex);
    if (scratches.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(scratches.back());
    scratches.pop_back();
    return scratch;
  }
  void return_scratch(std::unique_ptr<Scratch> scratch) {
    if (scratch->is_large()) return;
    const std::lock_guard lock(mutex);
    scratches.push_back(std::move(scratch));
  }

  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> scratches;
};

}  // namespace tokenizer

using namespace tokenizer;

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json) {
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(tokenizer_json);
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorCode::Corrupt, "tokenizer.json is not JSON: {}", e.what());
  }
  const JsonNode root(json, "the file");
  const auto child = [&](const char* key) -> std::optional<JsonNode> {
    auto found = root.find(key);
    return found ? std::optional(JsonNode(found->value(), key)) : std::nullopt;
  };
  auto parts = std::make_unique<Parts>();
  parts->model = make_model(JsonNode(root.at("model").value(), "model"));
  if (const auto normalizer = child("normalizer")) parts->normalizer = make_normalizer(*normalizer);
  if (const auto added = child("added_tokens")) parts->added = AddedTokens(*added, parts->model->vocabulary(), parts->normalizer.get());
  if (const auto pre_tokenizer = child("pre_tokenizer")) parts->pre_tokenizers = make_pre_tokenizers(*pre_tokenizer);
  if (const auto post_processor = child("post_processor")) parts->special = read_post_processor(*post_processor);
  if (const auto decoder = child("decoder")) {
    parts->has_decoder = true;
    parts->decoders = make_decoders(*decoder);
  }
  auto& steps = parts->pre_tokenizers;
  if (!steps.empty() && steps.back()->maps_bytes() && parts->model->can_map_bytes()) {
    parts->model_maps_bytes = true;
    steps.pop_back();
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

namespace {

void encode_piece(const Parts& parts, NormalizedText text, Scratch& scratch, std::vector<int32_t>& ids) {
  const std::string normalized = std::move(text.text);
  for (const AddedTokens::Part& part : parts.added.split(normalized, true)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    Pieces pieces;
    pieces.list.push_back({part.text, text.at_start && part.text.data() == normalized.data()});
    for (const auto& step : parts.pre_tokenizers) step->apply(pieces);
    for (const Piece& piece : pieces.list) parts.model->encode(piece.text, parts.model_maps_bytes, scratch, ids);
  }
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = to_valid_utf8(text);
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = parts_->special.before;
  auto scratch = parts_->borrow_scratch();
  for (const AddedTokens::Part& part : parts_->added.split(text, false)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    NormalizedText piece{std::string(part.text), part.text.data() == text.data()};
    if (parts_->normalizer) parts_->normalizer->apply(piece);
    encode_piece(*parts_, std::move(piece), *scratch, ids);
  }
  parts_->return_scratch(std::move(scratch));
  if (add_special_tokens) ids.insert(ids.end(), parts_->special.after.begin(), parts_->special.after.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecoderStream stream(parts_->decoders, !parts_->has_decoder);
  for (const int32_t id : ids) {
    if (const auto text = parts_->decoded_text(id, skip_special_tokens)) stream.push(*text);
  }
  stream.finish();
  return stream.take();
}

int Tokenizer::vocab_size() const { return std::max(parts_->model->vocabulary().end(), parts_->added.end()); }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = parts_->added.find(token)) return added->id;
  return parts_->model->vocabulary().find(token);
}

std::string Tokenizer::token_text(int32_t id) const {
  if (const AddedToken* added = parts_->added.find(id)) return added->content;
  return std::string(parts_->model->vocabulary().text(id));
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* added = parts_->added.find(id);
  return added && added->special;
}

std::string Tokenizer::token_bytes(int32_t id, bool is_first) const {
  const auto text = parts_->decoded_text(id, false);
  if (!text) return "";
  for (const auto& decoder : parts_->decoders) {
    auto bytes = decoder->bytes(*text);
    if (!bytes) continue;
    // Later decoders may change whole characters at the start.
    return is_first && is_valid_utf8(*bytes) ? decode({&id, 1}, false) : *std::move(bytes);
  }
  const int32_t twice[] = {id, id};
  std::string once = decode({twice, 1}, false);
  if (is_first) return once;
  const std::string both = decode(twice, false);
  return both.starts_with(once) ? both.substr(once.size()) : "";
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
    : tokenizer_(std::move(tokenizer)),
      skip_special_tokens_(skip_special_tokens),
      stream_(std::make_unique<DecoderStream>(tokenizer_->parts_->decoders, !tokenizer_->parts_->has_decoder)) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  if (const auto text = tokenizer_->parts_->decoded_text(id, skip_special_tokens_)) stream_->push(*text);
  return stream_->take();
}

std::string StreamDecoder::finish() {
  stream_->finish();
  return stream_->take();
}

}  // namespace tokamak::llm
