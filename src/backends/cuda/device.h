#pragma once
// A GPU that is here: memory, streams, events, loaded code. Every call makes the device's primary context current on the calling thread.

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "backends/cuda/code.h"
#include "backends/cuda/driver.h"

namespace tokamak::cuda {

class Device;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Kernel launch shape. `overlap`: programmatic dependent launch, the kernel may start while the one before it on the stream still runs;
// its code must then call wait_for_previous() (device/prelude.cuh) before it touches anything but weights. Ignored below sm_90.
struct Launch {
  Dim3 grid;             // blocks
  Dim3 block;            // threads in a block
  unsigned cluster = 1;  // blocks along x in one cluster; sm_90 and newer
  int shared_bytes = 0;  // dynamic
  bool overlap = false;
};

// A kernel of a loaded (or, without a GPU, only compiled) module. Cheap to copy; keeps the module alive.
class Function {
 public:
  Function() = default;
  bool is_loaded() const { return function_ != nullptr; }

  // Asynchronous. Arguments are passed as they are: their types must be those of the kernel's parameters. Throws Internal naming the
  // kernel.
  template <class... Args>
  void launch(CUstream stream, const Launch& launch, const Args&... args) const {
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
    launch_raw(stream, launch, pointers);
  }
  void launch_raw(CUstream stream, const Launch& launch, void** arguments) const;

  // More than 48 KiB of dynamic shared memory must be asked for once, before the first launch.
  void allow_shared_bytes(int bytes) const;
  // More than 8 blocks in a cluster, which not every GPU has.
  void allow_large_clusters() const;
  // For kernels that load much straight to registers: those loads wait in the L1 cache, which shares an SM's memory with shared memory.
  // Where nothing is said and the blocks fit, an SM stays as the kernel before left it, perhaps with next to no L1. At least `bytes` become
  // shared memory, or `percent` of all.
  void prefer_l1(int64_t bytes, int percent) const;
  int blocks_per_sm(int threads_per_block, int shared_bytes) const;  // occupancy

 private:
  friend class Device;
  std::string name_;
  std::shared_ptr<const void> module_;
  CUfunction function_ = nullptr;
  int64_t sm_shared_bytes_ = 0;
  bool has_pdl_ = false;
};

// Device memory, freed with the object (after the work that was queued, as cuMemFree does).
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();
  std::byte* data() const { return reinterpret_cast<std::byte*>(pointer_); }
  CUdeviceptr pointer() const { return pointer_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  friend class Device;
  void swap(Buffer& other) {
    std::swap(device_, other.device_), std::swap(pointer_, other.pointer_), std::swap(size_bytes_, other.size_bytes_);
  }
  std::shared_ptr<Device> device_;
  CUdeviceptr pointer_ = 0;
  int64_t size_bytes_ = 0;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  // The GPU `ordinal` (as CUDA counts); the same object for all who ask. Throws Unsupported without a driver or a GPU, OutOfRange.
  static std::shared_ptr<Device> get(int ordinal = 0);
  static bool is_available() { return find_driver() != nullptr; }
  ~Device();

  const Target& target() const { return target_; }
  int ordinal() const { return ordinal_; }
  void make_current() const;

  // At least 256-byte aligned. Throws ResourceExhausted: "<purpose>: 123 bytes do not fit the GPU (45 of 80 GB free)".
  Buffer allocate(int64_t bytes, const std::string& purpose);
  int64_t free_bytes() const;

  // The kernel `entry` of a cubin; modules are loaded once.
  Function load(const CodeCache::Entry& code, const std::string& entry, const std::string& name);

  // Held by whoever times kernels, so that builds on several threads do not time each other.
  std::mutex& timing_mutex() { return timing_mutex_; }

 private:
  friend class Stream;
  explicit Device(int ordinal);
  int ordinal_ = 0;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  Target target_;
  std::mutex mutex_, timing_mutex_;
  std::unordered_map<std::string, std::weak_ptr<const void>> modules_;
  std::vector<CUstream> idle_streams_;
};

// Pinned host memory: copies to and from it are asynchronous.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);  // throws ResourceExhausted
  PinnedBuffer(PinnedBuffer&& other) noexcept { std::swap(data_, other.data_), std::swap(size_bytes_, other.size_bytes_); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  ~PinnedBuffer();
  std::byte* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// Streams go back to the device and are used again, none is destroyed before the device: libraries keep handles for them (cudnn.h).
class Stream {
 public:
  explicit Stream(std::shared_ptr<Device> device);  // non-blocking against the default stream
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  CUstream get() const { return stream_; }
  void synchronize() const;

 private:
  std::shared_ptr<Device> device_;
  CUstream stream_ = nullptr;
};

class Event {
 public:
  explicit Event(bool timing = true);  // of the current context
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  CUevent get() const { return event_; }
  void record(CUstream stream);
  void synchronize() const;
  double ms_since(const Event& start) const;  // both recorded and done

 private:
  CUevent event_ = nullptr;
};

// What kernels of one engine are made with: the target, the engine's code, and the device unless building for a GPU that is not here.
class Context {
 public:
  Context(Target target, std::shared_ptr<CodeCache> code, std::shared_ptr<Device> device, bool allow_tf32 = false)
      : target_(std::move(target)), code_(std::move(code)), device_(std::move(device)), allow_tf32_(allow_tf32) {}
  const Target& target() const { return target_; }
  CodeCache& code() const { return *code_; }
  const std::shared_ptr<Device>& device() const { return device_; }  // null: code is compiled, nothing runs
  // Products and convolutions of float32 tensors may round what they multiply to TF32 (10 bits of mantissa); else they may not.
  bool allow_tf32() const { return allow_tf32_; }

  // Compiles (or finds) and, with a device, loads.
  Function function(const Source& source, const std::string& entry) const;

 private:
  Target target_;
  std::shared_ptr<CodeCache> code_;
  std::shared_ptr<Device> device_;
  bool allow_tf32_;
};

}  // namespace tokamak::cuda
