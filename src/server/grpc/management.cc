#include "server/grpc/management.h"

#include <algorithm>
#include <utility>

#include "server/kserve.h"
#include "server/log.h"

namespace tokamak::server::management {

namespace {

void describe(const std::vector<TensorMetadata>& tensors,
              google::protobuf::RepeatedPtrField<inference::ModelMetadataResponse::TensorMetadata>& wire) {
  for (const TensorMetadata& tensor : tensors) {
    auto& row = *wire.Add();
    row.set_name(tensor.name);
    row.set_datatype(kserve::datatype_name(tensor.dtype));
    row.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
  }
}

// Models are found by name in whatever repository has them.
void check_no_repository(const std::string& repository_name) {
  if (!repository_name.empty())
    fail(ErrorCode::Unsupported, "repository_name '{}': models are loaded and unloaded by name alone, leave it empty", repository_name);
}

using LogValue = inference::LogSettingsRequest::SettingValue;

bool bool_of(const std::string& name, const LogValue& value) {
  if (value.parameter_choice_case() == LogValue::kBoolParam) return value.bool_param();
  fail(ErrorCode::InvalidArgument, "log setting '{}' must be a boolean", name);
}

void set_log(LogSettings& settings, const std::string& name, const LogValue& value) {
  if (value.parameter_choice_case() == LogValue::PARAMETER_CHOICE_NOT_SET) return;  // asks for the value only
  if (name == "log_info") {
    settings.info = bool_of(name, value);
  } else if (name == "log_warning") {
    settings.warning = bool_of(name, value);
  } else if (name == "log_error") {
    settings.error = bool_of(name, value);
  } else if (name == "log_verbose_level") {
    if (value.parameter_choice_case() != LogValue::kUint32Param || !std::in_range<int>(value.uint32_param()))
      fail(ErrorCode::InvalidArgument, "log setting '{}' must be a number of 0 or more", name);
    settings.verbose_level = static_cast<int>(value.uint32_param());
  } else if (name == "log_format") {
    if (value.parameter_choice_case() != LogValue::kStringParam)
      fail(ErrorCode::InvalidArgument, "log setting '{}' must be a string", name);
    settings.format = value.string_param();
  } else if (name == "log_file") {
    fail(ErrorCode::Unsupported, "log setting 'log_file' can only be given on the command line");
  } else {
    fail(ErrorCode::InvalidArgument, "'{}' is not a log setting", name);
  }
}

}  // namespace

void server_metadata(Server& server, inference::ServerMetadataResponse& response) {
  const ServerMetadata& metadata = server.metadata();
  response.set_name(metadata.name);
  response.set_version(metadata.version);
  for (const std::string& extension : metadata.extensions) response.add_extensions(extension);
}

void model_metadata(Server& server, const inference::ModelMetadataRequest& request, inference::ModelMetadataResponse& response) {
  const auto model = server.find_model(request.name(), Server::parse_version(request.version()));
  response.set_name(model->name());
  for (const int64_t version : server.repository().ready_versions(model->name())) response.add_versions(std::to_string(version));
  response.set_platform(model->platform());
  describe(model->inputs(), *response.mutable_inputs());
  describe(model->outputs(), *response.mutable_outputs());
}

void model_config(Server& server, const inference::ModelConfigRequest& request, inference::ModelConfigResponse& response) {
  *response.mutable_config() = server.find_model(request.name(), Server::parse_version(request.version()))->config();
}

void model_statistics(Server& server, const inference::ModelStatisticsRequest& request, inference::ModelStatisticsResponse& response) {
  server.fill_statistics(request.name(), Server::parse_version(request.version()), response);
}

void repository_index(Server& server, const inference::RepositoryIndexRequest& request, inference::RepositoryIndexResponse& response) {
  for (ModelIndex& row : server.repository().index(request.ready(), request.repository_name())) {
    auto& wire = *response.add_models();
    wire.set_name(std::move(row.name));
    wire.set_version(std::move(row.version));
    wire.set_state(std::move(row.state));
    wire.set_reason(std::move(row.reason));
  }
}

void load_model(Server& server, const inference::RepositoryModelLoadRequest& request, Repository::Done done) {
  check_no_repository(request.repository_name());
  LoadOverride load;
  for (const auto& [name, value] : request.parameters()) {
    constexpr std::string_view kFile = "file:";
    if (name == "config") {
      if (!value.has_string_param()) fail(ErrorCode::InvalidArgument, "load parameter 'config' must be a string, the config as JSON");
      load.config_json = value.string_param();
    } else if (name.starts_with(kFile)) {
      if (!value.has_bytes_param()) fail(ErrorCode::InvalidArgument, "load parameter '{}' must be bytes", name);
      load.files[name.substr(kFile.size())] = value.bytes_param();
    } else {
      fail(ErrorCode::InvalidArgument, "load parameter '{}': expected 'config' or 'file:<version>/<file>'", name);
    }
  }
  server.repository().load_async(request.model_name(), std::move(load), std::move(done));
}

void unload_model(Server& server, const inference::RepositoryModelUnloadRequest& request, Repository::Done done) {
  check_no_repository(request.repository_name());
  bool unload_dependents = false;
  for (const auto& [name, value] : request.parameters()) {
    if (name != "unload_dependents") fail(ErrorCode::InvalidArgument, "unload parameter '{}': expected 'unload_dependents'", name);
    if (!value.has_bool_param()) fail(ErrorCode::InvalidArgument, "unload parameter '{}' must be a boolean", name);
    unload_dependents = value.bool_param();
  }
  server.repository().unload_async(request.model_name(), unload_dependents, std::move(done));
}

void trace_setting(Server& server, const inference::TraceSettingRequest& request, inference::TraceSettingResponse& response) {
  if (!request.model_name().empty()) server.find_model(request.model_name());  // throws for one that there is not
  TraceUpdate update;
  for (const auto& [name, setting] : request.settings())
    update[name] =
        setting.value().empty() ? std::nullopt : std::optional(std::vector<std::string>(setting.value().begin(), setting.value().end()));
  const TraceSettings settings = update.empty() ? server.tracer().control().settings(request.model_name())
                                                : server.tracer().control().update(request.model_name(), update);
  for (const auto& [name, values] : settings) (*response.mutable_settings())[name].mutable_value()->Add(values.begin(), values.end());
}

void log_settings(const inference::LogSettingsRequest& request, inference::LogSettingsResponse& response) {
  LogSettings settings = log().settings();
  for (const auto& [name, value] : request.settings()) set_log(settings, name, value);
  if (!request.settings().empty()) log().set(settings);
  auto& wire = *response.mutable_settings();
  wire["log_file"].set_string_param(settings.file);
  wire["log_info"].set_bool_param(settings.info);
  wire["log_warning"].set_bool_param(settings.warning);
  wire["log_error"].set_bool_param(settings.error);
  wire["log_verbose_level"].set_uint32_param(static_cast<uint32_t>(settings.verbose_level));
  wire["log_format"].set_string_param(settings.format);
}

}  // namespace tokamak::server::management
