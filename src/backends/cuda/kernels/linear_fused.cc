// `linear`: a linear layer with the norm before it and the gate behind it. In one kernel for few rows (the device code of linear.h); for
// more, kernels one after the other: the norm, then the product with its gate, or then the product and the gate. Tactics:
//   "mma,m=1,..." and "gemv,m=1,...": of linear.h
//   "norm,m=1|TACTIC": the norm's kernel, then this kernel without a norm and with TACTIC
//   "other,m=1|KERNEL|TACTIC": another kernel of `linear`, behind the norm
//   "product,m=1|KERNEL|TACTIC": a kernel of matmul or quantized_matmul, then the gate's kernel if there is a gate

#include "backends/cuda/kernels/chain.h"
#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/linear.h"
#include "ir/op.h"

namespace tokamak::cuda {
namespace {

constexpr std::string_view kName = "cuda.linear_fused";
constexpr int64_t kManyTokens = 64;  // beyond, 16-bit weights are a matmul like any other
constexpr int64_t kFewTokens = 16;   // up to here the norm may be in the product's kernel
// Tactics to time where something else is likelier to be best: compiling them all takes longer than it saves.
constexpr size_t kMostOwn = 3, kMostOthers = 2;

// The product's node alone in `chain`: with the epilogue, or, where a gate follows, without it.
ir::Node* add_product(Chain& chain, const NodeView& node, const Linear& l) {
  ir::Attrs attrs;
  std::vector<ir::Value*> inputs{chain.input(0), chain.input(1)};
  if (l.is_quantized()) inputs.push_back(chain.input(2)), attrs.set("group_size", node.attrs().get_int("group_size"));
  else attrs.set("trans_b", int64_t{1});
  if (l.y != l.x) attrs.set("out_dtype", l.y);
  if (l.gate.empty() && node.attrs().has("epilogue")) {
    attrs.set("epilogue", node.attrs().get_string("epilogue"));
    attrs.set("epilogue_input", static_cast<int64_t>(inputs.size()));
    for (int64_t i = node.attrs().get_int("epilogue_input"); i < node.num_inputs(); ++i) inputs.push_back(chain.input(static_cast<int>(i)));
  }
  return chain.graph().add_node(l.is_quantized() ? "quantized_matmul" : "matmul", inputs, attrs);
}

// `linear` without the norm, of `x`.
ir::Node* add_linear(Chain& chain, const NodeView& node, const Linear& l, ir::Value* x) {
  std::vector<ir::Value*> inputs;
  for (int i = 0; i < node.num_inputs(); ++i) inputs.push_back(i == 0 ? x : i == 3 ? nullptr : chain.input(i));
  ir::Attrs attrs;
  for (const auto& [name, value] : node.attrs())
    if (name != "epsilon") attrs.set(name, value);
  if (l.operand != l.x) attrs.set("out_dtype", l.y);
  return chain.graph().add_node("linear", inputs, attrs);
}

// The norm, and `linear` behind it.
ir::Node* add_norm_and_linear(Chain& chain, const NodeView& node, const Linear& l) {
  ir::Attrs attrs{{"axis", int64_t{-1}}, {"epsilon", static_cast<double>(l.epsilon)}};
  ir::Value* const x = chain.graph().build("rms_norm", {chain.input(0), chain.input(3)}, attrs);
  x->type.dtype = l.operand;  // which the op cannot say; the kernel writes the type that the value has
  return add_linear(chain, node, l, x);
}

// What the product before a gate gives: all of w's rows.
NodeView ungated(const NodeView& node, const Linear& l) {
  NodeView wide = node;
  wide.output_shapes[0].back() = l.n;
  return wide;
}

// Kernels of the nodes that add_product() and add_linear() make; calls f(kernel, its tactics).
template <class F>
void for_each_kernel(const NodeView& view, const Linear& l, const F& f) {
  for (const KernelDef* def : kernels_for(view.node->op().name)) {
    const std::string_view name = def->name();
    if (name == kName || name == "cuda.linear" || name == "cuda.quantized_linear") continue;  // theirs are "mma" and "gemv"
    if (name.starts_with("cuda.linear_bulk")) continue;                                       // has the norm and the gate itself
    if (def->is_fallback() || !def->supports(view)) continue;
    std::vector<std::string> tactics = def->tactics(view);
    if (l.m <= (l.is_quantized() ? kFewTokens : kManyTokens) && tactics.size() > kMostOthers) tactics.resize(kMostOthers);
    f(name, tactics);
  }
}

class GateKernel final : public Kernel {
 public:
  GateKernel(std::unique_ptr<Kernel> product, const NodeView& node, const Linear& l)
      : product_(std::move(product)),
        epilogue_(node),
        shape_(ungated(node, l).output_shapes[0]),
        dtype_(l.y),
        eights_(num_elements(node.output_shapes[0]) / 8) {
    const std::vector<std::string> defines{"P_ELEMENT=" + device_type(l.y), "Y_ELEMENT=" + device_type(l.y),
                                           fmt::format("COLUMNS={}", l.columns()), "GATE_FUNCTION=fn::" + l.gate};
    function_ = node.cuda->function({"cuda.gate", epilogue_.code() + device_file("gate.cu"), defines}, "gate");
    product_bytes_ = ceil_div(bytes_of(dtype_, num_elements(shape_)), 256) * 256;
  }
  int64_t workspace_bytes() const override { return product_bytes_ + product_->workspace_bytes(); }
  void run(const RunArgs& args) const override {
    Tensor p = Tensor::view(dtype_, shape_, args.workspace);
    RunArgs product = args;
    product.outputs = std::span(&p, 1);
    product.workspace = static_cast<std::byte*>(args.workspace) + product_bytes_;
    product_->run(product);
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(eights_, 256))}, .block = {256}, .overlap = true}, p.raw(),
                     args.outputs[0].raw(), eights_, epilogue_.pointers(args));
  }

 private:
  std::unique_ptr<Kernel> product_;
  Epilogue epilogue_;
  Function function_;
  Shape shape_;
  DType dtype_;
  int64_t eights_, product_bytes_ = 0;
};

class LinearFusedDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return kName; }
  std::string_view op() const override { return "linear"; }

  Support supports(const NodeView& node) const override {
    Linear l;
    if (const Support support = Linear::read(node, l); !support) return support;
    std::string reason;
    return ways(node, l, reason).empty() ? Support::no(reason) : Support::yes();
  }

  std::vector<std::string> tactics(const NodeView& node) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    std::string reason;
    return ways(node, l, reason);
  }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    Linear l;
    CHECK(Linear::read(node, l));
    const int64_t timed = tactic_number(tactic, "m"), here = linear_class(l.m);
    if (is_near(timed, here))
      if (auto kernel = make_way(node, l, tactic)) return kernel;
    std::string reason;
    const std::vector<std::string> all = ways(node, l, reason);
    auto kernel = all.empty() ? nullptr : make_way(node, l, all.front());
    if (kernel == nullptr) fail(ErrorCode::Unsupported, "{}: {}", name(), reason);
    return kernel;
  }

 private:
  static std::vector<std::string> ways(const NodeView& node, const Linear& l, std::string& reason) {
    std::vector<std::string> found;
    if (!l.has_norm || l.m <= kFewTokens) found = linear_ways(node, l, reason);
    if (!l.has_norm) {
      const std::vector<std::string> products = products_of(node, l, found.empty());
      const bool first = l.m > kManyTokens && !l.is_quantized();
      if (first && !products.empty()) return products;
      if (l.m > kFewTokens && !products.empty() && found.size() > kMostOwn) found.resize(kMostOwn);
      found.insert(found.end(), products.begin(), products.end());
      return found;
    }
    Chain chain(node);
    const NodeView behind = chain.view(*add_norm_and_linear(chain, node, l));
    Linear rest;
    if (const Support support = Linear::read(behind, rest); !support) return found;
    const std::string prefix = fmt::format("norm,m={}|", linear_class(l.m));
    std::vector<std::string> inner;
    size_t own = 0;
    for (const std::string& tactic : ways(behind, rest, reason))
      if (tactic.starts_with("product,") || found.empty() || ++own <= kMostOwn) inner.push_back(tactic);
    const bool own_first = l.m <= kManyTokens || !l.is_quantized();
    std::vector<std::string> others;
    for_each_kernel(behind, l, [&](std::string_view kernel, const std::vector<std::string>& tactics) {
      for (const std::string& t : tactics) others.push_back(fmt::format("other,m={}|{}|{}", linear_class(l.m), kernel, t));
    });
    inner.insert(own_first ? inner.end() : inner.begin(), others.begin(), others.end());
    for (const std::string& tactic : inner) found.push_back(prefix + tactic);
    return found;
  }

  // Of 16-bit weights and few rows there is nothing better than linear.h has (`is_needed`: it has nothing).
  static std::vector<std::string> products_of(const NodeView& node, const Linear& l, bool is_needed) {
    if (!is_needed && !l.is_quantized() && l.m <= kFewTokens) return {};
    const NodeView outer = l.gate.empty() ? node : ungated(node, l);
    Chain chain(outer);
    const NodeView product = chain.view(*add_product(chain, node, l));
    std::vector<std::string> found;
    for_each_kernel(product, l, [&](std::string_view kernel, const std::vector<std::string>& tactics) {
      for (const std::string& t : tactics) found.push_back(fmt::format("product,m={}|{}|{}", linear_class(l.m), kernel, t));
    });
    return found;
  }

  // "KERNEL|TACTIC" into the node. False when it is not that.
  static bool choose(ir::Node& node, std::string_view text) {
    const size_t bar = text.find('|');
    if (bar == std::string_view::npos) return false;
    node.kernel = text.substr(0, bar);
    node.tactic = text.substr(bar + 1);
    return true;
  }

  static std::unique_ptr<Kernel> make_way(const NodeView& node, const Linear& l, const std::string& tactic) {
    const size_t bar = tactic.find('|');
    if (bar == std::string::npos) return make_linear_way(node, l, tactic);
    const std::string_view rest = std::string_view(tactic).substr(bar + 1);
    if (tactic.starts_with("norm,") && l.has_norm) {
      Chain chain(node);
      ir::Node* linear = add_norm_and_linear(chain, node, l);
      if (!rest.starts_with("other,")) {
        linear->kernel = kName;
        linear->tactic = rest;
      } else if (!choose(*linear, rest.substr(rest.find('|') + 1))) {
        return nullptr;
      }
      return chain.supports() ? std::move(chain).make({linear->output(0)}) : nullptr;
    }
    if (!tactic.starts_with("product,") || l.has_norm) return nullptr;
    const NodeView outer = l.gate.empty() ? node : ungated(node, l);
    Chain chain(outer);
    ir::Node* product = add_product(chain, node, l);
    if (!choose(*product, rest) || !chain.supports()) return nullptr;
    auto kernel = std::move(chain).make({product->output(0)});
    if (l.gate.empty()) return kernel;
    return std::make_unique<GateKernel>(std::move(kernel), node, l);
  }
};

}  // namespace

std::vector<const KernelDef*> linear_fused_kernels() {
  static const LinearFusedDef def;
  return {&def};
}

}  // namespace tokamak::cuda
