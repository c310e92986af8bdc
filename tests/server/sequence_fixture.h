#pragma once
// Sequences of requests to the fake backend, and what it was given for them.

#include <chrono>
#include <map>
#include <thread>

#include "tests/server/fake_backend.h"

namespace tokamak::server::test {

enum Flags { kNone = 0, kStart = 1, kEnd = 2, kBoth = 3 };

// A request as the backend saw it.
struct Row {
  int64_t value = 0;                      // the first element of IN
  std::map<std::string, double> numbers;  // the first elements of the other inputs
  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<int64_t>> dims;
  uint64_t id = 0;
  uint32_t flags = 0;
  std::vector<std::string> outputs;

  static Row of(const tkb_request& request) {
    Row row{.id = request.correlation_id, .flags = request.flags};
    for (size_t i = 0; i < request.num_outputs; ++i) row.outputs.push_back(request.outputs[i]);
    for (size_t i = 0; i < request.num_inputs; ++i) {
      const tkb_tensor& t = request.inputs[i];
      row.dims[t.name].assign(t.dims, t.dims + t.rank);
      if (t.dtype == TKB_BYTES) {
        row.texts[t.name] = std::string(t.strings[0].data, t.strings[0].size);
        continue;
      }
      const double value = t.dtype == TKB_F32                      ? *static_cast<const float*>(t.data)
                           : t.dtype == TKB_BOOL                   ? *static_cast<const bool*>(t.data)
                           : t.size % 8 == 0 && t.dtype != TKB_I32 ? static_cast<double>(*static_cast<const int64_t*>(t.data))
                                                                   : *static_cast<const int32_t*>(t.data);
      if (i == 0) row.value = static_cast<int64_t>(value);
      else row.numbers[t.name] = value;
    }
    return row;
  }
};
using Rows = std::vector<Row>;

class SequenceTest : public FakeBackendTest {
 protected:
  void SetUp() override {
    FakeBackendTest::SetUp();
    answer_with([](const tkb_request& request) { FakeBackend::double_it(request); });
  }
  // Each request of a batch after the batch was noted.
  void answer_with(std::function<void(const tkb_request&)> answer) {
    fake.behaviour = [this, answer = std::move(answer)](const tkb_request* const* requests, size_t count) {
      Rows rows;
      for (size_t i = 0; i < count; ++i) rows.push_back(Row::of(*requests[i]));
      {
        const std::lock_guard lock(batches_mutex_);
        batches_.push_back(rows);
      }
      for (size_t i = 0; i < count; ++i) answer(*requests[i]);
    };
  }
  std::vector<Rows> batches() {
    const std::lock_guard lock(batches_mutex_);
    return batches_;
  }
  // The values of each batch's requests.
  std::vector<std::vector<int64_t>> values() {
    std::vector<std::vector<int64_t>> result;
    for (const Rows& rows : batches()) {
      result.emplace_back();
      for (const Row& r : rows) result.back().push_back(r.value);
    }
    return result;
  }
  static std::unique_ptr<InferRequest> request(SequenceId id, int32_t value, int flags, int64_t columns = 1) {
    auto request = row(value, columns);
    request->sequence = std::move(id);
    request->sequence_start = (flags & kStart) != 0;
    request->sequence_end = (flags & kEnd) != 0;
    return request;
  }
  Answer send(uint64_t id, int32_t value, int flags = kNone, int64_t columns = 1) {
    return Answer(*model, request({.number = id}, value, flags, columns));
  }
  using FakeBackendTest::send;
  // Sends it and waits: the doubled value, or the error.
  std::string ask(uint64_t id, int32_t value, int flags = kNone) { return text_of(send(id, value, flags)); }
  static std::string text_of(const Answer& answer) {
    const InferResponse response = answer.wait();
    return response.error_code ? response.error : std::to_string(response.outputs.at(0).tensor.int_at(0));
  }
  static std::string start_error(uint64_t id) {
    return "inference request for sequence " + std::to_string(id) +
           " to model 'm' must specify the START flag on the first request of the sequence";
  }

  static constexpr const char* kControls =
      "control_input { name: \"START\" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } } "
      "control_input { name: \"END\" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ -1, 2 ] } } "
      "control_input { name: \"READY\" control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } } "
      "control_input { name: \"CORRID\" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } ";

 private:
  std::mutex batches_mutex_;
  std::vector<Rows> batches_;
};

// Models of the sequence batcher with the controls above.
class SequenceBatcherTest : public SequenceTest {
 protected:
  Model& load_direct(const std::string& batching = "", const std::string& config = "max_batch_size: 4") {
    return load(config + " sequence_batching { direct { } " + kControls + batching + " }");
  }
  Model& load_oldest(const std::string& oldest, const std::string& config = "max_batch_size: 4", const std::string& batching = "") {
    return load(config + " sequence_batching { oldest { " + oldest + " } " + kControls + batching + " }");
  }
  // Starts sequences 1, 2, ... with values 10, 20, ..., one after the other.
  void start(int count) {
    for (int i = 1; i <= count; ++i) ASSERT_EQ(ask(i, 10 * i, kStart), std::to_string(20 * i));
  }
  // Keeps the instance busy with a request of sequence `id`.
  Answer hold(uint64_t id, int32_t value = 0, int flags = kNone) {
    fake.open(false);
    Answer answer = send(id, value, flags);
    fake.await_waiting(1);
    return answer;
  }
  void await_pending(int64_t count) {
    for (int i = 0; i < 5000 && statistics->pending() != count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_EQ(statistics->pending(), count);
  }
};

}  // namespace tokamak::server::test
