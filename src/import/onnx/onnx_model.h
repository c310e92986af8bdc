#pragma once
// An ONNX file as plain structs, with the field numbers of the public onnx.proto (IR versions 3 to 13). Strings and tensor bytes refer to
// the parsed buffer, which must outlive the structs. Nothing is checked here beyond the wire format and nesting; import.cc does that.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "import/onnx/wire.h"

namespace tokamak::onnx {

using Text = std::string_view;
using TextMap = std::vector<std::pair<Text, Text>>;

// Messages nested deeper than this are refused (subgraphs in subgraphs, sequences of sequences).
inline constexpr int kMaxDepth = 64;

struct TensorProto {
  Text name;
  std::vector<int64_t> dims;
  int64_t data_type = 0;
  std::optional<Bytes> raw_data;
  TextMap external_data;
  bool is_external = false;
  bool is_segment = false;
  Bytes body;         // the whole message: typed data fields are decoded from it straight into the tensor
  size_t offset = 0;  // of the body in the file
};

struct SparseTensorProto {
  TensorProto values, indices;
  std::vector<int64_t> dims;
};

struct DimProto {
  std::optional<int64_t> value;
  Text param;
};

struct TypeProto {
  enum Kind { None, Dense, Sequence, Map, Optional, Sparse, Opaque } kind = None;
  int64_t elem_type = 0;
  bool has_shape = false;
  std::vector<DimProto> shape;
  std::unique_ptr<TypeProto> element;  // of a sequence or an optional
};

struct ValueInfoProto {
  Text name;
  TypeProto type;
};

struct GraphProto;

struct AttributeProto {
  // onnx.proto's AttributeType; Undefined in files before IR 4.
  enum Type {
    Undefined,
    Float,
    Int,
    String,
    Tensor,
    Graph,
    Floats,
    Ints,
    Strings,
    Tensors,
    Graphs,
    SparseTensor,
    SparseTensors,
    TypeProto,
    TypeProtos
  };
  Text name, ref_attr_name;
  Type type = Undefined;
  double f = 0;
  int64_t i = 0;
  Text s;
  std::unique_ptr<onnx::TensorProto> t;
  std::unique_ptr<SparseTensorProto> sparse_tensor;
  std::unique_ptr<GraphProto> g;
  std::vector<double> floats;
  std::vector<int64_t> ints;
  std::vector<Text> strings;
  std::unique_ptr<onnx::TypeProto> tp;
};

struct NodeProto {
  Text name, op_type, domain, overload;
  std::vector<Text> inputs, outputs;
  std::vector<AttributeProto> attributes;
};

struct GraphProto {
  Text name;
  std::vector<NodeProto> nodes;
  std::vector<TensorProto> initializers;
  std::vector<SparseTensorProto> sparse_initializers;
  std::vector<ValueInfoProto> inputs, outputs, value_infos;
};

using OpsetImports = std::map<Text, int64_t>;  // "" is ai.onnx

struct FunctionProto {
  Text name, domain, overload;
  std::vector<Text> inputs, outputs, attributes;
  std::vector<AttributeProto> default_attributes;
  std::vector<NodeProto> nodes;
  OpsetImports opsets;
};

struct ModelProto {
  int64_t ir_version = 0, model_version = 0;
  Text producer_name, producer_version, domain, doc_string;
  bool has_graph = false;
  GraphProto graph;
  OpsetImports opsets;
  TextMap metadata;
  std::vector<FunctionProto> functions;
};

// Throw Corrupt with a byte offset.
ModelProto parse_model(Bytes bytes);
TensorProto parse_tensor(Bytes bytes, size_t offset = 0);

}  // namespace tokamak::onnx
