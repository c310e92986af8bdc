#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "llm/grammar/grammar.h"

namespace tokamak::llm {
namespace {

struct Case {
  const char* schema;
  std::vector<std::string> accepted, rejected;
};

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    std::shared_ptr<const Grammar> grammar;
    ASSERT_NO_THROW(grammar = Grammar::from_json_schema(c.schema)) << c.schema;
    for (const std::string& text : c.accepted) {
      EXPECT_TRUE(grammar->accepts(text)) << c.schema << "\n" << text;
      // Every beginning of it is one of a text.
      for (size_t n = 0; n <= std::min<size_t>(text.size(), 200); ++n)
        EXPECT_TRUE(grammar->accepts(text.substr(0, n), true)) << c.schema << "\n" << text.substr(0, n);
    }
    for (const std::string& text : c.rejected) EXPECT_FALSE(grammar->accepts(text)) << c.schema << "\n" << text;
  }
}

// The message of the Error that compiling throws; "" when it throws none.
std::string refusal(std::string_view schema, ErrorCode code = ErrorCode::InvalidArgument) {
  try {
    Grammar::from_json_schema(schema);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "";
}

TEST(JsonSchema, Types) {
  check({
      {R"({"type":"null"})", {"null"}, {"", "nul", "nulll", " null", "true"}},
      {R"({"type":"boolean"})", {"true", "false"}, {"True", "1", "null"}},
      {R"({"type":["string","null"]})", {R"("a")", "null"}, {"1", "true"}},
      {R"({"type":"integer"})", {"0", "-1", "12345678901234567890"}, {"01", "1.0", "1e3", "+1", "-", "--1", "-0", ""}},
      {R"({"type":"number"})",
       {"0", "-0", "1.5", "-0.25", "1e10", "1E+5", "2.5e-07", "10"},
       {".5", "1.", "01", "1e", "1e100", "NaN", "0x1"}},
      {R"({"type":["integer","number"]})", {"1", "1.5"}, {"\"1\""}},
      {"true", {"1", "null", "{}", "[[]]", R"({"a":[1,{"b":null}]})"}, {"", "{", "[1,]", R"({"a"})", R"({a:1})"}},
      {"{}", {"1", R"("x")"}, {"x"}},
      {R"({"title":"T","description":"d","default":3,"x-note":{}})", {"1"}, {}},
      {R"({"minLength":1,"minimum":0})", {"\"a\"", "0"}, {"\"\"", "-1", "null", "{}"}},
      {R"({"type":"string","nullable":true})", {R"("")", "null"}, {"0"}},
  });
}

TEST(JsonSchema, Strings) {
  check({
      {R"({"type":"string"})",
       {R"("")", R"("a b")", R"("\n\"\\\/\u00e9")", "\"\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80\"", R"("\ud83d\ude00")", "\"\x7F\""},
       {"\"", "\"a", "'a'", "\"\n\"", R"("\x")", R"("\u12")", R"("\ud83d")", R"("\ud83dx")", R"("\ude00")", "\"\xC3\"", "\"\xED\xA0\x80\"",
        "\"\xC0\x80\"", "\"\xF5\x80\x80\x80\"", "\"\xE4\xBD\""}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("ab")", R"("abc")", "\"\xC3\xA9\xF0\x9F\x98\x80\"", R"("\ud83d\ude00\n")"},
       {R"("")", R"("a")", R"("abcd")", "\"\xC3\xA9\"", R"("\ud83d\ude00")"}},
      {R"({"type":"string","maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"type":"string","minLength":3})", {R"("abc")", R"("abcdefgh")"}, {R"("ab")"}},
      {R"({"type":"string","minLength":3,"maxLength":5000})",
       {'"' + std::string(5000, 'x') + '"', R"("abc")"},
       {'"' + std::string(5001, 'x') + '"', R"("ab")"}},
      {R"({"type":"string","pattern":"^[a-z]{2,4}$"})", {R"("ab")", R"("abcd")"}, {R"("a")", R"("abcde")", R"("AB")"}},
      {R"({"type":"string","pattern":"b+"})", {R"("b")", R"("abba")", R"("xb\n")"}, {R"("a")", R"("")"}},
      {R"({"type":"string","pattern":"^a|b$"})", {R"("axyz")", R"("xyzb")"}, {R"("xa")", R"("bx")"}},
      {R"({"type":"string","pattern":"^\"\\\\$"})", {R"("\"\\")"}, {R"(""\")"}},
      {R"({"type":"string","pattern":"^\\n$"})", {R"("\n")"}, {"\"\n\""}},
      {R"({"type":"string","pattern":"^[a-z]+$","maxLength":2})", {R"("a")", R"("ab")"}, {R"("")", R"("abc")"}},
      {R"({"type":"string","pattern":"^(ab)+$","minLength":3,"maxLength":6})", {R"("abab")", R"("ababab")"}, {R"("ab")", R"("abababab")"}},
      {R"({"type":"string","pattern":"x","minLength":3})", {R"("axb")", R"("xxxxxxx")"}, {R"("xx")", R"("abc")"}},
  });
}

TEST(JsonSchema, Formats) {
  check({
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-29")", R"("1999-12-31")", R"("2000-02-29")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2024-13-01")", R"("2024-04-31")", R"("0000-01-01")", R"("24-1-1")"}},
      {R"({"type":"string","format":"time"})", {R"("23:59:59Z")", R"("00:00:00.123+05:30")"}, {R"("24:00:00Z")", R"("12:00:00")"}},
      {R"({"type":"string","format":"date-time"})", {R"("2024-02-29T23:59:59Z")"}, {R"("2024-02-29 23:59:59Z")"}},
      {R"({"type":"string","format":"duration"})",
       {R"("P1Y2M3D")", R"("PT5M")", R"("P2W")", R"("P1DT12H")"},
       {R"("P")", R"("PT")", R"("1D")"}},
      {R"({"type":"string","format":"uuid"})", {R"("123e4567-e89b-12d3-a456-426614174000")"}, {R"("123e4567")"}},
      {R"({"type":"string","format":"email"})", {R"("a.b@example.com")"}, {R"("a@b@c")", R"("@x.y")", R"("a b@c.d")"}},
      {R"({"type":"string","format":"ipv4"})", {R"("255.0.10.1")"}, {R"("256.0.0.1")", R"("1.2.3")", R"("01.2.3.4")"}},
      {R"({"type":"string","format":"ipv6"})",
       {R"("::")", R"("::1")", R"("2001:db8::ff00:42:8329")", R"("1:2:3:4:5:6:7:8")", R"("1::")", R"("1:2:3:4:5:6:7::")"},
       {R"("1:2:3")", R"("1::2::3")", R"(":::")", R"("1:2:3:4:5:6:7:8:9")"}},
      {R"({"type":"string","format":"hostname"})", {R"("a-b.example.com")"}, {R"("-a")", R"("a..b")"}},
      {R"({"type":"string","format":"uri"})", {R"("https://example.com/a/b?c=d#e")", R"("mailto:x")"}, {R"("example.com")"}},
  });
  EXPECT_NE(refusal(R"({"type":"string","format":"regex"})").find("#/format"), std::string::npos);
}

TEST(JsonSchema, Integers) {
  check({
      {R"({"type":"integer","minimum":0})", {"0", "7", "123456"}, {"-1"}},
      {R"({"type":"integer","minimum":18,"maximum":120})", {"18", "19", "99", "100", "120"}, {"17", "121", "1", "1200", "018"}},
      {R"({"type":"integer","minimum":-120,"maximum":-18})", {"-18", "-99", "-120"}, {"-17", "-121", "18", "0"}},
      {R"({"type":"integer","minimum":-5,"maximum":5})", {"-5", "-1", "0", "5"}, {"-6", "6", "-0", "10"}},
      {R"({"type":"integer","exclusiveMinimum":0,"exclusiveMaximum":10})", {"1", "9"}, {"0", "10"}},
      {R"({"type":"integer","minimum":0,"exclusiveMinimum":true,"maximum":3})", {"1", "3"}, {"0"}},
      {R"({"type":"integer","minimum":1.5,"maximum":3.5})", {"2", "3"}, {"1", "4"}},
      {R"({"type":"integer","maximum":-1.5})", {"-2", "-100"}, {"-1", "0"}},
      {R"({"type":"integer","minimum":-9223372036854775808,"maximum":18446744073709551615})",
       {"-9223372036854775808", "18446744073709551615"},
       {"-9223372036854775809", "18446744073709551616"}},
      {R"({"type":"integer","minimum":1000000})", {"1000000", "9999999999"}, {"999999"}},
      {R"({"type":"integer","multipleOf":7})", {"0", "7", "-14", "700"}, {"1", "8", "07"}},
      {R"({"type":"integer","multipleOf":5,"minimum":3,"maximum":21})", {"5", "20"}, {"0", "25", "3"}},
      {R"({"type":"integer","minimum":0,"maximum":1.7976931348623157e308})", {"0", "5"}, {"-1"}},
  });
  for (int low = -25; low <= 25; low += 3) {
    for (int high = low; high <= 130; high += 7) {
      const auto grammar = Grammar::from_json_schema(R"({"type":"integer","minimum":)" + std::to_string(low) + R"(,"maximum":)" +
                                                     std::to_string(high) + "}");
      for (int n = -40; n <= 150; ++n)
        EXPECT_EQ(grammar->accepts(std::to_string(n)), low <= n && n <= high) << n << " in " << low << ".." << high;
    }
  }
}

TEST(JsonSchema, Numbers) {
  check({
      {R"({"type":"number","minimum":0,"maximum":1})", {"0", "0.5", "1", "1.0", "0.0"}, {"1.01", "-0.1", "2", "1e0"}},
      {R"({"type":"number","exclusiveMinimum":0})", {"0.001", "1", "12.5"}, {"0", "0.0", "-1"}},
      {R"({"type":"number","minimum":-1.25,"maximum":2.5})",
       {"-1.25", "-1.2", "-0.3", "0", "2.49", "2.5", "2.500"},
       {"-1.26", "2.51", "3", "-2"}},
      {R"({"type":"number","exclusiveMaximum":-3.14})", {"-3.15", "-4", "-3.1401"}, {"-3.14", "-3", "-3.1", "0"}},
      {R"({"type":"number","minimum":0.1,"maximum":0.12})", {"0.1", "0.11", "0.12", "0.120"}, {"0", "0.09", "0.121", "0.2"}},
      {R"({"type":"number","minimum":99.5,"maximum":101.5})", {"99.5", "100", "100.99", "101.5"}, {"99", "99.49", "101.51", "102"}},
      {R"({"type":"number","multipleOf":0.01})", {"1", "1.2", "-1.25"}, {"1.255", "1e5"}},
      {R"({"type":"number","multipleOf":1})", {"3"}, {"3.5"}},
  });
  for (const auto& [low, high] :
       {std::pair(-1.5, 0.25), std::pair(0.0, 0.5), std::pair(0.75, 12.5), std::pair(-12.25, -0.5), std::pair(-100.0, 100.0)}) {
    for (const bool exclusive : {false, true}) {
      const std::string name = exclusive ? "exclusive" : "m";
      const auto grammar = Grammar::from_json_schema(fmt::format(
          R"({{"type":"number","{}inimum":{},"{}aximum":{}}})", exclusive ? "exclusiveM" : "m", low, exclusive ? "exclusiveM" : "m", high));
      for (int n = -11000; n <= 11000; n += 5) {
        const double x = n / 100.0;
        const std::string text = fmt::format("{}", x);
        if (text == "-0") continue;
        EXPECT_EQ(grammar->accepts(text), exclusive ? low < x && x < high : low <= x && x <= high) << text << " in " << low << ".." << high;
      }
    }
  }
}

TEST(JsonSchema, EnumAndConst) {
  check({
      {R"({"enum":["a","ab",1,2.5,null,true,{"k":[1]},[]]})",
       {R"("a")", R"("ab")", "1", "2.5", "null", "true", R"({"k":[1]})", R"({ "k": [ 1 ] })", "[]"},
       {R"("b")", "3", "false", "{}"}},
      {R"({"const":"x\n\"y\""})", {R"("x\n\"y\"")"}, {R"("x")"}},
      {R"({"type":"string","enum":["a",1]})", {R"("a")"}, {"1"}},
      {R"({"type":"integer","enum":[1,2,3,40],"minimum":2})", {"2", "3", "40"}, {"1"}},
      {R"({"enum":["\u00e9\ud83d\ude00"]})", {"\"\xC3\xA9\xF0\x9F\x98\x80\""}, {}},
      {R"({"enum":["a"],"const":"a"})", {R"("a")"}, {}},
      {R"({"enum":["a"],"nullable":true})", {R"("a")", "null"}, {}},
  });
  EXPECT_NE(refusal(R"({"type":"integer","enum":["a"]})"), "");
}

TEST(JsonSchema, Objects) {
  check({
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"required":["a","b"],"additionalProperties":false})",
       {R"({"a":1,"b":true})", R"({ "a" : 1 , "b" : true })", "{\n  \"a\": 1,\n  \"b\": false\n}"},
       {"{}", R"({"a":1})", R"({"b":true,"a":1})", R"({"a":1,"b":true,"c":1})", R"({"a":1 "b":true})", R"({"a":1,"b":true,})",
        "{  \"a\":1,\"b\":true}", "{\n\n\"a\":1,\"b\":true}"}},
      {R"({"type":"object","properties":{"a":{},"b":{},"c":{}},"required":["b"],"additionalProperties":false})",
       {R"({"b":1})", R"({"a":1,"b":1})", R"({"b":1,"c":1})", R"({"a":1,"b":1,"c":1})"},
       {"{}", R"({"a":1})", R"({"a":1,"c":1})", R"({,"b":1})", R"({"b":1,})"}},
      {R"({"type":"object","properties":{"a":{},"b":{}},"additionalProperties":false})",
       {"{}", "{ }", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":2})"},
       {R"({"c":1})", R"({"a":1,"a":2})"}},
      {R"({"type":"object","properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"string"}})",
       {"{}", R"({"ab":1})", R"({"a":"x"})", R"({"abc":"x"})", R"({"ab":1,"z":"","y":""})", R"({"":"x"})", R"({"\n":"x"})",
        "{\"\xC3\xA9\":\"x\"}"},
       {R"({"ab":"x"})", R"({"a":1})", R"({"a":"x","ab":1})", R"({"\u0061b":"x"})", R"({"a\u0062":"x"})"}},
      {R"({"type":"object","properties":{"\"\u00e9\t":{"type":"integer"}},"additionalProperties":{"type":"string"}})",
       {"{\"\\\"\xC3\xA9\\t\":1}", "{\"\\\"\xC3\xA8\\t\":\"x\"}", R"({"\"":"x"})", "{\"\\\"\xC3\xA9\":\"\"}", "{\"\\\"\xC3\xA9\\n\":\"\"}"},
       {"{\"\\\"\xC3\xA9\\t\":\"x\"}"}},
      {R"({"type":"object","required":["z"]})", {R"({"z":1})", R"({"z":1,"a":2})"}, {"{}", R"({"a":2})"}},
      {R"({"type":"object","required":["z"],"additionalProperties":{"type":"null"}})", {R"({"z":null})"}, {R"({"z":1})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":2})",
       {R"({"a":1})", R"({"a":1,"b":2})"},
       {"{}", R"({"a":1,"b":2,"c":3})"}},
      {R"({"type":"object","patternProperties":{"^x_":{"type":"integer"}},"additionalProperties":false})",
       {"{}", R"({"x_a":1,"x_b":2})"},
       {R"({"y":1})", R"({"x_a":"s"})"}},
      {R"({"type":"object","properties":{"n":{}},"patternProperties":{"^x_":{"type":"integer"}},"additionalProperties":false})",
       {R"({"n":"q","x_a":1})"},
       {R"({"x_a":"s"})"}},
      {R"({"type":"object","propertyNames":{"pattern":"^[a-c]+$"},"additionalProperties":{"type":"null"}})",
       {"{}", R"({"abc":null})"},
       {R"({"d":null})"}},
      {R"({"type":"object","properties":{"a":false,"b":{}},"additionalProperties":false})", {"{}", R"({"b":1})"}, {R"({"a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"array","items":{"type":"null"}}},"required":["b"],"additionalProperties":false}},"required":["a"],"additionalProperties":false})",
       {R"({"a":{"b":[]}})", R"({"a": {"b": [null, null]}})"},
       {R"({"a":{}})"}},
  });
}

TEST(JsonSchema, Arrays) {
  check({
      {R"({"type":"array","items":{"type":"integer"}})", {"[]", "[ ]", "[1]", "[1, 2,3]", "[1\n,2]"}, {"[,]", "[1,]", "[\"a\"]", "[1 2]"}},
      {R"({"type":"array","items":{"type":"null"},"minItems":2,"maxItems":3})",
       {"[null,null]", "[null,null,null]"},
       {"[]", "[null]", "[null,null,null,null]"}},
      {R"({"type":"array","items":{"type":"null"},"minItems":1})", {"[null]", "[null,null]"}, {"[]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"boolean"}],"items":false})",
       {"[]", "[1]", "[1,true]"},
       {"[true]", "[1,true,1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"string"},"minItems":2,"maxItems":3})",
       {R"([1,"a"])", R"([1,"a","b"])"},
       {"[1]", R"([1,"a","b","c"])", "[1,2]"}},
      {R"({"type":"array","items":[{"type":"integer"}],"additionalItems":false})", {"[1]"}, {"[1,2]"}},
      {R"({"type":"array","items":{"type":"integer"},"maxItems":1000})", {"[]", "[1,2,3]"}, {}},
  });
}

TEST(JsonSchema, Combinations) {
  check({
      {R"({"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]})", {"1", R"("a")"}, {R"("ab")", "null"}},
      {R"({"oneOf":[{"type":"integer"},{"type":"null"}]})", {"1", "null"}, {"true"}},
      {R"({"allOf":[{"type":"integer","minimum":3},{"maximum":5}]})", {"3", "5"}, {"2", "6"}},
      {R"({"type":"object","properties":{"a":{}},"anyOf":[{"required":["a"]},{"properties":{"b":{}},"required":["b"]}],"additionalProperties":false})",
       {R"({"a":1})"},
       {"{}"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"null"},"a":{"minimum":2}},"required":["b"]}],"unevaluatedProperties":false})",
       {R"({"a":2,"b":null})"},
       {R"({"a":1,"b":null})", R"({"a":2})", R"({"a":2,"b":null,"c":0})"}},
      {R"({"type":["integer","string"],"anyOf":[{"type":"number","minimum":5},{"type":"string"}]})", {"5", R"("x")"}, {"4", "5.5"}},
      {R"({"allOf":[{"enum":[1,2,3]},{"enum":[2,3,4]}]})", {"2", "3"}, {"1", "4"}},
      {R"({"anyOf":[false,{"type":"null"}]})", {"null"}, {"1"}},
      {R"({"type":"array","items":{"allOf":[{"$ref":"#/$defs/p"},{"maximum":9}]},"$defs":{"p":{"type":"integer","minimum":1}}})",
       {"[1,9]"},
       {"[0]", "[10]"}},
  });
  EXPECT_NE(refusal(R"({"allOf":[{"type":"integer"},{"type":"string"}]})"), "");
}

TEST(JsonSchema, References) {
  check({
      {R"({"$ref":"#/definitions/a~1b","definitions":{"a/b":{"type":"integer"}}})", {"1"}, {"null"}},
      {R"({"$ref":"#/$defs/x%20y","$defs":{"x y":{"type":"null"}}})", {"null"}, {"1"}},
      {R"({"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v","next"],"additionalProperties":false})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
       {R"({"v":1})", R"({"v":1,"next":1})"}},
      {R"({"$defs":{"tree":{"type":"object","properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["kids"],"additionalProperties":false}},"$ref":"#/$defs/tree"})",
       {R"({"kids":[]})", R"({"kids":[{"kids":[]},{"kids":[{"kids":[]}]}]})"},
       {R"({"kids":[1]})"}},
      {R"({"$ref":"#/$defs/n","minimum":2,"$defs":{"n":{"type":"integer"}}})", {"2"}, {"1"}},
  });
  EXPECT_NE(refusal(R"({"$ref":"#/nothing"})").find("#/nothing"), std::string::npos);
  EXPECT_NE(refusal(R"({"$ref":"http://example.com/s.json"})"), "");
  EXPECT_NE(refusal(R"({"$ref":"#"})"), "");
  EXPECT_NE(refusal(R"({"allOf":[{"$ref":"#"},{"type":"null"}]})"), "");
  EXPECT_NE(refusal(R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})"), "");  // never ends
}

TEST(JsonSchema, RefusalsNameKeywordAndPath) {
  const auto names = [](std::string_view schema, std::string_view path) {
    const std::string message = refusal(schema);
    EXPECT_NE(message.find(path), std::string::npos) << schema << "\n" << message;
  };
  names(R"({"type":"object","properties":{"a":{"type":"array","uniqueItems":true}}})", "#/properties/a/uniqueItems");
  names(R"({"type":"object","properties":{"a":{"not":{}}}})", "#/properties/a/not");
  names(R"({"if":{}})", "#/if");
  names(R"({"type":"array","contains":{}})", "#/contains");
  names(R"({"dependentRequired":{}})", "#/dependentRequired");
  names(R"({"maxlength":3})", "#/maxlength");
  names(R"({"type":"text"})", "#/type");
  names(R"x({"type":"string","pattern":"(?=a)"})x", "#/pattern");
  names(R"({"type":"string","maxLength":-1})", "#/maxLength");
  names(R"({"type":"integer","minimum":"1"})", "#/minimum");
  names(R"({"type":"number","multipleOf":0.3})", "#/multipleOf");
  names(R"({"properties":[]})", "#/properties");
  names(R"({"required":"a"})", "#/required");
  names(R"({"items":3})", "#/items");
  names("3", "#");
  EXPECT_NE(refusal("{"), "");
  EXPECT_NE(refusal("false"), "");
  EXPECT_NE(refusal(R"({"type":"integer","minimum":3,"maximum":2})"), "");
}

TEST(JsonSchema, HostileSchemasAreBounded) {
  EXPECT_NE(refusal(std::string(5000, '[') + std::string(5000, ']'), ErrorCode::ResourceExhausted), "");
  std::string nested = "{}";
  for (int i = 0; i < 90; ++i) nested = R"({"items":)" + nested + "}";
  EXPECT_EQ(refusal(nested), "");
  // Alternatives that multiply.
  std::string any = R"({"anyOf":[{"minimum":1},{"maximum":2},{"minimum":3},{"maximum":4}]})";
  std::string all = R"({"allOf":[)";
  for (int i = 0; i < 10; ++i) all += (i ? "," : "") + any;
  EXPECT_NE(refusal(all + "]}", ErrorCode::ResourceExhausted), "");
  EXPECT_NE(
      refusal(R"({"type":"string","pattern":"^((((a{1000}){1000}){1000}){1000}){1000}$","maxLength":5})", ErrorCode::ResourceExhausted),
      "");
  // Counts need no states.
  EXPECT_EQ(refusal(R"({"type":"string","minLength":1000000,"maxLength":100000000})"), "");
  EXPECT_EQ(refusal(R"({"type":"array","items":{"type":"array","maxItems":1000000},"maxItems":1000000})"), "");
}

TEST(JsonSchema, WhitespaceOption) {
  GrammarOptions compact;
  compact.whitespace = false;
  const auto grammar = Grammar::from_json_schema(R"({"type":"object","properties":{"a":{"type":"array"}}})", compact);
  EXPECT_TRUE(grammar->accepts(R"({"a":[1,2]})"));
  EXPECT_FALSE(grammar->accepts(R"({"a": [1,2]})"));
  const auto any = Grammar::json_object();
  EXPECT_TRUE(any->accepts(R"({"a": {"b": [1, 2.5e3, "x", null, true, {}]}})"));
  EXPECT_TRUE(any->accepts("{\r\n\t\t\"a\": 1\r\n}"));
  EXPECT_FALSE(any->accepts("[]"));
  EXPECT_FALSE(any->accepts("{}  "));
  EXPECT_FALSE(any->accepts("{\n" + std::string(41, ' ') + "}"));
  EXPECT_TRUE(Grammar::json_value()->accepts("[]"));
}

TEST(JsonSchema, Tools) {
  const char* tools =
      R"([{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"x":{"$ref":"#/$defs/n"}},"required":["x"],"additionalProperties":false,"$defs":{"n":{"type":"integer"}}}}},{"name":"now"}])";
  const auto one = Grammar::from_tools(tools);
  EXPECT_TRUE(one->accepts(R"({"name": "add", "arguments": {"x": 1}})"));
  EXPECT_TRUE(one->accepts(R"({"name":"now","arguments":{}})"));
  EXPECT_FALSE(one->accepts(R"({"name":"add","arguments":{}})"));
  EXPECT_FALSE(one->accepts(R"({"name":"sub","arguments":{}})"));
  ToolCallOptions calls;
  calls.arguments_key = "parameters";
  calls.begin = "<tool_call>\n";
  calls.end = "\n</tool_call>";
  calls.max_calls = 2;
  const auto several = Grammar::from_tools(tools, calls);
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"parameters\": {}}\n</tool_call>";
  EXPECT_TRUE(several->accepts(call));
  EXPECT_TRUE(several->accepts(call + "\n" + call));
  EXPECT_FALSE(several->accepts(call + "\n" + call + "\n" + call));
  EXPECT_THROW(Grammar::from_tools("[]"), Error);
  EXPECT_THROW(Grammar::from_tools(R"([{"parameters":{}}])"), Error);
}

}  // namespace
}  // namespace tokamak::llm
