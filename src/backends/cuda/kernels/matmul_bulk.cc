// matmul of 16-bit floats with many rows and a constant matrix: tiles by the copy engine, warpgroup products, any epilogue in the same
// kernel. Floor as in matmul_mma.cc.

#include <algorithm>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/mma_tile.h"
#include "backends/cuda/kernels/product.h"
#include "backends/cuda/kernels/wgmma_flash.h"

namespace tokamak::cuda {
namespace {

constexpr std::string_view kLayout = "cuda.nk";  // as of cuda.matmul_mma: b [K, N] as [N, K]
constexpr int kTileK = 64;

struct BulkTile {
  int m, n, stages, resident;

  std::string name() const { return fmt::format("{}x{},stages={}", m, n, stages); }
  int warpgroups() const { return m / 64; }
  unsigned threads() const { return static_cast<unsigned>(warpgroups() * 128 + 32); }
  // The pipeline, or the staged tile; then the barriers.
  int shared_bytes() const { return std::max(stages * (m + n) * kTileK * 2, m * (n + 8) * 4) + 16 * stages; }
  int64_t blocks(const Product& p) const { return ceil_div(p.m, m) * ceil_div(p.n, n); }
};
constexpr BulkTile kTiles[] = {{128, 128, 3, 2}, {128, 256, 4, 1}, {128, 192, 4, 1}, {128, 64, 4, 2}, {64, 128, 4, 2}, {64, 64, 5, 2}};

class MatmulBulk final : public Kernel {
 public:
  MatmulBulk(Function function, const BulkTile& tile, const Product& p, DType dtype, Epilogue epilogue, float alpha)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        tile_(tile),
        dtype_(dtype),
        m_(static_cast<int>(p.m)),
        n_(static_cast<int>(p.n)),
        k_(static_cast<int>(p.k)),
        alpha_(alpha),
        launch_{.grid = {static_cast<unsigned>(tile.blocks(p))},
                .block = {tile.threads()},
                .shared_bytes = tile.shared_bytes(),
                .overlap = true} {
    function_.allow_shared_bytes(tile.shared_bytes());
  }
  void run(const RunArgs& args) const override {
    const auto map = [&](int input, int rows, int box_rows) {
      return box_map(dtype_, args.inputs[input].raw(), {k_, rows}, {int64_t{k_} * 2}, box_rows);
    };
    function_.launch(args.stream, launch_, map(0, m_, tile_.m), map(1, n_, tile_.n), args.outputs[0].raw(), m_, n_, k_, alpha_,
                     epilogue_.pointers(args));
  }

 private:
  Function function_;
  Epilogue epilogue_;
  BulkTile tile_;
  DType dtype_;
  int m_, n_, k_;
  float alpha_;
  Launch launch_;
};

class MatmulBulkDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.matmul_bulk"; }
  std::string_view op() const override { return "matmul"; }
  Support supports(const NodeView& node) const override {
    if (!node.cuda->target().has_wgmma()) return Support::no("the GPU has no warpgroup products");
    const DType dtype = node.input_dtypes[0], out = node.output_dtypes[0];
    if (dtype != DType::F16 && dtype != DType::BF16) return Support::no("a must be f16 or bf16");
    if (node.input_dtypes[1] != dtype)
      return Support::no(fmt::format("b is {}, a is {}", to_string(node.input_dtypes[1]), to_string(dtype)));
    if (out != DType::F32 && out != DType::F16 && out != DType::BF16) return Support::no("the output must be f32, f16 or bf16");
    Product p(node);
    if (p.row || p.column || p.trans_a) return Support::no("a vector operand, or a stored by columns");
    if (node.constants[1] == nullptr) return Support::no("b is not constant");
    p.flatten();
    if (p.batch_count() != 1) return Support::no("a batch of products");
    if (p.k % 8 != 0 || p.n % 8 != 0) return Support::no("k or n is no multiple of 8");
    if (p.k < kTileK) return Support::no(fmt::format("k is {}, below {}", p.k, kTileK));
    if (p.m < kFewestRows) return Support::no(fmt::format("{} rows, below {}", p.m, kFewestRows));
    if (p.m > INT32_MAX / 2 || p.n > INT32_MAX / 2 || p.k > INT32_MAX / 2 || kTiles[5].blocks(p) > INT32_MAX)
      return Support::no("a size is over 2^30");
    return Epilogue::supports(node);
  }
  // Large tiles only where they fill the chip.
  std::vector<std::string> tactics(const NodeView& node) const override {
    Product p(node);
    p.flatten();
    const int sms = node.cuda->target().num_sms;
    std::vector<std::string> list;
    for (const BulkTile& tile : kTiles)
      if (const int64_t blocks = tile.blocks(p); 2 * blocks >= sms && (tile.m * tile.n >= 128 * 128 || blocks <= 8 * sms))
        list.push_back(tile.name());
    if (list.empty()) list.push_back(kTiles[5].name());
    return list;
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    const Product p(node);
    if (input != 1 || p.trans_b) return {};
    const Tensor& b = *node.constants[1];
    if (b.layout() == kLayout) return b;
    Tensor packed = Tensor::packed(b.dtype(), b.shape(), std::string(kLayout), b.size_bytes());
    const auto* from = b.data<uint16_t>();
    auto* to = static_cast<uint16_t*>(packed.raw());
    constexpr int64_t kBlock = 32;
    for (int64_t k0 = 0; k0 < p.k; k0 += kBlock)
      for (int64_t n = 0; n < p.n; ++n)
        for (int64_t k = k0; k < std::min(p.k, k0 + kBlock); ++k) to[n * p.k + k] = from[k * p.n + n];
    return packed;
  }
  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const BulkTile* const tile = std::find_if(std::begin(kTiles), std::end(kTiles), [&](const BulkTile& t) { return t.name() == tactic; });
    if (tile == std::end(kTiles)) fail(ErrorCode::Corrupt, "{} has no tactic \"{}\"; rebuild the engine", name(), tactic);
    Product p(node);
    p.flatten();
    const Tensor* b = node.constants[1];
    if (b == nullptr || (b->layout() == kLayout) == p.trans_b || b->size_bytes() != num_elements(node.input_shapes[1]) * 2)
      fail(ErrorCode::Corrupt, "{}: b is not stored along k for shape {}; rebuild the engine", name(), to_string(node.input_shapes[1]));
    Epilogue epilogue(node);
    const std::string element = device_type(node.input_dtypes[0]);
    const MmaTile product{.m = tile->m, .n = tile->n, .wgmma = true};
    std::vector<std::string> defines = {fmt::format("TILE_M={}", tile->m),
                                        fmt::format("TILE_N={}", tile->n),
                                        fmt::format("STAGES={}", tile->stages),
                                        fmt::format("WARPGROUPS={}", tile->warpgroups()),
                                        fmt::format("RESIDENT={}", tile->resident),
                                        "ELEMENT=" + element,
                                        "OUT_ELEMENT=" + device_type(node.output_dtypes[0]),
                                        "VECTOR=8"};
    const Source source{std::string(name()), epilogue.code() + product.code(element) + device_file("matmul_bulk.cu"), std::move(defines)};
    return std::make_unique<MatmulBulk>(node.cuda->function(source, "matmul_bulk"), *tile, p, node.input_dtypes[0], std::move(epilogue),
                                        static_cast<float>(node.attrs().get_float("alpha", 1)));
  }

 private:
  static constexpr int64_t kFewestRows = 96;
};

}  // namespace

std::vector<const KernelDef*> matmul_bulk_kernels() {
  static const MatmulBulkDef matmul;
  return {&matmul};
}

}  // namespace tokamak::cuda
