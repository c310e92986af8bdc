// Op `conv` in float32: what the methods share, and the kernels "<isa>.conv_<method>".

#include "backends/cpu/kernels/conv.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "backends/cpu/cpu_features.h"

namespace tokamak::cpu {

std::vector<ConvPanel> conv_panels(int64_t columns, int width, int max_nv) {
  const int64_t vectors = ceil_div(columns, width), count = std::max<int64_t>(1, ceil_div(vectors, max_nv));
  std::vector<ConvPanel> panels;
  int64_t vector = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t nv = vectors / count + (i < vectors % count);
    panels.push_back({vector * width, std::min(columns - vector * width, nv * width), static_cast<int>(nv), vector});
    vector += nv;
  }
  return panels;
}

int64_t conv_tactic_value(const std::string& tactic, std::string_view key, int64_t otherwise, int64_t low, int64_t high) {
  std::string_view rest = tactic;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const size_t equal = part.find('=');
    if (equal == std::string_view::npos || part.substr(0, equal) != key) continue;
    int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data() + equal + 1, part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < low || value > high)
      fail(ErrorCode::Corrupt, "tactic \"{}\" of a convolution: {} needs a number from {} to {}; rebuild the engine", tactic, key, low,
           high);
    return value;
  }
  return otherwise;
}

Support conv_problem(const NodeView& node, ConvProblem& p) {
  const ir::Attrs& attrs = node.attrs();
  if (node.num_inputs() < 2) return Support::no("needs an input and weights");
  for (int i = 0; i < std::min(node.num_inputs(), 3); ++i)
    if (node.has_input(i) && node.input_dtypes[i] != DType::F32)
      return Support::no(fmt::format("input {} is {}, needs f32", i, to_string(node.input_dtypes[i])));
  if (node.output_dtypes[0] != DType::F32) return Support::no("the output is not f32");
  const Shape &x = node.input_shapes[0], &w = node.input_shapes[1], &y = node.output_shapes[0];
  const size_t rank = x.size();
  if (rank != 3 && rank != 4) return Support::no(fmt::format("input of rank {}, needs 3 or 4", rank));
  if (w.size() != rank || y.size() != rank) return Support::no("ranks of input, weights and output differ");
  const std::string layout = attrs.get_string("layout", "NCHW");
  p.nchw = layout != "NHWC";
  const size_t spatial = rank - 2, first = p.nchw ? 2 : 1, channel = p.nchw ? 1 : rank - 1;
  const bool flat = spatial == 1;
  p.batch = x[0];
  p.c = x[channel];
  p.m = w[0];
  p.h = flat ? 1 : x[first];
  p.w = x[first + spatial - 1];
  p.oh = flat ? 1 : y[first];
  p.ow = y[first + spatial - 1];
  p.kh = flat ? 1 : w[2];
  p.kw = w[2 + spatial - 1];
  const auto pair = [&](const char* name, int64_t& a, int64_t& b) {
    const ir::Ints v = attrs.get_ints(name, {});
    a = b = 1;
    if (v.size() == spatial) {
      a = flat ? 1 : v[0];
      b = v[spatial - 1];
    }
  };
  pair("strides", p.stride_h, p.stride_w);
  pair("dilations", p.dilation_h, p.dilation_w);
  p.group = attrs.get_int("group", 1);
  p.num_threads = std::max(1, node.num_threads);
  p.ldy = node.output_pitch > 0 ? node.output_pitch : p.m;
  if (p.group < 1 || p.c % p.group || p.m % p.group || w[1] * p.group != p.c) return Support::no("groups do not fit the channels");
  if (p.batch < 1 || p.c < 1 || p.m < 1 || p.oh < 1 || p.ow < 1 || p.h < 1 || p.w < 1 || p.kh < 1 || p.kw < 1)
    return Support::no("an empty tensor");
  if (p.stride_h < 1 || p.stride_w < 1 || p.dilation_h < 1 || p.dilation_w < 1) return Support::no("strides and dilations below 1");

  const int64_t need_h = (p.oh - 1) * p.stride_h + (p.kh - 1) * p.dilation_h + 1 - p.h;  // padding that the output size implies
  const int64_t need_w = (p.ow - 1) * p.stride_w + (p.kw - 1) * p.dilation_w + 1 - p.w;
  const std::string auto_pad = attrs.get_string("auto_pad", "NOTSET");
  if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
    const int64_t up = auto_pad == "SAME_LOWER", h = std::max<int64_t>(need_h, 0), wide = std::max<int64_t>(need_w, 0);
    p.pad_top = (h + up) / 2;
    p.pad_left = (wide + up) / 2;
  } else {
    const ir::Ints pads = attrs.get_ints("pads", {});
    if (!pads.empty() && pads.size() != 2 * spatial) return Support::no("pads do not fit the rank");
    for (int64_t pad : pads)
      if (pad < 0) return Support::no("a negative pad");
    p.pad_top = pads.empty() || flat ? 0 : pads[0];
    p.pad_left = pads.empty() ? 0 : pads[spatial - 1];
  }
  // What the output really reads behind the end; a pad that no kernel position touches is dropped.
  p.pad_bottom = std::max<int64_t>(0, need_h - p.pad_top);
  p.pad_right = std::max<int64_t>(0, need_w - p.pad_left);
  return Support::yes();
}

void ConvEpilogueRun::apply(int64_t pixel, int64_t count, int64_t column, int64_t columns, int worker) const {
  const ConvProblem& p = *problem;
  while (count > 0) {
    const int64_t ox = pixel % p.ow, oy = pixel / p.ow % p.oh, n = pixel / (p.ow * p.oh);
    const int64_t rows = uniform ? count : std::min(count, p.ow - ox);
    TileInput tile[kMaxInputs];
    for (int i = 0; i < num_inputs; ++i) {
      const Input& in = inputs[i];
      tile[i].data = in.data + (n * in.n + oy * in.h + ox * in.w + column * in.c) * in.element_bytes;
      tile[i].dtype = in.dtype;
      tile[i].row_stride = in.w;
      tile[i].col_stride = in.c;
    }
    TileOutput out{y + pixel * p.ldy + column, DType::F32, p.ldy};
    program->run(rows, columns, tile, &out, scratch + worker * scratch_stride);
    pixel += rows;
    count -= rows;
  }
}

void ConvEpilogueRun::apply_all(ThreadPool* pool) const {
  const int64_t pixels = problem->pixels(),
                grain = std::max<int64_t>(1, std::min<int64_t>(4096 / problem->m + 1, ceil_div(pixels, problem->num_threads)));
  conv_parallel(pool, problem->num_threads, ceil_div(pixels, grain), 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) apply(i * grain, std::min(grain, pixels - i * grain), 0, problem->m, worker);
  });
}

void transpose_planes(const float* in, float* out, int64_t batch, int64_t rows, int64_t cols, ThreadPool* pool, int threads) {
  constexpr int64_t kBlock = 16;
  const int64_t strips = ceil_div(cols, kBlock);
  conv_parallel(pool, threads, batch * strips, std::max<int64_t>(1, ceil_div(batch * strips, 4 * threads)),
                [&](int64_t begin, int64_t end, int) {
                  for (int64_t item = begin; item < end; ++item) {
                    const int64_t n = item / strips, q0 = item % strips * kBlock, q1 = std::min(cols, q0 + kBlock);
                    const float* from = in + n * rows * cols;
                    float* to = out + n * rows * cols;
                    for (int64_t p0 = 0; p0 < rows; p0 += kBlock) {
                      const int64_t p1 = std::min(rows, p0 + kBlock);
                      for (int64_t q = q0; q < q1; ++q)
                        for (int64_t p = p0; p < p1; ++p) to[q * rows + p] = from[p * cols + q];
                    }
                  }
                });
}

bool conv_isa_present(const ConvIsa& isa) { return isa.width == 16 ? cpu_features().avx512 : cpu_features().avx2; }

namespace {

constexpr int64_t kSlackFloats = 128;  // whole vectors may be read past the last column

// How the node's epilogue reaches the output: which parts the registers take, and the program for the rest.
class ConvEpilogue {
 public:
  // Fills in everything or says why not.
  static Support plan(const NodeView& node, const ConvProblem& p, ConvEpilogue& out) {
    out.first_input_ = static_cast<int>(node.attrs().get_int("epilogue_input", 3));
    const std::string text = node.attrs().get_string("epilogue", "");
    if (text.empty()) return Support::yes();
    const ir::Expr expr = ir::Expr::parse(text);
    if (expr.has_row_reduction()) return Support::no("the epilogue reduces over rows");
    if (expr.results.size() != 1) return Support::no("the epilogue has several results");
    const int extra = expr.num_inputs() - 1;
    if (extra + 1 > ConvEpilogueRun::kMaxInputs)
      return Support::no(fmt::format("the epilogue has {} inputs, at most {}", extra, ConvEpilogueRun::kMaxInputs - 1));
    const Shape& y = node.output_shapes[0];
    std::vector<bool> per_column = {false}, full = {true};
    bool f32 = true;
    for (int i = 0; i < extra; ++i) {
      const int index = out.first_input_ + i;
      if (index >= node.num_inputs() || !node.has_input(index)) return Support::no(fmt::format("epilogue input {} is absent", index));
      Input in;
      in.dtype = node.input_dtypes[index];
      switch (in.dtype) {
        case DType::F32:
        case DType::F16:
        case DType::BF16:
        case DType::Bool:
        case DType::U8:
        case DType::I8:
        case DType::I32:
        case DType::I64: break;
        default: return Support::no(fmt::format("epilogue input {} is {}", index, to_string(in.dtype)));
      }
      f32 = f32 && in.dtype == DType::F32;
      if (!strides_in(node.input_shapes[index], y, p, in))
        return Support::no(fmt::format("epilogue input {} does not broadcast to the output", index));
      if (in.c != 0 && in.c != 1) {
        if (in.dtype != DType::F32)
          return Support::no(fmt::format("epilogue input {} is {} and channels first", index, to_string(in.dtype)));
        in.gather = true;
      }
      const int64_t w = in.gather ? p.m : in.w, h = in.gather ? p.m * p.ow : in.h, n = in.gather ? p.m * p.ow * p.oh : in.n,
                    c = in.gather ? 1 : in.c;
      const bool is_full =
          (c == 1 || p.m == 1) && (w == p.m || p.ow == 1) && (h == p.ow * p.m || p.oh == 1) && (n == p.oh * p.ow * p.m || p.batch == 1);
      const bool is_column = c == 1 && (w == 0 || p.ow == 1) && (h == 0 || p.oh == 1) && (n == 0 || p.batch == 1);
      // One output pixel: a column vector and a full tensor are the same thing; the column form is the cheaper one.
      per_column.push_back(is_column);
      full.push_back(is_full && !is_column);
      if (is_column) in.n = in.h = in.w = 0;
      if (is_full && !is_column && !in.gather) in.w = p.m, in.h = p.m * p.ow, in.n = p.m * p.ow * p.oh, in.c = 1;
      out.uniform_ = out.uniform_ && ((is_full && !is_column) || (is_column) || (in.n == 0 && in.h == 0 && in.w == 0));
      out.inputs_.push_back(in);
    }
    const auto program = std::make_shared<ExprProgram>(expr);
    ExprProgram::Simple simple;
    using A = ExprProgram::Activation;
    if (f32 && program->as_simple(per_column, full, simple) &&
        (simple.activation == A::None || simple.activation == A::Relu || simple.activation == A::Relu6 ||
         simple.activation == A::HardSwish)) {
      out.simple_ = simple;
    } else {
      out.program_ = program;
    }
    return Support::yes();
  }

  // The registers read a residual at the output's pitch.
  bool has_residual() const { return program_ == nullptr && simple_.residual > 0; }

  int64_t workspace_bytes(const ConvProblem& p) const {
    int64_t bytes = bias_bytes(p);
    for (const Input& in : inputs_)
      if (in.gather) bytes += output_bytes(p);
    if (program_) bytes += p.num_threads * scratch_stride(p);
    return bytes;
  }

  ConvEpilogueRun bind(const ConvProblem& p, const RunArgs& args, float* y, char* workspace) const {
    ConvEpilogueRun run;
    run.problem = &p;
    run.y = y;
    float* bias = reinterpret_cast<float*>(workspace);
    workspace += bias_bytes(p);
    const bool has_bias = first_bias(args) != nullptr;
    if (has_bias) std::memcpy(bias, first_bias(args), p.m * sizeof(float));
    else std::fill(bias, bias + p.m, 0.0f);
    std::fill(bias + p.m, bias + p.m + kSlackFloats, 0.0f);
    run.registers.bias = bias;
    run.registers.low = -std::numeric_limits<float>::infinity();
    run.registers.high = std::numeric_limits<float>::infinity();

    const char* data[ConvEpilogueRun::kMaxInputs];
    for (size_t i = 0; i < inputs_.size(); ++i) {
      data[i] = static_cast<const char*>(args.inputs[first_input_ + i].raw());
      if (!inputs_[i].gather) continue;
      gather(inputs_[i], p, reinterpret_cast<const float*>(data[i]), reinterpret_cast<float*>(workspace), args.pool);
      data[i] = workspace;
      workspace += output_bytes(p);
    }
    if (program_ == nullptr) {
      if (simple_.bias > 0) {
        const float* extra = reinterpret_cast<const float*>(data[simple_.bias - 1]);
        for (int64_t i = 0; i < p.m; ++i) bias[i] += extra[i];
      }
      if (simple_.residual > 0) run.registers.residual = reinterpret_cast<const float*>(data[simple_.residual - 1]);
      run.registers.residual_after = simple_.residual_after;
      using A = ExprProgram::Activation;
      if (simple_.activation == A::Relu || simple_.activation == A::Relu6) run.registers.low = 0;
      if (simple_.activation == A::Relu6) run.registers.high = 6;
      run.registers.hard_swish = simple_.activation == A::HardSwish;
      return run;
    }
    run.program = program_.get();
    run.uniform = uniform_;
    run.num_inputs = static_cast<int>(inputs_.size()) + 1;
    run.inputs[0] = {reinterpret_cast<const char*>(y), DType::F32, 4, p.oh * p.ow * p.ldy, p.ow * p.ldy, p.ldy, 1};
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Input& in = inputs_[i];
      run.inputs[i + 1] = {data[i], in.dtype, bits_of(in.dtype) / 8, in.n, in.h, in.w, in.c};
      if (in.gather) run.inputs[i + 1] = {data[i], in.dtype, 4, p.oh * p.ow * p.m, p.ow * p.m, p.m, 1};
    }
    run.scratch = workspace;
    run.scratch_stride = scratch_stride(p);
    return run;
  }

 private:
  struct Input {
    DType dtype = DType::F32;
    int64_t n = 0, h = 0, w = 0, c = 0;  // strides; channels-first ones for an NCHW node
    bool gather = false;                 // copied channels-last into the workspace first
  };

  static bool strides_in(const Shape& shape, const Shape& y, const ConvProblem& p, Input& in) {
    if (shape.size() > y.size()) return false;
    std::vector<int64_t> strides(y.size(), 0);
    int64_t step = 1;
    for (size_t back = 1; back <= shape.size(); ++back) {
      const int64_t size = shape[shape.size() - back];
      if (size != 1 && size != y[y.size() - back]) return false;
      strides[y.size() - back] = size == 1 ? 0 : step;
      step *= size;
    }
    const bool flat = y.size() == 3;
    const size_t first = p.nchw ? 2 : 1;
    in.n = strides[0];
    in.c = strides[p.nchw ? 1 : y.size() - 1];
    in.h = flat ? 0 : strides[first];
    in.w = strides[flat ? first : first + 1];
    return true;
  }

  static void gather(const Input& in, const ConvProblem& p, const float* from, float* to, ThreadPool* pool) {
    conv_parallel(pool, p.num_threads, p.batch * p.oh, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const float* base = from + row / p.oh * in.n + row % p.oh * in.h;
        float* out = to + row * p.ow * p.m;
        for (int64_t x = 0; x < p.ow; ++x)
          for (int64_t c = 0; c < p.m; ++c) out[x * p.m + c] = base[x * in.w + c * in.c];
      }
    });
  }

  static const float* first_bias(const RunArgs& args) {
    return args.inputs.size() > 2 && args.inputs[2].defined() ? args.inputs[2].data<float>() : nullptr;
  }
  static int64_t bias_bytes(const ConvProblem& p) { return round_up((p.m + kSlackFloats) * 4, 64); }
  static int64_t output_bytes(const ConvProblem& p) { return round_up(p.pixels() * p.m * 4, 64); }
  int64_t scratch_stride(const ConvProblem& p) const { return round_up(program_->scratch_bytes(p.m), 64); }

  int first_input_ = 3;
  std::vector<Input> inputs_;
  bool uniform_ = true;
  ExprProgram::Simple simple_;
  std::shared_ptr<const ExprProgram> program_;
};

class ConvKernel : public Kernel {
 public:
  ConvKernel(const ConvProblem& problem, std::unique_ptr<ConvEngine> engine, ConvEpilogue epilogue)
      : p_(problem), engine_(std::move(engine)), epilogue_(std::move(epilogue)) {
    if (p_.nchw) {
      if (p_.h * p_.w > 1 && p_.c > 1) x_bytes_ = round_up(p_.batch * p_.h * p_.w * p_.c * 4, 64);
      if (p_.oh * p_.ow > 1 && p_.m > 1) y_bytes_ = round_up(p_.pixels() * p_.m * 4, 64);
    }
    engine_bytes_ = round_up(engine_->workspace_bytes(), 64);
    workspace_bytes_ = x_bytes_ + y_bytes_ + engine_bytes_ + epilogue_.workspace_bytes(p_);
  }
  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    char* workspace = static_cast<char*>(args.workspace);
    const float* x = args.inputs[0].data<float>();
    float* y = args.outputs[0].data<float>();
    if (x_bytes_) {
      float* last = reinterpret_cast<float*>(workspace);
      transpose_planes(x, last, p_.batch, p_.c, p_.h * p_.w, args.pool, p_.num_threads);
      x = last;
      workspace += x_bytes_;
    }
    if (y_bytes_) {
      y = reinterpret_cast<float*>(workspace);
      workspace += y_bytes_;
    }
    const ConvEpilogueRun epilogue = epilogue_.bind(p_, args, y, workspace + engine_bytes_);
    engine_->run(x, args.inputs[1].data<float>(), epilogue, y, workspace, args.pool);
    if (y_bytes_) transpose_planes(y, args.outputs[0].data<float>(), p_.batch, p_.oh * p_.ow, p_.m, args.pool, p_.num_threads);
  }

 private:
  ConvProblem p_;
  std::unique_ptr<ConvEngine> engine_;
  ConvEpilogue epilogue_;
  int64_t x_bytes_ = 0, y_bytes_ = 0, engine_bytes_ = 0, workspace_bytes_ = 0;
};

class ConvDef : public KernelDef {
 public:
  ConvDef(const ConvIsa& isa, const ConvMethod& method)
      : isa_(isa), method_(method), name_(fmt::format("{}.conv_{}", isa.name, method.name())) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "conv"; }

  Support supports(const NodeView& node) const override {
    if (!conv_isa_present(isa_)) return Support::no(fmt::format("this CPU has no {}", isa_.name));
    ConvProblem p;
    if (const Support can = conv_problem(node, p); !can) return can;
    if (node.constants[1] == nullptr) return Support::no("the weights are not constant");
    if (const Support can = method_.supports(p, isa_); !can) return can;
    ConvEpilogue epilogue;
    return ConvEpilogue::plan(node, p, epilogue);
  }

  std::vector<std::string> tactics(const NodeView& node) const override { return method_.tactics(read(node), isa_); }

  bool pitches_output(const NodeView& node) const override {
    const ConvProblem p = read(node);
    ConvEpilogue epilogue;
    return method_.pitches_output() && !p.nchw && ConvEpilogue::plan(node, p, epilogue) && !epilogue.has_residual();
  }

  Tensor pack(const NodeView& node, const std::string& tactic, int input) const override {
    if (input != 1) return {};
    const ConvProblem p = read(node);
    const Tensor& weights = *node.constants[1];
    const std::string tag = layout(tactic);
    if (weights.layout() == tag) return {};
    if (!weights.layout().empty())
      fail(ErrorCode::InvalidArgument, "[conv \"{}\"] weights are packed as {}, needs plain ones to pack {}", node.node->name,
           weights.layout(), tag);
    Tensor packed = Tensor::packed(DType::F32, weights.shape(), tag, method_.packed_floats(p, isa_, tactic) * 4);
    method_.pack(p, isa_, tactic, weights.data<float>(), packed.data<float>());
    return packed;
  }

  bool reads_layout(std::string_view layout) const override { return layout.starts_with(name_); }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    const ConvProblem p = read(node);
    const Tensor* weights = node.constants[1];
    if (weights == nullptr || weights->layout() != layout(tactic) || weights->size_bytes() != method_.packed_floats(p, isa_, tactic) * 4)
      fail(ErrorCode::Corrupt, "[conv \"{}\"] kernel {} expects weights packed as {}, found {}; rebuild the engine", node.node->name, name_,
           layout(tactic),
           weights == nullptr          ? "none"
           : weights->layout().empty() ? "plain ones"
                                       : weights->layout());
    ConvEpilogue epilogue;
    if (const Support can = ConvEpilogue::plan(node, p, epilogue); !can)
      fail(ErrorCode::Unsupported, "[conv \"{}\"] {}", node.node->name, can.reason());
    return std::make_unique<ConvKernel>(p, method_.make(p, isa_, tactic), std::move(epilogue));
  }

 private:
  std::string layout(const std::string& tactic) const { return tactic.empty() ? name_ : fmt::format("{}/{}", name_, tactic); }
  static ConvProblem read(const NodeView& node) {
    ConvProblem p;
    if (const Support can = conv_problem(node, p); !can) fail(ErrorCode::Unsupported, "[conv \"{}\"] {}", node.node->name, can.reason());
    return p;
  }

  const ConvIsa& isa_;
  const ConvMethod& method_;
  std::string name_;
};

}  // namespace

#define TOKAMAK_CONV_KERNEL(function, isa, method)           \
  const KernelDef& function() {                              \
    static const ConvDef def(isa, conv_##method##_method()); \
    return def;                                              \
  }
TOKAMAK_CONV_KERNEL(conv_winograd_avx512, kConvAvx512, winograd)
TOKAMAK_CONV_KERNEL(conv_igemm_avx512, kConvAvx512, igemm)
TOKAMAK_CONV_KERNEL(conv_depthwise_avx512, kConvAvx512, depthwise)
TOKAMAK_CONV_KERNEL(conv_winograd_avx2, kConvAvx2, winograd)
TOKAMAK_CONV_KERNEL(conv_igemm_avx2, kConvAvx2, igemm)
TOKAMAK_CONV_KERNEL(conv_depthwise_avx2, kConvAvx2, depthwise)
#undef TOKAMAK_CONV_KERNEL

}  // namespace tokamak::cpu
