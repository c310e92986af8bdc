// paged_attention: cuts a step into tiles, spreads them over threads, long sequences of few rows over several.

#include "backends/cpu/kernels/paged_attention.h"

#include <cmath>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {
namespace {

// A sequence with new tokens, and its tasks: one a tile, or one a key group when the sequence is one long tile ("split").
struct Entry {
  StepSequence sequence;
  int64_t tiles;       // a kv head
  int64_t groups;      // key groups of a split tile, else 0
  int64_t first_task;  // tasks are numbered over all entries
  int64_t partial;     // where a split entry's partials start, in floats

  int64_t tasks_per_head() const { return groups > 0 ? groups : tiles; }
};

struct PagedAttentionKernel : Kernel {
  const PagedAttentionFunctions* functions;
  PagedAttention problem;  // without pointers
  int64_t tokens = 0, seqs = 0;
  int threads = 1;

  int64_t capacity() const { return sequence_capacity(problem.blocks_per_seq, problem.layout.block_size); }
  // Rows that a split tile may have: decoding, or few speculative tokens.
  int64_t split_rows() const { return std::min(kTileRows, problem.group * std::min<int64_t>(tokens, 4)); }
  // A tile is split when it is more than 1 / (4 threads) of the work, so fewer than 4 * threads are. What does not fit is not split.
  int64_t partial_floats_booked() const {
    if (threads == 1) return 0;
    constexpr int64_t kMost = int64_t{8} << 20;
    const int64_t tiles = std::min<int64_t>(seqs * problem.layout.kv_heads, 4 * threads);
    const int64_t each = partial_floats(split_rows(), problem.dim()), groups = (capacity() + kKeyGroup - 1) / kKeyGroup;
    return std::min(kMost, tiles * std::min(groups, kMost / each + 1) * each);
  }
  int64_t scratch_bytes() const { return (functions->scratch_bytes(problem.dim()) + 63) / 64 * 64; }
  int64_t entry_bytes() const { return (seqs * static_cast<int64_t>(sizeof(Entry)) + 63) / 64 * 64; }
  int64_t workspace_bytes() const override { return threads * scratch_bytes() + entry_bytes() + partial_floats_booked() * 4; }

  void run(const RunArgs& args) const override {
    PagedAttention a = problem;
    a.q = args.inputs[0].data<float>(), a.cache = args.inputs[1].raw(), a.block_tables = args.inputs[2].data<int32_t>();
    a.out = args.outputs[0].data<float>();
    char* const scratch = static_cast<char*>(args.workspace);
    auto* const entries = reinterpret_cast<Entry*>(scratch + threads * scratch_bytes());
    auto* const partials = reinterpret_cast<float*>(scratch + threads * scratch_bytes() + entry_bytes());

    int64_t num_entries = 0, work = 0, done = 0;  // work in rows times key groups
    const auto zero_rows = [&](int64_t begin, int64_t end) {
      std::fill(a.out + begin * a.heads * a.dim(), a.out + end * a.heads * a.dim(), 0.0f);
    };
    for_each_sequence(args.inputs[4].data<int32_t>(), args.inputs[3].data<int32_t>(), seqs, tokens, capacity(), [&](const StepSequence& s) {
      zero_rows(done, s.first);
      done = s.first + s.count;
      Entry& entry = entries[num_entries++];
      entry = {s, (s.count * a.group + kTileRows - 1) / kTileRows, 0, 0, 0};
      work += a.layout.kv_heads * work_of(a, entry);
    });
    zero_rows(done, tokens);

    int64_t tasks = 0, floats = 0;
    for (int64_t e = 0; e < num_entries; ++e) {
      Entry& entry = entries[e];
      entry.first_task = tasks;
      const int64_t rows = entry.sequence.count * a.group;
      if (threads > 1 && rows <= split_rows() && work_of(a, entry) * 4 * threads > work) {
        const PagedTile tile{entry.sequence, 0, 0, rows};
        const int64_t groups = tile.end_group(a) - tile.first_group(a), needed = a.layout.kv_heads * groups * partial_floats(rows, a.dim());
        if (groups > 1 && floats + needed <= partial_floats_booked()) {
          entry.groups = groups, entry.partial = floats;
          floats += needed;
        }
      }
      tasks += a.layout.kv_heads * entry.tasks_per_head();
    }

    const auto entry_of = [&](int64_t task) -> const Entry& {
      return *(std::upper_bound(entries, entries + num_entries, task, [](int64_t t, const Entry& entry) { return t < entry.first_task; }) -
               1);
    };
    // A task is worth a thread's while unless the whole step is tiny.
    const int64_t cost = work * kKeyGroup / 8 * a.dim() / std::max<int64_t>(tasks, 1);
    parallel_tasks(args.pool, tasks, cost, [&](int64_t task, int worker) {
      const Entry& entry = entry_of(task);
      const int64_t within = task - entry.first_task, head = within / entry.tasks_per_head(), i = within % entry.tasks_per_head();
      void* const memory = scratch + worker * scratch_bytes();
      const int64_t rows = entry.sequence.count * a.group;
      if (entry.groups > 0) {
        const PagedTile tile{entry.sequence, head, 0, rows};
        functions->partial(a, tile, tile.first_group(a) + i, partials + entry.partial + within * partial_floats(rows, a.dim()), memory);
      } else {
        // The last tile attends the most keys: first, so that threads finish together.
        const int64_t row = (entry.tiles - 1 - i) * kTileRows;
        functions->tile(a, {entry.sequence, head, row, std::min(kTileRows, rows - row)}, memory);
      }
    });
    if (floats == 0) return;
    for (int64_t e = 0; e < num_entries; ++e) {
      const Entry& entry = entries[e];
      if (entry.groups == 0) continue;
      const int64_t rows = entry.sequence.count * a.group, floats_a_head = entry.groups * partial_floats(rows, a.dim());
      parallel_tasks(args.pool, a.layout.kv_heads, floats_a_head / 4, [&](int64_t head, int) {
        functions->merge(a, {entry.sequence, head, 0, rows}, partials + entry.partial + head * floats_a_head, entry.groups);
      });
    }
  }

  // Rows times key groups of one kv head.
  static int64_t work_of(const PagedAttention& a, const Entry& entry) {
    const int64_t rows = entry.sequence.count * a.group;
    const PagedTile all{entry.sequence, 0, 0, rows};
    return rows * std::max<int64_t>(1, all.end_group(a) - all.first_group(a));
  }
  // One at a time to whoever is free; on the caller alone when all of them together are little.
  template <class F>
  static void parallel_tasks(ThreadPool* pool, int64_t count, int64_t cost, const F& f) {
    const auto range = [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) f(i, worker);
    };
    if (pool == nullptr || count * cost < kParallelGrain) return range(0, count, 0);
    pool->parallel_for(count, std::max<int64_t>(1, kParallelGrain / 2 / std::max<int64_t>(cost, 1)), range);
  }
};

struct Variant {
  const char* name;
  DType cache;
  bool (*available)();
  const PagedAttentionFunctions& (*functions)();
  int64_t dim_multiple = 2;
};

class PagedAttentionDef : public KernelDef {
 public:
  PagedAttentionDef(const char* name, std::vector<Variant> variants) : name_(name), variants_(std::move(variants)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "paged_attention"; }

  Support supports(const NodeView& node) const override {
    const Shape& cache = node.input_shapes[1];
    if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("q of {}", to_string(node.input_dtypes[0])));
    if (cache[3] % kFragment != 0) return Support::no(fmt::format("a block size of {}, no multiple of {}", cache[3], kFragment));
    if (cache[4] > kMaxHeadDim) return Support::no(fmt::format("a head size of {}, above {}", cache[4], kMaxHeadDim));
    std::string reason = fmt::format("a cache of {}", to_string(node.input_dtypes[1]));
    return variant(node, &reason) != nullptr ? Support::yes() : Support::no(reason);
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<PagedAttentionKernel>();
    kernel->functions = &variant(node, nullptr)->functions();
    kernel->threads = std::max(1, node.num_threads);
    kernel->tokens = node.input_shapes[0][0], kernel->seqs = node.input_shapes[2][0];
    PagedAttention& a = kernel->problem;
    a.layout = KvCacheLayout::of(node.input_shapes[1], node.input_dtypes[1]);
    a.heads = node.attrs().get_int("num_heads"), a.group = a.heads / a.layout.kv_heads;
    a.blocks_per_seq = node.input_shapes[2][1];
    a.window = window_of(node);
    a.scale = static_cast<float>(node.attrs().get_float("scale", 1 / std::sqrt(static_cast<double>(a.dim()))));
    a.softcap = static_cast<float>(node.attrs().get_float("softcap", 0));
    return kernel;
  }

 private:
  const Variant* variant(const NodeView& node, std::string* reason) const {
    for (const Variant& v : variants_) {
      if (v.cache != node.input_dtypes[1]) continue;
      if (!v.available()) {
        if (reason) *reason = "the CPU lacks the instructions";
      } else if (node.input_shapes[1][4] % v.dim_multiple != 0) {
        if (reason) *reason = fmt::format("a head size of {}, no multiple of {}", node.input_shapes[1][4], v.dim_multiple);
      } else {
        return &v;
      }
    }
    return nullptr;
  }
  const char* name_;
  std::vector<Variant> variants_;
};

}  // namespace

const KernelDef& amx_paged_attention() {
  static const PagedAttentionDef def("amx.paged_attention",
                                     {{"amx", DType::BF16, [] { return cpu_features().amx_bf16; }, paged_attention_bf16_amx, 32}});
  return def;
}
const KernelDef& avx512_bf16_paged_attention() {
  static const PagedAttentionDef def("avx512_bf16.paged_attention", {{"avx512_bf16", DType::BF16, [] { return cpu_features().avx512_bf16; },
                                                                      paged_attention_bf16_avx512_bf16}});
  return def;
}
const KernelDef& avx512_paged_attention() {
  static const PagedAttentionDef def("avx512.paged_attention",
                                     {{"f32", DType::F32, [] { return cpu_features().avx512; }, paged_attention_f32_avx512},
                                      {"bf16", DType::BF16, [] { return cpu_features().avx512; }, paged_attention_bf16_avx512}});
  return def;
}
const KernelDef& avx2_paged_attention() {
  static const PagedAttentionDef def("avx2.paged_attention",
                                     {{"f32", DType::F32, [] { return cpu_features().avx2; }, paged_attention_f32_avx2},
                                      {"bf16", DType::BF16, [] { return cpu_features().avx2; }, paged_attention_bf16_avx2}});
  return def;
}

}  // namespace tokamak::cpu
