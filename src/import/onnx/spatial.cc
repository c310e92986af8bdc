// Resizing of images and feature maps.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Attrs;
using ir::Floats;
using ir::Value;

// ONNX writes "not given" as an empty tensor too.
Value* given(NodeImporter& n, int i) { return n.has_input(i) && !n.is_empty_tensor(n.input(i)) ? n.input(i) : nullptr; }

void resize(NodeImporter& n) {
  Value* x = n.input(0);
  const std::string coordinates = n.string_attr("coordinate_transformation_mode", "half_pixel");
  Attrs attrs{{"mode", n.string_attr("mode", "nearest")},
              {"coordinate_transformation_mode", coordinates},
              {"nearest_mode", n.string_attr("nearest_mode", "round_prefer_floor")},
              {"cubic_coeff_a", n.float_attr("cubic_coeff_a", -0.75)},
              {"exclude_outside", n.int_attr("exclude_outside", 0)},
              {"extrapolation_value", n.float_attr("extrapolation_value", 0.0)}};
  if (n.int_attr("antialias", 0) != 0) attrs.set("antialias", int64_t{1});
  if (n.has_attr("axes")) {
    ir::Ints axes = n.ints_attr("axes");
    for (int64_t& a : axes) a = n.axis(a, x);
    attrs.set("axes", axes);
  }
  if (n.has_attr("keep_aspect_ratio_policy")) attrs.set("keep_aspect_ratio_policy", n.string_attr("keep_aspect_ratio_policy", "stretch"));
  Value* roi = coordinates == "tf_crop_and_resize" ? given(n, 1) : nullptr;
  Value* scales = given(n, 2);
  Value* sizes = given(n, 3);
  if ((scales == nullptr) == (sizes == nullptr)) n.bad("it needs either scales or sizes");
  if (sizes) n.set_output(0, n.add("resize", {x, roi, nullptr, sizes}, attrs));
  else n.set_output(0, n.add("resize", {x, roi, scales}, attrs));
}

// Resize of opset 10 and Upsample: scales, corner-aligned sampling at floor(x / scale).
void resize_by_scales(NodeImporter& n, Value* scales) {
  n.set_output(0, n.add("resize", {n.input(0), nullptr, scales},
                        {{"mode", n.string_attr("mode", "nearest")},
                         {"coordinate_transformation_mode", std::string("asymmetric")},
                         {"nearest_mode", std::string("floor")}}));
}

void resize_10(NodeImporter& n) { resize_by_scales(n, n.input(1)); }

void upsample(NodeImporter& n) {
  if (n.opset() >= 9) return resize_by_scales(n, n.input(1));
  Floats scales = n.floats_attr("scales");
  if (n.opset() < 7) scales = {1, 1, n.float_attr("height_scale", 1), n.float_attr("width_scale", 1)};
  Tensor t = Tensor::empty(DType::F32, {static_cast<int64_t>(scales.size())});
  for (size_t i = 0; i < scales.size(); ++i) t.data<float>()[i] = static_cast<float>(scales[i]);
  resize_by_scales(n, n.constant_value(t));
}

constexpr OpImporter kImporters[] = {{"Resize", resize_10, 10, 10}, {"Resize", resize, 11}, {"Upsample", upsample}};

}  // namespace

std::span<const OpImporter> spatial_importers() { return kImporters; }

}  // namespace tokamak::onnx
