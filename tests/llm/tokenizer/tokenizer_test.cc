#include "llm/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
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

// A byte-level BPE file with whatever else the test needs.
json small_file() {
  return json::parse(R"({"added_tokens": [{"id": 9, "content": "<end>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}, "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "ä": 3, "½": 4, "ł": 5, "Ġ": 6, "ï": 7, "¿": 8}, "merges": ["a b"]}})");
}

ErrorCode code_of(const json& file) {
  try {
    Tokenizer::from_json(file.dump());
  } catch (const Error& e) {
    return e.code();
  }
  return ErrorCode::Internal;
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = Tokenizer::from_json(small_file().dump());
  const std::vector<int32_t> replaced = {7, 8, 4};  // EF BF BD
  EXPECT_EQ(tokenizer->encode("\xFF"), replaced);
  EXPECT_EQ(tokenizer->encode("\xE4\xBD"), replaced);  // one maximal part
  EXPECT_EQ(tokenizer->encode("\xEF\xBF\xBD"), replaced);
  EXPECT_EQ(tokenizer->encode("ab\xC0"), (std::vector<int32_t>{2, 7, 8, 4}));
}

TEST(Tokenizer, HalfCharactersWaitAndEndAsReplacementCharacters) {
  const auto tokenizer = Tokenizer::from_json(small_file().dump());
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(3), "");                                                // E4
  EXPECT_EQ(decoder.push(4), "");                                                // BD
  EXPECT_EQ(decoder.push(5), tokenizer->decode(std::vector<int32_t>{3, 4, 5}));  // A0
  EXPECT_EQ(decoder.push(3), "");
  EXPECT_EQ(decoder.push(0), "\uFFFDa");
  EXPECT_EQ(decoder.push(3), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.push(2), "ab");  // as new
  EXPECT_EQ(decoder.finish(), "");
}

TEST(Tokenizer, SpecialTokensAreSkippedOnRequest) {
  const auto tokenizer = Tokenizer::from_json(small_file().dump());
  EXPECT_EQ(tokenizer->encode("a<end>b"), (std::vector<int32_t>{0, 9, 1}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 9, 1}), "ab");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 9, 1}, false), "a<end>b");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{-1, 0, 77, INT32_MAX}), "a");
  EXPECT_TRUE(tokenizer->is_special(9));
  EXPECT_FALSE(tokenizer->is_special(0));
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->token_to_id("<end>"), 9);
  EXPECT_EQ(tokenizer->token_to_id("ab"), 2);
  EXPECT_EQ(tokenizer->token_to_id("zz"), std::nullopt);
  EXPECT_EQ(tokenizer->token_text(6), "Ġ");
}

TEST(Tokenizer, BadFilesAreNamed) {
  EXPECT_THROW(Tokenizer::from_json("{"), Error);
  EXPECT_THROW(Tokenizer::from_json(std::string(100'000, '[')), Error);
  EXPECT_EQ(code_of(json::object()), ErrorCode::Corrupt);
  EXPECT_EQ(code_of(json::array()), ErrorCode::Corrupt);
  const auto with = [](const char* pointer, const json& value) {
    json file = small_file();
    file[json::json_pointer(pointer)] = value;
    return code_of(file);
  };
  EXPECT_EQ(with("/model/type", "GPT"), ErrorCode::Unsupported);
  EXPECT_EQ(with("/normalizer", {{"type", "Rot13"}}), ErrorCode::Unsupported);
  EXPECT_EQ(with("/pre_tokenizer/type", "UnicodeScripts"), ErrorCode::Unsupported);
  EXPECT_EQ(with("/decoder/type", "CTC"), ErrorCode::Unsupported);
  EXPECT_EQ(with("/post_processor", {{"type", "None"}}), ErrorCode::Unsupported);
  EXPECT_EQ(with("/model/vocab/a", -1), ErrorCode::Corrupt);
  EXPECT_EQ(with("/model/vocab/a", 1u << 31), ErrorCode::Corrupt);
  EXPECT_EQ(with("/model/vocab/a", "0"), ErrorCode::Corrupt);
  EXPECT_EQ(with("/model/merges/0", "a b c"), ErrorCode::Corrupt);
  EXPECT_EQ(with("/model/merges/0", "a z"), ErrorCode::Corrupt);
  EXPECT_EQ(with("/added_tokens/0/id", 1e9), ErrorCode::Corrupt);
  EXPECT_EQ(with("/added_tokens/0/content", std::string(2000, 'x')), ErrorCode::Unsupported);
  EXPECT_EQ(with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}}),
            ErrorCode::Unsupported);
  EXPECT_EQ(with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "////"}}), ErrorCode::Corrupt);
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  EXPECT_EQ(with("/normalizer", nested), ErrorCode::Unsupported);
  try {
    json file = small_file();
    file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Rot13"}}}}};
    Tokenizer::from_json(file.dump());
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("normalizer.normalizers[1]"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("'Rot13'"), std::string::npos) << e.what();
  }
}

TEST(Tokenizer, HostilePatternsGiveUp) {
  json file = small_file();
  file["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+[bc]"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const auto tokenizer = Tokenizer::from_json(file.dump());
  EXPECT_THROW(tokenizer->encode(std::string(5000, 'a')), Error);
  EXPECT_EQ(tokenizer->encode("ab"), std::vector<int32_t>{2});
}

TEST(Tokenizer, LongRunsTakeLinearWork) {
  const auto tokenizer = Tokenizer::from_json(read_text(kFixtures + "split-byte-level.json"));
  for (const std::string& run :
       {std::string(500'000, ' '), std::string(500'000, 'a'), std::string(500'000, '\n'), std::string(500'000, '.')}) {
    const auto ids = tokenizer->encode(run, false);
    EXPECT_EQ(tokenizer->decode(ids), run);
  }
  // Half a million marks in the wrong order: canonical ordering must not be quadratic.
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 ? "\u0323" : "\u0307";
  EXPECT_FALSE(tokenizer->encode(marks).empty());
}

TEST(Tokenizer, ManyThreadsEncodeAtOnce) {
  const auto tokenizer = Tokenizer::from_json(read_text(kFixtures + "split-byte-level.json"));
  const std::string text = read_text(TOKAMAK_SOURCE_DIR "/README.md");
  const auto expected = tokenizer->encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4);
  for (size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) equal[t] += tokenizer->encode(text) == expected && tokenizer->decode(expected) == text;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 20));
}

// Two ways to merge, one result: short words by scanning, long ones with a heap.
TEST(Tokenizer, LongWordsMergeAsShortOnes) {
  json file = json::parse(read_text(kFixtures + "byte-level.json"));
  file["pre_tokenizer"]["use_regex"] = false;
  // "x" never merges with what is around it here, so the parts between are independent.
  file["model"]["merges"].erase(
      std::remove_if(file["model"]["merges"].begin(), file["model"]["merges"].end(),
                     [](const json& m) { return (m[0].get<std::string>() + m[1].get<std::string>()).find('x') != std::string::npos; }),
      file["model"]["merges"].end());
  const auto tokenizer = Tokenizer::from_json(file.dump());
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "Isolated"}, {"invert", false}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto cut = Tokenizer::from_json(file.dump());
  std::string text = " ";
  for (int i = 0; i < 400; ++i) text += "the runtime allocates nothing" + std::string(i % 3 == 0, 'x') + std::to_string(i * i);
  EXPECT_EQ(tokenizer->encode(text, false), cut->encode(text, false));
}

}  // namespace
}  // namespace tokamak::llm
