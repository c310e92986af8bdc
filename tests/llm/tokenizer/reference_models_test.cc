// The tokenizers of the shared models against what the `tokenizers` library gave for them: ids with and without special tokens, and text.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "llm/tokenizer/tokenizer.h"

namespace tokamak::llm {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

class ReferenceModels : public testing::TestWithParam<const char*> {};

TEST_P(ReferenceModels, IdsAndTextEqualTheReference) {
  const fs::path folder = fs::path(TOKAMAK_SOURCE_DIR) / "../shared/models/llm" / GetParam();
  if (!fs::exists(folder)) GTEST_SKIP() << "no " << folder;
  const auto tokenizer = Tokenizer::from_json(read_text(folder / "tokenizer.json"));
  const auto cases = nlohmann::json::parse(read_text(folder / "reference_tokenizer.json"));
  ASSERT_GE(cases.size(), 40u);
  for (const auto& c : cases) {
    const std::string text = c["text"];
    const std::vector<int32_t> ids = c["ids"], ids_no_special = c["ids_no_special"];
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->encode(text, false), ids_no_special) << text;
    EXPECT_EQ(tokenizer->decode(ids), c["decoded"].get<std::string>()) << text;

    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    EXPECT_EQ(streamed, c["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceModels, testing::Values("llama3-docs-6m", "llama2-docs-27m", "llama2-docs-draft-4m"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tokamak::llm
