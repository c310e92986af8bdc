// Hostile IR text: parsing gives an Error or a graph; a graph that verifies prints to text that parses back to the same text; inference
// gives an Error or types. A CHECK that fails ("internal error") is a finding.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "ir/infer.h"
#include "ir/text.h"

using namespace tokamak;

namespace {

[[noreturn]] void finding(const char* what, const std::string& detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail.c_str());
  std::abort();
}

// False when f threw an Error that a file may cause.
template <class F>
bool survives(const F& f) {
  try {
    f();
    return true;
  } catch (const Error& e) {
    if (std::string_view(e.what()).starts_with("internal error: ")) finding("CHECK", e.what());
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::unique_ptr<ir::Graph> graph;
  if (!survives([&] { graph = ir::parse(text); }) || !survives([&] { ir::verify(*graph); })) return 0;

  std::vector<Tensor> table;
  ir::PrintOptions print_options;
  print_options.constant_entry = [&](const ir::Value& v) -> int64_t {
    if (v.constant.count() <= 4) return -1;
    table.push_back(v.constant);
    return static_cast<int64_t>(table.size()) - 1;
  };
  ir::ParseOptions parse_options;
  parse_options.constant = [&](int64_t entry, DType, const Shape&, const std::string&) {
    if (entry < 0 || entry >= static_cast<int64_t>(table.size())) finding("printed entry", std::to_string(entry));
    return table[static_cast<size_t>(entry)];
  };
  const std::string first = ir::print(*graph, print_options);
  try {
    const auto again = ir::parse(first, parse_options);
    ir::verify(*again);
    table.clear();
    const std::string second = ir::print(*again, print_options);
    if (first != second) finding("print is not a fixpoint", first + "\n---\n" + second);
  } catch (const Error& e) {
    finding("printed text does not parse", std::string(e.what()) + "\n" + first);
  }
  survives([&] { ir::infer_types(*graph); });
  return 0;
}
