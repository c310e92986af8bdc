// Convolution as an implicit GEMM: the rows of A are output pixels, read in place through row pointers; K is kernel height x (kernel width
// x channels), so a 3x3 kernel is three runs of consecutive floats. A padded input is copied once into a zero-bordered buffer.

#include <algorithm>
#include <cstring>

#include "backends/cpu/kernels/conv.h"

namespace tokamak::cpu {
namespace {

constexpr int64_t kMaxBlockRows = 256;
constexpr int64_t kBlockK = 768;            // floats of K a pass, so that A's block stays in L2 while B's panels stream
constexpr int64_t kBlockBytes = 384 << 10;  // of A a pass, in half of a 1 MiB L2
constexpr int64_t kPieceBytes = 32 << 10;   // of B's panel at a time, read from L1 by all rows while the next piece is on its way

// Consecutive values of K: a piece (in segments) or a pass (in pieces).
struct KBlock {
  int64_t first, count, k_begin, k_size;
};

class IgemmEngine : public ConvEngine {
 public:
  IgemmEngine(const ConvProblem& problem, const ConvIsa& isa, int max_nv) : p_(problem), isa_(isa) {
    cg_ = p_.c / p_.group;
    mg_ = p_.m / p_.group;
    k_ = p_.kh * p_.kw * cg_;
    hp_ = p_.h + p_.pad_top + p_.pad_bottom;
    wp_ = p_.w + p_.pad_left + p_.pad_right;
    panels_ = conv_panels(mg_, isa.width, max_nv);
    group_floats_ = ceil_div(mg_, isa.width) * isa.width * k_;
    make_segments();
    split();
  }

  int64_t workspace_bytes() const override { return p_.padded() ? round_up(p_.batch * hp_ * wp_ * p_.c * 4, 64) : 0; }

  void run(const float* x, const float* weights, const ConvEpilogueRun& epilogue, float* y, char* workspace,
           ThreadPool* pool) const override {
    if (p_.padded()) {
      float* bordered = reinterpret_cast<float*>(workspace);
      conv_parallel(pool, p_.num_threads, p_.batch * hp_, std::max<int64_t>(1, hp_ / (2 * p_.num_threads)),
                    [&](int64_t begin, int64_t end, int) { copy_rows(x, bordered, begin, end); });
      x = bordered;
    }
    conv_parallel(pool, p_.num_threads, p_.group * m_blocks_ * panel_groups_, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t item = begin; item < end; ++item) run_item(item, x, weights, epilogue, y, worker);
    });
  }

 private:
  void make_segments() {
    std::vector<KSegment> whole;
    if (p_.group == 1 && p_.dilation_w == 1) {
      for (int64_t i = 0; i < p_.kh; ++i) whole.push_back({i * p_.dilation_h * wp_ * p_.c, p_.kw * p_.c});
    } else {
      for (int64_t i = 0; i < p_.kh; ++i)
        for (int64_t j = 0; j < p_.kw; ++j) whole.push_back({(i * p_.dilation_h * wp_ + j * p_.dilation_w) * p_.c, cg_});
    }
    const int64_t pass = ceil_div(k_, ceil_div(k_, kBlockK));
    const int64_t piece_k = kPieceBytes / (4 * panels_[0].nv * isa_.width);
    const int64_t piece = ceil_div(pass, ceil_div(pass, piece_k));
    int64_t k = 0;
    for (KSegment segment : whole) {
      while (segment.len > 0) {
        if (passes_.empty() || k - passes_.back().k_begin >= pass) passes_.push_back({static_cast<int64_t>(pieces_.size()), 0, k, 0});
        KBlock& in = passes_.back();
        if (in.count == 0 || k - pieces_.back().k_begin >= piece) {
          pieces_.push_back({static_cast<int64_t>(segments_.size()), 0, k, 0});
          ++in.count;
        }
        KBlock& part = pieces_.back();
        const int64_t len = std::min({segment.len, in.k_begin + pass - k, part.k_begin + piece - k});
        segments_.push_back({segment.offset, len});
        ++part.count;
        part.k_size += len;
        in.k_size += len;
        segment.offset += len;
        segment.len -= len;
        k += len;
      }
    }
  }

  // Few rows or heavy weights: threads share out the panels, so that each weight is read once. Otherwise they share out the rows.
  void split() {
    const int64_t rows = p_.pixels(), threads = p_.num_threads, num_panels = static_cast<int64_t>(panels_.size());
    const int64_t block_k = std::min(k_, kBlockK);
    int64_t block_rows = std::clamp<int64_t>(kBlockBytes / (block_k * 4), 48, kMaxBlockRows);
    m_blocks_ = ceil_div(rows, block_rows);
    panel_groups_ = 1;
    if (threads > 1 && p_.group == 1) {
      if (num_panels >= threads && (rows < 32 * threads || (m_blocks_ < threads && k_ * p_.m > rows * p_.c))) {
        panel_groups_ = threads;
      } else {
        m_blocks_ = round_up(m_blocks_, threads);
      }
    }
    block_rows_ = ceil_div(rows, m_blocks_);
    m_blocks_ = ceil_div(rows, block_rows_);
  }

  void copy_rows(const float* x, float* bordered, int64_t begin, int64_t end) const {
    const int64_t row_floats = p_.w * p_.c, left = p_.pad_left * p_.c, right = p_.pad_right * p_.c;
    for (int64_t r = begin; r < end; ++r) {
      float* out = bordered + r * wp_ * p_.c;
      const int64_t n = r / hp_, y = r % hp_ - p_.pad_top;
      if (y < 0 || y >= p_.h) {
        std::memset(out, 0, wp_ * p_.c * sizeof(float));
        continue;
      }
      std::memset(out, 0, left * sizeof(float));
      std::memcpy(out + left, x + (n * p_.h + y) * row_floats, row_floats * sizeof(float));
      std::memset(out + left + row_floats, 0, right * sizeof(float));
    }
  }

  void run_item(int64_t item, const float* x, const float* weights, const ConvEpilogueRun& epilogue, float* y, int worker) const {
    const int64_t panel_group = item % panel_groups_, block = item / panel_groups_ % m_blocks_, g = item / panel_groups_ / m_blocks_;
    const int64_t row0 = block * block_rows_, count = std::min(block_rows_, p_.pixels() - row0);
    const int64_t num_panels = static_cast<int64_t>(panels_.size());
    const int64_t panel_begin = num_panels * panel_group / panel_groups_, panel_end = num_panels * (panel_group + 1) / panel_groups_;
    const float* rows[kMaxBlockRows];
    int64_t ox = row0 % p_.ow, oy = row0 / p_.ow % p_.oh, n = row0 / (p_.ow * p_.oh);
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = x + ((n * hp_ + oy * p_.stride_h) * wp_ + ox * p_.stride_w) * p_.c + g * cg_;
      if (++ox == p_.ow) {
        ox = 0;
        if (++oy == p_.oh) oy = 0, ++n;
      }
    }
    const auto at = [&](int64_t q, const KBlock& piece) {
      return weights + g * group_floats_ + panels_[q].vector * isa_.width * k_ + piece.k_begin * panels_[q].nv * isa_.width;
    };
    for (size_t pass = 0; pass < passes_.size(); ++pass) {
      const int64_t first = passes_[pass].first, end = first + passes_[pass].count;
      for (int64_t q = panel_begin; q < panel_end; ++q) {
        const ConvPanel& panel = panels_[q];
        const int64_t column = g * mg_ + panel.column, corner = row0 * p_.ldy + column;
        PanelArgs args;
        args.rows = rows;
        args.m = count;
        args.nv = panel.nv;
        args.n = panel.columns;
        args.c = y + corner;
        args.ldc = p_.ldy;
        args.epilogue = epilogue.registers;
        args.epilogue.bias += column;
        if (args.epilogue.residual) args.epilogue.residual += corner;
        for (int64_t s = first; s < end; ++s) {
          const KBlock& piece = pieces_[s];
          args.segments = segments_.data() + piece.first;
          args.num_segments = piece.count;
          args.b = at(q, piece);
          args.load_c = s > 0;
          args.plain = s + 1 < static_cast<int64_t>(pieces_.size());
          // The piece after this one: the panel's next, the next panel's first, the next pass's, the next item's.
          const int64_t next_q = s + 1 < end ? q : q + 1 < panel_end ? q + 1 : panel_begin;
          const KBlock& next = pieces_[s + 1 < end ? s + 1 : q + 1 < panel_end ? first : args.plain ? end : 0];
          args.next_b = at(next_q, next);
          args.next_floats = next.k_size * panels_[next_q].nv * isa_.width;
          isa_.panel(args);
        }
        if (end == static_cast<int64_t>(pieces_.size()) && epilogue.program) epilogue.apply(row0, count, column, panel.columns, worker);
      }
    }
  }

  ConvProblem p_;
  const ConvIsa& isa_;
  int64_t cg_, mg_, k_, hp_, wp_, group_floats_;
  std::vector<ConvPanel> panels_;
  std::vector<KSegment> segments_;
  std::vector<KBlock> pieces_, passes_;
  int64_t m_blocks_ = 1, panel_groups_ = 1, block_rows_ = 1;
};

class IgemmMethod : public ConvMethod {
 public:
  std::string_view name() const override { return "igemm"; }
  bool pitches_output() const override { return true; }
  Support supports(const ConvProblem& p, const ConvIsa&) const override {
    if (p.group == p.c && p.group == p.m && p.group > 1)
      return Support::no("it is depthwise: one column a group would waste whole vectors");
    return Support::yes();
  }
  std::vector<std::string> tactics(const ConvProblem& p, const ConvIsa& isa) const override {
    const int64_t vectors = ceil_div(p.m / p.group, isa.width);
    if (vectors <= 1) return {"nv=1"};
    std::vector<std::string> list;
    int last = 0;
    for (int nv = isa.max_nv; nv >= 2; --nv) {
      const int widest = conv_panels(p.m / p.group, isa.width, nv)[0].nv;
      if (widest != last) list.push_back(fmt::format("nv={}", widest));
      last = widest;
    }
    return list;
  }
  int64_t packed_floats(const ConvProblem& p, const ConvIsa& isa, const std::string&) const override {
    return p.group * ceil_div(p.m / p.group, isa.width) * isa.width * p.kh * p.kw * (p.c / p.group);
  }
  void pack(const ConvProblem& p, const ConvIsa& isa, const std::string& tactic, const float* weights, float* packed) const override {
    const int64_t cg = p.c / p.group, mg = p.m / p.group, taps = p.kh * p.kw;
    const std::vector<ConvPanel> panels = conv_panels(mg, isa.width, max_nv(tactic, isa));
    for (int64_t g = 0; g < p.group; ++g)
      for (const ConvPanel& panel : panels)
        for (int64_t tap = 0; tap < taps; ++tap)
          for (int64_t c = 0; c < cg; ++c)
            for (int64_t j = 0; j < panel.nv * isa.width; ++j)
              *packed++ = j < panel.columns ? weights[((g * mg + panel.column + j) * cg + c) * taps + tap] : 0.0f;
  }
  std::unique_ptr<ConvEngine> make(const ConvProblem& p, const ConvIsa& isa, const std::string& tactic) const override {
    return std::make_unique<IgemmEngine>(p, isa, max_nv(tactic, isa));
  }

 private:
  static int max_nv(const std::string& tactic, const ConvIsa& isa) {
    return static_cast<int>(conv_tactic_value(tactic, "nv", isa.max_nv, 1, isa.max_nv));
  }
};

}  // namespace

const ConvMethod& conv_igemm_method() {
  static const IgemmMethod method;
  return method;
}

}  // namespace tokamak::cpu
