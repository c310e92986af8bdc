// Linear layers with weights of 8 and 4 bits on Hopper's warpgroup products, from one token to any number (in tiles of 64).
// Floor: one read of w over the memory's bandwidth up to about 150 tokens (4-bit weights), then 2 m n k operations.
// "linear_bulk" is the same for more tokens than 16, and weights of 16 bits too, with x normalised and arranged by a small kernel ahead
// (device/arrange_rows.cu), so that one bulk copy brings what many small ones do otherwise. "linear_bulk_fp8": with weights and x in E4M3
// (device/fp8_rows.cu), where the node allows it (fp8_matmul.cc) and rows are too few for a library's tiles.

#include <algorithm>
#include <cmath>
#include <variant>

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/fp8_rows.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int kMostStages = 16;
constexpr size_t kMostTactics = 8, kMostCopied = 3;  // the latter of more tokens, without linear_bulk's copies
constexpr int64_t kBoxBytes = 128;                   // of a row of w in a stage
constexpr int kProducerRegisters = 40;
constexpr int64_t kMostNormTokens = 16, kMostPlainTokens = 128, kMostRoundedTokens = 256;

bool is_rounded(const Linear& l) { return l.x == DType::F8E4M3FN; }
// Both operands are multiplied where they are.
bool is_plain(const Linear& l) { return l.w == l.x; }

// The geometry of device/linear_wgmma.cu.
struct Tiling {
  int rows = 0, split = 1, share = 1, blocks = 1;  // of w a block; blocks that share k; that share x; blocks an SM there is room for
  int tokens = 8, warpgroups = 1, unit = 16, stages = 2;
  int consumer_registers = 0;  // 0: those of the launch
  int64_t stage_k = 0, stage_bytes = 0, scale_groups = 0, shared_bytes = 0, steps = 0;

  // Fills in what follows from the first four. False when it does not fit the GPU or the problem.
  bool complete(const Linear& l, const Target& target) {
    const int64_t bits = bits_of(l.w);
    const bool grouped = l.groups() > 1;
    tokens = l.m <= 8 ? 8 : l.m <= 16 ? 16 : l.m <= 32 ? 32 : 64;
    if (rows < 8 || rows > 256 || rows % row_unit(l) != 0 || blocks < 1 || blocks > 2) return false;
    if (split != 1 && split != 2 && split != 4 && split != 8) return false;
    if (share != 1 && (share != 2 || split == 8)) return false;
    warpgroups = static_cast<int>(ceil_div(rows, 64));
    unit = 16;
    if (grouped)
      while (unit > bits && l.group % (32 * unit / bits) != 0) unit /= 2;
    if (grouped && l.group % (32 * unit / bits) != 0) return false;
    stage_k = kBoxBytes * 8 / bits;
    stage_bytes = rows * kBoxBytes + stage_k * tokens * bits_of(l.x) / 8;
    if (ceil_div(l.k, stage_k) < split) return false;
    steps = ceil_div(ceil_div(l.k, stage_k), split);
    scale_groups = grouped ? std::min(l.groups(), ceil_div(steps * stage_k, l.group) + 1) : 0;
    int64_t scale_bytes = std::max<int64_t>(scale_groups, 1) * rows * bits_of(l.scale) / 8 + (l.has_norm ? tokens * 16 : 0);
    // Products of weights where they are read those of whole warpgroups.
    if (is_plain(l)) scale_bytes += std::max<int64_t>(warpgroups * 64 * kBoxBytes - stage_bytes, 0);
    const int64_t limit = std::min<int64_t>(target.shared_bytes_per_block, (target.shared_bytes_per_block + 1024) / blocks - 1024);
    const int64_t room = (limit - 1024 - scale_bytes) / (stage_bytes + 16);
    stages = static_cast<int>(std::min<int64_t>({kMostStages, room, std::max<int64_t>(steps, 2)}));
    shared_bytes = 1024 + stages * (stage_bytes + 16) + scale_bytes;  // slots begin at a multiple of 1024
    if (stages < 2 || int64_t{tokens} * (rows + 4) * 4 > stages * stage_bytes) return false;
    // Sums, those of a group, fragments twice, what is loaded, addresses. Consumers may get what producers do not need: registers that the
    // launch gave to the block.
    const int parts = is_rounded(l)       ? 1
                      : !grouped          ? 0
                      : l.group % 64 == 0 ? 1
                                          : 2,
              needed = tokens / 2 * (1 + parts) + 32 + 16 + (tokens > 16 ? 36 : 22);
    const int launched = std::min(65536 / (static_cast<int>(threads()) * blocks) / 8 * 8, 248);
    const int most = std::min((launched * (warpgroups + 1) - kProducerRegisters) / warpgroups / 8 * 8, 232);
    consumer_registers = launched < needed ? most : 0;
    return std::max(launched, most) >= needed;
  }
  static int row_unit(const Linear& l) { return l.gate.empty() ? 8 : 16; }
  unsigned threads() const { return static_cast<unsigned>(warpgroups + 1) * 128; }
  int64_t num_blocks(const Linear& l) const { return ceil_div(l.n, rows * share) * ceil_div(l.m, tokens) * cluster(); }
  int cluster() const { return split * share; }

  // Clocks of an SM, roughly: what it loads at its share of the bandwidth of memory and L2, what it multiplies, or the latency of a
  // warpgroup's planes of 128 bytes of x, whichever is longest; then what blocks one after the other do not overlap. Rates of an H100.
  double cost(const Linear& l, const Target& target) const {
    const int clusters = target.num_sms / cluster();
    const double places = cluster() < 4 ? target.num_sms : (clusters - clusters / 11) * cluster();
    const double waves = std::ceil(static_cast<double>(num_blocks(l)) / places), in_turn = std::ceil(waves / blocks);
    const double real_tokens = static_cast<double>(std::min<int64_t>(l.m, tokens));
    const int64_t plane_k = kBoxBytes * 8 / bits_of(l.x);
    const auto planes = static_cast<double>(steps * stage_k / plane_k), a_stage = static_cast<double>(stage_k / plane_k);
    const double weights = static_cast<double>(rows * steps * kBoxBytes), x = planes * 128 * real_tokens;
    const double load = std::max(weights / 13, (weights + x / share) / 20);
    const double multiply = planes * warpgroups * std::max(90.0, tokens * 2.2);
    const double latency = planes * (150 + tokens * 2 + 350 / a_stage);
    return std::max({waves * load, waves * multiply, in_turn * latency}) + in_turn * (split > 1 ? 6000 : 5000) -
           (blocks > waves ? 1500 : 0);
  }
};

// Clusters of so many blocks, one an SM, that the GPU may hold: an SM's place in its cluster must be in the same part of the GPU (GPC), and
// how many SMs those have differs from one to the next.
std::vector<int64_t> places(const Target& target, int blocks) {
  const int64_t all = target.num_sms / blocks;
  if (blocks < 4) return {all};
  return {all - all / 32, all - all / 8};
}

// The likeliest first. `shares`: neighbours in a cluster may share x.
std::vector<Tiling> tilings(const Linear& l, const Target& target, bool shares) {
  std::vector<Tiling> found;
  const auto add = [&](int64_t rows, int split, int share, int blocks) {
    Tiling t;
    t.rows = static_cast<int>(std::max<int64_t>(rows, 16)), t.split = split, t.share = share, t.blocks = blocks;
    if (!t.complete(l, target) || t.num_blocks(l) > INT32_MAX) return;
    for (const Tiling& other : found)
      if (other.rows == t.rows && other.split == t.split && other.share == t.share && other.blocks == t.blocks) return;
    found.push_back(t);
  };
  Tiling any;
  any.rows = 64;
  if (!any.complete(l, target)) return {};
  const int64_t tiles_m = ceil_div(l.m, any.tokens), most_rows = any.tokens > 16 ? 192 : 256, unit = Tiling::row_unit(l);
  // As many rows as make whole waves of `at_once` blocks with the same k.
  const auto add_waves = [&](int64_t at_once, int split, int share, int blocks) {
    for (int64_t waves = 1; waves <= 64; ++waves) {
      const int64_t rows = ceil_div(ceil_div(l.n, std::max<int64_t>(at_once * waves / tiles_m, 1)), unit) * unit;
      if (rows <= most_rows) return add(rows, split, share, blocks);
    }
  };
  for (int split : {1, 2, 4, 8})
    for (int share = 1; share <= (shares ? 2 : 1); ++share)
      for (int blocks : {1, 2}) {
        // Of few rows by themselves often the fastest, in a step slower (8 rows of 22016 x 4096: 1 to 4 % of Llama-2-7B's).
        if (blocks > 1 && any.tokens <= kMostNormTokens) continue;
        for (int layers = 1; layers <= blocks; ++layers)  // blocks of this layer on an SM; the other half may be the next layer's
          for (int64_t clusters : places(target, split * share)) add_waves(clusters * share * layers, split, share, blocks);
      }
  if (found.empty()) found.push_back(any);
  std::stable_sort(found.begin(), found.end(), [&](const Tiling& a, const Tiling& b) { return a.cost(l, target) < b.cost(l, target); });
  const size_t most = !shares && l.m > kMostNormTokens ? kMostCopied : kMostTactics;
  if (found.size() > most) found.resize(most);
  return found;
}

// x as the device code copies it in bulk, in 16 bits.
class Arrangement {
 public:
  Arrangement(const NodeView& node, const Linear& l, const Tiling& t) : l_(l), rows_(ceil_div(l.m, t.tokens) * t.tokens) {
    const int64_t stages = ceil_div(l.k, t.stage_k), items = stages * t.stage_k / 32,
                  threads = std::min<int64_t>(ceil_div(items, 32) * 32, 512);
    bytes_ = rows_ * stages * t.stage_k * 2;
    std::vector<std::string> defines = l.defines();
    const auto define = [&](const char* key, int64_t value) { defines.push_back(fmt::format("{}={}", key, value)); };
    define("TOKENS", t.tokens);
    define("PLANES", t.stage_k / 64);
    define("EIGHTS", l.is_quantized() ? t.unit / bits_of(l.w) : 0);
    define("THREADS", threads);
    define("ITEMS", ceil_div(items, threads));
    function_ = node.cuda->function(device_source("cuda.linear_bulk", "arrange_rows.cu", std::move(defines)), "arrange_rows");
    launch_ = {.grid = {static_cast<unsigned>(rows_)}, .block = {static_cast<unsigned>(threads)}, .overlap = true};
  }
  int64_t bytes() const { return bytes_; }
  void run(const RunArgs& args, void* out) const {
    const void* const norm = l_.has_norm ? args.inputs[3].raw() : nullptr;
    function_.launch(args.stream, launch_, args.inputs[0].raw(), out, norm, static_cast<int>(l_.m), l_.epsilon);
  }

 private:
  Linear l_;
  int64_t rows_, bytes_;
  Function function_;
  Launch launch_;
};

// The same in E4M3, with a scale a row behind.
class Rounding {
 public:
  Rounding(const NodeView& node, const Linear& l, const Tiling& t)
      : rows_(node, l, t.tokens, "cuda.linear_bulk_fp8"),
        code_bytes_(ceil_div(l.m, t.tokens) * t.tokens * l.k),
        bytes_(code_bytes_ + l.m * static_cast<int64_t>(sizeof(float))) {}
  int64_t bytes() const { return bytes_; }
  void run(const RunArgs& args, void* out) const { rows_.run(args, out, static_cast<std::byte*>(out) + code_bytes_); }

 private:
  Fp8Rows rows_;
  int64_t code_bytes_, bytes_;
};

// What brings x into the workspace: nothing where the product's kernel reads it as it is.
using Preparation = std::variant<std::monostate, Arrangement, Rounding>;

// d[64, tokens] = a b^T of 32 bytes of k, or += with `add`. `plain`: both are in shared memory; else a is in registers.
std::string product_code(int tokens, DType x, bool plain) {
  const int registers = tokens / 2;
  const bool is_fp8 = x == DType::F8E4M3FN;
  const std::string_view element = is_fp8 ? "e4m3" : x == DType::F16 ? "f16" : "bf16";
  std::string names, operands;
  for (int i = 0; i < registers; ++i) {
    names += fmt::format("{}%{}", i ? ", " : "", i);
    operands += fmt::format("{}\"+f\"(d[{}])", i ? ", " : "", i);
  }
  const std::string instruction =
      fmt::format("wgmma.mma_async.sync.aligned.m64n{}k{}.f32.{}.{} {{{}}}", tokens, is_fp8 ? 32 : 16, element, element, names);
  if (plain)
    return fmt::format(
        "DEVICE void product(float (&d)[{0}], uint64_t a, uint64_t b, bool add) {{\n"
        "  asm volatile(\"{{.reg .pred p; setp.ne.u32 p, %{4}, 0; \"\n"
        "    \"{1}, %{2}, %{3}, p, 1, 1{6};}}\" : {5} : \"l\"(a), \"l\"(b), \"r\"(int(add)) : \"memory\");\n}}\n",
        registers, instruction, registers, registers + 1, registers + 2, operands, is_fp8 ? "" : ", 0, 0");
  return fmt::format(
      "DEVICE void product(float (&d)[{0}], const uint32_t (&a)[4], uint64_t b, bool add) {{\n"
      "  asm volatile(\"{{.reg .pred p; setp.ne.u32 p, %{6}, 0; \"\n"
      "    \"{1}, {{%{2}, %{3}, %{4}, %{5}}}, %{7}, p, 1, 1, 0;}}\"\n"
      "    : {8} : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(int(add)), \"l\"(b) : \"memory\");\n}}\n",
      registers, instruction, registers, registers + 1, registers + 2, registers + 3, registers + 4, registers + 5, operands);
}

class LinearWgmma final : public Kernel {
 public:
  LinearWgmma(Function function, const Linear& l, const Tiling& t, Epilogue epilogue, float norm_scale, Preparation preparation)
      : function_(std::move(function)),
        epilogue_(std::move(epilogue)),
        preparation_(std::move(preparation)),
        n_(static_cast<int>(l.n)),
        m_(static_cast<int>(l.m)),
        row_bytes_(l.row_bits() / 8),
        rows_(t.rows),
        is_quantized_(l.is_quantized()),
        has_norm_(l.has_norm),
        epsilon_(l.epsilon),
        norm_scale_(norm_scale),
        launch_{.grid = {static_cast<unsigned>(t.num_blocks(l))},
                .block = {t.threads()},
                .cluster = static_cast<unsigned>(t.cluster()),
                .shared_bytes = static_cast<int>(t.shared_bytes),
                .overlap = true} {
    function_.allow_shared_bytes(launch_.shared_bytes);
  }
  int64_t workspace_bytes() const override {
    if (const auto* arrangement = std::get_if<Arrangement>(&preparation_)) return arrangement->bytes();
    if (const auto* rounding = std::get_if<Rounding>(&preparation_)) return rounding->bytes();
    return 0;
  }
  void run(const RunArgs& args) const override {
    const void* x = args.workspace;
    if (const auto* arrangement = std::get_if<Arrangement>(&preparation_)) arrangement->run(args, args.workspace);
    else if (const auto* rounding = std::get_if<Rounding>(&preparation_)) rounding->run(args, args.workspace);
    else x = args.inputs[0].raw();
    const CUtensorMap w = boxes(args.inputs[1].raw());
    const void* const norm = has_norm_ ? args.inputs[3].raw() : nullptr;
    function_.launch(args.stream, launch_, w, x, is_quantized_ ? args.inputs[2].raw() : nullptr, args.outputs[0].raw(), n_, m_,
                     epilogue_.pointers(args), norm, epsilon_, norm_scale_);
  }

 private:
  // w as bytes, in boxes of kBoxBytes of rows_ rows; what lies behind it reads as zeros.
  CUtensorMap boxes(const void* w) const {
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(row_bytes_), static_cast<cuuint64_t>(n_)};
    const cuuint64_t pitches[] = {static_cast<cuuint64_t>(row_bytes_)};
    const cuuint32_t box[] = {kBoxBytes, static_cast<cuuint32_t>(rows_)}, strides[] = {1, 1};
    CUtensorMap map;
    check(driver().cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(w), sizes, pitches, box, strides,
                                          CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                          CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
          "the map of a linear layer's weights");
    return map;
  }

  Function function_;
  Epilogue epilogue_;
  Preparation preparation_;
  int n_, m_;
  int64_t row_bytes_;
  int rows_;
  bool is_quantized_, has_norm_;
  float epsilon_, norm_scale_;
  Launch launch_;
};

// The power of two with which no weight of the norm is above one.
float scale_of_norm(const Tensor& norm) {
  double most = 0;
  for (int64_t i = 0; i < norm.count(); ++i) most = std::max(most, std::abs(norm.float_at(i)));
  return most > 0 && std::isfinite(most) ? std::ldexp(1.F, -std::max(std::ilogb(most) + 1, -60)) : 1.F;
}

// How x comes to the product's kernel: as it is, arranged in 16 bits, or arranged in E4M3.
enum class Rows { AsTheyAre, Arranged, Rounded };

class LinearWgmmaDef final : public CudaKernelDef {
 public:
  LinearWgmmaDef(const char* name, const char* op, Rows rows) : name_(name), op_(op), rows_(rows) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }

  Support supports(const NodeView& node) const override {
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    const bool arranged = rows_ != Rows::AsTheyAre;
    if (!node.cuda->target().has_wgmma()) return Support::no("the GPU has no warpgroup products");
    if (rows_ == Rows::Rounded) {
      if (node.attrs().get_string("activation", "") != "f8e4m3fn") return Support::no("the activations may not be rounded to fp8");
      if (l.w != DType::F8E4M3FN || l.groups() != 1) return Support::no("b is not f8e4m3fn with a scale a row");
      if (l.m > kMostRoundedTokens) return Support::no(fmt::format("{} rows", l.m));
      if (l.k % kBoxBytes != 0) return Support::no(fmt::format("k is {}: not whole {} bytes", l.k, kBoxBytes));
      if (!Fp8Rows::fits(l)) return Support::no(fmt::format("k is {}: a row does not fit registers", l.k));
    }
    if (!l.is_quantized() && (!arranged || l.w != l.x)) return Support::no(fmt::format("b is {}", to_string(l.w)));
    if (!l.is_quantized() && l.m > kMostPlainTokens) return Support::no(fmt::format("{} rows of 16-bit weights", l.m));
    if (arranged && l.m <= kMostNormTokens) return Support::no(fmt::format("{} rows", l.m));
    if (!arranged && l.has_norm && l.m > kMostNormTokens) return Support::no(fmt::format("a norm of {} rows", l.m));
    if (l.x != DType::F16 && l.x != DType::BF16) return Support::no(fmt::format("a is {}, needs f16 or bf16", to_string(l.x)));
    if (l.row_bits() % 128 != 0) return Support::no(fmt::format("k is {}: rows of b are not whole 16 bytes", l.k));
    if (tilings(product_of(l), node.cuda->target(), arranged).empty())
      return Support::no(fmt::format("groups of {} are not whole steps, or do not fit shared memory", l.group));
    return Support::yes();
  }

  std::vector<std::string> tactics(const NodeView& node) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    std::vector<std::string> names;
    for (const Tiling& t : tilings(product_of(l), node.cuda->target(), rows_ != Rows::AsTheyAre))
      names.push_back(
          fmt::format("wgmma,m={},rows={},split={},share={},blocks={}", std::min<int64_t>(l.m, 1024), t.rows, t.split, t.share, t.blocks));
    return names;
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    Linear whole;
    CHECK(Linear::read(node, whole));
    const Linear l = product_of(whole);
    const Target& target = node.cuda->target();
    Tiling t;
    t.rows = tactic_number(tactic, "rows"), t.split = tactic_number(tactic, "split"), t.share = tactic_number(tactic, "share");
    t.blocks = tactic_number(tactic, "blocks");
    if (!is_near(tactic_number(tactic, "m"), l.m) || !t.complete(l, target)) {
      const std::vector<Tiling> all = tilings(l, target, rows_ != Rows::AsTheyAre);
      if (all.empty()) fail(ErrorCode::Unsupported, "{}: groups of {} do not fit", name(), l.group);
      t = all.front();
    }
    Epilogue epilogue(node);
    std::vector<std::string> defines = l.defines();
    const auto define = [&](const char* key, int64_t value) { defines.push_back(fmt::format("{}={}", key, value)); };
    define("ARRANGED", rows_ != Rows::AsTheyAre);
    define("PLAIN", is_plain(l));
    define("TOKENS", t.tokens);
    define("ROWS", t.rows);
    define("WARPGROUPS", t.warpgroups);
    define("UNIT", t.unit);
    define("SCALE_GROUPS", std::max<int64_t>(t.scale_groups, 1));
    define("STAGES", t.stages);
    define("SPLIT", t.split);
    define("SHARE", t.share);
    define("BLOCKS", t.blocks);
    define("CONSUMER_REGISTERS", t.consumer_registers);
    define("VECTOR", l.columns() % 4 == 0 ? 4 : 1);
    const Source source{name_, epilogue.code() + product_code(t.tokens, l.x, is_plain(l)) + device_file("linear_wgmma.cu"),
                        std::move(defines)};
    Preparation preparation;
    if (rows_ == Rows::Arranged) preparation.emplace<Arrangement>(node, whole, t);
    if (rows_ == Rows::Rounded) preparation.emplace<Rounding>(node, whole, t);
    return std::make_unique<LinearWgmma>(node.cuda->function(source, "linear_wgmma"), l, t, std::move(epilogue),
                                         l.has_norm ? scale_of_norm(*node.constants[3]) : 1.F, std::move(preparation));
  }

 private:
  // What is left for the product's kernel.
  Linear product_of(Linear l) const {
    if (rows_ != Rows::Arranged) l.keep_x();
    if (rows_ == Rows::AsTheyAre) return l;
    l.has_norm = false;
    l.x = rows_ == Rows::Rounded ? DType::F8E4M3FN : l.operand;
    return l;
  }

  std::string name_, op_;
  Rows rows_;
};

}  // namespace

std::vector<const KernelDef*> linear_wgmma_kernels() {
  static const LinearWgmmaDef linear("cuda.linear_wgmma", "linear", Rows::AsTheyAre);
  static const LinearWgmmaDef quantized("cuda.quantized_linear_wgmma", "quantized_matmul", Rows::AsTheyAre);
  static const LinearWgmmaDef bulk("cuda.linear_bulk", "linear", Rows::Arranged);
  static const LinearWgmmaDef fp8("cuda.linear_bulk_fp8", "linear", Rows::Rounded);
  return {&linear, &quantized, &bulk, &fp8};
}

}  // namespace tokamak::cuda
