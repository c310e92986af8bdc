// A decoding step made up for the tuner is one that the engine could ask for.

#include "builder/default_shapes.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "builder/builder.h"

namespace tokamak {
namespace {

TEST(WholeGraphInputs, SequencesShareNothing) {
  BuildOptions options;
  const auto graph = import_model(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m", options, nullptr);
  std::set<int64_t> sizes;
  for (const std::vector<Shape>& shapes : step_shapes(*graph)) {
    const std::vector<Tensor> inputs = whole_graph_inputs(*graph, shapes);
    std::map<std::string, size_t> at;
    for (size_t i = 0; i < shapes.size(); ++i) at[graph->inputs()[i]->name] = i;
    const Shape cache = shapes[at.at("kv_cache.0")];
    const int64_t seqs = shapes[at.at("seq_lens")][0];
    if (inputs.empty()) {  // prompts, and more sequences than there is room for
      EXPECT_TRUE(shapes[at.at("token_ids")][0] != seqs || seqs > 64);
      continue;
    }
    sizes.insert(seqs);
    for (const auto& [name, i] : at) EXPECT_EQ(inputs[i].defined(), !name.starts_with("kv_cache.")) << name;
    const auto value = [&](const char* name, int64_t i) { return inputs[at.at(name)].int_at(i); };
    const int64_t per_seq = shapes[at.at("block_tables")][1], block_size = cache[3];
    std::set<int64_t> blocks;
    for (int64_t s = 0; s < seqs; ++s) {
      const int64_t position = value("positions", s);
      EXPECT_EQ(value("query_starts", s), s);
      EXPECT_EQ(value("seq_lens", s), position + 1);
      ASSERT_LT(position, per_seq * block_size);
      EXPECT_EQ(value("slot_mapping", s), value("block_tables", s * per_seq + position / block_size) * block_size + position % block_size);
      for (int64_t k = 0; k < per_seq; ++k) blocks.insert(value("block_tables", s * per_seq + k));
    }
    EXPECT_EQ(value("query_starts", seqs), seqs);
    EXPECT_EQ(std::ssize(blocks), seqs * per_seq);
    EXPECT_GE(*blocks.begin(), 0);
    EXPECT_LT(*blocks.rbegin(), cache[0]);
  }
  EXPECT_EQ(sizes, (std::set<int64_t>{1, 8, 32, 64}));
}

}  // namespace
}  // namespace tokamak
