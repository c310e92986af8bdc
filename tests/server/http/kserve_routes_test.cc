// What the black-box suite (tests/server/clients/test_kserve_http.py) cannot set: options of the routes.

#include "server/http/kserve_routes.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "server/http/client.h"
#include "tests/server/http/kserve_models.h"

namespace tokamak::server::http {
namespace {

class KserveRoutes : public testing::Test {
 protected:
  void SetUp() override {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();  // tests run beside each other
    folder_ = std::filesystem::path(testing::TempDir()) / ("tokamak_kserve_routes_" + name);
    std::filesystem::remove_all(folder_);
    test::write_kserve_repository(folder_);
    core_ = std::make_unique<server::Server>(
        server::ServerOptions{.repository = {.paths = {folder_.string()}}, .loader = test::load_kserve_model});
    core_->start();
  }
  void TearDown() override {
    http_.reset();
    core_.reset();
    std::filesystem::remove_all(folder_);
  }
  void start(const KserveOptions& options) {
    http_ = std::make_unique<Server>(ServerOptions{.address = "127.0.0.1", .port = 0});
    add_kserve_routes(*http_, *core_, options);
    http_->start();
  }
  Answer ask(const std::string& method, const std::string& target, std::vector<Header> headers = {}, std::string body = {}) {
    const Url url{.host = "127.0.0.1", .path = "", .port = http_->port()};
    return fetch(url, {.method = method, .target = target, .headers = std::move(headers), .body = std::move(body)},
                 std::chrono::seconds(10));
  }

  std::filesystem::path folder_;
  std::unique_ptr<server::Server> core_;
  std::unique_ptr<Server> http_;
};

TEST_F(KserveRoutes, RestrictedGroupsNeedTheirHeader) {
  start({.restricted = {{{"model-repository", "logging"}, "admin-key", "secret"}}});
  const Answer refused = ask("POST", "/v2/repository/index");
  EXPECT_EQ(refused.status, 403);
  EXPECT_NE(refused.body.find("admin-key"), std::string::npos);
  EXPECT_EQ(refused.body.find("secret"), std::string::npos);
  EXPECT_EQ(ask("POST", "/v2/repository/index", {{"admin-key", "wrong"}}).status, 403);
  EXPECT_EQ(ask("POST", "/v2/repository/index", {{"Admin-Key", "secret"}}).status, 200);
  EXPECT_EQ(ask("GET", "/v2/logging").status, 403);
  EXPECT_EQ(ask("GET", "/v2/models/text").status, 200);
}

TEST_F(KserveRoutes, OptionsThatCannotBe) {
  Server http({.address = "127.0.0.1", .port = 0});
  EXPECT_THROW(add_kserve_routes(http, *core_, {.restricted = {{{"everything"}, "h", "v"}}}), Error);
  EXPECT_THROW(add_kserve_routes(http, *core_, {.restricted = {{{"trace"}, "", "v"}}}), Error);
  EXPECT_THROW(add_kserve_routes(http, *core_, {.restricted = {{{"trace"}, "h", "v"}, {{"trace"}, "h", "w"}}}), Error);
  EXPECT_THROW(add_kserve_routes(http, *core_, {.forward_header_pattern = "("}), Error);
}

TEST_F(KserveRoutes, SharedMemoryIsOffUnlessAllowed) {
  start({});
  EXPECT_EQ(ask("GET", "/v2/systemsharedmemory/status").status, 501);
  EXPECT_EQ(ask("POST", "/v2/systemsharedmemory/region/r/register", {}, R"({"key":"/k","byte_size":1})").status, 501);
}

TEST_F(KserveRoutes, ATraceTellsWhatHttpDid) {
  const std::string file = (folder_ / "trace.json").string();
  const std::string repository = (folder_ / "models").string();
  test::write_kserve_repository(repository);
  core_ = std::make_unique<server::Server>(
      server::ServerOptions{.repository = {.paths = {repository}},
                            .loader = test::load_kserve_model,
                            .trace = {.settings = {{"trace_file", {file}}, {"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"1"}}}}});
  core_->start();
  start({});
  EXPECT_EQ(ask("POST", "/v2/models/text/generate", {}, R"({"TEXT": "a"})").status, 200);
  EXPECT_EQ(ask("POST", "/v2/models/none/generate", {}, "{}").status, 404);
  http_->stop(1);
  core_->stop(std::chrono::seconds(1));
  const auto traces = nlohmann::json::parse(read_file(file));
  ASSERT_EQ(traces.size(), 2u) << traces;
  std::vector<std::string> names;
  for (const auto& stamp : traces[1]["timestamps"]) names.push_back(stamp["name"]);
  EXPECT_EQ(names, (std::vector<std::string>{"HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START", "REQUEST_END", "HTTP_SEND_START",
                                             "HTTP_SEND_END"}));
}

TEST_F(KserveRoutes, AStoppedServerTakesNothing) {
  start({});
  core_->stop(std::chrono::seconds(1));
  EXPECT_EQ(ask("GET", "/v2/health/ready").status, 400);
  EXPECT_EQ(ask("POST", "/v2/models/text/infer", {}, "{}").status, 503);
}

}  // namespace
}  // namespace tokamak::server::http
