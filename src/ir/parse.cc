#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "base/half.h"
#include "ir/infer.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::ir {
namespace {

constexpr int kMaxDepth = 32;                    // nested subgraphs
constexpr int64_t kMaxInlineElements = 1 << 22;  // of one constant written in the text

class Parser {
 public:
  Parser(std::string_view text, const ParseOptions& options) : text_(text), options_(options) {}

  std::unique_ptr<Graph> run() {
    auto graph = parse_graph(nullptr);
    skip();
    if (at_ < text_.size()) error("expected the end of the text");
    return graph;
  }

 private:
  // ---- characters and tokens
  template <class... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at_ && i < text_.size(); ++i) {
      if (text_[i] == '\n') ++line, column = 1;
      else ++column;
    }
    fail(ErrorCode::Corrupt, "graph text, line {}, column {}: {}", line, column, fmt::format(format, std::forward<Args>(args)...));
  }

  void skip() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (std::isspace(static_cast<unsigned char>(c))) {
        ++at_;
      } else {
        return;
      }
    }
  }
  char peek() {
    skip();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) error("expected `{}`", c);
  }
  static bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '/' || c == ':' || c == '-';
  }
  static bool is_identifier(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }
  std::string_view identifier() {
    skip();
    const size_t begin = at_;
    while (at_ < text_.size() && is_identifier(text_[at_])) ++at_;
    if (begin == at_) error("expected a word");
    return text_.substr(begin, at_ - begin);
  }
  bool take_word(std::string_view word) {
    skip();
    if (text_.substr(at_, word.size()) != word) return false;
    if (at_ + word.size() < text_.size() && is_identifier(text_[at_ + word.size()])) return false;
    at_ += word.size();
    return true;
  }
  std::string string() {
    expect('"');
    std::string out;
    while (true) {
      if (at_ >= text_.size()) error("a string is not closed");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= text_.size()) error("a string is not closed");
      const char escape = text_[at_++];
      if (escape == 'x') {
        if (at_ + 2 > text_.size()) error("a string is not closed");
        out += static_cast<char>(hex_digit(text_[at_]) * 16 + hex_digit(text_[at_ + 1]));
        at_ += 2;
      } else {
        out += escape;
      }
    }
  }
  int hex_digit(char c) const {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    error("expected a hexadecimal digit");
  }
  std::string name_or_string() {
    if (peek() == '"') return string();
    const size_t begin = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    // `%x: f32[2]`: a trailing colon is punctuation, not part of the name.
    while (at_ > begin && text_[at_ - 1] == ':') --at_;
    if (begin == at_) error("expected a name");
    return std::string(text_.substr(begin, at_ - begin));
  }
  std::string_view number_text() {
    skip();
    const size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '.' || text_[at_] == '-' || text_[at_] == '+'))
      ++at_;
    if (begin == at_) error("expected a number");
    return text_.substr(begin, at_ - begin);
  }
  template <class T>
  T integer() {
    const std::string_view t = number_text();
    T value{};
    const auto [end, code] = std::from_chars(t.data(), t.data() + t.size(), value);
    if (code != std::errc() || end != t.data() + t.size()) error("`{}` is not an integer of this type", t);
    return value;
  }
  template <class T>
  T real() {
    const std::string_view t = number_text();
    T value{};
    const auto [end, code] = std::from_chars(t.data(), t.data() + t.size(), value);
    if (end != t.data() + t.size() || (code != std::errc() && code != std::errc::result_out_of_range)) error("`{}` is not a number", t);
    return value;
  }

  // ---- types
  DType dtype() {
    const std::string_view word = identifier();
    const auto parsed = parse_dtype(word);
    if (!parsed) error("`{}` is not an element type", word);
    return *parsed;
  }
  Shape shape() {
    expect('[');
    Shape out;
    if (take(']')) return out;
    do out.push_back(integer<int64_t>());
    while (take(','));
    expect(']');
    return out;
  }
  // Text up to `close` at nesting depth zero, split at commas.
  Dims dims(char close) {
    Dims out;
    skip();
    size_t begin = at_;
    int depth = 0;
    const auto piece = [&] {
      if (begin < at_) out.push_back(Dim::parse(text_.substr(begin, at_ - begin)));
      else error("expected a dimension");
    };
    if (peek() == close) {
      ++at_;
      return out;
    }
    begin = at_;
    for (;; ++at_) {
      if (at_ >= text_.size()) error("expected `{}`", close);
      const char c = text_[at_];
      if (c == '(') ++depth;
      if (c == ')') --depth;
      if (depth == 0 && (c == ',' || c == close)) {
        piece();
        begin = at_ + 1;
        if (c == close) break;
      }
    }
    ++at_;
    return out;
  }
  TensorType type() {
    const DType d = dtype();
    expect('[');
    if (take('*')) {
      expect(']');
      return TensorType::unranked(d);
    }
    return TensorType(d, dims(']'));
  }

  // ---- tensors
  template <class T, class F>
  void fill_elements(Tensor& t, bool splat, const F& one) {
    T* data = t.data<T>();
    for (int64_t i = 0; i < t.count(); ++i) {
      if (splat && i > 0) {
        data[i] = data[0];
        continue;
      }
      if (i > 0) expect(',');
      data[i] = one();
    }
  }
  Tensor contents(DType d, const Shape& s) {
    const bool splat = take_word("splat");
    const int64_t count = num_elements(s);
    // Every element is at least one character of text, so a hostile count cannot outgrow the text (a splat has its own bound).
    if (count > kMaxInlineElements || (!splat && count > static_cast<int64_t>(text_.size() - at_) * 4))
      error("a constant of {} elements cannot stand in the text", count);
    Tensor t = Tensor::empty(d, s);
    if (take_word("hex")) {
      const std::string digits = string();
      if (static_cast<int64_t>(digits.size()) != t.size_bytes() * 2 || d == DType::String)
        error("expected {} hexadecimal digits", t.size_bytes() * 2);
      for (int64_t i = 0; i < t.size_bytes(); ++i)
        t.data<uint8_t>()[i] = static_cast<uint8_t>(hex_digit(digits[2 * i]) * 16 + hex_digit(digits[2 * i + 1]));
      return t;
    }
    expect('{');
    switch (d) {
      case DType::F32: fill_elements<float>(t, splat, [&] { return real<float>(); }); break;
      case DType::F64: fill_elements<double>(t, splat, [&] { return real<double>(); }); break;
      case DType::F16: fill_elements<Half>(t, splat, [&] { return Half(real<float>()); }); break;
      case DType::BF16: fill_elements<BFloat16>(t, splat, [&] { return BFloat16(real<float>()); }); break;
      case DType::I8: fill_elements<int8_t>(t, splat, [&] { return integer<int8_t>(); }); break;
      case DType::I16: fill_elements<int16_t>(t, splat, [&] { return integer<int16_t>(); }); break;
      case DType::I32: fill_elements<int32_t>(t, splat, [&] { return integer<int32_t>(); }); break;
      case DType::I64: fill_elements<int64_t>(t, splat, [&] { return integer<int64_t>(); }); break;
      case DType::U8: fill_elements<uint8_t>(t, splat, [&] { return integer<uint8_t>(); }); break;
      case DType::Bool: fill_elements<uint8_t>(t, splat, [&] { return static_cast<uint8_t>(integer<uint8_t>() != 0); }); break;
      case DType::U16: fill_elements<uint16_t>(t, splat, [&] { return integer<uint16_t>(); }); break;
      case DType::U32: fill_elements<uint32_t>(t, splat, [&] { return integer<uint32_t>(); }); break;
      case DType::U64: fill_elements<uint64_t>(t, splat, [&] { return integer<uint64_t>(); }); break;
      case DType::String:
        for (int64_t i = 0; i < count; ++i) {
          if (i > 0 && !splat) expect(',');
          t.strings()[i] = splat && i > 0 ? t.strings()[0] : string();
        }
        break;
      default: error("constants of {} are written `hex \"...\"`", tokamak::to_string(d));
    }
    expect('}');
    return t;
  }

  // ---- attributes
  Attr attr() {
    const char c = peek();
    if (c == '"') return string();
    if (c == '[') return shape();
    if (c == '<') {
      ++at_;
      return dims('>');
    }
    if (text_.substr(at_, 2) == "f[") {
      at_ += 2;
      Floats out;
      if (!take(']')) {
        do out.push_back(real<double>());
        while (take(','));
        expect(']');
      }
      return out;
    }
    if (text_.substr(at_, 2) == "s[") {
      at_ += 2;
      Strings out;
      if (!take(']')) {
        do out.push_back(string());
        while (take(','));
        expect(']');
      }
      return out;
    }
    if (take_word("dense")) {
      const DType d = dtype();
      const Shape s = shape();
      return contents(d, s);
    }
    const std::string_view word = number_text();
    if (const auto d = parse_dtype(word)) return *d;
    int64_t whole = 0;
    auto [end, code] = std::from_chars(word.data(), word.data() + word.size(), whole);
    if (code == std::errc() && end == word.data() + word.size()) return whole;
    double value = 0;
    auto [end2, code2] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (end2 != word.data() + word.size() || (code2 != std::errc() && code2 != std::errc::result_out_of_range))
      error("`{}` is not an attribute value", word);
    return value;
  }

  // ---- statements
  void define(const std::string& name, Value* value) {
    value->name = name;
    if (!values_.emplace(name, value).second) error("%{} is defined twice", name);
  }
  Value* use() {
    if (take('_')) return nullptr;
    expect('%');
    const std::string name = name_or_string();
    const auto found = values_.find(name);
    if (found == values_.end()) error("%{} is not defined before this use", name);
    return found->second;
  }

  std::unique_ptr<Graph> parse_graph(Graph* parent) {
    if (++depth_ > kMaxDepth) error("subgraphs are nested deeper than {}", kMaxDepth);
    if (!take_word("graph")) error("expected `graph`");
    auto graph = std::make_unique<Graph>();
    graph->parent = parent;
    graph->name = name_or_string();
    expect('(');
    if (!take(')')) {
      do {
        expect('%');
        const std::string name = name_or_string();
        expect(':');
        define(name, graph->add_input(name, type()));
      } while (take(','));
      expect(')');
    }
    expect('{');
    while (take_word("meta")) {
      std::string key = string();
      expect('=');
      graph->metadata[std::move(key)] = string();
    }
    while (!take_word("return")) statement(*graph);
    std::vector<Value*> outputs;
    if (peek() != '}') {
      do {
        Value* v = use();
        if (v == nullptr) error("a graph cannot return an absent value");
        outputs.push_back(v);
      } while (take(','));
    }
    expect('}');
    graph->set_outputs(std::move(outputs));
    --depth_;
    return graph;
  }

  void constant(Graph& graph, const std::string& name) {
    const DType d = dtype();
    const Shape s = shape();
    num_elements(s);
    Tensor t;
    if (take('@')) {
      const int64_t entry = integer<int64_t>();
      std::string layout;
      if (take_word("layout")) layout = string();
      if (!options_.constant) error("constant %{} refers to a table that this text does not have", name);
      t = options_.constant(entry, d, s, layout);
    } else {
      t = contents(d, s);
    }
    define(name, graph.add_constant(std::move(t), name));
  }

  void statement(Graph& graph) {
    struct Output {
      std::string name;
      std::optional<TensorType> type;
    };
    std::vector<Output> outputs;
    do {
      if (take('_')) error("outputs cannot be absent in the text");
      expect('%');
      Output o{name_or_string(), std::nullopt};
      if (take(':')) o.type = type();
      outputs.push_back(std::move(o));
    } while (take(','));
    expect('=');
    const std::string op_name(identifier());
    if (op_name == "const") {
      if (outputs.size() != 1 || outputs[0].type) error("a constant has one untyped name");
      return constant(graph, outputs[0].name);
    }
    const OpDef* op = find_op(op_name);
    if (op == nullptr) error("there is no operator named `{}`", op_name);
    std::vector<Value*> inputs;
    expect('(');
    if (!take(')')) {
      do inputs.push_back(use());
      while (take(','));
      expect(')');
    }
    Attrs attrs;
    if (take('{') && !take('}')) {
      do {
        std::string key(identifier());
        expect('=');
        attrs.set(std::move(key), attr());
      } while (take(','));
      expect('}');
    }
    bool infer_needed = false;
    for (const Output& o : outputs) infer_needed |= !o.type;
    Node* node = graph.add_node(op_name, inputs, std::move(attrs), "", nullptr, static_cast<int>(outputs.size()), false);
    while (take_word("with")) node->subgraphs.push_back(parse_graph(&graph));
    if (peek() == '"') node->name = string();
    if (take_word("origin")) node->origin = string();
    if (take_word("kernel")) {
      node->kernel = string();
      node->tactic = string();
    }
    if (infer_needed) {
      if (!options_.infer) error("output %{} has no type", outputs[0].name);
      infer_node(*node);
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      Value* v = node->output(static_cast<int>(i));
      if (outputs[i].type) v->type = *outputs[i].type;
      define(outputs[i].name, v);
    }
  }

  std::string_view text_;
  const ParseOptions& options_;
  size_t at_ = 0;
  int depth_ = 0;
  std::unordered_map<std::string, Value*> values_;
};

}  // namespace

std::unique_ptr<Graph> parse(std::string_view text, const ParseOptions& options) {
  try {
    return Parser(text, options).run();
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw Error(ErrorCode::Corrupt, e.what());
    throw;
  }
}

}  // namespace tokamak::ir
