#pragma once
// What an engine is built for.

#include <memory>
#include <string>

#include "runtime/bind.h"

namespace tokamak {

namespace cuda {
class CodeCache;
}

// BuildOptions::device, read.
struct DeviceName {
  bool is_cuda = false;
  int ordinal = 0;           // which GPU of this machine, as CUDA counts
  std::string architecture;  // "sm_90": a GPU that is only named; empty: one that is here
};
// "cpu", "cuda", "cuda:1", "cuda:sm_90". Throws InvalidArgument.
DeviceName parse_device(const std::string& text);

struct BuildDevice {
  DeviceName name;
  std::string target;                           // EngineInfo::target
  std::string device_name;                      // EngineInfo::device_name
  std::shared_ptr<const cuda::Context> tuning;  // null for the CPU; its code cache gets every candidate's code
  bool is_present = true;                       // false: a GPU that is only named
};
// Opens the GPU, or takes the named one's figures. Throws InvalidArgument, Unsupported (no driver, no GPU, a build without the CUDA
// backend) or OutOfRange.
BuildDevice open_device(const std::string& text, bool allow_tf32);

// A context over a code cache of its own, which takes what it needs from the tuning's and compiles the rest.
std::shared_ptr<const cuda::Context> engine_context(const BuildDevice& device);
// The code in the context's cache, without what it was taken from: what an engine keeps.
std::shared_ptr<cuda::CodeCache> code_of(const cuda::Context& context);

// Makes the kernels of every node that the binding reaches, by all threads at once, so that the context's cache holds their code. Throws
// Error as the kernels do.
void compile_kernels(const ir::Graph& graph, const Binding& binding, const cuda::Context& context, ThreadPool& pool);

}  // namespace tokamak
