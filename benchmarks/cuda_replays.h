#pragma once
// Times launches as an engine's step makes them: one behind the other in a CUDA graph.

#include <algorithm>
#include <memory>
#include <vector>

#include "backends/cuda/device.h"

namespace tokamak::cuda {

// Microseconds of one of `launches` calls of launch(stream, i): captured in order, replayed 10 times behind three warm ones, the median by
// events. What the default stream still has to do (uploads) is waited for, and launch(stream, 0) runs once before: libraries prepare
// themselves at their first call.
template <class Launch>
double median_launch_us(const std::shared_ptr<Device>& device, int launches, const Launch& launch) {
  constexpr int kWarm = 3, kReplays = 10;
  const Stream stream(device);
  check(driver().cuStreamSynchronize(nullptr), "uploads");
  launch(stream.get(), 0);
  stream.synchronize();
  check(driver().cuStreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "capture");
  for (int i = 0; i < launches; ++i) launch(stream.get(), i);
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  check(driver().cuStreamEndCapture(stream.get(), &graph), "capture");
  check(driver().cuGraphInstantiate(&exec, graph, 0), "graph");
  std::vector<double> times;
  Event start, stop;
  for (int r = 0; r < kReplays + kWarm; ++r) {
    start.record(stream.get());
    check(driver().cuGraphLaunch(exec, stream.get()), "graph launch");
    stop.record(stream.get());
    stop.synchronize();
    if (r >= kWarm) times.push_back(stop.ms_since(start) * 1000 / launches);
  }
  driver().cuGraphExecDestroy(exec);
  driver().cuGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2];
}

}  // namespace tokamak::cuda
