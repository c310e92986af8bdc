#include "server/openai/embedding.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <mutex>

#include "model_config.pb.h"
#include "server/openai/api_error.h"

namespace tokamak::server::openai {
namespace {

constexpr std::array<std::string_view, 5> kPooledNames = {"sentence_embedding", "embedding", "embeddings", "text_embeds", "pooler_output"};
constexpr std::array<std::string_view, 3> kInputNames = {"input_ids", "attention_mask", "token_type_ids"};
constexpr size_t kRowsWithoutLimit = 32;  // of models that set no largest batch but have an open first axis

const TensorMetadata* find(const std::vector<TensorMetadata>& tensors, std::string_view name) {
  const auto found = std::ranges::find(tensors, name, &TensorMetadata::name);
  return found == tensors.end() ? nullptr : &*found;
}

const TensorMetadata* embedding_output(const Model& model) {
  for (const std::string_view name : kPooledNames)
    if (const TensorMetadata* t = find(model.outputs(), name); t && t->dtype == DType::F32 && t->shape.size() == 2) return t;
  for (const TensorMetadata& t : model.outputs())
    if (t.dtype == DType::F32 && t.shape.size() == 3) return &t;
  return nullptr;
}

template <class T>
Tensor filled(const std::vector<std::vector<int32_t>>& rows, int64_t length,
              const std::function<int32_t(const std::vector<int32_t>&, int64_t)>& at) {
  Tensor tensor = Tensor::empty(DTypeOf<T>::value, {std::ssize(rows), length});
  T* out = tensor.data<T>();
  for (const auto& row : rows)
    for (int64_t i = 0; i < length; ++i) *out++ = at(row, i);
  return tensor;
}

void normalize(std::vector<float>& vector) {
  double sum = 0;
  for (const float x : vector) sum += double{x} * x;
  if (sum == 0) return;
  const double scale = 1 / std::sqrt(sum);
  for (float& x : vector) x = static_cast<float>(x * scale);
}

// `lengths[r]` tokens of row r count.
EmbeddingModel::Vectors pool(const Tensor& output, const std::vector<int64_t>& lengths) {
  const auto rows = static_cast<int64_t>(lengths.size());
  const bool is_pooled = output.rank() == 2;
  if (output.dtype() != DType::F32 || (output.rank() != 2 && output.rank() != 3) || output.dim(0) != rows || output.dim(-1) == 0)
    fail(ErrorCode::Internal, "the model's output has shape {}, not one vector a text or a token", to_string(output.shape()));
  const int64_t hidden = output.dim(-1), tokens = is_pooled ? 1 : output.dim(1);
  EmbeddingModel::Vectors vectors;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t count = is_pooled ? 1 : std::min(lengths[r], tokens);
    if (count == 0) fail(ErrorCode::Internal, "the model's output has shape {}, without tokens", to_string(output.shape()));
    std::vector<double> sum(hidden, 0);
    const float* at = output.data<float>() + r * tokens * hidden;
    for (int64_t t = 0; t < count; ++t)
      for (int64_t h = 0; h < hidden; ++h) sum[h] += *at++;
    std::vector<float>& vector = vectors.emplace_back(hidden);
    std::ranges::transform(sum, vector.begin(), [&](double x) { return static_cast<float>(x / static_cast<double>(count)); });
    normalize(vector);
  }
  return vectors;
}

// Several executions that make one answer.
struct Gathering {
  std::mutex mutex;
  EmbeddingModel::Vectors vectors;
  size_t num_open = 0;
  std::optional<InferResponse> error;
  std::function<void(EmbeddingModel::Vectors, const InferResponse*)> done;

  void take(size_t first, const std::vector<int64_t>& lengths, const std::string& output, InferResponse response) {
    if (!response.is_final) return;
    {
      const std::lock_guard lock(mutex);
      if (!response.error_code) place(first, lengths, output, response);
      if (response.error_code && !error) error = std::move(response);
      if (--num_open > 0) return;
    }
    done(std::move(vectors), error ? &*error : nullptr);
  }

 private:
  void place(size_t first, const std::vector<int64_t>& lengths, const std::string& output, InferResponse& response) {
    try {
      const auto found = std::ranges::find(response.outputs, output, &NamedTensor::name);
      if (found == response.outputs.end()) fail(ErrorCode::Internal, "the model's response lacks the output '{}'", output);
      std::ranges::move(pool(found->tensor, lengths), vectors.begin() + static_cast<ptrdiff_t>(first));
    } catch (const std::exception& e) {
      response.error_code = ErrorCode::Internal;
      response.error = e.what();
    }
  }
};

}  // namespace

std::string EmbeddingModel::why_not(const Model& model) {
  if (model.platform() == "ensemble" || model.is_decoupled()) return "it is an ensemble, or answers in several parts";
  for (const TensorMetadata& input : model.inputs()) {
    if (std::ranges::find(kInputNames, input.name) == kInputNames.end())
      return "it has an input '" + input.name + "', which a text does not give";
    if (input.dtype != DType::I64 && input.dtype != DType::I32) return "its input '" + input.name + "' does not hold integers";
    if (input.shape.size() != 2) return "its input '" + input.name + "' is not [batch, tokens]";
  }
  if (!find(model.inputs(), "input_ids")) return "it has no input 'input_ids'";
  if (!embedding_output(model))
    return "none of its outputs is a vector a text or a token (f32 [batch, tokens, hidden], or 'sentence_embedding')";
  return {};
}

EmbeddingModel::EmbeddingModel(std::shared_ptr<Model> model) : model_(std::move(model)) {
  if (const std::string reason = why_not(*model_); !reason.empty())
    throw ApiError(400, "invalid_request_error", fmt::format("the model '{}' cannot embed text: {}", model_->name(), reason), "model",
                   "model_not_supported");
  output_ = embedding_output(*model_)->name;
  const Shape& shape = find(model_->inputs(), "input_ids")->shape;
  fixed_length_ = shape[1];
  const int max_batch = model_->config().max_batch_size();
  if (max_batch > 0) max_rows_ = static_cast<size_t>(max_batch);
  else if (shape[0] > 0) fail(ErrorCode::Unsupported, "the model '{}' takes {} texts at a time, no other number", model_->name(), shape[0]);
  else max_rows_ = kRowsWithoutLimit;
}

void EmbeddingModel::embed(std::vector<std::vector<int32_t>> rows, int32_t pad_id, const std::string& traceparent,
                           std::shared_ptr<Cancellation> cancellation, std::function<void(Vectors, const InferResponse*)> done) const {
  for (size_t r = 0; r < rows.size(); ++r)
    if (fixed_length_ >= 0 && std::ssize(rows[r]) > fixed_length_)
      throw ApiError(400, "invalid_request_error",
                     fmt::format("input {} has {} tokens, the model takes at most {}", r, rows[r].size(), fixed_length_), "input",
                     "context_length_exceeded");
  auto all = std::make_shared<Gathering>();
  all->vectors.resize(rows.size());
  all->num_open = (rows.size() + max_rows_ - 1) / max_rows_;
  all->done = std::move(done);
  for (size_t first = 0; first < rows.size(); first += max_rows_) {
    const std::vector<std::vector<int32_t>> part(rows.begin() + static_cast<ptrdiff_t>(first),
                                                 rows.begin() + static_cast<ptrdiff_t>(std::min(first + max_rows_, rows.size())));
    std::vector<int64_t> lengths;
    for (const auto& row : part) lengths.push_back(std::ssize(row));
    const int64_t length = fixed_length_ >= 0 ? fixed_length_ : std::ranges::max(lengths);
    auto request = std::make_unique<InferRequest>();
    request->model_name = model_->name();
    request->model_version = model_->version();
    request->outputs = {{.name = output_}};
    request->traceparent = traceparent;
    request->cancellation = cancellation;
    for (const TensorMetadata& input : model_->inputs()) {
      const auto value = [&](const std::vector<int32_t>& row, int64_t i) -> int32_t {
        const bool counts = i < std::ssize(row);
        if (input.name == "input_ids") return counts ? row[i] : pad_id;
        return input.name == "attention_mask" && counts ? 1 : 0;
      };
      request->inputs.push_back(
          {.name = input.name,
           .tensor = input.dtype == DType::I64 ? filled<int64_t>(part, length, value) : filled<int32_t>(part, length, value)});
    }
    request->on_response = [all, first, lengths = std::move(lengths), output = output_](InferResponse response) {
      all->take(first, lengths, output, std::move(response));
    };
    model_->infer(std::move(request));
  }
}

}  // namespace tokamak::server::openai
