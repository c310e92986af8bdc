#include "backends/cuda/kernels/cudnn_plan.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace tokamak::cuda {
namespace {

constexpr int kMostConfigs = 16, kMostKnobs = 32;
constexpr int64_t kMostWorkspace = int64_t{256} << 20, kAlignment = 16;

cudnnDataType_t data_type(DType dtype) {
  return dtype == DType::F16 ? CUDNN_DATA_HALF : dtype == DType::BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

struct FunctionMode {
  std::string_view function;
  cudnnPointwiseMode_t mode;
  bool binary;
};
constexpr FunctionMode kModes[] = {{"add", CUDNN_POINTWISE_ADD, true},        {"mul", CUDNN_POINTWISE_MUL, true},
                                   {"relu", CUDNN_POINTWISE_RELU_FWD, false}, {"sigmoid", CUDNN_POINTWISE_SIGMOID_FWD, false},
                                   {"tanh", CUDNN_POINTWISE_TANH_FWD, false}, {"silu", CUDNN_POINTWISE_SWISH_FWD, false},
                                   {"gelu", CUDNN_POINTWISE_GELU_FWD, false}, {"gelu_tanh", CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, false}};

// A convolution's operation and what it calls its parts: a transposed one makes the gradient of a forward one's input.
struct ConvAttributes {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t x, w, y, conv, alpha, beta;
};
constexpr ConvAttributes kForward{CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                                  CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
constexpr ConvAttributes kTransposed{CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};

// Attributes that newer versions need no more, and deprecate; older ones insist.
void set_handle(CudnnDescriptor& descriptor, int attribute, cudnnHandle_t handle) {
  descriptor.set(static_cast<cudnnBackendAttributeName_t>(attribute), CUDNN_TYPE_HANDLE, 1, &handle);
}

// Of [n, c, spatial...] stored channels first or last.
std::vector<int64_t> strides(const std::vector<int64_t>& dims, bool channels_last) {
  std::vector<int64_t> strides(dims.size());
  int64_t stride = channels_last ? dims[1] : 1;
  for (size_t i = dims.size(); i-- > 2; stride *= dims[i]) strides[i] = stride;
  strides[1] = channels_last ? 1 : stride;
  strides[0] = channels_last ? stride : stride * dims[1];
  return strides;
}

// The plan of an engine configuration; nothing when cuDNN does not support it, or its workspace is too large.
std::optional<CudnnDescriptor> make_plan(cudnnHandle_t handle, const CudnnDescriptor& config, const KernelCache& kernels,
                                         int64_t& workspace_bytes) {
  CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  set_handle(plan, 400, handle);  // CUDNN_ATTR_EXECUTION_PLAN_HANDLE
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  if (kernels) plan.set(CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE, *kernels);
  if (!plan.try_finalize()) return {};
  const std::vector<int64_t> bytes = plan.ints(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1);
  workspace_bytes = bytes.empty() ? 0 : bytes[0];
  if (workspace_bytes > kMostWorkspace) return {};
  return plan;
}

std::optional<CudnnDescriptor> make_config(const ConvGraph& graph, const ConvChoice& choice) {
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

}  // namespace

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

ConvGraph::ConvGraph(cudnnHandle_t handle, const NodeView& node, const ConvShape& s, const std::vector<PointwiseStep>& chain, bool packed,
                     bool varies)
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
  const ConvAttributes& a = s.transposed ? kTransposed : kForward;
  CudnnDescriptor& product = operations_.emplace_back(a.operation);
  product.set(a.x, x);
  product.set(a.w, w);
  product.set(a.y, *current);
  product.set(a.conv, conv);
  product.set(a.alpha, 1.f);
  product.set(a.beta, 0.f);
  product.finalize("cuDNN convolution operation");
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

const CudnnDescriptor& ConvGraph::tensor(int64_t id, cudnnDataType_t type, const std::vector<int64_t>& dims,
                                         const std::vector<int64_t>& strides, bool is_virtual) {
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

std::string ConvChoice::tactic() const {
  std::string text = fmt::format("{},{},engine={}", fused ? "fused" : "plain", version, engine);
  for (const auto& [type, value] : knobs) text += fmt::format(",{}={}", type, value);
  return text;
}

ConvChoice ConvChoice::parse(const std::string& text) {
  ConvChoice choice;
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

KernelCache make_kernel_cache(const ConvGraph& graph) {
  CudnnDescriptor cache(CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR);
  cache.set(CUDNN_ATTR_KERNEL_CACHE_OPERATION_GRAPH, graph.get());
  cache.finalize("cuDNN kernel cache");
  return std::make_shared<const CudnnDescriptor>(std::move(cache));
}

std::shared_ptr<const ConvPlan> plan_conv(cudnnHandle_t handle, const std::shared_ptr<const ConvGraph>& graph, const ConvChoice& choice,
                                          const KernelCache& kernels) {
  const auto config = make_config(*graph, choice);
  if (!config) return nullptr;
  int64_t workspace_bytes = 0;
  auto plan = make_plan(handle, *config, kernels, workspace_bytes);
  return plan ? std::make_shared<const ConvPlan>(graph, kernels, std::move(*plan), workspace_bytes) : nullptr;
}

std::vector<PlannedConv> planned_convs(const CudnnHandle& handle, const std::shared_ptr<const ConvGraph>& operations, bool fused,
                                       bool is_float32, int most) {
  const ConvGraph& graph = *operations;
  std::vector<PlannedConv> list;
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
      ConvChoice choice{fused, static_cast<int64_t>(find_cudnn()->cudnnGetVersion()), index[0], {}};
      for (const CudnnDescriptor& knob :
           config.descriptors(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMostKnobs)) {
        const auto type = knob.ints(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1);
        const auto value = knob.ints(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1);
        if (!type.empty() && !value.empty()) choice.knobs.emplace_back(type[0], value[0]);
      }
      if (!seen.insert(choice.tactic()).second) continue;
      if (auto plan = plan_conv(handle.handle, operations, choice)) list.push_back({std::move(choice), std::move(plan)});
    }
  }
  return list;
}

}  // namespace tokamak::cuda
