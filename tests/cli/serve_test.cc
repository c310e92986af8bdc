// tokamak serve in this process: from its command line to answers over HTTP and its end by a signal.

#include <gmock/gmock.h>
#include <pthread.h>
#include <signal.h>

#include <regex>
#include <thread>

#include "cli/serve_flags.h"
#include "server/http/client.h"
#include "server/log.h"
#include "tests/support/command_line.h"
#include "tests/support/message_of.h"

namespace tokamak::cli {

namespace {

using testing::HasSubstr;

const std::string kModels = TOKAMAK_SOURCE_DIR "/examples/models/";

class Serve : public test::CommandLineTest {
 protected:
  void TearDown() override {
    stop();
    server::log().set({});
    CommandLineTest::TearDown();
  }

  // Starts it with `words` and waits until it is ready, or has ended.
  void start(std::vector<std::string> words) {
    const std::vector<std::string> common = {"--address", "127.0.0.1",      "--http-port", "0",          "--grpc-port",
                                             "0",         "--metrics-port", "0",           "--log-file", at("log.txt")};
    words.insert(words.begin(), {"tokamak", "serve"});
    words.insert(words.end(), common.begin(), common.end());
    thread_ = std::thread([this, words]() mutable {
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      status_ = cli::main(static_cast<int>(argv.size()), argv.data());
      has_ended_ = true;
    });
    for (int i = 0; i < 3000 && !has_ended_ && log().find("] ready\n") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  int stop() {
    if (!thread_.joinable()) return status_;
    if (!has_ended_) pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
    return status_;
  }
  std::string log() const { return std::filesystem::exists(at("log.txt")) ? read_file(at("log.txt")) : ""; }
  server::http::Answer fetch(const std::string& service, server::http::ClientRequest request) const {
    std::smatch match;
    const std::string text = log();
    if (!std::regex_search(text, match, std::regex("Started " + service + " at 127.0.0.1:([0-9]+)"))) return {};
    return server::http::fetch({.host = "127.0.0.1", .path = "", .port = std::stoi(match[1])}, std::move(request),
                               std::chrono::seconds(20));
  }

  std::thread thread_;
  std::atomic<bool> has_ended_ = false;
  int status_ = -1;
};

TEST_F(Serve, FromTheCommandLineToAnswersAndBack) {
  start({kModels + "digits-resnet.ts/model.onnx", "chat=" + kModels + "llama3-docs-6m", "--backend-config",
         "tokamak,cache_dir=" + at("cache"), "--api-key", "secret"});
  ASSERT_FALSE(has_ended_) << log();
  EXPECT_EQ(fetch("HTTPService", {.target = "/health"}).status, 200);
  EXPECT_EQ(fetch("HTTPService", {.target = "/v1/models"}).status, 401);
  const auto models = fetch("HTTPService", {.target = "/v1/models", .headers = {{"Authorization", "Bearer secret"}}});
  EXPECT_THAT(models.body, HasSubstr("\"id\":\"digits-resnet.ts\""));
  const auto answer = fetch("HTTPService", {.method = "POST",
                                            .target = "/v1/completions",
                                            .headers = {{"Authorization", "Bearer secret"}},
                                            .body = R"({"model": "chat", "prompt": "The", "max_tokens": 4, "temperature": 0})"});
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(nlohmann::json::parse(answer.body)["usage"]["completion_tokens"], 4);
  const auto metrics = fetch("Metrics Service", {.target = "/metrics"});
  EXPECT_THAT(metrics.body, HasSubstr("vllm:generation_tokens_total{model_name=\"chat\",engine=\"0\"} 4\n"));
  EXPECT_THAT(metrics.body, HasSubstr("nv_inference_count{model=\"digits-resnet.ts\",version=\"1\"} 0\n"));
  EXPECT_EQ(stop(), 0);
  EXPECT_THAT(log(), HasSubstr("stopped"));
}

TEST_F(Serve, AModelThatFailsEndsItUnlessToldOtherwise) {
  put("bad.onnx", "no model");
  start({at("bad.onnx")});
  EXPECT_EQ(stop(), 1);
  EXPECT_THAT(log(), HasSubstr("ending, as 'bad' failed to load"));
}

TEST_F(Serve, CommandLinesThatCannotBe) {
  const auto refused = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"tokamak", "serve"});
    EXPECT_NE(run(words), 0);
    return err_;
  };
  EXPECT_THAT(refused({}), HasSubstr("nothing to serve"));
  EXPECT_THAT(refused({"--model-repository", at("missing")}), HasSubstr("cannot be read"));
  EXPECT_THAT(refused({"x.onnx", "--model-namespacing"}), HasSubstr("--model-namespacing"));
  EXPECT_THAT(refused({"--model-repository", at("."), "--load-model", "a"}), HasSubstr("--model-control-mode explicit"));
  EXPECT_THAT(refused({"--model-repository", at("."), "--tls-cert", "c.pem"}), HasSubstr("--tls-key"));
  EXPECT_THAT(refused({"--model-repository", at("."), "--trace-config", "level=LOUD"}), HasSubstr("LOUD"));
  EXPECT_THAT(refused({"--model-repository", at("."), "--metrics-config", "no_such=1"}), HasSubstr("no_such"));
  EXPECT_THAT(refused({"--model-repositry", at(".")}), HasSubstr("--model-repository"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "size=1"}), HasSubstr("No cache specified"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "local,size=0"}), HasSubstr("needs a size above 0"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "local,count=1"}), HasSubstr("has the setting size"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "redis,host=a"}), HasSubstr("no cache 'redis'"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "local,size=1", "--cache-config", "redis,host=a"}),
              HasSubstr("found multiple cache configurations"));
  EXPECT_THAT(refused({"x.onnx", "--cache-config", "local,size=1", "--response-cache-byte-size", "1"}), HasSubstr("both provided"));
  EXPECT_THAT(refused({at("missing.onnx")}), HasSubstr("there is no model"));
}

TEST(ServeFlags, NamesOfModels) {
  using Named = std::pair<std::string, std::string>;
  EXPECT_EQ(parse_named_model("a/b/net.onnx"), Named("net", "a/b/net.onnx"));
  EXPECT_EQ(parse_named_model("a/b/model.onnx"), Named("b", "a/b/model.onnx"));
  EXPECT_EQ(parse_named_model("chat=a/net.gguf"), Named("chat", "a/net.gguf"));
  EXPECT_EQ(parse_named_model("a/x=y/net.gguf"), Named("net", "a/x=y/net.gguf"));
}

TEST(ServeFlags, Restrictions) {
  const auto restriction = parse_restriction("inference,health:key=a=b");
  EXPECT_THAT(restriction.groups, testing::ElementsAre("inference", "health"));
  EXPECT_EQ(restriction.key, "key");
  EXPECT_EQ(restriction.value, "a=b");
  for (const char* text : {"", "inference", ":key=value", "inference:key", "inference:=x"})
    EXPECT_NE(test::message_of([&] { parse_restriction(text); }), "") << text;
}

}  // namespace

}  // namespace tokamak::cli
