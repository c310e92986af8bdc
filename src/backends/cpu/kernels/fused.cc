#include "backends/cpu/kernels/fused.h"

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/expr_isa.h"
#include "backends/cpu/kernels/parallel.h"

namespace tokamak::cpu {

const IsaChoice kAvx512 = {"avx512", expr_isa_avx512, [] { return cpu_features().avx512; }};
const IsaChoice kAvx2 = {"avx2", expr_isa_avx2, [] { return cpu_features().avx2; }};

bool expr_stores(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16 || dtype == DType::Bool; }
bool expr_loads(DType dtype) {
  return expr_stores(dtype) || dtype == DType::U8 || dtype == DType::I8 || dtype == DType::I32 || dtype == DType::I64;
}

namespace {

constexpr int kMaxRank = 12;
constexpr int64_t kTile = 8192;  // elements of a task

// Where one operand's tile starts, and how it moves along the outer dims (in elements).
struct Walk {
  int index = 0;  // of the node's input or output
  DType dtype = DType::F32;
  int64_t strides[kMaxRank] = {};
};

class ExprKernel : public Kernel {
 public:
  ExprKernel(const NodeView& node, const ir::Expr& expr, const std::vector<int>& inputs, const Shape& shape,
             const std::vector<int64_t>& reduced, const ExprIsa& isa)
      : program_(expr, isa), num_threads_(std::max(1, node.num_threads)), same_size_(node.num_inputs(), false) {
    const int rank = static_cast<int>(shape.size());
    std::vector<Walk> walks;
    for (int i : inputs) {
      walks.push_back(walk_of(i, node.input_dtypes[i], node.input_shapes[i], shape));
      same_size_[i] = node.input_shapes[i] == shape;
    }
    num_inputs_ = static_cast<int>(walks.size());
    for (int o = 0; o < node.num_outputs(); ++o) {
      walks.push_back(walk_of(o, node.output_dtypes[o], node.output_shapes[o], shape));
      reduced_.push_back(o < static_cast<int>(reduced.size()) && reduced[o] != 0);
    }
    // Merge dims that every operand crosses without a jump; with whole-row work the last one stays by itself.
    const bool keep_rows = expr.has_row_reduction() || std::find(reduced_.begin(), reduced_.end(), true) != reduced_.end();
    std::vector<std::vector<int64_t>> merged(walks.size());
    for (int d = rank - 1; d >= 0; --d) {
      const bool row = keep_rows && d == rank - 1;
      if (shape[d] == 1 && !row) continue;
      bool joins = !sizes_.empty() && !(keep_rows && sizes_.size() == 1);
      for (size_t w = 0; w < walks.size() && joins; ++w) joins = walks[w].strides[d] == merged[w].back() * sizes_.back();
      if (joins) {
        sizes_.back() *= shape[d];
        continue;
      }
      sizes_.push_back(shape[d]);
      for (size_t w = 0; w < walks.size(); ++w) merged[w].push_back(walks[w].strides[d]);
    }
    while (sizes_.size() < 2) {
      sizes_.push_back(1);
      for (auto& strides : merged) strides.push_back(0);
    }
    for (size_t w = 0; w < walks.size(); ++w) std::copy(merged[w].begin(), merged[w].end(), walks[w].strides);  // innermost first
    walks_ = std::move(walks);
    cols_ = sizes_[0], rows_ = sizes_[1];
    col_block_ = keep_rows ? cols_ : std::min(cols_, kTile);
    row_block_ = std::max<int64_t>(1, std::min(rows_, kTile / std::max<int64_t>(col_block_, 1)));
    col_tasks_ = (cols_ + col_block_ - 1) / std::max<int64_t>(col_block_, 1);
    row_tasks_ = (rows_ + row_block_ - 1) / row_block_;
    outer_ = 1;
    for (size_t d = 2; d < sizes_.size(); ++d) outer_ *= sizes_[d];
    tables_bytes_ = (num_inputs_ * sizeof(TileInput) + reduced_.size() * sizeof(TileOutput) + 63) / 64 * 64;
    scratch_bytes_ = program_.scratch_bytes(col_block_) + tables_bytes_;
    cost_ = std::max<int64_t>(1, static_cast<int64_t>(expr.code.size())) * col_block_ * row_block_;
  }

  int64_t workspace_bytes() const override { return num_threads_ * scratch_bytes_; }

  bool can_alias(int output, int input) const override {
    if (reduced_[output] || !same_size_[input]) return false;
    const DType dtype = walks_[num_inputs_ + output].dtype;
    for (int i = 0; i < num_inputs_; ++i)
      if (walks_[i].index == input && walks_[i].dtype == dtype) return true;
    return false;
  }

  void run(const RunArgs& args) const override {
    parallel(args.pool, outer_ * row_tasks_ * col_tasks_, cost_, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t task = begin; task < end; ++task) tile(args, task, static_cast<char*>(args.workspace) + worker * scratch_bytes_);
    });
  }

 private:
  static Walk walk_of(int index, DType dtype, const Shape& own, const Shape& full) {
    Walk walk{index, dtype, {}};
    int64_t stride = 1;
    for (size_t d = 0; d < own.size(); ++d) {
      const int64_t size = own[own.size() - 1 - d];
      walk.strides[full.size() - 1 - d] = size == 1 ? 0 : stride;
      stride *= size;
    }
    return walk;
  }

  void tile(const RunArgs& args, int64_t task, char* memory) const {
    const int64_t col = task % col_tasks_ * col_block_, row = task / col_tasks_ % row_tasks_ * row_block_;
    int64_t index = task / (col_tasks_ * row_tasks_);
    int64_t at[kMaxRank];
    for (size_t d = 2; d < sizes_.size(); ++d) at[d] = index % sizes_[d], index /= sizes_[d];
    TileInput* inputs = reinterpret_cast<TileInput*>(memory);
    TileOutput* outputs = reinterpret_cast<TileOutput*>(inputs + num_inputs_);
    for (size_t w = 0; w < walks_.size(); ++w) {
      const Walk& walk = walks_[w];
      int64_t offset = col * walk.strides[0] + row * walk.strides[1];
      for (size_t d = 2; d < sizes_.size(); ++d) offset += at[d] * walk.strides[d];
      offset *= bits_of(walk.dtype) / 8;
      const int o = static_cast<int>(w) - num_inputs_;
      if (o < 0)
        inputs[w] = {static_cast<const char*>(args.inputs[walk.index].raw()) + offset, walk.dtype, walk.strides[1], walk.strides[0]};
      else outputs[o] = {static_cast<char*>(args.outputs[walk.index].raw()) + offset, walk.dtype, walk.strides[1], reduced_[o]};
    }
    program_.run(std::min(row_block_, rows_ - row), std::min(col_block_, cols_ - col), inputs, outputs, memory + tables_bytes_);
  }

  ExprProgram program_;
  int num_threads_;
  int num_inputs_ = 0;
  std::vector<Walk> walks_;  // inputs of the expression, then outputs
  std::vector<bool> reduced_;
  std::vector<bool> same_size_;  // per node input: the output's shape
  std::vector<int64_t> sizes_;   // merged dims, innermost first
  int64_t cols_ = 0, rows_ = 0, outer_ = 0, col_block_ = 0, row_block_ = 0, col_tasks_ = 0, row_tasks_ = 0;
  int64_t tables_bytes_ = 0, scratch_bytes_ = 0, cost_ = 0;
};

class FusedDef : public KernelDef {
 public:
  explicit FusedDef(const IsaChoice& isa) : isa_(isa), name_(std::string(isa.name) + ".fused") {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "fused"; }

  Support supports(const NodeView& node) const override {
    if (!isa_.available()) return Support::no(std::string("needs ") + isa_.name);
    for (DType dtype : node.input_dtypes)
      if (!expr_loads(dtype)) return Support::no(fmt::format("input dtype {}", to_string(dtype)));
    for (DType dtype : node.output_dtypes)
      if (!expr_stores(dtype)) return Support::no(fmt::format("output dtype {}", to_string(dtype)));
    if (full_shape(node).size() > kMaxRank) return Support::no(fmt::format("rank above {}", kMaxRank));
    return Support::yes();
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const ir::Expr expr = ir::Expr::parse(node.attrs().get_string("expr"));
    std::vector<int> inputs;
    for (int i = 0; i < expr.num_inputs(); ++i) inputs.push_back(i);
    if (expr.num_inputs() > node.num_inputs() || static_cast<int>(expr.results.size()) != node.num_outputs())
      fail(ErrorCode::InvalidArgument, "[fused] the expression has {} inputs and {} results, the node {} and {}", expr.num_inputs(),
           expr.results.size(), node.num_inputs(), node.num_outputs());
    return make_expr_kernel(node, expr, inputs, full_shape(node), node.attrs().get_ints("reduced", {}), isa_.table());
  }

 private:
  static Shape full_shape(const NodeView& node) {
    Shape shape;
    const auto merge = [&](const Shape& other) {
      if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
      for (size_t d = 0; d < other.size(); ++d) {
        int64_t& size = shape[shape.size() - 1 - d];
        if (size == 1) size = other[other.size() - 1 - d];
      }
    };
    for (const Shape& input : node.input_shapes) merge(input);
    return shape;
  }

  const IsaChoice& isa_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Kernel> make_expr_kernel(const NodeView& node, const ir::Expr& expr, const std::vector<int>& inputs, const Shape& shape,
                                         const std::vector<int64_t>& reduced, const ExprIsa& isa) {
  return std::make_unique<ExprKernel>(node, expr, inputs, shape, reduced, isa);
}

const KernelDef& avx512_fused() {
  static const FusedDef def(kAvx512);
  return def;
}
const KernelDef& avx2_fused() {
  static const FusedDef def(kAvx2);
  return def;
}

}  // namespace tokamak::cpu
