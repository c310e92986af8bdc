// oneDNN as one more source of tactics for float32 convolution and matrix product: "onednn.conv" and "onednn.matmul". The only file that
// knows oneDNN; works with its 2.x and 3.x interfaces and is empty without it.
//
// The tuner offers these kernels at opt level 4 and 5 only, for two reasons:
//   - every execution makes a few heap allocations inside oneDNN (7 in 2.6.3), so an engine that uses one has no allocation-free steady
//   state;
//   - oneDNN runs on OpenMP's threads, beside our pool. They start with the calling thread's first run and spin for a while after each one,
//     taking time from our kernels: set OMP_WAIT_POLICY=passive in the environment (the OpenMP runtime reads it once, before main).
//
// Weights are stored in the format that oneDNN asks for at build. The constant's layout names that format ("onednn.Acdb64a": letters are
// dimensions, outermost first; capital ones are blocked, with the blocks at the end), so that other shapes, CPUs and versions of oneDNN can
// read it too.
#ifdef TOKAMAK_ONEDNN

#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/expr_program.h"
#include "backends/cpu/kernels/conv.h"
#include "backends/cpu/kernels/matmul.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {
namespace {

using dnnl::memory;
constexpr auto kF32 = memory::data_type::f32;
using Tag = memory::format_tag;

// The formats that weights may be stored in, by number of dimensions; a format that oneDNN asks for and this lacks is declined.
struct Format {
  const char* name;
  int rank;
  Tag tag;
};
#define FORMAT(rank, name) \
  { #name, rank, static_cast < Tag>(dnnl_##name) }
constexpr Format kFormats[] = {
    FORMAT(2, ab),         FORMAT(2, ba),         FORMAT(2, BA16a16b),   FORMAT(2, BA16a32b),    FORMAT(2, BA16a48b), FORMAT(2, BA16a64b),
    FORMAT(4, abcd),       FORMAT(4, acdb),       FORMAT(4, cdba),       FORMAT(4, Acdb8a),      FORMAT(4, Acdb16a),  FORMAT(4, Acdb32a),
    FORMAT(4, Acdb48a),    FORMAT(4, Acdb64a),    FORMAT(4, Abcd8a),     FORMAT(4, Abcd16a),     FORMAT(4, ABcd8b8a), FORMAT(4, ABcd16b16a),
    FORMAT(4, ABcd16b32a), FORMAT(4, ABcd16b64a), FORMAT(4, BAcd16b16a), FORMAT(4, BAcd16a16b),  FORMAT(5, abcde),    FORMAT(5, decab),
    FORMAT(5, Abcde8a),    FORMAT(5, Abcde16a),   FORMAT(5, decbA16a),   FORMAT(5, aBdec8b),     FORMAT(5, aBdec16b), FORMAT(5, aBdec32b),
    FORMAT(5, aBdec48b),   FORMAT(5, aBdec64b),   FORMAT(5, aBCde8c8b),  FORMAT(5, aBCde16c16b),
#if DNNL_VERSION_MAJOR >= 3
    FORMAT(4, Acdb24a),    FORMAT(5, aBdec24b),   FORMAT(5, decbA8a),
#endif
};
#undef FORMAT
constexpr std::string_view kLayoutPrefix = "onednn.";

const Format* find_format(std::string_view layout, size_t rank) {
  if (!layout.starts_with(kLayoutPrefix)) return nullptr;
  for (const Format& f : kFormats)
    if (layout.substr(kLayoutPrefix.size()) == f.name && f.rank == static_cast<int>(rank)) return &f;
  return nullptr;
}

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// While it lives, OpenMP regions that this thread starts have `threads` threads. OpenMP is reached by name: which runtime it is, and
// whether there is one, is the installed oneDNN's affair.
class OpenMpThreads {
 public:
  explicit OpenMpThreads(int threads) {
    if (set_ == nullptr || get_ == nullptr) return;
    before_ = get_();
    set_(threads);
  }
  ~OpenMpThreads() {
    if (before_ > 0) set_(before_);
  }
  OpenMpThreads(const OpenMpThreads&) = delete;

 private:
  int before_ = 0;
  inline static const auto set_ = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  inline static const auto get_ = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
};

// What follows the sum of products: biases of the columns, then an activation with a residual before or after it. Numbers are node inputs.
struct Epilogue {
  std::vector<int> biases;
  int residual = -1;
  bool residual_after = false;
  ExprProgram::Activation activation = ExprProgram::Activation::None;
};

Support read_epilogue(const NodeView& view, int first_input, int64_t columns, Epilogue& out) {
  if (!cpu_features().avx2) return Support::no("this CPU has no avx2");
  const std::string text = view.attrs().get_string("epilogue", "");
  if (text.empty()) return Support::yes();
  const ir::Expr expr = ir::Expr::parse(text);
  const int first = static_cast<int>(view.attrs().get_int("epilogue_input", first_input));
  const int64_t total = num_elements(view.output_shapes[0]);
  std::vector<bool> per_column = {false}, full = {true};
  for (int i = 1; i < expr.num_inputs(); ++i) {
    const int input = first + i - 1;
    if (input >= view.num_inputs() || !view.has_input(input)) return Support::no(fmt::format("epilogue input i{} is absent", i));
    if (view.input_dtypes[input] != DType::F32)
      return Support::no(fmt::format("epilogue input i{} is {}", i, to_string(view.input_dtypes[input])));
    const Shape& shape = view.input_shapes[input];
    const int64_t count = num_elements(shape);
    per_column.push_back(count == columns && (columns == 1 || shape.back() == columns));
    full.push_back(count == total && !per_column.back());
  }
  ExprProgram::Simple simple;
  if (expr.has_row_reduction() || !ExprProgram(expr).as_simple(per_column, full, simple))
    return Support::no("the epilogue is more than a bias, an activation and a residual");
  if (simple.activation == ExprProgram::Activation::HardSigmoid) return Support::no("the epilogue has a hard_sigmoid");
  if (simple.bias > 0) out.biases.push_back(first + simple.bias - 1);
  if (simple.residual > 0) out.residual = first + simple.residual - 1;
  out.residual_after = simple.residual_after;
  out.activation = simple.activation;
  return Support::yes();
}

dnnl::primitive_attr attributes(const Epilogue& epilogue) {
  dnnl::post_ops ops;
  if (epilogue.residual >= 0 && !epilogue.residual_after) ops.append_sum();
  const auto add = [&](dnnl::algorithm function, float alpha = 0, float beta = 0) {
#if DNNL_VERSION_MAJOR >= 3
    ops.append_eltwise(function, alpha, beta);
#else
    ops.append_eltwise(1.0f, function, alpha, beta);
#endif
  };
  using A = ExprProgram::Activation;
  switch (epilogue.activation) {
    case A::None:
    case A::HardSigmoid: break;
    case A::Relu: add(dnnl::algorithm::eltwise_relu); break;
    case A::Relu6: add(dnnl::algorithm::eltwise_clip, 0, 6); break;
    case A::Gelu: add(dnnl::algorithm::eltwise_gelu_erf); break;
    case A::GeluTanh: add(dnnl::algorithm::eltwise_gelu_tanh); break;
    case A::Silu: add(dnnl::algorithm::eltwise_swish, 1); break;
    case A::Sigmoid: add(dnnl::algorithm::eltwise_logistic); break;
    case A::Tanh: add(dnnl::algorithm::eltwise_tanh); break;
    case A::HardSwish: add(dnnl::algorithm::eltwise_hardswish, 1.0f / 6, 0.5f); break;  // 2.x has these two built in
  }
  if (epilogue.residual >= 0 && epilogue.residual_after) ops.append_sum();
  dnnl::primitive_attr attr;
  attr.set_post_ops(ops);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

// A node as oneDNN sees it. There is always a bias, of zeros when the node has none.
struct Problem {
  memory::dims x, w, y, bias;
  Tag data = Tag::undef;                                  // of x and y
  Tag weights = Tag::undef;                               // as the model has them
  memory::dims strides, dilations, pads_begin, pads_end;  // of a convolution, else empty
  int64_t columns = 0;                                    // of y
  int threads = 1;
  Epilogue epilogue;

  dnnl::primitive_desc describe(Tag stored) const {
    const memory::desc x_desc(x, kF32, data), w_desc(w, kF32, stored), y_desc(y, kF32, data);
    const memory::desc bias_desc(bias, kF32, bias.size() == 1 ? Tag::a : Tag::ab);
    const dnnl::primitive_attr attr = attributes(epilogue);
    const OpenMpThreads scope(threads);
    if (!strides.empty()) {
      constexpr auto kKind = dnnl::prop_kind::forward_inference;
      constexpr auto kMethod = dnnl::algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
      return dnnl::convolution_forward::primitive_desc(engine(), kKind, kMethod, x_desc, w_desc, bias_desc, y_desc, strides, dilations,
                                                       pads_begin, pads_end, attr);
#else
      return dnnl::convolution_forward::primitive_desc(
          dnnl::convolution_forward::desc(kKind, kMethod, x_desc, w_desc, bias_desc, y_desc, strides, dilations, pads_begin, pads_end),
          attr, engine());
#endif
    }
#if DNNL_VERSION_MAJOR >= 3
    return dnnl::matmul::primitive_desc(engine(), x_desc, w_desc, bias_desc, y_desc, attr);
#else
    return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x_desc, w_desc, bias_desc, y_desc), attr, engine());
#endif
  }

  // The format that oneDNN would have the weights in; null when kFormats lacks it.
  const Format* wanted_format() const {
    const memory::desc wanted = describe(Tag::any).query_md(dnnl::query::weights_md);
    for (const Format& f : kFormats)
      if (f.rank == static_cast<int>(w.size()) && memory::desc(w, kF32, f.tag) == wanted) return &f;
    return nullptr;
  }
};

Support read_conv(const NodeView& view, Problem& out) {
  ConvProblem p;
  if (const Support can = conv_problem(view, p); !can) return can;
  if (view.input_shapes[0].size() != 4) return Support::no(fmt::format("input of rank {}, needs 4", view.input_shapes[0].size()));
  if (p.nchw) return Support::no("the layout is NCHW, needs NHWC");
  out.x = {p.batch, p.c, p.h, p.w};
  out.y = {p.batch, p.m, p.oh, p.ow};
  out.bias = {p.m};
  out.w = {p.m / p.group, p.c / p.group, p.kh, p.kw};
  if (p.group > 1) out.w.insert(out.w.begin(), p.group);
  out.data = Tag::nhwc;
  out.weights = p.group > 1 ? Tag::abcde : Tag::abcd;
  out.strides = {p.stride_h, p.stride_w};
  out.dilations = {p.dilation_h - 1, p.dilation_w - 1};  // oneDNN counts the elements left out
  out.pads_begin = {p.pad_top, p.pad_left};
  out.pads_end = {p.pad_bottom, p.pad_right};
  out.columns = p.m;
  out.threads = p.num_threads;
  if (view.num_inputs() > 2 && view.has_input(2)) out.epilogue.biases.push_back(2);
  return read_epilogue(view, 3, p.m, out.epilogue);
}

Support read_matmul(const NodeView& view, Problem& out) {
  for (int i = 0; i < 2; ++i)
    if (view.input_dtypes[i] != DType::F32)
      return Support::no(fmt::format("{} is {}, needs f32", i ? "b" : "a", to_string(view.input_dtypes[i])));
  if (view.output_dtypes[0] != DType::F32) return Support::no("the output is not f32");
  if (view.input_shapes[1].size() != 2) return Support::no(fmt::format("b has rank {}, needs 2", view.input_shapes[1].size()));
  MatmulShape s(view);
  if (s.trans_a) return Support::no("a is transposed");
  if (view.attrs().get_float("alpha", 1.0) != 1.0) return Support::no("alpha is not 1");
  s.flatten_batch();
  if (s.batch != 1 || s.m < 1 || s.n < 1 || s.k < 1) return Support::no("an empty tensor");
  out.x = {s.m, s.k};
  out.w = {s.k, s.n};
  out.y = {s.m, s.n};
  out.bias = {1, s.n};
  out.data = Tag::ab;
  out.weights = s.trans_b ? Tag::ba : Tag::ab;
  out.columns = s.n;
  out.threads = std::max(1, view.num_threads);
  return read_epilogue(view, 2, s.n, out.epilogue);
}

std::string method_of(const dnnl::primitive_desc& desc) { return desc.impl_info_str(); }
bool is_reference(const std::string& method) { return method.find("ref") != std::string::npos; }

// `weights`, which lie in format `from`, in `format`.
Tensor reorder(const Problem& problem, Tag from, const Format& format, const Tensor& weights) {
  const memory::desc stored(problem.w, kF32, format.tag);
  Tensor packed =
      Tensor::packed(DType::F32, weights.shape(), fmt::format("{}{}", kLayoutPrefix, format.name), static_cast<int64_t>(stored.get_size()));
  const OpenMpThreads scope(problem.threads);
  memory source(memory::desc(problem.w, kF32, from), engine(), const_cast<void*>(weights.raw())), target(stored, engine(), packed.raw());
  dnnl::stream stream(engine());
  dnnl::reorder(source, target).execute(stream, source, target);
  stream.wait();
  return packed;
}

class OnednnKernel final : public Kernel {
 public:
  OnednnKernel(const Problem& problem, const Format& format, const Tensor& weights)
      : columns_(problem.columns), threads_(problem.threads), epilogue_(problem.epilogue), weights_(weights), stream_(engine()) {
    const dnnl::primitive_desc desc = problem.describe(format.tag);
    const memory::desc stored(problem.w, kF32, format.tag), scratchpad = desc.scratchpad_desc();
    if (epilogue_.biases.empty()) zeros_ = Tensor::zeros(DType::F32, {columns_});
    if (epilogue_.biases.size() > 1) bias_bytes_ = round_up(columns_ * 4, 64);
    workspace_bytes_ = bias_bytes_ + static_cast<int64_t>(scratchpad.get_size());
    output_floats_ = 1;
    for (int64_t d : problem.y) output_floats_ *= d;
    const OpenMpThreads scope(threads_);
    primitive_ = dnnl::primitive(desc);
    x_ = memory(desc.query_md(dnnl::query::src_md), engine(), DNNL_MEMORY_NONE);
    y_ = memory(desc.query_md(dnnl::query::dst_md), engine(), DNNL_MEMORY_NONE);
    w_ = memory(stored, engine(), weights_.raw());
    bias_ = memory(memory::desc(problem.bias, kF32, problem.bias.size() == 1 ? Tag::a : Tag::ab), engine(), DNNL_MEMORY_NONE);
    scratchpad_ = memory(scratchpad, engine(), DNNL_MEMORY_NONE);
  }

  int64_t workspace_bytes() const override { return workspace_bytes_; }

  void run(const RunArgs& args) const override {
    float* y = args.outputs[0].data<float>();
    char* workspace = static_cast<char*>(args.workspace);
    if (epilogue_.residual >= 0) {  // oneDNN adds to what y holds
      const float* residual = args.inputs[epilogue_.residual].data<float>();
      parallel(args.pool, output_floats_, 1,
               [&](int64_t begin, int64_t end, int) { std::copy(residual + begin, residual + end, y + begin); });
    }
    const float* bias = epilogue_.biases.empty() ? zeros_.data<float>() : args.inputs[epilogue_.biases[0]].data<float>();
    if (bias_bytes_ > 0) {
      const float* second = args.inputs[epilogue_.biases[1]].data<float>();
      float* sum = reinterpret_cast<float*>(workspace);
      for (int64_t i = 0; i < columns_; ++i) sum[i] = bias[i] + second[i];
      bias = sum;
    }
    const OpenMpThreads scope(threads_);
    const std::lock_guard lock(mutex_);
    bool ok = place(x_, args.inputs[0].raw()) && place(y_, y) && place(bias_, bias) && place(scratchpad_, workspace + bias_bytes_);
    const dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, x_.get()},
                                    {DNNL_ARG_WEIGHTS, w_.get()},
                                    {DNNL_ARG_BIAS, bias_.get()},
                                    {DNNL_ARG_DST, y_.get()},
                                    {DNNL_ARG_SCRATCHPAD, scratchpad_.get()}};
    ok = ok && dnnl_primitive_execute(primitive_.get(), stream_.get(), std::size(list), list) == dnnl_success;
    CHECK(ok);
  }

 private:
  static bool place(const memory& m, const void* data) {
    return dnnl_memory_set_data_handle(m.get(), const_cast<void*>(data)) == dnnl_success;
  }

  int64_t columns_, output_floats_ = 0;
  int threads_;
  Epilogue epilogue_;
  Tensor weights_, zeros_;
  int64_t bias_bytes_ = 0, workspace_bytes_ = 0;
  dnnl::stream stream_;
  dnnl::primitive primitive_;
  memory x_, w_, bias_, y_, scratchpad_;
  mutable std::mutex mutex_;  // the memory objects are told where a run's tensors lie
};

class OnednnDef final : public KernelDef {
 public:
  OnednnDef(std::string_view name, std::string_view op, Support (*read)(const NodeView&, Problem&)) : name_(name), op_(op), read_(read) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }

  Support supports(const NodeView& view) const override {
#if DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_RUNTIME != DNNL_RUNTIME_SEQ
    return Support::no("this oneDNN does not run on OpenMP, its threads cannot be limited");
#endif
    const Tensor* weights = view.num_inputs() > 1 ? view.constants[1] : nullptr;
    if (weights == nullptr) return Support::no("the weights are not constant");
    Problem problem;
    if (const Support can = read_(view, problem); !can) return can;
    if (!weights->layout().empty())  // an engine's: whatever the shape, make() finds a way
      return find_format(weights->layout(), problem.w.size()) ? Support::yes()
                                                              : Support::no("the weights are packed as " + weights->layout());
    try {
      const Format* wanted = problem.wanted_format();
      if (wanted == nullptr) return Support::no("oneDNN wants the weights in a format unknown here");
      const std::string method = method_of(problem.describe(wanted->tag));
      if (is_reference(method)) return Support::no("oneDNN has only its reference method for this (" + method + ")");
    } catch (const dnnl::error& e) {
      return Support::no(fmt::format("oneDNN: {}", e.message));
    }
    return Support::yes();
  }

  Tensor pack(const NodeView& view, const std::string&, int input) const override {
    if (input != 1 || !view.constants[1]->layout().empty()) return {};
    Problem problem;
    return translate(view, [&] {
      const Format* wanted = read(view, problem).wanted_format();
      if (wanted == nullptr)
        fail(ErrorCode::Unsupported, "[{} \"{}\"] oneDNN wants the weights in a format unknown here", op_, view.node->name);
      return reorder(problem, problem.weights, *wanted, *view.constants[1]);
    });
  }

  bool reads_layout(std::string_view layout) const override { return layout.starts_with(kLayoutPrefix); }

  std::unique_ptr<Kernel> make(const NodeView& view, const std::string& tactic) const override {
    Problem problem;
    read(view, problem);
    Tensor weights = view.constants[1]->layout().empty() ? pack(view, tactic, 1) : *view.constants[1];
    const Format* format = find_format(weights.layout(), problem.w.size());
    return translate(view, [&] {
      if (format == nullptr || weights.size_bytes() != static_cast<int64_t>(memory::desc(problem.w, kF32, format->tag).get_size()))
        fail(ErrorCode::Corrupt, "[{} \"{}\"] kernel {} found weights of {} bytes packed as \"{}\", which do not fit; rebuild the engine",
             op_, view.node->name, name_, weights.size_bytes(), weights.layout());
      // Another shape than the one tuned for may want another format: then the kernel keeps a copy of its own.
      if (is_reference(method_of(problem.describe(format->tag)))) {
        const Format* wanted = problem.wanted_format();
        if (wanted != nullptr && wanted != format) weights = reorder(problem, std::exchange(format, wanted)->tag, *wanted, weights);
      }
      return std::make_unique<OnednnKernel>(problem, *format, weights);
    });
  }

 private:
  Problem& read(const NodeView& view, Problem& problem) const {
    if (view.num_inputs() < 2 || view.constants[1] == nullptr)
      fail(ErrorCode::Unsupported, "[{} \"{}\"] {}: the weights are not constant", op_, view.node->name, name_);
    if (const Support can = read_(view, problem); !can) fail(ErrorCode::Unsupported, "[{} \"{}\"] {}", op_, view.node->name, can.reason());
    return problem;
  }
  // Calls f; what oneDNN throws becomes ours.
  template <class F>
  auto translate(const NodeView& view, const F& f) const -> decltype(f()) {
    try {
      return f();
    } catch (const dnnl::error& e) {
      fail(ErrorCode::Unsupported, "[{} \"{}\"] {}: oneDNN {}.{}: {}", op_, view.node->name, name_, DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR,
           e.message);
    }
  }

  std::string_view name_, op_;
  Support (*read_)(const NodeView&, Problem&);
};

}  // namespace

const KernelDef& conv_onednn() {
  static const OnednnDef def("onednn.conv", "conv", read_conv);
  return def;
}
const KernelDef& matmul_onednn() {
  static const OnednnDef def("onednn.matmul", "matmul", read_matmul);
  return def;
}

}  // namespace tokamak::cpu

#endif
