#pragma once
// TensorProto → Tensor: raw bytes, typed fields, external files, sparse tensors.

#include <map>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/tensor.h"
#include "import/onnx/onnx_model.h"

namespace tokamak::onnx {

// Where tensor bytes come from, and who keeps them alive.
struct TensorSource {
  std::shared_ptr<const void> owner;  // of the parsed bytes; null: tensors copy what they need
  std::string folder;                 // for external data; empty: external data is refused
  std::map<std::string, std::shared_ptr<const MappedFile>, std::less<>> files;
};

// onnx.proto's TensorProto.DataType. Throws Corrupt for an unknown or undefined number; `where` says whose type it is.
DType dtype_from_onnx(int64_t data_type, const std::string& where);

// Checks dims against the bytes present before anything is allocated. Bytes that lie aligned in the source are referred to, others copied.
// Throws Corrupt, NotFound (external file), OutOfRange (dims).
Tensor make_tensor(const TensorProto& proto, TensorSource& source);
// Sparse (COO, linear or per-axis indices) to dense; at most 1 GiB dense.
Tensor make_tensor(const SparseTensorProto& proto, TensorSource& source);

}  // namespace tokamak::onnx
