// matmul with every broadcast, transposes, scale and epilogue; matmul_integer; quantized_matmul and linear.

#include "backends/cpu/kernels/ref/expr_ref.h"
#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cpu/kernels/ref/scalar.h"

namespace tokamak::cpu::ref {
namespace {

// The sizes and strides of one product. 1-D operands are a row (a) or a column (b).
struct Product {
  int64_t m = 1, n = 1, k = 1;
  int64_t a_row, a_col, b_row, b_col;  // strides in elements
  Shape batch;                         // of the output
  std::vector<int64_t> a_batch, b_batch;

  explicit Product(const NodeView& node) {
    Shape a = node.input_shapes[0], b = node.input_shapes[1];
    const bool trans_a = node.attrs().get_bool("trans_a", false), trans_b = node.attrs().get_bool("trans_b", false);
    if (a.empty() || b.empty()) fail_node(node, ErrorCode::InvalidArgument, "a scalar operand: {} and {}", to_string(a), to_string(b));
    if (a.size() == 1) a.insert(a.begin(), 1);
    if (b.size() == 1) b.push_back(1);
    const bool flip_a = trans_a && node.input_shapes[0].size() > 1, flip_b = trans_b && node.input_shapes[1].size() > 1;
    const int64_t a_rows = a[a.size() - 2], a_cols = a.back(), b_rows = b[b.size() - 2], b_cols = b.back();
    m = flip_a ? a_cols : a_rows;
    k = flip_a ? a_rows : a_cols;
    n = flip_b ? b_rows : b_cols;
    if (k != (flip_b ? b_cols : b_rows))
      fail_node(node, ErrorCode::InvalidArgument, "inner sizes differ: {} and {}", to_string(node.input_shapes[0]),
                to_string(node.input_shapes[1]));
    a_row = flip_a ? 1 : a_cols;
    a_col = flip_a ? a_cols : 1;
    b_row = flip_b ? 1 : b_cols;
    b_col = flip_b ? b_cols : 1;
    const Shape a_lead(a.begin(), a.end() - 2), b_lead(b.begin(), b.end() - 2);
    const size_t rank = std::max(a_lead.size(), b_lead.size());
    batch.assign(rank, 1);
    for (const Shape* lead : {&a_lead, &b_lead})
      for (size_t i = 0; i < lead->size(); ++i)
        if ((*lead)[i] != 1) batch[rank - lead->size() + i] = (*lead)[i];
    a_batch = broadcast_strides(a_lead, batch);
    b_batch = broadcast_strides(b_lead, batch);
    for (int64_t& s : a_batch) s *= a_rows * a_cols;
    for (int64_t& s : b_batch) s *= b_rows * b_cols;
  }

  // f(a offset, b offset, index of the product)
  template <class F>
  void for_each_batch(const F& f) const {
    int64_t i = 0;
    for_each_row(batch, std::array<std::vector<int64_t>, 2>{a_batch, b_batch}, [&](const auto& at, const auto& step, int64_t count) {
      for (int64_t c = 0; c < count; ++c) f(at[0] + c * step[0], at[1] + c * step[1], i++);
    });
  }
};

// Row by row so that b is read along its rows; acc is [n].
template <class W, class T, class U>
void multiply(const Product& p, const T* a, const U* b, int64_t row, std::vector<W>& acc) {
  std::fill(acc.begin(), acc.end(), W(0));
  if (p.b_col == 1) {
    for (int64_t k = 0; k < p.k; ++k) {
      const W left = static_cast<W>(a[row * p.a_row + k * p.a_col]);
      const U* line = b + k * p.b_row;
      for (int64_t j = 0; j < p.n; ++j) acc[j] += left * static_cast<W>(line[j]);
    }
  } else {
    for (int64_t j = 0; j < p.n; ++j) {
      W sum = 0;
      for (int64_t k = 0; k < p.k; ++k)
        sum += static_cast<W>(a[row * p.a_row + k * p.a_col]) * static_cast<W>(b[k * p.b_row + j * p.b_col]);
      acc[j] = sum;
    }
  }
}

void store_all(const char* op, const std::vector<float>& all, Tensor& out) {
  visit_number(out.dtype(), op, [&](auto tag) {
    using Out = typename decltype(tag)::type;
    for (size_t i = 0; i < all.size(); ++i) out.data<Out>()[i] = store<Out>(all[i]);
  });
}

RunFunction prepare_matmul(const NodeView& node) {
  const Product product(node);
  const double alpha = node.attrs().get_float("alpha", 1);
  const Epilogue epilogue(node);
  return [=](const RunArgs& args) {
    visit_number(args.inputs[0].dtype(), "matmul", [&](auto tag) {
      using T = typename decltype(tag)::type;
      using W = Accumulator<T>;
      std::vector<W> acc(product.n);
      const bool convert = epilogue || args.outputs[0].dtype() != args.inputs[0].dtype();
      std::vector<float> all(convert ? args.outputs[0].count() : 0);
      const Tensor& right = args.inputs[1];
      std::vector<T> converted;  // b in a's type, where they differ
      if constexpr (kIsFloat<T>)
        if (right.dtype() != args.inputs[0].dtype()) {
          converted.resize(right.count());
          for (int64_t i = 0; i < right.count(); ++i) converted[i] = store<T>(static_cast<float>(right.float_at(i)));
        }
      const T* const b = converted.empty() ? right.data<T>() : converted.data();
      product.for_each_batch([&](int64_t a_at, int64_t b_at, int64_t batch) {
        for (int64_t i = 0; i < product.m; ++i) {
          multiply(product, args.inputs[0].data<T>() + a_at, b + b_at, i, acc);
          const int64_t at = (batch * product.m + i) * product.n;
          for (int64_t j = 0; j < product.n; ++j) {
            if constexpr (kIsFloat<T>) acc[j] *= alpha;
            if (convert) all[at + j] = static_cast<float>(acc[j]);
            else args.outputs[0].data<T>()[at + j] = static_cast<T>(static_cast<Compute<T>>(acc[j]));
          }
        }
      });
      if (!convert) return;
      if (epilogue) epilogue.apply(all, args);
      store_all("matmul", all, args.outputs[0]);
    });
  };
}

// Zero points: a's is one value or one a row, b's one value or one a column.
RunFunction prepare_matmul_integer(const NodeView& node) {
  const Product product(node);
  return [=](const RunArgs& args) {
    const auto zero_points = [&](size_t i) {
      return args.inputs.size() > i && args.inputs[i].defined() ? args.inputs[i].to_ints() : std::vector<int64_t>{0};
    };
    const std::vector<int64_t> a_zero = zero_points(2), b_zero = zero_points(3);
    const std::vector<int64_t> a = args.inputs[0].to_ints(), b = args.inputs[1].to_ints();
    std::vector<int64_t> acc(product.n);
    product.for_each_batch([&](int64_t a_at, int64_t b_at, int64_t batch) {
      std::vector<int64_t> right(b.begin() + b_at, b.begin() + b_at + product.k * product.n);
      for (int64_t k = 0; k < product.k; ++k)
        for (int64_t j = 0; j < product.n; ++j) right[k * product.b_row + j * product.b_col] -= b_zero[b_zero.size() == 1 ? 0 : j];
      for (int64_t i = 0; i < product.m; ++i) {
        std::vector<int64_t> left(product.k);
        for (int64_t k = 0; k < product.k; ++k)
          left[k] = a[a_at + i * product.a_row + k * product.a_col] - a_zero[a_zero.size() == 1 ? 0 : i];
        for (int64_t j = 0; j < product.n; ++j) {
          int64_t sum = 0;
          for (int64_t k = 0; k < product.k; ++k) sum += left[k] * right[k * product.b_row + j * product.b_col];
          args.outputs[0].data<int32_t>()[(batch * product.m + i) * product.n + j] = static_cast<int32_t>(sum);
        }
      }
    });
  };
}

// rms_norm of rows of k, rounded to x's dtype as the norm's own kernel does.
std::vector<double> normalized(const Tensor& x, const Tensor& weight, double epsilon) {
  const int64_t k = weight.count();
  std::vector<double> out(x.count());
  Tensor rounded = Tensor::empty(x.dtype(), {k});
  std::vector<double> row(k);
  for (int64_t at = 0; at < x.count(); at += k) {
    double square = 0;
    for (int64_t i = 0; i < k; ++i) row[i] = x.float_at(at + i), square += row[i] * row[i];
    const double inverse = 1 / std::sqrt(square / static_cast<double>(k) + epsilon);
    for (int64_t i = 0; i < k; ++i) row[i] *= inverse * weight.float_at(i);
    from_doubles(row, rounded);
    for (int64_t i = 0; i < k; ++i) out[at + i] = rounded.float_at(i);
  }
  return out;
}

// quantized_matmul and linear (kIsLinear). a stays as it is: what kernels lose by rounding it is their error.
template <bool kIsLinear>
RunFunction prepare_linear(const NodeView& node) {
  const int64_t n = node.input_shapes[1][0], k = node.input_shapes[1][1], group = node.attrs().get_int("group_size", 0);
  const bool has_scale = node.num_inputs() > 2 && node.has_input(2);
  const bool has_norm = kIsLinear && node.num_inputs() > 3 && node.has_input(3);
  const double epsilon = node.attrs().get_float("epsilon", 1e-5);
  const std::string gate = node.attrs().get_string("gate", "");
  const Scalar* const function = gate.empty() ? nullptr : find_scalar(gate);
  const Epilogue epilogue(node);
  return [=](const RunArgs& args) {
    const Tensor &left = args.inputs[0], &b = args.inputs[1];
    const int64_t rows = args.outputs[0].count() * (function ? 2 : 1) / std::max<int64_t>(n, 1),
                  groups = has_scale ? args.inputs[2].dim(1) : 0;
    std::vector<double> row(k);
    const std::vector<double> a = has_norm ? normalized(left, args.inputs[3], epsilon) : to_doubles(left);
    std::vector<double> products(rows * n);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < k; ++i) row[i] = b.float_at(j * k + i) * (has_scale ? args.inputs[2].float_at(j * groups + i / group) : 1);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += a[r * k + i] * row[i];
        products[r * n + j] = sum;
      }
    }
    std::vector<float> all(args.outputs[0].count());
    for (size_t i = 0; i < all.size(); ++i) {
      if (function == nullptr) {
        all[i] = static_cast<float>(products[i]);
        continue;
      }
      const size_t at = i / 8 * 16 + i % 8;  // rows of both are whole eights
      all[i] = static_cast<float>(function->function(&products[at]) * products[at + 8]);
    }
    if (epilogue) epilogue.apply(all, args);
    store_all("linear", all, args.outputs[0]);
  };
}

}  // namespace

KernelList matmul_kernels() {
  return {define("matmul", prepare_matmul), define("matmul_integer", prepare_matmul_integer),
          define("quantized_matmul", prepare_linear<false>), define("linear", prepare_linear<true>)};
}

}  // namespace tokamak::cpu::ref
