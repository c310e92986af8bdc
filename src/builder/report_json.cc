#include "builder/report_json.h"

#include <fmt/format.h>

namespace tokamak {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20) out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else out += c;
  }
  return out + '"';
}

template <class T, class F>
std::string array(const std::vector<T>& items, const F& one) {
  std::string out = "[";
  for (size_t i = 0; i < items.size(); ++i) out += (i ? ",\n" : "") + one(items[i]);
  return out + "]";
}

}  // namespace

std::string report_json(const BuildReport& report) {
  std::string out = fmt::format("{{\"nodes_before\":{},\"kernels_after\":{},\n\"passes\":", report.nodes_before, report.kernels_after);
  out += array(report.passes, [](const PassReport& p) {
    return fmt::format(R"({{"name":{},"nodes_before":{},"nodes_after":{},"rewrites":{}}})", quoted(p.name), p.nodes_before, p.nodes_after,
                       p.rewrites);
  });
  out += ",\n\"tactics\":" + array(report.tactics, [](const TacticReport& t) {
           return fmt::format(
               R"({{"node":{},"op":{},"origin":{},"kernel":{},"tactic":{},"us":{:.3f},"host_reason":{},"candidates":{},"declined":{}}})",
               quoted(t.node), quoted(t.op), quoted(t.origin), quoted(t.kernel), quoted(t.tactic), t.us, quoted(t.host_reason),
               array(t.candidates, [](const auto& c) { return fmt::format("[{},{:.3f}]", quoted(c.first), c.second); }),
               array(t.declined, [](const auto& d) { return fmt::format("[{},{}]", quoted(d.first), quoted(d.second)); }));
         });
  out += ",\n\"notes\":" + array(report.notes, [](const std::string& n) { return quoted(n); }) + "}\n";
  return out;
}

}  // namespace tokamak
