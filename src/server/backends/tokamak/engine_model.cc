#include "server/backends/tokamak/engine_model.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "model_config.pb.h"
#include "server/backends/support.h"
#include "server/config.h"

namespace tokamak::backends {

namespace {

int64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

nlohmann::json describe(const TensorInfo& info) {
  const inference::DataType type = server::to_config_type(info.dtype);
  if (type == inference::TYPE_INVALID)
    fail(ErrorCode::Unsupported, "tensor '{}' has type {}, which no client can send or receive", info.name, to_string(info.dtype));
  Shape shape;
  for (const ir::Dim& dim : info.type.dims) shape.push_back(dim.is_const() ? dim.value() : -1);
  return {{"name", info.name}, {"data_type", inference::DataType_Name(type)}, {"shape", shape}};
}

// The symbol that the first axes of all have in common.
std::optional<std::string> common_first_symbol(const Engine& engine) {
  std::optional<std::string> common;
  for (const auto* list : {&engine.inputs(), &engine.outputs()})
    for (const TensorInfo& info : *list) {
      if (!info.type.ranked || info.type.dims.empty()) return std::nullopt;
      const std::optional<std::string> symbol = info.type.dims[0].as_symbol();
      if (!symbol || (common && *common != *symbol)) return std::nullopt;
      common = symbol;
    }
  return common;
}

}  // namespace

std::string describe_engine(const Engine& engine) {
  nlohmann::json json = {{"inputs", nlohmann::json::array()}, {"outputs", nlohmann::json::array()}};
  for (const TensorInfo& info : engine.inputs()) json["inputs"].push_back(describe(info));
  for (const TensorInfo& info : engine.outputs()) json["outputs"].push_back(describe(info));
  json["any_thread"] = !engine.is_cuda();  // a thread's current GPU is the instance's
  json["can_batch"] = common_first_symbol(engine).has_value();
  return json.dump();
}

std::vector<int64_t> padded_batch_sizes(int64_t max_batch_size, const std::vector<int64_t>& preferred) {
  std::vector<int64_t> sizes = preferred;
  for (int64_t size = 1; size < max_batch_size; size *= 2) {
    sizes.push_back(size);
    if (size >= 4) sizes.push_back(size + size / 2);
  }
  sizes.push_back(max_batch_size);
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  std::erase_if(sizes, [&](int64_t size) { return size < 1 || size > max_batch_size; });
  return sizes;
}

EngineInstance::EngineInstance(const tkb_server& server, std::shared_ptr<const Engine> engine, int gpu, int max_plans,
                               std::vector<int64_t> batch_sizes)
    : server_(server),
      engine_(engine),
      context_(std::move(engine), {.max_plans = max_plans, .device = gpu}),
      batch_sizes_(std::move(batch_sizes)) {}

int64_t EngineInstance::rows_to_execute(const tkb_request& first, int64_t rows) const {
  for (size_t i = 0; i < first.num_inputs; ++i)
    if (first.inputs[i].dtype == TKB_BYTES) return rows;
  const auto size = rows > 0 ? std::lower_bound(batch_sizes_.begin(), batch_sizes_.end(), rows) : batch_sizes_.end();
  return size == batch_sizes_.end() ? rows : *size;
}

void EngineInstance::bind_input(const tkb_request* const* requests, size_t count, size_t input, int64_t executed) {
  const tkb_tensor& first = requests[0]->inputs[input];
  const DType dtype = from_abi(first.dtype);
  Shape shape(first.dims, first.dims + first.rank);
  const bool is_whole = count == 1 && (executed == 0 || shape[0] == executed);  // the batch is one request's tensor
  if (!is_whole) shape[0] = executed;
  if (dtype == DType::String) {
    Tensor tensor = Tensor::empty(dtype, std::move(shape));
    auto out = tensor.strings().begin();
    for (size_t r = 0; r < count; ++r) {
      const tkb_tensor& t = requests[r]->inputs[input];
      for (int64_t i = 0; i < count_of(t); ++i) (out++)->assign(t.strings[i].data, t.strings[i].size);
    }
    context_.set_input(first.name, std::move(tensor));
    return;
  }
  const int64_t bytes = bytes_of(dtype, num_elements(shape));
  const bool is_aligned = reinterpret_cast<uintptr_t>(first.data) % std::max(1, bits_of(dtype) / 8) == 0;
  if (is_whole && (is_aligned || bytes == 0)) {
    context_.set_input(first.name, Tensor::view(dtype, std::move(shape), first.data ? first.data : this));
    return;
  }
  if (gathered_.size() <= input) gathered_.resize(input + 1);
  Tensor& target = gathered_[input];
  if (!target.defined() || target.size_bytes() < bytes) target = Tensor::empty(DType::U8, {bytes});
  size_t size = 0;
  if (tkb_error* error = server_.gather(requests, count, input, target.raw(), static_cast<size_t>(target.size_bytes()), &size)) {
    server_.error_free(error);
    fail(ErrorCode::Internal, "input '{}' could not be gathered from {} requests", first.name, count);
  }
  // The padding is the last row again: values that the model is made for.
  auto* const end = static_cast<std::byte*>(target.raw()) + size;
  const size_t row = executed > 0 ? static_cast<size_t>(bytes / executed) : 0;
  for (size_t left = static_cast<size_t>(bytes) - size, at = 0; at < left; at += row) std::memcpy(end + at, end - row, row);
  context_.set_input(first.name, Tensor::view(dtype, std::move(shape), target.raw()));
}

void EngineInstance::execute(const tkb_request* const* requests, size_t count) {
  int64_t rows = 0;
  for (size_t r = 0; r < count; ++r) rows += requests[r]->rows;
  const int64_t executed = rows_to_execute(*requests[0], rows);
  for (size_t i = 0; i < requests[0]->num_inputs; ++i) bind_input(requests, count, i, executed);
  const int64_t start = now_ns();
  context_.run();
  server_.report_compute(requests, count, start, now_ns());
  respond(requests, count, executed);
}

void EngineInstance::respond(const tkb_request* const* requests, size_t count, int64_t executed) {
  struct Output {
    const Tensor* tensor;
    std::vector<tkb_bytes> strings;
  };
  std::vector<Output> outputs;
  for (size_t i = 0; i < engine_->outputs().size(); ++i) {
    Output& output = outputs.emplace_back(&context_.output(static_cast<int>(i)), std::vector<tkb_bytes>());
    const Tensor& tensor = *output.tensor;
    if (executed > 0 && (tensor.rank() == 0 || tensor.dim(0) != executed))
      fail(ErrorCode::Internal, "output '{}' has shape {}, and its first axis should be the batch's {} rows", engine_->outputs()[i].name,
           to_string(tensor.shape()), executed);
    if (tensor.dtype() == DType::String)
      for (const std::string& s : tensor.strings()) output.strings.push_back({s.data(), s.size()});
  }
  std::vector<tkb_tensor> tensors(outputs.size());
  std::vector<Shape> shapes(outputs.size());
  int64_t row = 0;
  for (size_t r = 0; r < count; ++r) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Tensor& tensor = *outputs[i].tensor;
      shapes[i] = tensor.shape();
      int64_t first = 0;  // element
      if (executed > 0) {
        shapes[i][0] = requests[r]->rows;
        first = row * (tensor.count() / executed);
      }
      const int64_t elements = num_elements(shapes[i]);
      tensors[i] = {.name = engine_->outputs()[i].name.c_str(),
                    .dtype = to_abi(tensor.dtype()),
                    .rank = static_cast<int32_t>(shapes[i].size()),
                    .dims = shapes[i].data()};
      if (tensor.dtype() == DType::String) {
        tensors[i].strings = outputs[i].strings.data() + first;
      } else {
        tensors[i].data = tensor.data<std::byte>() + bytes_of(tensor.dtype(), first);
        tensors[i].size = static_cast<size_t>(bytes_of(tensor.dtype(), elements));
      }
    }
    row += requests[r]->rows;
    const tkb_response response = {.outputs = tensors.data(), .num_outputs = tensors.size(), .is_final = 1};
    server_.respond(requests[r], &response);
  }
}

}  // namespace tokamak::backends
