#include "llm/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm {
namespace {

using nlohmann::json;

const std::string kFixtures = TOKAMAK_SOURCE_DIR "/tests/llm/tokenizer/fixtures/";

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// All of `ids` through a StreamDecoder; every piece is valid UTF-8 by itself.
std::string stream(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids, bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(tokenizer::is_valid_utf8(piece));
    text += piece;
  }
  return text + decoder.finish();
}

void expect_decodes(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids, const json& skipped,
                    const json& whole) {
  for (const bool skip : {true, false}) {
    const std::string text = tokenizer->decode(ids, skip);
    const json& expected = skip ? skipped : whole;
    if (!expected.is_null()) {
      EXPECT_EQ(text, expected.get<std::string>());
    }
    EXPECT_EQ(stream(tokenizer, ids, skip), text);
  }
}

// Files and goldens: tests/golden/make_tokenizer_goldens.py, made by `tokenizers` 0.23.
TEST(Tokenizer, FixturesGiveWhatTheTokenizersLibraryGives) {
  const json goldens = json::parse(read_text(kFixtures + "goldens.json"));
  const auto strings = goldens["strings"].get<std::vector<std::string>>();
  ASSERT_GE(goldens["tokenizers"].size(), 30u);
  for (const json& golden : goldens["tokenizers"]) {
    SCOPED_TRACE(golden["file"].get<std::string>() + " " + golden["variant"].get<std::string>());
    json file = json::parse(read_text(kFixtures + golden["file"].get<std::string>() + ".json"));
    file.update(golden["change"]);
    const auto tokenizer = Tokenizer::from_json(file.dump());
    const std::vector<int32_t> before = golden["special"][0], after = golden["special"][1];
    const size_t step = golden["step"];
    ASSERT_EQ(golden["rows"].size(), (strings.size() + step - 1) / step);
    for (size_t i = 0; i < strings.size(); i += step) {
      SCOPED_TRACE(json(strings[i]).dump());
      const json& row = golden["rows"][i / step];
      std::vector<int32_t> ids = row[0];
      EXPECT_EQ(tokenizer->encode(strings[i], false), ids);
      ids.insert(ids.begin(), before.begin(), before.end());
      ids.insert(ids.end(), after.begin(), after.end());
      EXPECT_EQ(tokenizer->encode(strings[i]), ids);
      expect_decodes(tokenizer, ids, row[1], row.size() > 2 ? row[2] : row[1]);
    }
    for (const json& row : golden["decodings"]) {
      SCOPED_TRACE(row[0].dump());
      expect_decodes(tokenizer, row[0], row[1], row[2]);
    }
  }
}

}  // namespace
}  // namespace tokamak::llm
