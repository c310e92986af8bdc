#pragma once
// Tokens to the tree. Grammar: https://jinja.palletsprojects.com/en/stable/templates/

#include <memory>
#include <string_view>

#include "llm/template/ast.h"

namespace tokamak::llm::jinja {

// Throws InvalidArgument with the line: syntax errors, and statements a chat template has no use for (include, extends, import, block).
std::shared_ptr<const Template> parse_template(std::string_view source, int max_depth);

}  // namespace tokamak::llm::jinja
