// Depthwise convolution (one input and one output channel a group).

#include <algorithm>

#include "backends/cpu/kernels/conv.h"

namespace tokamak::cpu {
namespace {

class DepthwiseEngine : public ConvEngine {
 public:
  DepthwiseEngine(const ConvProblem& problem, const ConvIsa& isa) : p_(problem), isa_(isa) {}
  int64_t workspace_bytes() const override { return 0; }

  void run(const float* x, const float* weights, const ConvEpilogueRun& epilogue, float* y, char*, ThreadPool* pool) const override {
    // A few pieces a thread; each covers some rows of one image.
    const int64_t pieces = std::min<int64_t>(p_.oh, p_.num_threads == 1 ? 1 : 2 * p_.num_threads);
    conv_parallel(pool, p_.num_threads, p_.batch * pieces, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t n = item / pieces, piece = item % pieces, in = n * p_.h * p_.w * p_.c, out = n * p_.oh * p_.ow * p_.c;
        DepthwiseArgs args;
        args.x = x + in;
        args.h = p_.h, args.w = p_.w, args.c = p_.c;
        args.y = y + out;
        args.oh = p_.oh, args.ow = p_.ow;
        args.kh = p_.kh, args.kw = p_.kw;
        args.stride_h = p_.stride_h, args.stride_w = p_.stride_w;
        args.dilation_h = p_.dilation_h, args.dilation_w = p_.dilation_w;
        args.pad_top = p_.pad_top, args.pad_left = p_.pad_left;
        args.weights = weights;
        args.row_begin = p_.oh * piece / pieces, args.row_end = p_.oh * (piece + 1) / pieces;
        args.c_begin = 0, args.c_end = p_.c;
        args.epilogue = epilogue.registers;
        if (args.epilogue.residual) args.epilogue.residual += out;
        isa_.depthwise(args);
      }
    });
    if (epilogue.program) epilogue.apply_all(pool);
  }

 private:
  ConvProblem p_;
  const ConvIsa& isa_;
};

class DepthwiseMethod : public ConvMethod {
 public:
  std::string_view name() const override { return "depthwise"; }
  Support supports(const ConvProblem& p, const ConvIsa&) const override {
    if (p.group != p.c || p.group != p.m)
      return Support::no(fmt::format("{} groups for {} → {} channels, needs one a channel", p.group, p.c, p.m));
    return Support::yes();
  }
  std::vector<std::string> tactics(const ConvProblem&, const ConvIsa&) const override { return {""}; }
  int64_t packed_floats(const ConvProblem& p, const ConvIsa& isa, const std::string&) const override {
    return round_up(p.c, isa.width) * p.kh * p.kw;
  }
  void pack(const ConvProblem& p, const ConvIsa& isa, const std::string&, const float* weights, float* packed) const override {
    const int64_t taps = p.kh * p.kw;
    for (int64_t c0 = 0; c0 < p.c; c0 += isa.width)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = c0; c < c0 + isa.width; ++c) *packed++ = c < p.c ? weights[c * taps + tap] : 0.0f;
  }
  std::unique_ptr<ConvEngine> make(const ConvProblem& p, const ConvIsa& isa, const std::string&) const override {
    return std::make_unique<DepthwiseEngine>(p, isa);
  }
};

}  // namespace

const ConvMethod& conv_depthwise_method() {
  static const DepthwiseMethod method;
  return method;
}

}  // namespace tokamak::cpu
