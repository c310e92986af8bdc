#pragma once
// Small helpers that keep patterns short: looking at producers and constants, and replacing values.

#include <optional>
#include <string_view>

#include "ir/graph.h"
#include "ir/op.h"

namespace tokamak::passes {

using ir::Attrs;
using ir::Dim;
using ir::Dims;
using ir::Graph;
using ir::Ints;
using ir::Node;
using ir::Value;

// The node that makes `v` if it is an `op`, else null (`v` may be null).
Node* producer(const Value* v, std::string_view op);
// The same, and nothing else uses `v`.
Node* sole_producer(const Value* v, std::string_view op);
// The one node that uses `v` (any number of times), when `v` is not a graph output; else null.
Node* sole_user(const Value* v);
// Of a binary node, the operand that is not `v`; null when neither is or both are.
Value* other_operand(const Node* node, const Value* v);

// The value of a constant with one element.
std::optional<double> scalar_of(const Value* v);
// The value that every element of a constant has (up to 1 Mi elements are looked at).
std::optional<double> splat_of(const Value* v);
// A one-element constant within a relative tolerance of `expected`.
bool is_scalar(const Value* v, double expected, double tolerance = 1e-4);
// Of a commutative binary node: the operand beside a one-element constant, whose value is stored; null when there is none.
Value* beside_scalar(const Node* node, double* scalar);
// The operand beside a constant near `expected`.
Value* beside(const Node* node, double expected, double tolerance = 1e-4);

// Plain integers a value is known to hold.
std::optional<Ints> known_ints(const Value* v);
bool is_float(const Value* v);
bool same_dims(const Value* a, const Value* b);  // both ranked, provably equal
bool is_f32(const Value* v);
int64_t rank_of(const Value* v);                              // -1 when unranked
std::optional<Dims> broadcast(const Dims& a, const Dims& b);  // nullopt when it cannot be proved
// True when every dim is 1 except possibly the last, which is `columns`: a per-column operand.
bool is_row_vector(const Value* v, const Dim& columns);
bool is_identity_perm(const Ints& perm);
Ints inverse_perm(const Ints& perm);
Ints compose_perm(const Ints& first, const Ints& then);  // transpose(transpose(x, first), then) == transpose(x, result)
Dims permuted(const Dims& dims, const Ints& perm);
Ints normalized_axes(const Ints& axes, int64_t rank);
Ints perm_of(const Node* transpose);  // reversed axes when the attribute is absent

// Names that are symbols of the model's inputs: the only ones that a dims attribute may mention.
bool only_input_symbols(const Graph& graph, const Dims& dims);

Value* constant_f32(Graph& graph, ir::Ints shape, const std::vector<float>& values, const std::string& name = "");
Value* scalar_f32(Graph& graph, double value);
// Elements of an f32 constant.
std::vector<float> floats_of(const Value* v);

// Every use of `from`, and its place among the graph outputs, becomes `to`; an output keeps its name. Where `to` cannot be an output
// itself (an input, a constant, an output already) an identity stands between.
void replace(Value* from, Value* to);
// Removes the node if nothing uses its outputs, then its producers in the same way.
void erase_if_dead(Node* node);
// "a+b": the source nodes that a new node stands for.
std::string merged_origin(std::initializer_list<const Node*> nodes);
std::string merged_origin(const std::vector<const Node*>& nodes);

}  // namespace tokamak::passes
