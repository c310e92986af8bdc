#pragma once
// A sequence of launches on a GPU that was captured once; replaying it costs the host nothing per kernel.

#include "backends/cuda/device.h"

namespace tokamak::tune {

class Replay {
 public:
  // Captures what `queue` puts on the stream.
  template <class F>
  Replay(CUstream stream, const F& queue) {
    const cuda::Driver& d = cuda::driver();
    cuda::check(d.cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "capturing what is timed");
    try {
      queue();
    } catch (...) {
      CUgraph broken = nullptr;
      d.cuStreamEndCapture(stream, &broken);
      if (broken != nullptr) d.cuGraphDestroy(broken);
      throw;
    }
    CUgraph graph = nullptr;
    cuda::check(d.cuStreamEndCapture(stream, &graph), "capturing what is timed");
    const CUresult result = d.cuGraphInstantiate(&graph_, graph, 0);
    d.cuGraphDestroy(graph);
    cuda::check(result, "instantiating what is timed");
  }
  ~Replay() {
    if (graph_ != nullptr) cuda::driver().cuGraphExecDestroy(graph_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;
  void launch(CUstream stream) const { cuda::check(cuda::driver().cuGraphLaunch(graph_, stream), "running what is timed"); }

 private:
  CUgraphExec graph_ = nullptr;
};

// Microseconds that the GPU takes for what `work` puts on the stream.
template <class F>
double device_us(CUstream stream, const F& work) {
  cuda::Event start, end;
  start.record(stream);
  work();
  end.record(stream);
  end.synchronize();
  return end.ms_since(start) * 1e3;
}

}  // namespace tokamak::tune
