// conv and conv_transpose through cuDNN's graph API. The engines that its heuristics name are the tactics, so they exist only where the
// device is. Bias and epilogue are part of the operation graph when they are a chain of operations that cuDNN has and an engine fuses them;
// else they run in a pass behind it.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "backends/cuda/cudnn.h"
#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/conv_shape.h"
#include "backends/cuda/kernels/epilogue_pass.h"

namespace tokamak::cuda {
namespace {

constexpr int kMostConfigs = 16, kMostKnobs = 32;
// Plans take up to a second each, one after the other. Where a kernel of our own takes the convolution too, few of the library's first
// choices are tried, and none once the process has spent this long on plans.
constexpr int kMostTactics = 4, kMostTacticsBesideOurs = 2;
constexpr double kMostPlanningSeconds = 6;
constexpr double kFewestOperations = 1e9;  // below, one choice: filling the chip decides, and conv_igemm splits sums and overlaps launches
constexpr size_t kFirstWithKernelCaches = 90500;  // cuDNN's version
constexpr int64_t kMostWorkspace = int64_t{256} << 20, kAlignment = 16, kWorkspaceAlignment = 256;
constexpr std::string_view kLayout = "cudnn.krsc";  // [M, taps, C / group] (transposed: [C, taps, M / group])

cudnnDataType_t data_type(DType dtype) {
  return dtype == DType::F16 ? CUDNN_DATA_HALF : dtype == DType::BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}
bool is_activation(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

// One operation of a chain that starts at the convolution's result.
struct PointwiseStep {
  cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
  int input = -1;  // of the node, the second operand; -1: none
};

struct FunctionMode {
  std::string_view function;
  cudnnPointwiseMode_t mode;
  bool binary;
};
constexpr FunctionMode kModes[] = {{"add", CUDNN_POINTWISE_ADD, true},        {"mul", CUDNN_POINTWISE_MUL, true},
                                   {"relu", CUDNN_POINTWISE_RELU_FWD, false}, {"sigmoid", CUDNN_POINTWISE_SIGMOID_FWD, false},
                                   {"tanh", CUDNN_POINTWISE_TANH_FWD, false}, {"silu", CUDNN_POINTWISE_SWISH_FWD, false},
                                   {"gelu", CUDNN_POINTWISE_GELU_FWD, false}, {"gelu_tanh", CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, false}};

// Bias and epilogue as a chain; nothing when they are not one.
std::optional<std::vector<PointwiseStep>> pointwise_chain(const NodeView& node) {
  const Epilogue epilogue(node);
  std::vector<PointwiseStep> steps;
  size_t bias = 0;
  for (const Epilogue::Input& input : epilogue.inputs()) {
    if (!is_activation(input.dtype)) return {};
    if (input.is_bias) steps.push_back({CUDNN_POINTWISE_ADD, input.index}), bias = 1;
    else if (!epilogue.is_row_vector(input) && !epilogue.is_full(input)) return {};
  }
  const ir::Expr& expr = epilogue.expr();
  if (expr.results.empty()) return steps;
  ir::ExprOperand current{ir::ExprOperand::Input, 0, 0};
  for (size_t t = 0; t < expr.code.size(); ++t) {
    const ir::ExprInstruction& instruction = expr.code[t];
    const auto* const mode =
        std::find_if(std::begin(kModes), std::end(kModes), [&](const auto& m) { return m.function == instruction.function; });
    if (mode == std::end(kModes)) return {};
    int input = -1;
    if (mode->binary) {
      const bool first = instruction.operands[0] == current;
      const ir::ExprOperand& other = instruction.operands[first ? 1 : 0];
      if (!(first || instruction.operands[1] == current) || other.kind != ir::ExprOperand::Input || other.index == 0) return {};
      input = epilogue.inputs()[bias + static_cast<size_t>(other.index) - 1].index;
    } else if (!(instruction.operands[0] == current)) {
      return {};
    }
    steps.push_back({mode->mode, input});
    current = {ir::ExprOperand::Temp, static_cast<int>(t), 0};
  }
  if (!(expr.results[0] == current)) return {};
  return steps;
}

// The operation graph of a convolution with a chain behind it. Ids of tensors: inputs of the node by index, then kOutput.
class OperationGraph {
 public:
  static constexpr int64_t kOutput = 1000;

  // A plan of a graph that `varies` may share its kernel with plans for other sizes.
  OperationGraph(cudnnHandle_t handle, const NodeView& node, const ConvShape& s, const std::vector<PointwiseStep>& chain, bool packed,
                 bool varies = false)
      : graph_(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
    // cuDNN has two or three spatial axes.
    const int axes = s.spatial_rank == 3 ? 3 : 2;
    const auto spatial = [&](const Triple& t) { return std::vector<int64_t>(t.end() - axes, t.end()); };
    const auto dims = [&](int64_t n, int64_t c, const Triple& t) {
      std::vector<int64_t> d{n, c};
      d.insert(d.end(), t.end() - axes, t.end());
      return d;
    };
    const std::vector<int64_t> in = dims(s.n, s.c, s.size), out = dims(s.n, s.m, s.out);
    const std::vector<int64_t> filter = s.transposed ? dims(s.c, s.group_m(), s.kernel) : dims(s.m, s.group_c(), s.kernel);
    const CudnnDescriptor& x = tensor(0, data_type(node.input_dtypes[0]), in, strides(in, s.channels_last));
    const CudnnDescriptor& w = tensor(1, data_type(node.input_dtypes[1]), filter, strides(filter, packed));
    const cudnnDataType_t out_type = data_type(node.output_dtypes[0]);
    const std::vector<int64_t> out_strides = strides(out, s.channels_last);
    const auto result = [&](bool last) -> const CudnnDescriptor& {
      return last ? tensor(kOutput, out_type, out, out_strides) : tensor(next_virtual_++, CUDNN_DATA_FLOAT, out, out_strides, true);
    };

    CudnnDescriptor& conv = parts_.emplace_back(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    conv.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    conv.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    conv.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, int64_t{axes});
    conv.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, spatial(s.dilation));
    conv.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, spatial(s.stride));
    conv.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, spatial(s.pad_begin));
    conv.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, spatial(s.pad_end));
    conv.finalize("cuDNN convolution");

    const CudnnDescriptor* current = &result(chain.empty());
    if (s.transposed) {
      CudnnDescriptor& operation = operations_.emplace_back(CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, x);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, w);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, *current);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, conv);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, 1.f);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, 0.f);
      operation.finalize("cuDNN transposed convolution");
    } else {
      CudnnDescriptor& operation = operations_.emplace_back(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, *current);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, conv);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.f);
      operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, 0.f);
      operation.finalize("cuDNN convolution operation");
    }
    const Epilogue epilogue(node);
    for (size_t i = 0; i < chain.size(); ++i) {
      CudnnDescriptor& pointwise = parts_.emplace_back(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
      pointwise.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &chain[i].mode);
      pointwise.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
      pointwise.finalize("cuDNN pointwise function");
      const CudnnDescriptor& y = result(i + 1 == chain.size());
      CudnnDescriptor& operation = operations_.emplace_back(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
      operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise);
      operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *current);
      if (chain[i].input >= 0) {
        const int index = chain[i].input;
        const auto& input =
            *std::find_if(epilogue.inputs().begin(), epilogue.inputs().end(), [&](const auto& e) { return e.index == index; });
        const bool vector = input.is_bias || epilogue.is_row_vector(input);
        const std::vector<int64_t> shape = vector ? dims(1, s.m, {1, 1, 1}) : out;
        operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensor(index, data_type(input.dtype), shape, strides(shape, s.channels_last)));
      }
      operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
      operation.finalize("cuDNN pointwise operation");
      current = &y;
    }
    set_handle(graph_, 800, handle);  // CUDNN_ATTR_OPERATIONGRAPH_HANDLE
    graph_.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_);
    if (varies) graph_.set(CUDNN_ATTR_OPERATIONGRAPH_IS_DYNAMIC_SHAPE_ENABLED, CUDNN_TYPE_BOOLEAN, 1, &varies);
    graph_.finalize("cuDNN operation graph");
  }

  const CudnnDescriptor& get() const { return graph_; }
  const std::vector<int64_t>& ids() const { return ids_; }  // that memory is given for

  // Attributes that newer versions need no more, and deprecate; older ones insist.
  static void set_handle(CudnnDescriptor& descriptor, int attribute, cudnnHandle_t handle) {
    descriptor.set(static_cast<cudnnBackendAttributeName_t>(attribute), CUDNN_TYPE_HANDLE, 1, &handle);
  }

 private:
  // Of [n, c, spatial...] stored channels first or last.
  static std::vector<int64_t> strides(const std::vector<int64_t>& dims, bool channels_last) {
    std::vector<int64_t> strides(dims.size());
    int64_t stride = channels_last ? dims[1] : 1;
    for (size_t i = dims.size(); i-- > 2; stride *= dims[i]) strides[i] = stride;
    strides[1] = channels_last ? 1 : stride;
    strides[0] = channels_last ? stride : stride * dims[1];
    return strides;
  }
  const CudnnDescriptor& tensor(int64_t id, cudnnDataType_t type, const std::vector<int64_t>& dims, const std::vector<int64_t>& strides,
                                bool is_virtual = false) {
    if (const auto known = tensors_.find(id); known != tensors_.end()) return *known->second;
    CudnnDescriptor& t = parts_.emplace_back(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
    t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
    t.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
    if (is_virtual) t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    else ids_.push_back(id);
    t.finalize("cuDNN tensor");
    tensors_[id] = &t;
    return t;
  }
  int64_t next_virtual_ = kOutput + 1;
  std::vector<int64_t> ids_;
  std::map<int64_t, const CudnnDescriptor*> tensors_;  // by id, in parts_
  std::deque<CudnnDescriptor> parts_;
  std::vector<CudnnDescriptor> operations_;
  CudnnDescriptor graph_;
};

// An engine and its knobs: what a tactic holds. "fused,91900,engine=38,2=1,6=0".
struct Choice {
  bool fused = false;
  int64_t version = 0, engine = 0;
  std::vector<std::pair<int64_t, int64_t>> knobs;

  std::string tactic() const {
    std::string text = fmt::format("{},{},engine={}", fused ? "fused" : "plain", version, engine);
    for (const auto& [type, value] : knobs) text += fmt::format(",{}={}", type, value);
    return text;
  }
  static Choice parse(const std::string& text) {
    Choice choice;
    std::vector<std::string_view> fields;
    for (std::string_view rest = text;;) {
      const size_t comma = rest.find(',');
      fields.push_back(rest.substr(0, comma));
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
    const auto bad = [&] { fail(ErrorCode::Corrupt, "cudnn.conv has no tactic \"{}\"; rebuild the engine", text); };
    const auto number = [&](std::string_view field) {
      int64_t value = 0;
      const auto [end, status] = std::from_chars(field.data(), field.data() + field.size(), value);
      if (status != std::errc() || end != field.data() + field.size()) bad();
      return value;
    };
    if (fields.size() < 3 || fields.size() > 3 + kMostKnobs || (fields[0] != "fused" && fields[0] != "plain") ||
        !fields[2].starts_with("engine="))
      bad();
    choice.fused = fields[0] == "fused";
    choice.version = number(fields[1]);
    choice.engine = number(fields[2].substr(7));
    for (size_t i = 3; i < fields.size(); ++i) {
      const size_t equals = fields[i].find('=');
      if (equals == std::string_view::npos) bad();
      choice.knobs.emplace_back(number(fields[i].substr(0, equals)), number(fields[i].substr(equals + 1)));
    }
    return choice;
  }
};

// Kernels that cuDNN compiled for plans of one kind of graph; null: none are kept.
using KernelCache = std::shared_ptr<const CudnnDescriptor>;

// The plan of an engine configuration; nothing when cuDNN does not support it, or its workspace is too large.
std::optional<CudnnDescriptor> make_plan(cudnnHandle_t handle, const CudnnDescriptor& config, const KernelCache& kernels,
                                         int64_t& workspace_bytes) {
  CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  OperationGraph::set_handle(plan, 400, handle);  // CUDNN_ATTR_EXECUTION_PLAN_HANDLE
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (kernels) plan.set(CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE, *kernels);
  if (!plan.try_finalize()) return {};
  const std::vector<int64_t> bytes = plan.ints(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1);
  workspace_bytes = bytes.empty() ? 0 : bytes[0];
  if (workspace_bytes > kMostWorkspace) return {};
  return plan;
}

std::optional<CudnnDescriptor> make_config(const OperationGraph& graph, const Choice& choice) {
  CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph.get());
  engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, choice.engine);
  if (!engine.try_finalize()) return {};
  std::vector<CudnnDescriptor> knobs;
  for (const auto& [type, value] : choice.knobs) {
    CudnnDescriptor& knob = knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    const auto raw = static_cast<int32_t>(type);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &raw);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
    if (!knob.try_finalize()) return {};
  }
  CudnnDescriptor config(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  config.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  if (!knobs.empty()) config.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, knobs);
  if (!config.try_finalize()) return {};
  return config;
}

struct Plan {
  std::shared_ptr<const OperationGraph> graph;
  KernelCache kernels;
  CudnnDescriptor plan;
  int64_t workspace_bytes;
};
struct PlannedChoice {
  Choice choice;
  std::shared_ptr<const Plan> plan;
};

std::shared_ptr<const Plan> plan_of(cudnnHandle_t handle, const std::shared_ptr<const OperationGraph>& graph, const Choice& choice,
                                    const KernelCache& kernels = nullptr) {
  const auto config = make_config(*graph, choice);
  if (!config) return nullptr;
  int64_t workspace_bytes = 0;
  auto plan = make_plan(handle, *config, kernels, workspace_bytes);
  return plan ? std::make_shared<const Plan>(graph, kernels, std::move(*plan), workspace_bytes) : nullptr;
}

// The engines that the heuristics name for the graph and that plans can be made for, the best first. Float32 stays float32: engines that
// round their inputs are left out.
std::vector<PlannedChoice> choices(const CudnnHandle& handle, const std::shared_ptr<const OperationGraph>& operations, bool fused,
                                   bool is_float32, int most) {
  const OperationGraph& graph = *operations;
  std::vector<PlannedChoice> list;
  std::set<std::string> seen;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK}) {
    CudnnDescriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.get());
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (!heuristics.try_finalize()) continue;
    for (const CudnnDescriptor& config :
         heuristics.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kMostConfigs)) {
      if (static_cast<int>(list.size()) >= most) return list;
      const auto engines = config.descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
      if (engines.empty()) continue;
      const auto index = engines[0].ints(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1);
      const auto notes = engines[0].ints(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
      const auto has = [&](int64_t note) { return std::find(notes.begin(), notes.end(), note) != notes.end(); };
      if (index.empty() || has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) || has(CUDNN_NUMERICAL_NOTE_WINOGRAD)) continue;
      if (is_float32 && (has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE) || has(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS))) continue;
      Choice choice{fused, static_cast<int64_t>(find_cudnn()->cudnnGetVersion()), index[0], {}};
      for (const CudnnDescriptor& knob :
           config.descriptors(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMostKnobs)) {
        const auto type = knob.ints(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1);
        const auto value = knob.ints(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1);
        if (!type.empty() && !value.empty()) choice.knobs.emplace_back(type[0], value[0]);
      }
      if (!seen.insert(choice.tactic()).second) continue;
      if (auto plan = plan_of(handle.handle, operations, choice)) list.push_back({std::move(choice), std::move(plan)});
    }
  }
  return list;
}

class CudnnConv final : public Kernel {
 public:
  CudnnConv(CudnnHandle& handle, std::shared_ptr<const Plan> plan, EpiloguePass pass)
      : handle_(handle), plan_(std::move(plan)), pass_(std::move(pass)) {}
  int64_t workspace_bytes() const override { return plan_->workspace_bytes == 0 ? 0 : plan_->workspace_bytes + kWorkspaceAlignment; }
  void run(const RunArgs& args) const override {
    const Cudnn& lib = *find_cudnn();
    std::vector<void*> pointers;
    for (const int64_t id : plan_->graph->ids())
      pointers.push_back(id == OperationGraph::kOutput ? args.outputs[0].raw()
                                                       : const_cast<void*>(args.inputs[static_cast<size_t>(id)].raw()));
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
  std::shared_ptr<const Plan> plan_;
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
    for (const PlannedChoice& c : candidates(node, checked_shape(node))) list.push_back(c.choice.tactic());
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
    Choice choice = Choice::parse(tactic);
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
    std::shared_ptr<const Plan> plan = planned(key, tactic);
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
        const auto graph = std::make_shared<const OperationGraph>(handle.handle, node, s, *chain, packed);
        const auto list = choices(handle, graph, choice.fused, needs_float32(node), 1);
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

    std::shared_ptr<const Plan> plan(cudnnHandle_t cudnn, const NodeView& node, const ConvShape& s, const std::vector<PointwiseStep>& chain,
                                     bool packed, const Choice& choice) {
      if (s.n != first && find_cudnn()->cudnnGetVersion() >= kFirstWithKernelCaches) {
        try {
          const auto graph = std::make_shared<const OperationGraph>(cudnn, node, s, chain, packed, true);
          KernelCache& cache = kernels[choice.tactic()];
          if (!cache) cache = make_cache(*graph);
          if (auto found = plan_of(cudnn, graph, choice, cache)) return found;
        } catch (const Error&) {  // a graph that cuDNN plans for one size only
        }
      }
      return plan_of(cudnn, std::make_shared<const OperationGraph>(cudnn, node, s, chain, packed), choice);
    }
    static KernelCache make_cache(const OperationGraph& graph) {
      CudnnDescriptor cache(CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR);
      cache.set(CUDNN_ATTR_KERNEL_CACHE_OPERATION_GRAPH, graph.get());
      cache.finalize("cuDNN kernel cache");
      return std::make_shared<const CudnnDescriptor>(std::move(cache));
    }
  };

  // What has been planned in this process, for every choice of a node: making the plans takes long.
  struct Known {
    std::mutex mutex;
    std::map<std::string, std::vector<PlannedChoice>> choices;
    std::map<std::string, std::weak_ptr<const Plan>> made;  // of kernels that exist, by key and tactic
    std::map<std::string, Sizes> sizes;                     // what is in them is guarded by the handle's mutex
    double seconds = 0;                                     // spent on convolutions that have a kernel of ours
  };
  static Known& known() {
    static auto* const known = new Known;  // never destroyed: the driver may be gone by then
    return *known;
  }
  static std::shared_ptr<const Plan> planned(const std::string& key, const std::string& tactic) {
    const std::lock_guard lock(known().mutex);
    const auto found = known().choices.find(key);
    if (found == known().choices.end()) return nullptr;
    for (const PlannedChoice& c : found->second)
      if (c.choice.tactic() == tactic) return c.plan;
    return nullptr;
  }
  static std::shared_ptr<const Plan> made(const std::string& key) {
    const std::lock_guard lock(known().mutex);
    const auto found = known().made.find(key);
    return found == known().made.end() ? nullptr : found->second.lock();
  }
  static void keep(const std::string& key, const std::shared_ptr<const Plan>& plan) {
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
  std::vector<PlannedChoice> candidates(const NodeView& node, const ConvShape& s) const {
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
    std::vector<PlannedChoice> list;
    const auto append = [&](const std::vector<PointwiseStep>& chain, bool fused, int count) {
      try {
        const auto graph = std::make_shared<const OperationGraph>(handle.handle, node, s, chain, s.channels_last);
        for (PlannedChoice& choice : choices(handle, graph, fused, is_float32, count)) list.push_back(std::move(choice));
      } catch (const Error&) {  // a graph that cuDNN does not take
      }
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
