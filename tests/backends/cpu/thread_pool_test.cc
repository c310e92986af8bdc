#include "backends/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "backends/cpu/cpu_features.h"
#include "base/error.h"

namespace tokamak {
namespace {

TEST(ThreadPool, EveryPieceOnce) {
  for (int width : {1, 2, 3, 8}) {
    ThreadPool pool(width);
    for (int64_t count : {0, 1, 2, 7, 64, 1000})
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> hits(count);
        std::atomic<bool> fits{true};
        pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int worker) {
          if (end - begin > grain || begin >= end || worker < 0 || worker >= width) fits = false;
          for (int64_t i = begin; i < end; ++i) hits[i]++;
        });
        EXPECT_TRUE(fits);
        for (auto& hit : hits) ASSERT_EQ(hit, 1) << "width " << width << " count " << count << " grain " << grain;
      }
  }
}

TEST(ThreadPool, ManyShortJobsSeeTheirOwnData) {
  ThreadPool pool(4);
  for (int job = 0; job < 5000; ++job) {
    int64_t sums[64] = {};
    pool.parallel_for(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sums[i] = i * job;
    });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(sums[i], i * job);
  }
}

TEST(ThreadPool, OtherThreadsTakePart) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  // Both pieces wait for each other: only two threads can finish this.
  pool.parallel_for(2, 1, [&](int64_t, int64_t, int) {
    arrived++;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ThreadPool, WakesAfterSleep) {
  ThreadPool pool(2);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int64_t> sum{0};
    pool.parallel_for(100, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(ThreadPool, NestedAndConcurrentUse) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  const auto nested = [&] {
    pool.parallel_for(10, 1, [&](int64_t, int64_t, int) {
      const auto self = std::this_thread::get_id();
      pool.parallel_for(10, 1, [&](int64_t, int64_t, int worker) {
        EXPECT_EQ(worker, 0);
        EXPECT_EQ(std::this_thread::get_id(), self);
        sum++;
      });
    });
  };
  std::thread other([&] {
    for (int i = 0; i < 200; ++i) nested();
  });
  for (int i = 0; i < 200; ++i) nested();
  other.join();
  EXPECT_EQ(sum, 2 * 200 * 100);
}

TEST(ThreadPool, RejectsBadWidth) {
  EXPECT_THROW(ThreadPool(0), Error);
  EXPECT_THROW(ThreadPool(1025), Error);
  EXPECT_GE(available_threads(), 1);
}

TEST(CpuFeatures, TextRoundTrip) {
  const CpuFeatures& f = cpu_features();
  EXPECT_EQ(CpuFeatures::parse(f.to_string()).to_string(), f.to_string());
  EXPECT_TRUE(CpuFeatures::parse("bf16").avx2);
  EXPECT_FALSE(CpuFeatures::parse("avx2").avx512);
  EXPECT_TRUE(CpuFeatures::parse("avx2+avx512").covers(CpuFeatures::parse("avx2")));
  EXPECT_FALSE(CpuFeatures::parse("avx2").covers(CpuFeatures::parse("avx512")));
  EXPECT_THROW(CpuFeatures::parse("avx3"), Error);
  EXPECT_FALSE(cpu_model_name().empty());
}

}  // namespace
}  // namespace tokamak
