// json.dumps of Python, which the tojson filter of `transformers` is.

#include <algorithm>
#include <cmath>

#include "llm/template/operators.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::jinja {

namespace {

class Writer {
 public:
  Writer(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& v, int level) {
    if (v.is_none()) return put("null");
    if (const auto* b = v.get_if<bool>()) return put(*b ? "true" : "false");
    if (const auto i = v.as_integer()) return put(std::to_string(*i));
    if (const auto d = v.as_number()) return put(number_text(*d));
    if (const std::string* s = v.string()) return write_string(*s);
    if (const List* l = v.as_list(); l && l->kind != List::Kind::Generator) return write_list(*l, level);
    if (const Dict* d = v.as_dict()) return write_dict(*d, level);
    require_defined(v);
    type_error(fmt::format("Object of type {} is not JSON serializable", type_name(v)));
  }

  std::string take() { return std::move(out_); }

 private:
  void put(std::string_view text) { budget_.append(out_, text); }

  static std::string number_text(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
    return float_text(d);
  }

  void write_string(std::string_view text) {
    std::string quoted = "\"";
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const char32_t c = tokenizer::next_code(text, at);
      const auto unit = [&](char32_t u) { quoted += fmt::format("\\u{:04x}", static_cast<uint32_t>(u)); };
      switch (c) {
        case '"': quoted += "\\\""; break;
        case '\\': quoted += "\\\\"; break;
        case '\n': quoted += "\\n"; break;
        case '\r': quoted += "\\r"; break;
        case '\t': quoted += "\\t"; break;
        case '\f': quoted += "\\f"; break;
        case '\b': quoted += "\\b"; break;
        default:
          if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F && c < 0x10000)) {
            unit(c);
          } else if (style_.ensure_ascii && c >= 0x10000) {
            unit(0xD800 + ((c - 0x10000) >> 10));
            unit(0xDC00 + ((c - 0x10000) & 0x3FF));
          } else {
            quoted += text.substr(begin, at - begin);
          }
      }
    }
    quoted += '"';
    put(quoted);
  }

  void new_line(int level) {
    if (!style_.indent) return;
    put("\n");
    for (int i = 0; i < level; ++i) put(*style_.indent);
  }

  void write_list(const List& list, int level) {
    if (list.items.empty()) return put("[]");
    put("[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      new_line(level + 1);
      write(list.items[i], level + 1);
    }
    new_line(level);
    put("]");
  }

  void write_dict(const Dict& dict, int level) {
    if (dict.entries().empty()) return put("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) { return less(a->first, b->first, budget_); });
    }
    put("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      new_line(level + 1);
      const Value& key = entries[i]->first;
      if (const std::string* name = key.string()) {
        write_string(*name);
      } else {
        put("\"");
        write(key, level);
        put("\"");
      }
      put(style_.key_separator);
      write(entries[i]->second, level + 1);
    }
    new_line(level);
    put("}");
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
};

}  // namespace

std::string to_json(const Value& v, const JsonStyle& style, Budget& budget) {
  Writer writer(style, budget);
  writer.write(v, 0);
  return writer.take();
}

}  // namespace tokamak::llm::jinja
