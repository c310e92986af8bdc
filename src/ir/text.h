#pragma once
// The IR's text form: what --dump-ir shows, what pass tests are written in, and the graph section of an engine file.
//
//   graph main(%x: f32[batch,3,8,8], %n: i64[]) {
//     %w = const f32[8,3,3,3] @0                          # bytes live in the constant table, entry 0
//     %b = const f32[8] {0.5, 1, 1, 1, 1, 1, 1, 1}        # inline
//     %z = const f32[4096] splat {0}                      # every element the same
//     %p = const f32[64,64] @1 layout "gemm.nr64"         # packed; bytes in the table
//     %y: f32[batch,8,6,6] = conv(%x, %w, %b) {group=1, pads=[0,0,0,0], strides=[1,1]} "Conv_3" origin "Conv_3+Relu_4" kernel "avx512.conv"
//     "mr=6" %v: f32[2], %i: i64[2] = topk(%y, _) {axis=-1}      # _ is an absent input %r: f32[*] = if(%c) with graph then() { ... return
//     %a } with graph else() { ... return %b } return %y, %v
//   }
//
// Attribute values: 3 (int) 0.5 or 1e-5 or 2.0 (float) "text" [1,2] (ints) f[0.5,2.0] (floats) s["a","b"] (strings) <batch,seq*2> (dims)
// f32 (dtype) dense f32[2]{1,2} (tensor). Names that are not [A-Za-z0-9_./:-]+ are quoted: %"a b". `#` starts a comment.

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "ir/graph.h"

namespace tokamak::ir {

struct PrintOptions {
  bool types = true;
  bool tactics = true;
  // Returns an entry of the caller's constant table for a constant, or -1 to print it inline. By default constants of up to 16 elements are
  // inline and longer ones print as `@-1` (readable, not parseable back).
  std::function<int64_t(const Value&)> constant_entry;
};

std::string print(const Graph& graph, const PrintOptions& options = {});

// The attribute dictionary as it stands in a node's text: " {axis=1, ...}", empty when there are none.
std::string print_attrs(const Attrs& attrs);

struct ParseOptions {
  // Gives the tensor of a table entry; `declared` holds dtype, shape and layout. Absent: `@n` is an error.
  std::function<Tensor(int64_t entry, DType dtype, const Shape& shape, const std::string& layout)> constant;
  // Infer types of outputs written without one; needs every op's inference.
  bool infer = true;
};

// Throws Corrupt with line and column. Safe on hostile text: nesting, sizes and counts are bounded.
std::unique_ptr<Graph> parse(std::string_view text, const ParseOptions& options = {});

}  // namespace tokamak::ir
