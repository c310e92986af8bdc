#include "import/onnx/onnx_model.h"

#include "base/error.h"

namespace tokamak::onnx {
namespace {

void check_depth(int depth, const Field& field) {
  if (depth > kMaxDepth) fail(ErrorCode::Corrupt, "graphs or types are nested more than {} deep at byte {}", kMaxDepth, field.offset);
}

std::pair<Text, Text> parse_entry(const Field& message) {
  std::pair<Text, Text> entry;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number == 1) entry.first = f.as_text();
    if (f.number == 2) entry.second = f.as_text();
  }
  return entry;
}

TensorProto parse_tensor(const Field& message) { return onnx::parse_tensor(message.as_bytes(), payload_offset(message)); }

SparseTensorProto parse_sparse(const Field& message) {
  SparseTensorProto sparse;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number == 1) sparse.values = parse_tensor(f);
    if (f.number == 2) sparse.indices = parse_tensor(f);
    if (f.number == 3) append_ints(f, sparse.dims);
  }
  return sparse;
}

void parse_shape(const Field& message, TypeProto& type) {
  type.has_shape = true;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number != 1) continue;
    DimProto dim;
    WireReader inner = WireReader::inside(f);
    for (Field d; inner.next(d);) {
      if (d.number == 1) dim.value = d.as_int();
      if (d.number == 2) dim.param = d.as_text();
    }
    type.shape.push_back(dim);
  }
}

TypeProto parse_type(const Field& message, int depth) {
  check_depth(depth, message);
  TypeProto type;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number == 1 || f.number == 8) {
      type.kind = f.number == 1 ? TypeProto::Dense : TypeProto::Sparse;
      WireReader inner = WireReader::inside(f);
      for (Field t; inner.next(t);) {
        if (t.number == 1) type.elem_type = t.as_int();
        if (t.number == 2) parse_shape(t, type);
      }
    } else if (f.number == 4 || f.number == 9) {
      type.kind = f.number == 4 ? TypeProto::Sequence : TypeProto::Optional;
      WireReader inner = WireReader::inside(f);
      for (Field t; inner.next(t);)
        if (t.number == 1) type.element = std::make_unique<TypeProto>(parse_type(t, depth + 1));
    } else if (f.number == 5) {
      type.kind = TypeProto::Map;
    } else if (f.number == 7) {
      type.kind = TypeProto::Opaque;
    }
  }
  return type;
}

ValueInfoProto parse_value_info(const Field& message) {
  ValueInfoProto info;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number == 1) info.name = f.as_text();
    if (f.number == 2) info.type = parse_type(f, 0);
  }
  return info;
}

void parse_graph(const Field& message, GraphProto& graph, int depth);

AttributeProto parse_attribute(const Field& message, int depth) {
  AttributeProto a;
  using T = AttributeProto::Type;
  T seen = T::Undefined;  // files before IR 4 do not write the type
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    const auto mark = [&](T type) { seen = type; };
    switch (f.number) {
      case 1: a.name = f.as_text(); break;
      case 2: a.f = f.as_float(), mark(T::Float); break;
      case 3: a.i = f.as_int(), mark(T::Int); break;
      case 4: a.s = f.as_text(), mark(T::String); break;
      case 5: a.t = std::make_unique<TensorProto>(parse_tensor(f)), mark(T::Tensor); break;
      case 6:
        if (!a.g) a.g = std::make_unique<GraphProto>();
        parse_graph(f, *a.g, depth + 1), mark(T::Graph);
        break;
      case 7: append_floats(f, a.floats), mark(T::Floats); break;
      case 8: append_ints(f, a.ints), mark(T::Ints); break;
      case 9: a.strings.push_back(f.as_text()), mark(T::Strings); break;
      case 10: mark(T::Tensors); break;
      case 11: mark(T::Graphs); break;
      case 14: a.tp = std::make_unique<TypeProto>(parse_type(f, depth + 1)), mark(T::TypeProto); break;
      case 20: {
        const int64_t type = f.as_int();
        if (type < 0 || type > T::TypeProtos)
          fail(ErrorCode::Corrupt, "attribute '{}' at byte {} has unknown type {}", a.name, f.offset, type);
        a.type = static_cast<T>(type);
        break;
      }
      case 21: a.ref_attr_name = f.as_text(); break;
      case 22: a.sparse_tensor = std::make_unique<SparseTensorProto>(parse_sparse(f)), mark(T::SparseTensor); break;
      default: break;
    }
  }
  if (a.type == T::Undefined) a.type = seen;
  return a;
}

NodeProto parse_node(const Field& message, int depth) {
  NodeProto node;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    switch (f.number) {
      case 1: node.inputs.push_back(f.as_text()); break;
      case 2: node.outputs.push_back(f.as_text()); break;
      case 3: node.name = f.as_text(); break;
      case 4: node.op_type = f.as_text(); break;
      case 5: node.attributes.push_back(parse_attribute(f, depth)); break;
      case 7: node.domain = f.as_text(); break;
      case 8: node.overload = f.as_text(); break;
      default: break;
    }
  }
  return node;
}

void parse_graph(const Field& message, GraphProto& graph, int depth) {
  check_depth(depth, message);
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    switch (f.number) {
      case 1: graph.nodes.push_back(parse_node(f, depth)); break;
      case 2: graph.name = f.as_text(); break;
      case 5: graph.initializers.push_back(parse_tensor(f)); break;
      case 11: graph.inputs.push_back(parse_value_info(f)); break;
      case 12: graph.outputs.push_back(parse_value_info(f)); break;
      case 13: graph.value_infos.push_back(parse_value_info(f)); break;
      case 15: graph.sparse_initializers.push_back(parse_sparse(f)); break;
      default: break;
    }
  }
}

void parse_opset(const Field& message, OpsetImports& opsets) {
  Text domain;
  int64_t version = 0;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    if (f.number == 1) domain = f.as_text();
    if (f.number == 2) version = f.as_int();
  }
  opsets[domain == "ai.onnx" ? Text() : domain] = version;
}

FunctionProto parse_function(const Field& message) {
  FunctionProto function;
  WireReader reader = WireReader::inside(message);
  for (Field f; reader.next(f);) {
    switch (f.number) {
      case 1: function.name = f.as_text(); break;
      case 4: function.inputs.push_back(f.as_text()); break;
      case 5: function.outputs.push_back(f.as_text()); break;
      case 6: function.attributes.push_back(f.as_text()); break;
      case 7: function.nodes.push_back(parse_node(f, 1)); break;
      case 9: parse_opset(f, function.opsets); break;
      case 10: function.domain = f.as_text(); break;
      case 11: function.default_attributes.push_back(parse_attribute(f, 1)); break;
      case 13: function.overload = f.as_text(); break;
      default: break;
    }
  }
  return function;
}

}  // namespace

TensorProto parse_tensor(Bytes bytes, size_t offset) {
  TensorProto tensor;
  tensor.body = bytes;
  tensor.offset = offset;
  WireReader reader(bytes, offset);
  for (Field f; reader.next(f);) {
    switch (f.number) {
      case 1: append_ints(f, tensor.dims); break;
      case 2: tensor.data_type = f.as_int(); break;
      case 3: tensor.is_segment = true; break;
      case 8: tensor.name = f.as_text(); break;
      case 9: tensor.raw_data = f.as_bytes(); break;
      case 13: tensor.external_data.push_back(parse_entry(f)); break;
      case 14: tensor.is_external = f.as_int() == 1; break;
      default: break;
    }
  }
  return tensor;
}

ModelProto parse_model(Bytes bytes) {
  ModelProto model;
  WireReader reader(bytes);
  for (Field f; reader.next(f);) {
    switch (f.number) {
      case 1: model.ir_version = f.as_int(); break;
      case 2: model.producer_name = f.as_text(); break;
      case 3: model.producer_version = f.as_text(); break;
      case 4: model.domain = f.as_text(); break;
      case 5: model.model_version = f.as_int(); break;
      case 6: model.doc_string = f.as_text(); break;
      case 7:
        model.has_graph = true;
        parse_graph(f, model.graph, 0);
        break;
      case 8: parse_opset(f, model.opsets); break;
      case 14: model.metadata.push_back(parse_entry(f)); break;
      case 25: model.functions.push_back(parse_function(f)); break;
      default: break;
    }
  }
  return model;
}

}  // namespace tokamak::onnx
