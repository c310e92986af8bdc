#include "llm/tokenizer/model.h"

namespace tokamak::llm::tokenizer {

std::unique_ptr<const Model> make_model(const JsonNode& json) {
  std::string type;
  if (const auto found = json.find("type")) {
    type = found->string();
  } else {
    // Files of before 2021 have no type.
    type = json.find("merges")                      ? "BPE"
           : json.find("unk_id")                    ? "Unigram"
           : json.find("continuing_subword_prefix") ? "WordPiece"
                                                    : "WordLevel";
  }
  if (type == "BPE") return make_bpe(json);
  if (type == "Unigram") return make_unigram(json);
  if (type == "WordPiece") return make_word_piece(json);
  if (type == "WordLevel") return make_word_level(json);
  json.unsupported("model '" + type + "' is unknown (known: BPE, Unigram, WordPiece, WordLevel)");
}

std::array<int32_t, 256> byte_token_ids(const Vocabulary& vocabulary) {
  std::array<int32_t, 256> ids;
  for (unsigned byte = 0; byte < 256; ++byte) ids[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  return ids;
}

}  // namespace tokamak::llm::tokenizer
