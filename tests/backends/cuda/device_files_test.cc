#ifdef TOKAMAK_CUDA
#include "backends/cuda/device_files.h"

#include <gtest/gtest.h>

#include <regex>

namespace tokamak::cuda {
namespace {

// The compiler may move reads of such an input ahead of wait_for_previous(): prelude.cuh says what may be one.
TEST(CudaDeviceFiles, OnlyWeightsAreRestrictedInputs) {
  const std::regex input(R"(const\s+\w+\s*\*\s*__restrict__\s+\w+)");
  ASSERT_TRUE(std::regex_search(std::string("(const float* __restrict__ x)"), input));
  ASSERT_TRUE(device_files().contains("conv_igemm.cu"));
  for (const auto& [name, text] : device_files())
    for (auto found = std::sregex_iterator(text.begin(), text.end(), input); found != std::sregex_iterator(); ++found)
      ADD_FAILURE() << name << ": " << found->str() << "; without __restrict__, or Weights<T> where no kernel writes it";
}

}  // namespace
}  // namespace tokamak::cuda
#endif
