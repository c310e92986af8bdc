// Convolutions and pooling windows.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Ints;
using ir::Value;

// Attributes that convolutions and pools share; defaults spelled out for `spatial` dimensions. A list of the wrong length is Corrupt.
void window_attrs(NodeImporter& n, int64_t spatial, Attrs& attrs) {
  const auto list = [&](const char* name, int64_t length, int64_t otherwise, int64_t least) {
    Ints values = n.ints_attr(name, Ints(length, otherwise));
    if (static_cast<int64_t>(values.size()) != length) n.bad("attribute '{}' has {} entries, expected {}", name, values.size(), length);
    for (int64_t v : values)
      if (v < least || v > INT32_MAX) n.bad("attribute '{}' has the entry {}", name, v);
    attrs.set(name, values);
  };
  list("strides", spatial, 1, 1);
  list("dilations", spatial, 1, 1);
  const std::string auto_pad = n.string_attr("auto_pad", "NOTSET");
  if (auto_pad != "NOTSET" && auto_pad != "SAME_UPPER" && auto_pad != "SAME_LOWER" && auto_pad != "VALID")
    n.bad("attribute 'auto_pad' is '{}'", auto_pad);
  list("pads", 2 * spatial, 0, INT32_MIN);
  if (auto_pad != "NOTSET") {
    attrs.set("auto_pad", auto_pad);
    attrs.set("pads", Ints(2 * spatial, 0));
  }
}

Ints kernel_shape(NodeImporter& n) {
  const Ints kernel = n.ints_attr("kernel_shape");
  if (kernel.empty()) n.bad("attribute 'kernel_shape' is required");
  for (int64_t k : kernel)
    if (k <= 0 || k > INT32_MAX) n.bad("attribute 'kernel_shape' has the entry {}", k);
  return kernel;
}

int64_t spatial_of(NodeImporter& n, Value* w) {
  const int64_t spatial = n.rank(w) - 2;
  if (spatial < 1 || spatial > 3) n.unsupported(fmt::format("it has {} spatial dimensions; 1 to 3 are supported", spatial));
  const Ints kernel = n.ints_attr("kernel_shape");
  if (kernel.empty()) return spatial;
  if (static_cast<int64_t>(kernel.size()) != spatial)
    n.bad("attribute 'kernel_shape' has {} entries, the weight {} spatial dimensions", kernel.size(), spatial);
  for (int64_t i = 0; i < spatial; ++i)
    if (w->type.dims[i + 2].is_const() && !w->type.dims[i + 2].is(kernel[i]))
      n.bad("attribute 'kernel_shape' differs from the weight's shape {}", to_string(w->type));
  return spatial;
}

Attrs conv_attrs(NodeImporter& n, Value* w) {
  Attrs attrs;
  window_attrs(n, spatial_of(n, w), attrs);
  const int64_t group = n.int_attr("group", 1);
  if (group < 1) n.bad("attribute 'group' is {}", group);
  attrs.set("group", group);
  return attrs;
}

Values trimmed(Values inputs) {
  while (!inputs.empty() && inputs.back() == nullptr) inputs.pop_back();
  return inputs;
}

void conv(NodeImporter& n) {
  const Attrs attrs = conv_attrs(n, n.input(1));
  n.set_output(0, n.add("conv", trimmed({n.input(0), n.input(1), n.maybe(2)}), attrs));
}

void conv_integer(NodeImporter& n) {
  const Attrs attrs = conv_attrs(n, n.input(1));
  n.set_output(0, n.add("conv_integer", trimmed({n.input(0), n.input(1), n.maybe(2), n.maybe(3)}), attrs));
}

void conv_transpose(NodeImporter& n) {
  Attrs attrs = conv_attrs(n, n.input(1));
  const size_t spatial = attrs.get_ints("strides").size();
  for (const char* name : {"output_padding", "output_shape"}) {
    const Ints values = n.ints_attr(name);
    if (values.empty()) continue;
    if (values.size() != spatial) n.bad("attribute '{}' has {} entries, expected {}", name, values.size(), spatial);
    attrs.set(name, values);
  }
  n.set_output(0, n.add("conv_transpose", trimmed({n.input(0), n.input(1), n.maybe(2)}), attrs));
}

Attrs pool_attrs(NodeImporter& n) {
  const Ints kernel = kernel_shape(n);
  if (kernel.size() > 3) n.unsupported(fmt::format("it has {} spatial dimensions; 1 to 3 are supported", kernel.size()));
  Attrs attrs;
  window_attrs(n, static_cast<int64_t>(kernel.size()), attrs);
  attrs.set("kernel", kernel);
  attrs.set("ceil_mode", n.int_attr("ceil_mode", 0));
  return attrs;
}

void max_pool(NodeImporter& n) {
  Attrs attrs = pool_attrs(n);
  if (n.wants(1)) attrs.set("storage_order", n.int_attr("storage_order", 0));
  ir::Node* made = n.add_node("max_pool", {n.input(0)}, attrs, n.wants(1) ? 2 : 1);
  n.set_outputs({made->outputs().begin(), made->outputs().end()});
}

void average_pool(NodeImporter& n) {
  Attrs attrs = pool_attrs(n);
  attrs.set("count_include_pad", n.int_attr("count_include_pad", 0));
  n.set_output(0, n.add("avg_pool", {n.input(0)}, attrs));
}

void lp_pool(NodeImporter& n) {
  Attrs attrs = pool_attrs(n);
  attrs.set("p", n.int_attr("p", 2));
  n.set_output(0, n.add("lp_pool", {n.input(0)}, attrs));
}

// The inverse of MaxPool's second output: values scattered to where they came from in the natural output, zeros elsewhere; a larger
// output_shape adds zeros at the end.
void max_unpool(NodeImporter& n) {
  Value* x = n.input(0);
  const Ints kernel = kernel_shape(n);
  const int64_t spatial = static_cast<int64_t>(kernel.size()), rank = n.rank(x);
  if (rank != spatial + 2) n.bad("the input has {} dimensions, expected {}", rank, spatial + 2);
  Attrs window;
  window_attrs(n, spatial, window);
  const Ints strides = window.get_ints("strides"), pads = window.get_ints("pads");
  ir::Dims natural{x->type.dims[0], x->type.dims[1]};
  for (int64_t i = 0; i < spatial; ++i)
    natural.push_back((x->type.dims[i + 2] - ir::Dim(1)) * ir::Dim(strides[i]) + ir::Dim(kernel[i] - pads[i] - pads[spatial + i]));
  ir::Dim total = 1;
  for (const auto& d : natural) {
    if (!n.is_bindable(d)) n.unsupported("its output shape is not known", "declare the shapes of the model's inputs");
    total = total * d;
  }
  Value* zeros = n.add("expand", {n.scalar_like(0, x)}, {{"shape", ir::Dims{total}}});
  Value* minus_one = n.i64({-1});
  Value* flat = n.add("scatter_elements", {zeros, n.reshape(n.input(1), minus_one), n.reshape(x, minus_one)}, {{"axis", int64_t{0}}});
  Value* y = n.reshape(flat, natural);
  if (n.has_input(2)) {
    Ints ends;
    for (const auto& d : natural) {
      if (!d.is_const()) n.unsupported("its input shape is not constant", "fix the shapes of the model's inputs");
      ends.push_back(d.value());
    }
    Value* after = n.add("sub", {n.cast(n.input(2), DType::I64), n.i64(ends)});
    y = n.add("pad", {y, n.concat({n.i64(Ints(rank, 0)), after}, 0)}, {{"mode", std::string("constant")}, {"axes", n.iota(0, rank)}});
  }
  n.set_output(0, y);
}

// A depthwise convolution that looks back only, with the last k - 1 positions carried from call to call.
void causal_conv_with_state(NodeImporter& n) {
  Value* x = n.input(0);
  Value* w = n.input(1);
  if (n.rank(x) != 3 || n.rank(w) != 3) n.bad("input and weight should have three dimensions");
  if (!w->type.dims[0].is_const() || !w->type.dims[2].is_const()) n.unsupported("the shape of its weight is not known");
  const int64_t channels = w->type.dims[0].value(), k = w->type.dims[2].value();
  if (k < 1 || channels < 1) n.bad("its weight is empty");
  Value* padded = n.has_input(3) ? n.concat({n.input(3), x}, 2)
                                 : n.add("pad", {x}, {{"pads", Ints{k - 1, 0}}, {"mode", std::string("constant")}, {"axes", Ints{2}}});
  Value* y = n.add("conv", trimmed({padded, w, n.maybe(2)}),
                   {{"strides", Ints{1}}, {"dilations", Ints{1}}, {"pads", Ints{0, 0}}, {"group", channels}});
  const std::string activation = n.string_attr("activation", "none");
  if (activation != "none" && activation != "silu" && activation != "swish") n.bad("attribute 'activation' is '{}'", activation);
  n.set_output(0, activation == "none" ? y : n.add("silu", {y}));
  n.set_output(1, n.slice(padded, 2, k > 1 ? 1 - k : INT64_MAX, INT64_MAX));
}

constexpr OpImporter kImporters[] = {
    {"Conv", conv},
    {"ConvInteger", conv_integer},
    {"ConvTranspose", conv_transpose},
    {"MaxPool", max_pool},
    {"AveragePool", average_pool},
    {"LpPool", lp_pool, 2},
    {"MaxUnpool", max_unpool},
    {"CausalConvWithState", causal_conv_with_state},
};

}  // namespace

std::span<const OpImporter> conv_importers() { return kImporters; }

}  // namespace tokamak::onnx
