// amx.matmul: f32 a, rounded to bfloat16, by a constant bfloat16 b on AMX tiles.

#include <algorithm>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/gemm_amx.h"
#include "backends/cpu/kernels/matmul.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {

void amx_pack_b(const AmxPanels& panels, const uint16_t* b, int64_t row_stride, int64_t col_stride, uint32_t* packed) {
  for (int64_t p = 0; p < panels.count(); ++p)
    for (int64_t block = 0; block < panels.k_blocks(); ++block)
      for (int64_t tile = 0; tile < 2; ++tile)
        for (int64_t pair = 0; pair < 16; ++pair)
          for (int64_t c = 0; c < 16; ++c, ++packed) {
            const int64_t k = block * 32 + pair * 2, n = p * AmxPanels::kColumns + tile * 16 + c;
            const auto at = [&](int64_t row) -> uint32_t {
              return row < panels.k && n < panels.n ? b[row * row_stride + n * col_stride] : 0;
            };
            *packed = at(k) | at(k + 1) << 16;
          }
}

namespace {

constexpr std::string_view kLayout = "amx.bf16";
constexpr int64_t kBlockRows = 128;

class AmxMatmulKernel final : public Kernel {
 public:
  explicit AmxMatmulKernel(const NodeView& view)
      : shape_(view),
        epilogue_(view, shape_),
        alpha_(static_cast<float>(view.attrs().get_float("alpha", 1.0))),
        threads_(std::max(view.num_threads, 1)) {
    shape_.flatten_batch();
    panels_ = {shape_.k, shape_.n};
    a_stride_ = panels_.k_blocks() * 16;
    a_rows_ = (shape_.m + 31) / 32 * 32;
    // Enough blocks of rows for all threads, of whole tiles.
    const int64_t most = std::max<int64_t>((shape_.m + 31) / 32, 1), columns = epilogue_.whole_rows() ? 1 : panels_.count();
    blocks_ = (shape_.m + kBlockRows - 1) / kBlockRows;
    if (threads_ > 1 && blocks_ * columns * shape_.batch < 4 * threads_)
      blocks_ = std::clamp<int64_t>(4 * threads_ / std::max<int64_t>(columns * shape_.batch, 1), blocks_, most);
    int64_t bytes = 0;
    const auto book = [&](int64_t size) { return std::exchange(bytes, bytes + (size + 63) / 64 * 64); };
    transposed_at_ = book(shape_.trans_a ? shape_.a_count * shape_.m * shape_.k * 4 : 0);
    pairs_at_ = book(shape_.a_count * a_rows_ * a_stride_ * 4);
    scratch_bytes_ = epilogue_.scratch_bytes(epilogue_.whole_rows() ? shape_.n : AmxPanels::kColumns);
    scratch_at_ = book(scratch_bytes_ * threads_);
    workspace_bytes_ = bytes;
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    const MatmulShape& s = shape_;
    if (s.m == 0 || s.n == 0 || s.batch == 0) return;
    char* workspace = static_cast<char*>(args.workspace);
    const float* a = args.inputs[0].data<float>();
    if (s.trans_a) {
      float* transposed = reinterpret_cast<float*>(workspace + transposed_at_);
      parallel(args.pool, s.a_count, s.m * s.k, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) gemm_transpose(a + i * s.m * s.k, s.m, s.k, s.m, transposed + i * s.m * s.k, s.k);
      });
      a = transposed;
    }
    uint32_t* pairs = reinterpret_cast<uint32_t*>(workspace + pairs_at_);
    parallel(args.pool, s.a_count * a_rows_, s.k / 8 + 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t matrix = i / a_rows_, row = i % a_rows_, used = row < s.m ? (s.k + 1) / 2 : 0;
        uint32_t* out = pairs + i * a_stride_;
        if (used > 0) gemm_bf16_pairs(a + (matrix * s.m + row) * s.k, 1, s.k, out);
        std::fill(out + used, out + a_stride_, 0);
      }
    });
    const int64_t columns = epilogue_.whole_rows() ? 1 : panels_.count(), units = blocks_ * columns;
    args.pool->parallel_for(s.batch * units, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) run_unit(args, pairs, i / units, i % units / columns, i % columns, worker);
    });
  }

 private:
  void run_unit(const RunArgs& args, const uint32_t* pairs, int64_t item, int64_t block, int64_t panel, int worker) const {
    const MatmulShape& s = shape_;
    const int64_t tiles = a_rows_ / 32, row = tiles * block / blocks_ * 32, rows = std::min(tiles * (block + 1) / blocks_ * 32, s.m) - row;
    if (rows <= 0) return;
    const int64_t last_panel = epilogue_.whole_rows() ? panels_.count() : panel + 1;
    const GemmEpilogue epilogue = epilogue_.in_registers(args.inputs, item);
    float* c = args.outputs[0].data<float>();
    for (int64_t p = panel; p < last_panel; ++p) {
      const int64_t col = p * AmxPanels::kColumns, cols = std::min(AmxPanels::kColumns, s.n - col);
      GemmEpilogue here = epilogue;
      if (here.bias) here.bias += col;
      if (here.residual) here.residual += row * here.residual_stride + col;
      AmxBlock t;
      t.a = pairs + (s.a_matrix[item] * a_rows_ + row) * a_stride_, t.a_stride = a_stride_;
      t.b = args.inputs[1].data<uint32_t>() + (s.b_matrix[item] * panels_.count() + p) * panels_.panel_pairs();
      t.k_blocks = panels_.k_blocks();
      t.rows = rows, t.cols = cols;
      t.alpha = alpha_;
      t.bias = here.bias;
      t.residual = here.residual_after ? nullptr : here.residual, t.residual_stride = here.residual_stride;
      t.c = c + (item * s.m + row) * s.n + col, t.c_stride = s.n;
      amx_block(t);
      gemm_avx512().activate(t.c, s.n, rows, cols, here);
    }
    if (!epilogue_.needs_pass()) return;
    const int64_t col = panel * AmxPanels::kColumns, cols = std::min(last_panel * AmxPanels::kColumns, s.n) - col;
    void* scratch = static_cast<char*>(args.workspace) + scratch_at_ + worker * scratch_bytes_;
    epilogue_.run(args.inputs, c, item * s.m + row, rows, col, cols, scratch);
  }

  MatmulShape shape_;
  MatmulEpilogue epilogue_;
  float alpha_;
  int threads_;
  AmxPanels panels_;
  int64_t a_stride_ = 0, a_rows_ = 0, blocks_ = 0;
  int64_t transposed_at_ = 0, pairs_at_ = 0, scratch_at_ = 0, scratch_bytes_ = 0, workspace_bytes_ = 0;
};

class AmxMatmulDef final : public KernelDef {
 public:
  std::string_view name() const override { return "amx.matmul"; }
  std::string_view op() const override { return "matmul"; }

  Support supports(const NodeView& view) const override {
    if (!cpu_features().amx_bf16 || !cpu_features().avx512_bf16) return Support::no("needs a CPU with bf16 and amx_bf16");
    if (view.input_dtypes[0] != DType::F32) return Support::no(fmt::format("a is {}, needs f32", to_string(view.input_dtypes[0])));
    if (view.input_dtypes[1] != DType::BF16) return Support::no(fmt::format("b is {}, needs bf16", to_string(view.input_dtypes[1])));
    if (view.constants[1] == nullptr) return Support::no("b is not a constant");
    if (const std::string& layout = view.constants[1]->layout(); !layout.empty() && layout != kLayout)
      return Support::no("b is packed as " + layout);
    if (view.constants[0] && !view.constants[0]->layout().empty()) return Support::no("a is packed");
    if (view.output_dtypes[0] != DType::F32)
      return Support::no(fmt::format("the output is {}, needs f32", to_string(view.output_dtypes[0])));
    return MatmulEpilogue::supports(view);
  }

  Tensor pack(const NodeView& view, const std::string&, int input) const override {
    const Tensor* b = input == 1 ? view.constants[1] : nullptr;
    if (b == nullptr || !b->layout().empty() || b->dtype() != DType::BF16) return {};
    const MatmulShape s(view);
    const AmxPanels panels{s.k, s.n};
    Tensor packed = Tensor::packed(DType::BF16, b->shape(), std::string(kLayout), s.b_count * panels.bytes());
    for (int64_t i = 0; i < s.b_count; ++i)
      amx_pack_b(panels, b->data<uint16_t>() + i * s.k * s.n, s.trans_b ? 1 : s.n, s.trans_b ? s.k : 1,
                 packed.data<uint32_t>() + i * panels.bytes() / 4);
    return packed;
  }

  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& view, const std::string&) const override {
    // Reads cpu_features() before the first tile instruction: that asks the system for the tile registers.
    if (const Support can = supports(view); !can) fail(ErrorCode::Unsupported, "[matmul \"{}\"] {}", view.node->label(), can.reason());
    const Tensor* b = view.constants[1];
    const MatmulShape s(view);
    const int64_t bytes = s.b_count * AmxPanels{s.k, s.n}.bytes();
    if (b == nullptr || b->layout() != kLayout || b->size_bytes() != bytes)
      fail(ErrorCode::Corrupt,
           "[matmul \"{}\"] amx.matmul needs b packed as {} in {} bytes, found {} bytes packed as \"{}\"; rebuild the engine",
           view.node->label(), kLayout, bytes, b ? b->size_bytes() : 0, b ? b->layout() : "");
    return std::make_unique<AmxMatmulKernel>(view);
  }
};

}  // namespace

const KernelDef& matmul_amx() {
  static const AmxMatmulDef def;
  return def;
}

}  // namespace tokamak::cpu
