// Fourier transforms as matrix products with constant tables, and what goes with them.

#include <algorithm>
#include <cmath>
#include <numbers>

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Ints;
using ir::Value;

constexpr int64_t kMaxLength = 2048;  // the tables take length^2 elements

Tensor to_dtype(const std::vector<double>& values, Shape shape, DType dtype) {
  Tensor t = Tensor::empty(dtype, std::move(shape));
  for (int64_t i = 0; i < t.count(); ++i) {
    if (dtype == DType::F64) t.data<double>()[i] = values[i];
    else t.data<float>()[i] = static_cast<float>(values[i]);
  }
  return t;
}

// cos and sin of 2 pi j k / length for j < rows, k < columns.
struct Table {
  Value* cos;
  Value* sin;
};

Table fourier_table(NodeImporter& n, int64_t rows, int64_t columns, int64_t length, DType dtype, double scale) {
  if (dtype != DType::F32 && dtype != DType::F64)
    n.unsupported(fmt::format("it does not work on {}", to_string(dtype)), "cast to f32 before it");
  std::vector<double> cos(rows * columns), sin(rows * columns);
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t k = 0; k < columns; ++k) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(j * k % length) / static_cast<double>(length);
      cos[j * columns + k] = scale * std::cos(angle);
      sin[j * columns + k] = scale * std::sin(angle);
    }
  return {n.constant_value(to_dtype(cos, {rows, columns}, dtype)), n.constant_value(to_dtype(sin, {rows, columns}, dtype))};
}

// x [..., length] (imaginary part may be null) → [..., columns, 2].
Value* transform(NodeImporter& n, Value* re, Value* im, int64_t rows, int64_t length, bool onesided, bool inverse) {
  const int64_t columns = onesided ? length / 2 + 1 : length;
  const Table table = fourier_table(n, rows, columns, length, re->type.dtype, inverse ? 1.0 / static_cast<double>(length) : 1.0);
  // e^(-i angle) forward, e^(+i angle) back.
  const char* minus = inverse ? "sub" : "add";
  const char* plus = inverse ? "add" : "sub";
  Value* real = n.add("matmul", {re, table.cos});
  Value* imaginary = n.add("matmul", {re, table.sin});
  if (im) {
    real = n.add(minus, {real, n.add("matmul", {im, table.sin})});
    imaginary = n.add(plus, {n.add("matmul", {im, table.cos}), imaginary});
  } else if (!inverse) {
    imaginary = n.add("neg", {imaginary});
  }
  return n.concat({n.unsqueeze(real, {-1}), n.unsqueeze(imaginary, {-1})}, real->type.rank());
}

int64_t known_size(NodeImporter& n, Value* x, int64_t axis) {
  const ir::Dim& d = x->type.dims[axis];
  if (!d.is_const()) n.unsupported("the length of the signal is not known", "fix the shapes of the model's inputs");
  return d.value();
}

int64_t known_scalar(NodeImporter& n, Value* v, const char* what) {
  const auto known = n.const_ints(v);
  if (!known || known->size() != 1) n.unsupported(fmt::format("its {} is not constant", what), fmt::format("make the {} a constant", what));
  return (*known)[0];
}

void dft(NodeImporter& n) {
  Value* x = n.input(0);
  const int64_t rank = n.rank(x);
  if (rank < 2) n.bad("the input should have two dimensions or more");
  int64_t axis = n.opset() >= 20 ? (n.has_input(2) ? known_scalar(n, n.input(2), "axis") : -2) : n.int_attr("axis", 1);
  axis = n.axis(axis, x);
  if (axis == rank - 1) n.bad("the axis must not be the one of real and imaginary parts");
  const bool inverse = n.int_attr("inverse", 0) != 0, onesided = n.int_attr("onesided", 0) != 0;
  if (inverse && onesided) n.unsupported("a one-sided inverse transform is not supported");
  const int64_t size = known_size(n, x, axis);
  const int64_t length = n.has_input(1) ? known_scalar(n, n.input(1), "length") : size;
  if (length < 1 || length > kMaxLength) n.unsupported(fmt::format("its length is {}; up to {} is supported", length, kMaxLength));
  const int64_t parts = known_size(n, x, rank - 1);
  const int64_t rows = std::min(size, length);  // a longer signal is cut, a shorter one has zeros behind it
  if (rows < size) x = n.slice(x, axis, 0, rows);
  Ints perm = n.iota(0, rank - 1);
  perm.erase(perm.begin() + axis);
  perm.push_back(axis);
  Value* re = n.transpose(n.gather(x, 0, rank - 1), perm);
  Value* im = parts == 2 ? n.transpose(n.gather(x, 1, rank - 1), perm) : nullptr;
  Value* y = transform(n, re, im, rows, length, onesided, inverse);
  Ints back = n.iota(0, rank);  // the transformed axis is last but one
  back.erase(back.begin() + (rank - 2));
  back.insert(back.begin() + axis, rank - 2);
  n.set_output(0, n.transpose(y, back));
}

// signal [B, L, 1 or 2] → [B, frames, bins, 2].
void stft(NodeImporter& n) {
  Value* x = n.input(0);
  if (n.rank(x) != 3) n.bad("the signal should have three dimensions");
  const int64_t step = known_scalar(n, n.input(1), "frame step");
  const int64_t signal = known_size(n, x, 1), parts = known_size(n, x, 2);
  int64_t length = 0;
  if (n.has_input(3)) length = known_scalar(n, n.input(3), "frame length");
  else if (n.has_input(2)) length = known_size(n, n.input(2), 0);
  else n.bad("it needs a window or a frame length");
  if (step < 1 || length < 1 || length > kMaxLength || length > signal)
    n.bad("frames of {} every {} do not fit a signal of {}", length, step, signal);
  const int64_t frames = (signal - length) / step + 1;
  if (frames > (1 << 24) / length) n.unsupported(fmt::format("it makes {} frames of {}", frames, length));
  std::vector<int64_t> indices;
  for (int64_t f = 0; f < frames; ++f)
    for (int64_t i = 0; i < length; ++i) indices.push_back(f * step + i);
  Value* at = n.constant_value(Tensor::of<int64_t>({frames, length}, indices));
  const auto frames_of = [&](int64_t part) {
    Value* y = n.add("gather", {n.gather(x, part, 2), at}, {{"axis", int64_t{1}}});
    return n.has_input(2) ? n.add("mul", {y, n.input(2)}) : y;
  };
  n.set_output(0, transform(n, frames_of(0), parts == 2 ? frames_of(1) : nullptr, length, length, n.int_attr("onesided", 1) != 0, false));
}

// Triangular filters evenly spaced in mel = 2595 log10(1 + f / 700), on the bins of a transform.
void mel_weight_matrix(NodeImporter& n) {
  const int64_t num_bins = known_scalar(n, n.input(0), "number of bins"), length = known_scalar(n, n.input(1), "length");
  const int64_t rate = known_scalar(n, n.input(2), "sample rate");
  const auto low = n.const_scalar(n.input(3)), high = n.const_scalar(n.input(4));
  if (!low || !high) n.unsupported("its edges are not constant", "make them constants");
  const int64_t spectrum = length / 2 + 1;
  if (num_bins < 1 || length < 1 || rate < 1 || num_bins > 4096 || length > 65536 || !(*low >= 0) || !(*high > *low) || !(*high <= 1e9))
    n.bad("{} filters for a transform of {} are not sensible", num_bins, length);
  const auto mel = [](double f) { return 2595 * std::log10(1 + f / 700); };
  const double from = mel(*low), width = (mel(*high) - from) / static_cast<double>(num_bins + 2);
  std::vector<int64_t> bins;
  for (int64_t i = 0; i < num_bins + 2; ++i) {
    const double frequency = 700 * (std::pow(10, (from + width * static_cast<double>(i)) / 2595) - 1);
    bins.push_back(static_cast<int64_t>(std::floor(static_cast<double>(length + 1) * frequency / static_cast<double>(rate))));
  }
  std::vector<double> weights(spectrum * num_bins, 0);
  for (int64_t i = 0; i < num_bins; ++i) {
    const int64_t left = bins[i], centre = bins[i + 1], right = bins[i + 2];
    if (centre >= spectrum || right > spectrum) n.bad("its edges lie outside the spectrum");
    if (left == centre) weights[centre * num_bins + i] = 1;
    for (int64_t j = left; j <= centre && left != centre; ++j)
      weights[j * num_bins + i] = static_cast<double>(j - left) / static_cast<double>(centre - left);
    for (int64_t j = centre; j < right; ++j)
      weights[j * num_bins + i] = static_cast<double>(right - j) / static_cast<double>(right - centre);
  }
  const DType dtype = n.has_attr("output_datatype") ? n.dtype_attr("output_datatype") : DType::F32;
  n.set_output(0, n.cast(n.constant_value(to_dtype(weights, {spectrum, num_bins}, DType::F32)), dtype));
}

constexpr OpImporter kImporters[] = {{"DFT", dft}, {"STFT", stft}, {"MelWeightMatrix", mel_weight_matrix}};

}  // namespace

std::span<const OpImporter> signal_importers() { return kImporters; }

}  // namespace tokamak::onnx
