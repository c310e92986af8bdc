// Models split over ranks (tensor parallelism): every rank's logits, computed side by side with sums over the ranks between, equal
// transformers' (tests/golden/hf), for each architecture.

#include <filesystem>
#include <random>
#include <thread>

#include "base/error.h"
#include "import/hf/hf.h"
#include "import/hf/models.h"
#include "import/hf/safetensors.h"
#include "import/hf/weight.h"
#include "tests/import/hf/step_runner.h"
#include "tests/support/message_of.h"
#include "tests/support/thread_communicator.h"

namespace tokamak {
namespace {

namespace fs = std::filesystem;
using test::ThreadCommunicator;

const fs::path kGoldens = fs::path(TOKAMAK_SOURCE_DIR) / "tests/golden/hf";

std::unique_ptr<ir::Graph> import_rank(const fs::path& folder, int rank, int world_size, int64_t max_context = 0) {
  hf::HfOptions import;
  import.kv_dtype = DType::F32;
  import.block_size = 16;
  import.max_context = max_context;
  import.rank = rank;
  import.world_size = world_size;
  return hf::import_checkpoint(folder.string(), import);
}

std::shared_ptr<const Engine> build(std::unique_ptr<ir::Graph> graph, Precision precision = Precision::F32) {
  BuildOptions options;
  options.opt_level = 0;
  options.num_threads = 1;
  options.precision = precision;
  return build_engine(std::move(graph), options);
}

int count(const ir::Graph& graph, std::string_view op) {
  int n = 0;
  for (const auto& node : graph.nodes()) n += node->is(op);
  return n;
}

// Logits of every rank.
std::vector<Tensor> run_ranks(const std::vector<std::shared_ptr<const Engine>>& engines, const std::vector<int32_t>& tokens, size_t chunk) {
  const auto communicators = ThreadCommunicator::group(static_cast<int>(engines.size()));
  std::vector<Tensor> logits(engines.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < engines.size(); ++rank)
    threads.emplace_back([&, rank] {
      ContextOptions options;
      options.communicator = communicators[rank];
      logits[rank] = testing::StepRunner(engines[rank], 256, options).run(tokens, chunk);
    });
  for (std::thread& t : threads) t.join();
  for (const auto& c : communicators) EXPECT_GT(c->num_calls(), 0);
  return logits;
}

class SplitModel : public ::testing::TestWithParam<const char*> {};

TEST_P(SplitModel, EveryRankHasTheWholeModelsLogits) {
  const auto golden = hf::read_safetensors((kGoldens / GetParam() / "golden.safetensors").string());
  const Tensor ids = golden.at("ids");
  const std::vector<int32_t> tokens(ids.data<int32_t>(), ids.data<int32_t>() + ids.count());
  std::vector<std::shared_ptr<const Engine>> engines;
  for (int rank = 0; rank < 2; ++rank) {
    auto graph = import_rank(kGoldens / GetParam(), rank, 2, golden.at("context").int_at(0));
    EXPECT_EQ(count(*graph, "all_reduce"), 2 * std::stoi(graph->metadata.at("llm.num_layers")));
    EXPECT_EQ(graph->metadata.at("llm.rank"), std::to_string(rank));
    engines.push_back(build(std::move(graph)));
  }
  for (const size_t chunk : {100, 5}) {
    const std::vector<Tensor> logits = run_ranks(engines, tokens, chunk);
    for (const Tensor& l : logits) EXPECT_LT(testing::max_difference(l, golden.at("logits")), 2e-4) << chunk;
    EXPECT_TRUE(same_bytes(logits[0], logits[1]));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, SplitModel, ::testing::Values("gemma2", "llama", "llama_llama3", "mistral", "qwen2", "qwen3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SplitModels, InBf16) {
  hf::HfOptions import;
  import.kv_dtype = DType::F32;
  const std::vector<int32_t> tokens = {3, 500, 77, 1, 9, 200, 31};
  import.world_size = 2;
  std::vector<std::shared_ptr<const Engine>> engines;
  for (int rank = 0; rank < 2; ++rank) {
    import.rank = rank;
    engines.push_back(build(hf::synthetic("tiny", import), Precision::BF16));
  }
  import.rank = 0, import.world_size = 1;
  const Tensor whole = testing::StepRunner(build(hf::synthetic("tiny", import), Precision::BF16)).run(tokens, 100);
  for (const Tensor& l : run_ranks(engines, tokens, 100)) EXPECT_LT(testing::max_difference(l, whole), 0.05);
}

// q, k and v in one matrix, gate and up in another: each part is divided by itself.
class PackedWeights : public hf::Checkpoint {
 public:
  PackedWeights() : Checkpoint("packed") {}
  const hf::Json& config() const override { return config_; }
  const hf::Json* generation_config() const override { return nullptr; }
  const std::map<std::string, std::string>& texts() const override { return texts_; }
  bool has(const std::string&) const override { return true; }

 protected:
  hf::Weight load(const std::string& name, const Shape& shape) override {
    Tensor t = Tensor::empty(DType::F32, shape);
    std::mt19937 random(static_cast<unsigned>(std::hash<std::string>()(name)));
    std::normal_distribution<float> normal(0, 0.2f);
    for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = normal(random);
    return {name, t, {}, 0};
  }
  std::vector<std::string> names() const override { return {}; }

 private:
  const hf::Json config_ = hf::Json::parse(R"({"architectures":["Phi3ForCausalLM"],"vocab_size":60,"hidden_size":32,"intermediate_size":48,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":128})");
  std::map<std::string, std::string> texts_;
};

TEST(SplitModels, PackedProjections) {
  const std::vector<int32_t> tokens = {3, 50, 7, 1, 9, 20, 31};
  PackedWeights weights;
  hf::HfOptions import;
  import.kv_dtype = DType::F32;
  const Tensor whole = testing::StepRunner(build(hf::import_from(weights, import))).run(tokens, 100);
  std::vector<std::shared_ptr<const Engine>> engines;
  import.world_size = 2;
  for (import.rank = 0; import.rank < 2; ++import.rank) engines.push_back(build(hf::import_from(weights, import)));
  for (const Tensor& l : run_ranks(engines, tokens, 3)) EXPECT_LT(testing::max_difference(l, whole), 1e-4);
}

#ifdef TOKAMAK_CUDA
// No kernel of the GPU for it yet: that step is the host's, everything else as ever.
TEST(SplitModels, BuildForAGpu) {
  hf::HfOptions import;
  import.kv_dtype = DType::F16;
  import.world_size = 2;
  BuildOptions options;
  options.opt_level = 0;
  options.device = "cuda:sm_90";
  options.precision = Precision::F16;
  BuildReport report;
  const auto engine = build_engine(hf::synthetic("tiny", import), options, &report);
  EXPECT_EQ(count(engine->graph(), "all_reduce"), 4);
  for (const TacticReport& t : report.tactics) EXPECT_EQ(t.host_reason.empty(), t.op != "all_reduce") << t.op;
}
#endif

TEST(SplitModels, OneRankIsTheWholeModel) {
  const auto graph = import_rank(kGoldens / "llama", 0, 1);
  EXPECT_EQ(count(*graph, "all_reduce"), 0);
  EXPECT_FALSE(graph->metadata.contains("llm.world_size"));
}

TEST(SplitModels, WhatDoesNotDivideIsNamed) {
  EXPECT_NE(test::message_of([] { import_rank(kGoldens / "llama", 0, 3); }).find("3 ranks do not divide"), std::string::npos);
  EXPECT_NE(test::message_of([] { import_rank(kGoldens / "llama", 0, 4); }).find("key and value heads"), std::string::npos);
  EXPECT_NE(test::message_of([] { import_rank(kGoldens / "llama", 0, 4); }).find("ranks that divide 2"), std::string::npos);
  EXPECT_NE(test::message_of([] { import_rank(kGoldens / "llama", 2, 2); }).find("expected 0 to 1"), std::string::npos);
  EXPECT_NE(test::message_of([] { import_rank(kGoldens / "llama", 0, 0); }).find("0 devices"), std::string::npos);
}

TEST(SplitModels, NeedTheirOwnCommunicator) {
  const auto engine = build(import_rank(kGoldens / "llama", 1, 2));
  EXPECT_NE(test::message_of([&] { ExecutionContext context(engine); }).find("rank 1 of 2 of a split model"), std::string::npos);
  ContextOptions options;
  options.communicator = ThreadCommunicator::group(2)[0];
  EXPECT_NE(test::message_of([&] { ExecutionContext context(engine, options); }).find("of rank 0 of 2"), std::string::npos);
}

TEST(SplitModels, ColumnsOfQuantizedWeights) {
  hf::Weight w{"w", Tensor::empty(DType::I4, {2, 8}), Tensor::of<float>({2, 2}, {1, 2, 3, 4}), 4};
  for (int i = 0; i < 8; ++i) w.data.data<uint8_t>()[i] = static_cast<uint8_t>(0x10 * i + i);
  const hf::Weight right = hf::slice_columns(w, 4, 8);
  EXPECT_EQ(right.data.shape(), (Shape{2, 4}));
  EXPECT_EQ(right.data.data<uint8_t>()[0], 0x22);
  EXPECT_EQ(right.data.data<uint8_t>()[2], 0x66);
  EXPECT_EQ(right.scale.float_at(0), 2);
  EXPECT_EQ(right.scale.float_at(1), 4);
  EXPECT_EQ(right.group_size, 4);
  EXPECT_NE(test::message_of([&] { hf::slice_columns(w, 2, 8); }).find("cut its groups of 4"), std::string::npos);
  w.scale = Tensor::of<float>({2, 1}, {1, 2}), w.group_size = 8;  // a scale a row
  EXPECT_EQ(hf::slice_columns(w, 2, 8).group_size, 6);
  EXPECT_THROW(hf::slice_columns(w, 1, 8), Error);  // half a byte
}

}  // namespace
}  // namespace tokamak
