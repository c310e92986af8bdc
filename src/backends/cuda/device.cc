#include "backends/cuda/device.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace tokamak::cuda {

// --- Function ---

void Function::launch_raw(CUstream stream, const Launch& launch, void** arguments) const {
  CHECK(function_ != nullptr);
  CUlaunchAttribute attributes[2];
  CUlaunchConfig config{};
  config.gridDimX = launch.grid.x, config.gridDimY = launch.grid.y, config.gridDimZ = launch.grid.z;
  config.blockDimX = launch.block.x, config.blockDimY = launch.block.y, config.blockDimZ = launch.block.z;
  config.sharedMemBytes = static_cast<unsigned>(launch.shared_bytes);
  config.hStream = stream;
  config.attrs = attributes;
  if (launch.cluster > 1) {
    CUlaunchAttribute& a = attributes[config.numAttrs++];
    a.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    a.value.clusterDim.x = launch.cluster, a.value.clusterDim.y = 1, a.value.clusterDim.z = 1;
  }
  if (launch.overlap && has_pdl_) {
    CUlaunchAttribute& a = attributes[config.numAttrs++];
    a.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    a.value.programmaticStreamSerializationAllowed = 1;
  }
  if (const CUresult result = driver().cuLaunchKernelEx(&config, function_, arguments, nullptr); result != CUDA_SUCCESS)
    check(result, fmt::format("launch of {} ({}x{}x{} blocks of {}x{}x{} threads, {} bytes of shared memory)", name_, launch.grid.x,
                              launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z, launch.shared_bytes)
                      .c_str());
}

void Function::allow_shared_bytes(int bytes) const {
  if (function_ == nullptr) return;
  check(driver().cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes),
        fmt::format("{} bytes of shared memory for {}", bytes, name_).c_str());
}

void Function::allow_large_clusters() const {
  if (function_ == nullptr) return;
  check(driver().cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
        fmt::format("large clusters for {}", name_).c_str());
}

void Function::prefer_l1(int64_t bytes, int percent) const {
  if (function_ == nullptr) return;
  const int64_t needed = std::min<int64_t>((bytes * 100 + sm_shared_bytes_ - 1) / sm_shared_bytes_, 100);
  check(driver().cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                                    std::max(static_cast<int>(needed), percent)),
        fmt::format("shared memory and L1 for {}", name_).c_str());
}

int Function::blocks_per_sm(int threads_per_block, int shared_bytes) const {
  int n = 0;
  check(driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, function_, threads_per_block, static_cast<size_t>(shared_bytes)),
        name_.c_str());
  return n;
}

// --- Device ---

std::shared_ptr<Device> Device::get(int ordinal) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<Device>> devices;
  int count = 0;
  check(driver().cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= count)
    fail(ErrorCode::OutOfRange, "there is no GPU {}; this machine has {} (0 to {})", ordinal, count, count - 1);
  const std::lock_guard lock(mutex);
  devices.resize(count);
  auto device = devices[ordinal].lock();
  if (!device) devices[ordinal] = device = std::shared_ptr<Device>(new Device(ordinal));
  return device;
}

Device::Device(int ordinal) : ordinal_(ordinal) {
  const Driver& d = driver();
  check(d.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
  const auto attribute = [&](CUdevice_attribute which) {
    int value = 0;
    check(d.cuDeviceGetAttribute(&value, which, device_), "cuDeviceGetAttribute");
    return value;
  };
  char name[256] = "";
  check(d.cuDeviceGetName(name, sizeof(name), device_), "cuDeviceGetName");
  size_t memory = 0;
  check(d.cuDeviceTotalMem(&memory, device_), "cuDeviceTotalMem");
  target_.device_name = name;
  target_.arch = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) * 10 + attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  target_.num_sms = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  target_.shared_bytes_per_block = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  target_.l2_bytes = attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  target_.memory_bytes = static_cast<int64_t>(memory);
  if (target_.arch < 80)
    fail(ErrorCode::Unsupported, "{} has compute capability {}.{}; 8.0 or newer is needed", name, target_.arch / 10, target_.arch % 10);
  check(d.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

Device::~Device() {
  for (CUstream stream : idle_streams_) driver().cuStreamDestroy(stream);
  driver().cuDevicePrimaryCtxRelease(device_);
}

void Device::make_current() const {
  CUcontext current = nullptr;
  check(driver().cuCtxGetCurrent(&current), "cuCtxGetCurrent");
  if (current != context_) check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
}

int64_t Device::free_bytes() const {
  make_current();
  size_t free = 0, total = 0;
  check(driver().cuMemGetInfo(&free, &total), "cuMemGetInfo");
  return static_cast<int64_t>(free);
}

Buffer Device::allocate(int64_t bytes, const std::string& purpose) {
  make_current();
  Buffer buffer;
  const CUresult result = driver().cuMemAlloc(&buffer.pointer_, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    fail(ErrorCode::ResourceExhausted, "{}: {} bytes do not fit the GPU; {} of {} bytes are free on {}", purpose, bytes, free_bytes(),
         target_.memory_bytes, target_.device_name);
  check(result, purpose.c_str());
  buffer.device_ = shared_from_this();
  buffer.size_bytes_ = bytes;
  return buffer;
}

Buffer::~Buffer() {
  if (pointer_ == 0) return;
  device_->make_current();
  driver().cuMemFree(pointer_);
}

Function Device::load(const CodeCache::Entry& code, const std::string& entry, const std::string& name) {
  make_current();
  Function function;
  {
    const std::lock_guard lock(mutex_);
    std::weak_ptr<const void>& known = modules_[code.key];
    function.module_ = known.lock();
    if (!function.module_) {
      CUmodule module = nullptr;
      check(driver().cuModuleLoadData(&module, code.cubin->data()), fmt::format("loading the code of {}", name).c_str());
      function.module_ = std::shared_ptr<const void>(module, [self = shared_from_this()](const void* m) {
        self->make_current();
        driver().cuModuleUnload(static_cast<CUmodule>(const_cast<void*>(m)));
      });
      known = function.module_;
    }
  }
  check(driver().cuModuleGetFunction(&function.function_, static_cast<CUmodule>(const_cast<void*>(function.module_.get())), entry.c_str()),
        fmt::format("kernel {} in {}", entry, name).c_str());
  function.name_ = name;
  function.sm_shared_bytes_ = target_.shared_bytes_per_block + 1024;  // each block takes 1 KiB more than it asks for
  function.has_pdl_ = target_.has_pdl();
  return function;
}

// --- PinnedBuffer, Stream, Event ---

PinnedBuffer::PinnedBuffer(int64_t bytes) : size_bytes_(bytes) {
  void* p = nullptr;
  check(driver().cuMemHostAlloc(&p, static_cast<size_t>(std::max<int64_t>(bytes, 1)), CU_MEMHOSTALLOC_PORTABLE), "pinned host memory");
  data_ = static_cast<std::byte*>(p);
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) driver().cuMemFreeHost(data_);
}

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  device_->make_current();
  {
    const std::lock_guard lock(device_->mutex_);
    if (!device_->idle_streams_.empty()) {
      stream_ = device_->idle_streams_.back();
      device_->idle_streams_.pop_back();
      return;
    }
  }
  check(driver().cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

Stream::~Stream() {
  const std::lock_guard lock(device_->mutex_);
  device_->idle_streams_.push_back(stream_);
}

void Stream::synchronize() const { check(driver().cuStreamSynchronize(stream_), "waiting for the GPU"); }

Event::Event(bool timing) { check(driver().cuEventCreate(&event_, timing ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING), "cuEventCreate"); }
Event::~Event() { driver().cuEventDestroy(event_); }
void Event::record(CUstream stream) { check(driver().cuEventRecord(event_, stream), "cuEventRecord"); }
void Event::synchronize() const { check(driver().cuEventSynchronize(event_), "waiting for the GPU"); }
double Event::ms_since(const Event& start) const {
  float ms = 0;
  check(driver().cuEventElapsedTime(&ms, start.event_, event_), "cuEventElapsedTime");
  return ms;
}

// --- Context ---

Function Context::function(const Source& source, const std::string& entry) const {
  const CodeCache::Entry code = code_->get(source, target_);
  if (!device_) return {};
  return device_->load(code, entry, source.name);
}

}  // namespace tokamak::cuda
