#ifdef TOKAMAK_CUDA
#include "backends/cuda/code_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace tokamak::cuda {
namespace {

namespace fs = std::filesystem;

class CodeFolderTest : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove_all(path_); }
  std::string path_ = (fs::temp_directory_path() / ("tokamak_code_folder." + std::to_string(getpid()))).string();
};

std::vector<char> cubin() {
  std::vector<char> bytes(1000, 'x');
  std::copy_n("\177ELF", 4, bytes.begin());
  bytes[500] = '\0', bytes[501] = '\n';
  return bytes;
}

TEST_F(CodeFolderTest, GivesBackWhatWasStored) {
  const CodeFolder folder(path_ + "/deeper", "13.0");
  EXPECT_EQ(folder.find("a"), nullptr);
  folder.store("a", cubin());
  folder.store("a", cubin());  // by another process
  const CodeFolder again(path_ + "/deeper", "13.0");
  ASSERT_NE(again.find("a"), nullptr);
  EXPECT_EQ(*again.find("a"), cubin());
  EXPECT_EQ(again.find("b"), nullptr);
  EXPECT_EQ(CodeFolder(path_ + "/deeper", "13.1").find("a"), nullptr) << "of another compiler";
  EXPECT_EQ(std::distance(fs::directory_iterator(path_ + "/deeper"), {}), 1) << "only whole files stay";
}

TEST_F(CodeFolderTest, WhatIsNoCubinIsNotTaken) {
  const CodeFolder folder(path_, "13.0");
  folder.store("a", {'n', 'o'});
  EXPECT_EQ(folder.find("a"), nullptr);
  folder.store("a", std::vector<char>(1000, 'x'));
  EXPECT_EQ(folder.find("a"), nullptr);
}

TEST_F(CodeFolderTest, FoldersThatCannotBeWrittenAreNamed) {
  std::ofstream(path_) << "a file";
  EXPECT_THROW(CodeFolder(path_, "13.0"), Error);
  fs::remove(path_);
  const CodeFolder folder(path_, "13.0");
  fs::remove_all(path_);
  EXPECT_THROW(folder.store("a", cubin()), Error);
}

}  // namespace
}  // namespace tokamak::cuda
#endif
