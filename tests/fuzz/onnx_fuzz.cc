// Any bytes as a model: an Error or a graph that verifies, never a crash.

#include <cstddef>
#include <cstdint>

#include "import/onnx/import.h"
#include "ir/graph.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto graph = tokamak::onnx::import_model({reinterpret_cast<const std::byte*>(data), size});
    if (graph) tokamak::ir::verify(*graph);
  } catch (const tokamak::Error& e) {
    if (e.code() == tokamak::ErrorCode::Internal) throw;
  }
  try {
    (void)tokamak::onnx::read_tensor_proto({reinterpret_cast<const std::byte*>(data), size});
  } catch (const tokamak::Error&) {
  }
  return 0;
}
