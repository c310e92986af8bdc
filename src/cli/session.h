#pragma once
// From a path on the command line to an engine, its input tensors, and figures of this process.

#include <cstdint>
#include <string>
#include <vector>

#include "builder/builder.h"
#include "builder/model_kind.h"
#include "cli/args.h"
#include "runtime/engine.h"
#include "runtime/execution_context.h"

namespace tokamak::cli {

// What to open a context with for these options: the GPU that was named, 0 otherwise.
int device_ordinal(const BuildOptions& options);

struct Opened {
  std::shared_ptr<const Engine> engine;
  BuildReport report;  // empty for a loaded engine
  bool built = false;
  double build_s = 0;  // 0 for a loaded engine
  double load_ms = 0;  // of the engine file; 0 when built in this process
};

// Builds or loads, with a progress bar. An engine file is for one kind of device: another one in the options is an error. `shapes` gives
// the only profile when the options have none and the model has symbolic inputs among them. Throws Error.
Opened open_model(std::string path, BuildOptions options, const NamedShapes& shapes = {});

// A concrete shape for every input: what was asked, else the profile's optimum, else symbols that another input's shape fixes, else 1 for
// a leading dimension and 16 for others. Throws InvalidArgument for an unknown input or a rank that differs.
NamedShapes resolve_shapes(const Engine& engine, const NamedShapes& asked, int profile = 0);

// Deterministic in `seed` and the input's name. Floats are uniform in [-1, 1); masks are ones, positions count up, segments are zeros, and
// integers that index a table stay within it; other integers are ones.
Tensor random_input(const Engine& engine, const TensorInfo& input, const Shape& shape, uint64_t seed = 1);

// Raw little-endian bytes of exactly the shape's size. Throws InvalidArgument when the file has another size.
Tensor raw_file_input(const TensorInfo& input, const Shape& shape, const std::string& path);

// "NVIDIA H100 80GB HBM3" or the CPU's name: what the engine runs on here.
std::string running_on(const Engine& engine);

int64_t peak_memory_bytes();  // VmHWM of this process; 0 where /proc is absent

// The lower precision this CPU has for a request of half precision, and the line that says so.
Precision lower_precision(const std::string& asked, std::string& message);

}  // namespace tokamak::cli
