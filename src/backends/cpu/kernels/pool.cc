// Ops max_pool and avg_pool (channels last; channels-first data is transposed in the workspace), and reductions over axes before the last
// one, such as a global average pool: kernels "<isa>.pool" and "<isa>.reduce_spatial".

#include <algorithm>

#include "backends/cpu/kernels/conv.h"

namespace tokamak::cpu {
namespace {

// A pool's geometry is a convolution's, and what the average needs to know of the padding.
struct PoolProblem {
  ConvProblem window;
  int64_t declared_bottom = 0, declared_right = 0;
  bool is_max = false, include_pad = false;
};

Support pool_problem(const NodeView& node, bool is_max, PoolProblem& out) {
  const ir::Attrs& attrs = node.attrs();
  ConvProblem& p = out.window;
  out.is_max = is_max;
  out.include_pad = attrs.get_bool("count_include_pad", false);
  if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("input is {}, needs f32", to_string(node.input_dtypes[0])));
  if (node.num_outputs() > 1 && node.node->output(1) != nullptr) return Support::no("indices are wanted");
  const Shape &x = node.input_shapes[0], &y = node.output_shapes[0];
  const size_t rank = x.size(), spatial = rank - 2;
  if (rank != 3 && rank != 4) return Support::no(fmt::format("input of rank {}, needs 3 or 4", rank));
  p.nchw = attrs.get_string("layout", "NCHW") != "NHWC";
  const bool flat = spatial == 1;
  const size_t first = p.nchw ? 2 : 1;
  const auto pair = [&](const char* name, int64_t& a, int64_t& b) {
    const ir::Ints v = attrs.get_ints(name, ir::Ints(spatial, 1));
    if (v.size() != spatial) return false;
    a = flat ? 1 : v[0];
    b = v[spatial - 1];
    return a >= 1 && b >= 1;
  };
  if (!pair("kernel", p.kh, p.kw) || !pair("strides", p.stride_h, p.stride_w) || !pair("dilations", p.dilation_h, p.dilation_w))
    return Support::no("kernel, strides or dilations do not fit the rank");
  p.batch = x[0];
  p.c = p.m = x[p.nchw ? 1 : rank - 1];
  p.h = flat ? 1 : x[first];
  p.w = x[first + spatial - 1];
  p.oh = flat ? 1 : y[first];
  p.ow = y[first + spatial - 1];
  p.num_threads = std::max(1, node.num_threads);
  p.ldy = node.output_pitch > 0 ? node.output_pitch : p.c;
  const std::string auto_pad = attrs.get_string("auto_pad", "NOTSET");
  if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
    const int64_t lower = auto_pad == "SAME_LOWER";
    const int64_t h = std::max<int64_t>(0, (p.oh - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1 - p.h);
    const int64_t w = std::max<int64_t>(0, (p.ow - 1) * p.stride_w + (p.kw - 1) * p.dilation_w + 1 - p.w);
    p.pad_top = (h + lower) / 2;
    p.pad_left = (w + lower) / 2;
    out.declared_bottom = h - p.pad_top;
    out.declared_right = w - p.pad_left;
  } else if (auto_pad != "VALID") {
    const ir::Ints pads = attrs.get_ints("pads", ir::Ints(2 * spatial, 0));
    if (pads.size() != 2 * spatial) return Support::no("pads do not fit the rank");
    for (int64_t pad : pads)
      if (pad < 0) return Support::no("a negative pad");
    p.pad_top = flat ? 0 : pads[0];
    p.pad_left = pads[spatial - 1];
    out.declared_bottom = flat ? 0 : pads[2];
    out.declared_right = pads[2 * spatial - 1];
  }
  return Support::yes();
}

class PoolKernel : public Kernel {
 public:
  PoolKernel(const PoolProblem& problem, const ConvIsa& isa) : p_(problem), isa_(isa) {
    const ConvProblem& w = p_.window;
    if (w.nchw && w.c > 1) {
      x_bytes_ = round_up(w.batch * w.h * w.w * w.c * 4, 64);
      y_bytes_ = round_up(w.pixels() * w.c * 4, 64);
    }
  }
  int64_t workspace_bytes() const override { return x_bytes_ + y_bytes_; }

  void run(const RunArgs& args) const override {
    const ConvProblem& w = p_.window;
    if (args.outputs[0].count() == 0) return;
    const float* x = args.inputs[0].data<float>();
    float* y = args.outputs[0].data<float>();
    if (x_bytes_) {
      float* last = static_cast<float*>(args.workspace);
      transpose_planes(x, last, w.batch, w.c, w.h * w.w, args.pool, w.num_threads);
      x = last;
      y = last + x_bytes_ / 4;
    }
    const int64_t pieces = std::min<int64_t>(w.oh, w.num_threads == 1 ? 1 : 2 * w.num_threads);
    conv_parallel(args.pool, w.num_threads, w.batch * pieces, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t n = item / pieces, piece = item % pieces;
        PoolArgs pool;
        pool.x = x + n * w.h * w.w * w.c;
        pool.h = w.h, pool.w = w.w, pool.c = w.c;
        pool.y = y + n * w.oh * w.ow * w.ldy;
        pool.ow = w.ow, pool.ldy = w.ldy;
        pool.kh = w.kh, pool.kw = w.kw;
        pool.stride_h = w.stride_h, pool.stride_w = w.stride_w;
        pool.dilation_h = w.dilation_h, pool.dilation_w = w.dilation_w;
        pool.pad_top = w.pad_top, pool.pad_left = w.pad_left;
        pool.pad_bottom = p_.declared_bottom, pool.pad_right = p_.declared_right;
        pool.is_max = p_.is_max, pool.include_pad = p_.include_pad;
        pool.row_begin = w.oh * piece / pieces, pool.row_end = w.oh * (piece + 1) / pieces;
        isa_.pool(pool);
      }
    });
    if (x_bytes_) transpose_planes(y, args.outputs[0].data<float>(), w.batch, w.oh * w.ow, w.c, args.pool, w.num_threads);
  }

 private:
  PoolProblem p_;
  const ConvIsa& isa_;
  int64_t x_bytes_ = 0, y_bytes_ = 0;
};

class PoolDef : public KernelDef {
 public:
  PoolDef(const ConvIsa& isa, bool is_max)
      : isa_(isa), is_max_(is_max), name_(fmt::format("{}.{}", isa.name, is_max ? "max_pool" : "avg_pool")) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return is_max_ ? "max_pool" : "avg_pool"; }
  Support supports(const NodeView& node) const override {
    if (!conv_isa_present(isa_)) return Support::no(fmt::format("this CPU has no {}", isa_.name));
    PoolProblem p;
    return pool_problem(node, is_max_, p);
  }
  bool pitches_output(const NodeView& node) const override {
    PoolProblem p;
    return pool_problem(node, is_max_, p) && !p.window.nchw;
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    PoolProblem p;
    if (const Support can = pool_problem(node, is_max_, p); !can)
      fail(ErrorCode::Unsupported, "[{} \"{}\"] {}", op(), node.node->name, can.reason());
    return std::make_unique<PoolKernel>(p, isa_);
  }

 private:
  const ConvIsa& isa_;
  bool is_max_;
  std::string name_;
};

// x as [outer, rows, columns], reduced over rows.
struct ReduceProblem {
  int64_t outer = 1, rows = 1, columns = 1;
  int threads = 1;
};

Support reduce_problem(const NodeView& node, ReduceProblem& p) {
  if (node.input_dtypes[0] != DType::F32) return Support::no(fmt::format("input is {}, needs f32", to_string(node.input_dtypes[0])));
  const Shape& x = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(x.size());
  ir::Ints axes;
  if (node.attrs().has("axes")) axes = node.attrs().get_ints("axes");
  else if (node.num_inputs() > 1 && node.has_input(1) && node.constants[1] != nullptr) axes = node.constants[1]->to_ints();
  else return Support::no("the axes are not constant");
  if (axes.empty()) return Support::no("no axes");
  for (int64_t& axis : axes) {
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) return Support::no("an axis outside the rank");
  }
  std::sort(axes.begin(), axes.end());
  for (size_t i = 1; i < axes.size(); ++i)
    if (axes[i] != axes[i - 1] + 1) return Support::no("the axes are not neighbours");
  if (axes.back() == rank - 1) return Support::no("reduces the last axis");
  for (int64_t i = 0; i < rank; ++i) (i < axes.front() ? p.outer : i <= axes.back() ? p.rows : p.columns) *= x[i];
  if (p.rows == 0) return Support::no("an empty reduction");
  p.threads = std::max(1, node.num_threads);
  return Support::yes();
}

class ReduceKernel : public Kernel {
 public:
  ReduceKernel(const ReduceProblem& problem, const ConvIsa& isa, ColumnReduction reduction, bool mean)
      : p_(problem), isa_(isa), reduction_(reduction), scale_(mean ? 1.0f / static_cast<float>(problem.rows) : 1.0f) {}
  void run(const RunArgs& args) const override {
    constexpr int64_t kColumns = 256;
    const int64_t strips = ceil_div(p_.columns, kColumns);
    conv_parallel(args.pool, p_.threads, p_.outer * strips, std::max<int64_t>(1, p_.outer * strips / (4 * p_.threads)),
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t item = begin; item < end; ++item) {
                      const int64_t n = item / strips, c = item % strips * kColumns;
                      ColumnArgs columns;
                      columns.x = args.inputs[0].data<float>() + n * p_.rows * p_.columns + c;
                      columns.rows = p_.rows;
                      columns.columns = std::min(kColumns, p_.columns - c);
                      columns.stride = p_.columns;
                      columns.reduction = reduction_;
                      columns.scale = scale_;
                      columns.y = args.outputs[0].data<float>() + n * p_.columns + c;
                      isa_.columns(columns);
                    }
                  });
  }

 private:
  ReduceProblem p_;
  const ConvIsa& isa_;
  ColumnReduction reduction_;
  float scale_;
};

class ReduceDef : public KernelDef {
 public:
  // The name is that of the op when it is not the mean, which the global average pool uses.
  ReduceDef(const ConvIsa& isa, std::string_view op)
      : isa_(isa),
        op_(op),
        name_(op == "reduce_mean" ? fmt::format("{}.reduce_spatial", isa.name) : fmt::format("{}.{}_spatial", isa.name, op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!conv_isa_present(isa_)) return Support::no(fmt::format("this CPU has no {}", isa_.name));
    ReduceProblem p;
    return reduce_problem(node, p);
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    ReduceProblem p;
    if (const Support can = reduce_problem(node, p); !can)
      fail(ErrorCode::Unsupported, "[{} \"{}\"] {}", op_, node.node->name, can.reason());
    return std::make_unique<ReduceKernel>(p, isa_, op_ == "reduce_max" ? ColumnReduction::Max : ColumnReduction::Sum, op_ == "reduce_mean");
  }

 private:
  const ConvIsa& isa_;
  std::string op_, name_;
};

}  // namespace

#define TOKAMAK_POOL_KERNELS(suffix, isa)           \
  const KernelDef& max_pool_##suffix() {            \
    static const PoolDef def(isa, true);            \
    return def;                                     \
  }                                                 \
  const KernelDef& avg_pool_##suffix() {            \
    static const PoolDef def(isa, false);           \
    return def;                                     \
  }                                                 \
  const KernelDef& reduce_mean_spatial_##suffix() { \
    static const ReduceDef def(isa, "reduce_mean"); \
    return def;                                     \
  }                                                 \
  const KernelDef& reduce_sum_spatial_##suffix() {  \
    static const ReduceDef def(isa, "reduce_sum");  \
    return def;                                     \
  }                                                 \
  const KernelDef& reduce_max_spatial_##suffix() {  \
    static const ReduceDef def(isa, "reduce_max");  \
    return def;                                     \
  }
TOKAMAK_POOL_KERNELS(avx512, kConvAvx512)
TOKAMAK_POOL_KERNELS(avx2, kConvAvx2)
#undef TOKAMAK_POOL_KERNELS

}  // namespace tokamak::cpu
