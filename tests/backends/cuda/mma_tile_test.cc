#ifdef TOKAMAK_CUDA
#include "backends/cuda/kernels/mma_tile.h"

#include <gtest/gtest.h>

#include "backends/cuda/kernels/epilogue.h"
#include "base/error.h"

namespace tokamak::cuda {
namespace {

TEST(CudaMmaTile, TacticsFitTheTarget) {
  for (const char* arch : {"sm_80", "sm_86", "sm_90", "sm_120"}) {
    const Target target = Target::named(arch);
    for (const MmaProduct& p :
         {MmaProduct{1, 4096, 4096, 1, true}, MmaProduct{49, 512, 4608, 1, true}, MmaProduct{8192, 8192, 8192, 1, true}}) {
      const auto tactics = mma_tactics(target, p);
      ASSERT_FALSE(tactics.empty());
      for (const std::string& tactic : tactics) {
        const MmaTile tile = mma_tile(tactic, target, p);
        EXPECT_TRUE(tactic.starts_with(tile.name())) << tactic;
        EXPECT_LE(tile.shared_bytes(), target.shared_bytes_per_block) << tactic;
        EXPECT_LE(tile.threads(), 512u) << tactic;
        EXPECT_TRUE(target.arch == 90 || !tile.wgmma) << tactic;
        EXPECT_TRUE(target.arch >= 90 || tile.split == 1) << tactic;
      }
    }
  }
}

TEST(CudaMmaTile, AnotherSizeTakesTheModelsChoice) {
  const Target target = Target::named("sm_90");
  const MmaProduct small{16, 4096, 4096, 1, true}, large{8192, 4096, 4096, 1, true};
  const std::string tactic = mma_tactics(target, small).back();
  EXPECT_TRUE(tactic.starts_with(mma_tile(tactic, target, small).name()));
  EXPECT_TRUE(mma_tactics(target, large).front().starts_with(mma_tile(tactic, target, large).name()));
  EXPECT_GE(mma_tile(tactic, target, large).m, 128);
}

TEST(CudaMmaTile, BadTacticsAreErrors) {
  const MmaProduct p{16, 64, 64, 1, true};
  for (const char* tactic : {"", "64x64", "64x64,stages=4,split=1", "64x64,stages=4,split=1,rows=", "64x64,stages=4,split=1,rows=x",
                             "64x64,stages=4,split=1,rows=0", "64x65,stages=4,split=1,rows=16", "64x64,stages=9,split=1,rows=16"})
    EXPECT_THROW(mma_tile(tactic, Target::named("sm_90"), p), Error) << tactic;
  EXPECT_THROW(mma_tile("w64x64,stages=5,split=1,rows=16", Target::named("sm_80"), p), Error);
  EXPECT_THROW(mma_tile("64x64,stages=4,split=2,rows=16", Target::named("sm_80"), p), Error);
}

TEST(CudaEpilogue, OffsetsAreSimplified) {
  EXPECT_EQ(strided_offset({2, 3, 4}, {12, 4, 1}, "i"), "(i)");
  EXPECT_EQ(strided_offset({2, 3, 4}, {0, 0, 0}, "i"), "0");
  EXPECT_EQ(strided_offset({2, 3, 4}, {0, 4, 1}, "i"), "(i % 12)");
  EXPECT_EQ(strided_offset({2, 3, 4}, {4, 0, 1}, "i"), "(i % 4) + ((i / 12) * int64_t(4))");
  EXPECT_EQ(strided_offset({2, 1, 4}, {5, 7, 0}, "i"), "((i / 4) * int64_t(5))");
}

}  // namespace
}  // namespace tokamak::cuda
#endif
