#include "backends/cpu/expr_program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/expr_isa.h"
#include "base/error.h"

namespace tokamak::cpu {
namespace {

using ir::ExprOperand;

constexpr int64_t kStrip = 512;   // columns at a time: a dozen live values stay in L1
constexpr int64_t kNarrow = 128;  // tiles narrower than this are evaluated several rows at a time
constexpr int64_t kSplat = 16;    // copies of a uniform value; the widest vector

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct FunctionInfo {
  const char* name;
  int arity;
  bool reduction;
};
constexpr FunctionInfo kFunctions[] = {
#define UNARY(name) {#name, 1, false},
#define BINARY(name) {#name, 2, false},
#define TERNARY(name) {#name, 3, false},
#define REDUCTION(name) {#name, 1, true},
#include "backends/cpu/expr_functions.inc"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef REDUCTION
};

ExprOp find_op(const std::string& name) {
  for (int i = 0; i < static_cast<int>(ExprOp::kCount); ++i)
    if (name == kFunctions[i].name) return static_cast<ExprOp>(i);
  fail(ErrorCode::Unsupported, "the CPU evaluates no expression function '{}'", name);
}

struct Step {
  ExprOp op;
  int arity = 0;
  bool reduction = false;
  bool dead = false;
  int operands[3] = {};  // value numbers
  int slot = -1;
};

int element_size(DType dtype) { return bits_of(dtype) / 8; }
const char* at(const void* data, DType dtype, int64_t element) { return static_cast<const char*>(data) + element * element_size(dtype); }

}  // namespace

// Values are numbered inputs first, then results of steps, then literals.
struct ExprProgram::Impl {
  const ExprIsa* isa = nullptr;
  int num_inputs = 0;
  std::vector<Step> steps;
  std::vector<int> results;     // value numbers
  std::vector<float> literals;  // kSplat copies each
  std::vector<int> last_use;    // per input: the last step that reads it, num steps when it is a result, -1 when unused
  int num_slots = 0;            // for steps; every input has one of its own besides
  bool has_reduction = false;

  int num_values() const { return num_inputs + num_steps() + static_cast<int>(literals.size() / kSplat); }
  int num_steps() const { return static_cast<int>(steps.size()); }
  int64_t slot_floats(int64_t cols) const { return has_reduction ? round_up(cols, kSplat) : kStrip + kNarrow; }

  void compile(const ir::Expr& expr);
  void simplify();
  void assign_slots();
  int literal(float value);

  struct Run;
};

int ExprProgram::Impl::literal(float value) {
  literals.insert(literals.end(), kSplat, value);
  return num_values() - 1;
}

void ExprProgram::Impl::compile(const ir::Expr& expr) {
  num_inputs = expr.num_inputs();
  steps.resize(expr.code.size());
  const auto number = [&](const ExprOperand& operand) {
    if (operand.kind == ExprOperand::Input) return operand.index;
    if (operand.kind == ExprOperand::Temp) return num_inputs + operand.index;
    return literal(operand.literal);
  };
  for (size_t i = 0; i < expr.code.size(); ++i) {
    Step& step = steps[i];
    step.op = find_op(expr.code[i].function);
    const FunctionInfo& info = kFunctions[static_cast<int>(step.op)];
    step.arity = info.arity, step.reduction = info.reduction;
    has_reduction |= info.reduction;
    CHECK(static_cast<int>(expr.code[i].operands.size()) == step.arity);
    for (int j = 0; j < step.arity; ++j) step.operands[j] = number(expr.code[i].operands[j]);
  }
  for (const ExprOperand& operand : expr.results) results.push_back(number(operand));
  simplify();
  last_use.assign(num_inputs, -1);
  for (int i = 0; i < num_steps(); ++i)
    for (int j = 0; j < steps[i].arity && !steps[i].dead; ++j)
      if (steps[i].operands[j] < num_inputs) last_use[steps[i].operands[j]] = i;
  for (int value : results)
    if (value < num_inputs) last_use[value] = num_steps();
  assign_slots();
}

// Powers with common literal exponents, multiply-add pairs, and steps that nobody reads.
void ExprProgram::Impl::simplify() {
  const int first_literal = num_inputs + num_steps();
  for (Step& step : steps) {
    if (step.op != ExprOp::k_pow || step.operands[1] < first_literal) continue;
    const float exponent = literals[(step.operands[1] - first_literal) * kSplat];
    const auto become = [&](ExprOp op, int arity) { step.op = op, step.arity = arity; };
    if (exponent == 1) become(ExprOp::k_Copy, 1);
    else if (exponent == 2) become(ExprOp::k_mul, 2), step.operands[1] = step.operands[0];
    else if (exponent == 3) become(ExprOp::k_Cube, 1);
    else if (exponent == -1) become(ExprOp::k_reciprocal, 1);
  }
  std::vector<int> uses(num_values());
  for (const Step& step : steps)
    for (int j = 0; j < step.arity; ++j) ++uses[step.operands[j]];
  for (int value : results) ++uses[value];
  for (Step& step : steps) {
    if (step.op != ExprOp::k_add) continue;
    for (int j = 0; j < 2; ++j) {
      const int product = step.operands[j] - num_inputs, other = step.operands[1 - j];
      if (product < 0 || product >= num_steps() || steps[product].op != ExprOp::k_mul || uses[step.operands[j]] != 1) continue;
      step.op = ExprOp::k_Fma, step.arity = 3;
      step.operands[0] = steps[product].operands[0], step.operands[1] = steps[product].operands[1], step.operands[2] = other;
      uses[num_inputs + product] = 0, steps[product].dead = true;
      break;
    }
  }
  for (int i = num_steps() - 1; i >= 0; --i) {
    if (uses[num_inputs + i] > 0) continue;
    if (!steps[i].dead)
      for (int j = 0; j < steps[i].arity; ++j) --uses[steps[i].operands[j]];
    steps[i].dead = true;
  }
}

// Linear scan: a slot is free again after the last step that reads it, and that step may write over it.
void ExprProgram::Impl::assign_slots() {
  std::vector<int> last(num_values(), -1), free;
  for (int i = 0; i < num_steps(); ++i)
    for (int j = 0; j < steps[i].arity && !steps[i].dead; ++j) last[steps[i].operands[j]] = i;
  for (int value : results) last[value] = num_steps();
  for (int i = 0; i < num_steps(); ++i) {
    Step& step = steps[i];
    if (step.dead) continue;
    for (int j = 0; j < step.arity; ++j) {
      const int value = step.operands[j], producer = value - num_inputs;
      if (producer < 0 || producer >= num_steps() || last[value] != i) continue;
      free.push_back(steps[producer].slot);
      last[value] = -1;  // an operand that occurs twice is freed once
    }
    if (free.empty()) {
      step.slot = num_slots++;
    } else {
      step.slot = free.back();
      free.pop_back();
    }
  }
}

ExprProgram::ExprProgram(const ir::Expr& expr, const ExprIsa& isa) : expr_(expr) {
  auto impl = std::make_shared<Impl>();
  impl->isa = &isa;
  impl->compile(expr);
  impl_ = std::move(impl);
}

namespace {

const ExprIsa& best_isa() {
  if (cpu_features().avx512) return expr_isa_avx512();
  if (!cpu_features().avx2)
    fail(ErrorCode::Unsupported, "fused expressions need a CPU with AVX2; this one has {}", cpu_features().to_string());
  return expr_isa_avx2();
}

}  // namespace

ExprProgram::ExprProgram(const ir::Expr& expr) : ExprProgram(expr, best_isa()) {}

// One call of run(). The tables live in the scratch, since their sizes depend on the program.
struct ExprProgram::Impl::Run {
  const Impl& p;
  const TileInput* inputs;
  const TileOutput* outputs;
  int64_t rows, cols, strip_rows;  // strip_rows > 1: several narrow rows form one strip
  StripOperand* values;
  int* destination;  // per step: the result that it may write directly, or -1
  float* splats;     // kSplat floats for each input and step
  float* slots;
  int64_t slot_floats;

  Run(const Impl& p, int64_t rows, int64_t cols, const TileInput* inputs, const TileOutput* outputs, void* scratch)
      : p(p), inputs(inputs), outputs(outputs), rows(rows), cols(cols), strip_rows(1), slot_floats(p.slot_floats(cols)) {
    char* memory = static_cast<char*>(scratch);
    slots = reinterpret_cast<float*>(memory);
    memory += (p.num_inputs + p.num_slots) * slot_floats * sizeof(float);
    splats = reinterpret_cast<float*>(memory);
    memory += (p.num_inputs + p.num_steps()) * kSplat * sizeof(float);
    values = reinterpret_cast<StripOperand*>(memory);
    memory += p.num_values() * sizeof(StripOperand);
    destination = reinterpret_cast<int*>(memory);
    bool narrow = !p.has_reduction && cols < kNarrow && rows > 1;
    for (size_t k = 0; k < p.results.size(); ++k) narrow &= !outputs[k].one_column;
    if (narrow) strip_rows = std::min(rows, std::max<int64_t>(1, kStrip / cols));
    classify();
  }

  float* input_slot(int i) const { return slots + i * slot_floats; }
  float* splat(int value) const { return splats + value * kSplat; }
  bool narrow() const { return strip_rows > 1; }

  // A narrow strip of one column is better seen as one column of a contiguous row.
  int64_t col_stride(const TileInput& in) const { return cols == 1 && narrow() ? (in.row_stride == 0 ? 0 : 1) : in.col_stride; }

  void classify() {
    for (int i = 0; i < p.num_inputs; ++i) {
      if (p.last_use[i] < 0) continue;
      const TileInput& in = inputs[i];
      values[i].uniform = col_stride(in) == 0 && (!narrow() || in.row_stride == 0);
      values[i].data = values[i].uniform ? splat(i) : input_slot(i);
      if (in.row_stride != 0) continue;
      // Constant over the rows: loaded here, once.
      if (values[i].uniform) {
        load_splat(i, 0);
      } else if (narrow() && col_stride(in) == 1) {
        for (int64_t r = 0; r < strip_rows; ++r) p.isa->load(input_slot(i) + r * cols, in.data, in.dtype, cols);
      }
    }
    const int first_literal = p.num_inputs + p.num_steps();
    for (int i = first_literal; i < p.num_values(); ++i) values[i] = {p.literals.data() + (i - first_literal) * kSplat, true};
    for (int s = 0; s < p.num_steps(); ++s) {
      const Step& step = p.steps[s];
      if (step.dead) continue;
      const int value = p.num_inputs + s;
      bool uniform = true;
      for (int j = 0; j < step.arity; ++j) uniform &= values[step.operands[j]].uniform;
      uniform |= step.reduction;
      values[value] = {uniform ? splat(value) : slots + (p.num_inputs + step.slot) * slot_floats, uniform};
      destination[s] = uniform ? -1 : direct_result(s);
    }
  }

  // A result in float32 is written in place, unless that would overwrite an input which a later step still reads.
  int direct_result(int s) const {
    for (size_t k = 0; k < p.results.size(); ++k) {
      const TileOutput& out = outputs[k];
      if (p.results[k] != p.num_inputs + s) continue;
      if (out.dtype != DType::F32 || out.one_column || (narrow() && out.row_stride != cols)) continue;
      bool safe = true;
      for (int i = 0; i < p.num_inputs; ++i) safe &= inputs[i].data != out.data || p.last_use[i] <= s;
      if (safe) return static_cast<int>(k);
    }
    return -1;
  }

  void load_splat(int i, int64_t row) const {
    float* const d = splat(i);
    p.isa->load(d, at(inputs[i].data, inputs[i].dtype, row * inputs[i].row_stride), inputs[i].dtype, 1);
    for (int64_t j = 1; j < kSplat; ++j) d[j] = d[0];
  }

  void load_input(int i, int64_t row, int64_t col, int64_t num_rows, int64_t n) {
    const TileInput& in = inputs[i];
    const int64_t stride = in.row_stride;
    if (values[i].uniform) {
      if (stride != 0 && col == 0) load_splat(i, row);
      return;
    }
    const char* const data = at(in.data, in.dtype, row * stride + col);
    if (!narrow() || (stride == cols && col_stride(in) == 1)) {
      if (in.dtype == DType::F32) values[i].data = reinterpret_cast<const float*>(data);
      else p.isa->load(input_slot(i), data, in.dtype, n);
      return;
    }
    if (stride == 0) return;  // replicated by classify()
    float* d = input_slot(i);
    for (int64_t r = 0; r < num_rows; ++r, d += cols) {
      const char* const source = at(in.data, in.dtype, (row + r) * stride);
      if (col_stride(in) == 1) {
        p.isa->load(d, source, in.dtype, cols);
      } else {
        p.isa->load(d, source, in.dtype, 1);
        for (int64_t c = 1; c < cols; ++c) d[c] = d[0];
      }
    }
  }

  static void store_value(const Impl& p, const StripOperand& value, int64_t offset, void* data, DType dtype, int64_t n) {
    if (!value.uniform) {
      p.isa->store(data, dtype, value.data + offset, n);
      return;
    }
    for (int64_t c = 0; c < n; c += kSplat) p.isa->store(const_cast<char*>(at(data, dtype, c)), dtype, value.data, std::min(kSplat, n - c));
  }

  void store_result(int k, int64_t row, int64_t col, int64_t num_rows, int64_t n) const {
    const TileOutput& out = outputs[k];
    const int value = p.results[k], step = value - p.num_inputs;
    if (step >= 0 && step < p.num_steps() && destination[step] == k) return;
    if (out.one_column) {
      if (col == 0) store_value(p, values[value], 0, const_cast<char*>(at(out.data, out.dtype, row * out.row_stride)), out.dtype, 1);
      return;
    }
    char* data = const_cast<char*>(at(out.data, out.dtype, row * out.row_stride + col));
    if (!narrow() || out.row_stride == cols) return store_value(p, values[value], 0, data, out.dtype, n);
    for (int64_t r = 0; r < num_rows; ++r)
      store_value(p, values[value], r * cols, data + r * out.row_stride * element_size(out.dtype), out.dtype, cols);
  }

  void strip(int64_t row, int64_t col, int64_t num_rows, int64_t n) {
    for (int i = 0; i < p.num_inputs; ++i)
      if (p.last_use[i] >= 0) load_input(i, row, col, num_rows, n);
    for (int s = 0; s < p.num_steps(); ++s) {
      const Step& step = p.steps[s];
      if (step.dead) continue;
      StripOperand& value = values[p.num_inputs + s];
      if (destination[s] >= 0) {
        const TileOutput& out = outputs[destination[s]];
        value.data = static_cast<float*>(out.data) + row * out.row_stride + col;
      }
      StripOperand operands[3];
      for (int j = 0; j < step.arity; ++j) operands[j] = values[step.operands[j]];
      p.isa->functions[static_cast<int>(step.op)](const_cast<float*>(value.data), operands, value.uniform && !step.reduction ? kSplat : n);
    }
    for (size_t k = 0; k < p.results.size(); ++k) store_result(static_cast<int>(k), row, col, num_rows, n);
  }

  void all() {
    if (narrow()) {
      for (int64_t r = 0; r < rows; r += strip_rows) {
        const int64_t num_rows = std::min(strip_rows, rows - r);
        strip(r, 0, num_rows, num_rows * cols);
      }
      return;
    }
    const int64_t pieces = p.has_reduction ? 1 : (cols + kStrip - 1) / kStrip;
    const int64_t width = p.has_reduction ? cols : round_up((cols + pieces - 1) / pieces, kSplat);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; c += width) strip(r, c, 1, std::min(width, cols - c));
  }
};

int64_t ExprProgram::scratch_bytes(int64_t cols) const {
  const Impl& p = *impl_;
  const int64_t floats = (p.num_inputs + p.num_slots) * p.slot_floats(cols) + (p.num_inputs + p.num_steps()) * kSplat;
  return round_up(floats * sizeof(float) + p.num_values() * sizeof(StripOperand) + p.num_steps() * sizeof(int), 64);
}

void ExprProgram::run(int64_t rows, int64_t cols, const TileInput* inputs, const TileOutput* outputs, void* scratch) const {
  if (rows <= 0 || cols <= 0) return;
  Impl::Run(*impl_, rows, cols, inputs, outputs, scratch).all();
}

namespace {

// The activation that a step stands for when it is applied to `value`, or None.
ExprProgram::Activation activation_of(const ir::ExprInstruction& step, const ExprOperand& value) {
  using Activation = ExprProgram::Activation;
  if (!(step.operands[0] == value)) return Activation::None;
  const auto literal = [&](int i, float expected) {
    return step.operands[i].kind == ExprOperand::Literal && std::abs(step.operands[i].literal - expected) < 1e-6f;
  };
  const std::string& f = step.function;
  if (f == "relu") return Activation::Relu;
  if (f == "gelu") return Activation::Gelu;
  if (f == "gelu_tanh") return Activation::GeluTanh;
  if (f == "silu") return Activation::Silu;
  if (f == "sigmoid") return Activation::Sigmoid;
  if (f == "tanh") return Activation::Tanh;
  if (f == "hard_swish") return Activation::HardSwish;
  if (f == "hard_sigmoid" && literal(1, 1.0f / 6) && literal(2, 0.5f)) return Activation::HardSigmoid;
  if (f == "clip" && literal(1, 0) && literal(2, 6)) return Activation::Relu6;
  if (f == "max" && literal(1, 0)) return Activation::Relu;
  return Activation::None;
}

}  // namespace

bool ExprProgram::as_simple(const std::vector<bool>& per_column, const std::vector<bool>& full, Simple& out) const {
  Simple simple;
  ExprOperand current{ExprOperand::Input, 0, 0};
  const auto& code = expr_.code;
  for (size_t i = 0; i < code.size(); ++i) {
    const ExprOperand result{ExprOperand::Temp, static_cast<int>(i), 0};
    const ir::ExprInstruction& step = code[i];
    if (step.function == "add") {
      const bool first = step.operands[0] == current;
      if (first == (step.operands[1] == current)) return false;  // neither, or x + x
      const ExprOperand& other = step.operands[first ? 1 : 0];
      if (other.kind != ExprOperand::Input || other.index == 0) return false;
      const size_t input = other.index;
      if (simple.bias < 0 && simple.activation == Activation::None && input < per_column.size() && per_column[input]) {
        simple.bias = other.index;
      } else if (simple.residual < 0 && input < full.size() && full[input]) {
        simple.residual = other.index;
        simple.residual_after = simple.activation != Activation::None;
      } else {
        return false;
      }
    } else {
      if (simple.activation != Activation::None) return false;
      simple.activation = activation_of(step, current);
      if (simple.activation == Activation::None) return false;
      // x * sigmoid(x) and x * hard_sigmoid(x) written out.
      if (i + 1 < code.size() && code[i + 1].function == "mul") {
        const auto& factors = code[i + 1].operands;
        const bool product = (factors[0] == current && factors[1] == result) || (factors[1] == current && factors[0] == result);
        if (!product) return false;
        if (simple.activation == Activation::Sigmoid) simple.activation = Activation::Silu;
        else if (simple.activation == Activation::HardSigmoid) simple.activation = Activation::HardSwish;
        else return false;
        ++i;
      }
    }
    current = ExprOperand{ExprOperand::Temp, static_cast<int>(i), 0};
  }
  if (expr_.results.size() != 1 || !(expr_.results[0] == current)) return false;
  out = simple;
  return true;
}

}  // namespace tokamak::cpu
