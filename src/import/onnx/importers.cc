// The table of operators, gathered from the families.

#include <map>

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {

#define FAMILY(name) std::span<const OpImporter> name##_importers();
#include "import/onnx/families.inc"
#undef FAMILY

const OpImporter* find_importer(Text domain, Text op, int64_t opset, bool* known) {
  static const auto& table = *[] {
    auto* all = new std::multimap<std::pair<Text, Text>, OpImporter>;
#define FAMILY(name) \
  for (const OpImporter& i : name##_importers()) all->emplace(std::pair(i.domain, i.op), i);
#include "import/onnx/families.inc"
#undef FAMILY
    return all;
  }();
  const auto [begin, end] = table.equal_range({domain, op});
  if (known) *known = begin != end;
  for (auto it = begin; it != end; ++it)
    if (it->second.min_opset <= opset && opset <= it->second.max_opset) return &it->second;
  return nullptr;
}

}  // namespace tokamak::onnx
