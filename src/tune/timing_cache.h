#pragma once
// Measured times of tactics, kept between builds. A text file, a line an entry ("nanoseconds <tab> key"), sorted by key: files can be
// compared, concatenated and merged by hand.

#include <map>
#include <optional>
#include <string>

namespace tokamak::tune {

class TimingCache {
 public:
  // Adds the file's entries; a missing file or one of another version adds none. Of two times for one key the one already here stays.
  // Throws Corrupt naming the line.
  void merge_file(const std::string& path);
  // Writes all entries atomically, merged with what the file holds by now (other builds may have written it since).
  void save(const std::string& path);

  std::optional<double> find(const std::string& key) const;
  // Rounds to a nanosecond, so that a time means the same before and after it went through the file.
  double insert(const std::string& key, double us);
  size_t size() const { return times_.size(); }

 private:
  std::map<std::string, int64_t> times_;  // nanoseconds
};

}  // namespace tokamak::tune
