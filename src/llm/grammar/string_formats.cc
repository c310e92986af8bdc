#include "llm/grammar/string_formats.h"

#include <array>
#include <utility>

namespace tokamak::llm::grammar {

namespace {

// Days that exist, leap years too; the year 0000 is left out, which many libraries refuse.
const std::string kDate = [] {
  const std::string year = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})";
  const std::string leap = "(([0-9]{2}(0[48]|[2468][048]|[13579][26]))|((0[48]|[2468][048]|[13579][26])00))";
  return "(" + year + "-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" + leap +
         "-02-29)";
}();
const std::string kTime = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";  // RFC 3339
// RFC 3339, appendix A.
const std::string kDuration = [] {
  const std::string n = "[0-9]{1,9}";
  const std::string time = "T(" + n + "H(" + n + "M(" + n + "S)?)?|" + n + "M(" + n + "S)?|" + n + "S)";
  const std::string date = "(" + n + "D|" + n + "M(" + n + "D)?|" + n + "Y(" + n + "M(" + n + "D)?)?)";
  return "P(" + n + "W|" + date + "(" + time + ")?|" + time + ")";
}();
const std::string kLabel = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?";
const std::string kHostname = kLabel + "(\\." + kLabel + "){0,6}";
const std::string kEmail = "[A-Za-z0-9_+-]{1,20}(\\.[A-Za-z0-9_+-]{1,20}){0,2}@" + kLabel + "(\\." + kLabel + "){1,4}";
const std::string kIpv4 = [] {
  const std::string byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
  return byte + "(\\." + byte + "){3}";
}();
// Eight groups of 16 bits, of which one run may be "::" (RFC 4291, 2.2).
const std::string kIpv6 = [] {
  const std::string h = "[0-9a-fA-F]{1,4}";
  std::string out = "(" + h + ":){7}" + h + "|::";
  for (int before = 0; before <= 7; ++before) {
    const int after = 7 - before;
    std::string part = before == 0 ? ":" : "(" + h + ":){" + std::to_string(before) + "}";
    out += "|" + part + (after > 0 ? "(:" + h + "){1," + std::to_string(after) + "}" : ":");
    if (before > 0 && after > 0) out += "|" + part + ":";
  }
  return "(" + out + ")";
}();
// The generic syntax of RFC 3986 without percent signs.
const std::string kUri = [] {
  const std::string character = "[A-Za-z0-9._~!$&'()*+,;=:@-]", tail = "[A-Za-z0-9._~!$&'()*+,;=:@/?-]*";
  const std::string path = "(/" + character + "*)*";
  return "[A-Za-z][A-Za-z0-9+.-]{1,15}:(//" + kHostname + "(:[0-9]{1,4})?" + path + "|" + character + "+" + path + ")(\\?" + tail + ")?(#" +
         tail + ")?";
}();
const std::string kUuid = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";

const std::array<std::pair<std::string_view, std::string>, 13> kFormats = {{
    {"date", kDate},
    {"time", kTime},
    {"date-time", kDate + "T" + kTime},
    {"duration", kDuration},
    {"email", kEmail},
    {"hostname", kHostname},
    {"ipv4", kIpv4},
    {"ipv6", kIpv6},
    {"uuid", kUuid},
    {"uri", kUri},
    {"byte", "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"},
    {"password", ""},
    {"binary", ""},
}};

}  // namespace

std::optional<std::string> format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) return pattern;
  }
  return std::nullopt;
}

std::string known_formats() {
  std::string out;
  for (const auto& [name, pattern] : kFormats) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

}  // namespace tokamak::llm::grammar
