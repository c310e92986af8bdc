#pragma once
// Timed runs of an engine: what `bench` and `trtexec` report.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/execution_context.h"

namespace tokamak::cli {

struct MeasureOptions {
  double warmup_ms = 200;
  double duration_s = 3;         // and at least min_iterations
  int64_t min_iterations = 10;   // per stream
  int64_t exact_iterations = 0;  // per stream; above 0: exactly so many, whatever the duration
  int streams = 1;               // contexts, each on a thread of its own
  int threads = 0;               // of all streams together; 0: all available
  // Copy inputs into and outputs out of the context for every query, and time it. Without, a GPU finds inputs in its memory and leaves
  // outputs there.
  bool transfers = false;
  double sleep_ms = 0;  // between copying in and computing
  double idle_ms = 0;   // between two queries
  int profile = 0;
  int device = 0;                                 // which GPU, for engines for one
  bool keep_outputs = false;                      // of the last query of stream 0
  std::function<void(double fraction)> progress;  // from stream 0
};

// Times of one query in ms since the timed part began.
struct Query {
  double start_h2d = 0, end_h2d = 0, start_compute = 0, end_compute = 0, start_d2h = 0, end_d2h = 0;
  double h2d() const { return end_h2d - start_h2d; }
  double compute() const { return end_compute - start_compute; }
  double d2h() const { return end_d2h - start_d2h; }
  double latency() const { return h2d() + compute() + d2h(); }
};

struct Measurement {
  std::vector<Query> queries;  // of all streams, by start
  double device_ms = 0;        // on a GPU, inputs and outputs in its memory: of one run among runs queued back to back; 0: not measured
  double wall_s = 0;           // first start to last end
  double context_ms = 0;       // creating the first context and planning for the shapes
  int64_t warmup_queries = 0;
  MemoryStats memory;  // of one context
  std::vector<Tensor> outputs;
};

// `inputs` in the engine's order. Errors of any stream are thrown here.
Measurement measure(const std::shared_ptr<const Engine>& engine, const std::vector<Tensor>& inputs, const MeasureOptions& options);

struct LayerTime {
  std::string name, origin, op, kernel, tactic;
  std::vector<double> ms;  // per iteration; what a loop body runs several times is summed
};

// A separate run with the profiler attached, for `duration_s` and at least ten iterations. Layers in order of first execution; on a
// GPU copies between it and the host are layers too (op "copy").
std::vector<LayerTime> profile_layers(const std::shared_ptr<const Engine>& engine, const std::vector<Tensor>& inputs, int threads,
                                      double duration_s, int profile = 0, int device = 0);

}  // namespace tokamak::cli
