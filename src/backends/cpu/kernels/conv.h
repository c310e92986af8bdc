#pragma once
// Float32 convolution: what all methods share. A method (implicit GEMM, Winograd, depthwise) works on NHWC; ConvDef (conv.cc) reads the
// node, transposes an NCHW node's data in the workspace, and turns the node's epilogue into what a method applies.

#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/expr_program.h"
#include "backends/cpu/kernels/conv_isa.h"
#include "backends/cpu/thread_pool.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {

// Sizes of one convolution, 1-D ones with height 1.
struct ConvProblem {
  int64_t batch = 0, h = 0, w = 0, c = 0;  // input
  int64_t m = 0, oh = 0, ow = 0;           // output
  int64_t kh = 1, kw = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t group = 1;
  bool nchw = false;
  int num_threads = 1;
  int64_t ldy = 0;  // floats from pixel to pixel of the output: m, or more where it is part of a wider tensor

  int64_t pixels() const { return batch * oh * ow; }
  bool padded() const { return pad_top || pad_left || pad_bottom || pad_right; }
};

// Reads a conv node. Says no to what no method takes: other dtypes, 3-D, negative pads.
Support conv_problem(const NodeView& node, ConvProblem& problem);

// Calls f(begin, end, worker) on the pool, or alone when there is no pool or it is wider than the kernel was planned for.
template <class F>
void conv_parallel(ThreadPool* pool, int planned_threads, int64_t count, int64_t grain, const F& f) {
  if (pool == nullptr || pool->width() > planned_threads || planned_threads == 1) {
    if (count > 0) f(int64_t{0}, count, 0);
  } else {
    pool->parallel_for(count, grain, f);
  }
}

// The node's epilogue on one output, ready to apply.
struct ConvEpilogueRun {
  static constexpr int kMaxInputs = 16;
  RegisterEpilogue registers;            // always applied; bias has slack for whole vectors past m
  const ExprProgram* program = nullptr;  // applied after it, by apply(); null when the registers do it all
  int num_inputs = 0;                    // of the program, the accumulator first
  struct Input {
    const char* data = nullptr;
    DType dtype = DType::F32;
    int64_t element_bytes = 4;
    int64_t n = 0, h = 0, w = 0, c = 0;  // strides in elements
  } inputs[kMaxInputs];
  bool uniform = true;  // every input has one stride from pixel to pixel
  const ConvProblem* problem = nullptr;
  float* y = nullptr;
  char* scratch = nullptr;
  int64_t scratch_stride = 0;  // bytes a worker

  // Runs the program on pixels [pixel, pixel + count), columns [column, column + columns).
  void apply(int64_t pixel, int64_t count, int64_t column, int64_t columns, int worker) const;
  // The same on the whole output, in parallel.
  void apply_all(ThreadPool* pool) const;
};

// A method made for one problem. Immutable.
class ConvEngine {
 public:
  virtual ~ConvEngine() = default;
  virtual int64_t workspace_bytes() const = 0;
  // x [batch, h, w, c], y [batch, oh, ow, m] with ldy from pixel to pixel; weights as packed.
  virtual void run(const float* x, const float* weights, const ConvEpilogueRun& epilogue, float* y, char* workspace,
                   ThreadPool* pool) const = 0;
};

class ConvMethod {
 public:
  virtual ~ConvMethod() = default;
  virtual std::string_view name() const = 0;  // "igemm"
  virtual Support supports(const ConvProblem& problem, const ConvIsa& isa) const = 0;
  virtual bool pitches_output() const { return false; }  // heeds ConvProblem::ldy
  virtual std::vector<std::string> tactics(const ConvProblem& problem, const ConvIsa& isa) const = 0;
  // The packed weights are a function of the problem's kernel sizes and the tactic alone.
  virtual int64_t packed_floats(const ConvProblem& problem, const ConvIsa& isa, const std::string& tactic) const = 0;
  virtual void pack(const ConvProblem& problem, const ConvIsa& isa, const std::string& tactic, const float* weights,
                    float* packed) const = 0;
  virtual std::unique_ptr<ConvEngine> make(const ConvProblem& problem, const ConvIsa& isa, const std::string& tactic) const = 0;
};
const ConvMethod& conv_igemm_method();
const ConvMethod& conv_winograd_method();
const ConvMethod& conv_depthwise_method();

// Column panels of `columns` columns: nearly equal numbers of vectors, at most `max_nv` each.
struct ConvPanel {
  int64_t column;   // first
  int64_t columns;  // valid
  int nv;           // vectors
  int64_t vector;   // first, in vectors
};
std::vector<ConvPanel> conv_panels(int64_t columns, int width, int max_nv);
// "nv=4,m=2" → 4 for "nv"; `otherwise` when the key is absent. Throws Corrupt when the value is not a number in [low, high].
int64_t conv_tactic_value(const std::string& tactic, std::string_view key, int64_t otherwise, int64_t low, int64_t high);

// out[n][q][p] = in[n][p][q], in [batch, rows, cols]: channels first to channels last and back.
void transpose_planes(const float* in, float* out, int64_t batch, int64_t rows, int64_t cols, ThreadPool* pool, int threads);

// Whether the CPU present runs the table's functions.
bool conv_isa_present(const ConvIsa& isa);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace tokamak::cpu
