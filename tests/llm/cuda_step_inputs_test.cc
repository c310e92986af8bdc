#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_inputs.h"

#include <gtest/gtest.h>

#include <cstring>

#include "backends/cuda/sampler.h"

namespace tokamak::llm {
namespace {

TEST(CudaStepInputs, Compiles) {
  for (const char* arch : {"sm_80", "sm_90"})
    EXPECT_NO_THROW(CudaStepInputs(cuda::Context(cuda::Target::named(arch), std::make_shared<cuda::CodeCache>(), nullptr), 65, 128));
}

// A device array of i32, on the host.
std::vector<int32_t> read(CUdeviceptr from, size_t count) {
  std::vector<int32_t> out(count);
  cuda::check(cuda::driver().cuMemcpyDtoH(out.data(), from, count * 4), "download");
  return out;
}

TEST(CudaStepInputs, PadsAndPutsInWhatTheStepBeforeHasChosen) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << cuda::driver_problem();
  const auto device = cuda::Device::get();
  device->make_current();
  const cuda::Context code(device->target(), std::make_shared<cuda::CodeCache>(), device);
  constexpr int kMaxSeqs = 65, kBlocksPerSeq = 100;
  CudaStepInputs inputs(code, kMaxSeqs, kBlocksPerSeq);
  EXPECT_TRUE(inputs.reserve(300));
  EXPECT_FALSE(inputs.reserve(200));
  const std::vector<int32_t> chosen_before = {41, 42, -1, 44};
  const cuda::Buffer chosen = device->allocate(16, "tokens");
  cuda::check(cuda::driver().cuMemcpyHtoD(chosen.pointer(), chosen_before.data(), 16), "upload");
  cuda::check(cuda::driver().cuStreamSynchronize(nullptr), "upload");
  StepBatch batch;
  batch.num_seqs = 3, batch.blocks_per_seq = 2;
  batch.token_ids = {7, 8, unknown_token(3), unknown_token(2)};
  batch.positions = {0, 1, 16, 5};
  batch.slot_mapping = {32, 33, 80, 21};
  batch.block_tables = {2, 0, 5, 6, 1, 9};
  batch.seq_lens = {2, 17, 6};
  batch.query_starts = {0, 2, 3, 4};
  batch.logit_rows = {1, 2, 3};
  for (int r = 0; r < 3; ++r) {
    TokenChoice choice;
    choice.temperature = 0.5f * static_cast<float>(r), choice.top_k = 40 + r, choice.seed = 1000 + r, choice.position = 9;
    batch.choices.push_back(choice);
  }
  const StepSizes sizes{20, 16, 17};
  const cuda::Stream stream(device);
  for (int slot = 0; slot < CudaStepInputs::kSlots; ++slot) {
    inputs.queue(stream.get(), slot, batch, sizes, chosen.pointer());
    stream.synchronize();
    const auto expect = [&](const char* name, const std::vector<int32_t>& from, size_t padded, int32_t padding) {
      std::vector<int32_t> expected = from;
      expected.resize(padded, padding);
      EXPECT_EQ(read(inputs.array(name), padded), expected) << name;
    };
    expect("token_ids", {7, 8, 44, 0}, 20, 0);
    expect("positions", batch.positions, 20, 0);
    expect("slot_mapping", batch.slot_mapping, 20, -1);
    expect("logit_rows", batch.logit_rows, 16, 0);
    expect("seq_lens", batch.seq_lens, 17, 0);
    expect("query_starts", batch.query_starts, 18, 4);
    const auto tables = read(inputs.array("block_tables"), kBlocksPerSeq * 3);
    for (int s = 0; s < 3; ++s)
      for (int b = 0; b < 2; ++b) EXPECT_EQ(tables[s * kBlocksPerSeq + b], batch.block_tables[s * 2 + b]);
    const auto words = read(inputs.choices(), 3 * sizeof(cuda::SampleRow) / 4);
    for (int r = 0; r < 3; ++r) {
      cuda::SampleRow row;
      std::memcpy(static_cast<void*>(&row), words.data() + r * sizeof(row) / 4, sizeof(row));
      EXPECT_EQ(row.row, r);
      EXPECT_EQ(row.top_k, 40 + r);
      EXPECT_EQ(row.seed, 1000u + r);
      EXPECT_EQ(row.position, 9);
      EXPECT_EQ(row.temperature, 0.5f * static_cast<float>(r));
    }
  }
}

}  // namespace
}  // namespace tokamak::llm
#endif
