// matmul and matmul_integer of any type, strides, transposes and broadcasts: simple tiles. The kernels for what matters are matmul_mma.cc
// and cublaslt.cc.

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/product.h"

namespace tokamak::cuda {
namespace {

struct Tile {
  std::string name;
  int m, n, per;
};
const std::vector<Tile> kTiles = {{"64x64", 64, 64, 4}, {"32x32", 32, 32, 4}, {"16x64", 16, 64, 4}, {"128x128", 128, 128, 8}};

const Tile& find_tile(const std::string& tactic) {
  for (const Tile& tile : kTiles)
    if (tile.name == tactic) return tile;
  fail(ErrorCode::Corrupt, "cuda.matmul has no tactic \"{}\"; rebuild the engine", tactic);
}

class Matmul final : public Kernel {
 public:
  Matmul(Function function, Product product, Epilogue epilogue, const Tile& tile, double alpha, int64_t blocks)
      : function_(std::move(function)),
        product_(std::move(product)),
        epilogue_(std::move(epilogue)),
        alpha_(alpha),
        blocks_(static_cast<unsigned>(blocks)),
        threads_(static_cast<unsigned>(tile.m / tile.per * (tile.n / tile.per))) {}
  void run(const RunArgs& args) const override {
    const auto input = [&](size_t i) { return i < args.inputs.size() ? args.inputs[i].raw() : nullptr; };
    const Product& p = product_;
    function_.launch(args.stream, {.grid = {blocks_}, .block = {threads_}, .overlap = true}, input(0), input(1), args.outputs[0].raw(), p.m,
                     p.n, p.k, p.a_row(), p.a_col(), p.b_row(), p.b_col(), alpha_, input(2), input(3), epilogue_.pointers(args));
  }

 private:
  Function function_;
  Product product_;
  Epilogue epilogue_;
  double alpha_;
  unsigned blocks_, threads_;
};

class MatmulDef final : public CudaKernelDef {
 public:
  explicit MatmulDef(bool integer) : integer_(integer) {}
  std::string_view name() const override { return integer_ ? "cuda.matmul_integer" : "cuda.matmul"; }
  std::string_view op() const override { return integer_ ? "matmul_integer" : "matmul"; }
  bool is_fallback() const override { return true; }

  Support supports(const NodeView& node) const override {
    for (int i : {0, 1})
      if (device_type(node.input_dtypes[i]).empty() || node.input_dtypes[i] == DType::Bool)
        return Support::no(fmt::format("input {} is {}", i, to_string(node.input_dtypes[i])));
    if (device_type(node.output_dtypes[0]).empty()) return Support::no(fmt::format("the output is {}", to_string(node.output_dtypes[0])));
    if (integer_)
      for (int i : {2, 3})
        if (i < node.num_inputs() && node.has_input(i) && node.input_dtypes[i] != node.input_dtypes[i - 2])
          return Support::no("a zero point is of another type than its operand");
    if (const Support support = Epilogue::supports(node); !support) return support;
    const Product p(node);
    if (num_blocks(p, kTiles[1]) > INT32_MAX) return Support::no("more tiles than a grid has blocks");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    const Product p(node);
    std::vector<std::string> names;
    for (const Tile& tile : kTiles)
      if (num_blocks(p, tile) <= INT32_MAX && (tile.m <= 32 || p.m > tile.m / 2)) names.push_back(tile.name);
    return names;
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const Tile& tile = find_tile(tactic);
    Product p(node);
    Epilogue epilogue(node, p.column);
    p.merge_batch();
    std::vector<std::string> defines = p.offset_defines();
    const auto define = [&](const char* name, const auto& value) { defines.push_back(fmt::format("{}={}", name, value)); };
    define("A_ELEMENT", device_type(node.input_dtypes[0]));
    define("B_ELEMENT", device_type(node.input_dtypes[1]));
    define("OUT_ELEMENT", device_type(node.output_dtypes[0]));
    define("ACCUMULATOR", accumulator(node));
    define("TILE_M", tile.m);
    define("TILE_N", tile.n);
    define("PER", tile.per);
    define("EPILOGUE", epilogue.empty() ? 0 : 1);
    define("INTEGER", is_float(node.input_dtypes[0]) ? 0 : 1);
    define("A_ZEROS", num_zeros(node, 2));
    define("B_ZEROS", num_zeros(node, 3));
    const Source source{std::string(name()), epilogue.code() + device_file("matmul.cu"), std::move(defines)};
    const int64_t blocks = num_blocks(p, tile);
    return std::make_unique<Matmul>(node.cuda->function(source, "matmul"), std::move(p), std::move(epilogue), tile,
                                    node.attrs().get_float("alpha", 1), blocks);
  }

 private:
  static int64_t num_blocks(const Product& p, const Tile& tile) { return p.batch_count() * ceil_div(p.m, tile.m) * ceil_div(p.n, tile.n); }
  int num_zeros(const NodeView& node, int input) const {
    if (!integer_ || input >= node.num_inputs() || !node.has_input(input)) return 0;
    return num_elements(node.input_shapes[input]) == 1 ? 1 : 2;
  }
  std::string accumulator(const NodeView& node) const {
    if (integer_) return "int32_t";
    switch (node.input_dtypes[0]) {
      case DType::F32:
      case DType::F16:
      case DType::BF16: return "float";
      case DType::F64: return "double";
      case DType::I64:
      case DType::U64: return "uint64_t";
      default: return "uint32_t";  // wraps as the element does
    }
  }
  bool integer_;
};

}  // namespace

std::vector<const KernelDef*> matmul_kernels() {
  static const MatmulDef matmul(false), integer(true);
  return {&matmul, &integer};
}

}  // namespace tokamak::cuda
