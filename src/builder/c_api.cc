// The part of the C API that compiles.

#include "runtime/c_api.h"

#include "builder/builder.h"

extern "C" tk_status tk_engine_build(const char* onnx_path, int threads, int opt_level, tk_engine** engine) {
  return tokamak::guarded([&] {
    using namespace tokamak;
    if (onnx_path == nullptr || engine == nullptr) fail(ErrorCode::InvalidArgument, "onnx_path or engine is NULL");
    if (threads < 0 || opt_level < 0 || opt_level > 5)
      fail(ErrorCode::InvalidArgument, "threads is {} and opt_level {}; expected 0 or more, and 0 to 5", threads, opt_level);
    BuildOptions options;
    options.num_threads = threads;
    options.opt_level = opt_level;
    *engine = new tk_engine{build_engine(onnx_path, options)};
  });
}
