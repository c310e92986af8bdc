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

}  // namespace
}  // namespace tokamak::llm
