#include "base/error.h"
#include "tune/stopwatch.h"

#ifdef TOKAMAK_CUDA

#include <algorithm>
#include <mutex>

#include "backends/cuda/device.h"
#include "tune/replay.h"

namespace tokamak::tune {
namespace {

using namespace cuda;

class DeviceStopwatch final : public Stopwatch {
 public:
  explicit DeviceStopwatch(const NodeView& view) : view_(view), device_(*view.cuda->device()), stream_(view.cuda->device()) {
    const std::vector<Tensor> inputs = timing_inputs(view);
    for (size_t i = 0; i < inputs.size(); ++i) inputs_.push_back(view.constants[i] ? Tensor() : upload(inputs[i], buffers_));
    for (size_t i = 0; i < view.output_shapes.size(); ++i) {
      buffers_.push_back(device_.allocate(bytes_of(view.output_dtypes[i], num_elements(view.output_shapes[i])), "outputs of a tactic"));
      outputs_.push_back(Tensor::view(view.output_dtypes[i], view.output_shapes[i], buffers_.back().data()));
    }
    wait_for_uploads();
  }

  double measure(const Candidate& candidate, Budget budget, double best) override {
    NodeView view = view_;
    std::vector<Tensor> packed = pack_constants(view_, candidate);
    int64_t bytes = 0;
    bool is_packed = false;
    for (size_t i = 0; i < packed.size(); ++i) {
      if (view_.constants[i] == nullptr) continue;
      is_packed |= packed[i].defined();
      if (!packed[i].defined()) packed[i] = *view_.constants[i];
      view.constants[i] = &packed[i];
      bytes += packed[i].size_bytes();
    }
    const auto kernel = candidate.def->make(view, candidate.tactic);

    // Constants that this candidate leaves as they are stay on the device for the next ones.
    std::vector<Buffer> own_buffers;
    std::vector<std::vector<Tensor>> own_turns;
    if (is_packed) own_turns = upload_turns(packed, bytes, own_buffers);
    else if (plain_turns_.empty()) plain_turns_ = upload_turns(packed, bytes, buffers_);
    const std::vector<std::vector<Tensor>>& turns = is_packed ? own_turns : plain_turns_;
    const auto copies = static_cast<int64_t>(turns.size());
    const Buffer workspace = device_.allocate(kernel->workspace_bytes(), "workspace of a tactic");
    const auto queue = [&](int64_t runs) {
      for (int64_t run = 0; run < runs; ++run) {
        RunArgs args;
        args.inputs = turns[run % copies];
        args.outputs = outputs_;
        args.workspace = workspace.data();
        args.stream = stream_.get();
        kernel->run(args);
      }
    };
    const std::lock_guard alone(device_.timing_mutex());
    queue(1);  // loads the code
    stream_.synchronize();
    const double once = device_us(stream_.get(), [&] { queue(1); });
    if (once > 4 * best + 100) return once;  // 100 us: what a launch may cost at worst
    const int64_t runs = std::clamp<int64_t>(static_cast<int64_t>(kGraphUs / std::max(once, 1.0)), std::min<int64_t>(2 * copies, 8), 64);
    const Replay replay(stream_.get(), [&] { queue(runs); });
    replay.launch(stream_.get());
    std::vector<double> times;
    double spent = 0;
    for (int round = 0; round < std::min(budget.runs, kMostReplays); ++round) {
      const double us = device_us(stream_.get(), [&] { replay.launch(stream_.get()); });
      times.push_back(us / static_cast<double>(runs));
      spent += us;
      if (round >= 1 && std::min(times[0], times[1]) > 1.5 * best) break;
      if (round >= 2 && spent > budget.us) break;
    }
    std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
    return times[times.size() / 2];
  }

 private:
  static constexpr int kMostReplays = 11;  // each already holds many runs
  static constexpr double kGraphUs = 400;  // a graph's own launch is then lost in what it holds

  // The inputs with as many copies of the constants as outgrow the L2 cache.
  std::vector<std::vector<Tensor>> upload_turns(const std::vector<Tensor>& constants, int64_t bytes, std::vector<Buffer>& buffers) {
    constexpr int64_t kMostCopies = 16;
    const int64_t copies = bytes == 0 ? 1 : std::clamp<int64_t>(2 * view_.cuda->target().l2_bytes / bytes + 1, 1, kMostCopies);
    std::vector<std::vector<Tensor>> turns;
    for (int64_t c = 0; c < copies; ++c) {
      turns.push_back(inputs_);
      for (size_t i = 0; i < constants.size(); ++i)
        if (view_.constants[i]) turns.back()[i] = upload(constants[i], buffers);
    }
    wait_for_uploads();
    return turns;
  }

  // Uploads go through the default stream and may return before they are done; stream_ does not wait for it.
  static void wait_for_uploads() { check(driver().cuStreamSynchronize(nullptr), "uploading inputs of a tactic"); }

  Tensor upload(const Tensor& host, std::vector<Buffer>& buffers) {
    if (!host.defined()) return {};
    buffers.push_back(device_.allocate(host.size_bytes(), "inputs of a tactic"));
    const Buffer& buffer = buffers.back();
    if (host.size_bytes() > 0)
      check(driver().cuMemcpyHtoD(buffer.pointer(), host.raw(), static_cast<size_t>(host.size_bytes())), "uploading inputs of a tactic");
    return host.layout().empty()
               ? Tensor::view(host.dtype(), host.shape(), buffer.data())
               : Tensor::packed_view(host.dtype(), host.shape(), host.layout(), buffer.data(), host.size_bytes(), nullptr);
  }

  const NodeView& view_;
  Device& device_;
  cuda::Stream stream_;
  std::vector<Buffer> buffers_;
  std::vector<Tensor> inputs_, outputs_;
  std::vector<std::vector<Tensor>> plain_turns_;
};

}  // namespace

std::unique_ptr<Stopwatch> device_stopwatch(const NodeView& view) {
  CHECK(view.cuda != nullptr && view.cuda->device() != nullptr);
  return std::make_unique<DeviceStopwatch>(view);
}

}  // namespace tokamak::tune

#endif
