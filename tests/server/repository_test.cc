#include "server/repository.h"

#include <gmock/gmock.h>

#include <future>

#include "tests/server/fake_model.h"
#include "tests/support/message_of.h"

namespace tokamak::server {

namespace {

using test::FakeModel;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Repositories : public test::RepositoryTest {
 protected:
  Repository& open(RepositoryOptions options) {
    if (options.paths.empty()) options.paths = {path()};
    repository_.reset();
    repository_ = std::make_unique<Repository>(std::move(options), std::make_shared<const BackendSettings>(), loader());
    return *repository_;
  }
  void TearDown() override {
    repository_.reset();
    RepositoryTest::TearDown();
  }
  static FakeModel& fake(const std::shared_ptr<Model>& model) { return dynamic_cast<FakeModel&>(*model); }
  // "name:version STATE reason"
  static std::vector<std::string> lines(const std::vector<ModelIndex>& index) {
    std::vector<std::string> out;
    for (const auto& row : index) out.push_back(fmt::format("{}:{} {} {}", row.name, row.version, row.state, row.reason));
    return out;
  }
  static void wait_until(const std::function<bool()>& is_true) {
    for (int i = 0; i < 500 && !is_true(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(is_true());
  }

  std::unique_ptr<Repository> repository_;
};

TEST_F(Repositories, LoadsTheHighestVersionOfEveryModel) {
  put_model("a");
  put("a/3/model.fake", "ok");
  put("a/03/model.fake", "ok");
  put("a/notes/model.fake", "ok");
  put_model("b");
  auto& repository = open({});
  EXPECT_THAT(repository.start(), IsEmpty());
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:3 READY ", "b:1 READY "));
  EXPECT_EQ(repository.find("a")->version(), 3);
  EXPECT_TRUE(repository.all_ready());
  EXPECT_EQ(test::message_of([&] { repository.find("a", 1); }), "Request for unknown model: 'a' version 1 is not found");
  EXPECT_EQ(test::message_of([&] { repository.find("c"); }), "Request for unknown model: 'c' is not found");
  EXPECT_THAT(test::message_of([&] { repository.load("a"); }), HasSubstr("explicit model load / unload is not allowed"));
}

TEST_F(Repositories, VersionPoliciesChoose) {
  for (const char* name : {"all", "two", "some"})
    for (const char* version : {"1", "2", "5"}) put(fmt::format("{}/{}/model.fake", name, version), "ok");
  put("all/config.pbtxt", "backend: 'fake' version_policy { all {} }");
  put("two/config.pbtxt", "backend: 'fake' version_policy { latest { num_versions: 2 } }");
  put("some/config.pbtxt", "backend: 'fake' version_policy { specific { versions: [1, 5, 7] } }");
  auto& repository = open({});
  EXPECT_THAT(repository.start(), IsEmpty());
  EXPECT_THAT(repository.ready_versions("all"), ElementsAre(1, 2, 5));
  EXPECT_THAT(repository.ready_versions("two"), ElementsAre(2, 5));
  EXPECT_THAT(repository.ready_versions("some"), ElementsAre(1, 5));
}

TEST_F(Repositories, OneBadModelLeavesTheOthers) {
  put_model("good");
  put_model("bad_config", "backend: 'fake' input { name: 3 }");
  put_model("bad_name", "backend: 'fake' name: 'other'");
  put_model("bad_model");
  put("bad_model/1/model.fake", "bad indeed");
  auto& repository = open({});
  const auto failures = repository.start();
  ASSERT_EQ(failures.size(), 3u);
  EXPECT_THAT(failures[0].second, HasSubstr("bad_config/config.pbtxt:1:31"));
  EXPECT_EQ(failures[1].second, "the model is bad indeed");
  EXPECT_EQ(failures[2].second, "unexpected directory name 'bad_name' for model 'other', directory name must equal model name");
  EXPECT_FALSE(repository.all_ready());
  EXPECT_EQ(repository.find("good")->name(), "good");
  const auto index = lines(repository.index());
  ASSERT_EQ(index.size(), 4u);
  EXPECT_THAT(index[0], HasSubstr("bad_config: UNAVAILABLE failed to read text proto"));
  EXPECT_EQ(index[1], "bad_model:1 UNAVAILABLE the model is bad indeed");
  EXPECT_THAT(lines(repository.index(true)), ElementsAre("good:1 READY "));
}

TEST_F(Repositories, ExplicitLoadsAndUnloads) {
  put_model("a");
  put_model("b");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"b"}});
  repository.start();
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:  ", "b:1 READY "));
  repository.load("a");
  EXPECT_EQ(num_loads_, 2);
  repository.load("a");  // nothing changed
  EXPECT_EQ(num_loads_, 2);
  EXPECT_EQ(repository.find("a")->version(), 1);
  repository.unload("a");
  EXPECT_EQ(test::message_of([&] { repository.find("a"); }), "Request for unknown model: 'a' has no available versions");
  wait_until([&] { return lines(repository.index())[0] == "a:1 UNAVAILABLE unloaded"; });
  EXPECT_TRUE(repository.all_ready());
  EXPECT_EQ(num_live_, 1);
  repository.unload("never heard of it");
  repository.load("a");
  EXPECT_EQ(repository.find("a", 1)->name(), "a");
}

TEST_F(Repositories, NamesCannotLeaveTheRepository) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit});
  repository.start();
  for (const char* name : {"..", "../a", "a/../a", "/etc", "", "  ", "a\nb"}) EXPECT_THROW(repository.load(name), Error) << name;
  EXPECT_EQ(test::message_of([&] { repository.load("../a"); }),
            "invalid model name '../a', model name must not contain path traversal characters");
  EXPECT_THAT(test::message_of([&] { repository.load("missing"); }), HasSubstr("failed to poll from model repository"));
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:  "));
}

TEST_F(Repositories, AFailedReloadKeepsTheOldVersion) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"*"}});
  repository.start();
  const auto before = repository.find("a");
  put("a/1/model.fake", "bad now");
  EXPECT_EQ(test::message_of([&] { repository.load("a"); }), "the model is bad now");
  EXPECT_EQ(repository.find("a"), before);
  put("a/config.pbtxt", "backend: 'fake' max_batch_size: 'many'");
  EXPECT_THROW(repository.load("a"), Error);
  EXPECT_EQ(repository.find("a"), before);
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:1 READY "));
  put("a/config.pbtxt", "backend: 'fake' max_batch_size: 8");
  put("a/1/model.fake", "ok again");
  repository.load("a");
  EXPECT_NE(repository.find("a"), before);
  EXPECT_EQ(repository.find("a")->config().max_batch_size(), 8);
}

TEST_F(Repositories, OnlyWhatChangedIsLoadedAgain) {
  put_model("a", "backend: 'fake' version_policy { all {} }");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"a"}});
  repository.start();
  const auto first = repository.find("a", 1);
  put("a/2/model.fake", "ok");
  repository.load("a");
  EXPECT_EQ(repository.find("a", 1), first);
  EXPECT_EQ(repository.find("a")->version(), 2);
  std::filesystem::remove_all(folder_ / "a/1");
  repository.load("a");
  EXPECT_THAT(repository.ready_versions("a"), ElementsAre(2));
  EXPECT_EQ(num_loads_, 2);
}

TEST_F(Repositories, RequestsInFlightFinishOnTheModelTheyWereGivenTo) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"a"}});
  repository.start();
  auto model = repository.find("a");
  fake(model).hold();
  int answers = 0;
  auto request = std::make_unique<InferRequest>();
  request->on_response = [&, keeps = model](const InferResponse& response) {
    EXPECT_FALSE(response.error_code);
    ++answers;
  };
  model->infer(std::move(request));
  repository.unload("a");
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:1 UNLOADING "));
  EXPECT_EQ(num_live_, 1);
  // The next one loads beside it.
  repository.load("a");
  EXPECT_EQ(num_live_, 2);
  fake(model).release();
  model.reset();
  EXPECT_EQ(answers, 1);
  wait_until([&] { return num_live_ == 1; });
  EXPECT_THAT(lines(repository.index()), ElementsAre("a:1 READY "));
}

TEST_F(Repositories, OverridesReplaceConfigAndFiles) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"a"}});
  repository.start();
  repository.load("a", {.config_json = R"({"backend": "fake", "max_batch_size": 16, "parameters": {"x": {"string_value": "y"}}})"});
  EXPECT_EQ(repository.find("a")->config().max_batch_size(), 16);
  repository.load("a", {.config_json = R"({"backend": "fake"})", .files = {{"7/model.fake", "ok"}}});
  EXPECT_THAT(repository.ready_versions("a"), ElementsAre(7));
  // Files that lie outside, files without a config, a config that is none.
  EXPECT_THAT(test::message_of([&] {
                repository.load("a", {.config_json = "{}", .files = {{"../../b/1/model.fake", "ok"}}});
              }),
              HasSubstr("must stay within model directory"));
  EXPECT_THAT(test::message_of([&] {
                repository.load("a", {.files = {{"1/model.fake", "ok"}}});
              }),
              HasSubstr("'config' must be specified"));
  EXPECT_THAT(test::message_of([&] { repository.load("a", {.config_json = R"({"no_such": 1})"}); }), HasSubstr("Invalid config override"));
  EXPECT_THAT(repository.ready_versions("a"), ElementsAre(7));
  repository.load("a");  // what is on disk
  EXPECT_THAT(repository.ready_versions("a"), ElementsAre(1));
}

TEST_F(Repositories, PollingFollowsTheFolders) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Poll, .poll_interval_s = 0.02});
  repository.start();
  const auto before = repository.find("a");
  put_model("b");
  wait_until([&] { return !repository.ready_versions("b").empty(); });
  EXPECT_EQ(repository.find("a"), before);
  put("a/1/model.fake", "ok, and longer");
  wait_until([&] { return repository.find("a") != before; });
  put("a/1/model.fake", "bad");
  wait_until([&] { return num_loads_ >= 4; });
  const int loads = num_loads_;
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(num_loads_, loads) << "a model that failed is tried again only when it changed";
  EXPECT_THAT(repository.ready_versions("a"), ElementsAre(1));
  std::filesystem::remove_all(folder_ / "b");
  wait_until([&] { return repository.ready_versions("b").empty(); });
}

constexpr const char* kEnsemble = R"(platform: "ensemble"
  input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
  ensemble_scheduling { step { model_name: "part" model_version: -1 input_map { key: "in" value: "x" } output_map { key: "out" value: "y" } } })";

TEST_F(Repositories, AnEnsembleBringsItsPartsAndGoesWithThem) {
  put_model("ensemble", kEnsemble);
  put_model("part");
  auto& repository = open({.mode = ControlMode::Explicit});
  repository.start();
  repository.load("ensemble");
  EXPECT_THAT(lines(repository.index(true)), ElementsAre("ensemble:1 READY ", "part:1 READY "));
  repository.unload("ensemble");
  EXPECT_THAT(lines(repository.index(true)), ElementsAre("part:1 READY "));
  repository.load("ensemble");
  repository.unload("ensemble", true);
  EXPECT_THAT(lines(repository.index(true)), IsEmpty());
  repository.load("ensemble");
  repository.unload("part");
  EXPECT_THAT(lines(repository.index(true)), IsEmpty());
  // A part that was asked for by name stays.
  repository.load("part");
  repository.load("ensemble");
  repository.unload("ensemble", true);
  EXPECT_THAT(lines(repository.index(true)), ElementsAre("part:1 READY "));
}

TEST_F(Repositories, EnsemblesWithoutAPartOrInACircleFail) {
  put_model("ensemble", kEnsemble);
  auto& repository = open({.mode = ControlMode::Explicit});
  repository.start();
  EXPECT_THAT(test::message_of([&] { repository.load("ensemble"); }), HasSubstr("depends on 'part' which has no loaded version"));
  std::string other = kEnsemble;
  other.replace(other.find("part"), 4, "ensemble");
  put_model("part", other);
  EXPECT_THAT(test::message_of([&] { repository.load("ensemble"); }), HasSubstr("circular dependency between ensembles"));
}

TEST_F(Repositories, TwoRepositoriesMustNotShareAName) {
  put_model("one/a");
  put_model("two/a");
  put_model("two/b");
  auto& repository = open({.paths = {path() + "/one/", path() + "/two"}});
  const auto failures = repository.start();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0].second, HasSubstr("not unique across all model repositories"));
  EXPECT_THAT(lines(repository.index(true)), ElementsAre("b:1 READY "));
  EXPECT_THAT(lines(repository.index(false, path() + "/two")), ElementsAre(HasSubstr("a: UNAVAILABLE"), "b:1 READY "));
  EXPECT_THROW(repository.index(false, "elsewhere"), Error);
  EXPECT_THROW(open({.paths = {path() + "/three"}}), Error);
}

TEST_F(Repositories, ConcurrentLoadsUnloadsAndRequests) {
  put_model("a");
  put_model("b");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"*"}});
  repository.start();
  std::atomic<bool> stops = false;
  std::atomic<int> found = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        const std::string name = i % 3 == 0 ? "b" : "a";
        if ((i + t) % 2) repository.unload(name);
        else repository.load(name, {.config_json = fmt::format(R"({{"backend": "fake", "max_batch_size": {}}})", 1 + i % 4)});
      }
    });
  threads.emplace_back([&] {
    while (!stops) {
      try {
        const auto model = repository.find("a");
        EXPECT_EQ(model->name(), "a");
        ++found;
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::Unavailable);
      }
      repository.index();
    }
  });
  for (int t = 0; t < 3; ++t) threads[static_cast<size_t>(t)].join();
  stops = true;
  threads.back().join();
  repository.load("a");
  repository.load("b");
  wait_until([&] { return num_live_ == 2; });
  EXPECT_TRUE(repository.all_ready());
}

TEST_F(Repositories, AsynchronousCallsTellWhatWasThrown) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit});
  repository.start();
  std::promise<std::exception_ptr> done;
  repository.load_async("a", {}, [&](std::exception_ptr error) { done.set_value(error); });
  EXPECT_EQ(done.get_future().get(), nullptr);
  std::promise<std::exception_ptr> failed;
  repository.load_async("../a", {}, [&](std::exception_ptr error) { failed.set_value(error); });
  EXPECT_NE(failed.get_future().get(), nullptr);
}

TEST_F(Repositories, ModelsOfTheCommandLineAreLinked) {
  put("somewhere/net.onnx", "not looked at by the fake");
  put("somewhere/net.onnx.data", "weights");
  put("chat/config.json", "{}");
  std::filesystem::create_directories(folder_ / "empty");
  std::string seen;
  on_load_ = [&](const LoadArgs& args) {
    if (args.name != "net") return;
    seen = args.version_directory;
    EXPECT_TRUE(std::filesystem::exists(args.version_directory + "/model.onnx"));
    EXPECT_TRUE(std::filesystem::exists(args.version_directory + "/net.onnx.data"));
    EXPECT_EQ(args.config.backend(), "tokamak");
  };
  auto& repository = open({.paths = {path() + "/empty"}, .models = {{"net", path() + "/somewhere/net.onnx"}, {"chat", path() + "/chat"}}});
  EXPECT_THAT(repository.start(), IsEmpty());
  EXPECT_FALSE(seen.empty());
  EXPECT_EQ(repository.find("chat")->platform(), "tokamak");
  repository_.reset();
  EXPECT_FALSE(std::filesystem::exists(seen));
  EXPECT_TRUE(std::filesystem::exists(path() + "/somewhere/net.onnx"));
}

TEST_F(Repositories, StatisticsOutliveAReload) {
  put_model("a");
  auto& repository = open({.mode = ControlMode::Explicit, .startup_models = {"a"}});
  repository.start();
  repository.find("a")->statistics().record_failure(FailureReason::Other, 5);
  put("a/1/model.fake", "ok, changed");
  repository.load("a");
  EXPECT_EQ(repository.find("a")->statistics().totals().fail.count, 1u);
  EXPECT_EQ(repository.statistics().size(), 1u);
}

}  // namespace

}  // namespace tokamak::server
