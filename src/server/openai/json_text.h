#pragma once
// JSON written straight into a string: what is sent for every token makes no document tree.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tokamak::server::openai {

// `text` in quotes, escaped. It must be UTF-8; characters outside ASCII stay as they are.
void append_json_string(std::string& out, std::string_view text);
void append_integer(std::string& out, int64_t value);
// A log-probability; -infinity, which JSON lacks, as -9999 (as vLLM has it).
void append_logprob(std::string& out, float value);
void append_integers(std::string& out, std::span<const int32_t> values);  // [1,2,3]

}  // namespace tokamak::server::openai
