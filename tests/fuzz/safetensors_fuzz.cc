// Any bytes as a safetensors file: an Error, or tensors that lie inside the bytes.

#include <cstddef>
#include <cstdint>

#include "import/hf/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokamak;
  try {
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    // An owner makes the tensors views.
    const auto owner = std::shared_ptr<const void>(data, [](const void*) {});
    uint64_t sum = 0;
    for (const auto& [name, tensor] : hf::read_safetensors(bytes, owner, "input"))
      for (int64_t i = 0; i < tensor.size_bytes(); ++i) sum += tensor.data<uint8_t>()[i];
    volatile uint64_t used = sum;
    (void)used;
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw;
  }
  return 0;
}
