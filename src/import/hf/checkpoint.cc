#include "import/hf/checkpoint.h"

#include "base/error.h"

namespace tokamak::hf {

Weight Checkpoint::take(const std::string& name, const Shape& shape) {
  if (!has(name))
    fail(ErrorCode::Corrupt, "{}: tensor \"{}\" is missing; the configuration calls for it with shape {}", path_, name, to_string(shape));
  Weight weight = load(name, shape);
  const DType dtype = weight.data.dtype();
  if (!weight.is_quantized() && dtype != DType::F32 && dtype != DType::F16 && dtype != DType::BF16)
    fail(ErrorCode::Unsupported, "{}: tensor \"{}\" is {}; expected f32, f16 or bf16", path_, name, to_string(dtype));
  if (weight.data.shape() != shape)
    fail(ErrorCode::Corrupt, "{}: tensor \"{}\" has shape {}; the configuration calls for {}", path_, name, to_string(weight.data.shape()),
         to_string(shape));
  if (taken_.insert(shown(name)).second) check_finite(weight, pool_);
  return weight;
}

std::vector<std::string> Checkpoint::left_over() const {
  std::vector<std::string> out;
  for (std::string& name : names())
    if (!taken_.contains(name)) out.push_back(std::move(name));
  return out;
}

}  // namespace tokamak::hf
