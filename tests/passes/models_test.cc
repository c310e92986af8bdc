// What the pipeline must find in real exporters' files: attention and norms in every layer, transposes only at the edges. Skipped where the
// model collection is absent. Results are compared by `tokamak verify`.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "import/onnx/import.h"
#include "ir/op.h"
#include "passes/pipeline.h"

namespace tokamak::passes {
namespace {

struct Expected {
  const char* model;
  int attention, norms, rope, group_norms, max_transposes;  // norms: layer_norm and rms_norm, with a residual or without
};

class Models : public testing::TestWithParam<Expected> {};

TEST_P(Models, RecognisedFromBothExporters) {
  const Expected& e = GetParam();
  for (const char* exporter : {".ts", ".dynamo"}) {
    const std::string path = std::string(TOKAMAK_SOURCE_DIR "/../shared/models/onnx/") + e.model + exporter + "/model.onnx";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "no models beside the source";
    const auto graph = onnx::import_model(path);
    BuildReport report;
    run_pipeline(*graph, {}, report);
    std::map<std::string, int, std::less<>> count;
    for (const auto& n : graph->nodes()) ++count[std::string(n->op().name)];
    const std::string where = std::string(e.model) + exporter;
    EXPECT_EQ(count["attention"], e.attention) << where;
    EXPECT_EQ(count["layer_norm"] + count["add_layer_norm"] + count["rms_norm"] + count["add_rms_norm"], e.norms) << where;
    EXPECT_EQ(count["rope"], e.rope) << where;
    EXPECT_EQ(count["group_norm"], e.group_norms) << where;
    EXPECT_LE(count["transpose"], e.max_transposes) << where;
    for (const char* gone : {"erf", "batch_norm", "instance_norm", "sigmoid", "isnan", "softmax", "identity", "relu", "gelu"})
      EXPECT_EQ(count[gone], 0) << where << " still has " << gone;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Exported, Models,
    testing::Values(Expected{"tinybert-docs", 4, 9, 0, 0, 0}, Expected{"distilbert", 2, 5, 0, 0, 0}, Expected{"roberta", 2, 5, 0, 0, 0},
                    Expected{"gpt2", 2, 5, 0, 0, 0}, Expected{"llama", 2, 5, 4, 0, 2}, Expected{"qwen2", 2, 5, 4, 0, 2},
                    Expected{"gemma2", 2, 9, 4, 0, 2}, Expected{"t5-encoder", 2, 5, 0, 0, 1}, Expected{"vit", 2, 5, 0, 0, 1},
                    Expected{"swin", 4, 11, 0, 0, 9}, Expected{"whisper-encoder", 2, 5, 0, 0, 1}, Expected{"convnext", 0, 10, 0, 0, 1},
                    Expected{"digits-resnet", 0, 0, 0, 0, 1}, Expected{"mobilenet-v3-small", 0, 0, 0, 0, 1},
                    Expected{"squeezenet", 0, 0, 0, 0, 1}, Expected{"shufflenet-v2", 0, 0, 0, 0, 17}, Expected{"unet", 0, 0, 0, 5, 2}),
    [](const auto& info) {
      std::string name = info.param.model;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace tokamak::passes
