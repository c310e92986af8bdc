#include "server/backends/onnxruntime/ort_instance.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/tensor.h"
#include "server/backends/support.h"

namespace tokamak::backends::onnxruntime {

namespace {

int64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

// Whether the memory is the request's own: an output that is an input, passed on.
bool is_input(const tkb_request& request, const void* data) {
  for (size_t i = 0; i < request.num_inputs; ++i) {
    const auto* begin = static_cast<const std::byte*>(request.inputs[i].data);
    if (begin && !std::less<const void*>()(data, begin) && std::less<const void*>()(data, begin + request.inputs[i].size)) return true;
  }
  return false;
}

}  // namespace

OrtInstance::OrtInstance(const tkb_server& server, OrtModel& model, const tkb_instance_args& args)
    : server_(server), library_(model.library()), session_(model.make_session(args)), run_options_(model.make_run_options()) {}

void OrtInstance::on_cancel(void* instance) {
  auto& self = *static_cast<OrtInstance*>(instance);
  if (--self.num_wanted_ > 0) return;
  if (OrtStatus* status = self.library_.api.RunOptionsSetTerminate(self.run_options_.get())) self.library_.api.ReleaseStatus(status);
}

Owned<OrtValue> OrtInstance::make_strings(const tkb_request* const* requests, size_t count, size_t input,
                                          const std::vector<int64_t>& shape) const {
  const OrtApi& api = library_.api;
  OrtValue* value = nullptr;
  library_.check(api.CreateTensorAsOrtValue(library_.allocator, shape.data(), shape.size(), element_type_of(TKB_BYTES), &value));
  Owned<OrtValue> owned(value, api.ReleaseValue);
  size_t index = 0;
  for (size_t r = 0; r < count; ++r) {
    const tkb_tensor& t = requests[r]->inputs[input];
    for (int64_t i = 0; i < count_of(t); ++i) {
      const tkb_bytes& s = t.strings[i];
      char* buffer = nullptr;
      library_.check(api.GetResizedStringTensorElementBuffer(value, index++, s.size, &buffer));
      if (s.size > 0) std::memcpy(buffer, s.data, s.size);
    }
  }
  return owned;
}

Owned<OrtValue> OrtInstance::make_input(const tkb_request* const* requests, size_t count, size_t input, int64_t rows) {
  const OrtApi& api = library_.api;
  const tkb_tensor& first = requests[0]->inputs[input];
  std::vector<int64_t> shape(first.dims, first.dims + first.rank);
  if (count > 1) shape[0] = rows;
  if (first.dtype == TKB_BYTES) return make_strings(requests, count, input, shape);

  const DType dtype = from_abi(first.dtype);
  const bool is_aligned = reinterpret_cast<uintptr_t>(first.data) % std::max(1, bits_of(dtype) / 8) == 0;
  const void* data = first.data;
  size_t size = first.size;
  if (count > 1 || !is_aligned) {
    if (gathered_.size() <= input) gathered_.resize(input + 1);
    std::vector<std::byte>& target = gathered_[input];
    size = 0;
    for (size_t r = 0; r < count; ++r) size += requests[r]->inputs[input].size;
    if (target.size() < size) target.resize(size);
    if (tkb_error* error = server_.gather(requests, count, input, target.data(), target.size(), &size)) {
      server_.error_free(error);
      fail(ErrorCode::Internal, "input '{}' could not be gathered from {} requests", first.name, count);
    }
    data = target.data();
  }
  OrtValue* value = nullptr;
  // Never written to: ONNX Runtime does not reuse the memory of a graph's inputs. It wants an address for no bytes, too.
  library_.check(api.CreateTensorWithDataAsOrtValue(library_.cpu, const_cast<void*>(data ? data : this), size, shape.data(), shape.size(),
                                                    element_type_of(first.dtype), &value));
  return {value, api.ReleaseValue};
}

// Empty when all requests were cancelled meanwhile.
std::vector<OrtInstance::Output> OrtInstance::run(const tkb_request* const* requests, size_t count,
                                                  const std::vector<Owned<OrtValue>>& inputs) {
  std::vector<const char*> input_names, output_names;
  std::vector<const OrtValue*> input_values;
  for (size_t i = 0; i < inputs.size(); ++i) {
    input_names.push_back(requests[0]->inputs[i].name);
    input_values.push_back(inputs[i].get());
  }
  for (size_t r = 0; r < count; ++r)
    for (size_t i = 0; i < requests[r]->num_outputs; ++i) {
      const std::string_view name = requests[r]->outputs[i];
      if (std::find(output_names.begin(), output_names.end(), name) == output_names.end()) output_names.push_back(name.data());
    }
  std::vector<OrtValue*> values(output_names.size(), nullptr);
  const int64_t start = now_ns();
  OrtStatus* status = library_.api.Run(session_.get(), run_options_.get(), input_names.data(), input_values.data(), input_values.size(),
                                       output_names.data(), output_names.size(), values.data());
  server_.report_compute(requests, count, start, now_ns());
  std::vector<Output> outputs;
  for (size_t i = 0; i < values.size(); ++i)
    outputs.push_back({.name = output_names[i], .value = Owned<OrtValue>(values[i], library_.api.ReleaseValue)});
  if (status && num_wanted_ == 0) {
    library_.api.ReleaseStatus(status);
    return {};
  }
  library_.check(status);
  return outputs;
}

void OrtInstance::read_strings(Output& output, int64_t count) const {
  size_t size = 0;
  library_.check(library_.api.GetStringTensorDataLength(output.value.get(), &size));
  output.text.resize(size);
  std::vector<size_t> offsets(count);
  if (count > 0) library_.check(library_.api.GetStringTensorContent(output.value.get(), output.text.data(), size, offsets.data(), count));
  offsets.push_back(size);
  for (int64_t i = 0; i < count; ++i) output.strings.push_back({output.text.data() + offsets[i], offsets[i + 1] - offsets[i]});
}

void OrtInstance::read(Output& output, int64_t rows) const {
  const OrtApi& api = library_.api;
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  library_.check(api.GetTensorTypeAndShape(output.value.get(), &raw));
  const Owned<OrtTensorTypeAndShapeInfo> info(raw, api.ReleaseTensorTypeAndShapeInfo);
  OrtElementType type = 0;
  size_t rank = 0;
  library_.check(api.GetTensorElementType(raw, &type));
  library_.check(api.GetDimensionsCount(raw, &rank));
  output.shape.resize(rank);
  if (rank > 0) library_.check(api.GetDimensions(raw, output.shape.data(), rank));
  const std::optional<tkb_dtype> dtype = dtype_of(type);
  if (!dtype)
    fail(ErrorCode::Unsupported, "output '{}' has elements of ONNX's data type {}, which no client can receive", output.name, type);
  output.dtype = *dtype;
  if (rows > 0 && (rank == 0 || output.shape[0] != rows))
    fail(ErrorCode::Internal, "output '{}' has shape {}, and its first axis should be the batch's {} rows", output.name,
         to_string(output.shape), rows);
  if (output.dtype == TKB_BYTES) {
    read_strings(output, num_elements(output.shape));
    return;
  }
  void* data = nullptr;
  library_.check(api.GetTensorMutableData(output.value.get(), &data));
  output.data = static_cast<const std::byte*>(data);
}

void OrtInstance::respond(const tkb_request* const* requests, size_t count, int64_t rows, std::vector<Output>& outputs) {
  for (Output& output : outputs) read(output, rows);
  std::vector<tkb_tensor> tensors(outputs.size());
  std::vector<std::vector<int64_t>> shapes(outputs.size());
  int64_t row = 0;
  for (size_t r = 0; r < count; ++r) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      Output& output = outputs[i];
      shapes[i] = output.shape;
      int64_t first = 0;  // element
      if (rows > 0) {
        shapes[i][0] = requests[r]->rows;
        first = row * (num_elements(output.shape) / rows);
      }
      tkb_tensor& t = tensors[i];
      t = {.name = output.name, .dtype = output.dtype, .rank = static_cast<int32_t>(shapes[i].size()), .dims = shapes[i].data()};
      if (output.dtype == TKB_BYTES) {
        t.strings = output.strings.data() + first;
        continue;
      }
      const DType dtype = from_abi(output.dtype);
      t.data = output.data + bytes_of(dtype, first);
      t.size = static_cast<size_t>(bytes_of(dtype, num_elements(shapes[i])));
      if (count > 1 || t.size == 0 || is_input(*requests[r], t.data)) continue;  // the server copies
      t.owner = new Owned<OrtValue>(std::move(output.value));
      t.release = [](void* owner) { delete static_cast<Owned<OrtValue>*>(owner); };
    }
    row += requests[r]->rows;
    const tkb_response response = {.outputs = tensors.data(), .num_outputs = tensors.size(), .is_final = 1};
    server_.respond(requests[r], &response);
  }
}

void OrtInstance::execute(const tkb_request* const* requests, size_t count) {
  int64_t rows = 0;
  for (size_t r = 0; r < count; ++r) rows += requests[r]->rows;
  library_.check(library_.api.RunOptionsUnsetTerminate(run_options_.get()));
  num_wanted_ = count;
  for (size_t r = 0; r < count; ++r) server_.on_cancel(requests[r], on_cancel, this);
  std::vector<Owned<OrtValue>> inputs;
  for (size_t i = 0; i < requests[0]->num_inputs; ++i) inputs.push_back(make_input(requests, count, i, rows));
  std::vector<Output> outputs = run(requests, count, inputs);
  if (outputs.empty())
    for (size_t r = 0; r < count; ++r) respond_error(server_, *requests[r], ErrorCode::Cancelled, "Request cancelled");
  else respond(requests, count, rows, outputs);
}

}  // namespace tokamak::backends::onnxruntime
