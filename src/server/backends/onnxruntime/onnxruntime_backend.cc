// The backend "onnxruntime": ONNX files as they are, run by the ONNX Runtime library that is installed. Nothing of it is needed to build:
// ort_api.h says what of its C API is used, library.h where it is looked for.

#include "server/backends/onnxruntime/ort_instance.h"
#include "server/backends/support.h"

namespace tokamak::backends::onnxruntime {

namespace {

const tkb_server* server = nullptr;

OrtModel& of(tkb_model* model) { return *reinterpret_cast<OrtModel*>(model); }

tkb_error* load(const tkb_model_args* args, tkb_model** model) {
  return guarded(*server, [&] { *model = reinterpret_cast<tkb_model*>(new OrtModel(*server, *args)); });
}

void unload(tkb_model* model) { delete &of(model); }

const char* describe(tkb_model* model) { return of(model).description().c_str(); }

tkb_error* create_instance(tkb_model* model, const tkb_instance_args* args, tkb_instance** instance) {
  return guarded(*server, [&] { *instance = reinterpret_cast<tkb_instance*>(new OrtInstance(*server, of(model), *args)); });
}

void destroy_instance(tkb_instance* instance) { delete reinterpret_cast<OrtInstance*>(instance); }

tkb_error* execute(tkb_instance* instance, const tkb_request* const* requests, size_t count) {
  return guarded(*server, [&] { reinterpret_cast<OrtInstance*>(instance)->execute(requests, count); });
}

constexpr tkb_backend kBackend = {.size = sizeof(tkb_backend),
                                  .version = TKB_VERSION,
                                  .name = "onnxruntime",
                                  .load = load,
                                  .unload = unload,
                                  .describe = describe,
                                  .create_instance = create_instance,
                                  .destroy_instance = destroy_instance,
                                  .execute = execute};

}  // namespace

}  // namespace tokamak::backends::onnxruntime

extern "C" __attribute__((visibility("default"))) const tkb_backend* tokamak_backend(const tkb_server* server) {
  if (server->version != TKB_VERSION) return nullptr;
  tokamak::backends::onnxruntime::server = server;
  return &tokamak::backends::onnxruntime::kBackend;
}
