#pragma once
// Expressions: recursive descent, a function a level of precedence.

#include "llm/template/ast.h"
#include "llm/template/token_reader.h"

namespace tokamak::llm::jinja {

class ExpressionParser : protected TokenReader {
 protected:
  using TokenReader::TokenReader;

  // One expression or, with commas, a tuple.
  ExpressionPtr tuple(bool with_conditional);
  bool at_tuple_end() const;
  ExpressionPtr expression();
  ExpressionPtr or_expression();
  ExpressionPtr and_expression();
  ExpressionPtr not_expression();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr exponentiation();
  ExpressionPtr unary(bool with_filter);
  ExpressionPtr primary();
  int64_t integer(std::string_view digits) const;
  ExpressionPtr parenthesized();
  ExpressionPtr list_literal();
  ExpressionPtr dict_literal();
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr subscript(ExpressionPtr object);
  ExpressionPtr tuple_in_brackets();
  CallArguments arguments();
  // Behind the '|'. A dotted name is one name.
  std::unique_ptr<const Filter> filter(ExpressionPtr input);
  ExpressionPtr filters_and_tests(ExpressionPtr value);
  ExpressionPtr test(ExpressionPtr input);
  // Whether a test's argument without parentheses follows.
  bool at_argument() const;

  bool names_varargs_ = false, names_kwargs_ = false;  // whether the macro being parsed names them
};

}  // namespace tokamak::llm::jinja
