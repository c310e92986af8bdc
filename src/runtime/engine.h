#pragma once
// The compiled model. Immutable and shared: any number of contexts, on any threads, run over one engine.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace tokamak {

namespace cuda {
class CodeCache;
class DeviceConstants;
}  // namespace cuda

struct TensorInfo {
  std::string name;
  DType dtype;
  ir::TensorType type;  // dims may be symbols
};

// The range of shapes an engine accepts for one input, and the shape it was tuned for.
struct ShapeRange {
  std::string input;
  Shape min, opt, max;
};
// One entry an input that has symbolic dims; inputs without one are unrestricted in their symbols (each at least 0).
using OptimizationProfile = std::vector<ShapeRange>;

// What the builder knows about an engine beside its graph; stored in the engine's info section as `key = value` lines.
struct EngineInfo {
  std::string model_name;
  std::string device = "cpu";  // or "cuda"
  std::string target;          // CPU features the kernels need: "avx2+avx512"; for a GPU its architecture: "sm_90"
  std::string device_name;     // where it was tuned
  std::string precision = "fp32";
  std::string tokamak_version;
  int opt_level = 3;
  int num_threads = 1;                // the width it was tuned for
  int64_t workspace_limit_bytes = 0;  // 0: none
  int64_t nodes_before = 0;           // of the imported model
  std::vector<OptimizationProfile> profiles;
  std::string report;  // the build report (passes, fusions, tactics and why), JSON text for `inspect`
};

class Engine {
 public:
  // `code`: for a GPU, the compiled code of its kernels (made here when null, then compiled as kernels are made).
  Engine(std::unique_ptr<ir::Graph> graph, EngineInfo info, std::shared_ptr<cuda::CodeCache> code = nullptr);
  ~Engine();

  // Maps and checks the file (every checksum). Throws Corrupt, Unsupported (newer format, another CPU) or Io; the message says which and
  // what to do. An engine for a GPU loads anywhere, to be inspected; an ExecutionContext needs the GPU.
  // `trust_code` false: the compiled kernels that an engine for a GPU carries are dropped and compiled again from this version's own
  // source. They are machine code, which runs on the GPU with the rights of this process; nothing else in an engine file is.
  static std::shared_ptr<const Engine> load(const std::string& path, bool trust_code = true);
  // Writes to a temporary file beside `path`, then renames. Byte-for-byte reproducible.
  void save(const std::string& path) const;

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  const ir::Graph& graph() const { return *graph_; }
  const EngineInfo& info() const { return info_; }
  void set_report(std::string json) { info_.report = std::move(json); }
  int num_kernels() const;  // nodes that run at inference, subgraphs included
  int64_t weights_bytes() const;

  bool is_cuda() const { return info_.device == "cuda"; }
  // Compiled kernels of an engine for a GPU, saved with it; null otherwise. Kernels made at run time add to it.
  const std::shared_ptr<cuda::CodeCache>& code() const { return code_; }
  // The constants on GPU `ordinal`, shared by all contexts and released with the engine; `make` runs for the first who asks. Thread-safe.
  std::shared_ptr<cuda::DeviceConstants> device_constants(int ordinal,
                                                          const std::function<std::shared_ptr<cuda::DeviceConstants>()>& make) const;

 private:
  std::unique_ptr<ir::Graph> graph_;
  EngineInfo info_;
  std::vector<TensorInfo> inputs_, outputs_;
  std::shared_ptr<cuda::CodeCache> code_;
  mutable std::mutex mutex_;
  mutable std::map<int, std::shared_ptr<cuda::DeviceConstants>> device_constants_;  // by ordinal
};

}  // namespace tokamak
