#ifdef TOKAMAK_CUDA
#include "llm/cuda_step_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>

#include "backends/cuda/device.h"
#include "llm/step_signature.h"
#include "runtime/execution_context.h"

namespace tokamak::llm {
namespace {

using cuda::check;
using cuda::driver;

// Batch sizes that decoding steps are padded to: each is a plan and a CUDA graph. Few, since a padded row costs little where the weights'
// bytes are what takes the time.
int decode_bucket(int n) {
  if (n <= 2) return n;
  if (n <= 4) return 4;
  if (n <= 64) return (n + 7) / 8 * 8;
  if (n <= 256) return (n + 31) / 32 * 32;
  return (n + 63) / 64 * 64;
}

// Steps with prompts: arithmetic takes the time, so at most an eighth is padding.
int mixed_bucket(int n) {
  if (n <= 16) return 16;
  const int step = std::max(16, static_cast<int>(std::bit_floor(static_cast<unsigned>(n - 1))) / 8);
  return (n + step - 1) / step * step;
}

int row_bucket(int rows, int tokens) {
  return rows == 0 ? 0 : std::min(tokens, static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows))));
}

constexpr int kMaxPlans = 256;
constexpr int kArgmaxSplits = 16;                    // blocks a row
constexpr int64_t kAlignment = 64;                   // in elements: 256 bytes
constexpr int64_t kSpareBytes = int64_t{512} << 20;  // of the GPU's memory, left for code, library workspaces and larger steps

int64_t aligned(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

std::shared_ptr<cuda::Device> current_device() {
  auto device = cuda::Device::get(0);
  device->make_current();
  return device;
}

ContextOptions context_options() {
  ContextOptions out;
  out.max_plans = kMaxPlans;
  out.output_place = Place::Device;
  return out;
}

}  // namespace

struct CudaStepModel::Impl {
  // An index array of a step: its place in the common buffer.
  struct Region {
    const char* name;
    int64_t offset = 0, capacity = 0;
  };
  enum { kTokens, kPositions, kSlots, kRows, kTables, kLengths, kStarts, kNumRegions };

  Impl(std::shared_ptr<const Engine> e, const StepModelOptions& o)
      : config(step_config(*e)), options(o), device(current_device()), context(e, context_options()), done(false) {
    if (o.max_num_seqs < 1 || o.max_num_batched_tokens < 1 || o.max_context_length < 0 || o.kv_cache_bytes < 0)
      fail(ErrorCode::InvalidArgument,
           "max_num_seqs ({}) and max_num_batched_tokens ({}) must be positive, max_context_length ({}) and kv_cache_bytes ({}) not "
           "negative",
           o.max_num_seqs, o.max_num_batched_tokens, o.max_context_length, o.kv_cache_bytes);
    const int context_length = o.max_context_length > 0 ? std::min(o.max_context_length, config.context_length) : config.context_length;
    blocks_per_seq = (context_length + config.block_size - 1) / config.block_size;
    // One more than decoding steps may have: a mixed step never has as many sequence rows as tokens, which would make it look like one.
    max_seqs = decode_bucket(o.max_num_seqs) + 1;
    allocate_cache(context_length, e->weights_bytes());
    reserve(mixed_bucket(std::max(o.max_num_batched_tokens, max_seqs)));
    const cuda::Context code(device->target(), e->code(), device);
    const cuda::Source source{"argmax", cuda::device_file("argmax.cu"), {}};
    argmax_parts = code.function(source, "argmax_parts");
    argmax_rows = code.function(source, "argmax_rows");
  }

  void allocate_cache(int context_length, int64_t weights_bytes) {
    const int64_t block_bytes = config.kv_block_bytes(), one_sequence = blocks_per_seq * block_bytes;
    int64_t budget = options.kv_cache_bytes;
    if (budget == 0) {
      const int64_t free = (device->free_bytes() - weights_bytes - kSpareBytes) / 10 * 9;
      budget = std::min(options.max_num_seqs * one_sequence, std::max<int64_t>(free, 0));
    }
    if (budget < one_sequence)
      fail(ErrorCode::ResourceExhausted,
           "a KV cache of {} bytes holds {} tokens, one sequence has up to {}; {} bytes would do, or a max_context_length of {}", budget,
           budget / block_bytes * config.block_size, context_length, one_sequence, budget / block_bytes * config.block_size);
    num_blocks = static_cast<int>(std::min<int64_t>(budget / block_bytes, INT32_MAX / config.block_size));  // slots are i32
    layer_block_bytes = block_bytes / config.num_layers;
    layer_bytes = (num_blocks * layer_block_bytes + 255) / 256 * 256;
    cache = device->allocate(layer_bytes * config.num_layers, "KV cache");
    // What a sequence has not written is never read, but a NaN there would survive a multiplication by a zero weight.
    check(driver().cuMemsetD8(cache.pointer(), 0, static_cast<size_t>(cache.size_bytes())), "clearing the KV cache");
    check(driver().cuStreamSynchronize(nullptr), "clearing the KV cache");  // the context's stream does not wait for the default one
    for (int layer = 0; layer < config.num_layers; ++layer)
      context.set_input(cache_input_name(layer),
                        Tensor::view(config.kv_dtype, {num_blocks, 2, config.num_kv_heads, config.block_size, config.head_dim},
                                     cache.data() + layer * layer_bytes),
                        Place::Device);
  }

  // Index arrays for steps of up to `tokens`.
  void reserve(int tokens) {
    if (tokens <= token_capacity) return;
    context.synchronize();
    token_capacity = tokens;
    regions = {{{"token_ids", 0, tokens},
                {"positions", 0, tokens},
                {"slot_mapping", 0, tokens},
                {"logit_rows", 0, tokens},
                {"block_tables", 0, int64_t{max_seqs} * blocks_per_seq},
                {"seq_lens", 0, max_seqs},
                {"query_starts", 0, max_seqs + 1}}};
    int64_t count = 0;
    for (Region& region : regions) {
      region.offset = count;
      count += aligned(region.capacity);
    }
    indices = device->allocate(count * 4, "index arrays of a step");
    staging = cuda::PinnedBuffer(count * 4);
    std::memset(staging.data(), 0, static_cast<size_t>(count * 4));
    bound = {};
  }

  int32_t* host(int region) { return reinterpret_cast<int32_t*>(staging.data()) + regions[region].offset; }

  struct Sizes {
    int tokens = -1, rows = -1, seqs = -1;
  };

  void bind(const Sizes& sizes) {
    const auto set = [&](int region, Shape shape) {
      const Region& r = regions[region];
      context.set_input(r.name, Tensor::view(DType::I32, std::move(shape), indices.data() + r.offset * 4), Place::Device);
    };
    if (sizes.tokens != bound.tokens)
      for (int region : {kTokens, kPositions, kSlots}) set(region, {sizes.tokens});
    if (sizes.rows != bound.rows) set(kRows, {sizes.rows});
    if (sizes.seqs != bound.seqs) {
      set(kTables, {sizes.seqs, blocks_per_seq});
      set(kLengths, {sizes.seqs});
      set(kStarts, {sizes.seqs + 1});
    }
    bound = sizes;
  }

  void fill(int region, const std::vector<int32_t>& from, int padded, int32_t padding) {
    std::ranges::copy(from, host(region));
    std::fill(host(region) + from.size(), host(region) + padded, padding);
  }

  void run(const StepBatch& batch) {
    const int tokens = static_cast<int>(batch.token_ids.size()), rows = static_cast<int>(batch.logit_rows.size());
    if (batch.num_seqs > options.max_num_seqs || batch.blocks_per_seq > blocks_per_seq)
      fail(ErrorCode::InvalidArgument, "a step of {} sequences of up to {} blocks; this model was set up for {} of {}", batch.num_seqs,
           batch.blocks_per_seq, options.max_num_seqs, blocks_per_seq);
    Sizes sizes;
    if (tokens == batch.num_seqs && rows == tokens) {
      sizes.tokens = sizes.rows = sizes.seqs = decode_bucket(tokens);
    } else {
      sizes.tokens = mixed_bucket(tokens);
      sizes.rows = row_bucket(rows, sizes.tokens);
      sizes.seqs = batch.num_seqs == 1 ? 1 : max_seqs;
      if (sizes.seqs == sizes.tokens) ++sizes.tokens;
    }
    device->make_current();
    reserve(sizes.tokens);
    bind(sizes);
    fill(kTokens, batch.token_ids, sizes.tokens, 0);
    fill(kPositions, batch.positions, sizes.tokens, 0);
    fill(kSlots, batch.slot_mapping, sizes.tokens, -1);
    fill(kRows, batch.logit_rows, sizes.rows, 0);
    for (int s = 0; s < batch.num_seqs; ++s)
      std::copy_n(batch.block_tables.begin() + int64_t{s} * batch.blocks_per_seq, batch.blocks_per_seq,
                  host(kTables) + int64_t{s} * blocks_per_seq);
    fill(kLengths, batch.seq_lens, sizes.seqs, 0);
    fill(kStarts, batch.query_starts, sizes.seqs + 1, tokens);
    const Region& last = regions[kStarts];
    check(driver().cuMemcpyHtoDAsync(indices.pointer(), staging.data(), static_cast<size_t>((last.offset + sizes.seqs + 1) * 4),
                                     context.stream()),
          "copying a step's index arrays to the GPU");
    context.run_async();
    logits = rows == 0 ? nullptr : context.output(0).raw();
    num_rows = rows;
    logits_are_here = false;
    if (rows > 0) choose(rows);
    done.record(context.stream());
    done.synchronize();
    context.synchronize();
  }

  void choose(int rows) {
    if (chosen.size_bytes() < rows * 4) {
      chosen = cuda::PinnedBuffer(std::max(rows * 4, 1024));
      parts = device->allocate(chosen.size_bytes() / 4 * kArgmaxSplits * 8, "argmax");
    }
    const auto count = static_cast<unsigned>(rows);
    argmax_parts.launch(context.stream(), {.grid = {kArgmaxSplits, count}, .block = {256}, .overlap = true}, logits, parts.pointer(),
                        config.vocab_size);
    argmax_rows.launch(context.stream(), {.grid = {count}, .block = {32}, .overlap = true}, parts.pointer(), chosen.data(), kArgmaxSplits);
  }

  // Several threads may read rows of a step at once.
  const float* host_logits() {
    const std::lock_guard lock(mutex);
    if (!logits_are_here) {
      device->make_current();
      const int64_t bytes = int64_t{num_rows} * config.vocab_size * 4;
      if (logits_copy.size_bytes() < bytes) logits_copy = cuda::PinnedBuffer(bytes);
      check(driver().cuMemcpyDtoHAsync(logits_copy.data(), reinterpret_cast<CUdeviceptr>(logits), static_cast<size_t>(bytes),
                                       context.stream()),
            "copying logits from the GPU");
      check(driver().cuStreamSynchronize(context.stream()), "copying logits from the GPU");
      logits_are_here = true;
    }
    return reinterpret_cast<const float*>(logits_copy.data());
  }

  ModelConfig config;
  StepModelOptions options;
  std::shared_ptr<cuda::Device> device;
  cuda::Buffer cache, indices, parts;
  ExecutionContext context;
  cuda::PinnedBuffer staging, chosen, logits_copy;
  cuda::Event done;
  cuda::Function argmax_parts, argmax_rows;
  int blocks_per_seq = 0, num_blocks = 0, max_seqs = 0;
  int64_t layer_block_bytes = 0, layer_bytes = 0;
  std::array<Region, kNumRegions> regions{};
  int token_capacity = 0;
  Sizes bound;
  const void* logits = nullptr;  // on the device
  std::mutex mutex;              // of what follows
  int num_rows = 0;
  bool logits_are_here = false;
};

CudaStepModel::CudaStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options)
    : impl_(std::make_unique<Impl>(std::move(engine), options)) {}

CudaStepModel::~CudaStepModel() = default;

const ModelConfig& CudaStepModel::config() const { return impl_->config; }

int CudaStepModel::num_blocks() const { return impl_->num_blocks; }

void CudaStepModel::run(const StepBatch& batch) { impl_->run(batch); }

std::span<const float> CudaStepModel::logits(int row) const {
  return {impl_->host_logits() + int64_t{row} * impl_->config.vocab_size, static_cast<size_t>(impl_->config.vocab_size)};
}

int32_t CudaStepModel::argmax(int row) const { return reinterpret_cast<const int32_t*>(impl_->chosen.data())[row]; }

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

StepMemory CudaStepModel::memory() const { return {impl_->cache.size_bytes(), impl_->context.memory().arena_bytes}; }

void CudaStepModel::set_profiler(Profiler* profiler) { impl_->context.set_profiler(profiler); }

}  // namespace tokamak::llm
#endif
