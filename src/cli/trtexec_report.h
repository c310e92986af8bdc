#pragma once
// What trtexec prints and exports after a run, in TensorRT's words and JSON fields.

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/measure.h"

namespace tokamak::cli {

// "Throughput: ..", "Latency: min = .." and so on, one string a line. `percents` as asked with --percentile.
std::vector<std::string> performance_summary(const Measurement& measured, const std::vector<double>& percents, int streams);
// "Average on 10 runs - GPU latency: ..", the first and last 200 groups.
std::vector<std::string> trace_lines(const Measurement& measured, int runs_per_line);
// Things a reader of the figures should know ("Throughput may be bound by ..").
std::vector<std::string> performance_warnings(const Measurement& measured, int streams);
// Time(ms), Avg.(ms), Median(ms), Time(%), Layer; a total row last.
std::vector<std::string> profile_lines(const std::vector<LayerTime>& layers);
// One line a layer; detailed adds kernel, tactic and tensors.
std::vector<std::string> layer_lines(const Engine& engine, bool detailed);

Json times_json(const Measurement& measured);                                 // --exportTimes
Json profile_json(const std::vector<LayerTime>& layers);                      // --exportProfile
Json outputs_json(const Engine& engine, const std::vector<Tensor>& outputs);  // --exportOutput
Json layer_info_json(const Engine& engine, bool detailed);                    // --exportLayerInfo

}  // namespace tokamak::cli
