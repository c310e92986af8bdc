// quantized_matmul on 8- and 4-bit weights. Activations are rounded to 8 bits first: a row at once for one scale a channel, else group by
// group. Weights and scales are packed at build, in the same way for every instruction set.

#include "backends/cpu/kernels/quantized_matmul.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/matmul.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {

namespace {

uint32_t load32(const uint8_t* p) {
  uint32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

// Element (n, k) of a dense tensor as it is stored; four bits are two a byte, the low ones first.
uint8_t weight_at(const QuantizedPanels& panels, const uint8_t* b, int64_t n, int64_t k) {
  if (n >= panels.n || k >= panels.k) return panels.nibbles ? 8 : 0;
  const int64_t i = n * panels.k + k;
  return panels.nibbles ? ((b[i / 2] >> (4 * (i & 1))) & 15) ^ 8 : b[i];
}

// Eight nibbles in order to bytes of the first four low and the last four high.
uint32_t interleave(uint32_t x) {
  const uint32_t first = (x & 0xf) | (x & 0xf0) << 4 | (x & 0xf00) << 8 | (x & 0xf000) << 12;
  x >>= 16;
  const uint32_t last = (x & 0xf) | (x & 0xf0) << 4 | (x & 0xf00) << 8 | (x & 0xf000) << 12;
  return (first | last << 4) ^ 0x88888888;
}

}  // namespace

void quantized_pack_weights(const QuantizedPanels& panels, const uint8_t* b, uint8_t* packed) {
  constexpr int64_t kColumns = QuantizedPanels::kColumns, kBlock = QuantizedPanels::kBlock;
  const int64_t lines = panels.nibbles ? 8 : 16, line_k = kBlock / lines;
  const bool whole_bytes = !panels.nibbles || panels.k % 2 == 0;
  for (int64_t tile = 0; tile < panels.tiles(); ++tile)
    for (int64_t block = 0; block < panels.k_blocks(); ++block, packed += lines * 64)
      for (int64_t column = 0; column < kColumns; ++column) {
        const int64_t n = tile * kColumns + column, k0 = block * kBlock;
        for (int64_t line = 0; line < lines; ++line) {
          const int64_t k = k0 + line * line_k;
          uint8_t* out = packed + line * 64 + column * 4;
          if (n < panels.n && k + line_k <= panels.k && whole_bytes) {
            const int64_t i = n * panels.k + k;
            const uint32_t x = panels.nibbles ? interleave(load32(b + i / 2)) : load32(b + i);
            std::memcpy(out, &x, 4);
            continue;
          }
          for (int64_t j = 0; j < 4; ++j) {
            out[j] = weight_at(panels, b, n, k + j);
            if (panels.nibbles) out[j] |= static_cast<uint8_t>(weight_at(panels, b, n, k + 4 + j) << 4);
          }
        }
      }
}

void quantized_pack_scales(const QuantizedPanels& panels, const void* scale, int scale_bytes, void* packed) {
  const char* from = static_cast<const char*>(scale);
  char* to = static_cast<char*>(packed);
  for (int64_t tile = 0; tile < panels.tiles(); ++tile)
    for (int64_t g = 0; g < panels.groups(); ++g)
      for (int64_t n = tile * 16; n < tile * 16 + 16; ++n, to += scale_bytes) {
        if (n < panels.n) std::memcpy(to, from + (n * panels.groups() + g) * scale_bytes, scale_bytes);
        else std::memset(to, 0, scale_bytes);
      }
}

namespace {

constexpr std::string_view kLayout8 = "q8.n16k64", kLayout4 = "q4.n16k64", kScaleLayout = "scale.n16";
constexpr int64_t kMaxK = 65536;  // sums of products of bytes fit 32 bits
constexpr int64_t kMaxN = int64_t{1} << 31;
constexpr int64_t kFewRows = 32;           // up to here reading the weights is all that counts
constexpr int64_t kUnitBytes = 256 << 10;  // weights that a thread takes at a time: long enough to stream, short enough to balance

QuantizedPanels panels_of(const NodeView& view) {
  QuantizedPanels p;
  p.n = view.input_shapes[1][0], p.k = view.input_shapes[1][1];
  p.group_size = view.attrs().get_int("group_size");
  p.nibbles = view.input_dtypes[1] == DType::I4;
  return p;
}
std::string_view layout_of(const QuantizedPanels& panels) { return panels.nibbles ? kLayout4 : kLayout8; }

class QuantizedMatmulKernel final : public Kernel {
 public:
  QuantizedMatmulKernel(const NodeView& view, const QuantizedIsa& isa, const GemmIsa& gemm)
      : isa_(isa),
        gemm_(gemm),
        shape_(view, true),
        epilogue_(view, shape_),
        panels_(panels_of(view)),
        half_scale_(view.input_dtypes[2] == DType::F16),
        threads_(std::max(view.num_threads, 1)) {
    shape_.flatten_batch();
    constexpr int64_t kRows = QuantizedRows::kRows;
    row_tiles_ = (shape_.m + kRows - 1) / kRows;
    const int64_t tiles = panels_.tiles();
    unit_rows_ = std::clamp<int64_t>(row_tiles_, 1, isa_.max_rows / kRows);
    if (epilogue_.whole_rows()) {
      unit_tiles_ = std::max<int64_t>(tiles, 1), unit_rows_ = 1;
    } else {
      const bool few = shape_.m <= kFewRows;
      const int64_t wanted =
          few ? std::min(kUnitBytes / std::max<int64_t>(panels_.tile_bytes(), 1), tiles / (4 * threads_)) : isa_.max_tiles;
      unit_tiles_ = std::max(wanted / isa_.min_tiles * isa_.min_tiles, isa_.min_tiles);
      // The last ones are small, so that all threads are done at about the same time.
      if (few) small_units_ = std::min<int64_t>(4 * threads_, tiles / isa_.min_tiles);
      // Not enough columns for all threads: fewer rows at a time.
      const int64_t columns = (tiles + unit_tiles_ - 1) / unit_tiles_;
      while (threads_ > 1 && unit_rows_ > 2 && columns * ((row_tiles_ + unit_rows_ - 1) / unit_rows_) < 2 * threads_)
        unit_rows_ = (unit_rows_ + 1) / 2;
    }
    large_units_ = small_units_ > 0 ? (tiles - small_units_ * isa_.min_tiles) / unit_tiles_ : (tiles + unit_tiles_ - 1) / unit_tiles_;
    column_units_ = large_units_;
    if (const int64_t left = tiles - large_units_ * unit_tiles_; left > 0) column_units_ += (left + isa_.min_tiles - 1) / isa_.min_tiles;
    row_units_ = (row_tiles_ + unit_rows_ - 1) / unit_rows_;
    value_bytes_ = isa_.value_bytes(panels_, shape_.m);
    int64_t bytes = 0;
    const auto book = [&](int64_t size) { return std::exchange(bytes, bytes + (size + 63) / 64 * 64); };
    values_at_ = book(row_tiles_ * panels_.k_blocks() * 64 * row_stride() * value_bytes_);
    scales_at_ = book(row_tiles_ * panels_.groups() * 64);
    offsets_at_ = book(row_tiles_ * panels_.groups() * 64);
    scratch_bytes_ = epilogue_.scratch_bytes(epilogue_.whole_rows() ? shape_.n : unit_tiles_ * QuantizedPanels::kColumns);
    scratch_at_ = book(scratch_bytes_ * threads_);
    block_scratch_bytes_ = isa_.scratch_bytes(panels_, unit_rows_ * kRows, unit_tiles_);
    block_scratch_at_ = book(block_scratch_bytes_ * threads_);
    workspace_bytes_ = bytes;
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    if (shape_.m == 0 || shape_.n == 0) return;
    const float* a = args.inputs[0].data<float>();
    parallel(args.pool, row_tiles_, panels_.k * QuantizedRows::kRows / 4 + 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i * QuantizedRows::kRows;
        isa_.round_rows(panels_, a + row * panels_.k, std::min(QuantizedRows::kRows, shape_.m - row), rows_of(args, i));
      }
    });
    // Neighbours in unit order share columns: their weights come from memory once.
    parallel_units(args.pool, threads_, row_units_ * column_units_,
                   [&](int64_t unit, int64_t following, int worker) { run_unit(args, unit, following, worker); });
  }

 private:
  int64_t row_stride() const { return std::min(shape_.m, QuantizedRows::kRows); }

  // Where column unit `i` begins, and the one after it.
  int64_t first_tile(int64_t i) const {
    const int64_t large = std::min(i, large_units_);
    return std::min(large * unit_tiles_ + (i - large) * isa_.min_tiles, panels_.tiles());
  }

  QuantizedRows rows_of(const RunArgs& args, int64_t row_tile) const {
    char* workspace = static_cast<char*>(args.workspace);
    const QuantizedRows all = {row_stride(), value_bytes_, reinterpret_cast<int8_t*>(workspace + values_at_),
                               reinterpret_cast<float*>(workspace + scales_at_), reinterpret_cast<int32_t*>(workspace + offsets_at_)};
    return all.tile(panels_, row_tile);
  }

  void run_unit(const RunArgs& args, int64_t unit, int64_t following, int worker) const {
    const uint8_t* b = static_cast<const uint8_t*>(args.inputs[1].raw());
    char* workspace = static_cast<char*>(args.workspace);
    const int64_t n = shape_.n, tile = first_tile(unit / row_units_), col = tile * QuantizedPanels::kColumns;
    const int64_t row_tile = unit % row_units_ * unit_rows_, row = row_tile * QuantizedRows::kRows;
    GemmEpilogue epilogue = epilogue_.in_registers(args.inputs, 0);
    if (epilogue.bias) epilogue.bias += col;
    if (epilogue.residual) epilogue.residual += row * n + col;
    float* c = args.outputs[0].data<float>();
    QuantizedBlock t;
    t.panels = &panels_;
    t.a = rows_of(args, row_tile);
    t.rows = std::min(unit_rows_ * QuantizedRows::kRows, shape_.m - row);
    t.tiles = first_tile(unit / row_units_ + 1) - tile;
    t.b = b + tile * panels_.tile_bytes();
    t.scale = static_cast<const char*>(args.inputs[2].raw()) + tile * panels_.groups() * 16 * (half_scale_ ? 2 : 4);
    t.half_scale = half_scale_;
    t.cols = std::min(t.tiles * QuantizedPanels::kColumns, n - col);
    if (following >= 0) {
      const int64_t next = first_tile(following / row_units_);
      t.next = b + next * panels_.tile_bytes(), t.next_tiles = first_tile(following / row_units_ + 1) - next;
    }
    t.bias = epilogue.bias;
    t.residual = epilogue.residual_after ? nullptr : epilogue.residual;
    t.c = c + row * n + col;
    t.c_stride = t.residual_stride = n;
    t.scratch = workspace + block_scratch_at_ + worker * block_scratch_bytes_;
    isa_.block(t);
    gemm_.activate(t.c, n, t.rows, t.cols, epilogue);
    if (epilogue_.needs_pass()) epilogue_.run(args.inputs, c, row, t.rows, col, t.cols, workspace + scratch_at_ + worker * scratch_bytes_);
  }

  const QuantizedIsa& isa_;
  const GemmIsa& gemm_;
  MatmulShape shape_;
  MatmulEpilogue epilogue_;
  QuantizedPanels panels_;
  bool half_scale_;
  int threads_, value_bytes_ = 1;
  int64_t row_tiles_ = 0, unit_tiles_ = 1, unit_rows_ = 1, large_units_ = 0, small_units_ = 0, column_units_ = 0, row_units_ = 0;
  int64_t values_at_ = 0, scales_at_ = 0, offsets_at_ = 0, scratch_at_ = 0, scratch_bytes_ = 0, block_scratch_at_ = 0,
          block_scratch_bytes_ = 0;
  int64_t workspace_bytes_ = 0;
};

class QuantizedMatmulDef final : public KernelDef {
 public:
  QuantizedMatmulDef(std::string_view name, CpuFeatures needs, const QuantizedIsa& (*isa)(), const GemmIsa& (*gemm)())
      : name_(name), needs_(needs), isa_(isa), gemm_(gemm) {}

  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "quantized_matmul"; }
  bool is_fallback() const override { return true; }  // each in the list has all that the next one has, and more

  Support supports(const NodeView& view) const override {
    if (!cpu_features().covers(needs_)) return Support::no("needs a CPU with " + needs_.to_string());
    if (view.input_dtypes[0] != DType::F32 || view.output_dtypes[0] != DType::F32)
      return Support::no(
          fmt::format("a is {}, the output {}; needs f32", to_string(view.input_dtypes[0]), to_string(view.output_dtypes[0])));
    if (view.input_dtypes[1] != DType::I8 && view.input_dtypes[1] != DType::I4)
      return Support::no(fmt::format("b is {}, needs i8 or i4", to_string(view.input_dtypes[1])));
    if (view.input_dtypes[2] != DType::F32 && view.input_dtypes[2] != DType::F16)
      return Support::no(fmt::format("scale is {}, needs f32 or f16", to_string(view.input_dtypes[2])));
    const QuantizedPanels panels = panels_of(view);
    if (panels.k > kMaxK) return Support::no(fmt::format("k is {}, at most {}", panels.k, kMaxK));
    if (panels.n > kMaxN) return Support::no(fmt::format("n is {}, at most {}", panels.n, kMaxN));
    if (panels.groups() > 1 && panels.group_size % QuantizedPanels::kStep != 0)
      return Support::no(fmt::format("groups of {}, needs a multiple of {} or one group", panels.group_size, QuantizedPanels::kStep));
    for (int i : {1, 2})
      if (view.constants[i] == nullptr) return Support::no(fmt::format("{} is not a constant", i == 1 ? "b" : "scale"));
    for (int i = 0; i < 3; ++i) {
      const std::string layout = view.constants[i] ? view.constants[i]->layout() : "";
      if (!layout.empty() && layout != (i == 1 ? layout_of(panels) : i == 2 ? kScaleLayout : ""))
        return Support::no(fmt::format("input {} is packed as {}", i, layout));
    }
    return MatmulEpilogue::supports(view);
  }

  Tensor pack(const NodeView& view, const std::string&, int input) const override {
    const Tensor* from = input == 1 || input == 2 ? view.constants[input] : nullptr;
    if (from == nullptr || !from->layout().empty()) return {};
    const QuantizedPanels panels = panels_of(view);
    if (input == 1) {
      Tensor packed = Tensor::packed(from->dtype(), from->shape(), std::string(layout_of(panels)), panels.bytes());
      quantized_pack_weights(panels, static_cast<const uint8_t*>(from->raw()), static_cast<uint8_t*>(packed.raw()));
      return packed;
    }
    const int scale_bytes = bits_of(from->dtype()) / 8;
    Tensor packed = Tensor::packed(from->dtype(), from->shape(), std::string(kScaleLayout), panels.num_scales() * scale_bytes);
    quantized_pack_scales(panels, from->raw(), scale_bytes, packed.raw());
    return packed;
  }

  bool reads_layout(std::string_view layout) const override { return layout == kLayout8 || layout == kLayout4 || layout == kScaleLayout; }

  std::unique_ptr<Kernel> make(const NodeView& view, const std::string&) const override {
    const QuantizedPanels panels = panels_of(view);
    const auto check = [&](int input, std::string_view layout, int64_t bytes) {
      const Tensor* t = view.constants[input];
      if (t == nullptr || t->layout() != layout || t->size_bytes() != bytes)
        fail(ErrorCode::Corrupt,
             "[quantized_matmul \"{}\"] {} needs input {} packed as {} in {} bytes, found {} bytes packed as \"{}\"; rebuild the engine",
             view.node->label(), name_, input, layout, bytes, t ? t->size_bytes() : 0, t ? t->layout() : "");
    };
    check(1, layout_of(panels), panels.bytes());
    check(2, kScaleLayout, panels.num_scales() * bits_of(view.input_dtypes[2]) / 8);
    return std::make_unique<QuantizedMatmulKernel>(view, isa_(), gemm_());
  }

 private:
  std::string_view name_;
  CpuFeatures needs_;
  const QuantizedIsa& (*isa_)();
  const GemmIsa& (*gemm_)();
};

}  // namespace

const KernelDef& quantized_matmul_amx() {
  static const QuantizedMatmulDef def("amx.quantized_matmul", CpuFeatures::parse("vnni+amx_int8+amx_bf16"), quantized_amx, gemm_avx512);
  return def;
}

const KernelDef& quantized_matmul_avx512_vnni() {
  static const QuantizedMatmulDef def("avx512vnni.quantized_matmul", CpuFeatures::parse("vnni"), quantized_avx512_vnni, gemm_avx512);
  return def;
}

const KernelDef& quantized_matmul_avx2() {
  static const QuantizedMatmulDef def("avx2.quantized_matmul", CpuFeatures::parse("avx2"), quantized_avx2, gemm_avx2);
  return def;
}

}  // namespace tokamak::cpu
