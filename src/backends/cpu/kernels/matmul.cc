// matmul on f32, one KernelDef per instruction set. A constant b is packed into panels at build; otherwise b is packed into the workspace,
// or read where it lies when there are few rows to use it for.

#include "backends/cpu/kernels/matmul.h"

#include <algorithm>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"

namespace tokamak::cpu {
namespace {

constexpr std::string_view kLayout = "gemm.nr", kBf16Layout = "gemm.bf16.nr";
constexpr int64_t kFewRows = 16;  // up to here packing b costs more than it saves

// The panel width of a packed constant or a tactic, "gemm.nr64" or "nr64"; 0 when it is neither.
int parse_nr(std::string_view text) {
  const size_t at = text.rfind("nr");
  if (at == std::string_view::npos) return 0;
  int nr = 0;
  for (char c : text.substr(at + 2)) {
    if (c < '0' || c > '9' || nr > 999) return 0;
    nr = nr * 10 + (c - '0');
  }
  return nr > 0 && nr % 16 == 0 && nr <= 64 ? nr : 0;
}

// B(k, n) of one matrix, as it lies before packing.
struct BStrides {
  int64_t row, col;
};
BStrides b_strides(const MatmulShape& s) { return s.trans_b ? BStrides{1, s.k} : BStrides{s.n, 1}; }

class MatmulKernel final : public Kernel {
 public:
  MatmulKernel(const NodeView& view, const GemmIsa& isa, int nr)
      : isa_(isa),
        shape_(view),
        epilogue_(view, shape_),
        alpha_(static_cast<float>(view.attrs().get_float("alpha", 1.0))),
        threads_(std::max(view.num_threads, 1)) {
    bf16_ = view.input_dtypes[1] == DType::BF16;
    packed_ = view.constants[1] != nullptr && !view.constants[1]->layout().empty();
    nr_ = packed_ ? parse_nr(view.constants[1]->layout()) : nr;
    shape_.flatten_batch();
    direct_ = !packed_ && !shape_.trans_b && shape_.m <= kFewRows;
    k_ = bf16_ ? (shape_.k + 1) / 2 : shape_.k;
    panels_ = GemmPanels{k_, shape_.n, nr_};
    split_ = gemm_split(isa_, shape_.m, shape_.n, k_, nr_, shape_.batch, threads_, epilogue_.whole_rows());
    int64_t bytes = 0;
    const auto book = [&](int64_t size) { return std::exchange(bytes, bytes + (size + 63) / 64 * 64); };
    a_at_ = book(shape_.trans_a ? shape_.a_count * shape_.m * shape_.k * 4 : 0);
    pairs_at_ = book(bf16_ ? shape_.a_count * shape_.m * k_ * 4 : 0);
    b_at_ = book(packed_ || direct_ ? 0 : shape_.b_count * panel_floats() * 4);
    scratch_bytes_ = epilogue_.scratch_bytes(epilogue_.whole_rows() ? shape_.n : nr_);
    scratch_at_ = book(scratch_bytes_ * threads_);
    workspace_bytes_ = bytes;
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    const MatmulShape& s = shape_;
    if (s.m == 0 || s.n == 0 || s.batch == 0) return;
    char* workspace = static_cast<char*>(args.workspace);
    const float* a = args.inputs[0].data<float>();
    const float* b = args.inputs[1].data<float>();
    if (s.trans_a) {
      float* transposed = reinterpret_cast<float*>(workspace + a_at_);
      constexpr int64_t kRows = 64;
      const int64_t blocks = (s.m + kRows - 1) / kRows;
      args.pool->parallel_for(s.a_count * blocks, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = i / blocks * s.m * s.k, row = i % blocks * kRows;
          gemm_transpose(a + at + row, s.m, s.k, std::min(kRows, s.m - row), transposed + at + row * s.k, s.k);
        }
      });
      a = transposed;
    }
    if (bf16_) {
      uint32_t* pairs = reinterpret_cast<uint32_t*>(workspace + pairs_at_);
      args.pool->parallel_for(
          s.a_count * s.m, std::max<int64_t>(16384 / std::max<int64_t>(s.k, 1), 1),
          [&](int64_t begin, int64_t end, int) { gemm_bf16_pairs(a + begin * s.k, end - begin, s.k, pairs + begin * k_); });
      a = reinterpret_cast<const float*>(pairs);
    }
    if (!packed_ && !direct_) {
      float* packed = reinterpret_cast<float*>(workspace + b_at_);
      const BStrides strides = b_strides(s);
      args.pool->parallel_for(s.b_count * panels_.count(), 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t matrix = i / panels_.count(), panel = i % panels_.count();
          gemm_pack_b(panels_, b + matrix * s.k * s.n, strides.row, strides.col, packed + matrix * panel_floats(), panel, panel + 1);
        }
      });
      b = packed;
    }
    float* c = args.outputs[0].data<float>();
    args.pool->parallel_for(s.batch * split_.units(), 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) run_unit(args, a, b, c, i / split_.units(), i % split_.units(), worker);
    });
  }

 private:
  int64_t panel_floats() const { return panels_.size(); }

  void run_unit(const RunArgs& args, const float* a, const float* b, float* c, int64_t item, int64_t unit, int worker) const {
    const MatmulShape& s = shape_;
    Gemm g;
    g.m = s.m, g.n = s.n, g.k = k_, g.nr = nr_;
    g.a = a + s.a_matrix[item] * s.m * k_, g.a_stride = k_;
    g.direct = direct_, g.b_stride = s.n;
    g.b = b + s.b_matrix[item] * (direct_ ? s.k * s.n : panel_floats());
    g.c = c + item * s.m * s.n, g.c_stride = s.n;
    g.alpha = alpha_;
    g.epilogue = epilogue_.in_registers(args.inputs, item);
    const int64_t block = unit / split_.panels, panel = unit % split_.panels;
    const int64_t row0 = split_.begin(block), row1 = split_.begin(block + 1);
    const int64_t last_panel = epilogue_.whole_rows() ? panels_.count() : panel + 1;
    gemm_block(isa_, g, row0, row1, panel, last_panel);
    if (!epilogue_.needs_pass()) return;
    const int64_t col = panel * nr_, cols = std::min(last_panel * nr_, s.n) - col;
    void* scratch = static_cast<char*>(args.workspace) + scratch_at_ + worker * scratch_bytes_;
    epilogue_.run(args.inputs, c, item * s.m + row0, row1 - row0, col, cols, scratch);
  }

  const GemmIsa& isa_;
  MatmulShape shape_;
  MatmulEpilogue epilogue_;
  float alpha_;
  int threads_;
  bool bf16_ = false, packed_ = false, direct_ = false;
  int64_t k_ = 0;  // of shape_, in floats or pairs of bfloat16
  int nr_ = 0;
  GemmPanels panels_;
  GemmSplit split_;
  int64_t a_at_ = 0, pairs_at_ = 0, b_at_ = 0, scratch_at_ = 0, scratch_bytes_ = 0, workspace_bytes_ = 0;
};

class MatmulDef final : public KernelDef {
 public:
  MatmulDef(std::string_view name, CpuFeatures needs, DType b_dtype, const GemmIsa& (*isa)(), std::vector<std::string> tactics)
      : name_(name), needs_(needs), b_dtype_(b_dtype), isa_(isa), tactics_(std::move(tactics)) {}

  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "matmul"; }
  bool is_fallback() const override { return b_dtype_ == DType::BF16; }  // to AMX

  Support supports(const NodeView& view) const override {
    if (!cpu_features().covers(needs_)) return Support::no("needs a CPU with " + needs_.to_string());
    for (int i = 0; i < 2; ++i) {
      const DType wanted = i ? b_dtype_ : DType::F32;
      if (view.input_dtypes[i] != wanted)
        return Support::no(fmt::format("{} is {}, needs {}", i ? "b" : "a", to_string(view.input_dtypes[i]), to_string(wanted)));
      const std::string layout = view.constants[i] ? view.constants[i]->layout() : "";
      if (!layout.empty() && (i == 0 || layout != fmt::format("{}{}", layout_prefix(), parse_nr(layout))))
        return Support::no(fmt::format("{} is packed as {}", i ? "b" : "a", layout));
    }
    if (b_dtype_ == DType::BF16 && view.constants[1] == nullptr) return Support::no("b is not a constant");
    if (view.output_dtypes[0] != DType::F32)
      return Support::no(fmt::format("the output is {}, needs f32", to_string(view.output_dtypes[0])));
    return MatmulEpilogue::supports(view);
  }

  std::vector<std::string> tactics(const NodeView& view) const override {
    if (view.constants[1] == nullptr || !view.constants[1]->layout().empty()) return {tactics_.front()};
    return tactics_;
  }

  Tensor pack(const NodeView& view, const std::string& tactic, int input) const override {
    const Tensor* b = input == 1 ? view.constants[1] : nullptr;
    if (b == nullptr || !b->layout().empty() || b->dtype() != b_dtype_) return {};
    const MatmulShape s(view);
    const int nr = nr_of(tactic);
    const GemmPanels panels{b_dtype_ == DType::BF16 ? (s.k + 1) / 2 : s.k, s.n, nr};
    const BStrides strides = b_strides(s);
    Tensor packed = Tensor::packed(b_dtype_, b->shape(), fmt::format("{}{}", layout_prefix(), nr), s.b_count * panels.size() * 4);
    for (int64_t i = 0; i < s.b_count; ++i) {
      const int64_t from = i * s.k * s.n, to = i * panels.size();
      if (b_dtype_ == DType::BF16)
        gemm_pack_b_bf16(panels, b->data<uint16_t>() + from, s.k, strides.row, strides.col, packed.data<uint32_t>() + to, 0,
                         panels.count());
      else gemm_pack_b(panels, b->data<float>() + from, strides.row, strides.col, packed.data<float>() + to, 0, panels.count());
    }
    return packed;
  }

  bool reads_layout(std::string_view layout) const override { return layout.starts_with(layout_prefix()); }

  std::unique_ptr<Kernel> make(const NodeView& view, const std::string& tactic) const override {
    if (const Tensor* b = view.constants[1]; b && !b->layout().empty()) {
      const MatmulShape s(view);
      const int nr = parse_nr(b->layout());
      if (nr == 0)
        fail(ErrorCode::Corrupt, "[matmul \"{}\"] b is packed as \"{}\", which no version writes; rebuild the engine", view.node->label(),
             b->layout());
      const GemmPanels panels{b_dtype_ == DType::BF16 ? (s.k + 1) / 2 : s.k, s.n, nr};
      if (b->size_bytes() != s.b_count * panels.size() * 4)
        fail(ErrorCode::Corrupt, "[matmul \"{}\"] b is packed in {} bytes, {} needs {}; rebuild the engine", view.node->label(),
             b->size_bytes(), b->layout(), s.b_count * panels.size() * 4);
    }
    return std::make_unique<MatmulKernel>(view, isa_(), nr_of(tactic));
  }

 private:
  std::string_view layout_prefix() const { return b_dtype_ == DType::BF16 ? kBf16Layout : kLayout; }
  int nr_of(const std::string& tactic) const {
    const int nr = parse_nr(tactic);
    return nr ? nr : parse_nr(tactics_.front());
  }

  std::string_view name_;
  CpuFeatures needs_;
  DType b_dtype_;
  const GemmIsa& (*isa_)();
  std::vector<std::string> tactics_;
};

}  // namespace

// 64 columns (6x4 tiles) load least per multiply-add; 32 (14x2) suits row counts just above a multiple of 6; 48 suits N such as 144.
const KernelDef& matmul_avx512() {
  static const MatmulDef def("avx512.matmul", CpuFeatures::parse("avx512"), DType::F32, gemm_avx512, {"nr64", "nr32", "nr48"});
  return def;
}

const KernelDef& matmul_avx512_bf16() {
  static const MatmulDef def("avx512bf16.matmul", CpuFeatures::parse("bf16"), DType::BF16, gemm_avx512_bf16, {"nr64", "nr32"});
  return def;
}

const KernelDef& matmul_avx2() {
  static const MatmulDef def("avx2.matmul", CpuFeatures::parse("avx2"), DType::F32, gemm_avx2, {"nr16"});
  return def;
}

}  // namespace tokamak::cpu
