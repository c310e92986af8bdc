#include "server/log.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace tokamak::server {

namespace {

constexpr int64_t kWhen = 1'764'115'200'000'123;  // 2025-11-26T00:00:00.000123Z

TEST(ServerLog, Lines) {
  EXPECT_EQ(log_line(Severity::Info, "hello", "default", kWhen, 7), "I1126 00:00:00.000123 7] hello");
  EXPECT_EQ(log_line(Severity::Error, "hello", "ISO8601", kWhen, 7), "2025-11-26T00:00:00Z E 7 hello");
  const auto json = nlohmann::json::parse(log_line(Severity::Warning, "a\n\"b\" \xff", "JSON", kWhen, 7));
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["time"], "2025-11-26T00:00:00.000123Z");
  EXPECT_EQ(json["message"], "a\n\"b\" \xef\xbf\xbd");
}

TEST(ServerLog, NoTextBeginsALineOfItsOwn) {
  for (const char* format : {"default", "ISO8601", "JSON"}) {
    const std::string line = log_line(Severity::Info, "model 'x'\nE1126 00:00:00 1] fake\r\t\x1b[31m", format, kWhen, 7);
    for (const char c : line) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << format;
  }
}

TEST(ServerLog, SettingsDecide) {
  const std::string file = testing::TempDir() + "tokamak_server_log_test.txt";
  std::filesystem::remove(file);
  Log log;
  log.set({.file = file});
  log.write(Severity::Info, "one");
  EXPECT_TRUE(log.is_on(Severity::Info));
  EXPECT_FALSE(log.is_on(Severity::Verbose, 1));
  log.set({.file = file, .info = false, .verbose_level = 2});
  EXPECT_FALSE(log.is_on(Severity::Info));
  EXPECT_TRUE(log.is_on(Severity::Verbose, 2));
  EXPECT_FALSE(log.is_on(Severity::Verbose, 3));
  EXPECT_THROW(log.set({.format = "XML"}), Error);
  EXPECT_THROW(log.set({.file = "/no/such/folder/log"}), Error);
  EXPECT_EQ(log.settings().file, file);
  log.write(Severity::Error, "two");
  EXPECT_THAT(read_file(file), testing::MatchesRegex("I[^\n]*\\] one\nE[^\n]*\\] two\n"));
  std::filesystem::remove(file);
}

}  // namespace

}  // namespace tokamak::server
