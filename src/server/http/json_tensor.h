#pragma once
// JSON from strangers: a document of bounded depth, and arrays of it as tensors. Includes simdjson.

#include <simdjson.h>

#include <string_view>

#include "base/tensor.h"
#include "server/request.h"

namespace tokamak::server::http {

// Parses `text`, which must be one JSON value nested at most kMaxJsonDepth deep, and calls `read` with it on this thread; the element is
// valid for that long. NaN, Infinity and -Infinity outside strings are taken as the strings of these names. Throws InvalidArgument.
inline constexpr int kMaxJsonDepth = 64;
template <class F>
auto read_json(std::string_view text, F&& read);

// The values of `data`, nested arrays flattened or a single value, as a tensor of `shape`. `where` begins the message of InvalidArgument:
// another number of values than the shape has, values of another kind, numbers that the dtype does not hold.
Tensor read_elements(std::string_view where, DType dtype, Shape shape, const simdjson::dom::element& data);
// How many values there are in `data`, nested arrays flattened.
int64_t count_elements(const simdjson::dom::element& data);

// A boolean, number or string. Throws InvalidArgument for others.
Parameter read_parameter(std::string_view name, const simdjson::dom::element& value);
Parameters read_parameters(std::string_view where, const simdjson::dom::element& value);  // of an object

namespace json_detail {
// A parser of this thread, with its document.
simdjson::dom::element parse(std::string_view text);
void done();  // large buffers are given back
}  // namespace json_detail

template <class F>
auto read_json(std::string_view text, F&& read) {
  struct Done {
    ~Done() { json_detail::done(); }
  } done;
  return read(json_detail::parse(text));
}

}  // namespace tokamak::server::http
