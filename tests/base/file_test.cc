#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"

namespace tokamak {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tokamak_file_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  size_t num_entries() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  static ErrorCode code_of(const auto& f) {
    try {
      f();
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorCode::Internal;
  }

  fs::path folder_;
};

TEST_F(FileTest, WritesAndMaps) {
  write_file_atomic(path("a"), "hello");
  EXPECT_EQ(read_file(path("a")), "hello");
  write_file_atomic(path("a"), "bye");
  EXPECT_EQ(read_file(path("a")), "bye");
  EXPECT_EQ(num_entries(), 1u);
  EXPECT_EQ(MappedFile::open(path("a"))->size_bytes(), 3);
}

TEST_F(FileTest, EmptyFile) {
  write_file_atomic(path("empty"), "");
  EXPECT_TRUE(MappedFile::open(path("empty"))->bytes().empty());
}

TEST_F(FileTest, MappingOutlivesReplacement) {
  write_file_atomic(path("a"), "old");
  const auto old = MappedFile::open(path("a"));
  write_file_atomic(path("a"), "new");
  EXPECT_EQ(static_cast<char>(old->bytes()[0]), 'o');
}

TEST_F(FileTest, Errors) {
  EXPECT_EQ(code_of([&] { MappedFile::open(path("absent")); }), ErrorCode::NotFound);
  EXPECT_EQ(code_of([&] { MappedFile::open(folder_.string()); }), ErrorCode::Io);
  EXPECT_EQ(code_of([&] { write_file_atomic(path("no/such/folder"), "x"); }), ErrorCode::NotFound);
}

TEST_F(FileTest, FailureLeavesNoTemporary) {
  fs::create_directory(path("taken"));
  EXPECT_EQ(code_of([&] { write_file_atomic(path("taken"), "x"); }), ErrorCode::Io);
  EXPECT_EQ(num_entries(), 1u);
}

TEST_F(FileTest, HonoursUmask) {
  write_file_atomic(path("a"), "x");
  const mode_t mask = umask(0);
  umask(mask);
  struct stat info;
  ASSERT_EQ(stat(path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);
}

// Opening a pipe for reading waits for a writer, who may never come.
TEST_F(FileTest, PipeIsRefusedAtOnce) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { MappedFile::open(path("pipe")); }), ErrorCode::Io);
}

}  // namespace
}  // namespace tokamak
