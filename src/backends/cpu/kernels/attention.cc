// The attention op on float32: one task for a block of queries of one head; few queries (decoding) run one by one.

#include <cmath>

#include "backends/cpu/attention_functions.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/kernels/parallel.h"
#include "runtime/kernel.h"

namespace tokamak::cpu {
namespace {

bool has_avx512() { return cpu_features().avx512; }
bool has_avx2() { return cpu_features().avx2; }

struct Attention : Kernel {
  const AttentionFunctions* functions;
  AttentionProblem problem;  // without pointers
  int64_t q_offset = 0, k_offset = 0, v_offset = 0;
  int64_t batches = 1;
  int threads = 1;

  int64_t thread_floats() const { return functions->workspace_floats(problem); }
  int64_t workspace_bytes() const override { return threads * thread_floats() * static_cast<int64_t>(sizeof(float)); }
  void run(const RunArgs& args) const override {
    AttentionProblem a = problem;
    a.q = args.inputs[0].data<float>() + q_offset, a.k = args.inputs[1].data<float>() + k_offset;
    a.v = args.inputs[2].data<float>() + v_offset;
    a.out = args.outputs[0].data<float>();
    if (args.inputs.size() > 3 && args.inputs[3].defined()) a.mask = args.inputs[3].raw();
    const bool few = a.queries <= functions->few;
    const int64_t block = few ? 1 : functions->block, blocks = (a.queries + block - 1) / block;
    const int64_t floats = thread_floats();
    const int64_t cost = std::min(block, a.queries) * a.keys * (a.depth + a.value_depth) / 8 + 1;
    parallel(args.pool, batches * a.heads * blocks, cost, [&](int64_t begin, int64_t end, int worker) {
      float* const workspace = static_cast<float*>(args.workspace) + worker * floats;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % blocks * block, head = task / blocks % a.heads, batch = task / blocks / a.heads;
        if (few) functions->single(a, batch, head, first, workspace);
        else functions->tile(a, batch, head, first, std::min(block, a.queries - first), workspace);
      }
    });
  }
};

// One operand as [batch, head, row] with strides, from its layout. A three-dimensional operand is [batch, row, heads * depth].
struct Operand {
  int64_t batches, heads, rows, depth, batch, head, row, offset = 0;
  static Operand of(const Shape& shape, const std::string& layout, int64_t heads) {
    if (shape.size() == 3) {
      const int64_t depth = shape[2] / heads;
      return {shape[0], heads, shape[1], depth, shape[1] * shape[2], depth, shape[2]};
    }
    if (layout == "BSHD") return {shape[0], shape[2], shape[1], shape[3], shape[1] * shape[2] * shape[3], shape[3], shape[2] * shape[3]};
    return {shape[0], shape[1], shape[2], shape[3], shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3]};
  }
};

class AttentionDef : public KernelDef {
 public:
  AttentionDef(const char* name, bool (*available)(), const AttentionFunctions& (*table)())
      : name_(name), available_(available), table_(table) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return "attention"; }

  Support supports(const NodeView& node) const override {
    if (!available_()) return Support::no("the CPU lacks the instructions");
    if (node.num_outputs() != 1) return Support::no("one output only");
    for (int i = 0; i < 3; ++i) {
      if (node.input_dtypes[i] != DType::F32) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[i])));
      const Shape& shape = node.input_shapes[i];
      const int64_t heads = heads_of(node, i);
      if (shape.size() != 4 && !(shape.size() == 3 && heads > 0 && shape[2] % heads == 0))
        return Support::no(fmt::format("shape {}", to_string(shape)));
    }
    const Operand q = operand(node, 0), k = operand(node, 1), v = operand(node, 2);
    if (k.heads == 0 || q.heads % k.heads != 0 || v.heads != k.heads || k.rows != v.rows || q.depth != k.depth || q.batches != k.batches ||
        v.batches != k.batches)
      return Support::no(fmt::format("shapes {} {} {}", to_string(node.input_shapes[0]), to_string(node.input_shapes[1]),
                                     to_string(node.input_shapes[2])));
    if (node.num_inputs() > 3 && node.has_input(3)) {
      if (node.input_dtypes[3] != DType::F32 && node.input_dtypes[3] != DType::Bool) return Support::no("mask is neither f32 nor bool");
      const Shape& mask = node.input_shapes[3];
      const int64_t full[] = {q.batches, q.heads, q.rows, k.rows};
      if (mask.size() > 4) return Support::no("mask of rank above 4");
      for (size_t d = 0; d < mask.size(); ++d)
        if (mask[mask.size() - 1 - d] != 1 && mask[mask.size() - 1 - d] != full[3 - d])
          return Support::no(fmt::format("mask shape {}", to_string(mask)));
    }
    return Support::yes();
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    auto kernel = std::make_unique<Attention>();
    kernel->functions = &table_();
    kernel->threads = std::max(1, node.num_threads);
    const Operand q = operand(node, 0), k = operand(node, 1), v = operand(node, 2);
    AttentionProblem& a = kernel->problem;
    kernel->batches = q.batches;
    a.heads = q.heads, a.group = q.heads / k.heads, a.queries = q.rows, a.keys = k.rows, a.depth = q.depth, a.value_depth = v.depth;
    a.q_batch = q.batch, a.q_head = q.head, a.q_row = q.row;
    a.k_batch = k.batch, a.k_head = k.head, a.k_row = k.row;
    a.v_batch = v.batch, a.v_head = v.head, a.v_row = v.row;
    kernel->q_offset = q.offset, kernel->k_offset = k.offset, kernel->v_offset = v.offset;
    const ir::Attrs& attrs = node.attrs();
    const bool bshd = node.output_shapes[0].size() == 3 || attrs.get_string("out_layout", attrs.get_string("q_layout", "BHSD")) == "BSHD";
    a.out_batch = q.heads * q.rows * v.depth;
    a.out_head = bshd ? v.depth : q.rows * v.depth;
    a.out_row = bshd ? q.heads * v.depth : v.depth;
    a.scale = static_cast<float>(attrs.get_float("scale", 1 / std::sqrt(static_cast<double>(q.depth))));
    a.softcap = static_cast<float>(attrs.get_float("softcap", 0.0));
    a.causal = attrs.get_bool("is_causal", false);
    if (node.num_inputs() > 3 && node.has_input(3)) {
      a.mask_is_bool = node.input_dtypes[3] == DType::Bool;
      const Shape& mask = node.input_shapes[3];
      int64_t* const strides[] = {&a.mask_col, &a.mask_row, &a.mask_head, &a.mask_batch};
      int64_t stride = 1;
      for (size_t d = 0; d < mask.size(); ++d) {
        const int64_t size = mask[mask.size() - 1 - d];
        *strides[d] = size == 1 ? 0 : stride;
        stride *= size;
      }
    }
    return kernel;
  }

 private:
  static int64_t heads_of(const NodeView& node, int i) { return node.attrs().get_int(i == 0 ? "q_heads" : "kv_heads", 0); }
  static Operand operand(const NodeView& node, int i) {
    constexpr const char* kFirst[] = {"q_first", "k_first", "v_first"};
    const int64_t heads = heads_of(node, i);
    Operand o = Operand::of(node.input_shapes[i], node.attrs().get_string(i == 0 ? "q_layout" : "kv_layout", "BHSD"), heads);
    if (node.attrs().has(kFirst[i])) o.offset = node.attrs().get_int(kFirst[i]) * o.head, o.heads = heads;
    return o;
  }
  const char* name_;
  bool (*available_)();
  const AttentionFunctions& (*table_)();
};

}  // namespace

const KernelDef& avx512_attention() {
  static const AttentionDef def("avx512.attention", has_avx512, attention_functions_avx512);
  return def;
}
const KernelDef& avx2_attention() {
  static const AttentionDef def("avx2.attention", has_avx2, attention_functions_avx2);
  return def;
}

}  // namespace tokamak::cpu
