#include "ir/expr.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace tokamak::ir {
namespace {

constexpr int kMaxInstructions = 256;
constexpr int kMaxIndex = 255;

struct FunctionInfo {
  std::string_view name;
  int arity;
};

// Attributes of the op become trailing operands, in the order docs/ops.md lists them: leaky_relu(x, alpha), hard_sigmoid(x, alpha, beta),
// clip(x, lo, hi). `mod` is C's fmod, `isinf` accepts both signs.
constexpr FunctionInfo kFunctions[] = {
    {"abs", 1},      {"neg", 1},           {"exp", 1},      {"log", 1},        {"log1p", 1},     {"expm1", 1}, {"sqrt", 1},
    {"rsqrt", 1},    {"reciprocal", 1},    {"sin", 1},      {"cos", 1},        {"tan", 1},       {"asin", 1},  {"acos", 1},
    {"atan", 1},     {"sinh", 1},          {"cosh", 1},     {"tanh", 1},       {"asinh", 1},     {"acosh", 1}, {"atanh", 1},
    {"erf", 1},      {"sigmoid", 1},       {"relu", 1},     {"gelu", 1},       {"gelu_tanh", 1}, {"silu", 1},  {"softplus", 1},
    {"softsign", 1}, {"sign", 1},          {"ceil", 1},     {"floor", 1},      {"round", 1},     {"not", 1},   {"isnan", 1},
    {"isinf", 1},    {"hard_swish", 1},    {"mish", 1},     {"leaky_relu", 2}, {"elu", 2},       {"celu", 2},  {"thresholded_relu", 2},
    {"selu", 3},     {"hard_sigmoid", 3},  {"shrink", 3},   {"add", 2},        {"sub", 2},       {"mul", 2},   {"div", 2},
    {"pow", 2},      {"mod", 2},           {"min", 2},      {"max", 2},        {"equal", 2},     {"less", 2},  {"less_equal", 2},
    {"greater", 2},  {"greater_equal", 2}, {"and", 2},      {"or", 2},         {"xor", 2},       {"prelu", 2}, {"where", 3},
    {"clip", 3},     {"row_sum", 1},       {"row_mean", 1}, {"row_max", 1},    {"row_min", 1},
};

bool is_name_char(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Expr parse() {
    Expr expr;
    while (true) {
      const std::string_view word = name();
      if (word == "ret") break;
      const size_t n = expr.code.size();
      if (n >= kMaxInstructions) error(fmt::format("more than {} instructions", kMaxInstructions));
      if (word != fmt::format("t{}", n)) error(fmt::format("expected 't{}' or 'ret', found '{}'", n, word));
      expect('=');
      ExprInstruction instruction;
      instruction.function = name();
      const int arity = expr_function_arity(instruction.function);
      if (arity < 0) error(fmt::format("unknown function '{}'", instruction.function));
      expect('(');
      instruction.operands = operands(n, ')');
      expect(')');
      if (static_cast<int>(instruction.operands.size()) != arity)
        error(fmt::format("{} takes {} operands, found {}", instruction.function, arity, instruction.operands.size()));
      expect(';');
      expr.code.push_back(std::move(instruction));
    }
    expr.results = operands(expr.code.size(), '\0');
    skip_space();
    if (at_ < text_.size() && text_[at_] == ';') ++at_;
    skip_space();
    if (at_ != text_.size()) error("text after the results");
    if (expr.results.empty()) error("no results");
    return expr;
  }

 private:
  [[noreturn]] void error(const std::string& what) const {
    fail(ErrorCode::Corrupt, "expression, column {}: {} in \"{}\"", at_ + 1, what, text_.substr(0, 200));
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  void expect(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) error(fmt::format("expected '{}'", c));
    ++at_;
  }
  std::string_view name() {
    skip_space();
    const size_t begin = at_;
    while (at_ < text_.size() && is_name_char(text_[at_])) ++at_;
    if (begin == at_) error("expected a name");
    return text_.substr(begin, at_ - begin);
  }
  std::vector<ExprOperand> operands(size_t defined, char end) {
    std::vector<ExprOperand> list;
    skip_space();
    if (at_ < text_.size() && text_[at_] == end) return list;
    while (true) {
      if (list.size() > kMaxIndex) error("too many operands");
      list.push_back(operand(defined));
      skip_space();
      if (at_ >= text_.size() || text_[at_] != ',') return list;
      ++at_;
    }
  }
  ExprOperand operand(size_t defined) {
    skip_space();
    const char* const begin = text_.data() + at_;
    const char* const end = text_.data() + text_.size();
    if (begin == end) error("expected an operand");
    ExprOperand operand;
    const bool indexed = begin + 1 < end && begin[1] >= '0' && begin[1] <= '9';
    if (indexed && (*begin == 'i' || *begin == 't')) {
      operand.kind = *begin == 'i' ? ExprOperand::Input : ExprOperand::Temp;
      const auto [stop, status] = std::from_chars(begin + 1, end, operand.index);
      if (status != std::errc() || operand.index > kMaxIndex) error("index too large");
      if (operand.kind == ExprOperand::Temp && static_cast<size_t>(operand.index) >= defined)
        error(fmt::format("t{} used before its definition", operand.index));
      at_ += stop - begin;
    } else {
      operand.kind = ExprOperand::Literal;
      const auto [stop, status] = std::from_chars(begin, end, operand.literal);
      if (status == std::errc::result_out_of_range) {  // 1e99 or 1e-99: from_chars leaves the value alone
        double wide = 0;
        const auto [again, wide_status] = std::from_chars(begin, end, wide);
        if (again != stop || wide_status != std::errc()) error("number out of range");
        operand.literal = static_cast<float>(wide);
      } else if (status != std::errc()) {
        error("expected i<n>, t<n> or a number");
      }
      at_ += stop - begin;
    }
    if (at_ < text_.size() && (is_name_char(text_[at_]) || text_[at_] == '.')) error("malformed operand");
    return operand;
  }

  std::string_view text_;
  size_t at_ = 0;
};

std::string print(const ExprOperand& operand) {
  if (operand.kind == ExprOperand::Input) return fmt::format("i{}", operand.index);
  if (operand.kind == ExprOperand::Temp) return fmt::format("t{}", operand.index);
  if (std::isnan(operand.literal)) return "nan";
  return fmt::format("{}", operand.literal);
}

std::string print(const std::vector<ExprOperand>& operands) {
  std::string text;
  for (const ExprOperand& operand : operands) {
    if (!text.empty()) text += ", ";
    text += print(operand);
  }
  return text;
}

}  // namespace

int Expr::num_inputs() const {
  int count = 0;
  const auto visit = [&](const ExprOperand& operand) {
    if (operand.kind == ExprOperand::Input) count = std::max(count, operand.index + 1);
  };
  for (const ExprInstruction& instruction : code)
    for (const ExprOperand& operand : instruction.operands) visit(operand);
  for (const ExprOperand& operand : results) visit(operand);
  return count;
}

bool Expr::has_row_reduction() const {
  return std::any_of(code.begin(), code.end(), [](const ExprInstruction& i) { return is_row_reduction(i.function); });
}

std::string Expr::to_string() const {
  std::string text;
  for (size_t i = 0; i < code.size(); ++i) text += fmt::format("t{} = {}({}); ", i, code[i].function, print(code[i].operands));
  return text + "ret " + print(results);
}

Expr Expr::parse(std::string_view text) { return Parser(text).parse(); }

int expr_function_arity(std::string_view function) {
  for (const FunctionInfo& info : kFunctions)
    if (info.name == function) return info.arity;
  return -1;
}

bool is_row_reduction(std::string_view function) { return function.starts_with("row_") && expr_function_arity(function) == 1; }

}  // namespace tokamak::ir
