#include "server/response_cache.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "server/log.h"
#include "tests/server/fake_backend.h"

namespace tokamak::server::test {

namespace {

using testing::HasSubstr;

ResponseCache::Answer answer_of(int64_t size, char fill = 0) {
  Tensor t = Tensor::zeros(DType::U8, {size});
  std::memset(t.raw(), fill, static_cast<size_t>(size));
  return {{{.name = "OUT", .tensor = std::move(t)}}, {}};
}

ResponseCache::Key key(uint64_t number) { return {number, 0}; }

TEST(ResponseCache, LeastRecentlyUsedGoesFirst) {
  ResponseCache cache(10'000);
  for (uint64_t k : {1, 2, 3}) EXPECT_TRUE(cache.insert(key(k), 1, answer_of(2'000)));
  EXPECT_TRUE(cache.find(key(1)));
  EXPECT_TRUE(cache.insert(key(4), 1, answer_of(2'000)));
  EXPECT_FALSE(cache.find(key(2)));
  for (uint64_t k : {1, 3, 4}) EXPECT_TRUE(cache.find(key(k)));
  auto totals = cache.totals();
  EXPECT_EQ(totals.num_entries, 3);
  EXPECT_EQ(totals.num_evictions, 1u);
  EXPECT_EQ(totals.num_lookups, 5u);
  EXPECT_EQ(totals.num_hits, 4u);
  EXPECT_GT(totals.size_bytes, 6'000);
  EXPECT_LE(totals.size_bytes, 10'000);

  EXPECT_FALSE(cache.insert(key(5), 1, answer_of(10'000))) << "larger than the cache: left out, and nothing goes for it";
  EXPECT_EQ(cache.totals().num_entries, 3);
  EXPECT_TRUE(cache.insert(key(6), 1, answer_of(9'000)));
  EXPECT_EQ(cache.totals().num_entries, 1);
  EXPECT_THROW(ResponseCache(0), Error);
}

TEST(ResponseCache, KeepsACopyOfItsOwn) {
  ResponseCache cache(1 << 20);
  ResponseCache::Answer answer = answer_of(16, 7);
  cache.insert(key(1), 1, answer);
  std::memset(answer.outputs[0].tensor.raw(), 0, 16);
  const auto found = cache.find(key(1));
  EXPECT_EQ(found->outputs[0].tensor.int_at(15), 7);
  cache.insert(key(1), 1, answer_of(16, 9));  // again: replaced
  EXPECT_EQ(cache.find(key(1))->outputs[0].tensor.int_at(0), 9);
  EXPECT_EQ(cache.totals().num_entries, 1);
  EXPECT_EQ(found->outputs[0].tensor.int_at(15), 7) << "whoever has it keeps it";
}

TEST(ResponseCache, AnswersOfAModelGoTogether) {
  ResponseCache cache(1 << 20);
  for (uint64_t k = 0; k < 10; ++k) cache.insert(key(k), k % 2, answer_of(100));
  cache.remove(1);
  EXPECT_EQ(cache.totals().num_entries, 5);
  EXPECT_TRUE(cache.find(key(4)));
  EXPECT_FALSE(cache.find(key(5)));
  cache.remove(0);
  EXPECT_EQ(cache.totals().size_bytes, 0);
}

TEST(ResponseCache, KeysAreAllThatAnAnswerMayDependOn) {
  const ResponseCache cache(1 << 20);
  const auto base = [] {
    InferRequest r;
    r.inputs = {{.name = "A", .tensor = Tensor::of<int32_t>({2}, {1, 2})}, {.name = "B", .tensor = Tensor::empty(DType::String, {2})}};
    r.inputs[1].tensor.strings() = {"a", "bc"};
    r.outputs = {{.name = "OUT"}, {.name = "MORE"}};
    r.parameters["p"] = int64_t{1};
    r.id = "1";
    return r;
  };
  const auto changed = [&](const std::function<void(InferRequest&)>& change) {
    InferRequest r = base();
    change(r);
    return cache.key_of(1, r);
  };
  const auto same = cache.key_of(1, base());
  EXPECT_EQ(changed([](InferRequest& r) { r.id = "2"; }), same);
  EXPECT_EQ(changed([](InferRequest& r) { std::swap(r.inputs[0], r.inputs[1]); }), same);
  EXPECT_EQ(changed([](InferRequest& r) { std::swap(r.outputs[0], r.outputs[1]); }), same);
  EXPECT_NE(cache.key_of(2, base()), same);
  const std::vector<std::function<void(InferRequest&)>> others = {
      [](InferRequest& r) {
        r.inputs[0].tensor = Tensor::of<int32_t>({2}, {1, 3});
      },
      [](InferRequest& r) {
        r.inputs[0].tensor = Tensor::of<int32_t>({2, 1}, {1, 2});
      },
      [](InferRequest& r) {
        r.inputs[0].tensor = Tensor::of<uint32_t>({2}, {1, 2});
      },
      [](InferRequest& r) { r.inputs[0].name = "C"; },
      [](InferRequest& r) { r.inputs.pop_back(); },
      [](InferRequest& r) {
        r.inputs[1].tensor.strings() = {"ab", "c"};
      },
      [](InferRequest& r) { r.outputs.pop_back(); },
      [](InferRequest& r) { r.outputs[0].classification = 1; },
      [](InferRequest& r) { r.parameters["p"] = int64_t{2}; },
      [](InferRequest& r) { r.parameters["p"] = uint64_t{1}; },
      [](InferRequest& r) { r.parameters.clear(); },
  };
  for (size_t i = 0; i < others.size(); ++i) EXPECT_NE(changed(others[i]), same) << i;
}

TEST(ResponseCache, ManyThreads) {
  ResponseCache cache(50'000);
  std::vector<std::thread> threads;
  std::atomic<int> num_wrong = 0;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 2'000; ++i) {
        const uint64_t k = (i * 7 + static_cast<uint64_t>(t)) % 97;
        if (const auto found = cache.find(key(k))) num_wrong += found->outputs[0].tensor.int_at(0) != static_cast<int64_t>(k);
        else cache.insert(key(k), k % 3, answer_of(1'000, static_cast<char>(k)));
        if (i % 500 == 0) cache.remove(k % 3);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
  EXPECT_LE(cache.totals().size_bytes, 50'000);
}

class CachedModel : public FakeBackendTest {
 protected:
  void SetUp() override {
    FakeBackendTest::SetUp();
    settings->response_cache = std::make_shared<ResponseCache>(1 << 20);
  }
  static constexpr const char* kCached = "max_batch_size: 4 response_cache { enable: true } ";
};

TEST_F(CachedModel, AHitDoesNotExecute) {
  load(kCached);
  auto first = row(3);
  first->id = "1";
  EXPECT_EQ(send(std::move(first)).wait().id, "1");
  auto second = row(3);
  second->id = "2";
  const InferResponse response = send(std::move(second)).wait();
  EXPECT_EQ(response.id, "2");
  EXPECT_EQ(response.model_name, "m");
  EXPECT_EQ(response.model_version, 1);
  EXPECT_EQ(response.outputs.at(0).tensor.to_ints(), (std::vector<int64_t>{6, 6}));
  EXPECT_EQ(fake.seen().size(), 1u);
  EXPECT_FALSE(send(row(4)).wait().error_code);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.success.count, 3u);
  EXPECT_EQ(totals.cache_hit.count, 1u);
  EXPECT_EQ(totals.cache_miss.count, 2u);
  EXPECT_GT(totals.cache_hit.ns, 0u);
  EXPECT_EQ(totals.execution_count, 2u);
  EXPECT_EQ(totals.inference_count, 2u);
  // Another way to be answered is another answer.
  auto top = row(3);
  top->outputs.push_back({.name = "OUT", .classification = 1});
  EXPECT_EQ(send(std::move(top)).wait().outputs.at(0).tensor.strings(), std::vector<std::string>{"6:0"});
}

TEST_F(CachedModel, WhatDoesNotAskIsNotCached) {
  load("max_batch_size: 4");
  for (int i = 0; i < 2; ++i) send(row(3)).wait();
  EXPECT_EQ(fake.seen().size(), 2u);
  EXPECT_EQ(settings->response_cache->totals().num_lookups, 0u);
}

TEST_F(CachedModel, WithoutACacheItIsServedAndTold) {
  const std::string file = testing::TempDir() + "/tokamak_cache_log.txt";
  settings->response_cache = nullptr;
  log().set({.file = file});
  load(kCached);
  log().set({});
  std::ifstream in(file);
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(in), {}), HasSubstr("--cache-config local,size=BYTES"));
  std::filesystem::remove(file);
  EXPECT_FALSE(send(row(3)).wait().error_code);
  EXPECT_EQ(statistics->totals().cache_miss.count, 0u);
}

TEST_F(CachedModel, ErrorsAreNotKept) {
  load(kCached);
  fake.behaviour = [](const tkb_request* const*, size_t) { throw std::runtime_error("not now"); };
  EXPECT_EQ(send(row(3)).wait().error, "not now");
  fake.behaviour = nullptr;
  EXPECT_FALSE(send(row(3)).wait().error_code);
  EXPECT_EQ(settings->response_cache->totals().num_entries, 1);
  EXPECT_EQ(send(row(3, 2, 5)).wait().error_code, ErrorCode::InvalidArgument) << "five rows are too many, cache or not";
}

TEST_F(CachedModel, LoadingAgainBeginsAnew) {
  load(kCached);
  send(row(3)).wait();
  load(kCached);  // and the first is gone
  EXPECT_EQ(settings->response_cache->totals().num_entries, 0);
  send(row(3)).wait();
  EXPECT_EQ(fake.seen().size(), 2u);
  model.reset();
  EXPECT_EQ(settings->response_cache->totals().size_bytes, 0);
}

TEST_F(CachedModel, AHitKeepsTheOrderThatIsPreserved) {
  load(std::string(kCached) + "dynamic_batching { preserve_ordering: true }");
  send(row(3)).wait();
  fake.open(false);
  const Answer slow = send(row(5));
  fake.await_waiting(1);
  const Answer hit = send(row(3));
  EXPECT_FALSE(hit.is_answered());
  fake.open();
  EXPECT_EQ(hit.wait().outputs.at(0).tensor.int_at(0), 6);
  EXPECT_TRUE(slow.is_answered());
}

TEST_F(CachedModel, ManyThreads) {
  load(std::string(kCached) + "dynamic_batching { } instance_group { count: 2 kind: KIND_CPU }");
  std::atomic<int> num_wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        const int value = (i + t) % 50;
        num_wrong += send(row(value)).wait().outputs.at(0).tensor.int_at(1) != 2 * value;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
  const auto totals = statistics->totals();
  EXPECT_EQ(totals.cache_hit.count + totals.cache_miss.count, 4000u);
  EXPECT_GE(totals.cache_hit.count, 3000u);
}

}  // namespace
}  // namespace tokamak::server::test
