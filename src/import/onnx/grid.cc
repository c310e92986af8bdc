// Sampling at computed positions: AffineGrid and GridSample, as pointwise operators and gathers.

#include "import/onnx/node_importer.h"

namespace tokamak::onnx {
namespace {

using ir::Ints;
using ir::Value;

// Short forms for arithmetic on f32 values.
struct Arithmetic {
  NodeImporter& n;
  Value* number(double v) { return n.scalar(v, DType::F32); }
  Value* add(Value* a, Value* b) { return n.add("add", {a, b}); }
  Value* sub(Value* a, Value* b) { return n.add("sub", {a, b}); }
  Value* mul(Value* a, Value* b) { return n.add("mul", {a, b}); }
  Value* div(Value* a, Value* b) { return n.add("div", {a, b}); }
  Value* floor(Value* a) { return n.add("floor", {a}); }
  Value* clip(Value* a, Value* low, Value* high) { return n.add("min", {n.add("max", {a, low}), high}); }
  // Size of an axis as a number.
  Value* size(Value* v, int64_t axis) {
    const ir::Dim& d = v->type.dims[axis];
    return d.is_const() ? number(static_cast<double>(d.value())) : n.cast(n.squeeze(n.dim_of(v, axis), {0}), DType::F32);
  }
};

// The positions of an image's pixels in [-1, 1], moved by theta [N, d, d + 1].
void affine_grid(NodeImporter& n) {
  Arithmetic f{n};
  Value* theta = n.input(0);
  Value* size = n.input(1);  // [N, C, sizes...]
  if (n.rank(size) != 1 || !size->type.dims[0].is_const()) n.unsupported("the number of dimensions is not known");
  const int64_t d = size->type.dims[0].value() - 2;
  if (d != 2 && d != 3) n.bad("it has {} spatial dimensions, expected 2 or 3", d);
  const bool align = n.int_attr("align_corners", 0) != 0;
  Value* spatial = n.slice(size, 0, 2, d + 2);
  Values columns(d + 1);
  for (int64_t a = 0; a < d; ++a) {  // the last axis comes first in a position
    Value* length = n.gather(spatial, a, 0);
    Value* i = n.cast(n.add("range", {n.i64_scalar(0), length, n.i64_scalar(1)}), DType::F32);
    Value* count = n.cast(length, DType::F32);
    Value* at = align ? f.sub(f.div(f.mul(i, f.number(2)), f.sub(count, f.number(1))), f.number(1))
                      : f.sub(f.div(f.add(f.mul(i, f.number(2)), f.number(1)), count), f.number(1));
    Ints around = n.iota(0, d);
    around.erase(around.begin() + a);
    Value* wide = n.add("expand", {n.unsqueeze(at, around), spatial});
    columns[d - 1 - a] = n.reshape(wide, n.i64({-1, 1}));
  }
  columns[d] = n.add("expand", {f.number(1), n.shape_of(columns[0])});
  Value* base = n.cast(n.concat(columns, 1), theta->type.dtype);
  Value* grid = n.add("matmul", {base, n.transpose(theta, {0, 2, 1})});  // [N, points, d]
  n.set_output(0, n.reshape(grid, n.concat({n.slice(size, 0, 0, 1), spatial, n.i64({d})}, 0)));
}

enum class Padding { Zeros, Border, Reflection };

// One axis of the sampling: candidates for the index, each with its weight.
struct Tap {
  Value* index;   // i64, inside the axis
  Value* weight;  // f32; null for 1
};

// Mirrored at the borders low and high, as often as needed.
Value* reflect(Arithmetic& f, Value* v, Value* low, Value* high) {
  Value* range = f.n.add("max", {f.sub(high, low), f.number(1e-6)});
  Value* distance = f.n.add("abs", {f.sub(v, low)});
  Value* turns = f.floor(f.div(distance, range));
  Value* rest = f.sub(distance, f.mul(turns, range));
  Value* half = f.mul(turns, f.number(0.5));
  Value* even = f.n.add("equal", {half, f.floor(half)});
  return f.n.add("where", {even, f.add(low, rest), f.sub(high, rest)});
}

Tap make_tap(Arithmetic& f, Value* at, Value* weight, Value* length, Value* low, Value* high, Padding padding) {
  Value* last = f.sub(length, f.number(1));
  if (padding == Padding::Zeros) {
    Value* inside = f.n.add("and", {f.n.add("greater_equal", {at, f.number(0)}), f.n.add("less_equal", {at, last})});
    Value* one = f.n.cast(inside, DType::F32);
    weight = weight ? f.mul(weight, one) : one;
  } else if (padding == Padding::Reflection) {
    at = reflect(f, at, low, high);
  }
  return {f.n.cast(f.clip(at, f.number(0), last), DType::I64), weight};
}

// Weights of the four neighbours of a point at fraction t, by cubic convolution (Keys 1981) with a = -0.75.
Values cubic_weights(Arithmetic& f, Value* t) {
  const double a = -0.75;
  const auto near = [&](Value* x) {  // |x| <= 1
    Value* inner = f.sub(f.mul(x, f.number(a + 2)), f.number(a + 3));
    return f.add(f.mul(inner, f.mul(x, x)), f.number(1));
  };
  const auto far = [&](Value* x) {  // 1 < |x| < 2
    Value* y = f.sub(f.mul(x, f.number(a)), f.number(5 * a));
    y = f.add(f.mul(y, x), f.number(8 * a));
    return f.sub(f.mul(y, x), f.number(4 * a));
  };
  Value* one = f.number(1);
  return {far(f.add(t, one)), near(t), near(f.sub(one, t)), far(f.sub(f.number(2), t))};
}

void grid_sample(NodeImporter& n) {
  Arithmetic f{n};
  Value* x = n.input(0);
  Value* grid = n.cast(n.input(1), DType::F32);
  const int64_t d = n.rank(x) - 2;
  if (d < 1 || d > 3 || n.rank(grid) != d + 2) n.unsupported(fmt::format("it samples {} dimensions; 1 to 3 are supported", d));
  std::string mode = n.string_attr("mode", n.opset() >= 20 ? "linear" : "bilinear");
  if (mode == "bilinear") mode = "linear";
  if (mode == "bicubic") mode = "cubic";
  if (mode != "linear" && mode != "cubic" && mode != "nearest") n.bad("attribute 'mode' is '{}'", mode);
  const std::string name = n.string_attr("padding_mode", "zeros");
  if (name != "zeros" && name != "border" && name != "reflection") n.bad("attribute 'padding_mode' is '{}'", name);
  const Padding padding = name == "zeros" ? Padding::Zeros : name == "border" ? Padding::Border : Padding::Reflection;
  const bool align = n.int_attr("align_corners", 0) != 0;

  std::vector<std::vector<Tap>> axes;
  for (int64_t a = 0; a < d; ++a) {
    Value* length = f.size(x, a + 2);
    Value* low = f.number(align ? 0 : -0.5);
    Value* high = f.sub(length, f.number(align ? 1 : 0.5));
    Value* at = f.add(n.gather(grid, d - 1 - a, d + 1), f.number(1));
    at = align ? f.mul(at, f.mul(f.sub(length, f.number(1)), f.number(0.5))) : f.mul(f.sub(f.mul(at, length), f.number(1)), f.number(0.5));
    if (mode == "nearest") at = n.add("round", {at});
    if (padding != Padding::Zeros) {
      Value* outside = n.add("or", {n.add("less", {at, low}), n.add("greater", {at, high})});
      Value* moved = padding == Padding::Border ? f.clip(at, f.number(0), f.sub(length, f.number(1))) : reflect(f, at, low, high);
      at = n.add("where", {outside, moved, at});
    }
    std::vector<Tap> taps;
    const auto tap = [&](Value* index, Value* weight) { taps.push_back(make_tap(f, index, weight, length, low, high, padding)); };
    if (mode == "nearest") {
      tap(at, nullptr);
    } else {
      Value* first = f.floor(at);
      Value* t = f.sub(at, first);
      if (mode == "linear") {
        tap(first, f.sub(f.number(1), t));
        tap(f.add(first, f.number(1)), t);
      } else {
        const Values weights = cubic_weights(f, t);
        for (int i = 0; i < 4; ++i) tap(f.add(first, f.number(i - 1)), weights[i]);
      }
    }
    axes.push_back(std::move(taps));
  }

  // Every combination of one tap an axis picks one element of each channel.
  Value* flat = n.reshape(x, n.i64({0, 0, -1}));
  Value* channels = n.shape_of(x, 0, 2);
  Value* sum = nullptr;
  std::vector<size_t> choice(d, 0);
  for (bool more = true; more;) {
    Value* index = nullptr;
    Value* weight = nullptr;
    for (int64_t a = 0; a < d; ++a) {
      const Tap& tap = axes[a][choice[a]];
      Value* size = n.squeeze(n.dim_of(x, a + 2), {0});
      index = index ? n.add("add", {n.add("mul", {index, size}), tap.index}) : tap.index;
      if (tap.weight) weight = weight ? f.mul(weight, tap.weight) : tap.weight;
    }
    index = n.unsqueeze(n.reshape(index, n.i64({0, -1})), {1});
    index = n.add("expand", {index, n.concat({channels, n.dim_of(index, 2)}, 0)});
    Value* part = n.add("gather_elements", {flat, index}, {{"axis", int64_t{2}}});
    if (weight) part = n.add("mul", {part, n.cast(n.unsqueeze(n.reshape(weight, n.i64({0, -1})), {1}), part->type.dtype)});
    sum = sum ? n.add("add", {sum, part}) : part;
    more = false;
    for (int64_t a = 0; a < d && !more; ++a) {
      if (++choice[a] < axes[a].size()) more = true;
      else choice[a] = 0;
    }
  }
  n.set_output(0, n.reshape(sum, n.concat({channels, n.shape_of(grid, 1, d + 1)}, 0)));
}

constexpr OpImporter kImporters[] = {{"AffineGrid", affine_grid}, {"GridSample", grid_sample, 16}};

}  // namespace

std::span<const OpImporter> grid_importers() { return kImporters; }

}  // namespace tokamak::onnx
