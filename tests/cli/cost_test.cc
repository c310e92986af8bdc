// tokamak cost against figures worked out by hand.

#include "tests/support/command_line.h"

namespace tokamak::cli {
namespace {

class CliCost : public test::CommandLineTest {
 protected:
  int cost(std::vector<std::string> words) {
    words.insert(words.begin(), {"tokamak", "cost"});
    words.insert(words.end(), {"--json", at("c.json")});
    return run(words);
  }
};

TEST_F(CliCost, FiguresByHand) {
  // 40 requests of 300 tokens a second are 12,000 tokens a second: 4.8 GPUs of 2,500, so five.
  ASSERT_EQ(cost({"--tokens-per-second", "2500", "--qps", "40", "--tokens-per-request", "300", "--gpu-hour", "2.5"}), 0) << err_;
  const auto c = json("c.json");
  EXPECT_EQ(c["gpus"], 5);
  EXPECT_NEAR(c["utilization"].get<double>(), 0.96, 1e-12);
  EXPECT_NEAR(c["cost_per_month_usd"].get<double>(), 5 * 2.5 * 730, 1e-9);
  EXPECT_NEAR(c["cost_per_million_tokens_usd"].get<double>(), 12.5 / (12000 * 3600 / 1e6), 1e-9);
  EXPECT_NEAR(c["cost_per_million_tokens_usd_at_full_load"].get<double>(), 2.5 / 9, 1e-9);
  EXPECT_TRUE(printed("--headroom")) << out_;  // 96 % busy is worth a word
  ASSERT_EQ(cost({"--tokens-per-second", "2500", "--qps", "40", "--tokens-per-request", "300", "--gpu-hour", "2.5", "--headroom", "0.2"}),
            0);
  EXPECT_EQ(json("c.json")["gpus"], 6);
}

TEST_F(CliCost, AnExactFitNeedsNoFurtherGpu) {
  ASSERT_EQ(cost({"--tokens-per-second", "0.3", "--qps", "0.1", "--tokens-per-request", "9", "--gpu-hour", "1"}), 0);
  EXPECT_EQ(json("c.json")["gpus"], 3);
}

TEST_F(CliCost, FromBenchFilesOfBothKinds) {
  put("llm.json", R"({"runs": [{"batch": 1, "new_tokens": 100, "output_tokens_per_s": 50.0},
                               {"batch": 8, "new_tokens": 200, "output_tokens_per_s": 300.0}]})");
  ASSERT_EQ(cost({"--from", at("llm.json"), "--qps", "3", "--gpu-hour", "1"}), 0) << err_;
  EXPECT_EQ(json("c.json")["gpus"], 2);  // 3 * 200 / 300
  ASSERT_EQ(cost({"--from", at("llm.json"), "--batch", "1", "--qps", "3", "--gpu-hour", "1"}), 0) << err_;
  EXPECT_EQ(json("c.json")["gpus"], 6);
  EXPECT_EQ(cost({"--from", at("llm.json"), "--batch", "2", "--qps", "3", "--gpu-hour", "1"}), 1);
  EXPECT_TRUE(complained("batch 1, 8")) << err_;
  put("tensor.json", R"({"throughput_qps": 20.0, "latency_ms": {}})");
  ASSERT_EQ(cost({"--from", at("tensor.json"), "--qps", "50", "--gpu-hour", "1"}), 0) << err_;
  EXPECT_EQ(json("c.json")["gpus"], 3);
  EXPECT_TRUE(json("c.json").contains("cost_per_million_queries_usd"));
}

TEST_F(CliCost, WrongWordsAndWrongFiles) {
  EXPECT_EQ(cost({"--qps", "1", "--gpu-hour", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "5", "--gpu-hour", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "0", "--qps", "1", "--gpu-hour", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "5", "--qps", "-1", "--gpu-hour", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "5", "--qps", "1", "--gpu-hour", "1", "--headroom", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "5", "--from", "x.json", "--qps", "1", "--gpu-hour", "1"}), 2);
  EXPECT_EQ(cost({"--tokens-per-second", "1e-9", "--qps", "1e9", "--gpu-hour", "1"}), 1);
  EXPECT_EQ(cost({"--from", at("absent.json"), "--qps", "1", "--gpu-hour", "1"}), 1);
  for (const char* bad : {"", "[]", "{", "{}", R"({"runs": []})", R"({"runs": [1]})", R"({"runs": [{"batch": 1}]})",
                          R"({"throughput_qps": "a"})", R"({"throughput_qps": 0})"}) {
    put("bad.json", bad);
    EXPECT_EQ(cost({"--from", at("bad.json"), "--qps", "1", "--gpu-hour", "1"}), 1) << bad;
    EXPECT_TRUE(complained("error: ")) << bad;
  }
}

}  // namespace
}  // namespace tokamak::cli
