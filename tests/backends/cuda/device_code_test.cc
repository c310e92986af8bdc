#ifdef TOKAMAK_CUDA
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>

#include "base/file.h"

namespace tokamak::cuda {
namespace {

// Names of parameters that are both const and __restrict__.
std::vector<std::string> restricted_inputs(const std::string& text) {
  const std::string word = "__restrict__";
  std::vector<std::string> names;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    size_t begin = at;  // of the parameter: behind a comma or bracket that stands in no angle brackets
    for (int depth = 0; begin > 0; --begin) {
      const char c = text[begin - 1];
      depth += (c == '>') - (c == '<');
      if (depth == 0 && (c == ',' || c == '(' || c == ';')) break;
    }
    size_t end = at + word.size();
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_' || text[end] == ' ')) ++end;
    const std::string type = text.substr(begin, at - begin), name = text.substr(at + word.size(), end - at - word.size());
    if (type.find("const") != std::string::npos && name.find_first_not_of(' ') != std::string::npos) names.push_back(type + word + name);
  }
  return names;
}

// The compiler may move reads of such an input ahead of wait_for_previous(): prelude.cuh says what may be one.
TEST(CudaDeviceCode, OnlyWeightsAreRestrictedInputs) {
  for (const char* wrong :
       {"f(const T* __restrict__ x)", "f(int n, Vec<T, 4> const* __restrict__ x, int m)", "f(const Vec<T, 4>*__restrict__ x)"})
    EXPECT_EQ(restricted_inputs(wrong).size(), 1u) << wrong;
  for (const char* right : {"f(const T* x, T* __restrict__ y)", "using Weights = const T* __restrict__;", "f(Weights<T> w)"})
    EXPECT_TRUE(restricted_inputs(right).empty()) << right;
  int files = 0;
  for (const char* folder : {"device", "kernels"})
    for (const auto& entry : std::filesystem::directory_iterator(std::string(TOKAMAK_SOURCE_DIR) + "/src/backends/cuda/" + folder)) {
      ++files;
      for (const std::string& input : restricted_inputs(read_file(entry.path().string())))
        ADD_FAILURE() << entry.path().filename() << ": " << input << "; without __restrict__, or Weights<T> where no kernel writes it";
    }
  EXPECT_GT(files, 100);
}

}  // namespace
}  // namespace tokamak::cuda
#endif
