#include "backends/cpu/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace tokamak {
namespace {

// Waking a sleeping thread takes up to 50 us in a virtual machine: worth spinning through the serial parts of a model's step.
constexpr auto kSpinTime = std::chrono::microseconds(100);

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until `ready()` or for about kSpinTime. Returns ready().
template <class F>
bool spin(const F& ready) {
  if (ready()) return true;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      pause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// How many tasks deep this thread is: one that is inside a task runs what it starts by itself.
thread_local int task_depth = 0;
struct InTask {
  InTask() { ++task_depth; }
  ~InTask() { --task_depth; }
};

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

}  // namespace

// One job at a time. `gate` holds the job's number (upper 32 bits), whether workers may still join it, and how many are inside. A worker
// joins by incrementing an open gate; the caller closes the gate when the pieces are handed out and waits for those inside. So a worker
// that wakes late finds the gate closed and never touches a job that is over, and a job never waits for a sleeping worker.
struct ThreadPool::State {
  static constexpr uint64_t kOpen = 1u << 16;
  static constexpr uint64_t kInside = kOpen - 1;

  std::atomic<bool> busy{false};
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<uint64_t> gate{0};
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<uint32_t> wake_word{0};
  std::atomic<int> sleepers{0};
  Function function = nullptr;
  const void* context = nullptr;
  int64_t count = 0, grain = 1;
  std::vector<std::thread> threads;

  void work(int worker) {
    const InTask in_task;
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      function(context, begin, std::min(begin + grain, count), worker);
    }
  }

  void thread_main(int worker) {
    uint64_t last_job = 0;
    const auto news = [&] {
      const uint64_t g = gate.load(std::memory_order_acquire);
      return ((g & kOpen) && g >> 32 != last_job) || stop.load(std::memory_order_relaxed);
    };
    for (;;) {
      const uint32_t seen = wake_word.load(std::memory_order_acquire);
      if (!spin(news)) {
        sleepers.fetch_add(1);
        futex_wait(wake_word, seen);
        sleepers.fetch_sub(1);
        continue;
      }
      if (stop.load(std::memory_order_relaxed)) return;
      uint64_t g = gate.load(std::memory_order_acquire);
      while ((g & kOpen) && g >> 32 != last_job) {
        if (!gate.compare_exchange_weak(g, g + 1, std::memory_order_acq_rel)) continue;
        last_job = g >> 32;
        work(worker);
        gate.fetch_sub(1, std::memory_order_release);
        break;
      }
    }
  }
};

ThreadPool::ThreadPool(int width) : width_(width), state_(std::make_unique<State>()) {
  if (width < 1 || width > 1024) fail(ErrorCode::InvalidArgument, "a thread pool needs 1 to 1024 threads, asked for {}", width);
  state_->threads.reserve(width - 1);
  for (int i = 1; i < width; ++i) state_->threads.emplace_back([state = state_.get(), i] { state->thread_main(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->wake_word.fetch_add(1);
  futex_wake(state_->wake_word, width_);
  for (std::thread& thread : state_->threads) thread.join();
}

void ThreadPool::run(int64_t count, int64_t grain, Function function, const void* context) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  State& s = *state_;
  const auto alone = [&] {
    for (int64_t begin = 0; begin < count; begin += grain) function(context, begin, std::min(begin + grain, count), 0);
  };
  if (width_ == 1 || count <= grain || task_depth > 0) return alone();
  if (s.busy.exchange(true, std::memory_order_acquire)) {
    const InTask in_task;  // what it starts must not take the pool over halfway
    return alone();
  }
  s.function = function, s.context = context, s.count = count, s.grain = grain;
  s.next.store(0, std::memory_order_relaxed);
  const uint64_t job = (s.gate.load(std::memory_order_relaxed) >> 32) + 1;
  s.gate.store(job << 32 | State::kOpen, std::memory_order_release);
  s.wake_word.fetch_add(1);
  if (s.sleepers.load() > 0) futex_wake(s.wake_word, static_cast<int>(std::min<int64_t>((count - 1) / grain, width_ - 1)));
  s.work(0);
  s.gate.fetch_and(~State::kOpen, std::memory_order_acq_rel);
  const auto all_out = [&] { return (s.gate.load(std::memory_order_acquire) & State::kInside) == 0; };
  while (!spin(all_out)) sched_yield();
  s.busy.store(false, std::memory_order_release);
}

namespace {

// Processors' worth of time that a cgroup grants, or 0 when it sets no limit. v2: "max 100000" or "200000 100000"; v1: two files.
double quota_in(const std::string& folder) {
  std::string quota;
  double period = 0;
  if (std::ifstream v2(folder + "/cpu.max"); v2 >> quota >> period && quota != "max" && period > 0)
    return std::atof(quota.c_str()) / period;
  double v1_quota = -1;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> v1_quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return v1_quota > 0 && period > 0 ? v1_quota / period : 0;
}

double cgroup_quota() {
  double best = 0;
  const auto consider = [&](double quota) {
    if (quota > 0 && (best == 0 || quota < best)) best = quota;
  };
  std::ifstream file("/proc/self/cgroup");  // "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1)
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    std::string root = "/sys/fs/cgroup";
    if (!controllers.empty()) {
      if (("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
      root += "/cpu";
    }
    for (;;) {  // a limit of any ancestor counts
      consider(quota_in(root + (path == "/" ? "" : path)));
      const size_t slash = path.rfind('/');
      if (path == "/" || slash == std::string::npos) break;
      path = slash == 0 ? "/" : path.substr(0, slash);
    }
  }
  return best;
}

}  // namespace

int available_threads() {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  constexpr int kMaxCpus = 8192;
  if (cpu_set_t* set = CPU_ALLOC(kMaxCpus)) {
    const size_t size = CPU_ALLOC_SIZE(kMaxCpus);
    if (sched_getaffinity(0, size, set) == 0) threads = CPU_COUNT_S(size, set);
    CPU_FREE(set);
  }
  if (const double quota = cgroup_quota(); quota > 0) threads = std::min(threads, std::max(1, static_cast<int>(quota + 0.5)));
  return std::clamp(threads, 1, 1024);
}

}  // namespace tokamak
