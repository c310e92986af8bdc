// A library that records what runs on the GPU, for any program: CUDA_INJECTION64_PATH names it, the driver loads it when CUDA starts and
// calls InitializeInjection. Uses CUPTI, opened at run time. gpu_gaps.py sets it up and reads what it writes.
//
//   TOKAMAK_TRACE_FILE    where to write, a record a line: start and end in ns, correlation (equal for all of one launch of a CUDA graph),
//                         graph (0: none), node of the graph, stream, name; separated by tabs, in no order
//   TOKAMAK_TRACE_CUPTI   the path of libcupti.so.13 (default: as the loader finds it)
//   TOKAMAK_TRACE_LEVEL   "nodes": the kernels in CUDA graphs one by one (the driver then launches them with more between them);
//                         "graphs": a record a launch of a graph, kernels outside them one by one, at nearly no cost

#include <cupti.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

struct Cupti {
  decltype(&::cuptiGetVersion) get_version;
  decltype(&::cuptiGetResultString) get_result_string;
  decltype(&::cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&::cuptiActivityEnable) enable;
  decltype(&::cuptiActivityGetNextRecord) get_next_record;
  decltype(&::cuptiActivityGetNumDroppedRecords) get_num_dropped;
  decltype(&::cuptiActivityFlushAll) flush_all;
};

Cupti cupti;
FILE* out = nullptr;
std::mutex mutex;  // of what is written
size_t lost = 0;

[[noreturn]] void give_up(const char* what, const char* why) {
  std::fprintf(stderr, "error: tracing the GPU: %s: %s\n", what, why);
  _exit(3);
}

void check(CUptiResult result, const char* what) {
  if (result == CUPTI_SUCCESS) return;
  const char* text = "?";
  cupti.get_result_string(result, &text);
  give_up(what, text);
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *size = size_t{8} << 20;
  *max_records = 0;  // as many as fit
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
  if (*buffer == nullptr) give_up("a buffer", "out of memory");
}

void write(uint64_t start, uint64_t end, uint32_t correlation, uint32_t graph, uint64_t node, uint32_t stream, const char* name) {
  std::fprintf(out, "%llu\t%llu\t%u\t%u\t%llu\t%u\t%s\n", static_cast<unsigned long long>(start), static_cast<unsigned long long>(end),
               correlation, graph, static_cast<unsigned long long>(node), stream, name);
}

void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* record = nullptr;
  while (valid > 0 && cupti.get_next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& k = *reinterpret_cast<const CUpti_ActivityKernel10*>(record);
        write(k.start, k.end, k.correlationId, k.graphId, k.graphNodeId, k.streamId, k.name);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const auto& c = *reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
        write(c.start, c.end, c.correlationId, c.graphId, c.graphNodeId, c.streamId, "[copy]");
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMSET: {
        const auto& s = *reinterpret_cast<const CUpti_ActivityMemset4*>(record);
        write(s.start, s.end, s.correlationId, s.graphId, s.graphNodeId, s.streamId, "[set]");
        break;
      }
      case CUPTI_ACTIVITY_KIND_GRAPH_TRACE: {
        const auto& g = *reinterpret_cast<const CUpti_ActivityGraphTrace2*>(record);
        write(g.start, g.end, g.correlationId, g.graphId, 0, g.streamId, "[graph]");
        break;
      }
      default: break;
    }
  }
  size_t dropped = 0;
  if (cupti.get_num_dropped(context, stream, &dropped) == CUPTI_SUCCESS) lost += dropped;
  std::free(buffer);
}

void finish() {
  cupti.flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(mutex);
  std::fprintf(out, "# lost %zu\n", lost);
  std::fflush(out);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  const char *path = std::getenv("TOKAMAK_TRACE_FILE"), *library_path = std::getenv("TOKAMAK_TRACE_CUPTI");
  const char* level = std::getenv("TOKAMAK_TRACE_LEVEL");
  if (path == nullptr || (out = std::fopen(path, "w")) == nullptr) give_up("TOKAMAK_TRACE_FILE", "names no file that can be written");
  void* library = dlopen(library_path == nullptr ? "libcupti.so.13" : library_path, RTLD_NOW);
  if (library == nullptr) give_up("libcupti.so.13", dlerror());
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) give_up(name, "this CUPTI has none");
  };
  find(cupti.get_version, "cuptiGetVersion");
  find(cupti.get_result_string, "cuptiGetResultString");
  find(cupti.register_callbacks, "cuptiActivityRegisterCallbacks");
  find(cupti.enable, "cuptiActivityEnable");
  find(cupti.get_next_record, "cuptiActivityGetNextRecord");
  find(cupti.get_num_dropped, "cuptiActivityGetNumDroppedRecords");
  find(cupti.flush_all, "cuptiActivityFlushAll");
  // Records grow at their ends from version to version, so a newer library's begin as these; an older one's may end too early.
  uint32_t version = 0;
  check(cupti.get_version(&version), "cuptiGetVersion");
  if (version < CUPTI_API_VERSION / 10000 * 10000) give_up("cuptiGetVersion", "CUPTI is older than the headers this was built with");
  check(cupti.register_callbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  if (level != nullptr && std::strcmp(level, "graphs") == 0)
    check(cupti.enable(CUPTI_ACTIVITY_KIND_GRAPH_TRACE), "CUPTI_ACTIVITY_KIND_GRAPH_TRACE");
  check(cupti.enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL");
  check(cupti.enable(CUPTI_ACTIVITY_KIND_MEMCPY), "CUPTI_ACTIVITY_KIND_MEMCPY");
  check(cupti.enable(CUPTI_ACTIVITY_KIND_MEMSET), "CUPTI_ACTIVITY_KIND_MEMSET");
  std::atexit(finish);
  return 1;
}
