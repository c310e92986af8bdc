#include "import/hf/vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace tokamak::hf {
namespace {

using Json = nlohmann::json;

// model.vocab is an object of ids (BPE, WordPiece), or a list of pairs (Unigram); added_tokens is a list of objects with an id.
class Scanner : public nlohmann::json_sax<Json> {
 public:
  VocabularySize size;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t value) override {
    const auto id = static_cast<int64_t>(std::min<uint64_t>(value, uint64_t{1} << 40));
    if (depth_ == 3 && section_ == kVocabulary && in_object_) size.model = std::max(size.model, id + 1);
    if (depth_ == 3 && section_ == kAdded && key_is_id_) size.added = std::max(size.added, id + 1);
    return true;
  }
  bool start_object(std::size_t) override {
    if (++depth_ == 3) in_object_ = true;
    return true;
  }
  bool end_object() override { return end(); }
  bool start_array(std::size_t) override {
    if (++depth_ == 3) in_object_ = false;
    if (depth_ == 4 && section_ == kVocabulary) ++size.model;  // a pair of a Unigram vocabulary
    return true;
  }
  bool end_array() override { return end(); }
  bool key(string_t& name) override {
    if (depth_ == 1) section_ = name == "added_tokens" ? kAdded : name == "model" ? kModel : kOther;
    if (depth_ == 2 && (section_ == kModel || section_ == kVocabulary)) section_ = name == "vocab" ? kVocabulary : kModel;
    key_is_id_ = depth_ == 3 && name == "id";
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    fail(ErrorCode::Corrupt, "tokenizer.json: not valid JSON: {}", e.what());
  }

 private:
  enum Section { kOther, kModel, kVocabulary, kAdded };
  bool end() {
    --depth_;
    return true;
  }
  Section section_ = kOther;
  int depth_ = 0;
  bool in_object_ = false, key_is_id_ = false;
};

}  // namespace

VocabularySize vocabulary_size(std::string_view tokenizer_json) {
  Scanner scanner;
  Json::sax_parse(tokenizer_json.begin(), tokenizer_json.end(), &scanner);
  return scanner.size;
}

}  // namespace tokamak::hf
