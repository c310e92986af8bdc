#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "base/half.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::ir {
namespace {

constexpr int64_t kMaxInline = 16;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else out += c;
  }
  return out + '"';
}

bool is_plain(std::string_view name) {
  if (name.empty() || name == "_" || name.back() == ':') return false;  // a trailing colon reads as punctuation
  for (char c : name)
    if (!(std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '/' || c == ':' || c == '-')) return false;
  return true;
}

std::string number(double v) {
  if (std::isnan(v)) return "nan";
  if (std::isinf(v)) return v < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", v);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

std::string number(float v) {
  if (std::isnan(v) || std::isinf(v)) return number(static_cast<double>(v));
  return fmt::format("{}", v);
}

std::string element(const Tensor& t, int64_t i) {
  switch (t.dtype()) {
    case DType::F32: return number(t.data<float>()[i]);
    case DType::F64: return number(t.data<double>()[i]);
    case DType::F16:
    case DType::BF16: return number(static_cast<float>(t.float_at(i)));
    case DType::U64: return fmt::format("{}", t.data<uint64_t>()[i]);
    case DType::String: return quoted(t.strings()[i]);
    default: return fmt::format("{}", t.int_at(i));
  }
}

bool has_text_elements(DType d) {
  return d == DType::F32 || d == DType::F64 || d == DType::F16 || d == DType::BF16 || d == DType::String || d == DType::Bool ||
         (is_integer(d) && bits_of(d) >= 8);
}

std::string contents(const Tensor& t) {
  if (!has_text_elements(t.dtype())) {
    std::string hex = "hex \"";
    for (int64_t i = 0; i < t.size_bytes(); ++i) hex += fmt::format("{:02x}", t.data<uint8_t>()[i]);
    return hex + '"';
  }
  std::string out = "{";
  for (int64_t i = 0; i < t.count(); ++i) out += (i ? ", " : "") + element(t, i);
  return out + "}";
}

template <class T, class F>
std::string list(const std::vector<T>& values, const F& one) {
  std::string out;
  for (const T& v : values) out += (out.empty() ? "" : ",") + one(v);
  return out;
}

std::string attr_text(const Attr& attr) {
  struct Visitor {
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return number(v); }
    std::string operator()(const std::string& v) const { return quoted(v); }
    std::string operator()(const Ints& v) const {
      return "[" + list(v, [](int64_t x) { return std::to_string(x); }) + "]";
    }
    std::string operator()(const Floats& v) const {
      return "f[" + list(v, [](double x) { return number(x); }) + "]";
    }
    std::string operator()(const Strings& v) const {
      return "s[" + list(v, [](const std::string& x) { return quoted(x); }) + "]";
    }
    std::string operator()(const Dims& v) const { return "<" + to_string(v) + ">"; }
    std::string operator()(DType v) const { return to_string(v); }
    std::string operator()(const Tensor& v) const {
      return fmt::format("dense {}{} {}", to_string(v.dtype()), tokamak::to_string(v.shape()), contents(v));
    }
  };
  return std::visit(Visitor{}, attr);
}

class Printer {
 public:
  explicit Printer(const PrintOptions& options) : options_(options) {}

  std::string run(const Graph& graph) {
    reserve_names(graph);
    graph_text(graph, 0);
    return std::move(out_);
  }

 private:
  // Inputs and outputs of the model keep their names whatever happens; others give way.
  void reserve_names(const Graph& graph) {
    for (const Value* v : graph.inputs()) claim(v);
    for (const Value* v : graph.outputs())
      if (!names_.contains(v)) claim(v);
  }

  const std::string& claim(const Value* v) {
    std::string base = v->name.empty() || v->name == "_" ? "v" : v->name, candidate = base;
    if (v->name.empty()) candidate = "v" + std::to_string(next_++);
    while (!taken_.insert(candidate).second) candidate = base + "." + std::to_string(next_++);
    return names_[v] = is_plain(candidate) ? "%" + candidate : "%" + quoted(candidate);
  }

  const std::string& ref(const Value* v) {
    static const std::string kAbsent = "_";
    if (v == nullptr) return kAbsent;
    const auto found = names_.find(v);
    return found != names_.end() ? found->second : claim(v);
  }

  void graph_text(const Graph& graph, int indent) {
    const std::string pad(indent, ' ');
    out_ += "graph " + (is_plain(graph.name) ? graph.name : quoted(graph.name)) + "(";
    bool first = true;
    for (const Value* v : graph.inputs()) {
      out_ += (first ? "" : ", ") + ref(v) + ": " + to_string(v->type);
      first = false;
    }
    out_ += ") {\n";
    for (const auto& [key, value] : graph.metadata) out_ += pad + "  meta " + quoted(key) + " = " + quoted(value) + "\n";
    const std::unordered_set<const Value*> returned(graph.outputs().begin(), graph.outputs().end());
    for (const Value* v : graph.constants())
      if (!v->uses().empty() || returned.contains(v)) constant_text(*v, pad);
    for (const auto& node : graph.nodes()) node_text(*node, indent);
    out_ += pad + "  return";
    first = true;
    for (const Value* v : graph.outputs()) {
      out_ += (first ? " " : ", ") + ref(v);
      first = false;
    }
    out_ += "\n" + pad + "}";
    if (indent == 0) out_ += "\n";
  }

  void constant_text(const Value& v, const std::string& pad) {
    const Tensor& t = v.constant;
    out_ += pad + "  " + ref(&v) + " = const " + to_string(t.dtype()) + tokamak::to_string(t.shape()) + " ";
    int64_t entry = -1;
    const bool is_inline =
        options_.constant_entry ? (entry = options_.constant_entry(v)) < 0 : t.count() <= kMaxInline && t.layout().empty();
    out_ += is_inline ? contents(t) : fmt::format("@{}", entry);
    if (!t.layout().empty()) out_ += " layout " + quoted(t.layout());
    out_ += "\n";
  }

  void node_text(const Node& node, int indent) {
    const std::string pad(indent + 2, ' ');
    out_ += pad;
    for (int i = 0; i < node.num_outputs(); ++i) {
      out_ += (i ? ", " : "") + ref(node.output(i));
      if (options_.types && node.output(i)) out_ += ": " + to_string(node.output(i)->type);
    }
    out_ += " = " + std::string(node.op().name) + "(";
    for (int i = 0; i < node.num_inputs(); ++i) out_ += (i ? ", " : "") + ref(node.input(i));
    out_ += ")";
    out_ += print_attrs(node.attrs);
    for (const auto& sub : node.subgraphs) {
      out_ += "\n" + pad + "  with ";
      graph_text(*sub, indent + 4);
    }
    if (!node.name.empty()) out_ += " " + quoted(node.name);
    if (!node.origin.empty()) out_ += " origin " + quoted(node.origin);
    if (options_.tactics && !node.kernel.empty()) out_ += " kernel " + quoted(node.kernel) + " " + quoted(node.tactic);
    out_ += "\n";
  }

  const PrintOptions& options_;
  std::string out_;
  std::unordered_map<const Value*, std::string> names_;
  std::unordered_set<std::string> taken_;
  int next_ = 0;
};

}  // namespace

std::string print_attrs(const Attrs& attrs) {
  std::string out;
  for (const auto& [name, value] : attrs) out += (out.empty() ? " {" : ", ") + name + "=" + attr_text(value);
  return out.empty() ? out : out + "}";
}

std::string print(const Graph& graph, const PrintOptions& options) { return Printer(options).run(graph); }

}  // namespace tokamak::ir
