#include "llm/template/parser.h"

#include <charconv>

#include "base/error.h"
#include "llm/template/lexer.h"

namespace tokamak::llm::jinja {

namespace {

using Kind = Token::Kind;

class Parser {
 public:
  Parser(std::string_view source, int max_depth) : tokens_(tokenize(source)), max_depth_(max_depth) {}

  Block run() {
    Block body = block({});
    if (peek().kind != Kind::End) error("unexpected end of a block");
    return body;
  }

 private:
  // Depth of the parser's own recursion, all of which goes through one of these; heights of expressions are the nodes' business.
  class Nesting {
   public:
    explicit Nesting(Parser& p) : parser_(p) {
      if (++parser_.depth_ > parser_.max_depth_) parser_.error("nested too deeply");
    }
    ~Nesting() { --parser_.depth_; }

   private:
    Parser& parser_;
  };

  [[noreturn]] void error(std::string_view message) const { template_error(peek().line, message); }

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  int line() const { return peek().line; }
  const Token& next() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }

  bool at(Kind kind, std::string_view text) const { return peek().kind == kind && peek().text == text; }
  bool at_name(std::string_view name) const { return at(Kind::Name, name); }
  bool at_op(std::string_view op) const { return at(Kind::Operator, op); }
  bool skip_name(std::string_view name) {
    if (!at_name(name)) return false;
    next();
    return true;
  }
  bool skip_op(std::string_view op) {
    if (!at_op(op)) return false;
    next();
    return true;
  }

  std::string describe() const {
    switch (peek().kind) {
      case Kind::Text: return "text";
      case Kind::BlockBegin: return "'{%'";
      case Kind::BlockEnd: return "the end of the block";
      case Kind::PrintBegin: return "'{{'";
      case Kind::PrintEnd: return "the end of the expression";
      case Kind::End: return "the end of the template";
      default: return "'" + peek().text + "'";
    }
  }

  void expect_op(std::string_view op) {
    if (!skip_op(op)) error(fmt::format("expected '{}', found {}", op, describe()));
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) error(fmt::format("expected '{}', found {}", name, describe()));
  }
  void expect_block_end() {
    if (peek().kind != Kind::BlockEnd) error(fmt::format("expected the end of the block, found {}", describe()));
    next();
  }
  std::string identifier() {
    if (peek().kind != Kind::Name) error(fmt::format("expected a name, found {}", describe()));
    return next().text;
  }

  // Statements

  bool at_any(const std::vector<std::string_view>& names) const {
    for (const std::string_view name : names) {
      if (peek(1).kind == Kind::Name && peek(1).text == name) return true;
    }
    return false;
  }

  // Statements up to `{% name`, one of `ends`, which stays; at the top up to the end.
  Block block(const std::vector<std::string_view>& ends) {
    const Nesting nesting(*this);
    const int begin = line();
    Block body;
    for (;;) {
      const Token& token = peek();
      if (token.kind == Kind::End) {
        if (!ends.empty()) template_error(begin, fmt::format("a block misses its '{}'", ends.back()));
        return body;
      }
      if (token.kind == Kind::Text) {
        body.push_back(std::make_unique<Text>(token.line, token.text));
        next();
      } else if (token.kind == Kind::PrintBegin) {
        next();
        auto printed = tuple(true);
        if (peek().kind != Kind::PrintEnd) error(fmt::format("expected the end of the expression, found {}", describe()));
        next();
        body.push_back(std::make_unique<Print>(token.line, std::move(printed)));
      } else {
        if (at_any(ends)) return body;
        next();
        body.push_back(statement());
      }
    }
  }

  // {% ... endX %}: the statements, past the end tag's name and its block end.
  Block body_until(std::string_view end) {
    Block body = block({end});
    next();
    next();
    expect_block_end();
    return body;
  }

  std::unique_ptr<const Statement> statement() {
    const int at_line = line();
    const std::string keyword = identifier();
    if (keyword == "if") return if_statement(at_line);
    if (keyword == "for") return for_statement(at_line);
    if (keyword == "set") return set_statement(at_line);
    if (keyword == "macro") return macro_statement(at_line);
    if (keyword == "call") return call_statement(at_line);
    if (keyword == "filter") return filter_statement(at_line);
    if (keyword == "with") return with_statement(at_line);
    if (keyword == "generation") {
      expect_block_end();
      auto made = std::make_unique<With>(at_line);
      const int loops = std::exchange(loops_, 0);
      made->body = body_until("endgeneration");
      loops_ = loops;
      return made;
    }
    if (keyword == "print") {
      auto made = std::make_unique<Print>(at_line, tuple(true));
      expect_block_end();
      return made;
    }
    if (keyword == "break" || keyword == "continue") {
      if (loops_ == 0) template_error(at_line, fmt::format("'{}' outside a loop", keyword));
      expect_block_end();
      return std::make_unique<Jump>(at_line, keyword == "break" ? Flow::Break : Flow::Continue);
    }
    template_error(at_line,
                   fmt::format("the statement '{}' is unknown or not for chat templates (known: if, for, set, macro, call, filter, with, "
                               "generation, print, break, continue, raw)",
                               keyword));
  }

  std::unique_ptr<const Statement> if_statement(int at_line) {
    auto made = std::make_unique<If>(at_line);
    for (;;) {
      auto condition = tuple(false);
      expect_block_end();
      made->branches.emplace_back(std::move(condition), block({"elif", "else", "endif"}));
      next();
      const std::string end = identifier();
      if (end == "elif") continue;
      expect_block_end();
      if (end == "else") made->otherwise = body_until("endif");
      return made;
    }
  }

  std::unique_ptr<const Statement> for_statement(int at_line) {
    auto made = std::make_unique<For>(at_line);
    made->target = target("in", false);
    expect_name("in");
    made->iterable = tuple(false);
    if (skip_name("if")) made->filter = expression();
    if (at_name("recursive")) error("recursive loops are not supported");
    expect_block_end();
    ++loops_;
    made->body = block({"else", "endfor"});
    --loops_;
    next();
    if (identifier() == "else") {
      expect_block_end();
      made->otherwise = body_until("endfor");
    } else {
      expect_block_end();
    }
    return made;
  }

  std::unique_ptr<const Statement> set_statement(int at_line) {
    auto made = std::make_unique<Set>(at_line);
    made->target = target("", true);
    if (skip_op("=")) {
      made->value = tuple(true);
      expect_block_end();
      return made;
    }
    made->filters = filters(at_op("|"));
    expect_block_end();
    made->body = body_until("endset");
    return made;
  }

  // Filters of a block: `|a|b` or, for {% filter a|b %}, without the first bar.
  std::vector<std::unique_ptr<const Filter>> filters(bool present) {
    std::vector<std::unique_ptr<const Filter>> made;
    if (!present) return made;
    skip_op("|");
    do made.push_back(filter(nullptr));
    while (skip_op("|"));
    return made;
  }

  // A macro's or call block's body: no jumps out of it.
  void inner_body(MacroBody& macro, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    const bool varargs = std::exchange(names_varargs_, false), kwargs = std::exchange(names_kwargs_, false);
    macro.body = body_until(end);
    macro.takes_varargs = names_varargs_;
    macro.takes_kwargs = names_kwargs_;
    loops_ = loops;
    names_varargs_ = varargs;
    names_kwargs_ = kwargs;
  }

  void parameters(MacroBody& macro) {
    expect_op("(");
    while (!skip_op(")")) {
      if (!macro.parameters.empty()) {
        expect_op(",");
        if (skip_op(")")) break;
      }
      std::string name = identifier();
      ExpressionPtr value;
      if (skip_op("=")) {
        value = expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().second) {
        error("a parameter without default behind one with");
      }
      macro.parameters.emplace_back(std::move(name), std::move(value));
    }
  }

  std::unique_ptr<const Statement> macro_statement(int at_line) {
    auto made = std::make_unique<Macro>(at_line);
    made->macro.line = at_line;
    made->macro.name = identifier();
    parameters(made->macro);
    expect_block_end();
    inner_body(made->macro, "endmacro");
    return made;
  }

  std::unique_ptr<const Statement> call_statement(int at_line) {
    auto made = std::make_unique<CallBlock>(at_line);
    made->caller.line = at_line;
    made->caller.name = "caller";
    if (at_op("(")) parameters(made->caller);
    ExpressionPtr called = expression();
    if (!dynamic_cast<const Call*>(called.get())) template_error(at_line, "expected a call");
    made->call.reset(static_cast<const Call*>(called.release()));
    expect_block_end();
    inner_body(made->caller, "endcall");
    return made;
  }

  std::unique_ptr<const Statement> filter_statement(int at_line) {
    auto made = std::make_unique<FilterBlock>(at_line);
    made->filters = filters(true);
    expect_block_end();
    made->body = body_until("endfilter");
    return made;
  }

  std::unique_ptr<const Statement> with_statement(int at_line) {
    auto made = std::make_unique<With>(at_line);
    while (peek().kind != Kind::BlockEnd) {
      if (!made->assignments.empty()) expect_op(",");
      Target name{.name = identifier(), .attribute = {}, .parts = {}, .line = at_line};
      expect_op("=");
      made->assignments.emplace_back(std::move(name), expression());
    }
    expect_block_end();
    made->body = body_until("endwith");
    return made;
  }

  // name, (a, b), a, b, or namespace.attribute
  Target target(std::string_view end, bool with_attribute) {
    Target first = target_part();
    if (with_attribute && first.parts.empty() && skip_op(".")) {
      first.attribute = identifier();
      return first;
    }
    if (!at_op(",")) return first;
    Target all{.name = {}, .attribute = {}, .parts = {}, .line = first.line};
    all.parts.push_back(std::move(first));
    while (skip_op(",")) {
      if (at_op("=") || (!end.empty() && at_name(end))) break;
      all.parts.push_back(target_part());
    }
    return all;
  }

  Target target_part() {
    const Nesting nesting(*this);
    Target made{.name = {}, .attribute = {}, .parts = {}, .line = line()};
    if (skip_op("(") || skip_op("[")) {
      while (!at_op(")") && !at_op("]")) {
        if (!made.parts.empty()) {
          expect_op(",");
          if (at_op(")") || at_op("]")) break;
        }
        made.parts.push_back(target_part());
      }
      next();
      if (made.parts.empty()) error("nothing to assign to");
      return made;
    }
    made.name = identifier();
    if (made.name == "true" || made.name == "false" || made.name == "none" || made.name == "True" || made.name == "False" ||
        made.name == "None") {
      error(fmt::format("cannot assign to '{}'", made.name));
    }
    return made;
  }

  // Expressions, from the loosest to the tightest

  // One expression or, with commas, a tuple.
  ExpressionPtr tuple(bool with_conditional) {
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

  bool at_tuple_end() const {
    return peek().kind == Kind::BlockEnd || peek().kind == Kind::PrintEnd || at_op(")") || at_name("if") || at_name("recursive");
  }

  ExpressionPtr expression() {
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

  ExpressionPtr or_expression() {
    const Nesting nesting(*this);
    const int at_line = line();
    ExpressionPtr left = and_expression();
    while (skip_name("or")) left = std::make_unique<Binary>(at_line, Binary::Op::Or, std::move(left), and_expression());
    return left;
  }

  ExpressionPtr and_expression() {
    const int at_line = line();
    ExpressionPtr left = not_expression();
    while (skip_name("and")) left = std::make_unique<Binary>(at_line, Binary::Op::And, std::move(left), not_expression());
    return left;
  }

  ExpressionPtr not_expression() {
    const int at_line = line();
    if (skip_name("not")) {
      const Nesting nesting(*this);
      return std::make_unique<Unary>(at_line, Unary::Op::Not, not_expression());
    }
    return comparison();
  }

  ExpressionPtr comparison() {
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

  ExpressionPtr sum() {
    const int at_line = line();
    ExpressionPtr left = concatenation();
    for (;;) {
      const bool plus = at_op("+");
      if (!plus && !at_op("-")) return left;
      next();
      left = std::make_unique<Binary>(at_line, plus ? Binary::Op::Add : Binary::Op::Subtract, std::move(left), concatenation());
    }
  }

  ExpressionPtr concatenation() {
    const int at_line = line();
    std::vector<ExpressionPtr> parts;
    parts.push_back(product());
    while (skip_op("~")) parts.push_back(product());
    if (parts.size() == 1) return std::move(parts.front());
    return std::make_unique<Concatenation>(at_line, std::move(parts));
  }

  ExpressionPtr product() {
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

  ExpressionPtr exponentiation() {
    const int at_line = line();
    ExpressionPtr left = unary(true);
    while (skip_op("**")) left = std::make_unique<Binary>(at_line, Binary::Op::Power, std::move(left), unary(true));
    return left;
  }

  ExpressionPtr unary(bool with_filter) {
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

  ExpressionPtr primary() {
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

  int64_t integer(std::string_view digits) const {
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

  ExpressionPtr parenthesized() {
    const int at_line = line();
    expect_op("(");
    if (skip_op(")")) return std::make_unique<ListLiteral>(at_line, std::vector<ExpressionPtr>(), List::Kind::Tuple);
    ExpressionPtr value = tuple(true);
    expect_op(")");
    return value;
  }

  ExpressionPtr list_literal() {
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

  ExpressionPtr dict_literal() {
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

  ExpressionPtr postfix(ExpressionPtr value) {
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

  ExpressionPtr subscript(ExpressionPtr object) {
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

  ExpressionPtr tuple_in_brackets() {
    ExpressionPtr first = expression();
    if (at_op(",")) error("a subscript of several values is not supported");
    return first;
  }

  CallArguments arguments() {
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

  // Behind the '|'. A dotted name is one name.
  std::unique_ptr<const Filter> filter(ExpressionPtr input) {
    const int at_line = line();
    std::string name = identifier();
    while (skip_op(".")) name += "." + identifier();
    CallArguments args;
    if (at_op("(")) args = arguments();
    return std::make_unique<Filter>(at_line, std::move(input), std::move(name), std::move(args));
  }

  ExpressionPtr filters_and_tests(ExpressionPtr value) {
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

  ExpressionPtr test(ExpressionPtr input) {
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

  // Whether a test's argument without parentheses follows.
  bool at_argument() const {
    switch (peek().kind) {
      case Kind::Name: return !at_name("else") && !at_name("or") && !at_name("and");
      case Kind::String:
      case Kind::Integer:
      case Kind::Float: return true;
      default: return at_op("[") || at_op("{");
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, max_depth_;
  int loops_ = 0;                                      // around the statement being parsed
  bool names_varargs_ = false, names_kwargs_ = false;  // whether the macro being parsed names them
};

}  // namespace

int checked_height(int at_line, int child_height) {
  constexpr int kMaxHeight = 500;
  if (child_height >= kMaxHeight) template_error(at_line, "an expression is too long");
  return child_height + 1;
}

std::shared_ptr<const Template> parse_template(std::string_view source, int max_depth) {
  auto made = std::make_shared<Template>();
  made->body = Parser(source, max_depth).run();
  return made;
}

}  // namespace tokamak::llm::jinja
