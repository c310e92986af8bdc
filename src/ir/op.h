#pragma once
// What the compiler knows about an operator: one OpDef per core op, defined in ir/ops/. Nothing else switches over op names for facts
// that belong here: ask the OpDef.

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "ir/graph.h"

namespace tokamak::ir {

// What inference knows about one value: at build time symbolic, at bind time (concrete input shapes) constant.
struct ValueInfo {
  TensorType type;
  std::optional<Dims> ints;  // known integer contents, row-major (only for integer and bool tensors of at most 64 elements)
  Tensor constant;           // known contents, when defined()
};

// Inputs and outputs of one inference. The same `infer` function serves the builder and the runtime's shape binding.
class InferContext {
 public:
  InferContext(const Node& node, std::vector<ValueInfo> inputs, int num_outputs, std::function<Dim()> fresh_symbol,
               const Dim::Bindings* bindings = nullptr);

  const Node& node() const { return node_; }
  const Attrs& attrs() const { return node_.attrs; }
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  bool has_input(int i) const { return i < num_inputs() && node_.input(i) != nullptr; }
  const TensorType& type(int i) const { return inputs_[i].type; }
  DType dtype(int i) const { return inputs_[i].type.dtype; }
  bool ranked(int i) const { return inputs_[i].type.ranked; }
  int64_t rank(int i) const { return inputs_[i].type.rank(); }
  const Dim& dim(int i, int64_t axis) const;  // negative axes count from the end
  // Contents of an integer input as expressions: from a constant or from shape arithmetic. nullopt when unknown.
  std::optional<Dims> ints(int i) const;
  // The same when all are plain integers.
  std::optional<Ints> const_ints(int i) const;
  const Tensor* constant(int i) const { return has_input(i) && inputs_[i].constant.defined() ? &inputs_[i].constant : nullptr; }
  // An attribute of dims, symbols replaced when binding.
  Dims dims_attr(std::string_view name) const;
  // A dimension or a type with symbols replaced when binding (a subgraph's types are symbolic even then).
  Dim bind(const Dim& dim) const;
  TensorType bind(const TensorType& type) const;
  Dim fresh_symbol() { return fresh_symbol_(); }

  int num_outputs() const { return static_cast<int>(outputs_.size()); }
  void set_type(int i, TensorType type) { outputs_[i].type = std::move(type); }
  void set_type(int i, DType dtype, Dims dims) { outputs_[i].type = TensorType(dtype, std::move(dims)); }
  void set_unranked(int i, DType dtype) { outputs_[i].type = TensorType::unranked(dtype); }
  void set_ints(int i, Dims contents) { outputs_[i].ints = std::move(contents); }
  std::vector<ValueInfo>& outputs() { return outputs_; }

  // Throws InvalidArgument prefixed with [op "node name"].
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_text(fmt::format(format, std::forward<Args>(args)...));
  }
  // Normalises a possibly negative axis against `rank`; fails when it is outside.
  int64_t axis(int64_t axis, int64_t rank) const;
  // NumPy broadcasting of two shapes; a symbolic dim against an unequal symbolic dim gives max(a,b). Fails on unequal constants, neither 1.
  Dims broadcast(const Dims& a, const Dims& b) const;

 private:
  [[noreturn]] void fail_text(const std::string& message) const;
  const Node& node_;
  std::vector<ValueInfo> inputs_;
  std::vector<ValueInfo> outputs_;
  std::function<Dim()> fresh_symbol_;
  const Dim::Bindings* bindings_;
};

enum Trait : uint32_t {
  kUnary = 1 << 0,      // elementwise, one input; output has its shape
  kBinary = 1 << 1,     // elementwise, two inputs, NumPy broadcasting
  kPointwise = 1 << 2,  // any elementwise op with broadcasting (kUnary and kBinary imply it; where, clip, cast too)
  kCommutative = 1 << 3,
  kView = 1 << 4,                // the output is input 0's bytes under another shape
  kNondeterministic = 1 << 5,    // random: never folded, merged or moved
  kDataDependentShape = 1 << 6,  // output shape depends on input values
  kControlFlow = 1 << 7,         // has subgraphs
  kMovement = 1 << 8,            // moves elements without computing
  kDataDependentWork = 1 << 9,   // how long it takes depends on input values: timing it on made-up contents tells nothing
};

enum class AttrKind { Int, Float, String, Ints, Floats, Strings, Dims, DType, Tensor };

struct AttrSpec {
  std::string_view name;
  AttrKind kind;
  bool required = false;
};

struct OpDef {
  std::string_view name;
  std::string_view doc;  // one line: inputs, attributes, meaning
  int min_inputs = 1;
  int max_inputs = 1;  // -1: any number
  int min_outputs = 1;
  int max_outputs = 1;  // -1: any number
  uint32_t traits = 0;
  std::vector<AttrSpec> attrs = {};
  void (*infer)(InferContext&) = nullptr;
  // The input that a run changes in place, or -1. It must be an input of the main graph (verify checks): the caller's memory, never a
  // constant, which may be a read-only mapping, nor an activation. Such a node stays, once, in its place, whether its outputs are used or
  // not; what must see the change takes one of its outputs.
  int written_input = -1;

  bool has(Trait t) const { return traits & t; }
  bool is_pointwise() const { return traits & (kUnary | kBinary | kPointwise); }
  bool is_pure() const { return !(traits & kNondeterministic) && written_input < 0; }
};

// Null when there is no such op.
const OpDef* find_op(std::string_view name);
std::span<const OpDef* const> all_ops();

}  // namespace tokamak::ir
