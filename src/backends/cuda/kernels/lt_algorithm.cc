#include "backends/cuda/kernels/lt_algorithm.h"

#include <charconv>
#include <tuple>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"

namespace tokamak::cuda {

std::optional<FusedEpilogue> fused_epilogue(const NodeView& node) {
  const Epilogue epilogue(node);
  FusedEpilogue fused;
  if (epilogue.empty()) return fused;
  const ir::Expr& expr = epilogue.expr();
  using Operand = ir::ExprOperand;
  Operand current{Operand::Input, 0, 0};
  bool relu = false, gelu = false;
  for (size_t t = 0; t < expr.code.size(); ++t) {
    const ir::ExprInstruction& instruction = expr.code[t];
    if (relu || gelu) return {};
    if (instruction.function == "add") {
      const auto& [left, right] = std::tie(instruction.operands[0], instruction.operands[1]);
      const Operand& other = left == current ? right : left;
      if (!(left == current || right == current) || other.kind != Operand::Input || other.index == 0) return {};
      const Epilogue::Input& input = epilogue.inputs()[static_cast<size_t>(other.index) - 1];
      if (input.dtype != node.output_dtypes[0]) return {};
      if (epilogue.is_row_vector(input) && fused.bias < 0) fused.bias = input.index;
      else if (epilogue.is_full(input) && fused.residual < 0) fused.residual = input.index;
      else return {};
    } else if (instruction.operands[0] == current && instruction.function == "relu") {
      relu = true;
    } else if (instruction.operands[0] == current && instruction.function == "gelu_tanh") {
      gelu = true;
    } else {
      return {};
    }
    current = {Operand::Temp, static_cast<int>(t), 0};
  }
  if (!(expr.results[0] == current)) return {};
  const bool bias = fused.bias >= 0;
  if (relu) fused.kind = bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  else if (gelu) fused.kind = bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  else if (bias) fused.kind = CUBLASLT_EPILOGUE_BIAS;
  return fused;
}

std::vector<cublasLtMatmulHeuristicResult_t> lt_algorithms(const CublasLt& lt, cublasLtHandle_t handle,
                                                           const cublasLtMatmulDescOpaque_t& desc, const cublasLtMatrixLayoutOpaque_t& a,
                                                           const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
                                                           const LtAlignment& alignment, int most) {
  cublasLtMatmulPreferenceOpaque_t preference;
  check(lt.cublasLtMatmulPreferenceInit_internal(&preference, sizeof(preference)), "cublasLtMatmulPreferenceInit");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(lt.cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)), "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kLtMostWorkspace);
  // Sums of a split k are added in float, not in the output's type.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment.a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment.b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment.c);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment.c);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int count = 0;
  // The library does not change descriptors here; its types say otherwise.
  const auto layout = [](const cublasLtMatrixLayoutOpaque_t& l) { return const_cast<cublasLtMatrixLayout_t>(&l); };
  const cublasStatus_t status = lt.cublasLtMatmulAlgoGetHeuristic(handle, const_cast<cublasLtMatmulDesc_t>(&desc), layout(a), layout(b),
                                                                  layout(c), layout(c), &preference, most, results.data(), &count);
  // Invalid it calls combinations of types and scales that it does not know.
  if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE)
    check(status, "cublasLtMatmulAlgoGetHeuristic");
  results.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<size_t>(count) : 0);
  std::erase_if(results, [](const auto& r) { return r.state != CUBLAS_STATUS_SUCCESS; });
  return results;
}

std::string LtTactic::text() const {
  std::string out = fmt::format("{},{},{},", way, version, m);
  for (const uint64_t word : algo.data) out += fmt::format("{:016x}", word);
  return out;
}

LtTactic LtTactic::parse(const std::string& text, std::string_view kernel) {
  LtTactic parsed;
  const size_t comma = text.find(',');
  bool good = comma != std::string::npos;
  if (good) {
    parsed.way = text.substr(0, comma);
    const char *stop = text.data() + comma + 1, *const end = text.data() + text.size();
    const auto number = [&](auto& value) {
      const auto [next, status] = std::from_chars(stop, end, value);
      good = good && status == std::errc() && next != end && *next == ',';
      stop = good ? next + 1 : end;
    };
    number(parsed.version);
    number(parsed.m);
    good = good && end - stop == 16 * 8;
    for (int i = 0; good && i < 8; ++i) {
      const char* word = stop + i * 16;
      const auto [word_end, word_status] = std::from_chars(word, word + 16, parsed.algo.data[i], 16);
      good = word_status == std::errc() && word_end == word + 16;
    }
  }
  if (!good) fail(ErrorCode::Corrupt, "{} has no tactic \"{}\"; rebuild the engine", kernel, text);
  return parsed;
}

}  // namespace tokamak::cuda
