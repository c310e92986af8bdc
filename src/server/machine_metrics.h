#pragma once
// nv_gpu_*, nv_cpu_*: what the machine does. GPUs through NVML, which the driver brings and which is looked for at run time.

#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace tokamak::server {

class Exposition;

// Thread-safe.
class MachineMetrics {
 public:
  MachineMetrics(bool gpu, bool cpu);
  ~MachineMetrics();
  void write(Exposition& out);

 private:
  struct Nvml;
  void write_gpus(Exposition& out);
  void write_cpu(Exposition& out);

  const bool cpu_;
  std::unique_ptr<Nvml> nvml_;  // null without a driver
  std::mutex mutex_;
  std::map<std::string, double> first_energy_j_;  // by GPU, when first read
  uint64_t busy_ticks_ = 0, total_ticks_ = 0;     // of the CPU at the last look
  double utilization_ = 0;
};

}  // namespace tokamak::server
