// Any bytes as a GGUF file: an Error, or a graph that verifies.

#include <cstddef>
#include <cstdint>

#include "import/hf/models.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokamak;
  try {
    hf::HfOptions options;
    const auto checkpoint = hf::open_gguf({reinterpret_cast<const std::byte*>(data), size}, options);
    const auto graph = hf::import_from(*checkpoint, options);
    ir::verify(*graph);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw;
  }
  return 0;
}
