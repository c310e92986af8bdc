#pragma once
// Models that do what a test says, and a folder that is a repository.

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>

#include "server/config.h"
#include "server/model_loader.h"
#include "server/statistics.h"

namespace tokamak::test {

// Answers with its name and version; while `gate` is closed requests wait in `held`.
class FakeModel : public server::Model {
 public:
  explicit FakeModel(const server::LoadArgs& args, std::atomic<int>* num_live)
      : name_(args.name),
        version_(args.version),
        platform_(args.config.backend()),
        config_(args.config),
        inputs_(server::input_metadata(config_)),
        outputs_(server::output_metadata(config_, args.labels)),
        statistics_(args.statistics),
        num_live_(num_live) {
    ++*num_live_;
  }
  ~FakeModel() override {
    release();
    --*num_live_;
  }

  const std::string& name() const override { return name_; }
  int64_t version() const override { return version_; }
  const std::string& platform() const override { return platform_; }
  const inference::ModelConfig& config() const override { return config_; }
  const std::vector<server::TensorMetadata>& inputs() const override { return inputs_; }
  const std::vector<server::TensorMetadata>& outputs() const override { return outputs_; }
  bool is_decoupled() const override { return false; }
  server::ModelStatistics& statistics() override { return *statistics_; }

  void infer(std::unique_ptr<server::InferRequest> request) override {
    {
      const std::lock_guard lock(mutex_);
      if (holds_) {
        held_.push_back(std::move(request));
        return;
      }
    }
    answer(std::move(request));
  }
  void hold() {
    const std::lock_guard lock(mutex_);
    holds_ = true;
  }
  void release() {
    std::vector<std::unique_ptr<server::InferRequest>> held;
    {
      const std::lock_guard lock(mutex_);
      holds_ = false;
      held.swap(held_);
    }
    for (auto& request : held) answer(std::move(request));
  }

 private:
  void answer(std::unique_ptr<server::InferRequest> request) {
    server::InferResponse response{.model_name = name_, .model_version = version_, .id = request->id};
    request->on_response(std::move(response));
  }

  std::string name_;
  int64_t version_;
  std::string platform_;
  inference::ModelConfig config_;
  std::vector<server::TensorMetadata> inputs_, outputs_;
  std::shared_ptr<server::ModelStatistics> statistics_;
  std::atomic<int>* num_live_;
  std::mutex mutex_;
  bool holds_ = false;
  std::vector<std::unique_ptr<server::InferRequest>> held_;
};

class RepositoryTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("tokamak_") + test->test_suite_name() + "_" + test->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override {
    EXPECT_EQ(num_live_, 0) << "models are left";
    std::filesystem::remove_all(folder_);
  }

  // Files are told apart by size where two writes fall into one tick of the clock.
  void put(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file, std::ios::binary) << text;
  }
  std::string path() const { return folder_.string(); }
  // A model of one version whose file says "ok".
  void put_model(const std::string& name, const std::string& config = "") const {
    put(name + "/config.pbtxt", config.empty() ? "backend: \"fake\"" : config);
    put(name + "/1/model.fake", "ok");
  }

  // A version whose model.fake holds "bad..." does not load; `on_load` runs before that is known.
  server::ModelLoader loader() {
    return [this](const server::LoadArgs& args) -> std::shared_ptr<server::Model> {
      ++num_loads_;
      if (on_load_) on_load_(args);
      std::ifstream file(args.version_directory + "/model.fake");
      std::string text;
      std::getline(file, text);
      if (text.starts_with("bad")) fail(ErrorCode::Internal, "the model is {}", text);
      return std::make_shared<FakeModel>(args, &num_live_);
    };
  }

  std::filesystem::path folder_;
  std::atomic<int> num_live_ = 0, num_loads_ = 0;
  std::function<void(const server::LoadArgs&)> on_load_;
};

}  // namespace tokamak::test
