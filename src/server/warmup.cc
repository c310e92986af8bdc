#include "server/warmup.h"

#include <random>

#include "server/config.h"
#include "server/sequence_controls.h"
#include "server/tensor_file.h"

namespace tokamak::server {

namespace {

Tensor sample_tensor(const std::string& name, const inference::ModelWarmup::Input& input, int64_t rows, const std::string& folder) {
  const std::optional<DType> dtype = from_config_type(input.data_type());
  if (!dtype) fail(ErrorCode::InvalidArgument, "the warm-up data of input '{}' has no data_type", name);
  Shape shape(input.dims().begin(), input.dims().end());
  if (rows > 0) shape.insert(shape.begin(), rows);
  switch (input.input_data_type_case()) {
    case inference::ModelWarmup::Input::kInputDataFile: {
      if (input.input_data_file().find("..") != std::string::npos)
        fail(ErrorCode::InvalidArgument, "the warm-up data '{}' is outside the model's folder", input.input_data_file());
      return read_tensor_file(*dtype, std::move(shape), folder + "/warmup/" + input.input_data_file(), "warm-up data");
    }
    case inference::ModelWarmup::Input::kRandomData: {
      if (*dtype == DType::String) return Tensor::empty(*dtype, std::move(shape));
      Tensor tensor = Tensor::zeros(*dtype, std::move(shape));
      std::mt19937 random(1);
      if (*dtype == DType::F32) {
        std::uniform_real_distribution<float> uniform(0, 1);
        for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<float>()[i] = uniform(random);
      } else if (*dtype == DType::F64) {
        std::uniform_real_distribution<double> uniform(0, 1);
        for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<double>()[i] = uniform(random);
      } else {
        // Bits below the exponent of 16-bit floats; integers are 0 or 1, which index any table.
        for (int64_t i = 0; i < tensor.count(); ++i)
          tensor.data<std::byte>()[i * tensor.size_bytes() / tensor.count()] = static_cast<std::byte>(random() & 1);
      }
      return tensor;
    }
    default: return *dtype == DType::String ? Tensor::empty(*dtype, std::move(shape)) : Tensor::zeros(*dtype, std::move(shape));
  }
}

}  // namespace

std::vector<std::shared_ptr<const InferRequest>> warmup_requests(const inference::ModelConfig& config, const std::string& model_folder) {
  std::vector<std::shared_ptr<const InferRequest>> requests;
  for (const inference::ModelWarmup& sample : config.model_warmup()) {
    const int64_t rows = config.max_batch_size() > 0 ? std::max<int64_t>(sample.batch_size(), 1) : 0;
    auto request = std::make_shared<InferRequest>();
    request->id = sample.name();
    for (const auto& [name, input] : sample.inputs())
      if (!is_sequence_input(config, name))
        request->inputs.push_back({.name = name, .tensor = sample_tensor(name, input, rows, model_folder)});
    requests.insert(requests.end(), std::max(1u, sample.count()), request);
  }
  return requests;
}

}  // namespace tokamak::server
