#include "llm/model_config.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tokamak/llm.h"

namespace tokamak::llm {
namespace {

std::map<std::string, std::string> metadata() {
  return {{"llm.architecture", "LlamaForCausalLM"},
          {"llm.vocab_size", "32000"},
          {"llm.context_length", "4096"},
          {"llm.num_layers", "22"},
          {"llm.num_heads", "32"},
          {"llm.num_kv_heads", "4"},
          {"llm.head_dim", "64"},
          {"llm.hidden_size", "2048"},
          {"llm.block_size", "32"},
          {"llm.kv_dtype", "bf16"},
          {"llm.eos_token_ids", "2,7"},
          {"llm.bos_token_id", "1"}};
}

TEST(ModelConfig, ReadsTheMetadata) {
  const ModelConfig config = ModelConfig::from_metadata(metadata());
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{2, 7}));
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.kv_block_bytes(), 2 * 22 * 4 * 64 * 32 * 2);
}

TEST(ModelConfig, NoBosAndNoEosAreFine) {
  auto m = metadata();
  m["llm.bos_token_id"] = m["llm.eos_token_ids"] = "";
  const ModelConfig config = ModelConfig::from_metadata(m);
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(ModelConfig, EveryBadKeyIsNamed) {
  for (const auto& [key, value] : metadata()) {
    if (key == "llm.architecture") continue;
    auto m = metadata();
    for (const char* bad : {"x", "-5", "99999999999999999999", "1 ", "2,,3"}) {
      m[key] = bad;
      try {
        ModelConfig::from_metadata(m);
        ADD_FAILURE() << key << " = " << bad << " was accepted";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::Corrupt);
        EXPECT_NE(std::string(e.what()).find(key), std::string::npos) << e.what();
      }
    }
    m.erase(key);
    EXPECT_THROW(ModelConfig::from_metadata(m), Error) << key;
  }
  EXPECT_THROW(ModelConfig::from_metadata({}), Error);
}

}  // namespace
}  // namespace tokamak::llm
