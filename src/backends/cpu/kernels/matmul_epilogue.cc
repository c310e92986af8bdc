#include <algorithm>
#include <utility>

#include "backends/cpu/kernels/matmul.h"

namespace tokamak::cpu {
namespace {

constexpr int kMaxInputs = 64;  // of an epilogue expression

// Strides with which `shape` is walked as `out` (NumPy broadcasting): 0 along repeated dims.
std::vector<int64_t> broadcast_strides(const Shape& shape, const Shape& out) {
  std::vector<int64_t> strides(out.size(), 0);
  int64_t stride = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t d = shape[shape.size() - 1 - i];
    if (d != 1) strides[out.size() - 1 - i] = stride;
    stride *= d;
  }
  return strides;
}

// Offsets of the items of a batch whose dims have these strides.
std::vector<int64_t> item_offsets(const Shape& dims, const std::vector<int64_t>& strides) {
  std::vector<int64_t> offsets = {0};
  for (size_t d = 0; d < dims.size(); ++d) {
    std::vector<int64_t> next;
    next.reserve(offsets.size() * dims[d]);
    for (int64_t base : offsets)
      for (int64_t i = 0; i < dims[d]; ++i) next.push_back(base + i * strides[d]);
    offsets = std::move(next);
  }
  return offsets;
}

bool fits(const Shape& shape, const Shape& out) {
  if (shape.size() > out.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t d = shape[shape.size() - 1 - i];
    if (d != 1 && d != out[out.size() - 1 - i]) return false;
  }
  return true;
}

bool expression_dtype(DType dtype) {
  switch (dtype) {
    case DType::F32:
    case DType::F16:
    case DType::BF16:
    case DType::Bool:
    case DType::U8:
    case DType::I8:
    case DType::I32:
    case DType::I64: return true;
    default: return false;
  }
}

}  // namespace

MatmulShape::MatmulShape(const NodeView& view, bool transposed_b) {
  const Shape& a = view.input_shapes[0];
  const Shape& b = view.input_shapes[1];
  row = a.size() == 1, column = b.size() == 1;
  trans_a = !row && view.attrs().get_bool("trans_a", false);
  trans_b = column || transposed_b;  // a vector is a 1 x k matrix transposed
  k = row ? a[0] : a[a.size() - (trans_a ? 2 : 1)];
  m = row ? 1 : a[a.size() - (trans_a ? 1 : 2)];
  n = column ? 1 : b[b.size() - (trans_b ? 2 : 1)];
  if (m == 1) trans_a = false;  // the same memory
  if (n == 1) trans_b = false;
  const Shape a_batch(a.begin(), a.end() - (row ? 1 : 2)), b_batch(b.begin(), b.end() - (column ? 1 : 2));
  const Shape& out = view.output_shapes[0];
  batch_dims.assign(out.begin(), out.end() - (row ? 0 : 1) - (column ? 0 : 1));
  a_count = num_elements(a_batch), b_count = num_elements(b_batch);
  a_matrix = item_offsets(batch_dims, broadcast_strides(a_batch, batch_dims));
  b_matrix = item_offsets(batch_dims, broadcast_strides(b_batch, batch_dims));
  batch = static_cast<int64_t>(a_matrix.size());
}

void MatmulShape::flatten_batch() {
  if (batch <= 1 || b_count != 1 || a_count != batch || trans_a) return;
  m *= batch;
  batch = a_count = 1;
  a_matrix = b_matrix = {0};
}

Support MatmulEpilogue::supports(const NodeView& view) {
  if (!view.attrs().has("epilogue")) return Support::yes();
  const ir::Expr expr = ir::Expr::parse(view.attrs().get_string("epilogue"));
  if (expr.results.size() != 1) return Support::no(fmt::format("the epilogue has {} results, needs 1", expr.results.size()));
  if (expr.num_inputs() > kMaxInputs)
    return Support::no(fmt::format("the epilogue has {} inputs, at most {}", expr.num_inputs(), kMaxInputs));
  const int first = static_cast<int>(view.attrs().get_int("epilogue_input", 2));
  for (int i = 1; i < expr.num_inputs(); ++i) {
    const int input = first + i - 1;
    if (input >= view.num_inputs() || !view.has_input(input)) return Support::no(fmt::format("epilogue input i{} is absent", i));
    if (!expression_dtype(view.input_dtypes[input]))
      return Support::no(fmt::format("epilogue input i{} is {}", i, to_string(view.input_dtypes[input])));
    if (!fits(view.input_shapes[input], view.output_shapes[0]))
      return Support::no(fmt::format("epilogue input i{} is {}, does not broadcast to {}", i, to_string(view.input_shapes[input]),
                                     to_string(view.output_shapes[0])));
    if (view.constants[input] && !view.constants[input]->layout().empty())
      return Support::no(fmt::format("epilogue input i{} is packed", i));
  }
  return Support::yes();
}

MatmulEpilogue::MatmulEpilogue(const NodeView& view, const MatmulShape& s) : m_(s.m), n_(s.n), rows_per_item_(s.m) {
  if (!view.attrs().has("epilogue")) return;
  ExprProgram program(ir::Expr::parse(view.attrs().get_string("epilogue")));
  const int first = static_cast<int>(view.attrs().get_int("epilogue_input", 2));
  const Shape& out = view.output_shapes[0];
  const int64_t total = num_elements(out);
  std::vector<bool> per_column = {false}, full = {true};
  bool one_run = true;
  for (int i = 1; i < program.expr().num_inputs(); ++i) {
    Operand o;
    o.input = first + i - 1;
    o.dtype = view.input_dtypes[o.input];
    const Shape& shape = view.input_shapes[o.input];
    const std::vector<int64_t> strides = broadcast_strides(shape, out);
    const size_t batch_rank = s.batch_dims.size();
    o.row_stride = s.row ? 0 : strides[batch_rank];
    o.col_stride = s.column ? 0 : strides.back();
    o.offset = item_offsets(s.batch_dims, {strides.begin(), strides.begin() + batch_rank});
    const int64_t count = num_elements(shape);
    const bool f32 = o.dtype == DType::F32;
    per_column.push_back(f32 && count == n_ && (n_ == 1 || o.col_stride == 1));
    full.push_back(f32 && count == total);
    if (count == total) o.row_stride = n_;  // also where m is 1, so that the items are one run
    if (s.m == 1 && count != total && s.batch > 1) {
      // Rows are items: one run when they are evenly spaced.
      const int64_t step = o.offset[1] - o.offset[0];
      if (std::all_of(o.offset.begin(), o.offset.end(),
                      [&, at = int64_t{0}](int64_t x) mutable { return x == std::exchange(at, at + step); }))
        o.row_stride = step;
    }
    for (size_t item = 0; item < o.offset.size(); ++item) one_run &= o.offset[item] == static_cast<int64_t>(item) * s.m * o.row_stride;
    operands_.push_back(std::move(o));
  }
  has_simple_ = program.as_simple(per_column, full, simple_);
  if (has_simple_) return;
  program_.emplace(std::move(program));
  if (one_run) {
    rows_per_item_ = std::max<int64_t>(s.m * s.batch, 1);
    for (Operand& o : operands_) o.offset = {0};
  }
}

GemmEpilogue MatmulEpilogue::in_registers(std::span<const Tensor> inputs, int64_t item) const {
  GemmEpilogue e;
  if (!has_simple_) return e;
  if (simple_.bias > 0) e.bias = inputs[operands_[simple_.bias - 1].input].data<float>();
  if (simple_.residual > 0) {
    e.residual = inputs[operands_[simple_.residual - 1].input].data<float>() + item * m_ * n_;
    e.residual_stride = n_;
  }
  e.residual_after = simple_.residual_after;
  e.activation = simple_.activation;
  return e;
}

void MatmulEpilogue::run(std::span<const Tensor> inputs, float* c, int64_t row, int64_t rows, int64_t col, int64_t cols,
                         void* scratch) const {
  TileInput tile[kMaxInputs];
  while (rows > 0) {
    const int64_t item = row / rows_per_item_, first = row % rows_per_item_, count = std::min(rows, rows_per_item_ - first);
    float* out = c + row * n_ + col;
    tile[0] = {out, DType::F32, n_, 1};
    for (size_t i = 0; i < operands_.size(); ++i) {
      const Operand& o = operands_[i];
      const int64_t at = o.offset[item] + first * o.row_stride + col * o.col_stride;
      const char* data = static_cast<const char*>(inputs[o.input].raw());
      tile[i + 1] = {data + at * (bits_of(o.dtype) / 8), o.dtype, o.row_stride, o.col_stride};
    }
    const TileOutput result{out, DType::F32, n_};
    program_->run(count, cols, tile, &result, scratch);
    row += count, rows -= count;
  }
}

}  // namespace tokamak::cpu
