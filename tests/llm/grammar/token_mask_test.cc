#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "llm/grammar/grammar.h"
#include "llm/grammar/machine.h"
#include "llm/grammar/vocabulary.h"
#include "llm/tokenizer/tokenizer.h"
#include "tests/llm/grammar/schema_validator.h"

namespace tokamak::llm {
namespace {

using grammar::Machine;

// All bytes, pieces of JSON, and random short texts, some of them parts of characters.
std::vector<std::string> make_tokens(size_t count, uint64_t seed = 1) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* piece : {"{\"",
                            "\":",
                            "\": ",
                            "\", \"",
                            "\"}",
                            "},",
                            "}}",
                            "[]",
                            "[\"",
                            "\"]",
                            "],",
                            "true",
                            "fal",
                            "null",
                            ", ",
                            "00",
                            "12",
                            ".5",
                            "-1",
                            "e+",
                            "\\\"",
                            "\\u00",
                            "\\n",
                            "\n  ",
                            "name",
                            "a\":",
                            "ab",
                            "abc\"",
                            "x y",
                            "\xC3\xA9\"",
                            "\xF0\x9F\x98\x80",
                            "\xF0\x9F",
                            "\x98\x80",
                            "a\xC3",
                            "\xA9 b",
                            "\"",
                            "\"",
                            "\"",
                            "}",
                            "}",
                            "]"})
    tokens.emplace_back(piece);
  std::mt19937_64 random(seed);
  const std::string alphabet = "abcdefxyz0123456789  \"\"::,,{}[]\\n.-\xC3\xA9";
  while (tokens.size() < count) {
    std::string token;
    for (size_t n = 2 + random() % 4; n > 0; --n) token += alphabet[random() % alphabet.size()];
    tokens.push_back(token);
  }
  return tokens;
}

class Answer {
 public:
  Answer(const std::shared_ptr<const TokenMask>& mask, size_t vocab_size)
      : mask_(mask->clone()), allowed_((vocab_size + 63) / 64), vocab_size_(vocab_size) {}

  const std::vector<uint64_t>& fill() {
    std::fill(allowed_.begin(), allowed_.end(), 0);
    mask_->fill(allowed_);
    return allowed_;
  }
  bool allows(int32_t token) const { return allowed_[token / 64] >> (token % 64) & 1; }
  std::vector<int32_t> list() {
    fill();
    std::vector<int32_t> out;
    for (size_t t = 0; t < vocab_size_; ++t) {
      if (allows(static_cast<int32_t>(t))) out.push_back(static_cast<int32_t>(t));
    }
    return out;
  }
  void accept(int32_t token) { mask_->accept(token); }
  Answer fork() const {
    Answer out = *this;
    return out;
  }
  Answer(const Answer& other) : mask_(other.mask_->clone()), allowed_(other.allowed_), vocab_size_(other.vocab_size_) {}

 private:
  std::unique_ptr<TokenMask> mask_;
  std::vector<uint64_t> allowed_;
  size_t vocab_size_;
};

const char* const kSchemas[] = {
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0,"maximum":120},"tags":{"type":"array","items":{"type":"string"},"maxItems":3}},"required":["name","age"],"additionalProperties":false})",
    R"({"type":"object","properties":{"a":{"type":"string","minLength":2,"maxLength":300},"ab":{"enum":["abc","x y",null]}},"additionalProperties":{"type":"number"}})",
    R"({"type":"array","items":{"anyOf":[{"type":"string","pattern":"^[a-f]{2,70}$"},{"type":"boolean"},{"$ref":"#"}]}})",
    R"({"type":"string","maxLength":40})",
    "{}",
};

// Every token, asked of the automaton itself.
TEST(TokenMask, IsWhatTheGrammarAccepts) {
  const auto tokens = make_tokens(700);
  const int32_t eos = 5;
  const auto vocabulary = TokenTrie::from_tokens(tokens, {eos});
  std::mt19937_64 random(7);
  std::vector<std::shared_ptr<const Grammar>> grammars;
  for (const char* schema : kSchemas) grammars.push_back(Grammar::from_json_schema(schema));
  grammars.push_back(
      Grammar::from_ebnf("root ::= \"(\" root \")\" root | word\nword ::= [a-z]* \"\xC3\xA9\"? digits?\ndigits ::= [0-9]{1,90}"));
  grammars.push_back(Grammar::from_regex("([a-f]{3,80}[0-9]|\xC3\xA9){0,9}"));
  for (size_t g = 0; g < grammars.size(); ++g) {
    const auto mask = make_token_mask(grammars[g], vocabulary);
    for (int run = 0; run < 6; ++run) {
      Answer answer(mask, tokens.size());
      Machine machine(*grammars[g]->automaton());
      Machine::Config config = machine.initial();
      for (int step = 0; step < 40; ++step) {
        const auto allowed = answer.list();
        std::vector<int32_t> expected;
        for (size_t t = 0; t < tokens.size(); ++t) {
          const bool is_eos = static_cast<int32_t>(t) == eos;
          if (is_eos ? machine.is_accepting(config) : machine.run(config, tokens[t]) != Machine::kDead)
            expected.push_back(static_cast<int32_t>(t));
        }
        ASSERT_EQ(allowed, expected) << "grammar " << g << ", run " << run << ", step " << step;
        ASSERT_FALSE(allowed.empty());
        const int32_t token = allowed[random() % allowed.size()];
        answer.accept(token);
        if (token == eos) break;
        config = machine.run(config, tokens[token]);
      }
    }
  }
}

// Schemas at random, sentences at random: all parse and validate. Sentences that do not end by themselves in time are cut.
TEST(TokenMask, RandomSentencesOfRandomSchemasValidate) {
  const auto tokens = make_tokens(700, 3);
  const int32_t eos = 0;
  const auto vocabulary = TokenTrie::from_tokens(tokens, {eos});
  std::mt19937_64 random(11);
  int num_sentences = 0, num_schemas = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const Json document = SchemaMaker(seed).document();
    std::shared_ptr<const Grammar> grammar;
    try {
      grammar = Grammar::from_json_schema(document.dump());
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), ErrorCode::InvalidArgument) << document.dump() << "\n" << e.what();
      continue;  // what nothing validates against, two patterns in one
    }
    ++num_schemas;
    const SchemaValidator validator(document);
    const auto mask = make_token_mask(grammar, vocabulary);
    for (int run = 0; run < 5; ++run) {
      Answer answer(mask, tokens.size());
      std::string text;
      bool has_ended = false;
      for (int step = 0; step < 300 && !has_ended; ++step) {
        const auto allowed = answer.list();
        ASSERT_FALSE(allowed.empty()) << document.dump() << "\n" << text;
        const bool may_end = allowed[0] == eos;
        const int32_t token = may_end && random() % 2 ? eos : allowed[random() % allowed.size()];
        answer.accept(token);
        if (token == eos) has_ended = true;
        else text += tokens[token];
      }
      if (!has_ended) continue;
      ++num_sentences;
      Json value;
      ASSERT_NO_THROW(value = Json::parse(text)) << document.dump() << "\n" << text;
      ASSERT_TRUE(validator.valid(document, value)) << document.dump() << "\n" << text;
    }
  }
  EXPECT_GT(num_schemas, 250);
  EXPECT_GT(num_sentences, 1000);
}

// A text is accepted whatever tokens it is cut into.
TEST(TokenMask, AnyTokenizationOfAText) {
  const std::string text = "{\"name\": \"\xC3\xA9\xF0\x9F\x98\x80 \\\"q\\\" \\u00e9\", \"age\": 12, \"tags\": [\"a\", \"b\"]}";
  const auto grammar = Grammar::from_json_schema(kSchemas[0]);
  std::mt19937_64 random(5);
  for (int run = 0; run < 30; ++run) {
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = std::min<size_t>(1 + random() % 12, text.size() - at);
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    const auto eos = static_cast<int32_t>(pieces.size());
    const auto vocabulary = TokenTrie::from_tokens(pieces, {eos});
    Answer answer(make_token_mask(grammar, vocabulary), pieces.size() + 1);
    for (size_t i = 0; i < pieces.size(); ++i) {
      answer.fill();
      ASSERT_TRUE(answer.allows(static_cast<int32_t>(i))) << pieces[i];
      ASSERT_FALSE(answer.allows(eos));
      answer.accept(static_cast<int32_t>(i));
    }
    EXPECT_EQ(answer.list(), std::vector<int32_t>{eos});
    answer.accept(eos);
    EXPECT_EQ(answer.list(), std::vector<int32_t>{eos});  // with ignore_eos there is more to choose
  }
}

TEST(TokenMask, ClonesAreIndependentAndWrongTokensRefused) {
  const std::vector<std::string> tokens = {"yes", "no", "y", "es", "", "n"};
  const auto mask = make_token_mask(Grammar::from_choices(std::vector<std::string>{"yes", "no"}), TokenTrie::from_tokens(tokens, {4}));
  Answer first(mask, tokens.size());
  EXPECT_EQ(first.list(), (std::vector<int32_t>{0, 1, 2, 5}));
  first.accept(2);
  Answer second = first.fork();
  first.accept(3);
  EXPECT_EQ(first.list(), (std::vector<int32_t>{4}));
  EXPECT_EQ(second.list(), (std::vector<int32_t>{3}));
  EXPECT_THROW(second.accept(1), Error);
  EXPECT_THROW(second.accept(4), Error);
  EXPECT_THROW(second.accept(-1), Error);
  EXPECT_THROW(second.accept(99), Error);
  EXPECT_EQ(second.list(), (std::vector<int32_t>{3}));
  EXPECT_EQ(Answer(mask, tokens.size()).list(), (std::vector<int32_t>{0, 1, 2, 5}));
  EXPECT_THROW(TokenTrie::from_tokens(tokens, {-1}), Error);
}

TEST(TokenMask, AMaskLargerOrSmallerThanTheVocabulary) {
  const std::vector<std::string> tokens = make_tokens(400);
  const auto mask = make_token_mask(Grammar::json_value(), TokenTrie::from_tokens(tokens, {390}))->clone();
  std::vector<uint64_t> small(2), large(100);
  mask->fill(small);
  mask->fill(large);
  EXPECT_NE(small[0], 0u);
  EXPECT_TRUE(std::equal(small.begin(), small.end(), large.begin()));
  EXPECT_TRUE(std::all_of(large.begin() + 7, large.end(), [](uint64_t word) { return word == 0; }));
}

TEST(TokenMask, AStateMovesToAnotherMachine) {
  const auto grammar = Grammar::from_json_schema(kSchemas[2]);
  Machine old_one(*grammar->automaton());
  const std::string text = R"([["abcde",true,[["ab)";
  const Machine::Config config = old_one.run(old_one.initial(), text);
  Machine new_one(*grammar->automaton());
  new_one.run(new_one.initial(), "[[true],");  // numbers differ
  const Machine::Config moved = old_one.move_to(new_one, config);
  EXPECT_EQ(moved, new_one.run(new_one.initial(), text));
  EXPECT_TRUE(new_one.is_accepting(new_one.run(moved, R"("]]]])")));
  EXPECT_EQ(new_one.run(moved, R"("]]]]])"), Machine::kDead);
}

TEST(TokenMask, CachesAreBounded) {
  // Each character of each string is a state of its own.
  const auto tokens = make_tokens(300);
  const auto mask = make_token_mask(Grammar::from_regex("([a-e]{1,60}x?){1,2000}"), TokenTrie::from_tokens(tokens, {0}));
  Answer answer(mask, tokens.size());
  std::mt19937_64 random(1);
  for (int step = 0; step < 3000; ++step) {
    const auto allowed = answer.list();
    ASSERT_GT(allowed.size(), 1u);
    answer.accept(allowed[1 + random() % (allowed.size() - 1)]);
  }
}

TEST(TokenMask, AmbiguityEndsTheRequestOnly) {
  const auto tokens = make_tokens(300);
  const auto vocabulary = TokenTrie::from_tokens(tokens, {0});
  for (const auto& grammar : {Grammar::from_regex("((((a{1,900}){1,900}){1,900}){1,900}){1,900}"),
                              Grammar::from_ebnf("root ::= \"a\" root root | \"a\" root | \"a\"")}) {
    const auto mask = make_token_mask(grammar, vocabulary);
    Answer answer(mask, tokens.size());
    try {
      for (int step = 0; step < 5000; ++step) {
        answer.fill();
        answer.accept('a');
      }
      FAIL() << "no limit was reached";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::ResourceExhausted) << e.what();
    }
    // Others under the same mask go on.
    Answer other(mask, tokens.size());
    other.fill();
    EXPECT_TRUE(other.allows('a'));
    other.accept('a');
    other.fill();
    EXPECT_TRUE(other.allows('a'));
  }
}

TEST(TokenMask, ThreadsShareOneMask) {
  const auto tokens = make_tokens(500);
  const auto mask = make_token_mask(Grammar::from_json_schema(kSchemas[4]), TokenTrie::from_tokens(tokens, {0}));
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      std::mt19937_64 random(i);
      Answer answer(mask, tokens.size());
      for (int step = 0; step < 200; ++step) {
        const auto allowed = answer.list();
        const int32_t token = allowed[random() % allowed.size()];
        if (token == 0) break;
        answer.accept(token);
        texts[i] += tokens[token];
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const std::string& text : texts) EXPECT_TRUE(Grammar::json_value()->accepts(text, true)) << text;
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  return std::filesystem::exists(path) ? Tokenizer::from_json(read_file(path)) : nullptr;
}

// The text that the tokenizer decodes is the text of the grammar, the first token included.
void check_tokenizer(const Tokenizer& tokenizer, const std::vector<int32_t>& eos_ids) {
  const auto vocabulary = TokenTrie::from_tokenizer(tokenizer, eos_ids);
  std::mt19937_64 random(2);
  int num_ended = 0;
  for (const auto& grammar : {Grammar::json_object(), Grammar::from_json_schema(kSchemas[0]),
                              Grammar::from_choices(std::vector<std::string>{"yes", " no", "\xE4\xBD\xA0\xE5\xA5\xBD"})}) {
    const auto mask = make_token_mask(grammar, vocabulary);
    for (int run = 0; run < 20; ++run) {
      Answer answer(mask, tokenizer.vocab_size());
      std::vector<int32_t> ids;
      bool has_ended = false;
      for (int step = 0; step < 60 && !has_ended; ++step) {
        const auto allowed = answer.list();
        ASSERT_FALSE(allowed.empty());
        int32_t token = allowed[random() % allowed.size()];
        answer.fill();
        if (answer.allows(eos_ids[0])) token = eos_ids[0];
        ASSERT_TRUE(token == eos_ids[0] || !tokenizer.is_special(token));
        answer.accept(token);
        if (token == eos_ids[0]) has_ended = true;
        else ids.push_back(token);
      }
      num_ended += has_ended;
      std::string text = tokenizer.decode(ids);
      if (!has_ended) {  // perhaps inside a character
        while (text.ends_with("\xEF\xBF\xBD")) text.resize(text.size() - 3);
      }
      EXPECT_TRUE(grammar->accepts(text, !has_ended)) << text;
    }
  }
  EXPECT_GE(num_ended, 20);
}

TEST(TokenMask, BundledTokenizer) {
  const auto tokenizer = load_tokenizer(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m/tokenizer.json");
  ASSERT_NE(tokenizer, nullptr);
  check_tokenizer(*tokenizer, {*tokenizer->token_to_id("<|end_of_text|>")});
}

// A vocabulary with U+2581 for spaces, byte tokens, and a decoder that drops the first space.
TEST(TokenMask, SentencePieceTokenizer) {
  nlohmann::json json = {{"model",
                          {{"type", "BPE"},
                           {"byte_fallback", true},
                           {"unk_token", "<unk>"},
                           {"vocab", nlohmann::json::object()},
                           {"merges", nlohmann::json::array()}}},
                         {"added_tokens",
                          {{{"id", 0},
                            {"content", "<unk>"},
                            {"special", true},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false}},
                           {{"id", 1},
                            {"content", "</s>"},
                            {"special", true},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false}}}},
                         {"decoder",
                          {{"type", "Sequence"},
                           {"decoders",
                            {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}},
                             {{"type", "ByteFallback"}},
                             {{"type", "Fuse"}},
                             {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}}};
  auto& vocab = json["model"]["vocab"];
  std::vector<std::string> tokens = {"<unk>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(fmt::format("<0x{:02X}>", byte));
  for (const char* piece : {"\xE2\x96\x81",
                            "\xE2\x96\x81{",
                            "{",
                            "}",
                            "\"",
                            "\xE2\x96\x81\"",
                            "\":",
                            ":",
                            ",",
                            "name",
                            "age",
                            "1",
                            "2",
                            "\xE2\x96\x81"
                            "1",
                            "[",
                            "]",
                            "yes",
                            "\xE2\x96\x81yes",
                            "\xE2\x96\x81no",
                            "\xE2\x96\x81\xE2\x96\x81no",
                            "no",
                            "\xE4\xBD\xA0",
                            "\xE2\x96\x81\xE4\xBD\xA0",
                            "a",
                            "\",",
                            "\"}"})
    tokens.emplace_back(piece);
  for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  const auto tokenizer = Tokenizer::from_json(json.dump());
  check_tokenizer(*tokenizer, {1});
  const auto id = [&](const char* token) { return *tokenizer->token_to_id(token); };
  EXPECT_EQ(tokenizer->token_bytes(id("\xE2\x96\x81{"), false), " {");
  EXPECT_EQ(tokenizer->token_bytes(id("\xE2\x96\x81{"), true), "{");
  EXPECT_EQ(tokenizer->token_bytes(id("<0xE4>"), false), "\xE4");
  Answer answer(make_token_mask(Grammar::json_object(), *tokenizer, {1}), tokens.size());
  answer.fill();
  EXPECT_TRUE(answer.allows(id("\xE2\x96\x81{")));
  answer.accept(id("\xE2\x96\x81{"));
  answer.fill();
  EXPECT_TRUE(answer.allows(id("\xE2\x96\x81\"")));
  EXPECT_FALSE(answer.allows(id("\xE2\x96\x81{")));
}

}  // namespace
}  // namespace tokamak::llm
