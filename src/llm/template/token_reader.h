#pragma once
// A template's tokens with a place in them, and what every part of the parser asks of it.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "llm/template/lexer.h"

namespace tokamak::llm::jinja {

class TokenReader {
 protected:
  using Kind = Token::Kind;

  TokenReader(std::string_view source, int max_depth) : tokens_(tokenize(source)), max_depth_(max_depth) {}

  // Depth of the parser's own recursion, all of which goes through one of these; heights of expressions are the nodes' business.
  class Nesting {
   public:
    explicit Nesting(TokenReader& reader) : reader_(reader) {
      if (++reader_.depth_ > reader_.max_depth_) reader_.error("nested too deeply");
    }
    ~Nesting() { --reader_.depth_; }

   private:
    TokenReader& reader_;
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

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, max_depth_;
};

}  // namespace tokamak::llm::jinja
