#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {

std::string device_type(DType dtype) {
  switch (dtype) {
    case DType::F32: return "float";
    case DType::F16: return "f16";
    case DType::BF16: return "bf16";
    case DType::F64: return "double";
    case DType::I8: return "int8_t";
    case DType::U8: return "uint8_t";
    case DType::I16: return "int16_t";
    case DType::U16: return "uint16_t";
    case DType::I32: return "int32_t";
    case DType::U32: return "uint32_t";
    case DType::I64: return "int64_t";
    case DType::U64: return "uint64_t";
    case DType::Bool: return "bool";
    default: return "";
  }
}

bool is_activation(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

bool is_movable(DType dtype) {
  if (dtype == DType::String) return false;
  const int bits = bits_of(dtype);
  return bits == 8 || bits == 16 || bits == 32 || bits == 64;
}

Source device_source(const std::string& name, const std::string& file, std::vector<std::string> defines) {
  return {name, device_file(file), std::move(defines)};
}

}  // namespace tokamak::cuda
