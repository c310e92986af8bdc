#pragma once
// Ranks that are threads of one process, for tests of split models.

#include <barrier>
#include <memory>
#include <vector>

#include "base/half.h"
#include "runtime/communicator.h"

namespace tokamak::test {

class ThreadCommunicator : public Communicator {
 public:
  // Of each rank one.
  static std::vector<std::shared_ptr<ThreadCommunicator>> group(int world_size) {
    const auto shared = std::make_shared<Shared>(world_size);
    std::vector<std::shared_ptr<ThreadCommunicator>> out;
    for (int rank = 0; rank < world_size; ++rank) out.emplace_back(new ThreadCommunicator(rank, shared));
    return out;
  }

  int rank() const override { return rank_; }
  int world_size() const override { return static_cast<int>(shared_->given.size()); }
  int num_calls() const { return num_calls_; }

  void all_reduce(Tensor& data, Place, CUstream_st*) override {
    ++num_calls_;
    shared_->given[static_cast<size_t>(rank_)] = &data;
    shared_->barrier.arrive_and_wait();
    std::vector<float> sums(static_cast<size_t>(data.count()));
    for (const Tensor* t : shared_->given)
      for (int64_t i = 0; i < data.count(); ++i) sums[static_cast<size_t>(i)] += static_cast<float>(t->float_at(i));
    shared_->barrier.arrive_and_wait();  // all have read
    for (int64_t i = 0; i < data.count(); ++i) {
      const float sum = sums[static_cast<size_t>(i)];
      if (data.dtype() == DType::F32) data.data<float>()[i] = sum;
      else data.data<uint16_t>()[i] = data.dtype() == DType::F16 ? float_to_half(sum) : float_to_bfloat16(sum);
    }
  }

 private:
  struct Shared {
    explicit Shared(int world_size) : given(static_cast<size_t>(world_size)), barrier(world_size) {}
    std::vector<Tensor*> given;  // by rank, during a call
    std::barrier<> barrier;
  };
  ThreadCommunicator(int rank, std::shared_ptr<Shared> shared) : rank_(rank), shared_(std::move(shared)) {}
  int rank_, num_calls_ = 0;
  std::shared_ptr<Shared> shared_;
};

}  // namespace tokamak::test
