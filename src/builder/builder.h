#pragma once
// Model file to engine: import, optimize, choose precision, tune, pack.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace tokamak {

// What matrix products with constant weights multiply by. Int8, Int4: integers with one scale for a group of BuildOptions::int8_group_size
// or int4_group_size weights of a channel; with Int4 the last product (a language model's head) is in int8. FP8: E4M3 with a scale a
// channel. Best: the fastest that changes results by no more than bf16 does. On the CPU everything else stays fp32; F16, TF32 and FP8 are
// not there. On a GPU F16 and BF16 hold for all values (quant/half.h says what stays fp32), Int8, Int4 and FP8 take
// BuildOptions::activations for everything else, and TF32 is fp32 whose products may round what they multiply to TF32. Sums are fp32
// everywhere.
enum class Precision { F32, TF32, F16, BF16, Best, Int8, Int4, FP8 };

struct BuildProgress {
  std::string step;         // "import", "optimize", "tune", "write"
  double fraction = 0;      // 0..1 over the whole build
  double remaining_s = -1;  // estimate, or negative while unknown
};

struct BuildOptions {
  // "cpu"; "cuda", "cuda:1": a GPU of this machine; "cuda:sm_90": one that is only named: nothing is timed, the engine carries compiled
  // code.
  std::string device = "cpu";
  Precision precision = Precision::F32;
  DType activations = DType::BF16;  // F16 or BF16: what Int8, Int4 and FP8 builds for a GPU compute with
  double range_gflop = 2000;        // F16: arithmetic to spend on measuring how large values get (one run on the CPU); 0: none
  int int4_group_size = 32;         // 32, 64 or 128
  // A multiple of 32; 0: a channel. Default: a channel on a GPU, 128 on the CPU, whose kernels round activations by the same groups.
  std::optional<int> int8_group_size;
  // Int4 of a language model: arithmetic to spend on rounding weights for the inputs that they meet, which the model's own text shows
  // (quant/moments.h). Where one pass over it would take more, weights are rounded one by one. 0: never; a 1.1 B model needs 20,000.
  double int4_calibration_gflop = 4000;
  int opt_level = 3;    // 0: no tuning, first kernel that accepts .. 5: every candidate, long timing
  int num_threads = 0;  // width to tune for; 0: all available
  int64_t workspace_limit_bytes =
      0;  // 0: none. Bounds arena + workspace at each profile's max shapes, or the build fails naming what would do
  std::vector<OptimizationProfile> profiles;  // empty: symbols are free and tuned at 1 (batch) and a middling length
  std::string timing_cache;                   // file to read, merge into and write back; empty: none
  std::vector<std::string> disabled_passes;
  std::vector<std::string> disabled_kernels;          // prefixes of kernel names, for debugging and `ref`-only builds
  std::string dump_ir;                                // "after:<pass>", "before:<pass>" or "all"
  std::function<void(const std::string&)> dump_sink;  // receives the text; default standard error
  std::function<void(const BuildProgress&)> progress;

  // Of language models.
  int kv_block_size = 32;         // tokens in a block of the KV cache
  std::optional<DType> kv_dtype;  // of the KV cache: F32, BF16, on a GPU F16 or F8E4M3FN; default: F32 in an fp32 build, else 16 bits
  int64_t max_context = 0;        // tokens of a sequence; 0: what the checkpoint says
  DType rope_dtype = DType::F32;  // checkpoints: what rotary frequencies are rounded to (import/hf/hf.h)
  int rank = 0, world_size = 1;   // checkpoints: one part of a model split over several devices (import/hf/hf.h)
};

struct PassReport {
  std::string name;
  int nodes_before = 0, nodes_after = 0;
  int rewrites = 0;
  double ms = 0;
};

struct TacticReport {
  std::string node, op, origin, kernel, tactic;
  double us = 0;                                              // measured; 0 when not timed
  std::vector<std::pair<std::string, double>> candidates;     // "kernel tactic", microseconds
  std::vector<std::pair<std::string, std::string>> declined;  // kernel, reason
  std::string host_reason;  // of an engine for a GPU: why the node runs on the host; empty when it does not
};

struct BuildReport {
  int nodes_before = 0, kernels_after = 0;
  std::vector<PassReport> passes;
  std::vector<TacticReport> tactics;
  double import_s = 0, optimize_s = 0, tune_s = 0, total_s = 0;
  int64_t planned_bytes = 0;       // activations and workspace of the largest shapes that were planned; 0: not planned
  int num_host_nodes() const;      // of an engine for a GPU: nodes that run on the host
  int timed = 0, cached = 0;       // candidates measured, and taken from the timing cache
  std::vector<std::string> notes;  // things a user should read, one line each
};

// The KV cache's dtype that the options come to.
DType kv_dtype_of(const BuildOptions& options);

// The graph of an ONNX file, a Hugging Face folder or a GGUF file, as build_engine takes it; adds to `report` how long it took and notes.
// Throws Error; unsupported nodes of an ONNX file are listed all at once.
std::unique_ptr<ir::Graph> import_model(const std::string& path, const BuildOptions& options = {}, BuildReport* report = nullptr);
// import_model, then the other form.
std::shared_ptr<const Engine> build_engine(const std::string& path, const BuildOptions& options = {}, BuildReport* report = nullptr);
// The same from an imported graph, which is consumed.
std::shared_ptr<const Engine> build_engine(std::unique_ptr<ir::Graph> graph, const BuildOptions& options = {},
                                           BuildReport* report = nullptr);

}  // namespace tokamak
