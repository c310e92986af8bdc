// matmul_integer on 8-bit operands. A constant b is packed at build, another one into the workspace.

#include "backends/cpu/kernels/matmul_integer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/matmul.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {

void vnni_pack_b(const VnniPanels& panels, const uint8_t* b, uint8_t flip, uint8_t* packed, int64_t first, int64_t last) {
  for (int64_t p = first; p < last; ++p) {
    const int64_t column = p * VnniPanels::kColumns, width = panels.width(p), cols = std::min(width, panels.n - column);
    int32_t sums[VnniPanels::kColumns] = {};
    uint8_t* out = packed + panels.offset(p);
    for (int64_t k = 0; k < panels.k; k += 4, out += width * 4) {
      std::memset(out, 0, width * 4);
      for (int64_t i = 0; i < std::min<int64_t>(4, panels.k - k); ++i) {
        const uint8_t* row = b + (k + i) * panels.n + column;
        for (int64_t c = 0; c < cols; ++c) {
          const uint8_t x = row[c] ^ flip;
          out[c * 4 + i] = x;
          sums[c] += static_cast<int8_t>(x);
        }
      }
    }
    std::memcpy(packed + panels.sums_offset() + column * 4, sums, width * 4);
  }
}

namespace {

constexpr std::string_view kLayout = "vnni.nr64";
constexpr int64_t kBlockRows = 48;

bool is_byte(DType dtype) { return dtype == DType::U8 || dtype == DType::I8; }

class MatmulIntegerKernel final : public Kernel {
 public:
  explicit MatmulIntegerKernel(const NodeView& view) : shape_(view), threads_(std::max(view.num_threads, 1)) {
    shape_.flatten_batch();
    packed_ = view.constants[1] != nullptr && !view.constants[1]->layout().empty();
    a_flip_ = view.input_dtypes[0] == DType::I8 ? 0x80 : 0;
    b_flip_ = view.input_dtypes[1] == DType::U8 ? 0x80 : 0;
    has_a_zero_ = view.num_inputs() > 2 && view.has_input(2);
    has_b_zero_ = view.num_inputs() > 3 && view.has_input(3);
    panels_ = {shape_.k, shape_.n};
    copies_a_ = a_flip_ != 0 || shape_.k % 4 != 0;
    int64_t bytes = 0;
    const auto book = [&](int64_t size) { return std::exchange(bytes, bytes + (size + 63) / 64 * 64); };
    a_at_ = book(copies_a_ ? shape_.a_count * shape_.m * panels_.groups() * 4 : 0);
    row_sums_at_ = book(shape_.a_count * shape_.m * 4);
    b_at_ = book(packed_ ? 0 : shape_.b_count * panels_.bytes());
    b_zero_at_ = book(panels_.columns() * 4);
    terms_at_ = book(shape_.b_count * panels_.columns() * 4);
    workspace_bytes_ = bytes;
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    const MatmulShape& s = shape_;
    if (s.m == 0 || s.n == 0 || s.batch == 0) return;
    char* workspace = static_cast<char*>(args.workspace);
    ThreadPool* pool = threads_ > 1 ? args.pool : nullptr;
    const uint8_t* b = static_cast<const uint8_t*>(args.inputs[1].raw());
    if (!packed_) {
      uint8_t* packed = reinterpret_cast<uint8_t*>(workspace + b_at_);
      parallel(pool, s.b_count * panels_.count(), s.k * VnniPanels::kColumns, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t matrix = i / panels_.count(), panel = i % panels_.count();
          vnni_pack_b(panels_, b + matrix * s.k * s.n, b_flip_, packed + matrix * panels_.bytes(), panel, panel + 1);
        }
      });
      b = packed;
    }

    const int64_t columns = panels_.columns();
    const int64_t a_zero = (has_a_zero_ ? zero_point(args.inputs[2], 0) : 0) + a_flip_;
    int32_t* b_zero = reinterpret_cast<int32_t*>(workspace + b_zero_at_);
    bool any_b_zero = false;
    for (int64_t j = 0; j < columns; ++j) {
      b_zero[j] = 0;
      if (j < s.n) b_zero[j] = (has_b_zero_ ? zero_point(args.inputs[3], args.inputs[3].count() == 1 ? 0 : j) : 0) - b_flip_;
      any_b_zero |= b_zero[j] != 0;
    }
    int32_t* terms = reinterpret_cast<int32_t*>(workspace + terms_at_);
    for (int64_t i = 0; i < s.b_count; ++i) {
      const int32_t* sums = reinterpret_cast<const int32_t*>(b + i * panels_.bytes() + panels_.sums_offset());
      // Sums past 2^31 wrap, here as in the products.
      for (int64_t j = 0; j < columns; ++j) terms[i * columns + j] = static_cast<int32_t>(a_zero * (s.k * b_zero[j] - sums[j]));
    }

    const uint8_t* a = static_cast<const uint8_t*>(args.inputs[0].raw());
    int32_t* row_sums = any_b_zero ? reinterpret_cast<int32_t*>(workspace + row_sums_at_) : nullptr;
    const int64_t a_stride = copies_a_ ? panels_.groups() * 4 : s.k;
    if (copies_a_ || row_sums) {
      uint8_t* copy = copies_a_ ? reinterpret_cast<uint8_t*>(workspace + a_at_) : nullptr;
      parallel(pool, s.a_count * s.m, s.k / 16 + 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
          vnni_prepare_row_avx512(a + i * s.k, s.k, a_flip_, copy ? copy + i * a_stride : nullptr, row_sums ? row_sums + i : nullptr);
      });
      if (copy) a = copy;
    }

    const int64_t blocks = (s.m + kBlockRows - 1) / kBlockRows, units = blocks * panels_.count();
    int32_t* c = args.outputs[0].data<int32_t>();
    // A thousand multiply-adds take what 16 simple operations take.
    parallel(pool, s.batch * units, std::min(s.m, kBlockRows) * s.k, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t item = i / units, block = i % units / panels_.count(), panel = i % panels_.count();
        const int64_t row = s.m * block / blocks, column = panel * VnniPanels::kColumns;
        const int64_t a_row = s.a_matrix[item] * s.m + row, b_matrix = s.b_matrix[item];
        VnniBlock t;
        t.a = a + a_row * a_stride, t.a_stride = a_stride;
        t.b = b + b_matrix * panels_.bytes() + panels_.offset(panel);
        t.groups = panels_.groups();
        t.rows = s.m * (block + 1) / blocks - row;
        t.cols = std::min(VnniPanels::kColumns, s.n - column);
        t.row_sums = row_sums ? row_sums + a_row : nullptr;
        t.b_zero = b_zero + column;
        t.column_term = terms + b_matrix * columns + column;
        t.c = c + (item * s.m + row) * s.n + column, t.c_stride = s.n;
        vnni_block_avx512(t);
      }
    });
  }

 private:
  static int32_t zero_point(const Tensor& t, int64_t i) { return t.dtype() == DType::I8 ? t.data<int8_t>()[i] : t.data<uint8_t>()[i]; }

  MatmulShape shape_;
  int threads_;
  bool packed_ = false, copies_a_ = false, has_a_zero_ = false, has_b_zero_ = false;
  uint8_t a_flip_ = 0, b_flip_ = 0;
  VnniPanels panels_;
  int64_t a_at_ = 0, row_sums_at_ = 0, b_at_ = 0, b_zero_at_ = 0, terms_at_ = 0, workspace_bytes_ = 0;
};

class MatmulIntegerDef final : public KernelDef {
 public:
  std::string_view name() const override { return "avx512vnni.matmul_integer"; }
  std::string_view op() const override { return "matmul_integer"; }

  Support supports(const NodeView& view) const override {
    if (!cpu_features().avx512_vnni) return Support::no("needs a CPU with vnni");
    for (int i = 0; i < view.num_inputs(); ++i)
      if (view.has_input(i) && !is_byte(view.input_dtypes[i]))
        return Support::no(fmt::format("input {} is {}, needs u8 or i8", i, to_string(view.input_dtypes[i])));
    const int64_t n = MatmulShape(view).n;
    if (view.num_inputs() > 2 && view.has_input(2) && num_elements(view.input_shapes[2]) != 1)
      return Support::no("a has several zero points");
    if (view.num_inputs() > 3 && view.has_input(3)) {
      const int64_t count = num_elements(view.input_shapes[3]);
      if (count != 1 && count != n) return Support::no(fmt::format("b has {} zero points for {} columns", count, n));
    }
    if (view.constants[0] && !view.constants[0]->layout().empty()) return Support::no("a is packed");
    if (view.constants[1] && !view.constants[1]->layout().empty() && view.constants[1]->layout() != kLayout)
      return Support::no("b is packed as " + view.constants[1]->layout());
    return Support::yes();
  }

  Tensor pack(const NodeView& view, const std::string&, int input) const override {
    const Tensor* b = input == 1 ? view.constants[1] : nullptr;
    if (b == nullptr || !b->layout().empty()) return {};
    const MatmulShape s(view);
    const VnniPanels panels{s.k, s.n};
    Tensor packed = Tensor::packed(b->dtype(), b->shape(), std::string(kLayout), s.b_count * panels.bytes());
    for (int64_t i = 0; i < s.b_count; ++i)
      vnni_pack_b(panels, static_cast<const uint8_t*>(b->raw()) + i * s.k * s.n, b->dtype() == DType::U8 ? 0x80 : 0,
                  static_cast<uint8_t*>(packed.raw()) + i * panels.bytes(), 0, panels.count());
    return packed;
  }

  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& view, const std::string&) const override {
    const Tensor* b = view.constants[1];
    const MatmulShape s(view);
    if (b && !b->layout().empty() && b->size_bytes() != s.b_count * VnniPanels{s.k, s.n}.bytes())
      fail(ErrorCode::Corrupt, "[matmul_integer \"{}\"] b is packed in {} bytes, {}x{} needs {}; rebuild the engine", view.node->name,
           b->size_bytes(), s.k, s.n, s.b_count * VnniPanels{s.k, s.n}.bytes());
    return std::make_unique<MatmulIntegerKernel>(view);
  }
};

}  // namespace

const KernelDef& matmul_integer_avx512_vnni() {
  static const MatmulIntegerDef def;
  return def;
}

}  // namespace tokamak::cpu
