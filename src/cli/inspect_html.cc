#include "cli/inspect_html.h"

#include <fmt/format.h>

namespace tokamak::cli {

namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

std::string cell_text(const Json& value) {
  if (value.is_string()) return escaped(value.get<std::string>());
  if (value.is_number_float()) return fmt::format("{:.2f}", value.get<double>());
  return escaped(value.dump());
}

// One row an entry of `rows`, one column a key.
std::string table(const std::string& title, const Json& rows, std::initializer_list<const char*> keys) {
  std::string html = fmt::format("<h2>{}</h2><table><tr>", title);
  for (const char* key : keys) html += fmt::format("<th>{}</th>", key);
  html += "</tr>\n";
  for (const Json& row : rows) {
    html += "<tr>";
    for (const char* key : keys) html += fmt::format("<td>{}</td>", row.contains(key) ? cell_text(row[key]) : "");
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

std::string facts(const std::string& title, const Json& object) {
  std::string html = fmt::format("<h2>{}</h2><table>", title);
  for (const auto& [key, value] : object.items()) html += fmt::format("<tr><th>{}</th><td>{}</td></tr>\n", escaped(key), cell_text(value));
  return html + "</table>\n";
}

}  // namespace

std::string inspect_html(const Json& info) {
  std::string html = fmt::format(
      "<!doctype html><meta charset=utf-8><title>{0}</title><style>body{{font:14px sans-serif;margin:2em;max-width:1400px}}"
      "table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:2px "
      "8px;text-align:left;vertical-align:top}}</style><h1>{0}</h1>\n",
      escaped(info["file"]));
  html +=
      fmt::format("<p>{} nodes in the model, {} kernels in the engine</p>", info["nodes"].get<int64_t>(), info["kernels"].get<int64_t>());
  html += facts("Engine", info["engine"]) + table("Inputs", info["inputs"], {"name", "type"}) +
          table("Outputs", info["outputs"], {"name", "type"});
  for (const Json& profile : info["profiles"]) html += table("Profile", profile, {"input", "min", "opt", "max"});
  if (info.contains("memory")) html += facts("Memory", info["memory"]);
  html += facts("Operators", info["ops"]);
  if (info["report"].contains("passes"))
    html += table("Passes", info["report"]["passes"], {"name", "nodes_before", "nodes_after", "rewrites", "ms"});
  html += table("Layers", info["layers"], {"name", "op", "kernel", "tactic", "us", "outputs", "origin"});
  return html;
}

}  // namespace tokamak::cli
