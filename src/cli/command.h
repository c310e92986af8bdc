#pragma once
// What the subcommands share: their entry points, CLI11 glue, JSON output, the build flags.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "builder/builder.h"

namespace tokamak::cli {

using Json = nlohmann::ordered_json;
using Words = std::vector<std::string>;  // arguments after the subcommand

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Words& args);
};

// Exit status: 0 success, 1 the work failed, 2 the command line is wrong. They throw Error, which main prints as `error: ...` (1).
int run_build(const Words& args);
int run_bench(const Words& args);
int run_verify(const Words& args);
int run_check(const Words& args);
int run_inspect(const Words& args);
int run_cost(const Words& args);
int run_generate(const Words& args);
int run_perplexity(const Words& args);
#ifdef TOKAMAK_SERVER
int run_load(const Words& args);
int run_serve(const Words& args);
#endif
int run_trtexec(const std::string& program, const Words& args);

// Parses into the app's variables. A status means the command is over: help was printed (0), or one `error:` line with the nearest known
// flag (2).
std::optional<int> parse(CLI::App& app, const Words& args);

// `file` "-" is standard output. Throws Io.
void write_json(const std::string& file, const Json& json);
// Where text for people goes: standard error when JSON takes standard output.
inline FILE* text_stream(const std::string& json_file) { return json_file == "-" ? stderr : stdout; }

// The flags of everything that builds.
struct BuildFlags {
  bool fp16 = false, bf16 = false, tf32 = false, int8 = false, fp8 = false, int4 = false, best = false;
  std::string precision, device, workspace, timing_cache, dump_ir, kv_dtype, rope_dtype = "fp32";
  std::vector<std::string> profiles, disabled_passes, disabled_kernels;
  int opt_level = 3, threads = 0, int4_group_size = 32, kv_block_size = 32;

  void add_to(CLI::App& app);
  // Throws InvalidArgument, or Unsupported for what this version or machine cannot do (no GPU for --device cuda). Notes are lines a user
  // should read.
  BuildOptions options(std::vector<std::string>& notes) const;
};

}  // namespace tokamak::cli
