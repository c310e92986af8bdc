#include "cli/measure.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <unordered_map>

#include "backends/cpu/thread_pool.h"
#include "cli/device_tensors.h"
#include "ir/op.h"
#include "runtime/size_choices.h"

namespace tokamak::cli {

namespace {

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double, std::milli>(b - a).count(); }

void copy_bytes(Tensor& to, const Tensor& from) {
  if (from.dtype() == DType::String) to = from.clone();
  else if (from.size_bytes() > 0) std::memcpy(to.raw(), from.raw(), from.size_bytes());
}

void sleep_for_ms(double ms) {
  if (ms > 0) std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}

// One context with its own copies of the inputs and host buffers for the outputs.
class Stream {
 public:
  Stream(const std::shared_ptr<const Engine>& engine, const std::vector<Tensor>& inputs, std::shared_ptr<ThreadPool> pool, int profile,
         int device)
      : host_inputs_(inputs) {
    ContextOptions options;
    options.pool = std::move(pool);
    options.profile = profile;
    options.device = device;
    if (engine->is_cuda()) open_on_gpu(engine, options);
    if (context_) return;
    options.output_place = Place::Host;
    context_ = std::make_unique<ExecutionContext>(engine, options);
    for (size_t i = 0; i < inputs.size(); ++i) {
      bound_.push_back(inputs[i].clone());
      context_->set_input(engine->inputs()[i].name, bound_[i]);
    }
    context_->prepare();
  }

  ExecutionContext& context() { return *context_; }
  const std::vector<Tensor>& host_outputs() const { return host_outputs_; }

  Query run(Clock::time_point origin, const MeasureOptions& options) {
    Query q;
    const auto now = [&] { return ms_between(origin, Clock::now()); };
    q.start_h2d = now();
    if (options.transfers) copy_inputs();
    q.end_h2d = options.transfers ? now() : q.start_h2d;
    sleep_for_ms(options.sleep_ms);
    q.start_compute = options.transfers || options.sleep_ms > 0 ? now() : q.end_h2d;
    context_->run();
    q.end_compute = q.start_d2h = q.end_d2h = now();
    if (options.transfers) {
      copy_outputs();
      q.end_d2h = now();
    }
    return q;
  }

  // The median over rounds of runs that are queued one behind the other; 0 where runs cannot be queued.
  double queued_ms() {
    if (!gpu_) return 0;
    constexpr int kRounds = 7;
    constexpr double kRoundMs = 60;
    const auto round = [&](int runs) {
      const auto start = Clock::now();
      for (int i = 0; i < runs; ++i) context_->run_async();
      context_->synchronize();
      return ms_between(start, Clock::now()) / runs;
    };
    round(3);
    const int runs = static_cast<int>(std::clamp(kRoundMs / round(3), 5.0, 1000.0));
    std::vector<double> ms;
    for (int i = 0; i < kRounds; ++i) ms.push_back(round(runs));
    std::nth_element(ms.begin(), ms.begin() + kRounds / 2, ms.end());
    return ms[kRounds / 2];
  }

  void copy_outputs() {
    const size_t count = context_->engine().outputs().size();
    host_outputs_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const Tensor& output = context_->output(static_cast<int>(i));
      const bool fits =
          host_outputs_[i].defined() && host_outputs_[i].shape() == output.shape() && host_outputs_[i].dtype() == output.dtype();
      if (gpu_) {
        if (!fits) host_outputs_[i] = Tensor::empty(output.dtype(), output.shape());
        gpu_->download(output, host_outputs_[i], context_->stream());
      } else if (fits) {
        copy_bytes(host_outputs_[i], output);
      } else {
        host_outputs_[i] = output.clone();
      }
    }
  }

 private:
  // Leaves context_ null where inputs cannot stay on the GPU: strings, and graphs that run node by node.
  void open_on_gpu(const std::shared_ptr<const Engine>& engine, ContextOptions options) {
    for (const Tensor& input : host_inputs_)
      if (input.dtype() == DType::String) return;
    options.output_place = Place::Device;
    auto context = std::make_unique<ExecutionContext>(engine, options);
    gpu_ = std::make_unique<DeviceTensors>(options.device);
    for (size_t i = 0; i < host_inputs_.size(); ++i) {
      bound_.push_back(gpu_->add(host_inputs_[i]));
      context->set_input(engine->inputs()[i].name, bound_[i], Place::Device);
    }
    context->prepare();
    if (context->steps().empty() && engine->num_kernels() > 0) {
      gpu_.reset();
      bound_.clear();
      return;
    }
    context_ = std::move(context);
  }

  void copy_inputs() {
    for (size_t i = 0; i < bound_.size(); ++i)
      if (gpu_) gpu_->upload(static_cast<int>(i), host_inputs_[i], context_->stream());
      else copy_bytes(bound_[i], host_inputs_[i]);
    if (gpu_) DeviceTensors::wait(context_->stream());
  }

  const std::vector<Tensor>& host_inputs_;
  std::unique_ptr<DeviceTensors> gpu_;
  std::unique_ptr<ExecutionContext> context_;
  std::vector<Tensor> bound_, host_outputs_;
};

class LayerCollector final : public Profiler {
 public:
  void on_node(const ir::Node& node, int64_t start_ns, int64_t end_ns) override {
    const auto [at, fresh] = index_.try_emplace(&node, layers.size());
    if (fresh) layers.push_back({node.label(), node.origin, std::string(node.op().name), node.kernel, node.tactic, {}});
    add(at->second, start_ns, end_ns);
  }
  void on_copy(std::string_view name, int64_t, int64_t start_ns, int64_t end_ns) override {
    const auto [at, fresh] = copies_.try_emplace(std::string(name), layers.size());
    if (fresh) layers.push_back({at->first, "", "copy", "", "", {}});
    add(at->second, start_ns, end_ns);
  }
  std::vector<LayerTime> layers;
  size_t iteration = 0;

 private:
  void add(size_t layer, int64_t start_ns, int64_t end_ns) {
    std::vector<double>& ms = layers[layer].ms;
    ms.resize(iteration + 1, 0.0);
    ms[iteration] += static_cast<double>(end_ns - start_ns) * 1e-6;
  }
  std::unordered_map<const ir::Node*, size_t> index_;
  std::unordered_map<std::string, size_t> copies_;
};

}  // namespace

Measurement measure(const std::shared_ptr<const Engine>& engine, const std::vector<Tensor>& inputs, const MeasureOptions& options) {
  const int streams = std::max(1, options.streams);
  const int total_threads = options.threads > 0 ? options.threads : available_threads();
  const int width = std::max(1, total_threads / streams);

  Measurement result;
  std::vector<std::vector<Query>> queries(streams);
  std::vector<std::exception_ptr> errors(streams);
  std::atomic<int64_t> warmups{0};
  Clock::time_point origin;
  std::barrier ready(streams, [&origin]() noexcept { origin = Clock::now(); });

  const auto body = [&](int id) {
    bool waiting = true;  // has yet to arrive at the barrier
    try {
      const auto create = Clock::now();
      Stream stream(engine, inputs, std::make_shared<ThreadPool>(width), options.profile, options.device);
      if (id == 0) result.context_ms = ms_between(create, Clock::now());
      const auto warm = Clock::now();
      do {
        stream.run(warm, options);
        ++warmups;
      } while (ms_between(warm, Clock::now()) < options.warmup_ms);
      waiting = false;
      ready.arrive_and_wait();

      std::vector<Query>& mine = queries[id];
      mine.reserve(1 << 16);
      const double end_ms = options.duration_s * 1e3;
      for (;;) {
        const double elapsed_ms = ms_between(origin, Clock::now());
        const int64_t count = static_cast<int64_t>(mine.size());
        if (options.exact_iterations > 0 ? count >= options.exact_iterations
                                         : options.duration_s >= 0 && elapsed_ms >= end_ms && count >= options.min_iterations)
          break;
        if (id == 0 && options.progress)
          options.progress(options.exact_iterations > 0 ? static_cast<double>(count) / static_cast<double>(options.exact_iterations)
                                                        : elapsed_ms / end_ms);
        mine.push_back(stream.run(origin, options));
        sleep_for_ms(options.idle_ms);
      }
      if (id == 0) {
        result.memory = stream.context().memory();
        if (streams == 1 && !options.transfers) result.device_ms = stream.queued_ms();
        if (options.keep_outputs) {
          stream.copy_outputs();
          result.outputs = stream.host_outputs();
        }
      }
    } catch (...) {
      errors[id] = std::current_exception();
      if (waiting) ready.arrive_and_drop();
    }
  };
  std::vector<std::thread> threads;
  for (int id = 1; id < streams; ++id) threads.emplace_back(body, id);
  body(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);

  for (const std::vector<Query>& part : queries) result.queries.insert(result.queries.end(), part.begin(), part.end());
  std::sort(result.queries.begin(), result.queries.end(), [](const Query& a, const Query& b) { return a.start_h2d < b.start_h2d; });
  double last_ms = 0;
  for (const Query& q : result.queries) last_ms = std::max(last_ms, q.end_d2h);
  result.wall_s = result.queries.empty() ? 0 : (last_ms - result.queries.front().start_h2d) * 1e-3;
  result.warmup_queries = warmups;
  return result;
}

std::vector<LayerTime> profile_layers(const std::shared_ptr<const Engine>& engine, const std::vector<Tensor>& inputs, int threads,
                                      double duration_s, int profile, int device) {
  Stream stream(engine, inputs, std::make_shared<ThreadPool>(threads > 0 ? threads : available_threads()), profile, device);
  MeasureOptions options;
  const auto start = Clock::now();
  for (int i = 0; i < 2; ++i) stream.run(start, options);
  LayerCollector collector;
  stream.context().set_profiler(&collector);
  for (int64_t i = 0; i < 10 || ms_between(start, Clock::now()) < duration_s * 1e3; ++i) {
    collector.iteration = static_cast<size_t>(i);
    stream.run(start, options);
  }
  stream.context().set_profiler(nullptr);
  for (LayerTime& layer : collector.layers) layer.ms.resize(collector.iteration + 1, 0.0);
  // A node that was tuned for several sizes: the kernel that these shapes took.
  for (const StepInfo& step : stream.context().steps())
    for (LayerTime& layer : collector.layers)
      if (step.node != nullptr && layer.kernel == kBySize && layer.name == step.node->label())
        layer.kernel = step.kernel, layer.tactic = "";
  return std::move(collector.layers);
}

}  // namespace tokamak::cli
