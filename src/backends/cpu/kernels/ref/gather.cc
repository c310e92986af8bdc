// gather, gather_elements, gather_nd. Indices are range-checked.

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

int64_t checked_index(int64_t index, int64_t bound, const std::string& label) {
  if (index < -bound || index >= bound) fail(ErrorCode::OutOfRange, "{} index {} is outside an axis of {}", label, index, bound);
  return index < 0 ? index + bound : index;
}

RunFunction prepare_gather(const NodeView& node) {
  const Shape in = node.input_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  const int64_t outer = size_of(Shape(in.begin(), in.begin() + axis)), inner = size_of(Shape(in.begin() + axis + 1, in.end())),
                bound = in[axis];
  const std::string label = label_of(node);
  return [=](const RunArgs& args) {
    const Indices indices(args.inputs[1]);
    const int64_t count = args.inputs[1].count();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = checked_index(indices[i], bound, label);
      for (int64_t o = 0; o < outer; ++o)
        copy_block(args.inputs[0], (o * bound + index) * inner, args.outputs[0], (o * count + i) * inner, inner);
    }
  };
}

RunFunction prepare_gather_elements(const NodeView& node) {
  const Shape in = node.input_shapes[0], out = node.output_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(in.size()));
  std::vector<int64_t> strides = strides_of(in);
  const int64_t step = strides.empty() ? 0 : strides[axis], bound = in.empty() ? 1 : in[axis];
  if (!strides.empty()) strides[axis] = 0;
  const std::string label = label_of(node);
  const std::array<std::vector<int64_t>, 2> walk{strides, strides_of(out)};
  return [=](const RunArgs& args) {
    const Indices indices(args.inputs[1]);
    for_each_row(out, walk, [&](const auto& at, const auto& s, int64_t count) {
      for (int64_t k = 0; k < count; ++k) {
        const int64_t o = at[1] + k * s[1];
        copy_element(args.inputs[0], at[0] + k * s[0] + checked_index(indices[o], bound, label) * step, args.outputs[0], o);
      }
    });
  };
}

RunFunction prepare_gather_nd(const NodeView& node) {
  const Shape in = node.input_shapes[0], index_shape = node.input_shapes[1];
  const int64_t batch_dims = node.attrs().get_int("batch_dims", 0), depth = index_shape.back();
  if (batch_dims + depth > static_cast<int64_t>(in.size()))
    fail_node(node, ErrorCode::InvalidArgument, "indices {} address more axes than {} has", to_string(index_shape), to_string(in));
  const std::vector<int64_t> strides = strides_of(in);
  const int64_t batches = size_of(Shape(in.begin(), in.begin() + batch_dims)),
                inner = size_of(Shape(in.begin() + batch_dims + depth, in.end()));
  const int64_t batch_size = size_of(Shape(in.begin() + batch_dims, in.end()));
  const int64_t tuples = size_of(Shape(index_shape.begin(), index_shape.end() - 1)), per_batch = batches == 0 ? 0 : tuples / batches;
  const std::string label = label_of(node);
  return [=](const RunArgs& args) {
    const Indices indices(args.inputs[1]);
    for (int64_t t = 0; t < tuples; ++t) {
      int64_t offset = (t / per_batch) * batch_size;
      for (int64_t d = 0; d < depth; ++d)
        offset += checked_index(indices[t * depth + d], in[batch_dims + d], label) * strides[batch_dims + d];
      copy_block(args.inputs[0], offset, args.outputs[0], t * inner, inner);
    }
  };
}

}  // namespace

KernelList gather_kernels() {
  return {define("gather", prepare_gather), define("gather_elements", prepare_gather_elements), define("gather_nd", prepare_gather_nd)};
}

}  // namespace tokamak::cpu::ref
