#include "llm/tokenizer/post_processor.h"

namespace tokamak::llm::tokenizer {

namespace {

constexpr size_t kMaxSpecialTokens = 1024;

SpecialTokens read_template(const JsonNode& json) {
  SpecialTokens special;
  bool seen = false;
  for (const JsonNode& piece : json.at("single").array()) {
    if (const auto sequence = piece.find("Sequence")) {
      if (seen || sequence->at("id").string() != "A") piece.unsupported("a template for one text should hold sequence A once");
      seen = true;
      continue;
    }
    const std::string& name = piece.at("SpecialToken").at("id").string();
    for (const JsonNode& id : json.at("special_tokens").at(name.c_str()).at("ids").array()) {
      auto& side = seen ? special.after : special.before;
      if (side.size() == kMaxSpecialTokens) piece.unsupported("more than 1024 special tokens");
      side.push_back(static_cast<int32_t>(id.integer(0, kMaxTokenId)));
    }
  }
  if (!seen) json.unsupported("the template for one text holds no sequence");
  return special;
}

// ["[CLS]", 101]
int32_t read_token(const JsonNode& json) {
  const auto pair = json.array();
  if (pair.size() != 2) json.corrupt("[token, id]");
  return static_cast<int32_t>(pair[1].integer(0, kMaxTokenId));
}

}  // namespace

SpecialTokens read_post_processor(const JsonNode& json, int depth) {
  if (depth > kMaxComponentDepth) json.unsupported("post-processors are nested too deeply");
  const std::string& type = json.at("type").string();
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return read_template(json);
  if (type == "BertProcessing" || type == "RobertaProcessing") return {{read_token(json.at("cls"))}, {read_token(json.at("sep"))}};
  if (type == "Sequence") {
    SpecialTokens all;
    for (const JsonNode& part : json.at("processors").array()) {
      const SpecialTokens outer = read_post_processor(part, depth + 1);
      all.before.insert(all.before.begin(), outer.before.begin(), outer.before.end());
      all.after.insert(all.after.end(), outer.after.begin(), outer.after.end());
      if (all.before.size() + all.after.size() > 2 * kMaxSpecialTokens) json.unsupported("more than 1024 special tokens");
    }
    return all;
  }
  json.unsupported("post-processor '" + type +
                   "' is unknown (known: TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence)");
}

}  // namespace tokamak::llm::tokenizer
