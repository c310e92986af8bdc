#pragma once
// Runs one op with its reference kernel on given tensors, types inferred by the op itself. Outputs are poisoned first.

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "base/half.h"
#include "ir/graph.h"
#include "runtime/bind.h"

namespace tokamak::testing {

// An undefined tensor among `inputs` is an absent input.
inline std::vector<Tensor> run_ref(const std::string& op, const std::vector<Tensor>& inputs, ir::Attrs attrs = {}, int num_outputs = -1) {
  ir::Graph graph;
  std::vector<ir::Value*> values;
  for (const Tensor& t : inputs) values.push_back(t.defined() ? graph.add_constant(t) : nullptr);
  ir::Node* node = graph.add_node(op, values, std::move(attrs), "under test", nullptr, num_outputs);
  std::vector<bool> dynamic;
  const NodeView view = make_view(*node, inputs, {}, 1, dynamic);
  const KernelDef* def = cpu::find_kernel("ref." + op);
  if (def == nullptr) fail(ErrorCode::NotFound, "no kernel ref.{}", op);
  const std::unique_ptr<Kernel> kernel = def->make(view, "");
  std::vector<Tensor> outputs;
  for (int i = 0; i < view.num_outputs(); ++i) {
    outputs.push_back(dynamic[i] ? Tensor() : Tensor::empty(view.output_dtypes[i], view.output_shapes[i]));
    if (outputs[i].defined() && outputs[i].raw()) std::memset(outputs[i].raw(), 0xff, outputs[i].size_bytes());  // NaN in every float type
  }
  kernel->run({inputs, outputs, nullptr, nullptr});
  return outputs;
}

inline Tensor f32(Shape shape, std::vector<float> values) { return Tensor::of<float>(std::move(shape), values); }
inline Tensor i64(Shape shape, std::vector<int64_t> values) { return Tensor::of<int64_t>(std::move(shape), values); }
inline Tensor f32_ramp(Shape shape, float first = 0, float step = 1) {
  Tensor t = Tensor::empty(DType::F32, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = first + step * static_cast<float>(i);
  return t;
}

inline void expect_values(const Tensor& t, const Shape& shape, const std::vector<double>& values, double tolerance = 1e-5) {
  ASSERT_TRUE(t.defined());
  ASSERT_EQ(t.shape(), shape);
  ASSERT_EQ(t.count(), static_cast<int64_t>(values.size()));
  for (int64_t i = 0; i < t.count(); ++i)
    if (t.float_at(i) != values[i]) {  // equal infinities pass
      EXPECT_NEAR(t.float_at(i), values[i], tolerance) << "element " << i;
    }
}

}  // namespace tokamak::testing
