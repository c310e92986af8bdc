#pragma once
// The generator of pointwise kernels: a statement over one element becomes a kernel over broadcast operands. Neighbouring axes that all
// operands cross alike are joined; sizes and strides are arguments, so that shapes of one kind share code; full operands move in 16-byte
// vectors; an operand that repeats costs index arithmetic once a vector where the joined inner axis allows it, else once an element.

#include <optional>
#include <string>
#include <vector>

#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

struct ElementwiseOperand {
  int index = 0;                    // of the node's input or output
  std::string storage;              // its type in memory: "bf16"
  std::string compute;              // its type in the body: "float"
  std::optional<Shape> shape = {};  // an input's, when it is seen under another: [c] as [c,1,1]
};

struct ElementwiseCode {
  std::string name;                         // for messages: "cuda.add"
  std::string preamble;                     // #include lines and functions that the body calls
  std::vector<ElementwiseOperand> inputs;   // x0, x1, ...
  std::vector<ElementwiseOperand> outputs;  // y0, y1, ...: of the full shape
  std::string body;                         // "y0 = x0 + x1;"
};

// A kernel for `code` over `shape`, which the inputs' shapes broadcast to and the outputs have.
std::unique_ptr<Kernel> make_elementwise(const NodeView& node, const Shape& shape, const ElementwiseCode& code);

// No: more operands or axes than a launch takes.
Support supports_elementwise(const NodeView& node, size_t num_operands);

// Axes joined where every operand crosses them without a jump, innermost first; strides[w][d] of operand w. Single axes are dropped, unless
// `keep_last`: the last axis then stays by itself, first in the list.
struct JoinedAxes {
  std::vector<int64_t> sizes;
  std::vector<std::vector<int64_t>> strides;
  JoinedAxes(const Shape& shape, const std::vector<std::vector<int64_t>>& operand_strides, bool keep_last);
};
// Strides of `own` walked as `full`, outermost first: 0 where it repeats.
std::vector<int64_t> broadcast_strides(const Shape& own, const Shape& full);
// All shapes broadcast together.
Shape broadcast_shape(const std::vector<Shape>& shapes);

// `Divider` of device/elementwise.cuh as the two words of an argument.
struct DividerWords {
  uint64_t words[2];
  explicit DividerWords(int64_t divisor);
};

// Kernel arguments that are one struct of 8-byte words: pointers first, then numbers. Copied to the stack for each launch.
class ArgumentWords {
 public:
  static constexpr size_t kMost = 480;  // a launch takes 4 KiB
  void push(uint64_t word);
  void push(const DividerWords& divider);
  size_t size() const { return words_.size(); }
  // Launches with the pointers of args.inputs[i], i in `inputs`, then args.outputs, in place of the first words.
  void launch(const Function& function, const Launch& shape, const RunArgs& args, const std::vector<int>& inputs,
              const std::vector<int>& outputs) const;

 private:
  std::vector<uint64_t> words_;
};

}  // namespace tokamak::cuda
