#pragma once
// JSON written straight into a string: tensors make no document tree.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/tensor.h"
#include "server/request.h"

namespace tokamak::server::http {

// In quotes, escaped; bytes that are not UTF-8 become U+FFFD.
void append_string(std::string& out, std::string_view text);
void append_number(std::string& out, int64_t value);
void append_number(std::string& out, uint64_t value);
// The shortest digits that read back as the same value; NaN, Infinity and -Infinity, which JSON lacks, as Python and Triton write them.
void append_number(std::string& out, float value);
void append_number(std::string& out, double value);
void append_value(std::string& out, const Parameter& value);
void append_shape(std::string& out, const Shape& shape);

// Elements [first, first + count) with commas between. Throws InvalidArgument for strings that are not UTF-8 (`where` begins the message).
void append_elements(std::string& out, const Tensor& tensor, int64_t first, int64_t count, std::string_view where);

}  // namespace tokamak::server::http
