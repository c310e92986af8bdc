#include "server/ensemble_plan.h"

#include <gmock/gmock.h>

#include "tests/server/scripted_models.h"
#include "tests/support/message_of.h"

namespace tokamak::server::test {

namespace {

using testing::HasSubstr;

// Members: f takes and gives int32 [-1]; g has two inputs, one optional, and batches up to 4; s streams; h takes fp32.
class EnsemblePlans : public testing::Test {
 protected:
  void SetUp() override {
    const std::string in_out = io("input", "IN") + io("output", "OUT");
    add("f", in_out);
    add("g", "max_batch_size: 4 " + in_out + io("input", "MORE", "-1", "optional: true"));
    add("s", in_out + "model_transaction_policy { decoupled: true }");
    add("h", "input { name: \"IN\" data_type: TYPE_FP32 dims: 2 } " + io("output", "OUT", "3"));
  }
  void TearDown() override { members_.clear(); }

  void add(const std::string& name, const std::string& config) {
    const LoadArgs args{.name = name, .config = parsed(name, config), .statistics = std::make_shared<ModelStatistics>(name, 1)};
    members_[name] = std::make_shared<ScriptedModel>(args, &num_live_, [](std::unique_ptr<InferRequest>) {});
  }
  static inference::ModelConfig parsed(const std::string& name, const std::string& config) {
    std::vector<std::string> warnings;
    return parse_config("name: \"" + name + "\" " + config, "the test", warnings);
  }
  EnsemblePlan plan(const std::string& config) {
    return {parsed("e", config), {}, [this](const std::string& name, int64_t version) -> std::shared_ptr<Model> {
              const auto found = members_.find(name);
              if (found == members_.end() || version > 1) fail(ErrorCode::NotFound, "Request for unknown model: '{}' is not found", name);
              return found->second;
            }};
  }
  std::string refusal(const std::string& ios, const std::string& steps) {
    return tokamak::test::message_of([&] { plan(ensemble(ios, steps)); });
  }
  static std::string through(const std::string& member, const std::string& from, const std::string& to) {
    return step(member, map("input", "IN", from) + map("output", "OUT", to));
  }

  std::atomic<int> num_live_ = 0;
  std::map<std::string, std::shared_ptr<Model>> members_;
};

const std::string kXY = io("input", "x") + io("output", "y");

TEST_F(EnsemblePlans, KnowsWhoReadsAndWrites) {
  const EnsemblePlan p = plan(ensemble(kXY, through("f", "t", "y") + through("g", "x", "t")));
  EXPECT_FALSE(p.is_decoupled);
  ASSERT_EQ(p.tensors.size(), 3u);
  const auto& t = p.tensors[p.find_tensor("t")];
  EXPECT_EQ(t.writer, 1);
  EXPECT_EQ(t.readers, std::vector<int>{0});
  EXPECT_EQ(p.tensors[p.inputs.at(0)].writer, -1);
  EXPECT_TRUE(plan(ensemble(kXY, through("s", "x", "y"))).is_decoupled);
}

TEST_F(EnsemblePlans, RefusesInTritonsWords) {
  EXPECT_EQ(refusal(kXY, through("none", "x", "y")),
            "ensemble 'e' depends on 'none' which has no loaded version. Request for unknown model: 'none' is not found");
  EXPECT_EQ(refusal(kXY, "step { model_name: \"f\" model_version: 3 " + map("input", "IN", "x") + map("output", "OUT", "y") + "}"),
            "ensemble 'e' depends on 'f' whose required version 3 is not loaded.");
  EXPECT_EQ(refusal(kXY, step("f", map("input", "INN", "x") + map("output", "OUT", "y"))),
            "in ensemble e, ensemble tensor x is mapping to non-existing input INN in model f");
  EXPECT_EQ(refusal(kXY, step("f", map("input", "IN", "x") + map("output", "OUTT", "y"))),
            "in ensemble e, ensemble tensor y is mapped from non-existing output OUTT in model f");
  EXPECT_EQ(refusal(kXY, step("g", map("input", "MORE", "x") + map("output", "OUT", "y"))),
            "in ensemble e, input IN in model g is not mapped to any ensemble tensors");
  EXPECT_EQ(
      refusal(kXY, through("f", "x", "t") + through("h", "t", "y")),
      "in ensemble e, ensemble tensor t: inconsistent data type: TYPE_INT32 is inferred from model f while TYPE_FP32 is inferred from "
      "model h");
  EXPECT_EQ(refusal("input { name: \"x\" data_type: TYPE_FP32 dims: 2 } " + io("output", "y", "4"), through("h", "x", "y")),
            "in ensemble e, ensemble tensor y: inconsistent shape: [4] is inferred from model e while [3] is inferred from model h");
  EXPECT_EQ(refusal("max_batch_size: 8 " + kXY, through("g", "x", "y")),
            "ensemble e allows maximum batch size 8, but it contains model g which only allows maximum batch size to be 4");
  EXPECT_EQ(refusal(kXY, through("s", "x", "a") + through("s", "x", "b") +
                             step("g", map("input", "IN", "a") + map("input", "MORE", "b") + map("output", "OUT", "y"))),
            "in ensemble e, step of model 'g' receives inputs originated from different decoupled models");
  EXPECT_EQ(refusal(kXY + io("output", "z"), through("s", "x", "y") + through("f", "x", "z")),
            "in ensemble e, step of model 'e' receives inputs originated from different decoupled models");
}

TEST_F(EnsemblePlans, ShapesGoTogetherWithAndWithoutTheBatchAxis) {
  EXPECT_EQ(refusal("max_batch_size: 4 " + kXY, through("g", "x", "y")), "");
  EXPECT_EQ(refusal("max_batch_size: 4 " + kXY, through("f", "x", "y")), "");
  EXPECT_EQ(refusal(io("input", "x", "-1, -1") + io("output", "y", "-1, -1"), through("g", "x", "y")), "");
  EXPECT_THAT(refusal(io("input", "x", "-1, -1") + io("output", "y"), through("f", "x", "y")), HasSubstr("inconsistent shape: [-1,-1]"));
}

TEST_F(EnsemblePlans, ADecoupledEnsembleCannotBeCached) {
  const auto load = [&](const std::string& config) {
    LoadArgs args{.name = "e", .config = parsed("e", config)};
    args.find_model = [this](const std::string& name, int64_t) { return members_.at(name); };
    return load_model(args);
  };
  EXPECT_THAT(tokamak::test::message_of([&] { load(ensemble(kXY, through("s", "x", "y")) + "response_cache { enable: true }"); }),
              HasSubstr("with 'decoupled' transaction policy"));
  EXPECT_EQ(tokamak::test::message_of([&] { load("platform: \"ensemble\""); }),
            "ensemble scheduling must be set for ensemble e whose platform is ensemble");
}

}  // namespace
}  // namespace tokamak::server::test
