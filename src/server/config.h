#pragma once
// A model's configuration: config.pbtxt read, completed, checked, and told as JSON.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "model_config.pb.h"
#include "server/model.h"

namespace tokamak::server {

// The names of KServe v2 ("FP32", "BYTES") and of the config (TYPE_FP32, TYPE_STRING). Types that the protocols do not have: "" and
// TYPE_INVALID.
std::string_view datatype_name(DType dtype);
std::optional<DType> parse_datatype(std::string_view name);
inference::DataType to_config_type(DType dtype);
std::optional<DType> from_config_type(inference::DataType type);

// Parses the text of a config.pbtxt. Throws InvalidArgument with `where`, line and column. Fields that Triton's message does not have are
// skipped and named in `warnings`.
inference::ModelConfig parse_config(std::string_view text, const std::string& where, std::vector<std::string>& warnings);
// The same from JSON (the `config` parameter of a load request); an unknown field is an error.
inference::ModelConfig parse_config_json(std::string_view json);

// Fields that are set and that this server does nothing with, as paths: "optimization.cuda.graphs".
std::vector<std::string> unused_fields(const inference::ModelConfig& config);

// What can be said without the model: its name, the backend (from the platform, or from the files in `version_directory`), the file,
// latest{1}, names, kinds and counts of instance groups, queue and sequence defaults. Throws InvalidArgument when the name is not
// `directory_name`, or when the backend cannot be told.
void apply_defaults(inference::ModelConfig& config, const std::string& directory_name, const std::string& version_directory);

// What a backend says about a model; shapes are the model's own, batch axis included.
struct ModelDescription {
  struct Io {
    std::string name;
    DType dtype = DType::F32;
    Shape shape;
    bool is_optional = false;
  };
  std::vector<Io> inputs, outputs;
  // Whether they are all that the model has, those that sequence_batching names too, or all but these.
  bool has_sequence_tensors = true;
  bool can_batch = false;  // axis 0 of every input and output is variable and means rows
};

// Fills in inputs, outputs and max_batch_size that the config leaves open, and a dynamic batcher for a model that batches and has no
// scheduler. A config that gives dims of the model's own rank does not batch. Throws InvalidArgument when config and model contradict each
// other: an unknown name, another type or shape, a batch size for a model that cannot batch.
void complete_config(inference::ModelConfig& config, const ModelDescription& model, int default_max_batch_size);
// The same checks without filling in.
void check_against_model(const inference::ModelConfig& config, const ModelDescription& model);

// Throws InvalidArgument with Triton's message for what contradicts itself. For a complete config.
void validate_config(const inference::ModelConfig& config);

// Inputs or outputs as the protocols describe them: with the batch axis when the model batches.
std::vector<TensorMetadata> input_metadata(const inference::ModelConfig& config);
std::vector<TensorMetadata> output_metadata(const inference::ModelConfig& config,
                                            const std::map<std::string, std::vector<std::string>>& labels = {});

// As /v2/models/{m}/config has it: every field of a message that is there, 64-bit integers as numbers.
std::string config_json(const inference::ModelConfig& config);

}  // namespace tokamak::server
