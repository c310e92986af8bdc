#include "backends/cpu/kernels/ref/ref.h"

#include <deque>

#include "ir/op.h"

namespace tokamak::cpu::ref {
namespace {

class RefKernel : public Kernel {
 public:
  RefKernel(RunFunction run, std::vector<bool> can_alias) : run_(std::move(run)), can_alias_(std::move(can_alias)) {}
  bool can_alias(int output, int input) const override {
    return output == 0 && input < static_cast<int>(can_alias_.size()) && can_alias_[input];
  }
  void run(const RunArgs& args) const override { run_(args); }

 private:
  RunFunction run_;
  std::vector<bool> can_alias_;
};

class RefKernelDef : public KernelDef {
 public:
  RefKernelDef(std::string_view op, Prepare prepare, Alias alias) : op_(op), name_("ref." + op_), prepare_(prepare), alias_(alias) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView&) const override { return Support::yes(); }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    std::vector<bool> can_alias;
    if (alias_ == kInPlace)
      for (int i = 0; i < node.num_inputs(); ++i)
        can_alias.push_back(node.has_input(i) && node.input_shapes[i] == node.output_shapes[0] &&
                            bits_of(node.input_dtypes[i]) == bits_of(node.output_dtypes[0]) && bits_of(node.output_dtypes[0]) >= 8);
    return std::make_unique<RefKernel>(prepare_(node), std::move(can_alias));
  }

 private:
  std::string op_, name_;
  Prepare prepare_;
  Alias alias_;
};

}  // namespace

const KernelDef* define(std::string_view op, Prepare prepare, Alias alias) {
  static std::deque<RefKernelDef> defs;  // addresses stay; called once, while the backend's list is made
  return &defs.emplace_back(op, prepare, alias);
}

std::string label_of(const NodeView& node) { return fmt::format("[{} \"{}\"]", node.node->op().name, node.node->name); }

std::vector<int64_t> dims_attr(const NodeView& node, std::string_view name) {
  std::vector<int64_t> out;
  if (!node.attrs().has(name)) return out;
  for (const ir::Dim& dim : node.attrs().get_dims(name)) {
    const ir::Dim bound = dim.substitute(node.bindings);
    if (!bound.is_const())
      fail_node(node, ErrorCode::InvalidArgument, "attribute {} holds {}, which has an unbound symbol", name, dim.to_string());
    out.push_back(bound.value());
  }
  return out;
}

int64_t normalize_axis(int64_t axis, int64_t rank) {
  const int64_t a = axis < 0 ? axis + rank : axis;
  if (a < 0 || a >= std::max<int64_t>(rank, 1)) fail(ErrorCode::InvalidArgument, "axis {} is outside a tensor of rank {}", axis, rank);
  return a;
}

std::vector<int64_t> strides_of(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (int64_t i = static_cast<int64_t>(shape.size()) - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

std::vector<int64_t> broadcast_strides(const Shape& shape, const Shape& out) {
  if (shape.size() > out.size()) fail(ErrorCode::InvalidArgument, "shape {} does not broadcast to {}", to_string(shape), to_string(out));
  const std::vector<int64_t> own = strides_of(shape);
  std::vector<int64_t> strides(out.size(), 0);
  const size_t shift = out.size() - shape.size();
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == out[shift + i]) strides[shift + i] = own[i];
    else if (shape[i] != 1) fail(ErrorCode::InvalidArgument, "shape {} does not broadcast to {}", to_string(shape), to_string(out));
  }
  return strides;
}

std::vector<double> to_doubles(const Tensor& tensor) {
  std::vector<double> out(tensor.count());
  const DType dtype = tensor.dtype();
  if (dtype == DType::F32) {
    const float* p = tensor.data<float>();
    for (size_t i = 0; i < out.size(); ++i) out[i] = p[i];
  } else {
    for (size_t i = 0; i < out.size(); ++i) out[i] = tensor.float_at(i);
  }
  return out;
}

void from_doubles(const std::vector<double>& values, Tensor& out) {
  CHECK(static_cast<int64_t>(values.size()) == out.count());
  visit_number(out.dtype(), "result", [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* p = out.data<T>();
    for (size_t i = 0; i < values.size(); ++i) p[i] = store<T>(values[i]);
  });
}

uint8_t get_code(const Tensor& tensor, int64_t i) {
  const int bits = bits_of(tensor.dtype()), per_byte = 8 / bits;
  return (tensor.data<uint8_t>()[i / per_byte] >> (bits * (i % per_byte))) & ((1 << bits) - 1);
}

void set_code(Tensor& tensor, int64_t i, uint8_t code) {
  const int bits = bits_of(tensor.dtype()), per_byte = 8 / bits, shift = bits * static_cast<int>(i % per_byte), mask = (1 << bits) - 1;
  uint8_t& byte = tensor.data<uint8_t>()[i / per_byte];
  byte = static_cast<uint8_t>((byte & ~(mask << shift)) | ((code & mask) << shift));
}

void copy_element(const Tensor& in, int64_t i, Tensor& out, int64_t o) { copy_block(in, i, out, o, 1); }

void copy_block(const Tensor& in, int64_t i, Tensor& out, int64_t o, int64_t count) {
  if (in.dtype() == DType::String) {
    for (int64_t k = 0; k < count; ++k) out.strings()[o + k] = in.strings()[i + k];
    return;
  }
  const int bits = bits_of(in.dtype());
  if (bits < 8) {
    for (int64_t k = 0; k < count; ++k) set_code(out, o + k, get_code(in, i + k));
    return;
  }
  if (count > 0)
    std::memmove(static_cast<char*>(out.raw()) + o * (bits / 8), static_cast<const char*>(in.raw()) + i * (bits / 8), count * (bits / 8));
}

void copy_all(const Tensor& in, Tensor& out) {
  if (in.dtype() == DType::String) {
    out.strings() = in.strings();
  } else if (in.size_bytes() > 0 && in.raw() != out.raw()) {
    std::memmove(out.raw(), in.raw(), in.size_bytes());
  }
}

void copy_strided(const Tensor& in, int64_t in_offset, const std::vector<int64_t>& in_strides, Tensor& out, int64_t out_offset,
                  const std::vector<int64_t>& out_strides, const Shape& shape) {
  const std::array<const int64_t*, 2> strides{in_strides.data(), out_strides.data()};
  const DType dtype = in.dtype();
  if (dtype == DType::String || bits_of(dtype) < 8) {
    for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
      for (int64_t k = 0; k < count; ++k) copy_element(in, in_offset + at[0] + k * step[0], out, out_offset + at[1] + k * step[1]);
    });
    return;
  }
  visit_bytes(bits_of(dtype), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = in.data<T>() + in_offset;
    T* to = out.data<T>() + out_offset;
    for_each_row(shape, strides, [&](const auto& at, const auto& step, int64_t count) {
      const T* s = from + at[0];
      T* d = to + at[1];
      if (step[0] == 1 && step[1] == 1) std::memcpy(d, s, count * sizeof(T));
      else if (step[0] == 0 && step[1] == 1)
        for (int64_t k = 0; k < count; ++k) d[k] = *s;
      else
        for (int64_t k = 0; k < count; ++k) d[k * step[1]] = s[k * step[0]];
    });
  });
}

}  // namespace tokamak::cpu::ref
