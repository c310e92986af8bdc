#pragma once
// The calls that are not inference: one function a call, from message to message. All throw Error.

#include <functional>

#include "grpc_service.pb.h"
#include "server/server.h"

namespace tokamak::server::management {

void server_metadata(Server& server, inference::ServerMetadataResponse& response);
void model_metadata(Server& server, const inference::ModelMetadataRequest& request, inference::ModelMetadataResponse& response);
void model_config(Server& server, const inference::ModelConfigRequest& request, inference::ModelConfigResponse& response);
void model_statistics(Server& server, const inference::ModelStatisticsRequest& request, inference::ModelStatisticsResponse& response);

void repository_index(Server& server, const inference::RepositoryIndexRequest& request, inference::RepositoryIndexResponse& response);
// Return at once; `done` is called on a thread of the repository.
void load_model(Server& server, const inference::RepositoryModelLoadRequest& request, Repository::Done done);
void unload_model(Server& server, const inference::RepositoryModelUnloadRequest& request, Repository::Done done);

// Change what the request sets, if anything, and tell what holds now.
void trace_setting(Server& server, const inference::TraceSettingRequest& request, inference::TraceSettingResponse& response);
void log_settings(const inference::LogSettingsRequest& request, inference::LogSettingsResponse& response);

}  // namespace tokamak::server::management
