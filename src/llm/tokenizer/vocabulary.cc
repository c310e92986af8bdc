#include "llm/tokenizer/vocabulary.h"

namespace tokamak::llm::tokenizer {

Vocabulary::Vocabulary(const JsonNode& json) {
  if (!json.value().is_object()) json.corrupt("an object from token to id");
  ids_.reserve(json.value().size());
  for (const auto& [token, id] : json.value().items())
    add(token, static_cast<int32_t>(JsonNode(id, json.path() + "[...]").integer(0, kMaxTokenId)));
}

void Vocabulary::add(std::string token, int32_t id) {
  const std::string_view text = storage_.emplace_back(std::move(token));
  ids_[text] = id;
  if (static_cast<size_t>(id) >= texts_.size()) texts_.resize(static_cast<size_t>(id) + 1);
  texts_[static_cast<size_t>(id)] = text;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

}  // namespace tokamak::llm::tokenizer
