#pragma once
// Tensors of a benchmark on the GPU, with pinned memory on the host to copy them from and to.

#include <memory>

#include "base/tensor.h"

struct CUstream_st;

namespace tokamak::cli {

class DeviceTensors {
 public:
  // Of the GPU `ordinal`, as CUDA counts. Throws Unsupported without a GPU or without the CUDA backend.
  explicit DeviceTensors(int ordinal);
  ~DeviceTensors();

  // A copy of `host` on the GPU, owned by this; `upload` copies what is given for it then.
  Tensor add(const Tensor& host);
  // Copies into the `index`-th added tensor, through pinned memory; queued on `stream`, which must be idle.
  void upload(int index, const Tensor& host, CUstream_st* stream);
  // Copies a tensor of the GPU to `host` (same dtype and shape) and waits for it. Work on `stream` comes first.
  void download(const Tensor& device, Tensor& host, CUstream_st* stream);
  static void wait(CUstream_st* stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tokamak::cli
