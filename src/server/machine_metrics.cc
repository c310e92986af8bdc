#include "server/machine_metrics.h"

#include <dlfcn.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <vector>

#include "server/exposition.h"

namespace tokamak::server {

// The part of NVML's public C API that is used here.
struct MachineMetrics::Nvml {
  using Device = void*;
  struct Utilization {
    unsigned gpu, memory;  // percent
  };
  struct Memory {
    unsigned long long total, free, used;
  };

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*by_index)(unsigned, Device*) = nullptr;
  int (*uuid)(Device, char*, unsigned) = nullptr;
  int (*utilization)(Device, Utilization*) = nullptr;
  int (*memory)(Device, Memory*) = nullptr;
  int (*power_mw)(Device, unsigned*) = nullptr;
  int (*power_limit_mw)(Device, unsigned*) = nullptr;
  int (*energy_mj)(Device, unsigned long long*) = nullptr;
  void* library = nullptr;

  static std::unique_ptr<Nvml> open() {
    auto nvml = std::make_unique<Nvml>();
    nvml->library = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!nvml->library) return nullptr;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(nvml->library, name));
      return function != nullptr;
    };
    const bool has_all = find(nvml->init, "nvmlInit_v2") && find(nvml->shutdown, "nvmlShutdown") &&
                         find(nvml->count, "nvmlDeviceGetCount_v2") && find(nvml->by_index, "nvmlDeviceGetHandleByIndex_v2") &&
                         find(nvml->uuid, "nvmlDeviceGetUUID") && find(nvml->utilization, "nvmlDeviceGetUtilizationRates") &&
                         find(nvml->memory, "nvmlDeviceGetMemoryInfo") && find(nvml->power_mw, "nvmlDeviceGetPowerUsage") &&
                         find(nvml->power_limit_mw, "nvmlDeviceGetPowerManagementLimit") &&
                         find(nvml->energy_mj, "nvmlDeviceGetTotalEnergyConsumption");
    if (!has_all || nvml->init() != 0) {
      dlclose(nvml->library);
      nvml->library = nullptr;
      return nullptr;
    }
    return nvml;
  }

  ~Nvml() {
    if (!library) return;
    shutdown();
    dlclose(library);
  }
};

MachineMetrics::MachineMetrics(bool gpu, bool cpu) : cpu_(cpu), nvml_(gpu ? Nvml::open() : nullptr) {}
MachineMetrics::~MachineMetrics() = default;

void MachineMetrics::write(Exposition& out) {
  const std::lock_guard lock(mutex_);
  if (nvml_) write_gpus(out);
  if (cpu_) write_cpu(out);
}

void MachineMetrics::write_gpus(Exposition& out) {
  struct Family {
    const char *name, *type, *help;
    std::vector<std::pair<Labels, double>> samples = {};
  };
  enum { Utilization, MemoryTotal, MemoryUsed, PowerUsage, PowerLimit, Energy };
  Family families[] = {{"nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)"},
                       {"nv_gpu_memory_total_bytes", "gauge", "GPU total memory, in bytes"},
                       {"nv_gpu_memory_used_bytes", "gauge", "GPU used memory, in bytes"},
                       {"nv_gpu_power_usage", "gauge", "GPU power usage in watts"},
                       {"nv_gpu_power_limit", "gauge", "GPU power management limit in watts"},
                       {"nv_energy_consumption", "counter", "GPU energy consumption in joules since the server started"}};
  unsigned count = 0;
  if (nvml_->count(&count) != 0) count = 0;
  for (unsigned i = 0; i < count; ++i) {
    Nvml::Device device = nullptr;
    char uuid[96] = "";
    if (nvml_->by_index(i, &device) != 0 || nvml_->uuid(device, uuid, sizeof(uuid)) != 0) continue;
    const Labels labels = {{"gpu_uuid", uuid}};
    const auto add = [&](int family, double value) { families[family].samples.emplace_back(labels, value); };
    Nvml::Utilization utilization = {};
    Nvml::Memory memory = {};
    unsigned milliwatts = 0;
    unsigned long long millijoules = 0;
    if (nvml_->utilization(device, &utilization) == 0) add(Utilization, utilization.gpu / 100.0);
    if (nvml_->memory(device, &memory) == 0) {
      add(MemoryTotal, static_cast<double>(memory.total));
      add(MemoryUsed, static_cast<double>(memory.used));
    }
    if (nvml_->power_mw(device, &milliwatts) == 0) add(PowerUsage, milliwatts / 1e3);
    if (nvml_->power_limit_mw(device, &milliwatts) == 0) add(PowerLimit, milliwatts / 1e3);
    if (nvml_->energy_mj(device, &millijoules) == 0) {
      const double joules = static_cast<double>(millijoules) / 1e3;
      add(Energy, joules - first_energy_j_.try_emplace(uuid, joules).first->second);
    }
  }
  for (const Family& family : families) {
    if (family.samples.empty()) continue;
    out.family(family.name, family.type, family.help);
    for (const auto& [labels, value] : family.samples) out.sample(labels, value);
  }
}

void MachineMetrics::write_cpu(Exposition& out) {
  std::ifstream stat("/proc/stat");
  std::string word;
  uint64_t total = 0, idle = 0, ticks = 0;
  stat >> word;
  for (int i = 0; i < 8 && stat >> ticks; ++i) {  // user nice system idle iowait irq softirq steal
    total += ticks;
    if (i == 3 || i == 4) idle += ticks;
  }
  if (total > total_ticks_) utilization_ = static_cast<double>(total - idle - busy_ticks_) / static_cast<double>(total - total_ticks_);
  total_ticks_ = total;
  busy_ticks_ = total - idle;

  double memory_total = 0, memory_available = 0;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream fields(line);
    double kib = 0;
    fields >> word >> kib;
    if (word == "MemTotal:") memory_total = kib * 1024;
    if (word == "MemAvailable:") memory_available = kib * 1024;
  }
  out.family("nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]");
  out.sample({}, utilization_);
  out.family("nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes");
  out.sample({}, memory_total);
  out.family("nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes");
  out.sample({}, memory_total - memory_available);

  std::ifstream statm("/proc/self/statm");
  uint64_t pages = 0;
  statm >> pages >> pages;
  out.family("process_resident_memory_bytes", "gauge", "Resident memory of this process, in bytes");
  out.sample({}, pages * 4096);
}

}  // namespace tokamak::server
