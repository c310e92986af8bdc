// Matrix products.

#include <algorithm>
#include <cctype>

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Dims;
using ir::Ints;
using ir::Value;

void matmul(NodeImporter& n) { n.set_output(0, n.add("matmul", {n.input(0), n.input(1)})); }

// alpha * A' * B' + beta * C, with C broadcast (before opset 7 only when told to).
void gemm(NodeImporter& n) {
  Attrs attrs;
  if (n.int_attr("transA", 0) != 0) attrs.set("trans_a", int64_t{1});
  if (n.int_attr("transB", 0) != 0) attrs.set("trans_b", int64_t{1});
  Value* a = n.input(0);
  const double alpha = n.float_attr("alpha", 1.0), beta = n.float_attr("beta", 1.0);
  if (alpha != 1.0 && is_float(a->type.dtype)) attrs.set("alpha", alpha);
  Value* y = n.add("matmul", {a, n.input(1)}, attrs);
  if (alpha != 1.0 && !is_float(a->type.dtype)) y = n.add("mul", {y, n.scalar_like(alpha, y)});
  if (n.has_input(2) && beta != 0) {
    Value* c = n.input(2);
    if (beta != 1.0) c = n.add("mul", {c, n.scalar_like(beta, c)});
    y = n.add("add", {y, c});
  }
  n.set_output(0, y);
}

void matmul_integer(NodeImporter& n) { n.set_output(0, n.add("matmul_integer", n.inputs())); }

void fused_matmul(NodeImporter& n) {
  if (n.int_attr("transBatchA", 0) != 0 || n.int_attr("transBatchB", 0) != 0) n.unsupported("it transposes batch dimensions");
  Attrs attrs;
  if (n.int_attr("transA", 0) != 0) attrs.set("trans_a", int64_t{1});
  if (n.int_attr("transB", 0) != 0) attrs.set("trans_b", int64_t{1});
  if (n.float_attr("alpha", 1.0) != 1.0) attrs.set("alpha", n.float_attr("alpha", 1.0));
  n.set_output(0, n.add("matmul", {n.input(0), n.input(1)}, attrs));
}

// --- einsum ---

// A term's labels, the ellipsis spelled out with labels of its own (digits), which line up at the end.
struct Equation {
  std::vector<std::string> terms;
  std::string result;
};

std::string spell_out(NodeImporter& n, const std::string& term, int64_t ellipsis_rank, int64_t max_ellipsis) {
  const size_t dots = term.find("...");
  if (dots == std::string::npos) return term;
  std::string labels;
  for (int64_t i = max_ellipsis - ellipsis_rank; i < max_ellipsis; ++i) labels += static_cast<char>(1 + i);
  std::string out = term;
  out.replace(dots, 3, labels);
  if (out.find('.') != std::string::npos) n.bad("term '{}' has more than one ellipsis", term);
  return out;
}

Equation parse_equation(NodeImporter& n) {
  std::string text;
  for (char c : n.string_attr("equation", ""))
    if (c != ' ') text += c;
  for (char c : text)
    if (!std::isalpha(static_cast<unsigned char>(c)) && c != ',' && c != '.' && c != '-' && c != '>')
      n.bad("equation '{}' has a strange letter", text);
  const size_t arrow = text.find("->");
  const std::string left = text.substr(0, arrow);
  Equation e;
  for (size_t at = 0;;) {
    const size_t comma = left.find(',', at);
    e.terms.push_back(left.substr(at, comma - at));
    if (comma == std::string::npos) break;
    at = comma + 1;
  }
  if (static_cast<int>(e.terms.size()) != n.num_inputs())
    n.bad("equation '{}' has {} terms for {} inputs", text, e.terms.size(), n.num_inputs());
  int64_t max_ellipsis = 0;
  std::vector<int64_t> ellipsis(e.terms.size(), 0);
  for (size_t i = 0; i < e.terms.size(); ++i) {
    const bool has_dots = e.terms[i].find("...") != std::string::npos;
    const int64_t letters = static_cast<int64_t>(e.terms[i].size()) - (has_dots ? 3 : 0);
    const int64_t rank = n.rank(n.input(static_cast<int>(i)));
    if (rank < letters || (!has_dots && rank != letters)) n.bad("term '{}' does not fit an input of {} dimensions", e.terms[i], rank);
    ellipsis[i] = has_dots ? rank - letters : 0;
    max_ellipsis = std::max(max_ellipsis, ellipsis[i]);
  }
  if (max_ellipsis > 20) n.unsupported("an ellipsis stands for more than 20 dimensions");
  for (size_t i = 0; i < e.terms.size(); ++i) e.terms[i] = spell_out(n, e.terms[i], ellipsis[i], max_ellipsis);
  if (arrow != std::string::npos) {
    e.result = spell_out(n, text.substr(arrow + 2), max_ellipsis, max_ellipsis);
  } else {  // the ellipsis, then letters that occur once, in order
    std::string all;
    for (const auto& term : e.terms) all += term;
    std::string letters = all;
    std::sort(letters.begin(), letters.end());
    letters.erase(std::unique(letters.begin(), letters.end()), letters.end());
    for (char c : letters)
      if (c <= 20 || std::count(all.begin(), all.end(), c) == 1) e.result += c;
  }
  for (char c : e.result)
    if (std::none_of(e.terms.begin(), e.terms.end(), [&](const std::string& t) { return t.find(c) != std::string::npos; }))
      n.bad("equation '{}' has a result letter that no term has", text);
  return e;
}

// One operand on its way through: a value and a label for each dimension.
struct Operand {
  Value* value;
  std::string labels;
};

Operand permute(NodeImporter& n, Operand x, const std::string& order) {
  Ints perm;
  for (char c : order) perm.push_back(static_cast<int64_t>(x.labels.find(c)));
  return {n.transpose(x.value, perm), order};
}

Operand sum_over(NodeImporter& n, Operand x, const std::string& keep) {
  Ints axes;
  std::string rest;
  for (size_t i = 0; i < x.labels.size(); ++i) {
    if (keep.find(x.labels[i]) == std::string::npos) axes.push_back(static_cast<int64_t>(i));
    else rest += x.labels[i];
  }
  return axes.empty() ? x : Operand{n.reduce("reduce_sum", x.value, axes, false), rest};
}

// A label twice in one term takes the diagonal: mask with a comparison of positions, sum one of the two away.
Operand take_diagonals(NodeImporter& n, Operand x) {
  for (size_t i = 0; i < x.labels.size(); ++i) {
    const size_t j = x.labels.find(x.labels[i], i + 1);
    if (j == std::string::npos) continue;
    const int64_t rank = static_cast<int64_t>(x.labels.size());
    const auto positions = [&](size_t axis) {
      Value* size = n.squeeze(n.dim_of(x.value, static_cast<int64_t>(axis)), {0});
      Value* range = n.add("range", {n.i64_scalar(0), size, n.i64_scalar(1)});
      return n.unsqueeze(range, n.iota(1, rank - static_cast<int64_t>(axis)));
    };
    Value* on = n.add("equal", {positions(i), positions(j)});
    Value* masked = n.add("where", {on, x.value, n.scalar_like(0, x.value)});
    x.value = n.reduce("reduce_sum", masked, {static_cast<int64_t>(j)}, false);
    x.labels.erase(j, 1);
    --i;
  }
  return x;
}

// Aligns x to `labels` (its own in that order, ones elsewhere).
Value* align(NodeImporter& n, Operand x, const std::string& labels) {
  std::string order;
  Ints missing;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (x.labels.find(labels[i]) != std::string::npos) order += labels[i];
    else missing.push_back(static_cast<int64_t>(i));
  }
  return n.unsqueeze(permute(n, x, order).value, missing);
}

bool same_dims(const Operand& a, const Operand& b, char label) {
  return a.value->type.dims[a.labels.find(label)] == b.value->type.dims[b.labels.find(label)];
}

// Product of two operands, summed over what `keep` does not name. As one matmul when the labels sort into batch, m, k and n with at most
// one label each for m, k, n; else by broadcasting multiplication and a sum.
Operand contract(NodeImporter& n, Operand a, Operand b, const std::string& keep) {
  const auto has = [](const std::string& s, char c) { return s.find(c) != std::string::npos; };
  a = sum_over(n, a, keep + b.labels);
  b = sum_over(n, b, keep + a.labels);
  std::string batch, m, k, columns;
  bool equal_dims = true;
  for (char c : a.labels) {
    (has(b.labels, c) ? (has(keep, c) ? batch : k) : m) += c;
    if (has(b.labels, c)) equal_dims &= same_dims(a, b, c);
  }
  for (char c : b.labels)
    if (!has(a.labels, c)) columns += c;
  if (k.size() == 1 && m.size() <= 1 && columns.size() <= 1 && equal_dims) {
    Value* left = permute(n, a, batch + m + k).value;
    Value* right = permute(n, b, batch + k + columns).value;
    const int64_t rank = static_cast<int64_t>(batch.size());
    if (m.empty()) left = n.unsqueeze(left, {rank});
    if (columns.empty()) right = n.unsqueeze(right, {rank + 1});
    Value* y = n.add("matmul", {left, right});
    Ints drop;
    if (m.empty()) drop.push_back(rank);
    if (columns.empty()) drop.push_back(rank + 1);
    return {drop.empty() ? y : n.squeeze(y, drop), batch + m + columns};
  }
  std::string all = a.labels;
  for (char c : b.labels)
    if (!has(a.labels, c)) all += c;
  Operand product{n.add("mul", {align(n, a, all), align(n, b, all)}), all};
  return sum_over(n, product, keep);
}

void einsum(NodeImporter& n) {
  const Equation e = parse_equation(n);
  std::vector<Operand> operands;
  for (size_t i = 0; i < e.terms.size(); ++i) operands.push_back(take_diagonals(n, {n.input(static_cast<int>(i)), e.terms[i]}));
  Operand x = operands[0];
  for (size_t i = 1; i < operands.size(); ++i) {
    std::string keep = e.result;
    for (size_t j = i + 1; j < operands.size(); ++j) keep += operands[j].labels;
    x = contract(n, x, operands[i], keep);
  }
  x = sum_over(n, x, e.result);
  n.set_output(0, permute(n, x, e.result).value);
}

constexpr OpImporter kImporters[] = {
    {"MatMul", matmul},
    {"Gemm", gemm},
    {"MatMulInteger", matmul_integer},
    {"Einsum", einsum},
    {"FusedMatMul", fused_matmul, 1, 1 << 20, "com.microsoft"},
    {"Einsum", einsum, 1, 1 << 20, "com.microsoft"},
};

}  // namespace

std::span<const OpImporter> linear_importers() { return kImporters; }

}  // namespace tokamak::onnx
