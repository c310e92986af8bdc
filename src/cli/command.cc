#include "cli/command.h"

#include <fmt/format.h>

#include <regex>

#include "base/file.h"
#include "builder/device.h"
#include "cli/args.h"
#include "cli/session.h"

namespace tokamak::cli {

std::optional<int> parse(CLI::App& app, const Words& args) {
  try {
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));
    return std::nullopt;
  } catch (const CLI::CallForHelp&) {
    fmt::print("{}", app.help());
    return 0;
  } catch (const CLI::ExtrasError& e) {
    std::vector<std::string> known;
    for (const CLI::Option* option : app.get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    const std::vector<std::string> extra = app.remaining();
    std::string word = extra.empty() ? "" : extra.front();
    for (const std::string& candidate : extra)
      if (candidate.starts_with("-")) {
        word = candidate.substr(0, candidate.find('='));
        break;
      }
    fmt::print(stderr, "error: {} {}: unknown {} '{}'{} (tokamak {} --help)\n", "tokamak", app.get_name(),
               word.starts_with("-") ? "flag" : "argument", word, suggestion(word, known), app.get_name());
    return 2;
  } catch (const CLI::ParseError& e) {
    // CLI11 spells the largest double in full where a number has no upper bound, and the smallest positive one as 0.
    static const std::regex positive("Value ([-+0.]+) not in range 0\\.0* to 1[0-9]{300,}\\.0*"),
        not_negative("Value (\\S+) not in range 0\\.0* to 1[0-9]{300,}\\.0*"), unbounded(" to 1[0-9]{300,}\\.0*");
    std::string what = std::regex_replace(std::string(e.what()), positive, "expected a number above 0, found $1");
    what = std::regex_replace(what, not_negative, "expected a number that is not negative, found $1");
    what = std::regex_replace(what, unbounded, " upwards");
    fmt::print(stderr, "error: tokamak {}: {} (tokamak {} --help)\n", app.get_name(), what, app.get_name());
    return 2;
  }
}

void write_json(const std::string& file, const Json& json) {
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (file != "-") return write_file_atomic(file, std::string_view(text));
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::Io, "cannot write JSON to standard output");
}

void BuildFlags::add_to(CLI::App& app) {
  app.add_option("--precision", precision,
                 "fp32, tf32, fp16, bf16; int8, fp8 or int4 weights (with --fp16: and fp16 for the rest on a GPU, else bf16); best")
      ->check(CLI::IsMember({"fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4", "best"}));
  app.add_flag(
      "--fp16", fp16,
      "16-bit floats on a GPU, fp32 where they would overflow; on the CPU the lower precision that it has (bf16), said in one line");
  app.add_flag("--bf16", bf16, "bfloat16 where kernels have it");
  app.add_flag("--tf32", tf32, "fp32 whose products may be rounded to TF32 on a GPU");
  app.add_flag("--int8", int8, "8-bit weights in matrix products, a scale a channel (on the CPU for each 128 of one)");
  app.add_flag("--fp8", fp8, "8-bit float weights in matrix products, a scale a channel; on a GPU");
  app.add_flag("--int4", int4, "4-bit weights in matrix products, a scale for each 32");
  app.add_flag("--best", best, "fastest of the precisions the device has that keeps at least bf16's accuracy");
  app.add_option("--profile", profiles,
                 "shapes to accept and tune for, INPUT:MIN,OPT,MAX (repeatable; a repeated input begins the next profile)");
  app.add_option("--workspace", workspace, "bound on activations and scratch memory, e.g. 1G; the build fails naming what would do");
  app.add_option("--timing-cache", timing_cache, "file of kernel timings to read, merge into and write");
  app.add_option("--device", device,
                 "cpu (default), cuda, cuda:N (GPU N of this machine), or cuda:sm_90: build for a GPU that is not here, without timing");
  app.add_option("--opt-level", opt_level,
                 "0: no timing .. 3: every tactic, on a GPU language models in whole steps too .. 5: every candidate, long timing")
      ->capture_default_str()
      ->check(CLI::Range(0, 5));
  app.add_option("--threads", threads, "threads to tune for and run on (0: all available)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--int4-group-size", int4_group_size, "int4: weights that share a scale")
      ->capture_default_str()
      ->check(CLI::IsMember({32, 64, 128}));
  app.add_option("--kv-dtype", kv_dtype,
                 "language models: fp32, bf16 or, on a GPU, fp16 or fp8 keys and values (default: 16 bits, in an fp32 build fp32)")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "fp8"}));
  app.add_option("--kv-block-size", kv_block_size, "language models: tokens in a block of the KV cache")
      ->capture_default_str()
      ->check(CLI::IsMember({16, 32, 64, 128}));
  app.add_option(
         "--rope-dtype", rope_dtype,
         "language models: round rotary frequencies (bf16: as in a model that was cast to bf16 as a whole, to reproduce its results)")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--disable-pass", disabled_passes, "skip an optimization pass (repeatable)");
  app.add_option("--disable-kernel", disabled_kernels, "skip kernels whose name begins so (repeatable)");
}

BuildOptions BuildFlags::options(std::vector<std::string>& notes) const {
  const auto wants = [&](bool flag, const char* name) { return flag || precision == name; };
  BuildOptions options;
  if (!device.empty()) options.device = device;
  const bool on_gpu = parse_device(options.device).is_cuda;
  if (on_gpu) open_device(options.device, false);  // says at once when there is none
  std::string message;
  if (wants(fp16, "fp16")) options.precision = on_gpu ? Precision::F16 : lower_precision("--fp16", message);
  if (wants(bf16, "bf16")) {
    options.precision = on_gpu ? Precision::BF16 : lower_precision("--bf16", message);
    if (options.precision == Precision::BF16) message.clear();  // it is what was asked
  }
  if (wants(tf32, "tf32")) options.precision = Precision::TF32;
  if (wants(best, "best")) options.precision = Precision::Best;
  if (wants(fp8, "fp8")) options.precision = Precision::FP8;
  if (wants(int8, "int8")) options.precision = Precision::Int8;
  if (wants(int4, "int4")) options.precision = Precision::Int4;
  if (wants(fp16, "fp16")) options.activations = DType::F16;
  if (!on_gpu && options.precision == Precision::FP8)
    fail(ErrorCode::Unsupported, "--fp8 needs a GPU (--device cuda); on the CPU int8 takes as many bytes");
  if (!on_gpu && options.precision == Precision::TF32) message = "tf32 is a GPU format; fp32 is used";
  if (!message.empty()) notes.push_back(message);
  options.int4_group_size = int4_group_size;
  options.kv_block_size = kv_block_size;
  if (!on_gpu && (kv_dtype == "fp16" || kv_dtype == "fp8"))
    fail(ErrorCode::Unsupported, "--kv-dtype {} needs a GPU (--device cuda)", kv_dtype);
  if (kv_dtype == "fp32") options.kv_dtype = DType::F32;
  if (kv_dtype == "bf16") options.kv_dtype = DType::BF16;
  if (kv_dtype == "fp16") options.kv_dtype = DType::F16;
  if (kv_dtype == "fp8") options.kv_dtype = DType::F8E4M3FN;
  if (rope_dtype == "bf16") options.rope_dtype = DType::BF16;
  options.opt_level = opt_level;
  options.num_threads = threads;
  options.profiles = parse_profiles(profiles);
  if (!workspace.empty()) options.workspace_limit_bytes = parse_size_bytes(workspace);
  options.timing_cache = timing_cache;
  options.disabled_passes = disabled_passes;
  options.disabled_kernels = disabled_kernels;
  options.dump_ir = dump_ir;
  return options;
}

}  // namespace tokamak::cli
