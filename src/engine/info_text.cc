#include "engine/info_text.h"

#include <charconv>

namespace tokamak::engine {
namespace {

// The fields, once: `f(key, member)` serves writing and reading.
template <class Info, class F>
void visit_fields(Info& info, const F& f) {
  f("model_name", info.model_name);
  f("device", info.device);
  f("target", info.target);
  f("device_name", info.device_name);
  f("precision", info.precision);
  f("tokamak_version", info.tokamak_version);
  f("opt_level", info.opt_level);
  f("num_threads", info.num_threads);
  f("workspace_limit_bytes", info.workspace_limit_bytes);
  f("nodes_before", info.nodes_before);
}

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\n') out += "\\n";
    else if (c == '\\') out += "\\\\";
    else out += c;
  }
  return out;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) out += text[++i] == 'n' ? '\n' : text[i];
    else out += text[i];
  }
  return out;
}

std::string dims_text(const Shape& shape) {
  std::string out;
  for (int64_t d : shape) out += (out.empty() ? "" : "x") + std::to_string(d);
  return out.empty() ? "scalar" : out;
}

}  // namespace

std::string to_text(const EngineInfo& info) {
  std::string out;
  visit_fields(info, [&](const char* key, const auto& value) {
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::string>) out += fmt::format("{} {}\n", key, escape(value));
    else out += fmt::format("{} {}\n", key, value);
  });
  for (const OptimizationProfile& profile : info.profiles) {
    out += "profile\n";
    for (const ShapeRange& r : profile)
      out += fmt::format("range {} {} {} {}\n", dims_text(r.min), dims_text(r.opt), dims_text(r.max), escape(r.input));
  }
  return out;
}

EngineInfo info_from_text(std::string_view text, const std::string& what) {
  EngineInfo info;
  const auto bad = [&](std::string_view line) { fail(ErrorCode::Corrupt, "{}: info line `{}` does not parse", what, line); };
  const auto number = [&](std::string_view word, auto& out, std::string_view line) {
    const auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), out);
    if (code != std::errc() || end != word.data() + word.size()) bad(line);
  };
  const auto shape = [&](std::string_view word, std::string_view line) {
    Shape s;
    if (word == "scalar") return s;
    while (true) {
      const size_t x = word.find('x');
      s.emplace_back();
      number(word.substr(0, x), s.back(), line);
      if (x == std::string_view::npos) return s;
      word.remove_prefix(x + 1);
    }
  };
  while (!text.empty()) {
    const size_t newline = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, newline);
    text.remove_prefix(std::min(newline + 1, text.size()));
    if (line.empty()) continue;
    const size_t space = std::min(line.find(' '), line.size());
    const std::string_view key = line.substr(0, space), value = line.substr(std::min(space + 1, line.size()));
    if (key == "profile") {
      info.profiles.emplace_back();
    } else if (key == "range") {
      if (info.profiles.empty()) bad(line);
      std::string_view words[3], rest = value;
      for (std::string_view& word : words) {
        const size_t at = rest.find(' ');
        if (at == std::string_view::npos) bad(line);
        word = rest.substr(0, at);
        rest.remove_prefix(at + 1);
      }
      ShapeRange r{unescape(rest), shape(words[0], line), shape(words[1], line), shape(words[2], line)};
      if (r.min.size() != r.max.size() || r.opt.size() != r.min.size()) bad(line);
      info.profiles.back().push_back(std::move(r));
    }
    visit_fields(info, [&](const char* name, auto& member) {
      if (key != name) return;
      if constexpr (std::is_same_v<std::decay_t<decltype(member)>, std::string>) member = unescape(value);
      else number(value, member, line);
    });
  }
  return info;
}

}  // namespace tokamak::engine
