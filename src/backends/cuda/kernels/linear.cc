#include "backends/cuda/kernels/linear.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {
namespace {

std::string operand_type(DType dtype) {
  if (dtype == DType::I4) return "i4";
  return dtype == DType::F8E4M3FN ? "f8e4m3" : device_type(dtype);
}

// Beyond, libraries multiply, which write bf16 only of bf16.
constexpr int64_t kMostNarrowed = 64;

// Whether what rms_norm makes of rows of k elements with these weights lies within f16, and well above its smallest numbers.
bool norm_fits_f16(const Tensor& weights, int64_t k) {
  double most = 0;
  for (int64_t i = 0; i < weights.count(); ++i) {
    const double weight = std::abs(weights.float_at(i));
    if (!(weight * std::sqrt(static_cast<double>(k)) < 65504)) return false;  // NaN neither
    most = std::max(most, weight);
  }
  return most >= 0x1p-10;
}

}  // namespace

Support Linear::read(const NodeView& node, Linear& out) {
  const bool is_linear = node.node->is("linear"), has_scale = node.num_inputs() > 2 && node.has_input(2);
  const bool quantized = node.node->is("quantized_matmul") || (is_linear && has_scale);
  out.x = node.input_dtypes[0], out.w = node.input_dtypes[1], out.y = node.output_dtypes[0];
  if (!is_activation(out.x) || !is_activation(out.y))
    return Support::no(fmt::format("a is {}, the output {}; needs f32, f16 or bf16", to_string(out.x), to_string(out.y)));
  if (!quantized) {
    if (!is_activation(out.w)) return Support::no(fmt::format("b is {}, needs f32, f16 or bf16", to_string(out.w)));
    if (node.attrs().get_bool("trans_a", false) || (!is_linear && !node.attrs().get_bool("trans_b", false)))
      return Support::no("needs trans_b without trans_a");
    if (node.attrs().get_float("alpha", 1) != 1) return Support::no("alpha is not 1");
  }
  if (node.input_shapes[1].size() != 2) return Support::no("b is not a matrix");
  for (int i = 1; i <= (quantized ? 2 : 1); ++i) {
    if (node.constants[i] == nullptr) return Support::no(fmt::format("input {} is not a constant", i));
    if (!node.constants[i]->layout().empty()) return Support::no(fmt::format("input {} is packed as {}", i, node.constants[i]->layout()));
  }
  out.n = node.input_shapes[1][0], out.k = node.input_shapes[1][1];
  if (out.k == 0 || out.n == 0) return Support::no("the matrix is empty");
  if (out.n > INT32_MAX / 2 || out.k > INT32_MAX / 2) return Support::no("the matrix has too many rows or columns");
  out.m = num_elements(node.input_shapes[0]) / out.k;
  if (out.m > INT32_MAX / 2) return Support::no("more rows than 32 bits count");
  if (quantized) {
    out.scale = node.input_dtypes[2];
    out.group = std::min(node.attrs().get_int("group_size"), out.k);
  }
  out.has_norm = is_linear && node.num_inputs() > 3 && node.has_input(3);
  if (out.has_norm) {
    if (node.constants[3] == nullptr) return Support::no("the norm's weight is not a constant");
    out.norm = node.input_dtypes[3];
    if (!is_activation(out.norm)) return Support::no(fmt::format("the norm's weight is {}", to_string(out.norm)));
    out.epsilon = static_cast<float>(node.attrs().get_float("epsilon", 1e-5));
  }
  out.operand = out.x;
  out.x_scale = 1;
  if (quantized && out.x == DType::BF16 && out.m <= kMostNarrowed) {
    if (out.has_norm && norm_fits_f16(*node.constants[3], out.k)) {
      out.operand = DType::F16;
    } else if (const auto scale = static_cast<float>(node.attrs().get_float("x_scale", 0)); scale > 0 && !out.has_norm) {
      out.operand = DType::F16;
      out.x_scale = scale;
    }
  }
  if (is_linear) out.gate = node.attrs().get_string("gate", "");
  return Epilogue::supports(node);
}

std::vector<std::string> Linear::defines() const {
  return {"X_ELEMENT=" + operand_type(x),      "OPERAND=" + operand_type(operand),      fmt::format("X_SCALE={:a}f", x_scale),
          "W_ELEMENT=" + operand_type(w),      "SCALE_ELEMENT=" + device_type(scale),   "Y_ELEMENT=" + device_type(y),
          fmt::format("K_SIZE={}", k),         fmt::format("GROUP={}", group),          fmt::format("NORM={:d}", has_norm),
          "NORM_ELEMENT=" + device_type(norm), fmt::format("GATE={:d}", !gate.empty()), "GATE_FUNCTION=fn::" + gate};
}

int tactic_number(std::string_view tactic, std::string_view key) {
  const std::string text = fmt::format(",{}", tactic), wanted = fmt::format(",{}=", key);
  int value = 0;
  if (const size_t at = text.find(wanted); at != std::string::npos)
    std::from_chars(text.data() + at + wanted.size(), text.data() + text.size(), value);
  if (value < 1 || value > 1024) fail(ErrorCode::Corrupt, "no linear layer has the tactic \"{}\"; rebuild the engine", tactic);
  return value;
}

}  // namespace tokamak::cuda
