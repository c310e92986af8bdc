#pragma once
// A fixture that runs the command line in this process, in a folder of its own.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "cli/main.h"

namespace tokamak::test {

class CommandLineTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("tokamak_") + test->test_suite_name() + "_" + test->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void put(const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  nlohmann::json json(const std::string& name) const { return nlohmann::json::parse(read_file(at(name))); }

  // Runs `words`, the first of which is the program; what it printed is in out_ and err_.
  int run(std::vector<std::string> words) {
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int status = cli::main(static_cast<int>(argv.size()), argv.data());
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return status;
  }
  bool printed(const std::string& text) const { return out_.find(text) != std::string::npos; }
  bool complained(const std::string& text) const { return err_.find(text) != std::string::npos; }

  std::filesystem::path folder_;
  std::string out_, err_;
};

}  // namespace tokamak::test
