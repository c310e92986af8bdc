// The linear layers of language models: time, read bandwidth and arithmetic of the kernels by precision, shape, rows (M) and threads.
//
//   tokamak_linear_bench [precision=f32,bf16,int8,int4] [m=1,2,4,8,16,64,512] [threads=1,2] [shape=2048x2048,...] [kernel=NAME] [mb=1024]
//
// A shape is KxN. The weights of a shape are copied until they fill `mb` MiB and the runs rotate among the copies, so that no cache
// holds them. A time is the average of a pass over all copies, the fastest of several passes. GB/s counts the bytes stored (weights and
// scales) once a run; its share is of the bandwidth that several streams of plain reads reach, measured first.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <sstream>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "base/half.h"
#include "benchmarks/read_bandwidth.h"
#include "ir/graph.h"
#include "runtime/kernel.h"

namespace tokamak {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Tensor random_floats(Shape shape, uint32_t seed) {
  std::mt19937 random(seed);
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = static_cast<float>(random() % 2001) / 1000 - 1;
  return t;
}

// A layer's dense weights in a precision: input 1 of the product and, quantized, input 2.
struct Weights {
  std::string op;
  ir::Attrs attrs;
  std::vector<Tensor> tensors;
};

Weights make_weights(const std::string& precision, int64_t k, int64_t n) {
  Weights w;
  if (precision == "f32" || precision == "bf16") {
    w.op = "matmul";
    w.attrs.set("trans_b", int64_t{1});
    const Tensor floats = random_floats({n, k}, 1);
    if (precision == "f32") {
      w.tensors = {floats};
      return w;
    }
    Tensor narrow = Tensor::empty(DType::BF16, {n, k});
    for (int64_t i = 0; i < narrow.count(); ++i) narrow.data<BFloat16>()[i] = BFloat16(floats.data<float>()[i]);
    w.tensors = {narrow};
    return w;
  }
  // int8: per channel; int8g64, int4 (g32), int4g128...
  const bool nibbles = precision.starts_with("int4");
  const size_t g = precision.find('g');
  const int64_t group = g != std::string::npos ? std::atoll(precision.c_str() + g + 1) : nibbles ? 32 : k;
  w.op = "quantized_matmul";
  w.attrs.set("group_size", group);
  Tensor b = Tensor::empty(nibbles ? DType::I4 : DType::I8, {n, k});
  std::mt19937 random(2);
  for (int64_t i = 0; i < b.size_bytes(); ++i) b.data<uint8_t>()[i] = static_cast<uint8_t>(random());
  const int64_t groups = (k + group - 1) / group;
  Tensor scale = Tensor::empty(groups > 1 ? DType::F16 : DType::F32, {n, groups});
  for (int64_t i = 0; i < scale.count(); ++i) {
    if (groups > 1) scale.data<Half>()[i] = Half(0.01f);
    else scale.data<float>()[i] = 0.01f;
  }
  w.tensors = {b, scale};
  return w;
}

struct Options {
  std::vector<std::string> precisions = {"f32", "bf16", "int8", "int4"},
                           shapes = {"2048x2048", "2048x2560", "2048x5632", "5632x2048", "2048x32000"};
  std::vector<int64_t> rows = {1, 2, 4, 8, 16, 64, 512}, threads = {1, 2};
  std::string kernel;
  int64_t megabytes = 1024;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, at);) out.push_back(word);
  return out;
}
std::vector<int64_t> numbers(const std::string& text) {
  std::vector<int64_t> out;
  for (const std::string& word : split(text, ',')) out.push_back(std::max<int64_t>(1, std::atoll(word.c_str())));
  return out;
}

// One layer with its copies of packed weights in a common buffer.
class Layer {
 public:
  Layer(const KernelDef& def, const Weights& weights, int64_t k, int64_t n, int64_t megabytes)
      : def_(def), weights_(weights), k_(k), n_(n) {
    const NodeView view = this->view(1, 1, weights.tensors);
    const std::string tactic = def.tactics(view).front();
    for (size_t i = 0; i < weights.tensors.size(); ++i) {
      const Tensor p = def.pack(view, tactic, static_cast<int>(i) + 1);
      packed_.push_back(p.defined() ? p : weights.tensors[i]);
      bytes_ += packed_.back().size_bytes();
    }
    const int64_t copies = std::max<int64_t>(1, (megabytes << 20) / bytes_);
    for (int64_t c = 0; c < copies; ++c) {
      std::vector<Tensor> copy;
      for (const Tensor& t : packed_) copy.push_back(t.clone());
      copies_.push_back(std::move(copy));
    }
  }

  int64_t bytes() const { return bytes_; }

  double seconds(int64_t m, int threads, ThreadPool& pool) const {
    const Tensor a = random_floats({m, k_}, 3);
    Tensor c = Tensor::zeros(DType::F32, {m, n_});
    std::vector<std::unique_ptr<Kernel>> kernels;
    std::vector<std::vector<Tensor>> inputs;
    for (const std::vector<Tensor>& copy : copies_) {
      const NodeView view = this->view(m, threads, copy);
      kernels.push_back(def_.make(view, def_.tactics(view).front()));
      inputs.push_back({a});
      inputs.back().insert(inputs.back().end(), copy.begin(), copy.end());
    }
    Tensor workspace = Tensor::zeros(DType::U8, {kernels[0]->workspace_bytes()});
    double best = 1e9;
    const double start = now();
    for (int pass = 0; pass < 3 || (pass < 20 && now() - start < 0.4); ++pass) {
      const double begin = now();
      size_t runs = 0;
      for (; runs < kernels.size() && (runs < 4 || now() - begin < 0.3); ++runs)
        kernels[runs]->run({inputs[runs], {&c, 1}, workspace.raw(), &pool});
      best = std::min(best, (now() - begin) / static_cast<double>(runs));
      if (now() - start > 1.5) break;
    }
    return best;
  }

 private:
  NodeView view(int64_t m, int threads, const std::vector<Tensor>& weights) const {
    NodeView v;
    ir::Graph*& graph = graphs_[m];
    if (graph == nullptr) {
      owned_.push_back(std::make_unique<ir::Graph>());
      graph = owned_.back().get();
      std::vector<ir::Value*> values = {graph->add_input("a", ir::TensorType(DType::F32, {m, k_}))};
      for (const Tensor& t : weights_.tensors) values.push_back(graph->add_input("w", ir::TensorType::of(t)));
      graph->add_node(weights_.op, values, weights_.attrs);
    }
    v.node = graph->nodes().back().get();
    v.num_threads = threads;
    v.input_dtypes = {DType::F32};
    v.input_shapes = {{m, k_}};
    v.constants = {nullptr};
    for (const Tensor& t : weights) {
      v.input_dtypes.push_back(t.dtype());
      v.input_shapes.push_back(t.shape());
      v.constants.push_back(&t);
    }
    v.output_dtypes = {DType::F32};
    v.output_shapes = {{m, n_}};
    return v;
  }

  const KernelDef& def_;
  Weights weights_;
  int64_t k_, n_, bytes_ = 0;
  std::vector<Tensor> packed_;
  std::vector<std::vector<Tensor>> copies_;
  mutable std::map<int64_t, ir::Graph*> graphs_;
  mutable std::vector<std::unique_ptr<ir::Graph>> owned_;
};

const KernelDef* choose(const std::string& op, const std::string& wanted, DType b) {
  if (!wanted.empty()) return cpu::find_kernel(wanted);
  if (op == "matmul" && b == DType::F32) return cpu::find_kernel(cpu_features().avx512 ? "avx512.matmul" : "avx2.matmul");
  if (op == "matmul") return cpu::find_kernel(cpu_features().amx_bf16 ? "amx.matmul" : "avx512bf16.matmul");
  for (const char* name : {"amx.quantized_matmul", "avx512vnni.quantized_matmul", "avx2.quantized_matmul"}) {
    const KernelDef* def = cpu::find_kernel(name);
    const bool can = name[1] == 'm'   ? cpu_features().amx_int8 && cpu_features().amx_bf16
                     : name[3] == '5' ? cpu_features().avx512_vnni
                                      : cpu_features().avx2;
    if (def && can) return def;
  }
  return nullptr;
}

int run(const Options& options) {
  std::map<int64_t, double> ceiling;
  {
    const Tensor buffer = Tensor::zeros(DType::U8, {int64_t{1} << 30});
    for (int64_t t : options.threads)
      for (int64_t ahead : {1024, 2048}) ceiling[t] = std::max(ceiling[t], read_bandwidth(buffer, static_cast<int>(t), 4, ahead));
  }
  std::printf("%s", cpu_model_name().c_str());
  for (const auto& [threads, speed] : ceiling) std::printf("; %ld thread(s) read %.1f GB/s", threads, speed);
  std::printf(
      "\n\n| precision | K x N | M | threads | us | GB/s | of read bandwidth | TOP/s | kernel |\n|---|---|---|---|---|---|---|---|---|\n");
  for (const std::string& precision : options.precisions)
    for (const std::string& shape : options.shapes) {
      const std::vector<std::string> sizes = split(shape, 'x');
      if (sizes.size() != 2) continue;
      const int64_t k = std::atoll(sizes[0].c_str()), n = std::atoll(sizes[1].c_str());
      const Weights weights = make_weights(precision, k, n);
      const KernelDef* def = choose(weights.op, options.kernel, weights.tensors[0].dtype());
      if (def == nullptr || def->op() != weights.op) continue;
      const Layer layer(*def, weights, k, n, options.megabytes);
      for (int64_t threads : options.threads) {
        ThreadPool pool(static_cast<int>(threads));
        for (int64_t m : options.rows) {
          const double s = layer.seconds(m, static_cast<int>(threads), pool);
          const double speed = static_cast<double>(layer.bytes()) / s / 1e9;
          std::printf("| %s | %ld x %ld | %ld | %ld | %.1f | %.1f | %.0f %% | %.2f | %s |\n", precision.c_str(), k, n, m, threads, s * 1e6,
                      speed, 100 * speed / ceiling[threads], 2e-12 * static_cast<double>(m * n * k) / s, std::string(def->name()).c_str());
          std::fflush(stdout);
        }
      }
    }
  return 0;
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) {
  tokamak::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t at = text.find('=');
    const std::string name = text.substr(0, at), value = at == std::string::npos ? "" : text.substr(at + 1);
    if (name == "precision") options.precisions = tokamak::split(value, ',');
    else if (name == "shape") options.shapes = tokamak::split(value, ',');
    else if (name == "m") options.rows = tokamak::numbers(value);
    else if (name == "threads") options.threads = tokamak::numbers(value);
    else if (name == "kernel") options.kernel = value;
    else if (name == "mb") options.megabytes = std::max(1, std::atoi(value.c_str()));
    else {
      std::fprintf(stderr, "unknown option \"%s\"; see the head of benchmarks/linear_bench.cc\n", text.c_str());
      return 2;
    }
  }
  return tokamak::run(options);
}
