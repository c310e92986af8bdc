#pragma once
// trtexec's words turned into what the run does.

#include <string>
#include <vector>

#include "builder/builder.h"
#include "cli/args.h"
#include "cli/measure.h"
#include "cli/trtexec_flags.h"

namespace tokamak::cli {

struct TrtProfileShapes {
  NamedShapes min, opt, max;
};

struct TrtOptions {
  std::string onnx, load_engine, save_engine;
  BuildOptions build;
  std::vector<TrtProfileShapes> profiles;  // at least one, possibly empty
  NamedShapes shapes;
  MeasureOptions measure;
  std::vector<double> percentiles = {90, 95, 99};
  int avg_runs = 10;
  bool skip_inference = false, version_only = false, time_deserialize = false, verbose = false, detailed_layers = false, no_layers = false;
  bool dump_profile = false, dump_layers = false, dump_output = false, dump_profiles = false, dump_bindings = false;
  std::string export_profile, export_layers, export_times, export_output;
  std::vector<std::pair<std::string, std::string>> load_inputs, reference_outputs;  // tensor name, file
  double rtol = 1e-3, atol = 1e-5;
  std::vector<std::string> notes;  // information lines: what --fp16 means here
};

// Throws InvalidArgument naming the flag.
TrtOptions trt_options(const TrtWords& words);

// The profiles to build for a graph with these inputs: what is missing of min, opt and max is taken from the others; --shapes alone
// stands for all three; a symbolic input without any shape gets 1 for each symbol, with a line in `warnings`. Inputs with fixed shapes are
// left out.
std::vector<OptimizationProfile> trt_profiles(const TrtOptions& options, std::span<ir::Value* const> inputs,
                                              std::vector<std::string>& warnings);

}  // namespace tokamak::cli
