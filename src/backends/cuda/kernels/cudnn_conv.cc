// conv and conv_transpose through cuDNN's graph API. The engines that its heuristics name are the tactics, so they exist only where the
// device is. Bias and epilogue are part of the operation graph when they are a chain of operations that cuDNN has and an engine fuses them;
// else they run in a pass behind it.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "backends/cuda/cudnn.h"
#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/conv_shape.h"
#include "backends/cuda/kernels/cudnn_plan.h"
#include "backends/cuda/kernels/epilogue_pass.h"

namespace tokamak::cuda {
namespace {

// Plans take up to a second each, one after the other. Where a kernel of our own takes the convolution too, few of the library's first
// choices are tried, and none once the process has spent this long on plans.
constexpr int kMostTactics = 4, kMostTacticsBesideOurs = 2;
constexpr double kMostPlanningSeconds = 6;
constexpr double kFewestOperations = 1e9;  // below, one choice: filling the chip decides, and conv_igemm splits sums and overlaps launches
constexpr size_t kFirstWithKernelCaches = 90500;  // cuDNN's version
constexpr int64_t kWorkspaceAlignment = 256;
constexpr std::string_view kLayout = "cudnn.krsc";  // [M, taps, C / group] (transposed: [C, taps, M / group])

class CudnnConv final : public Kernel {
 public:
  CudnnConv(CudnnHandle& handle, std::shared_ptr<const ConvPlan> plan, EpiloguePass pass)
      : handle_(handle), plan_(std::move(plan)), pass_(std::move(pass)) {}
  int64_t workspace_bytes() const override { return plan_->workspace_bytes == 0 ? 0 : plan_->workspace_bytes + kWorkspaceAlignment; }
  void run(const RunArgs& args) const override {
    const Cudnn& lib = *find_cudnn();
    std::vector<void*> pointers;
    for (const int64_t id : plan_->graph->ids())
      pointers.push_back(id == ConvGraph::kOutput ? args.outputs[0].raw() : const_cast<void*>(args.inputs[static_cast<size_t>(id)].raw()));
    const auto address = reinterpret_cast<uintptr_t>(args.workspace);
    void* workspace = reinterpret_cast<void*>((address + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
    if (plan_->workspace_bytes == 0) workspace = nullptr;
    handle_.device->make_current();
    CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, plan_->graph->ids());
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<int64_t>(pointers.size()), pointers.data());
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    pack.finalize("cuDNN variant pack");
    {
      const std::lock_guard lock(handle_.run_mutex);
      check(lib.cudnnBackendExecute(handle_.of(args.stream), plan_->plan.get(), pack.get()), "cuDNN convolution");
    }
    pass_.run(args);
  }

 private:
  CudnnHandle& handle_;
  std::shared_ptr<const ConvPlan> plan_;
  EpiloguePass pass_;
};

class CudnnConvDef final : public CudaKernelDef {
 public:
  explicit CudnnConvDef(std::string op) : name_("cudnn." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) return support;
    const DType dtype = node.input_dtypes[0];
    if (!is_activation(dtype)) return Support::no("x must be f32, f16 or bf16");
    if (node.input_dtypes[1] != dtype || node.output_dtypes[0] != dtype) return Support::no("x, w and y differ in type");
    if (s.channels_last && node.constants[1] == nullptr) return Support::no("the weights are not constant");
    if (std::min({s.n, s.c, s.m, s.in_area(), s.out_area()}) == 0) return Support::no("an empty tensor");
    if (const Support support = Epilogue::supports(node); !support) return support;
    if (node.cuda->device() == nullptr) return Support::no("cuDNN picks its engine on the device, which is not here");
    if (find_cudnn() == nullptr) return Support::no(cudnn_problem());
    if (candidates(node, s).empty()) return Support::no("cuDNN has no engine for it, or plans have taken their time");
    return Support::yes();
  }
  std::vector<std::string> tactics(const NodeView& node) const override {
    std::vector<std::string> list;
    for (const PlannedConv& c : candidates(node, checked_shape(node))) list.push_back(c.choice.tactic());
    return list;
  }
  Tensor pack(const NodeView& node, const std::string&, int input) const override {
    ConvShape s;
    if (input != 1 || !conv_shape(node, s) || !s.channels_last) return {};
    const Tensor& w = *node.constants[1];
    if (w.layout() == kLayout) return w;
    const int64_t taps = s.taps(), inner = w.dim(1), bytes = bits_of(w.dtype()) / 8;
    Tensor packed = Tensor::packed(w.dtype(), w.shape(), std::string(kLayout), w.size_bytes());
    const auto* from = static_cast<const char*>(w.raw());
    auto* to = static_cast<char*>(packed.raw());
    for (int64_t o = 0; o < w.dim(0); ++o)
      for (int64_t i = 0; i < inner; ++i)
        for (int64_t t = 0; t < taps; ++t)
          std::memcpy(to + ((o * taps + t) * inner + i) * bytes, from + ((o * inner + i) * taps + t) * bytes, static_cast<size_t>(bytes));
    return packed;
  }
  bool reads_layout(std::string_view layout) const override { return layout == kLayout; }

  std::unique_ptr<Kernel> make(const NodeView& node, const std::string& tactic) const override {
    ConvChoice choice = ConvChoice::parse(tactic);
    if (node.cuda->device() == nullptr) fail(ErrorCode::Unsupported, "{} needs the device", name_);
    if (find_cudnn() == nullptr) fail(ErrorCode::Unsupported, "{}: {}", name_, cudnn_problem());
    const ConvShape s = checked_shape(node);
    const Tensor* w = node.constants[1];
    const bool packed = w != nullptr && w->layout() == kLayout;
    if (packed != s.channels_last || (packed && w->size_bytes() != bytes_of(w->dtype(), num_elements(node.input_shapes[1]))))
      fail(ErrorCode::Corrupt, "{}: the weights are not packed for shape {}; rebuild the engine", name_, to_string(node.input_shapes[1]));
    CudnnHandle& handle = cudnn_handle(node.cuda->device());
    node.cuda->device()->make_current();
    const std::string key = key_of(node, s);
    std::shared_ptr<const ConvPlan> plan = planned(key, tactic);
    if (!plan) plan = made(key + tactic);
    if (!plan) {
      const std::lock_guard known_lock(known().mutex);
      const std::lock_guard lock(handle.mutex);
      Sizes& sizes = sizes_of(node, s);
      const auto chain = choice.fused ? pointwise_chain(node) : std::vector<PointwiseStep>();
      if (!chain) fail(ErrorCode::Corrupt, "{}: the epilogue is no chain that cuDNN has; rebuild the engine", name_);
      const bool same_version = choice.version == static_cast<int64_t>(find_cudnn()->cudnnGetVersion());
      if (same_version) plan = sizes.plan(handle.handle, node, s, *chain, packed, choice);
      if (!plan) {  // chosen by another version, or for another size than the plan's: the library's own first choice
        const auto graph = std::make_shared<const ConvGraph>(handle.handle, node, s, *chain, packed);
        const auto list = planned_convs(handle, graph, choice.fused, needs_float32(node), 1);
        if (!list.empty()) plan = list[0].plan;
      }
    }
    if (!plan) fail(ErrorCode::Unsupported, "{}: this cuDNN has no engine for tactic \"{}\"; rebuild the engine", name_, tactic);
    keep(key + tactic, plan);
    return std::make_unique<CudnnConv>(handle, std::move(plan), choice.fused ? EpiloguePass() : EpiloguePass(node, name_));
  }

 private:
  static bool needs_float32(const NodeView& node) { return node.input_dtypes[0] == DType::F32 && !node.cuda->allow_tf32(); }
  ConvShape checked_shape(const NodeView& node) const {
    ConvShape s;
    if (const Support support = conv_shape(node, s); !support) fail(ErrorCode::InvalidArgument, "{}: {}", name_, support.reason());
    return s;
  }
  // What a plan depends on.
  std::string key_of(const NodeView& node, const ConvShape& s) const { return fmt::format("{}{}", key_of_sizes(node, s), s.n); }
  // The same for any batch.
  std::string key_of_sizes(const NodeView& node, const ConvShape& s) const {
    std::string key = fmt::format("{} {} {} {} {} {}", op_, s.spatial_rank, node.cuda->device()->ordinal(), to_string(node.input_dtypes[0]),
                                  needs_float32(node), Epilogue(node).code());
    for (const std::string& define : s.defines()) key += define + " ";
    for (const int64_t pad : s.pad_end) key += fmt::format("{} ", pad);
    return key;
  }
  // As conv_igemm takes it.
  bool has_kernel_of_ours(const NodeView& node, const ConvShape& s) const {
    return op_ == "conv" && s.channels_last && (node.input_dtypes[0] == DType::F16 || node.input_dtypes[0] == DType::BF16) &&
           (s.group == 1 || s.group_c() % 8 == 0);
  }
  // The batch sizes that a convolution comes in. The first is planned for itself. For the others cuDNN compiles a kernel once and binds it
  // to the plans of all: the compilation is most of the second that a plan takes.
  struct Sizes {
    int64_t first = 0;
    std::map<std::string, KernelCache> kernels;  // by tactic

    std::shared_ptr<const ConvPlan> plan(cudnnHandle_t cudnn, const NodeView& node, const ConvShape& s,
                                         const std::vector<PointwiseStep>& chain, bool packed, const ConvChoice& choice) {
      if (s.n != first && find_cudnn()->cudnnGetVersion() >= kFirstWithKernelCaches) {
        if (const auto graph = ConvGraph::make(cudnn, node, s, chain, packed, true)) {  // null: cuDNN plans it for one size only
          KernelCache& cache = kernels[choice.tactic()];
          if (!cache) cache = make_kernel_cache(*graph);
          if (auto found = plan_conv(cudnn, graph, choice, cache)) return found;
        }
      }
      return plan_conv(cudnn, std::make_shared<const ConvGraph>(cudnn, node, s, chain, packed), choice);
    }
  };

  // What has been planned in this process, for every choice of a node: making the plans takes long.
  struct Known {
    std::mutex mutex;
    std::map<std::string, std::vector<PlannedConv>> choices;
    std::map<std::string, std::weak_ptr<const ConvPlan>> made;  // of kernels that exist, by key and tactic
    std::map<std::string, Sizes> sizes;                         // what is in them is guarded by the handle's mutex
    double seconds = 0;                                         // spent on convolutions that have a kernel of ours
  };
  static Known& known() {
    static auto* const known = new Known;  // never destroyed: the driver may be gone by then
    return *known;
  }
  static std::shared_ptr<const ConvPlan> planned(const std::string& key, const std::string& tactic) {
    const std::lock_guard lock(known().mutex);
    const auto found = known().choices.find(key);
    if (found == known().choices.end()) return nullptr;
    for (const PlannedConv& c : found->second)
      if (c.choice.tactic() == tactic) return c.plan;
    return nullptr;
  }
  static std::shared_ptr<const ConvPlan> made(const std::string& key) {
    const std::lock_guard lock(known().mutex);
    const auto found = known().made.find(key);
    return found == known().made.end() ? nullptr : found->second.lock();
  }
  static void keep(const std::string& key, const std::shared_ptr<const ConvPlan>& plan) {
    const std::lock_guard lock(known().mutex);
    std::erase_if(known().made, [](const auto& entry) { return entry.second.expired(); });
    known().made[key] = plan;
  }
  Sizes& sizes_of(const NodeView& node, const ConvShape& s) const {
    Sizes& sizes = known().sizes[key_of_sizes(node, s)];
    if (sizes.first == 0) sizes.first = s.n;
    return sizes;
  }
  // With bias and epilogue inside where an engine has them, else behind.
  std::vector<PlannedConv> candidates(const NodeView& node, const ConvShape& s) const {
    CudnnHandle& handle = cudnn_handle(node.cuda->device());
    node.cuda->device()->make_current();
    const std::lock_guard known_lock(known().mutex);
    const std::lock_guard lock(handle.mutex);
    const std::string key = key_of(node, s);
    if (const auto found = known().choices.find(key); found != known().choices.end()) return found->second;
    sizes_of(node, s);
    const bool is_float32 = needs_float32(node), beside_ours = has_kernel_of_ours(node, s);
    if (beside_ours && known().seconds > kMostPlanningSeconds) return {};
    const double operations = 2.0 * static_cast<double>(s.n * s.out_area() * s.m) * static_cast<double>(s.group_c() * s.taps());
    const int most = !beside_ours ? kMostTactics : operations < kFewestOperations ? 1 : kMostTacticsBesideOurs;
    const auto start = std::chrono::steady_clock::now();
    std::vector<PlannedConv> list;
    const auto append = [&](const std::vector<PointwiseStep>& chain, bool fused, int count) {
      const auto graph = ConvGraph::make(handle.handle, node, s, chain, s.channels_last);
      if (!graph) return;  // cuDNN does not take it
      for (PlannedConv& choice : planned_convs(handle, graph, fused, is_float32, count)) list.push_back(std::move(choice));
    };
    // Without tensor cores what cuDNN compiles with an epilogue inside is several times slower than what it has ready.
    const auto chain = pointwise_chain(node);
    if (is_float32) append({}, false, most - 1);
    if (chain && !(is_float32 && chain->empty())) append(*chain, true, is_float32 ? 1 : most);
    if (list.empty()) append({}, false, most);
    if (beside_ours) known().seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return known().choices[key] = list;
  }
  std::string name_, op_;
};

}  // namespace

std::vector<const KernelDef*> cudnn_kernels() {
  static const CudnnConvDef conv("conv"), transpose("conv_transpose");
  return {&conv, &transpose};
}

}  // namespace tokamak::cuda
