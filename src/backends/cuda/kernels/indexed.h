#pragma once
// The generator of kernels that compute every output element from its index alone: moves, windows, lookups. Sizes are constants in the
// code, so that the compiler turns divisions into products. Work of 2^31 elements and more uses 64-bit indices.

#include <string>
#include <vector>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

struct IndexedOperand {
  int index = 0;     // of the node's input or output
  std::string type;  // in device code
};

struct IndexedCode {
  std::string name;                          // for messages: "cuda.gather"
  std::string preamble;                      // #include lines and functions
  std::vector<IndexedOperand> inputs = {};   // in0, in1, ...: const T*
  std::vector<IndexedOperand> outputs = {};  // out0, out1, ...: T*
  int64_t count = 0;                         // of indices
  int64_t largest = 0;                       // the largest number that the body computes an index up to, when above `count`
  std::string body;                          // of one `i`, an Index; may `return`
};

// The two kernels of an op that copies its first input and then writes into the copy, and every other: one launch after the other.
class IndexedKernel final : public Kernel {
 public:
  IndexedKernel(const NodeView& node, const std::vector<IndexedCode>& codes);
  // Output 0 may take input 0's memory: then `skip_when_aliased` kernels from the front are left out.
  IndexedKernel& alias_first_input(int skip_when_aliased);
  bool can_alias(int output, int input) const override { return alias_ && output == 0 && input == 0; }
  void run(const RunArgs& args) const override;

 private:
  struct Step {
    Function function;
    Launch launch;
    std::vector<int> inputs, outputs;
  };
  std::vector<Step> steps_;
  bool alias_ = false;
  size_t skip_ = 0;
};

// The type that moves `bytes` at once (1, 2, 4, 8 or 16).
std::string unit_type(int64_t bytes);
// The largest such size that divides every one of `byte_counts` (0 divides by all), at most 16.
int64_t unit_bytes(const std::vector<int64_t>& byte_counts);
// The one element of `tensor`, at most 8 bytes, as a literal of its unit type, or repeated as one of `unit` bytes.
std::string element_literal(const Tensor& tensor, int64_t unit = 0);
// Row-major strides in elements.
std::vector<int64_t> strides_of(const Shape& shape);

// Statements that split `i` over `sizes` (row-major) into constants c0, c1, ...: "const Index c1 = i % 5, q1 = i / 5; ...".
std::string split_index(const std::vector<int64_t>& sizes, const std::string& index = "i");
// "c0 * 35 + c1 * 7 + 3"; "0" when nothing is left.
std::string dot_index(const std::vector<int64_t>& strides, int64_t offset = 0);

}  // namespace tokamak::cuda
