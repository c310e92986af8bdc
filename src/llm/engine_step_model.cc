#include "llm/engine_step_model.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "backends/cpu/thread_pool.h"
#include "llm/step_signature.h"
#include "runtime/execution_context.h"

namespace tokamak::llm {
namespace {

// Every distinct (tokens, rows) is a plan of the context. Up to 8 tokens each count has its own, then eight to an octave: at most an eighth
// is padding.
int bucket_of(int n) {
  if (n <= 8) return n;
  const int step = static_cast<int>(std::bit_floor(static_cast<unsigned>(n - 1))) / 8;
  return (n + step - 1) / step * step;
}

// A step that wants logits of every token (decoding, verifying) has as many rows as tokens; in others rows are a small part of the work.
int row_bucket_of(int rows, int tokens, int token_bucket) {
  if (rows == 0) return 0;
  return rows == tokens ? token_bucket : std::min(token_bucket, static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows))));
}

// The buckets above in the usual range, with room for the mixed steps that come up.
constexpr int kMaxPlans = 192;

// Zeroed memory that takes physical pages as they are first written.
std::shared_ptr<std::byte> map_memory(int64_t bytes) {
  void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail(ErrorCode::ResourceExhausted, "cannot reserve {} bytes for the KV cache; lower kv_cache_bytes", bytes);
  madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // fewer TLB misses where the system allows it
  return {static_cast<std::byte*>(p), [bytes](std::byte* q) { munmap(q, static_cast<size_t>(bytes)); }};
}

int64_t physical_memory() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

}  // namespace

struct EngineStepModel::Impl {
  Impl(std::shared_ptr<const Engine> e, const StepModelOptions& o)
      : config(step_config(*e)), options(o), context(std::move(e), context_options(o)) {
    if (o.max_num_seqs < 1 || o.max_num_batched_tokens < 1 || o.max_context_length < 0 || o.kv_cache_bytes < 0)
      fail(ErrorCode::InvalidArgument,
           "max_num_seqs ({}) and max_num_batched_tokens ({}) must be positive, max_context_length ({}) and kv_cache_bytes ({}) not "
           "negative",
           o.max_num_seqs, o.max_num_batched_tokens, o.max_context_length, o.kv_cache_bytes);
    context_length = o.max_context_length > 0 ? std::min(o.max_context_length, config.context_length) : config.context_length;
    blocks_per_seq = (context_length + config.block_size - 1) / config.block_size;
    allocate_cache();
    block_tables = Tensor::zeros(DType::I32, {o.max_num_seqs, blocks_per_seq});
    seq_lens = Tensor::zeros(DType::I32, {o.max_num_seqs});
    query_starts = Tensor::zeros(DType::I32, {o.max_num_seqs + 1});
    context.set_input("block_tables", block_tables);
    context.set_input("seq_lens", seq_lens);
    context.set_input("query_starts", query_starts);
    reserve_tokens(bucket_of(o.max_num_batched_tokens));
  }

  static ContextOptions context_options(const StepModelOptions& options) {
    ContextOptions out;
    out.max_plans = kMaxPlans;
    out.communicator = options.communicator;
    if (options.num_threads > 0) out.pool = std::make_shared<ThreadPool>(options.num_threads);
    return out;
  }

  void allocate_cache() {
    const int64_t block_bytes = config.kv_block_bytes(), one_sequence = blocks_per_seq * block_bytes;
    int64_t budget = options.kv_cache_bytes;
    if (budget == 0) budget = std::max(one_sequence, std::min(options.max_num_seqs * one_sequence, physical_memory() / 4));
    if (budget < one_sequence)
      fail(ErrorCode::ResourceExhausted,
           "a KV cache of {} bytes holds {} tokens, one sequence has up to {}; {} bytes would do, or a max_context_length of {}", budget,
           budget / block_bytes * config.block_size, context_length, one_sequence, budget / block_bytes * config.block_size);
    num_blocks = static_cast<int>(std::min<int64_t>(budget / block_bytes, 1 << 30));
    if (int64_t{num_blocks} * config.block_size > INT32_MAX) num_blocks = INT32_MAX / config.block_size;  // slots are i32
    layer_block_bytes = block_bytes / config.num_layers;
    layer_bytes = (num_blocks * layer_block_bytes + 4095) / 4096 * 4096;
    memory = map_memory(layer_bytes * config.num_layers);
    for (int layer = 0; layer < config.num_layers; ++layer)
      context.set_input(cache_input_name(layer),
                        Tensor::view(config.kv_dtype, {num_blocks, 2, config.num_kv_heads, config.block_size, config.head_dim},
                                     memory.get() + layer * layer_bytes, memory));
  }

  void reserve_tokens(int count) {
    if (count <= token_capacity) return;
    token_capacity = count;
    for (Tensor* t : {&token_ids, &positions, &slot_mapping, &logit_rows}) *t = Tensor::zeros(DType::I32, {count});
    num_tokens = num_rows = -1;
  }

  void bind(int tokens, int rows) {
    reserve_tokens(tokens);
    const auto view = [](Tensor& buffer, int count) { return Tensor::view(DType::I32, {count}, buffer.raw()); };
    if (tokens != num_tokens) {
      context.set_input("token_ids", view(token_ids, tokens));
      context.set_input("positions", view(positions, tokens));
      context.set_input("slot_mapping", view(slot_mapping, tokens));
    }
    if (rows != num_rows) context.set_input("logit_rows", view(logit_rows, rows));
    num_tokens = tokens;
    num_rows = rows;
  }

  static void fill(Tensor& to, const std::vector<int32_t>& from, int padded, int32_t padding) {
    std::ranges::copy(from, to.data<int32_t>());
    std::fill(to.data<int32_t>() + from.size(), to.data<int32_t>() + padded, padding);
  }

  void run(const StepBatch& batch) {
    const int tokens = static_cast<int>(batch.token_ids.size()), rows = static_cast<int>(batch.logit_rows.size());
    if (batch.num_seqs > options.max_num_seqs || batch.blocks_per_seq > blocks_per_seq)
      fail(ErrorCode::InvalidArgument, "a step of {} sequences of up to {} blocks; this model was set up for {} of {}", batch.num_seqs,
           batch.blocks_per_seq, options.max_num_seqs, blocks_per_seq);
    const int padded = bucket_of(tokens);
    bind(padded, row_bucket_of(rows, tokens, padded));
    fill(token_ids, batch.token_ids, padded, 0);
    fill(positions, batch.positions, padded, 0);
    fill(slot_mapping, batch.slot_mapping, padded, -1);
    fill(logit_rows, batch.logit_rows, num_rows, 0);
    for (int s = 0; s < batch.num_seqs; ++s)
      std::copy_n(batch.block_tables.begin() + int64_t{s} * batch.blocks_per_seq, batch.blocks_per_seq,
                  block_tables.data<int32_t>() + int64_t{s} * blocks_per_seq);
    fill(seq_lens, batch.seq_lens, options.max_num_seqs, 0);
    fill(query_starts, batch.query_starts, options.max_num_seqs + 1, tokens);
    context.run();
    logits = rows == 0 ? nullptr : context.output(0).data<float>();
  }

  ModelConfig config;
  StepModelOptions options;
  ExecutionContext context;
  int context_length = 0, blocks_per_seq = 0, num_blocks = 0;
  int64_t layer_block_bytes = 0, layer_bytes = 0;
  std::shared_ptr<std::byte> memory;
  Tensor token_ids, positions, slot_mapping, logit_rows, block_tables, seq_lens, query_starts;
  int token_capacity = 0;
  int num_tokens = -1, num_rows = -1;  // bound
  const float* logits = nullptr;
};

EngineStepModel::EngineStepModel(std::shared_ptr<const Engine> engine, const StepModelOptions& options)
    : impl_(std::make_unique<Impl>(std::move(engine), options)) {}

EngineStepModel::~EngineStepModel() = default;

const ModelConfig& EngineStepModel::config() const { return impl_->config; }

int EngineStepModel::num_blocks() const { return impl_->num_blocks; }

void EngineStepModel::run(const StepBatch& batch) { impl_->run(batch); }

std::span<const float> EngineStepModel::logits(int row) const {
  return {impl_->logits + int64_t{row} * impl_->config.vocab_size, static_cast<size_t>(impl_->config.vocab_size)};
}

void EngineStepModel::copy_block(int src, int dst) {
  const Impl& impl = *impl_;
  for (int layer = 0; layer < impl.config.num_layers; ++layer) {
    std::byte* base = impl.memory.get() + layer * impl.layer_bytes;
    std::memcpy(base + dst * impl.layer_block_bytes, base + src * impl.layer_block_bytes, static_cast<size_t>(impl.layer_block_bytes));
  }
}

void EngineStepModel::set_profiler(Profiler* profiler) { impl_->context.set_profiler(profiler); }

StepMemory EngineStepModel::memory() const { return {impl_->layer_bytes * impl_->config.num_layers, impl_->context.memory().arena_bytes}; }

}  // namespace tokamak::llm
