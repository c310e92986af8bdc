// Op conv_transpose in float32, channels last (channels-first data is transposed in the workspace): kernels "<isa>.conv_transpose". Every
// output row gathers, tap by tap, the products of the input rows that reach it: one GEMM a tap, stored at the stride of the output pixels.

#include <algorithm>

#include "backends/cpu/kernels/conv.h"

namespace tokamak::cpu {
namespace {

Support transpose_problem(const NodeView& node, ConvProblem& p) {
  const ir::Attrs& attrs = node.attrs();
  for (int i = 0; i < std::min(node.num_inputs(), 3); ++i)
    if (node.has_input(i) && node.input_dtypes[i] != DType::F32)
      return Support::no(fmt::format("input {} is {}, needs f32", i, to_string(node.input_dtypes[i])));
  if (node.num_inputs() < 2 || node.constants[1] == nullptr) return Support::no("the weights are not constant");
  const Shape &x = node.input_shapes[0], &w = node.input_shapes[1], &y = node.output_shapes[0];
  const size_t rank = x.size(), spatial = rank - 2;
  if (rank != 3 && rank != 4) return Support::no(fmt::format("input of rank {}, needs 3 or 4", rank));
  p.nchw = attrs.get_string("layout", "NCHW") != "NHWC";
  const bool flat = spatial == 1;
  const size_t first = p.nchw ? 2 : 1, channel = p.nchw ? 1 : rank - 1;
  const auto pair = [&](const char* name, int64_t& a, int64_t& b) {
    const ir::Ints v = attrs.get_ints(name, ir::Ints(spatial, 1));
    if (v.size() != spatial) return false;
    a = flat ? 1 : v[0];
    b = v[spatial - 1];
    return a >= 1 && b >= 1;
  };
  if (!pair("strides", p.stride_h, p.stride_w) || !pair("dilations", p.dilation_h, p.dilation_w))
    return Support::no("strides or dilations do not fit");
  p.batch = x[0];
  p.c = x[channel];
  p.m = y[channel];
  p.h = flat ? 1 : x[first];
  p.w = x[first + spatial - 1];
  p.oh = flat ? 1 : y[first];
  p.ow = y[first + spatial - 1];
  p.kh = flat ? 1 : w[2];
  p.kw = w[2 + spatial - 1];
  p.group = attrs.get_int("group", 1);
  p.num_threads = std::max(1, node.num_threads);
  if (p.group < 1 || p.c % p.group || w[0] != p.c || w[1] * p.group != p.m) return Support::no("groups do not fit the channels");
  const std::string auto_pad = attrs.get_string("auto_pad", "NOTSET");
  if ((auto_pad != "NOTSET" && auto_pad != "VALID" && !auto_pad.empty()) || attrs.has("output_shape"))
    return Support::no("pads follow from the output shape");
  const ir::Ints pads = auto_pad == "VALID" ? ir::Ints(2 * spatial, 0) : attrs.get_ints("pads", ir::Ints(2 * spatial, 0));
  if (pads.size() != 2 * spatial) return Support::no("pads do not fit the rank");
  p.pad_top = flat ? 0 : pads[0];
  p.pad_left = pads[spatial - 1];
  return Support::yes();
}

class ConvTransposeKernel : public Kernel {
 public:
  ConvTransposeKernel(const ConvProblem& problem, const ConvIsa& isa) : p_(problem), isa_(isa) {
    cg_ = p_.c / p_.group;
    mg_ = p_.m / p_.group;
    panels_ = conv_panels(mg_, isa.width, isa.max_nv);
    if (p_.nchw) {
      x_bytes_ = round_up(p_.batch * p_.h * p_.w * p_.c * 4, 64);
      y_bytes_ = round_up(p_.pixels() * p_.m * 4, 64);
    }
  }
  int64_t workspace_bytes() const override { return x_bytes_ + y_bytes_; }

  void run(const RunArgs& args) const override {
    const float* x = args.inputs[0].data<float>();
    float* y = args.outputs[0].data<float>();
    if (args.outputs[0].count() == 0) return;
    if (p_.nchw) {
      float* last = static_cast<float*>(args.workspace);
      transpose_planes(x, last, p_.batch, p_.c, p_.h * p_.w, args.pool, p_.num_threads);
      x = last;
      y = last + x_bytes_ / 4;
    }
    const float* weights = args.inputs[1].data<float>();
    const float* bias = args.inputs.size() > 2 && args.inputs[2].defined() ? args.inputs[2].data<float>() : nullptr;
    conv_parallel(args.pool, p_.num_threads, p_.batch * p_.oh, std::max<int64_t>(1, p_.batch * p_.oh / (4 * p_.num_threads)),
                  [&](int64_t begin, int64_t end, int) {
                    for (int64_t row = begin; row < end; ++row) run_row(x, weights, bias, y, row / p_.oh, row % p_.oh);
                  });
    if (p_.nchw) transpose_planes(y, args.outputs[0].data<float>(), p_.batch, p_.oh * p_.ow, p_.m, args.pool, p_.num_threads);
  }

 private:
  static constexpr int64_t kMaxRows = 128;

  void run_row(const float* x, const float* weights, const float* bias, float* y, int64_t n, int64_t oy) const {
    float* out = y + (n * p_.oh + oy) * p_.ow * p_.m;
    for (int64_t ox = 0; ox < p_.ow; ++ox)
      for (int64_t m = 0; m < p_.m; ++m) out[ox * p_.m + m] = bias ? bias[m] : 0.0f;
    for (int64_t i = 0; i < p_.kh; ++i) {
      const int64_t reach = oy + p_.pad_top - i * p_.dilation_h;
      if (reach < 0 || reach % p_.stride_h || reach / p_.stride_h >= p_.h) continue;
      const float* in = x + (n * p_.h + reach / p_.stride_h) * p_.w * p_.c;
      for (int64_t j = 0; j < p_.kw; ++j) {
        const int64_t shift = p_.pad_left - j * p_.dilation_w;  // ox = ix * stride - shift
        const int64_t first = shift > 0 ? ceil_div(shift, p_.stride_w) : 0;
        const int64_t room = p_.ow - 1 + shift;
        const int64_t last = room < 0 ? 0 : std::min(p_.w, room / p_.stride_w + 1);
        for (int64_t ix = first; ix < last; ix += kMaxRows)
          run_tap(in, weights, out, i * p_.kw + j, ix, std::min(kMaxRows, last - ix), ix * p_.stride_w - shift);
      }
    }
  }

  void run_tap(const float* in, const float* weights, float* out, int64_t tap, int64_t ix, int64_t count, int64_t ox) const {
    const float* rows[kMaxRows];
    const KSegment segment{0, cg_};
    PanelArgs args;
    args.rows = rows;
    args.m = count;
    args.segments = &segment;
    args.num_segments = 1;
    args.ldc = p_.stride_w * p_.m;
    args.load_c = true;
    args.plain = true;
    const int64_t vectors = ceil_div(mg_, isa_.width);
    for (int64_t g = 0; g < p_.group; ++g) {
      for (int64_t r = 0; r < count; ++r) rows[r] = in + (ix + r) * p_.c + g * cg_;
      for (const ConvPanel& panel : panels_) {
        args.b = weights + ((g * p_.kh * p_.kw + tap) * vectors + panel.vector) * isa_.width * cg_;
        args.nv = panel.nv;
        args.n = panel.columns;
        args.c = out + ox * p_.m + g * mg_ + panel.column;
        isa_.panel(args);
      }
    }
  }

  ConvProblem p_;
  const ConvIsa& isa_;
  int64_t cg_, mg_, x_bytes_ = 0, y_bytes_ = 0;
  std::vector<ConvPanel> panels_;
};

class ConvTransposeDef : public KernelDef {
 public:
  explicit ConvTransposeDef(const ConvIsa& isa) : isa_(isa), name_(fmt::format("{}.conv_transpose", isa.name)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "conv_transpose"; }
  Support supports(const NodeView& node) const override {
    if (!conv_isa_present(isa_)) return Support::no(fmt::format("this CPU has no {}", isa_.name));
    ConvProblem p;
    return transpose_problem(node, p);
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    if (input != 1 || node.constants[1]->layout() == name_) return {};
    const ConvProblem p = read(node);
    const Tensor& weights = *node.constants[1];
    if (!weights.layout().empty())
      fail(ErrorCode::InvalidArgument, "[conv_transpose \"{}\"] weights are already packed as {}", node.node->name, weights.layout());
    Tensor packed = Tensor::packed(DType::F32, weights.shape(), name_, packed_floats(p) * 4);
    const int64_t cg = p.c / p.group, mg = p.m / p.group, taps = p.kh * p.kw;
    const float* w = weights.data<float>();
    float* out = packed.data<float>();
    for (int64_t g = 0; g < p.group; ++g)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (const ConvPanel& panel : conv_panels(mg, isa_.width, isa_.max_nv))
          for (int64_t c = 0; c < cg; ++c)
            for (int64_t j = 0; j < panel.nv * isa_.width; ++j)
              *out++ = j < panel.columns ? w[((g * cg + c) * mg + panel.column + j) * taps + tap] : 0.0f;
    return packed;
  }
  bool reads_layout(std::string_view layout) const override { return layout == name_; }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const ConvProblem p = read(node);
    const Tensor* weights = node.constants[1];
    if (weights->layout() != name_ || weights->size_bytes() != packed_floats(p) * 4)
      fail(ErrorCode::Corrupt, "[conv_transpose \"{}\"] expects weights packed as {}, found \"{}\"; rebuild the engine", node.node->name,
           name_, weights->layout());
    return std::make_unique<ConvTransposeKernel>(p, isa_);
  }

 private:
  static ConvProblem read(const NodeView& node) {
    ConvProblem p;
    if (const Support can = transpose_problem(node, p); !can)
      fail(ErrorCode::Unsupported, "[conv_transpose \"{}\"] {}", node.node->name, can.reason());
    return p;
  }
  int64_t packed_floats(const ConvProblem& p) const { return p.kh * p.kw * p.c * round_up(p.m / p.group, isa_.width); }

  const ConvIsa& isa_;
  std::string name_;
};

}  // namespace

const KernelDef& conv_transpose_avx512() {
  static const ConvTransposeDef def(kConvAvx512);
  return def;
}
const KernelDef& conv_transpose_avx2() {
  static const ConvTransposeDef def(kConvAvx2);
  return def;
}

}  // namespace tokamak::cpu
