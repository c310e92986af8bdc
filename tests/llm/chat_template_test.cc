#include "llm/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <sstream>

#include "base/error.h"

namespace tokamak::llm {
namespace {

using Json = TemplateContext;

const std::string kFolder = TOKAMAK_SOURCE_DIR "/tests/llm/chat_templates/";

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// The text, or the error.
std::pair<std::string, bool> render(std::string_view source, const Json& context, int64_t now) {
  try {
    return {ChatTemplate::parse(source).render(context, now), true};
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::InvalidArgument) << e.what();
    return {e.what(), false};
  }
}

class ChatTemplateGoldens : public testing::Test {
 protected:
  void SetUp() override {
    // strftime_now() shows local time; the goldens were made in UTC.
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

std::vector<ChatMessage> messages_of(const Json& conversation) {
  std::vector<ChatMessage> messages;
  for (const Json& m : conversation) {
    ChatMessage message;
    for (const auto& [key, value] : m.items()) {
      if (key == "role") {
        message.role = value;
      } else if (key == "content" && value.is_string()) {
        message.content = value;
      } else {
        message.extra[key] = value;
      }
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

// Made by apply_chat_template of `transformers` 5 (tests/golden/make_tokenizer_goldens.py).
TEST_F(ChatTemplateGoldens, PublicShapesRenderAsInTransformers) {
  const Json goldens = Json::parse(read_text(kFolder + "goldens.json"));
  const int64_t now = goldens["now"];
  const std::string config = goldens["config"].dump();
  std::map<std::string, ChatTemplate> templates;
  size_t rendered = 0, failed = 0;
  for (const Json& row : goldens["rows"]) {
    const std::string name = row["template"];
    SCOPED_TRACE(row["template"].dump() + " " + row["conversation"].dump() + " " + row["options"].dump());
    if (!templates.contains(name)) templates.emplace(name, ChatTemplate::parse(read_text(kFolder + name + ".jinja")));
    const Json& wanted = goldens["options"][row["options"].get<size_t>()];
    ChatOptions options;
    options.add_generation_prompt = wanted.value("add_generation_prompt", false);
    options.variables = Json::object();
    for (const auto& [key, value] : wanted.items()) {
      if (key == "tools") {
        options.tools = value;
      } else if (key == "documents") {
        options.documents = value;
      } else if (key != "add_generation_prompt") {
        options.variables[key] = value;
      }
    }
    const Json context = make_chat_context(messages_of(goldens["conversations"][row["conversation"].get<std::string>()]), config, options);
    try {
      const std::string text = templates.at(name).render(context, now);
      EXPECT_EQ(text, row.contains("output") ? row["output"].get<std::string>() : "error: " + row["error"].get<std::string>());
      ++rendered;
    } catch (const Error& e) {
      ++failed;
      EXPECT_FALSE(row.contains("output")) << e.what();
      if (row.contains("error") && row["error"] != "") {
        EXPECT_STREQ(e.what(), row["error"].get<std::string>().c_str());
      }
    }
  }
  EXPECT_GE(templates.size(), 12u);
  EXPECT_GE(rendered, 150u);
  EXPECT_GE(failed, 10u);
}

// Single constructs: the same text as Jinja's, and an error where Jinja has one.
TEST_F(ChatTemplateGoldens, ExpressionsAndStatementsRenderAsInJinja) {
  const Json goldens = Json::parse(read_text(kFolder + "expressions.json"));
  ASSERT_GE(goldens["rows"].size(), 400u);
  for (const Json& row : goldens["rows"]) {
    const auto [text, rendered] = render(row["source"].get<std::string>(), goldens["context"], goldens["now"]);
    EXPECT_EQ(rendered, row.contains("output")) << row.dump() << "\n  here: " << text;
    if (rendered && row.contains("output")) {
      EXPECT_EQ(text, row["output"].get<std::string>()) << row["source"];
    }
  }
}

TEST(ChatTemplate, ErrorsNameTheLine) {
  const auto message = [](const char* source) { return render(source, Json::object(), 0).first; };
  EXPECT_EQ(message("a\n\n{{ x.y }}"), "chat template, line 3: 'x' is undefined");
  EXPECT_EQ(message("{% if true %}\n{{ 1 + 'a' }}\n{% endif %}"),
            "chat template, line 2: unsupported operand types for +: 'int' and 'str'");
  EXPECT_EQ(message("\n{% include 'x' %}").substr(0, 46), "chat template, line 2: the statement 'include'");
  EXPECT_EQ(message("{% for x in y %}"), "chat template, line 1: a block misses its 'endfor'");
  EXPECT_EQ(message("{{ raise_exception('only this') }}"), "only this");
}

// Work, sizes and depths are limited; nothing here may take long or crash.
TEST(ChatTemplate, HostileTemplatesAreStopped) {
  const auto nest = [](const char* open, const char* inside, const char* close, int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += open;
    text += inside;
    for (int i = 0; i < n; ++i) text += close;
    return text;
  };
  std::string sum = "{{ 1", filters = "{{ 1";
  for (int i = 0; i < 100'000; ++i) sum += "+1", filters += "|abs";
  const std::vector<std::string> sources = {
      "{% set x = 'ab' %}{% for i in range(100) %}{% set ns = 1 %}{% endfor %}{{ x * 10000000000 }}",
      "{% set ns = namespace(x='ab') %}{% for i in range(1000) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor "
      "%}{{ ns.x == ns.y }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      "{{ range(100000) | join('x' * 10000) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ 'x'.center(100000000000) }}",
      nest("{{ ", "(", " }}", 1) + nest("(", "1", ")", 100'000),
      "{{ " + nest("[", "1", "]", 100'000) + " }}",
      "{{ " + nest("not ", "1", "", 100'000) + " }}",
      "{{ " + nest("-", "1", "", 100'000) + " }}",
      nest("{% if true %}", "x", "{% endif %}", 100'000),
      sum + " }}",
      filters + " }}",
  };
  for (const std::string& source : sources) {
    EXPECT_THROW(ChatTemplate::parse(source, {.max_steps = 300'000}).render(Json::object()), Error) << source.substr(0, 100);
  }
  Json context;  // moved only: copying recurses
  context["messages"] = Json::parse(std::string(100'000, '[') + std::string(100'000, ']'));
  EXPECT_THROW(ChatTemplate::parse("x").render(context), Error);
  ChatOptions options;
  options.tools = std::move(context["messages"]);
  EXPECT_THROW(make_chat_context({}, "{}", options), Error);
}

// A namespace may hold itself, and a macro its scope: neither leaks (the sanitizer build tells) nor recurses.
TEST(ChatTemplate, CyclesAreFreed) {
  EXPECT_EQ(ChatTemplate::parse("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me.me.me is defined }}").render(Json::object()),
            "True");
  EXPECT_EQ(ChatTemplate::parse("{% macro f() %}x{% endmacro %}{% set g = f %}{{ g() }}").render(Json::object()), "x");
}

TEST(ChatTemplate, IsFoundInTheConfiguration) {
  EXPECT_EQ(find_chat_template(R"({"chat_template": "a"})"), "a");
  EXPECT_EQ(find_chat_template(R"({"chat_template": "a"})", "file"), "file");
  EXPECT_EQ(find_chat_template("{}"), "");
  const char* list = R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})";
  EXPECT_EQ(find_chat_template(list), "d");
  EXPECT_EQ(find_chat_template(list, "", true), "t");
  EXPECT_THROW(find_chat_template(R"({"chat_template": [{"name": "rag", "template": "t"}]})"), Error);
  EXPECT_THROW(find_chat_template(R"({"chat_template": 5})"), Error);
  EXPECT_THROW(find_chat_template("{"), Error);
}

TEST(ChatTemplate, ContextHoldsTokensMessagesAndVariables) {
  ChatOptions options;
  options.variables = {{"enable_thinking", false}, {"eos_token", "mine"}};
  const Json context = make_chat_context({{"user", "hi", {{"name", nullptr}}}, {"assistant", "yo", {{"reasoning", "why"}}}},
                                         R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null})", options);
  EXPECT_EQ(context["bos_token"], "<s>");
  EXPECT_EQ(context["eos_token"], "mine");
  EXPECT_FALSE(context.contains("pad_token"));
  EXPECT_TRUE(context["tools"].is_null());
  EXPECT_EQ(context["add_generation_prompt"], true);
  EXPECT_FALSE(context["messages"][0].contains("name"));
  EXPECT_EQ(context["messages"][1]["reasoning_content"], "why");
}

TEST(ChatTemplate, InvalidUtf8IsReadAsReplacementCharacters) {
  EXPECT_EQ(ChatTemplate::parse("{{ x }}\xFF").render({{"x", "a\xC3"}}), "a\uFFFD\uFFFD");
}

}  // namespace
}  // namespace tokamak::llm
