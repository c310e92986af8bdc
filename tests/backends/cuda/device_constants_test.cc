#ifdef TOKAMAK_CUDA
#include "backends/cuda/device_constants.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "backends/cpu/thread_pool.h"

namespace tokamak::cuda {
namespace {

TEST(CudaDeviceConstants, ArriveWholeAndOnce) {
  if (!Device::is_available()) GTEST_SKIP() << "needs a GPU: " << driver_problem();
  const auto device = Device::get();
  std::mt19937_64 random(5);
  std::vector<Tensor> constants;
  // More than one piece of pinned memory, sizes that end anywhere, one larger than a piece, an empty one.
  for (int64_t size : {int64_t{1}, int64_t{70'000'001}, int64_t{300}, int64_t{0}, int64_t{20'000'003}, int64_t{256}, int64_t{33'554'432}}) {
    Tensor t = Tensor::empty(DType::U8, {size});
    for (int64_t i = 0; i < size; i += 8) {
      const uint64_t word = random();
      std::memcpy(t.data<uint8_t>() + i, &word, static_cast<size_t>(std::min<int64_t>(8, size - i)));
    }
    constants.push_back(std::move(t));
  }
  ThreadPool pool(3);
  DeviceConstants uploaded(device);
  const int64_t missing = uploaded.missing_bytes(constants);
  EXPECT_GE(missing, 123'000'000);
  uploaded.upload(std::span(constants).first(3), pool);
  constants.push_back(constants[1]);  // the same storage again
  uploaded.upload(constants, pool);
  EXPECT_EQ(uploaded.missing_bytes(constants), 0);
  EXPECT_EQ(uploaded.size_bytes(), missing);
  EXPECT_EQ(uploaded.find(constants[1]), uploaded.find(constants.back()));
  for (const Tensor& t : constants) {
    if (t.size_bytes() == 0) continue;
    Tensor back = Tensor::empty(DType::U8, t.shape());
    check(driver().cuMemcpyDtoH(back.raw(), reinterpret_cast<CUdeviceptr>(uploaded.find(t)), static_cast<size_t>(t.size_bytes())), "back");
    EXPECT_TRUE(same_bytes(back, t)) << t.size_bytes();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(uploaded.find(t)) % 256, 0u);
  }
}

}  // namespace
}  // namespace tokamak::cuda
#endif
