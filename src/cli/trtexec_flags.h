#pragma once
// TensorRT's trtexec flags of versions 8.6 to 11.1, as a table: what each takes and what happens to it here.

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tokamak::cli {

enum class FlagValue { None, Needed, Optional };
enum class FlagAction { Honoured, Ignored, Alias };

struct TrtFlag {
  std::string_view name;  // without dashes
  FlagValue value;
  std::string_view versions;  // of TensorRT that know it: "8-11", "8-10" (gone in 11), "11.1" ...
  FlagAction action;
  std::string_view note;  // Honoured: one line of help. Ignored: why it does nothing. Alias: the flag it stands for
};

std::span<const TrtFlag> trt_flags();
const TrtFlag* find_trt_flag(std::string_view name);  // null when there is none

// What a command line asks for, aliases resolved.
struct TrtWords {
  std::vector<std::pair<std::string, std::string>> flags;  // honoured ones in order, values "" where none was given
  std::vector<std::string> warnings;                       // one line for each flag that does nothing or has a new name

  bool has(std::string_view name) const;
  std::string get(std::string_view name, std::string_view otherwise = "") const;  // the last one given
};

// Accepts --flag=value, --flag value where a value is needed, and one dash for two. Throws InvalidArgument for an unknown flag (naming the
// nearest), a missing value or a stray word.
TrtWords parse_trt_words(const std::vector<std::string>& args);

std::string trt_help();

}  // namespace tokamak::cli
