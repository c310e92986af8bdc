#pragma once
// Grammars as text: `name ::= expression` rules.

#include <string_view>

#include "llm/grammar/automaton.h"

namespace tokamak::llm::grammar {

// Adds the text's rules to `builder` and returns that of `root`. Throws as Grammar::from_ebnf does.
int32_t add_ebnf(AutomatonBuilder& builder, std::string_view text);

}  // namespace tokamak::llm::grammar
