#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_model.h"

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>

#include "backends/cuda/sampler.h"
#include "llm/cache_budget.h"
#include "llm/cuda_step_inputs.h"
#include "llm/step_signature.h"
#include "runtime/execution_context.h"

namespace tokamak::llm {
namespace {

using cuda::check;
using cuda::driver;

constexpr int kMaxPlans = 256;
constexpr int kArgmaxSplits = 16;  // blocks a row

bool samples(const StepBatch& batch) {
  return std::ranges::any_of(batch.choices, [](const TokenChoice& choice) { return choice.temperature > 0; });
}

std::shared_ptr<cuda::Device> current_device() {
  auto device = cuda::Device::get(0);
  device->make_current();
  return device;
}

ContextOptions context_options(const StepModelOptions& options) {
  ContextOptions out;
  out.communicator = options.communicator;
  out.max_plans = kMaxPlans;
  out.output_place = Place::Device;
  out.capture_first_run = true;
  return out;
}

}  // namespace

struct CudaStepModel::Impl {
  Impl(std::shared_ptr<const Engine> e, const StepModelOptions& o)
      : config(step_config(*e)), options(o), device(current_device()), context(e, context_options(o)) {
    if (o.max_num_seqs < 1 || o.max_num_batched_tokens < 1 || o.max_context_length < 0 || o.kv_cache_bytes < 0)
      fail(ErrorCode::InvalidArgument,
           "max_num_seqs ({}) and max_num_batched_tokens ({}) must be positive, max_context_length ({}) and kv_cache_bytes ({}) not "
           "negative",
           o.max_num_seqs, o.max_num_batched_tokens, o.max_context_length, o.kv_cache_bytes);
    const int context_length = o.max_context_length > 0 ? std::min(o.max_context_length, config.context_length) : config.context_length;
    blocks_per_seq = (context_length + config.block_size - 1) / config.block_size;
    const cuda::Context code(device->target(), e->code(), device);
    inputs = std::make_unique<CudaStepInputs>(code, padded_seqs(o.max_num_seqs), blocks_per_seq);
    const cuda::Source source{"argmax", cuda::device_file("argmax.cu"), {}};
    argmax_parts = code.function(source, "argmax_parts");
    argmax_rows = code.function(source, "argmax_rows");
    sampler = std::make_unique<cuda::DeviceSampler>(code, config.vocab_size, 1, 1);
    const int tokens = mixed_bucket(std::max(o.max_num_batched_tokens, padded_seqs(o.max_num_seqs)));
    free_before = device->free_bytes();
    allocate_cache(tokens);
    inputs->reserve(tokens);
    reserve_rows(usual_rows());
  }

  int usual_rows() const { return std::max(1024, padded_seqs(options.max_num_seqs)); }

  ~Impl() {
    try {
      device->make_current();
      check(driver().cuStreamSynchronize(context.stream()), "waiting for the GPU");
    } catch (const Error&) {
      // What was in flight is not wanted any more.
    }
  }

  // Bytes beside weights and activations.
  int64_t array_bytes(int tokens, int rows) const { return inputs->bytes(tokens) + int64_t{rows} * (4 + kArgmaxSplits * 8); }

  void set_cache(int blocks, std::byte* at) {
    for (int layer = 0; layer < config.num_layers; ++layer)
      context.set_input(
          cache_input_name(layer),
          Tensor::view(config.kv_dtype, {blocks, 2, config.num_kv_heads, config.block_size, config.head_dim}, at + layer * layer_bytes),
          Place::Device);
  }

  // Asks first whether everything fits that steps of up to `tokens` need.
  void allocate_cache(int tokens) {
    const int64_t block_bytes = config.kv_block_bytes();
    CacheBudget budget{.device_name = device->target().device_name, .free = device->free_bytes(), .block = block_bytes};
    budget.arrays = array_bytes(tokens, usual_rows());
    budget.one_sequence = blocks_per_seq * block_bytes;
    budget.all_sequences = options.max_num_seqs * budget.one_sequence;
    auto* const nowhere = reinterpret_cast<std::byte*>(uintptr_t{256});  // planning reads nothing
    set_cache(1, nowhere);
    const int seqs = options.max_num_seqs;
    for (const StepSizes& sizes : {padded_sizes(tokens, seqs, seqs, seqs), padded_sizes(seqs, seqs, seqs, seqs)}) {
      inputs->bind_nowhere(context, sizes, nowhere);
      const DeviceNeeds needs = context.device_needs();
      budget.weights = std::max(budget.weights, needs.weights_bytes);
      budget.activations = std::max(budget.activations, needs.arena_bytes);
      budget.arrays += needs.shape_constant_bytes;
    }
    planned.weights_bytes = budget.weights;
    planned.arena_bytes = budget.activations;
    planned.other_bytes = budget.arrays;
    planned.kv_cache_bytes = cache_bytes(budget, options.kv_cache_bytes);
    num_blocks = static_cast<int>(std::min<int64_t>(planned.kv_cache_bytes / block_bytes, INT32_MAX / config.block_size));  // slots are i32
    layer_block_bytes = block_bytes / config.num_layers;
    layer_bytes = (num_blocks * layer_block_bytes + 255) / 256 * 256;
    cache = device->allocate(layer_bytes * config.num_layers, "KV cache");
    // What a sequence has not written is never read, but a NaN there would survive a multiplication by a zero weight.
    check(driver().cuMemsetD8(cache.pointer(), 0, static_cast<size_t>(cache.size_bytes())), "clearing the KV cache");
    check(driver().cuStreamSynchronize(nullptr), "clearing the KV cache");  // the context's stream does not wait for the default one
    set_cache(num_blocks, cache.data());
  }

  void reserve_rows(int rows) {
    if (rows <= row_capacity) return;
    row_capacity = rows;
    for (auto& tokens : host_tokens) tokens = cuda::PinnedBuffer(int64_t{rows} * 4);
    chosen = device->allocate(int64_t{rows} * 4, "tokens of a step");
    parts = device->allocate(int64_t{rows} * kArgmaxSplits * 8, "argmax");
  }

  // Queues a step, the choice of its tokens, and their way to the host. Nothing waits, but for a step that is larger than any before.
  void queue(const StepBatch& batch, bool samples) {
    const int tokens = static_cast<int>(batch.token_ids.size()), rows = static_cast<int>(batch.logit_rows.size());
    if (batch.num_seqs > options.max_num_seqs || batch.blocks_per_seq > blocks_per_seq)
      fail(ErrorCode::InvalidArgument, "a step of {} sequences of up to {} blocks; this model was set up for {} of {}", batch.num_seqs,
           batch.blocks_per_seq, options.max_num_seqs, blocks_per_seq);
    queue(batch, padded_sizes(tokens, rows, batch.num_seqs, options.max_num_seqs), samples);
  }

  void queue(const StepBatch& batch, const StepSizes& sizes, bool samples) {
    const auto rows = static_cast<int>(batch.logit_rows.size());
    device->make_current();
    if (sizes.tokens > inputs->token_capacity() || rows > row_capacity) {
      context.synchronize();
      inputs->reserve(sizes.tokens);
      reserve_rows(rows);
    }
    inputs->bind(context, sizes);
    context.prepare();
    const CUstream stream = context.stream();
    const auto slot = static_cast<int>(num_queued % CudaStepInputs::kSlots);
    Times& time = times[num_queued % times.size()];
    time.begin.record(stream);
    inputs->queue(stream, slot, batch, sizes, chosen.pointer());
    context.run_async();
    logits = rows == 0 ? nullptr : static_cast<float*>(const_cast<void*>(context.output(0).raw()));
    auto* const on_host = reinterpret_cast<int32_t*>(host_tokens[slot].data());
    if (rows > 0 && samples) {
      sampler->queue(stream, logits, inputs->choices(), rows, chosen.pointer(), on_host);
    } else if (rows > 0) {
      const auto count = static_cast<unsigned>(rows);
      argmax_parts.launch(stream, {.grid = {kArgmaxSplits, count}, .block = {256}, .overlap = true}, logits, parts.pointer(),
                          config.vocab_size);
      argmax_rows.launch(stream, {.grid = {count}, .block = {32}, .overlap = true}, parts.pointer(), chosen.pointer(), on_host,
                         kArgmaxSplits);
    }
    time.end.record(stream);
    num_rows[slot] = rows;
    ++num_queued;
  }

  // The tokens of the oldest step that was queued and not waited for.
  std::span<const int32_t> wait() {
    device->make_current();
    Times& time = times[num_taken % times.size()];
    const auto slot = static_cast<int>(num_taken++ % CudaStepInputs::kSlots);
    time.end.synchronize();
    last_times.step_ms = time.end.ms_since(time.begin);
    last_times.gap_ms = num_taken == 1 ? 0 : time.begin.ms_since(times[(num_taken - 2) % times.size()].end);
    return {reinterpret_cast<const int32_t*>(host_tokens[slot].data()), static_cast<size_t>(num_rows[slot])};
  }

  // Steps in which everything is padding, the largest first: arenas grow once.
  void warm_up() {
    CHECK(num_queued == num_taken);
    StepBatch nothing;
    nothing.query_starts = {0};
    for (const StepSizes& sizes : usual_sizes(options.max_num_batched_tokens, options.max_num_seqs)) {
      queue(nothing, sizes, false);
      wait();
    }
    context.synchronize();
  }

  void run(const StepBatch& batch) {
    CHECK(num_queued == num_taken);
    queue(batch, samples(batch));
    chosen_tokens = wait();
    copy_of_row.clear();
    num_copies = 0;
    context.synchronize();
  }

  // Several threads may read rows of a step at once.
  const float* host_logits(int row) {
    const std::lock_guard lock(mutex);
    copy_of_row.resize(chosen_tokens.size(), -1);
    int& copy = copy_of_row[row];
    if (copy < 0) {
      device->make_current();
      const int64_t bytes = int64_t{config.vocab_size} * 4;
      if (num_copies == copies.size()) copies.emplace_back(bytes);
      check(driver().cuMemcpyDtoHAsync(copies[num_copies].data(), reinterpret_cast<CUdeviceptr>(logits + int64_t{row} * config.vocab_size),
                                       static_cast<size_t>(bytes), context.stream()),
            "copying logits from the GPU");
      check(driver().cuStreamSynchronize(context.stream()), "copying logits from the GPU");
      copy = static_cast<int>(num_copies++);
    }
    return reinterpret_cast<const float*>(copies[copy].data());
  }

  // Around a step, on the GPU's clock.
  struct Times {
    cuda::Event begin, end;
  };

  ModelConfig config;
  StepModelOptions options;
  std::shared_ptr<cuda::Device> device;
  cuda::Buffer cache, chosen, parts;
  ExecutionContext context;
  std::unique_ptr<CudaStepInputs> inputs;
  std::unique_ptr<cuda::DeviceSampler> sampler;
  std::array<cuda::PinnedBuffer, CudaStepInputs::kSlots> host_tokens;
  std::array<int, CudaStepInputs::kSlots> num_rows{};
  std::array<Times, 2 * CudaStepInputs::kSlots> times;  // twice as many, so that those of the step before are still there
  cuda::Function argmax_parts, argmax_rows;
  int blocks_per_seq = 0, num_blocks = 0, row_capacity = 0;
  int64_t layer_block_bytes = 0, layer_bytes = 0;
  int64_t num_queued = 0, num_taken = 0;
  int64_t free_before = 0;  // on the device
  StepMemory planned;
  StepTimes last_times;
  std::span<const int32_t> chosen_tokens;  // of the last run()
  float* logits = nullptr;                 // on the device
  std::mutex mutex;                        // of what follows
  std::vector<int> copy_of_row;            // of the last run()'s logits; -1: not copied
  std::deque<cuda::PinnedBuffer> copies;
  size_t num_copies = 0;
};

CudaStepModel::CudaStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options)
    : impl_(std::make_unique<Impl>(std::move(engine), options)) {}

CudaStepModel::~CudaStepModel() = default;

const ModelConfig& CudaStepModel::config() const { return impl_->config; }

int CudaStepModel::num_blocks() const { return impl_->num_blocks; }

void CudaStepModel::run(const StepBatch& batch) { impl_->run(batch); }

std::span<const float> CudaStepModel::logits(int row) const {
  return {impl_->host_logits(row), static_cast<size_t>(impl_->config.vocab_size)};
}

int32_t CudaStepModel::chosen(int row) const { return impl_->chosen_tokens[row]; }

void CudaStepModel::submit(const StepBatch& batch) {
  CHECK(impl_->num_queued - impl_->num_taken < kMaxInFlight);
  impl_->queue(batch, samples(batch));
}

std::span<const int32_t> CudaStepModel::take() {
  CHECK(impl_->num_queued > impl_->num_taken);
  return impl_->wait();
}

StepTimes CudaStepModel::last_times() const { return impl_->last_times; }

void CudaStepModel::copy_block(int src, int dst) {
  Impl& impl = *impl_;
  impl.device->make_current();
  for (int layer = 0; layer < impl.config.num_layers; ++layer) {
    const CUdeviceptr base = impl.cache.pointer() + static_cast<CUdeviceptr>(layer * impl.layer_bytes);
    check(driver().cuMemcpyDtoDAsync(base + static_cast<CUdeviceptr>(dst * impl.layer_block_bytes),
                                     base + static_cast<CUdeviceptr>(src * impl.layer_block_bytes),
                                     static_cast<size_t>(impl.layer_block_bytes), impl.context.stream()),
          "copying a block of the KV cache");
  }
}

void CudaStepModel::warm_up() { impl_->warm_up(); }

StepMemory CudaStepModel::memory() const {
  StepMemory memory = impl_->planned;
  memory.kv_cache_bytes = impl_->cache.size_bytes();
  memory.used_bytes = impl_->free_before - impl_->device->free_bytes();
  return memory;
}

void CudaStepModel::set_profiler(Profiler* profiler) { impl_->context.set_profiler(profiler); }

}  // namespace tokamak::llm
#endif
