// Oniguruma's syntax to PCRE2's. Most of it is the same; what differs is listed in https://github.com/kkos/oniguruma/blob/master/doc/RE and
// pcre2pattern(3), and the members of \s, \w and \h were taken from the library itself.

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "llm/tokenizer/regex.h"
#include "llm/tokenizer/utf8.h"

namespace tokamak::llm::tokenizer {

namespace {

// Members of classes, to stand between brackets.
constexpr std::string_view kSpace =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
constexpr std::string_view kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"
    "\\x{1F170}-\\x{1F189}";
constexpr std::string_view kHex = "0-9A-Fa-f";

struct PropertyName {
  std::string_view oniguruma, pcre2;
};

// Long names in lower case without separators; PCRE2 knows scripts and the short categories.
constexpr PropertyName kPropertyNames[] = {
    {"letter", "L"},
    {"casedletter", "L&"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"unassigned", "Cn"},
    {"privateuse", "Co"},
    {"surrogate", "Cs"},
    {"alpha", "Alphabetic"},
    {"digit", "Nd"},
    {"upper", "Uppercase"},
    {"lower", "Lowercase"},
    {"space", "White_Space"},
    {"whitespace", "White_Space"},
    {"punct", "P"},
    {"cntrl", "Cc"},
    {"alnum", "Xan"},
};

// Names of more than two letters that are no scripts.
constexpr std::string_view kBinaryProperties[] = {
    "any",
    "ascii",
    "alphabetic",
    "uppercase",
    "lowercase",
    "cased",
    "ideographic",
    "math",
    "dash",
    "diacritic",
    "extender",
    "hexdigit",
    "emoji",
    "idstart",
    "idcontinue",
    "xidstart",
    "xidcontinue",
    "joincontrol",
    "emojimodifier",
    "emojicomponent",
    "asciihexdigit",
    "quotationmark",
    "extendedpictographic",
    "emojipresentation",
    "emojimodifierbase",
    "variationselector",
    "patternwhitespace",
    "defaultignorablecodepoint",
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : text_(pattern) {}

  std::string run() {
    while (at_ < text_.size()) step();
    return std::move(out_);
  }

 private:
  // A bracketed class as a union: `items` between brackets, and further expressions that each match one character.
  struct CharacterSet {
    std::string items;
    std::vector<std::string> alternatives;
    bool negated = false;

    std::string expression() const {
      if (alternatives.empty()) {
        // An empty class matches nothing, an empty negated one everything.
        if (items.empty()) return negated ? "(?s:.)" : "(?!)";
        return (negated ? "[^" : "[") + items + "]";
      }
      std::string all = items.empty() ? "" : "[" + items + "]|";
      for (const std::string& alternative : alternatives) all += alternative + "|";
      all.pop_back();
      return negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")";
    }
  };

  static constexpr int kMaxClassDepth = 20;

  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::Unsupported, "tokenizer.json: pattern '{}', byte {}: {}", text_.substr(0, 200), at_, what);
  }

  bool looking_at(std::string_view s) const { return text_.substr(at_).starts_with(s); }

  // One character, copied to `out`.
  void copy_character(std::string& out) {
    const size_t length = std::min(utf8_length(text_[at_]), text_.size() - at_);
    out += text_.substr(at_, length);
    at_ += length;
  }

  void atom(std::string_view text) {
    atom_ = out_.size();
    out_ += text;
  }

  void step() {
    switch (text_[at_]) {
      case '\\': escape_outside(); break;
      case '[': atom(character_class(0)); break;
      case '(': group(); break;
      case ')':
        ++at_;
        out_ += ')';
        if (!groups_.empty()) {
          atom_ = groups_.back();
          groups_.pop_back();
        }
        break;
      case '*':
      case '+':
      case '?':
        out_ += text_[at_++];
        if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '?')) out_ += text_[at_++];
        break;
      case '{': interval(); break;
      default: atom_ = out_.size(); copy_character(out_);
    }
  }

  // {n,m}: no possessive form (a '+' behind it repeats the whole); {,m} means {0,m}.
  void interval() {
    const size_t close = text_.find('}', at_);
    const std::string_view inside = close == std::string_view::npos ? "" : text_.substr(at_ + 1, close - at_ - 1);
    const size_t comma = inside.find(',');
    const auto digits = [](std::string_view s) { return std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; }); };
    const std::string_view low = inside.substr(0, comma), high = comma == std::string_view::npos ? "" : inside.substr(comma + 1);
    if (inside.empty() || inside == "," || !digits(low) || !digits(high)) {
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += '{';
    out_ += low.empty() ? "0" : low;
    if (comma != std::string_view::npos) out_ += ',', out_ += high;
    out_ += '}';
    at_ = close + 1;
    if (at_ < text_.size() && text_[at_] == '+' && atom_ < out_.size()) {
      out_.insert(atom_, "(?:");
      out_ += ")+";
      ++at_;
    } else if (at_ < text_.size() && text_[at_] == '?') {
      out_ += text_[at_++];
    }
  }

  void group() {
    if (looking_at("(?#")) {
      const size_t close = text_.find(')', at_);
      at_ = close == std::string_view::npos ? text_.size() : close + 1;
      return;
    }
    if (looking_at("(*")) unsupported("callouts are not supported");
    if (looking_at("(?~")) unsupported("the absent operator is not supported");
    const size_t start = out_.size();
    out_ += '(';
    ++at_;
    if (looking_at("?")) {
      out_ += '?';
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == 'i' || text_[at_] == 'm' || text_[at_] == 'x')) {
        // Ruby's m is "dot matches newline".
        while (at_ < text_.size() && (text_[at_] == '-' || (text_[at_] >= 'a' && text_[at_] <= 'z'))) {
          out_ += text_[at_] == 'm' ? 's' : text_[at_];
          ++at_;
        }
        if (at_ < text_.size() && text_[at_] == ')') {
          out_ += ')';
          ++at_;
          return;
        }
        if (at_ < text_.size() && text_[at_] == ':') out_ += ':', ++at_;
      } else {
        while (at_ < text_.size() &&
               (text_[at_] == '<' || text_[at_] == '=' || text_[at_] == '!' || text_[at_] == ':' || text_[at_] == '>')) {
          out_ += text_[at_++];
        }
      }
    }
    groups_.push_back(start);
  }

  // `\p{...}` or `\P{...}`, at the backslash.
  std::string property() {
    const size_t close = text_.find('}', at_);
    if (at_ + 2 >= text_.size() || text_[at_ + 2] != '{' || close == std::string_view::npos) {
      at_ += 2;
      return std::string(1, text_[at_ - 1]);  // without braces it is the letter
    }
    std::string_view name = text_.substr(at_ + 3, close - at_ - 3);
    bool negated = text_[at_ + 1] == 'P';
    if (name.starts_with('^')) name.remove_prefix(1), negated = !negated;
    std::string key;
    for (const char c : name) {
      if (c != ' ' && c != '_' && c != '-') key += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    at_ = close + 1;
    const auto* known =
        std::find_if(std::begin(kPropertyNames), std::end(kPropertyNames), [&](const PropertyName& p) { return p.oniguruma == key; });
    const bool binary = std::find(std::begin(kBinaryProperties), std::end(kBinaryProperties), key) != std::end(kBinaryProperties);
    std::string meaning(name);
    if (known != std::end(kPropertyNames)) {
      meaning = known->pcre2;
    } else if (key.size() > 2 && !binary) {
      meaning = "sc:" + meaning;  // a script, without PCRE2's script extensions
    }
    return (negated ? "\\P{" : "\\p{") + meaning + "}";
  }

  // The escapes that mean one character, for both places; empty when it is another kind. At the backslash.
  std::string character_escape() {
    if (at_ + 1 >= text_.size()) unsupported("a backslash at the end");
    const char c = text_[at_ + 1];
    switch (c) {
      case 't':
      case 'n':
      case 'r':
      case 'f':
      case 'a':
      case 'e': at_ += 2; return {'\\', c};
      case 'v': at_ += 2; return "\\x{0B}";
      case 'u':
      case 'x': {
        size_t begin = at_ + 2, end = begin;
        const bool braces = c == 'x' && begin < text_.size() && text_[begin] == '{';
        if (braces) end = ++begin;
        const size_t most = braces ? 8 : c == 'u' ? 4 : 2;
        const auto is_hex = [](char d) { return (d >= '0' && d <= '9') || (d >= 'a' && d <= 'f') || (d >= 'A' && d <= 'F'); };
        while (end < text_.size() && end - begin < most && is_hex(text_[end])) ++end;
        if (end == begin || (c == 'u' && end - begin != 4) || (braces && (end >= text_.size() || text_[end] != '}'))) {
          unsupported("a malformed hexadecimal escape");
        }
        const std::string code(text_.substr(begin, end - begin));
        at_ = end + (braces ? 1 : 0);
        return "\\x{" + code + "}";
      }
      default: break;
    }
    const auto b = static_cast<unsigned char>(c);
    if (b >= 0x80) {
      std::string out;
      ++at_;
      copy_character(out);
      return out;
    }
    const bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (alphanumeric) return {};
    at_ += 2;
    return {'\\', c};
  }

  void escape_outside() {
    const std::string character = character_escape();
    if (!character.empty()) return atom(character);
    const char c = text_[at_ + 1];
    const auto set = [&](std::string_view items, bool negated) {
      at_ += 2;
      atom((negated ? "[^" : "[") + std::string(items) + "]");
    };
    const std::string word = "[" + std::string(kWord) + "]";
    switch (c) {
      case 's': return set(kSpace, false);
      case 'S': return set(kSpace, true);
      case 'w': return set(kWord, false);
      case 'W': return set(kWord, true);
      case 'h': return set(kHex, false);
      case 'H': return set(kHex, true);
      case 'b': at_ += 2; return atom("(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + "))");
      case 'B': at_ += 2; return atom("(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + "))");
      case 'p':
      case 'P': return atom(property());
      case 'O': at_ += 2; return atom("(?s:.)");
      case 'y':
      case 'Y': unsupported("text segment boundaries are not supported");
      case 'd':
      case 'D':
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
      case 'K':
      case 'R':
      case 'X':
      case 'N':
      case 'k':
      case 'g': at_ += 2; return atom(std::string{'\\', c});
      default:
        // Back references and octal codes mean the same; any other letter is itself.
        at_ += 2;
        return atom(c >= '0' && c <= '9' ? std::string{'\\', c} : std::string(1, c));
    }
  }

  // At '['. Oniguruma has nested classes (a union) and && (an intersection).
  std::string character_class(int depth) {
    if (depth > kMaxClassDepth) unsupported("character classes are nested too deeply");
    ++at_;
    CharacterSet set;
    std::vector<std::string> intersected;
    bool negated = false, first = true, after_class = false;
    if (looking_at("^")) negated = true, ++at_;
    for (;; first = false) {
      if (at_ >= text_.size()) unsupported("a character class does not end");
      if (text_[at_] == ']' && !first) break;
      const bool was_class = std::exchange(after_class, false);
      if (text_[at_] == '[') {
        if (looking_at("[:")) {
          if (posix_class(set)) {
            after_class = true;
            continue;
          }
        }
        set.alternatives.push_back(character_class(depth + 1));
        after_class = true;
      } else if (looking_at("&&")) {
        at_ += 2;
        intersected.push_back(set.expression());
        set = {};
      } else if (text_[at_] == '\\') {
        after_class = !escape_inside(set);
      } else if (text_[at_] == '-') {
        const bool before_class = at_ + 2 < text_.size() && text_[at_ + 1] == '\\' &&
                                  std::string_view("swdhpSWDHP").find(text_[at_ + 2]) != std::string_view::npos;
        const bool before_nested = at_ + 1 < text_.size() && text_[at_ + 1] == '[';
        set.items += was_class || before_class || before_nested || first ? "\\-" : "-";
        ++at_;
      } else if (std::string_view("]^&~|#").find(text_[at_]) != std::string_view::npos) {
        set.items += '\\';
        copy_character(set.items);
      } else {
        copy_character(set.items);
      }
    }
    ++at_;
    if (intersected.empty()) {
      set.negated = negated;
      return set.expression();
    }
    std::string all;
    for (const std::string& one : intersected) all += "(?=" + one + ")";
    all += set.expression();
    return negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")";
  }

  // At "[:"; false when it is not a POSIX bracket.
  bool posix_class(CharacterSet& set) {
    const size_t close = text_.find(":]", at_ + 2);
    if (close == std::string_view::npos) return false;
    std::string_view name = text_.substr(at_ + 2, close - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    struct Posix {
      std::string_view name, items;
    };
    static constexpr std::array<Posix, 14> kPosix = {{{"alpha", "\\p{Alphabetic}"},
                                                      {"alnum", "\\p{Alphabetic}\\p{Nd}"},
                                                      {"word", kWord},
                                                      {"space", kSpace},
                                                      {"upper", "\\p{Uppercase}"},
                                                      {"lower", "\\p{Lowercase}"},
                                                      {"digit", "\\p{Nd}"},
                                                      {"xdigit", kHex},
                                                      {"punct", "\\p{P}\\p{S}"},
                                                      {"cntrl", "\\p{Cc}"},
                                                      {"graph", "[:graph:]"},
                                                      {"print", "[:print:]"},
                                                      {"blank", "\\t\\p{Zs}"},
                                                      {"ascii", "\\x{00}-\\x{7F}"}}};
    const auto* known = std::find_if(kPosix.begin(), kPosix.end(), [&](const Posix& p) { return p.name == name; });
    if (known == kPosix.end()) return false;
    at_ = close + 2;
    if (negated) {
      set.alternatives.push_back("[^" + std::string(known->items) + "]");
    } else {
      set.items += known->items;
    }
    return true;
  }

  // An escape inside a class; true when it is one character.
  bool escape_inside(CharacterSet& set) {
    const std::string character = character_escape();
    if (!character.empty()) {
      set.items += character;
      return true;
    }
    const char c = text_[at_ + 1];
    switch (c) {
      case 's': set.items += kSpace; break;
      case 'w': set.items += kWord; break;
      case 'h': set.items += kHex; break;
      case 'S': set.alternatives.push_back("[^" + std::string(kSpace) + "]"); break;
      case 'W': set.alternatives.push_back("[^" + std::string(kWord) + "]"); break;
      case 'H': set.alternatives.push_back("[^" + std::string(kHex) + "]"); break;
      case 'd':
      case 'D': set.items += {'\\', c}; break;
      case 'p':
      case 'P': set.items += property(); return false;
      case 'b':
        at_ += 2;
        set.items += "\\x{08}";
        return true;
      default:
        at_ += 2;
        set.items += c >= '0' && c <= '9' ? std::string{'\\', c} : std::string(1, c);
        return true;
    }
    at_ += 2;
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where in out_ the last atom begins
  std::vector<size_t> groups_;  // where in out_ the open groups begin
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace tokamak::llm::tokenizer
