#pragma once
// Times a graph as a whole, each node with the kernel that was chosen for it.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/bind.h"
#include "tune/choice.h"

namespace tokamak::tune {

class GraphClock {
 public:
  virtual ~GraphClock() = default;
  // Microseconds of a run with each node's candidate(); nothing when one of them cannot take the place of the kernel that memory was
  // planned for.
  virtual std::optional<double> us(std::span<const PlacedChoice> nodes) = 0;
};

// Clocks of one graph on one GPU: they share its weights there.
class DeviceGraphClocks {
 public:
  // `graph`, `pool` and `cuda`, which has a device, must outlive this and its clocks.
  DeviceGraphClocks(const ir::Graph& graph, ThreadPool& pool, const cuda::Context& cuda);
  ~DeviceGraphClocks();
  // Plans the graph for `binding`, which must be static, with the kernels that its nodes name, and replays it as a CUDA graph. `inputs`:
  // the graph's, on the host; undefined ones (KV caches) get random numbers, and several share memory where together they outgrow the L2
  // cache anyway. Null, with the reason, when not all of it runs on the GPU or it does not fit.
  std::unique_ptr<GraphClock> make(const Binding& binding, const std::vector<Tensor>& inputs, std::string& why_not);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tokamak::tune
