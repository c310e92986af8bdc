#pragma once
// A backend whose executions a test watches and holds back: OUT = 2 * IN (int32), and a model's requests with their responses.

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "server/backend_library.h"
#include "server/config.h"
#include "server/executed_model.h"
#include "server/statistics.h"

namespace tokamak::server::test {

struct FakeBackend {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_open = true;                                               // closed: executions wait
  int num_waiting = 0;                                               // at the gate
  std::vector<std::vector<int64_t>> executions;                      // the first element of each request's first input
  std::vector<const void*> first_inputs;                             // addresses, as the backend saw them
  std::function<void(const tkb_request* const*, size_t)> behaviour;  // instead of doubling; may throw
  std::string description;                                           // of describe(); empty: none
  int num_instances = 0, num_models = 0;
  std::vector<std::thread> threads;  // of behaviours that answer later
  static thread_local int instance;  // index of the one that executes on this thread

  static FakeBackend& get() {
    static FakeBackend fake;
    return fake;
  }
  void reset() {
    for (std::thread& t : threads) t.join();
    threads.clear();
    const std::lock_guard lock(mutex);
    is_open = true;
    executions.clear();
    first_inputs.clear();
    behaviour = nullptr;
    description.clear();
  }
  void open(bool open = true) {
    const std::lock_guard lock(mutex);
    is_open = open;
    changed.notify_all();
  }
  // Until `count` executions wait at the gate.
  void await_waiting(int count) {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(10), [&] { return num_waiting >= count; }));
  }
  std::vector<std::vector<int64_t>> seen() {
    const std::lock_guard lock(mutex);
    return executions;
  }
  std::vector<size_t> batch_sizes() {
    std::vector<size_t> sizes;
    for (const auto& e : seen()) sizes.push_back(e.size());
    return sizes;
  }

  static void answer(const tkb_request& request, const std::vector<int32_t>& values, std::vector<int64_t> dims, bool is_final = true) {
    const tkb_tensor out = {.name = "OUT",
                            .dtype = TKB_I32,
                            .rank = static_cast<int32_t>(dims.size()),
                            .dims = dims.data(),
                            .data = values.data(),
                            .size = values.size() * sizeof(int32_t)};
    const tkb_response response = {.outputs = &out, .num_outputs = 1, .is_final = is_final};
    server_functions().respond(&request, &response);
  }
  static void double_it(const tkb_request& request) {
    const tkb_tensor& in = request.inputs[0];
    std::vector<int32_t> values(in.size / sizeof(int32_t));
    if (in.size > 0) std::memcpy(values.data(), in.data, in.size);
    for (int32_t& v : values) v *= 2;
    answer(request, values, std::vector<int64_t>(in.dims, in.dims + in.rank));
  }

  static const tkb_backend* entry(const tkb_server*) {
    static const tkb_backend backend = {
        .size = sizeof(tkb_backend),
        .version = TKB_VERSION,
        .name = "fake",
        .load = [](const tkb_model_args*, tkb_model** model) -> tkb_error* {
          ++get().num_models;
          *model = reinterpret_cast<tkb_model*>(&get());
          return nullptr;
        },
        .unload = [](tkb_model*) { --get().num_models; },
        .describe = [](tkb_model*) -> const char* { return get().description.empty() ? nullptr : get().description.c_str(); },
        .create_instance = [](tkb_model*, const tkb_instance_args* args, tkb_instance** instance) -> tkb_error* {
          const std::lock_guard lock(get().mutex);
          ++get().num_instances;
          *instance = reinterpret_cast<tkb_instance*>(static_cast<uintptr_t>(args->index + 1));
          return nullptr;
        },
        .destroy_instance =
            [](tkb_instance*) {
              const std::lock_guard lock(get().mutex);
              --get().num_instances;
            },
        .execute = execute};
    return &backend;
  }

 private:
  static tkb_error* execute(tkb_instance* self, const tkb_request* const* requests, size_t count) {
    FakeBackend& fake = get();
    instance = static_cast<int>(reinterpret_cast<uintptr_t>(self)) - 1;
    std::function<void(const tkb_request* const*, size_t)> behaviour;
    {
      std::unique_lock lock(fake.mutex);
      std::vector<int64_t> firsts;
      for (size_t i = 0; i < count; ++i) {
        int32_t first = -1;
        if (requests[i]->num_inputs > 0 && requests[i]->inputs[0].size >= sizeof first)
          std::memcpy(&first, requests[i]->inputs[0].data, sizeof first);
        firsts.push_back(first);
      }
      fake.executions.push_back(firsts);
      fake.first_inputs.push_back(requests[0]->num_inputs > 0 ? requests[0]->inputs[0].data : nullptr);
      ++fake.num_waiting;
      fake.changed.notify_all();
      fake.changed.wait(lock, [&] { return fake.is_open; });
      --fake.num_waiting;
      behaviour = fake.behaviour;
    }
    try {
      if (behaviour) behaviour(requests, count);
      else
        for (size_t i = 0; i < count; ++i) double_it(*requests[i]);
    } catch (const std::exception& e) {
      return server_functions().error(TKB_INTERNAL, e.what());
    }
    return nullptr;
  }
};

inline thread_local int FakeBackend::instance = -1;

// Collects what a request is answered with.
class Answer {
 public:
  explicit Answer(Model& model, std::unique_ptr<InferRequest> request) : cancellation(request->cancellation) {
    request->model_name = model.name();
    request->on_response = [state = state_](InferResponse response) {
      const std::lock_guard lock(state->mutex);
      state->responses.push_back(std::move(response));
      state->changed.notify_all();
    };
    model.infer(std::move(request));
  }
  // The final response.
  InferResponse wait() const {
    std::unique_lock lock(state_->mutex);
    if (!state_->changed.wait_for(lock, std::chrono::seconds(20), [this] { return is_done(); })) {
      ADD_FAILURE() << "no response";
      return {};
    }
    return state_->responses.back();
  }
  std::vector<InferResponse> all() const {
    wait();
    const std::lock_guard lock(state_->mutex);
    return state_->responses;
  }
  bool is_answered() const {
    const std::lock_guard lock(state_->mutex);
    return is_done();
  }

  std::shared_ptr<Cancellation> cancellation;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<InferResponse> responses;
  };
  bool is_done() const { return !state_->responses.empty() && state_->responses.back().is_final; }
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline std::unique_ptr<InferRequest> request_of(Tensor in) {
  auto request = std::make_unique<InferRequest>();
  request->inputs.push_back({.name = "IN", .tensor = std::move(in)});
  return request;
}
// One row of `columns` times `value`.
inline std::unique_ptr<InferRequest> row(int32_t value, int64_t columns = 2, int64_t rows = 1) {
  return request_of(Tensor::of<int32_t>({rows, columns}, std::vector<int32_t>(rows * columns, value)));
}

class FakeBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    add_backend("fake", FakeBackend::entry);
    fake.reset();
  }
  void TearDown() override {
    fake.open();
    model.reset();
    fake.reset();
    EXPECT_EQ(fake.num_instances, 0);
    EXPECT_EQ(fake.num_models, 0);
  }
  // `config` is added to a model with IN and OUT, int32 [-1].
  Model& load(const std::string& config, const std::string& io = kIo) {
    std::vector<std::string> warnings;
    LoadArgs args{.name = "m", .config = parse_config("name: \"m\" backend: \"fake\" " + io + config, "the test", warnings)};
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    args.statistics = statistics = std::make_shared<ModelStatistics>("m", 1);
    args.settings = settings;
    args.labels = labels;
    args.directory = directory;
    model = load_model(args);
    return *model;
  }
  Answer send(std::unique_ptr<InferRequest> request) { return Answer(*model, std::move(request)); }

  static constexpr const char* kIo =
      "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: -1 } ";
  FakeBackend& fake = FakeBackend::get();
  std::shared_ptr<BackendSettings> settings = std::make_shared<BackendSettings>();
  std::map<std::string, std::vector<std::string>> labels;
  std::string directory;
  std::shared_ptr<ModelStatistics> statistics;
  std::shared_ptr<Model> model;
};

}  // namespace tokamak::server::test
