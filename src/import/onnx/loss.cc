// Losses, which some exported models keep.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Value;

// -scores[n, target[n, ...], ...], weighted by class; entries whose target is ignore_index weigh nothing.
void negative_log_likelihood(NodeImporter& n, Value* log_probabilities) {
  Value* target = n.cast(n.input(1), DType::I64);
  const DType dtype = log_probabilities->type.dtype;
  const std::string reduction = n.string_attr("reduction", "mean");
  if (reduction != "none" && reduction != "sum" && reduction != "mean") n.bad("attribute 'reduction' is '{}'", reduction);
  Value* valid = nullptr;
  if (n.has_attr("ignore_index")) {
    valid = n.add("not", {n.add("equal", {target, n.i64_scalar(n.int_attr("ignore_index"))})});
    target = n.add("where", {valid, target, n.i64_scalar(0)});
  }
  const int64_t rank = n.rank(target);
  Value* picked = n.add("gather_elements", {log_probabilities, n.unsqueeze(target, {1})}, {{"axis", int64_t{1}}});
  Value* loss = n.add("neg", {n.squeeze(picked, {1})});
  Value* weight = n.has_input(2) ? n.add("gather", {n.input(2), target}, {{"axis", int64_t{0}}}) : nullptr;
  if (valid) weight = n.add("where", {valid, weight ? weight : n.scalar(1, dtype), n.scalar(0, dtype)});
  if (weight) loss = n.add("mul", {loss, weight});
  const ir::Ints all = n.iota(0, rank);
  if (reduction == "sum") loss = n.reduce("reduce_sum", loss, all, false);
  if (reduction == "mean" && !weight) loss = n.reduce("reduce_mean", loss, all, false);
  if (reduction == "mean" && weight)
    loss = n.add("div", {n.reduce("reduce_sum", loss, all, false), n.reduce("reduce_sum", weight, all, false)});
  n.set_output(0, loss);
}

void negative_log_likelihood_loss(NodeImporter& n) { negative_log_likelihood(n, n.input(0)); }

void softmax_cross_entropy_loss(NodeImporter& n) {
  Value* log_probabilities = n.add("log_softmax", {n.input(0)}, {{"axis", n.axis(1, n.input(0))}});
  negative_log_likelihood(n, log_probabilities);
  n.set_output(1, log_probabilities);
}

constexpr OpImporter kImporters[] = {
    {"NegativeLogLikelihoodLoss", negative_log_likelihood_loss},
    {"SoftmaxCrossEntropyLoss", softmax_cross_entropy_loss},
};

}  // namespace

std::span<const OpImporter> loss_importers() { return kImporters; }

}  // namespace tokamak::onnx
