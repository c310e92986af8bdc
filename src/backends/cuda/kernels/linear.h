#pragma once
// Linear layers: matmul with a constant matrix [n, k] (trans_b), quantized_matmul and linear, as one kind of problem.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/epilogue.h"
#include "runtime/kernel.h"

namespace tokamak::cuda {

// y[m, n] = x[m, k] (w[n, k] * scale)^T. The weights are dense in memory, rows of k, whatever kernel reads them: all kernels share one
// copy.
struct Linear {
  int64_t m = 0, n = 0, k = 0;
  int64_t group = 0;  // elements of k a scale; k: one a row; 0: no scales
  DType x = DType::F32, w = DType::F32, scale = DType::F32, y = DType::F32;
  // Of `linear`: rows of x are normalised first; rows of w are of a gate and of up in turn, eight each, and y has n / 2 columns.
  bool has_norm = false;
  DType norm = DType::F32;
  float epsilon = 0;
  std::string gate;  // empty: none
  // The type in which x / x_scale, a power of two, is multiplied: x's own; or, where few rows of bf16 meet quantized weights and are known
  // to lie within f16 so (passes/scale_operands.cc, or behind a norm), f16. Weights take fewer instructions to become f16, and x keeps more
  // bits.
  DType operand = DType::F32;
  float x_scale = 1;

  // Reads the node. No, with the reason, for products of another kind, and for epilogues that device code cannot express.
  static Support read(const NodeView& node, Linear& out);

  int64_t groups() const { return group == 0 ? 0 : (k - 1) / group + 1; }
  int64_t row_bits() const { return k * bits_of(w); }
  bool is_quantized() const { return group != 0; }
  int64_t columns() const { return gate.empty() ? n : n / 2; }
  // For kernels that multiply x as it is.
  void keep_x() { operand = x, x_scale = 1; }
  // X_ELEMENT, OPERAND, X_SCALE, W_ELEMENT, SCALE_ELEMENT, Y_ELEMENT, K_SIZE, GROUP, NORM, NORM_ELEMENT, GATE, GATE_FUNCTION of the device
  // code.
  std::vector<std::string> defines() const;
};

// "mma,m=8,rows=32": the number behind `key`. Throws Corrupt when it is not there or not in [1, 1024].
int tactic_number(std::string_view tactic, std::string_view key);

// Problems of a class of m share their tactics.
int64_t linear_class(int64_t m);

// Ways to compute it, of which the kernels cuda.linear and cuda.quantized_linear (linear_kernels.cc) choose by m. The names that they list
// begin with their own and take `prefix` behind it; the likeliest first, none: it cannot do this problem (`reason` says why).
std::vector<std::string> gemv_tactics(const Linear& l, const std::string& prefix, std::string& reason);
std::vector<std::string> gemv_mma_tactics(const Linear& l, const Target& target, const std::string& prefix);  // none beyond 8 rows
std::vector<std::string> linear_mma_tactics(const Linear& l, const Target& target, const std::string& prefix, std::string& reason);
// Both, and for many rows of 16-bit floats the kernel of a matmul like any other ("matmul,m=65"; not with a norm or a gate).
std::vector<std::string> linear_ways(const NodeView& node, const Linear& l, std::string& reason);
// Of one of linear_ways(); null as below.
std::unique_ptr<Kernel> make_linear_way(const NodeView& node, const Linear& l, const std::string& tactic);

// Launches device code with the parameters x, w, scale (or null), y, n, m, pointers of the epilogue; with a norm its weights and epsilon.
class LinearKernel final : public Kernel {
 public:
  LinearKernel(Function function, const Linear& l, Epilogue epilogue, const Launch& launch)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        n_(static_cast<int>(l.n)),
        m_(static_cast<int>(l.m)),
        quantized_(l.is_quantized()),
        has_norm_(l.has_norm),
        epsilon_(l.epsilon),
        launch_(launch) {}
  void run(const RunArgs& args) const override {
    const void* const scale = quantized_ ? args.inputs[2].raw() : nullptr;
    const auto launch = [&](const auto&... norm) {
      function_.launch(args.stream, launch_, args.inputs[0].raw(), args.inputs[1].raw(), scale, args.outputs[0].raw(), n_, m_,
                       epilogue_.pointers(args), norm...);
    };
    if (has_norm_) launch(args.inputs[3].raw(), epsilon_);
    else launch();
  }

 private:
  Function function_;
  Epilogue epilogue_;
  int n_, m_;
  bool quantized_, has_norm_;
  float epsilon_;
  Launch launch_;
};

// The kernel of a tactic, null when the problem or the GPU is another than the tactic was made for and it does not fit.
std::unique_ptr<Kernel> make_gemv(const NodeView& node, const Linear& l, const std::string& tactic);
std::unique_ptr<Kernel> make_gemv_mma(const NodeView& node, const Linear& l, const std::string& tactic);
std::unique_ptr<Kernel> make_linear_mma(const NodeView& node, const Linear& l, const std::string& tactic);

}  // namespace tokamak::cuda
