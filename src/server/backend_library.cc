#include "server/backend_library.h"

#include <dlfcn.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>

#include "server/backends/support.h"
#include "server/log.h"
#include "server/queued_request.h"

struct tkb_error {
  tkb_code code;
  std::string message;
};

extern "C" const tkb_backend* tokamak_builtin_backend(const tkb_server* server);

namespace tokamak::server {

namespace fs = std::filesystem;

namespace {

tkb_error* make_error(tkb_code code, const char* message) { return new tkb_error{code, message ? message : ""}; }
void free_error(tkb_error* error) { delete error; }

void write_log(int level, const char* message) {
  if (level <= 0) log_error("{}", message);
  else if (level == 1) log_warning("{}", message);
  else if (level == 2) log_info("{}", message);
  else log_verbose(level - 2, "{}", message);
}

void respond(const tkb_request* request, const tkb_response* response) { QueuedRequest::of(*request).respond(*response); }
int is_cancelled(const tkb_request* request) { return QueuedRequest::of(*request).is_cancelled(); }
void on_cancel(const tkb_request* request, void (*call)(void*), void* context) { QueuedRequest::of(*request).on_cancel(call, context); }

tkb_error* gather(const tkb_request* const* requests, size_t count, size_t input, void* target, size_t capacity, size_t* size) {
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    if (input >= requests[i]->num_inputs) return make_error(TKB_INTERNAL, "gather: a request has no such input");
    const tkb_tensor& t = requests[i]->inputs[input];
    const void* source = t.data;
    size_t bytes = t.size;
    if (t.dtype == TKB_BYTES) {
      size_t elements = 1;
      for (int32_t d = 0; d < t.rank; ++d) elements *= static_cast<size_t>(t.dims[d]);
      source = t.strings;
      bytes = elements * sizeof(tkb_bytes);
    }
    if (bytes > capacity - at)
      return make_error(TKB_INTERNAL, fmt::format("gather: input '{}' needs more than {} bytes", t.name, capacity).c_str());
    if (bytes > 0) std::memcpy(static_cast<std::byte*>(target) + at, source, bytes);
    at += bytes;
  }
  *size = at;
  return nullptr;
}

void report_compute(const tkb_request* const* requests, size_t count, int64_t start_ns, int64_t end_ns) {
  for (size_t i = 0; i < count; ++i) {
    RequestTimes& times = QueuedRequest::of(*requests[i]).times();
    times.compute_input_end = start_ns;
    times.compute_output_start = end_ns;
  }
}

tkb_error* reschedule(const tkb_request* request, const tkb_tensor* states, size_t num_states) {
  try {
    QueuedRequest::of(*request).reschedule(states, num_states);
    return nullptr;
  } catch (const Error& e) {
    return make_error(backends::to_code(e.code()), e.what());
  }
}

struct Registry {
  std::mutex mutex;
  std::map<std::string, const tkb_backend*> backends;  // by name, or by path of the library
};

Registry& registry() {
  static Registry r;
  return r;
}

const tkb_backend& checked(const std::string& what, const tkb_backend* backend) {
  if (!backend) fail(ErrorCode::Unsupported, "{} cannot be used with this server", what);
  if (backend->version != TKB_VERSION || backend->size < offsetof(tkb_backend, find_interface))
    fail(ErrorCode::Unsupported, "{} was built for version {} of backend.h, this server has {}: build it again", what, backend->version,
         TKB_VERSION);
  if (!backend->load || !backend->unload || !backend->create_instance || !backend->destroy_instance || !backend->execute)
    fail(ErrorCode::Unsupported, "{} lacks one of load, unload, create_instance, destroy_instance and execute", what);
  return *backend;
}

const tkb_backend& open_library(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) fail(ErrorCode::Unsupported, "the backend '{}' cannot be loaded: {}", path, ::dlerror());
  const auto entry = reinterpret_cast<tkb_entry>(::dlsym(handle, "tokamak_backend"));
  if (!entry) {
    ::dlclose(handle);
    fail(ErrorCode::Unsupported, "'{}' is not a backend: it has no function tokamak_backend()", path);
  }
  return checked(fmt::format("the backend '{}'", path), entry(&server_functions()));
}

}  // namespace

const tkb_server& server_functions() {
  static const tkb_server functions = {.size = sizeof(tkb_server),
                                       .version = TKB_VERSION,
                                       .error = make_error,
                                       .error_free = free_error,
                                       .log = write_log,
                                       .respond = respond,
                                       .is_cancelled = is_cancelled,
                                       .on_cancel = on_cancel,
                                       .gather = gather,
                                       .report_compute = report_compute,
                                       .reschedule = reschedule};
  return functions;
}

void add_backend(const std::string& name, tkb_entry entry) {
  const tkb_backend* backend = &checked(fmt::format("the backend '{}'", name), entry(&server_functions()));
  const std::lock_guard lock(registry().mutex);
  registry().backends[name] = backend;
}

const tkb_backend& find_backend(const std::string& name, const std::vector<std::string>& directories) {
  // The name comes from a config: it must not lead out of the folders.
  if (name.empty() || name.find('/') != std::string::npos || name.find("..") != std::string::npos)
    fail(ErrorCode::InvalidArgument, "'{}' is not the name of a backend", name);
  const std::lock_guard lock(registry().mutex);
  Registry& r = registry();
  if (name == "tokamak" && !r.backends.contains(name))
    r.backends[name] = &checked("the built-in backend", tokamak_builtin_backend(&server_functions()));
  if (const auto found = r.backends.find(name); found != r.backends.end()) return *found->second;

  std::vector<fs::path> folders(directories.begin(), directories.end());
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  if (!error) {
    folders.push_back(program);
    folders.push_back(program.parent_path() / "lib" / "tokamak");
  }
  const std::string file = fmt::format("libtokamak_{}.so", name);
  std::string looked;
  for (const fs::path& folder : folders)
    // A folder of its own for each backend, as Triton has it, or one for all.
    for (const fs::path& path : {folder / file, folder / name / file}) {
      if (const auto found = r.backends.find(path.string()); found != r.backends.end()) return *found->second;
      if (fs::exists(path, error)) return *(r.backends[path.string()] = &open_library(path.string()));
      looked += fmt::format("{}'{}'", looked.empty() ? "" : ", ", path.string());
    }
  fail(ErrorCode::NotFound, "there is no backend '{}': looked for {}; --backend-directory names another folder", name, looked);
}

ErrorCode error_code(tkb_code code) {
  switch (code) {
    case TKB_INVALID_ARGUMENT: return ErrorCode::InvalidArgument;
    case TKB_NOT_FOUND: return ErrorCode::NotFound;
    case TKB_UNSUPPORTED: return ErrorCode::Unsupported;
    case TKB_UNAVAILABLE: return ErrorCode::Unavailable;
    case TKB_RESOURCE_EXHAUSTED: return ErrorCode::ResourceExhausted;
    case TKB_CANCELLED: return ErrorCode::Cancelled;
    case TKB_ALREADY_EXISTS: return ErrorCode::AlreadyExists;
    case TKB_INTERNAL: break;
  }
  return ErrorCode::Internal;
}

void throw_if(tkb_error* error) {
  if (!error) return;
  const std::unique_ptr<tkb_error> owned(error);
  throw Error(error_code(owned->code), owned->message);
}

}  // namespace tokamak::server
