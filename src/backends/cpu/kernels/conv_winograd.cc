// 3x3 stride-1 convolution by minimal filtering, F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray, arXiv:1509.09308): transform a block of input
// tiles, one GEMM for each of the (m+2)^2 transform points, transform back with the epilogue. The block's transformed input stays in L2.

#include <algorithm>

#include "backends/cpu/kernels/conv.h"
#include "backends/cpu/kernels/conv_winograd_points.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kMaxTiles = 128;
constexpr int64_t kBlockBytes = 448 << 10;  // of transformed input, beside the sums of one panel in a 1 MiB L2

struct Parameters {
  int m, nv;
  int64_t tiles;  // a block, 0: chosen here
};

Parameters parameters(const std::string& tactic, const ConvIsa& isa) {
  const int m = static_cast<int>(conv_tactic_value(tactic, "m", 4, 2, 4));
  if (m == 3) fail(ErrorCode::Corrupt, "Winograd tactic \"{}\": m is 2 or 4", tactic);
  return {m, static_cast<int>(conv_tactic_value(tactic, "nv", isa.max_nv, 1, isa.max_nv)),
          conv_tactic_value(tactic, "tiles", 0, 0, kMaxTiles)};
}

// g (3 values) → m + 2 values at the interpolation points.
void transform_weights(int m, const double* g, int64_t step, double* out, int64_t out_step) {
  const double g0 = g[0], g1 = g[step], g2 = g[2 * step];
  if (m == 2) {
    out[0] = -g0;
    out[out_step] = (g0 + g1 + g2) / 2;
    out[2 * out_step] = (g0 - g1 + g2) / 2;
    out[3 * out_step] = g2;
    return;
  }
  const double a = kWinogradA, b = kWinogradB;
  const double na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);
  out[0] = g0 / (a * a * b * b);
  out[out_step] = (g0 + a * g1 + a * a * g2) / na;
  out[2 * out_step] = (g0 - a * g1 + a * a * g2) / na;
  out[3 * out_step] = (g0 + b * g1 + b * b * g2) / nb;
  out[4 * out_step] = (g0 - b * g1 + b * b * g2) / nb;
  out[5 * out_step] = g2;
}

class WinogradEngine : public ConvEngine {
 public:
  WinogradEngine(const ConvProblem& problem, const ConvIsa& isa, const Parameters& parameters) : p_(problem), isa_(isa), m_(parameters.m) {
    points_ = (m_ + 2) * (m_ + 2);
    tiles_w_ = ceil_div(p_.ow, m_);
    tiles_ = ceil_div(p_.oh, m_) * tiles_w_;
    panels_ = conv_panels(p_.m, isa.width, parameters.nv);
    // An odd number of lines between the points' planes keeps them from falling into one cache set.
    ldv_ = round_up(p_.c, isa.width);
    lds_ = 0;
    for (const ConvPanel& panel : panels_) lds_ = std::max<int64_t>(lds_, panel.nv * isa.width);
    int64_t block = parameters.tiles ? parameters.tiles : std::clamp<int64_t>(kBlockBytes / (points_ * ldv_ * 4), 16, kMaxTiles);
    int64_t blocks = ceil_div(tiles_, block);
    const int64_t threads = p_.num_threads;
    shared_ = threads > 1 && p_.batch * blocks < 2 * threads && static_cast<int64_t>(panels_.size()) >= threads && tiles_ <= kMaxTiles;
    if (shared_) blocks = 1;
    else if (p_.batch == 1) blocks = std::min(round_up(blocks, threads), tiles_);
    block_tiles_ = ceil_div(tiles_, blocks);
    blocks_ = ceil_div(tiles_, block_tiles_);
    v_stride_ = odd_lines(block_tiles_ * ldv_);
    s_stride_ = odd_lines(block_tiles_ * lds_);
  }

  int64_t workspace_bytes() const override {
    return ((shared_ ? 1 : p_.num_threads) * v_stride_ + p_.num_threads * s_stride_) * points_ * 4;
  }

  void run(const float* x, const float* weights, const ConvEpilogueRun& epilogue, float* y, char* workspace,
           ThreadPool* pool) const override {
    float* v = reinterpret_cast<float*>(workspace);
    float* sums = v + (shared_ ? 1 : p_.num_threads) * v_stride_ * points_;
    const int64_t num_panels = static_cast<int64_t>(panels_.size());
    if (shared_) {
      // Few tiles: the threads share one transformed input and split the panels, so that each weight is read once.
      const int64_t vectors = ceil_div(p_.c, isa_.width);
      for (int64_t n = 0; n < p_.batch; ++n) {
        conv_parallel(
            pool, p_.num_threads, vectors, std::max<int64_t>(1, ceil_div(vectors, p_.num_threads)),
            [&](int64_t begin, int64_t end, int) { input(x, n, 0, tiles_, begin * isa_.width, std::min(end * isa_.width, p_.c), v); });
        conv_parallel(pool, p_.num_threads, num_panels, 1, [&](int64_t begin, int64_t end, int worker) {
          for (int64_t q = begin; q < end; ++q)
            output(n, 0, tiles_, panels_[q], weights, epilogue, v, sums + worker * s_stride_ * points_, y);
        });
      }
    } else {
      conv_parallel(pool, p_.num_threads, p_.batch * blocks_, 1, [&](int64_t begin, int64_t end, int worker) {
        float* my_v = v + worker * v_stride_ * points_;
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / blocks_, first = item % blocks_ * block_tiles_, last = std::min(tiles_, first + block_tiles_);
          input(x, n, first, last, 0, p_.c, my_v);
          for (const ConvPanel& panel : panels_)
            output(n, first, last, panel, weights, epilogue, my_v, sums + worker * s_stride_ * points_, y);
        }
      });
    }
    if (epilogue.program) epilogue.apply_all(pool);
  }

 private:
  static int64_t odd_lines(int64_t floats) { return (ceil_div(floats, 16) | 1) * 16; }

  void input(const float* x, int64_t n, int64_t first, int64_t last, int64_t c_begin, int64_t c_end, float* v) const {
    WinogradInput args;
    args.x = x + n * p_.h * p_.w * p_.c;
    args.h = p_.h, args.w = p_.w, args.c = p_.c;
    args.pad_top = p_.pad_top, args.pad_left = p_.pad_left;
    args.tiles_w = tiles_w_;
    args.tile_begin = first, args.tile_end = last;
    args.c_begin = c_begin, args.c_end = c_end;
    args.v = v;
    args.v_stride = v_stride_, args.ldv = ldv_;
    isa_.winograd_input(m_, args);
  }

  void output(int64_t n, int64_t first, int64_t last, const ConvPanel& panel, const float* weights, const ConvEpilogueRun& epilogue,
              const float* v, float* s, float* y) const {
    const bool is_last = &panel == &panels_.back();
    const float* rows[kMaxTiles];
    const KSegment segment{0, p_.c};
    const int64_t columns = panel.nv * isa_.width;
    PanelArgs gemm;
    gemm.rows = rows;
    gemm.m = last - first;
    gemm.segments = &segment;
    gemm.num_segments = 1;
    gemm.nv = panel.nv;
    gemm.n = columns;
    gemm.ldc = lds_;
    gemm.plain = true;
    for (int64_t i = 0; i < gemm.m; ++i) rows[i] = v + i * ldv_;
    for (int64_t point = 0; point < points_; ++point) {
      gemm.b = weights + (panel.vector * isa_.width * points_ + point * columns) * p_.c;
      gemm.c = s + point * s_stride_;
      // Packed in the order of use: what follows is the next point or the next panel.
      gemm.next_b = gemm.b + columns * p_.c;
      gemm.next_floats = is_last && point + 1 == points_ ? 0 : columns * p_.c;
      isa_.panel(gemm);
      for (int64_t i = 0; i < gemm.m; ++i) rows[i] += v_stride_;
    }
    const int64_t at = n * p_.oh * p_.ow * p_.ldy + panel.column;
    WinogradOutput args;
    args.s = s;
    args.s_stride = s_stride_, args.lds = lds_;
    args.y = y + at;
    args.oh = p_.oh, args.ow = p_.ow, args.ldc = p_.ldy, args.n = panel.columns;
    args.tiles_w = tiles_w_;
    args.tile_begin = first, args.tile_end = last;
    args.epilogue = epilogue.registers;
    args.epilogue.bias += panel.column;
    if (args.epilogue.residual) args.epilogue.residual += at;
    isa_.winograd_output(m_, args);
  }

  ConvProblem p_;
  const ConvIsa& isa_;
  int m_;
  int64_t points_, tiles_w_, tiles_, ldv_, lds_, v_stride_, s_stride_, block_tiles_, blocks_;
  std::vector<ConvPanel> panels_;
  bool shared_;
};

class WinogradMethod : public ConvMethod {
 public:
  std::string_view name() const override { return "winograd"; }
  bool pitches_output() const override { return true; }
  Support supports(const ConvProblem& p, const ConvIsa&) const override {
    if (p.kh != 3 || p.kw != 3) return Support::no(fmt::format("the kernel is {}x{}, needs 3x3", p.kh, p.kw));
    if (p.stride_h != 1 || p.stride_w != 1) return Support::no("needs stride 1");
    if (p.dilation_h != 1 || p.dilation_w != 1) return Support::no("needs dilation 1");
    if (p.group != 1) return Support::no("needs one group");
    return Support::yes();
  }
  std::vector<std::string> tactics(const ConvProblem& p, const ConvIsa& isa) const override {
    const int64_t vectors = ceil_div(p.m, isa.width);
    const int widest = conv_panels(p.m, isa.width, isa.max_nv)[0].nv;
    std::vector<std::string> list = {fmt::format("m=4,nv={}", widest), fmt::format("m=2,nv={}", widest)};
    if (vectors >= 2 && widest > 2) {
      list.push_back("m=4,nv=2");
      list.push_back("m=2,nv=2");
    }
    return list;
  }
  int64_t packed_floats(const ConvProblem& p, const ConvIsa& isa, const std::string& tactic) const override {
    const int m = parameters(tactic, isa).m;
    return (m + 2) * (m + 2) * round_up(p.m, isa.width) * p.c;
  }
  void pack(const ConvProblem& p, const ConvIsa& isa, const std::string& tactic, const float* weights, float* packed) const override {
    const Parameters chosen = parameters(tactic, isa);
    const int t = chosen.m + 2;
    for (const ConvPanel& panel : conv_panels(p.m, isa.width, chosen.nv)) {
      const int64_t columns = panel.nv * isa.width;
      float* out = packed + panel.vector * isa.width * t * t * p.c;
      std::fill(out, out + t * t * p.c * columns, 0.0f);
      for (int64_t j = 0; j < panel.columns; ++j)
        for (int64_t c = 0; c < p.c; ++c) {
          double g[9], half[18], u[36];
          for (int i = 0; i < 9; ++i) g[i] = weights[((panel.column + j) * p.c + c) * 9 + i];
          for (int col = 0; col < 3; ++col) transform_weights(chosen.m, g + col, 3, half + col, 3);          // [t][3]
          for (int row = 0; row < t; ++row) transform_weights(chosen.m, half + row * 3, 1, u + row * t, 1);  // [t][t]
          for (int point = 0; point < t * t; ++point) out[(point * p.c + c) * columns + j] = static_cast<float>(u[point]);
        }
    }
  }
  std::unique_ptr<ConvEngine> make(const ConvProblem& p, const ConvIsa& isa, const std::string& tactic) const override {
    return std::make_unique<WinogradEngine>(p, isa, parameters(tactic, isa));
  }
};

}  // namespace

const ConvMethod& conv_winograd_method() {
  static const WinogradMethod method;
  return method;
}

}  // namespace tokamak::cpu
