// paged_attention and kv_cache_write: decoding in GB/s of cache read, prefill in GFLOP/s.
//
//   tokamak_attention_bench [threads=2] [kernel prefix, e.g. avx512_bf16] [decode | prefill]
//
// Decoding draws each step's blocks from a cache of 1 GiB in random order, so that nothing is in a processor's caches, as between two
// visits of a layer in a model. The percentage is of what plain loads reach over the same memory, each thread in eight streams. The
// fastest of several runs counts.

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "benchmarks/read_bandwidth.h"
#include "ir/graph.h"

namespace tokamak {
namespace {

constexpr int64_t kCacheBytes = int64_t{1} << 30;
constexpr int64_t kBlockSize = 32;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Model {
  const char* name;
  int64_t heads, kv_heads, dim;
};

class Bench {
 public:
  Bench(const Model& model, DType dtype, int threads, const std::string& prefix)
      : model_(model), dtype_(dtype), pool_(threads), prefix_(prefix) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 2 << 20, kCacheBytes) != 0) std::abort();
    madvise(memory, kCacheBytes, MADV_HUGEPAGE);
    memory_ = memory;
    const int64_t element = dtype == DType::BF16 ? 2 : 4;
    const int64_t blocks = kCacheBytes / (2 * model.kv_heads * kBlockSize * model.dim * element);
    cache_ = Tensor::view(dtype, {blocks, 2, model.kv_heads, kBlockSize, model.dim}, memory);
    std::mt19937 random(1);
    if (dtype == DType::BF16) {
      auto* p = static_cast<uint16_t*>(memory);
      for (int64_t i = 0; i < cache_.count(); ++i) p[i] = static_cast<uint16_t>(0x3c00 + (i * 2654435761u >> 20 & 0x83ff));
    } else {
      auto* p = static_cast<float*>(memory);
      for (int64_t i = 0; i < cache_.count(); ++i) p[i] = static_cast<float>(static_cast<int32_t>(i * 2654435761u)) * 0x1p-32f;
    }
    order_.resize(blocks);
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), random);
    bandwidth_ = 1e9 * read_bandwidth(cache_, threads, 8, 4096);
  }
  ~Bench() { std::free(memory_); }

  double bandwidth() const { return bandwidth_; }
  bool supported() const { return chosen_ != nullptr; }

  void decode(int64_t batch, int64_t context) {
    const double seconds = attend(batch, context, 1);
    const double bytes = 2.0 * static_cast<double>(batch * context * model_.kv_heads * model_.dim) * (dtype_ == DType::BF16 ? 2 : 4);
    std::printf("| %s | %s | %s | decode | %ld x %ld | %.1f | %.1f GB/s | %.0f %% |\n", model_.name, to_string(dtype_), chosen_, batch,
                context, seconds * 1e6, bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth_);
  }
  void prefill(int64_t length) {
    const double seconds = attend(1, length, length);
    const double flops =
        4.0 * static_cast<double>(model_.dim * model_.heads) * static_cast<double>(length) * static_cast<double>(length + 1) / 2;
    std::printf("| %s | %s | %s | prefill | %ld | %.1f | %.0f GFLOP/s | |\n", model_.name, to_string(dtype_), chosen_, length,
                seconds * 1e6, flops / seconds / 1e9);
  }

 private:
  double attend(int64_t batch, int64_t context, int64_t count) {
    const int64_t tokens = batch * count, width = model_.heads * model_.dim, blocks_per_seq = (context + kBlockSize - 1) / kBlockSize;
    Tensor q = Tensor::zeros(DType::F32, {tokens, width}), out = Tensor::empty(DType::F32, {tokens, width});
    for (int64_t i = 0; i < q.count(); ++i) q.data<float>()[i] = static_cast<float>(i * 7919 % 2001) / 1000 - 1;
    Tensor tables = Tensor::zeros(DType::I32, {batch, blocks_per_seq}), lens = Tensor::zeros(DType::I32, {batch}),
           starts = Tensor::zeros(DType::I32, {batch + 1});
    for (int64_t s = 0; s < batch; ++s) {
      lens.data<int32_t>()[s] = static_cast<int32_t>(context);
      starts.data<int32_t>()[s + 1] = static_cast<int32_t>((s + 1) * count);
    }
    const std::vector<Tensor> inputs{q, cache_, tables, lens, starts};
    ir::Graph graph;
    std::vector<ir::Value*> values;
    NodeView view;
    for (const Tensor& t : inputs) {
      values.push_back(graph.add_input("i" + std::to_string(values.size()), ir::TensorType::of(t)));
      view.input_dtypes.push_back(t.dtype());
      view.input_shapes.push_back(t.shape());
      view.constants.push_back(nullptr);
    }
    view.node = graph.add_node("paged_attention", values,
                               {{"num_heads", model_.heads}, {"num_kv_heads", model_.kv_heads}, {"head_dim", model_.dim}});
    view.output_dtypes = {DType::F32};
    view.output_shapes = {out.shape()};
    view.num_threads = pool_.width();
    std::unique_ptr<Kernel> kernel;
    for (const KernelDef* def : cpu::kernels_for("paged_attention"))
      if (kernel == nullptr && def->name().starts_with(prefix_) && def->supports(view))
        kernel = def->make(view, ""), chosen_ = def->name().data();
    if (kernel == nullptr) return 0;
    Tensor workspace = Tensor::zeros(DType::U8, {kernel->workspace_bytes()});
    size_t next = 0;
    return fastest(0.4, [&] {
      for (int64_t i = 0; i < tables.count(); ++i) {
        tables.data<int32_t>()[i] = order_[next];
        next = (next + 1) % order_.size();
      }
      const RunArgs args{inputs, {&out, 1}, workspace.raw(), &pool_};
      const double begin = now();
      kernel->run(args);
      return now() - begin;
    });
  }
  template <class F>
  static double fastest(double seconds, const F& f) {
    double best = 1e9;
    const double end = now() + seconds;
    int runs = 0;
    do best = std::min(best, f());
    while (++runs < 3 || now() < end);
    return best;
  }

  Model model_;
  DType dtype_;
  ThreadPool pool_;
  std::string prefix_;
  void* memory_ = nullptr;
  Tensor cache_;
  std::vector<int32_t> order_;
  double bandwidth_ = 0;
  const char* chosen_ = nullptr;
};

void run(int threads, const std::string& prefix, const std::string& only) {
  std::printf("%s, %s, %d thread(s)\n", cpu_model_name().c_str(), cpu_features().to_string().c_str(), threads);
  bool first = true;
  for (const Model& model : {Model{"TinyLlama 32/4 x 64", 32, 4, 64}, Model{"Llama-3-8B 32/8 x 128", 32, 8, 128}})
    for (DType dtype : {DType::F32, DType::BF16}) {
      Bench bench(model, dtype, threads, prefix);
      if (first)
        std::printf(
            "memory reads at %.1f GB/s\n\n| model | cache | kernel | step | sequences x context | us | speed | of memory "
            "|\n|---|---|---|---|---|---|---|---|\n",
            bench.bandwidth() / 1e9);
      first = false;
      if (only != "prefill")
        for (int64_t batch : {1, 8, 64})
          for (int64_t context : {128, 1024, 4096, 16384})
            if (batch * context <= 1 << 18) bench.decode(batch, context);
      if (only != "decode")
        for (int64_t length : {128, 512, 2048}) bench.prefill(length);
    }
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) {
  tokamak::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 2, argc > 2 ? argv[2] : "", argc > 3 ? argv[3] : "");
}
