#include "llm/template/expression_parser.h"

#include <charconv>

namespace tokamak::llm::jinja {

ExpressionPtr ExpressionParser::tuple(bool with_conditional) {
  const int at_line = line();
  const auto part = [&] { return with_conditional ? expression() : or_expression(); };
  ExpressionPtr first = part();
  if (!at_op(",")) return first;
  std::vector<ExpressionPtr> items;
  items.push_back(std::move(first));
  while (skip_op(",")) {
    if (at_tuple_end()) break;
    items.push_back(part());
  }
  return std::make_unique<ListLiteral>(at_line, std::move(items), List::Kind::Tuple);
}

bool ExpressionParser::at_tuple_end() const {
  return peek().kind == Kind::BlockEnd || peek().kind == Kind::PrintEnd || at_op(")") || at_name("if") || at_name("recursive");
}

ExpressionPtr ExpressionParser::expression() {
  const Nesting nesting(*this);
  const int at_line = line();
  ExpressionPtr value = or_expression();
  while (skip_name("if")) {
    ExpressionPtr condition = or_expression(), otherwise;
    if (skip_name("else")) otherwise = expression();
    value = std::make_unique<Conditional>(at_line, std::move(condition), std::move(value), std::move(otherwise));
  }
  return value;
}

ExpressionPtr ExpressionParser::or_expression() {
  const Nesting nesting(*this);
  const int at_line = line();
  ExpressionPtr left = and_expression();
  while (skip_name("or")) left = std::make_unique<Binary>(at_line, Binary::Op::Or, std::move(left), and_expression());
  return left;
}

ExpressionPtr ExpressionParser::and_expression() {
  const int at_line = line();
  ExpressionPtr left = not_expression();
  while (skip_name("and")) left = std::make_unique<Binary>(at_line, Binary::Op::And, std::move(left), not_expression());
  return left;
}

ExpressionPtr ExpressionParser::not_expression() {
  const int at_line = line();
  if (skip_name("not")) {
    const Nesting nesting(*this);
    return std::make_unique<Unary>(at_line, Unary::Op::Not, not_expression());
  }
  return comparison();
}

ExpressionPtr ExpressionParser::comparison() {
  const int at_line = line();
  ExpressionPtr first = sum();
  std::vector<std::pair<Comparison::Op, ExpressionPtr>> rest;
  for (;;) {
    Comparison::Op op;
    if (skip_op("==")) op = Comparison::Op::Equal;
    else if (skip_op("!=")) op = Comparison::Op::NotEqual;
    else if (skip_op("<")) op = Comparison::Op::Less;
    else if (skip_op("<=")) op = Comparison::Op::LessEqual;
    else if (skip_op(">")) op = Comparison::Op::Greater;
    else if (skip_op(">=")) op = Comparison::Op::GreaterEqual;
    else if (skip_name("in")) op = Comparison::Op::In;
    else if (at_name("not") && peek(1).kind == Kind::Name && peek(1).text == "in") next(), next(), op = Comparison::Op::NotIn;
    else break;
    rest.emplace_back(op, sum());
  }
  if (rest.empty()) return first;
  return std::make_unique<Comparison>(at_line, std::move(first), std::move(rest));
}

ExpressionPtr ExpressionParser::sum() {
  const int at_line = line();
  ExpressionPtr left = concatenation();
  for (;;) {
    const bool plus = at_op("+");
    if (!plus && !at_op("-")) return left;
    next();
    left = std::make_unique<Binary>(at_line, plus ? Binary::Op::Add : Binary::Op::Subtract, std::move(left), concatenation());
  }
}

ExpressionPtr ExpressionParser::concatenation() {
  const int at_line = line();
  std::vector<ExpressionPtr> parts;
  parts.push_back(product());
  while (skip_op("~")) parts.push_back(product());
  if (parts.size() == 1) return std::move(parts.front());
  return std::make_unique<Concatenation>(at_line, std::move(parts));
}

ExpressionPtr ExpressionParser::product() {
  const int at_line = line();
  ExpressionPtr left = exponentiation();
  for (;;) {
    Binary::Op op;
    if (skip_op("*")) op = Binary::Op::Multiply;
    else if (skip_op("/")) op = Binary::Op::Divide;
    else if (skip_op("//")) op = Binary::Op::FloorDivide;
    else if (skip_op("%")) op = Binary::Op::Modulo;
    else return left;
    left = std::make_unique<Binary>(at_line, op, std::move(left), exponentiation());
  }
}

ExpressionPtr ExpressionParser::exponentiation() {
  const int at_line = line();
  ExpressionPtr left = unary(true);
  while (skip_op("**")) left = std::make_unique<Binary>(at_line, Binary::Op::Power, std::move(left), unary(true));
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const int at_line = line();
  ExpressionPtr value;
  if (at_op("-") || at_op("+")) {
    const Nesting nesting(*this);
    const auto op = next().text == "-" ? Unary::Op::Negative : Unary::Op::Positive;
    value = std::make_unique<Unary>(at_line, op, unary(false));
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filter ? filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const int at_line = line();
  const Token& token = peek();
  switch (token.kind) {
    case Kind::Name: {
      const std::string name = next().text;
      if (name == "true" || name == "True") return std::make_unique<Constant>(at_line, true);
      if (name == "false" || name == "False") return std::make_unique<Constant>(at_line, false);
      if (name == "none" || name == "None") return std::make_unique<Constant>(at_line, None());
      names_varargs_ = names_varargs_ || name == "varargs";
      names_kwargs_ = names_kwargs_ || name == "kwargs";
      return std::make_unique<Name>(at_line, name);
    }
    case Kind::String: {
      std::string text;
      while (peek().kind == Kind::String) text += next().text;
      return std::make_unique<Constant>(at_line, std::move(text));
    }
    case Kind::Integer: return std::make_unique<Constant>(at_line, integer(next().text));
    case Kind::Float: {
      const std::string& digits = next().text;
      double d = 0;
      std::from_chars(digits.data(), digits.data() + digits.size(), d);
      return std::make_unique<Constant>(at_line, d);
    }
    case Kind::Operator:
      if (at_op("(")) return parenthesized();
      if (at_op("[")) return list_literal();
      if (at_op("{")) return dict_literal();
      [[fallthrough]];
    default: error(fmt::format("expected an expression, found {}", describe()));
  }
}

int64_t ExpressionParser::integer(std::string_view digits) const {
  int base = 10;
  if (digits.size() > 2 && digits[0] == '0' && digits[1] > '9') {
    base = digits[1] == 'x' ? 16 : digits[1] == 'o' ? 8 : 2;
    digits.remove_prefix(2);
  }
  int64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (result.ec != std::errc()) error("an integer does not fit 64 bits");
  return value;
}

ExpressionPtr ExpressionParser::parenthesized() {
  const int at_line = line();
  expect_op("(");
  if (skip_op(")")) return std::make_unique<ListLiteral>(at_line, std::vector<ExpressionPtr>(), List::Kind::Tuple);
  ExpressionPtr value = tuple(true);
  expect_op(")");
  return value;
}

ExpressionPtr ExpressionParser::list_literal() {
  const int at_line = line();
  expect_op("[");
  std::vector<ExpressionPtr> items;
  while (!skip_op("]")) {
    if (!items.empty()) {
      expect_op(",");
      if (skip_op("]")) break;
    }
    items.push_back(expression());
  }
  return std::make_unique<ListLiteral>(at_line, std::move(items), List::Kind::List);
}

ExpressionPtr ExpressionParser::dict_literal() {
  const int at_line = line();
  expect_op("{");
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
  while (!skip_op("}")) {
    if (!entries.empty()) {
      expect_op(",");
      if (skip_op("}")) break;
    }
    ExpressionPtr key = expression();
    expect_op(":");
    entries.emplace_back(std::move(key), expression());
  }
  return std::make_unique<DictLiteral>(at_line, std::move(entries));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  for (;;) {
    const int at_line = line();
    if (skip_op(".")) {
      if (peek().kind == Kind::Integer) {
        value = std::make_unique<Item>(at_line, std::move(value), std::make_unique<Constant>(at_line, integer(next().text)));
      } else {
        value = std::make_unique<Attribute>(at_line, std::move(value), identifier());
      }
    } else if (at_op("[")) {
      value = subscript(std::move(value));
    } else if (at_op("(")) {
      value = std::make_unique<Call>(at_line, std::move(value), arguments());
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr object) {
  const int at_line = line();
  expect_op("[");
  ExpressionPtr start, stop, step;
  bool slice = false;
  if (!at_op(":")) start = tuple_in_brackets();
  if (skip_op(":")) {
    slice = true;
    if (!at_op(":") && !at_op("]")) stop = expression();
    if (skip_op(":") && !at_op("]")) step = expression();
  }
  expect_op("]");
  if (slice) return std::make_unique<Slice>(at_line, std::move(object), std::move(start), std::move(stop), std::move(step));
  return std::make_unique<Item>(at_line, std::move(object), std::move(start));
}

ExpressionPtr ExpressionParser::tuple_in_brackets() {
  ExpressionPtr first = expression();
  if (at_op(",")) error("a subscript of several values is not supported");
  return first;
}

CallArguments ExpressionParser::arguments() {
  CallArguments made;
  expect_op("(");
  bool first = true;
  while (!skip_op(")")) {
    if (!std::exchange(first, false)) {
      expect_op(",");
      if (skip_op(")")) break;
    }
    if (skip_op("*")) {
      if (made.unpacked_list) error("more than one '*'");
      made.unpacked_list = expression();
    } else if (skip_op("**")) {
      if (made.unpacked_dict) error("more than one '**'");
      made.unpacked_dict = expression();
    } else if (peek().kind == Kind::Name && peek(1).kind == Kind::Operator && peek(1).text == "=") {
      std::string name = identifier();
      next();
      made.named.emplace_back(std::move(name), expression());
    } else {
      if (!made.named.empty()) error("an argument by place behind one by name");
      made.positional.push_back(expression());
    }
  }
  return made;
}

std::unique_ptr<const Filter> ExpressionParser::filter(ExpressionPtr input) {
  const int at_line = line();
  std::string name = identifier();
  while (skip_op(".")) name += "." + identifier();
  CallArguments args;
  if (at_op("(")) args = arguments();
  return std::make_unique<Filter>(at_line, std::move(input), std::move(name), std::move(args));
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr value) {
  for (;;) {
    if (skip_op("|")) {
      value = filter(std::move(value));
    } else if (at_name("is")) {
      value = test(std::move(value));
    } else if (at_op("(")) {
      const int at_line = line();
      value = std::make_unique<Call>(at_line, std::move(value), arguments());
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr input) {
  const int at_line = line();
  expect_name("is");
  const bool negated = skip_name("not");
  std::string name;
  if (at_op("==") || at_op("!=") || at_op("<") || at_op("<=") || at_op(">") || at_op(">=")) {
    name = next().text;
  } else {
    name = identifier();
  }
  while (skip_op(".")) name += "." + identifier();
  CallArguments args;
  if (at_op("(")) {
    args = arguments();
  } else if (at_argument()) {
    if (at_name("is")) error("tests cannot be chained with 'is'");
    const Nesting nesting(*this);
    ExpressionPtr argument = primary();
    args.positional.push_back(postfix(std::move(argument)));
  }
  return std::make_unique<Test>(at_line, std::move(input), std::move(name), std::move(args), negated);
}

bool ExpressionParser::at_argument() const {
  switch (peek().kind) {
    case Kind::Name: return !at_name("else") && !at_name("or") && !at_name("and");
    case Kind::String:
    case Kind::Integer:
    case Kind::Float: return true;
    default: return at_op("[") || at_op("{");
  }
}

}  // namespace tokamak::llm::jinja
