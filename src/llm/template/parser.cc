#include "llm/template/parser.h"

#include "llm/template/expression_parser.h"

namespace tokamak::llm::jinja {

namespace {

// Statements; expressions are the base's.
class Parser : ExpressionParser {
 public:
  Parser(std::string_view source, int max_depth) : ExpressionParser(source, max_depth) {}

  Block run() {
    Block body = block({});
    if (peek().kind != Kind::End) error("unexpected end of a block");
    return body;
  }

 private:
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

  int loops_ = 0;  // around the statement being parsed
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
