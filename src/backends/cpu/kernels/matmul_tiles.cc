// amx.matmul: f32 a, rounded to bfloat16, by a constant bfloat16 b on AMX tiles.

#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/gemm_amx.h"
#include "backends/cpu/kernels/matmul.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {

void amx_pack_b(const AmxPanels& panels, const uint16_t* b, int64_t row_stride, int64_t col_stride, uint32_t* packed) {
  constexpr int64_t kColumns = AmxPanels::kColumns, kBlock = 32;
  for (int64_t tile = 0; tile < panels.tiles(); ++tile)
    for (int64_t block = 0; block < panels.k_blocks(); ++block, packed += AmxPanels::kBlockPairs)
      for (int64_t column = 0; column < kColumns; ++column) {
        const int64_t n = tile * kColumns + column;
        const uint16_t* from = b + n * col_stride;
        for (int64_t pair = 0; pair < kBlock / 2; ++pair) {
          const int64_t k = block * kBlock + 2 * pair;
          uint32_t& out = packed[pair * kColumns + column];
          if (n >= panels.n || k >= panels.k) out = 0;
          else if (row_stride == 1 && k + 1 < panels.k) std::memcpy(&out, from + k, 4);
          else out = from[k * row_stride] | (k + 1 < panels.k ? uint32_t{from[(k + 1) * row_stride]} << 16 : 0);
        }
      }
}

namespace {

constexpr std::string_view kLayout = "amx.bf16.n16";
constexpr int64_t kFewRows = 32;           // up to here reading the weights is all that counts
constexpr int64_t kUnitBytes = 256 << 10;  // of weights that a thread then takes at a time: long enough to stream, short enough to balance

constexpr int64_t kMinTiles = 4;  // as many streams are read at once

class AmxMatmulKernel final : public Kernel {
 public:
  explicit AmxMatmulKernel(const NodeView& view)
      : shape_(view),
        epilogue_(view, shape_),
        alpha_(static_cast<float>(view.attrs().get_float("alpha", 1.0))),
        threads_(std::max(view.num_threads, 1)) {
    shape_.flatten_batch();
    panels_ = {shape_.k, shape_.n};
    row_tiles_ = (shape_.m + AmxRows::kRows - 1) / AmxRows::kRows;
    unit_rows_ = std::clamp<int64_t>(row_tiles_, 1, kAmxMaxRows / AmxRows::kRows);
    const int64_t tiles = panels_.tiles();
    if (epilogue_.whole_rows()) {
      unit_tiles_ = std::max<int64_t>(tiles, 1), unit_rows_ = 1;
    } else {
      const bool few = shape_.m <= kFewRows;
      const int64_t stream = kUnitBytes / std::max<int64_t>(panels_.tile_bytes(), 1);
      const int64_t wanted = few ? std::min(stream, tiles * shape_.batch / (4 * threads_)) : kAmxMaxTiles;
      unit_tiles_ = std::max(wanted / kMinTiles * kMinTiles, kMinTiles);
      // The last ones are small, so that all threads are done at about the same time.
      if (few && shape_.batch == 1) small_units_ = std::min<int64_t>(4 * threads_, tiles / kMinTiles);
      // Not enough columns for all threads: fewer rows at a time.
      const int64_t columns = (tiles + unit_tiles_ - 1) / unit_tiles_ * shape_.batch;
      while (threads_ > 1 && unit_rows_ > 2 && columns * ((row_tiles_ + unit_rows_ - 1) / unit_rows_) < 2 * threads_)
        unit_rows_ = (unit_rows_ + 1) / 2;
    }
    large_units_ = small_units_ > 0 ? (tiles - small_units_ * kMinTiles) / unit_tiles_ : (tiles + unit_tiles_ - 1) / unit_tiles_;
    column_units_ = large_units_;
    if (const int64_t left = tiles - large_units_ * unit_tiles_; left > 0) column_units_ += (left + kMinTiles - 1) / kMinTiles;
    row_units_ = (row_tiles_ + unit_rows_ - 1) / unit_rows_;
    int64_t bytes = 0;
    const auto book = [&](int64_t size) { return std::exchange(bytes, bytes + (size + 63) / 64 * 64); };
    transposed_at_ = book(shape_.trans_a ? shape_.a_count * shape_.m * shape_.k * 4 : 0);
    rows_at_ = book(shape_.a_count * row_tiles_ * rows_in(nullptr).tile_bytes(panels_));
    scratch_bytes_ = epilogue_.scratch_bytes(epilogue_.whole_rows() ? shape_.n : unit_tiles_ * AmxPanels::kColumns);
    scratch_at_ = book(scratch_bytes_ * threads_);
    block_scratch_bytes_ = amx_scratch_bytes(panels_, unit_rows_ * AmxRows::kRows, unit_tiles_);
    block_scratch_at_ = book(block_scratch_bytes_ * threads_);
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
    parallel(args.pool, s.a_count * row_tiles_, s.k * AmxRows::kRows / 8 + 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i % row_tiles_ * AmxRows::kRows;
        AmxRows rows = rows_in(workspace);
        rows.tiles += i * rows.tile_bytes(panels_);
        amx_round_rows(panels_, a + (i / row_tiles_ * s.m + row) * s.k, std::min(AmxRows::kRows, s.m - row), rows);
      }
    });
    // Neighbours in unit order share columns: their weights come from memory once.
    parallel_units(args.pool, threads_, s.batch * row_units_ * column_units_,
                   [&](int64_t unit, int64_t following, int worker) { run_unit(args, unit, following, worker); });
  }

 private:
  AmxRows rows_in(char* workspace) const { return {std::min(shape_.m, AmxRows::kRows), workspace + rows_at_}; }

  // Where column unit `i` begins, and the one after it.
  int64_t first_tile(int64_t i) const {
    const int64_t large = std::min(i, large_units_);
    return std::min(large * unit_tiles_ + (i - large) * kMinTiles, panels_.tiles());
  }
  int64_t column_unit(int64_t unit) const { return unit % (row_units_ * column_units_) / row_units_; }
  int64_t tiles_of(int64_t unit) const { return first_tile(column_unit(unit) + 1) - first_tile(column_unit(unit)); }
  const uint8_t* weights(const RunArgs& args, int64_t unit) const {
    const int64_t item = unit / (row_units_ * column_units_), tile = first_tile(column_unit(unit));
    return static_cast<const uint8_t*>(args.inputs[1].raw()) + (shape_.b_matrix[item] * panels_.tiles() + tile) * panels_.tile_bytes();
  }

  void run_unit(const RunArgs& args, int64_t unit, int64_t following, int worker) const {
    const MatmulShape& s = shape_;
    char* workspace = static_cast<char*>(args.workspace);
    const int64_t item = unit / (row_units_ * column_units_), col = first_tile(column_unit(unit)) * AmxPanels::kColumns;
    const int64_t row_tile = unit % row_units_ * unit_rows_, row = row_tile * AmxRows::kRows;
    GemmEpilogue epilogue = epilogue_.in_registers(args.inputs, item);
    if (epilogue.bias) epilogue.bias += col;
    if (epilogue.residual) epilogue.residual += row * epilogue.residual_stride + col;
    float* c = args.outputs[0].data<float>();
    AmxBlock t;
    t.panels = &panels_;
    t.a = rows_in(workspace);
    t.a.tiles += (s.a_matrix[item] * row_tiles_ + row_tile) * t.a.tile_bytes(panels_);
    t.rows = std::min(unit_rows_ * AmxRows::kRows, s.m - row);
    t.b = weights(args, unit);
    t.tiles = tiles_of(unit);
    if (following >= 0) t.next = weights(args, following), t.next_tiles = tiles_of(following);
    t.cols = std::min(t.tiles * AmxPanels::kColumns, s.n - col);
    t.alpha = alpha_;
    t.bias = epilogue.bias;
    t.residual = epilogue.residual_after ? nullptr : epilogue.residual;
    t.residual_stride = epilogue.residual_stride;
    t.c = c + (item * s.m + row) * s.n + col;
    t.c_stride = s.n;
    t.scratch = workspace + block_scratch_at_ + worker * block_scratch_bytes_;
    amx_block(t);
    gemm_avx512().activate(t.c, s.n, t.rows, t.cols, epilogue);
    if (epilogue_.needs_pass())
      epilogue_.run(args.inputs, c, item * s.m + row, t.rows, col, t.cols, workspace + scratch_at_ + worker * scratch_bytes_);
  }

  MatmulShape shape_;
  MatmulEpilogue epilogue_;
  float alpha_;
  int threads_;
  AmxPanels panels_;
  int64_t row_tiles_ = 0, unit_rows_ = 1, unit_tiles_ = 1, large_units_ = 0, small_units_ = 0, row_units_ = 0, column_units_ = 0;
  int64_t transposed_at_ = 0, rows_at_ = 0, scratch_at_ = 0, scratch_bytes_ = 0, block_scratch_at_ = 0, block_scratch_bytes_ = 0;
  int64_t workspace_bytes_ = 0;
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
