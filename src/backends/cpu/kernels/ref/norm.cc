// softmax, log_softmax and the normalisations. Everything in double, rounded once.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

RunFunction prepare_softmax(const NodeView& node) {
  const bool is_log = node.node->op().name == "log_softmax";
  const Shape in = node.input_shapes[0];
  const int64_t rank = static_cast<int64_t>(in.size()), axis = normalize_axis(node.attrs().get_int("axis", -1), rank);
  const int64_t n = rank == 0 ? 1 : in[axis];
  const int64_t inner = rank == 0 ? 1 : size_of(Shape(in.begin() + axis + 1, in.end()));
  const int64_t outer = rank == 0 ? 1 : size_of(Shape(in.begin(), in.begin() + axis));
  return [=](const RunArgs& args) {
    visit_float(args.inputs[0].dtype(), "softmax", [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<double> row(n);
      for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
          const int64_t at = o * n * inner + i;
          double highest = -INFINITY, sum = 0;
          for (int64_t k = 0; k < n; ++k) {
            row[k] = load_double(args.inputs[0].data<T>()[at + k * inner]);
            if (row[k] > highest) highest = row[k];
          }
          for (double v : row) sum += std::exp(v - highest);
          for (int64_t k = 0; k < n; ++k)
            args.outputs[0].data<T>()[at + k * inner] =
                store<T>(is_log ? row[k] - highest - std::log(sum) : std::exp(row[k] - highest) / sum);
        }
    });
  };
}

std::vector<double> optional_doubles(const RunArgs& args, int i) {
  return i < static_cast<int>(args.inputs.size()) && args.inputs[i].defined() ? to_doubles(args.inputs[i]) : std::vector<double>{};
}

void store_optional(const RunArgs& args, int i, const std::vector<double>& values) {
  if (i < static_cast<int>(args.outputs.size()) && args.outputs[i].defined()) from_doubles(values, args.outputs[i]);
}

// layer_norm, rms_norm, and the forms that add a residual first: rows are the axes before `axis`.
RunFunction prepare_row_norm(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const bool has_residual = op.starts_with("add_"), is_rms = op.ends_with("rms_norm");
  const Shape in = node.input_shapes[0];
  const int64_t axis = normalize_axis(node.attrs().get_int("axis", -1), static_cast<int64_t>(in.size()));
  const double epsilon = node.attrs().get_float("epsilon", 1e-5);
  const int64_t rows = size_of(Shape(in.begin(), in.begin() + axis)), cols = size_of(Shape(in.begin() + axis, in.end()));
  // scale and bias broadcast over the whole of x: their strides on x's shape give the element for (row, col).
  const auto offsets = [&](int i) {
    std::vector<int64_t> map;
    if (!node.has_input(i)) return map;
    for_each_row(in, std::array<std::vector<int64_t>, 1>{broadcast_strides(node.input_shapes[i], in)},
                 [&](const auto& at, const auto& step, int64_t count) {
                   for (int64_t k = 0; k < count; ++k) map.push_back(at[0] + k * step[0]);
                 });
    return map;
  };
  const int first = has_residual ? 2 : 1;
  const std::vector<int64_t> scale_at = offsets(first), bias_at = offsets(first + 1);
  const Shape residual_shape = has_residual ? node.input_shapes[1] : Shape{};
  return [=](const RunArgs& args) {
    std::vector<double> x = to_doubles(args.inputs[0]);
    if (has_residual) {
      const std::vector<double> residual = to_doubles(args.inputs[1]);
      for_each_row(in, std::array<std::vector<int64_t>, 2>{strides_of(in), broadcast_strides(residual_shape, in)},
                   [&](const auto& at, const auto& step, int64_t count) {
                     for (int64_t k = 0; k < count; ++k) x[at[0] + k * step[0]] += residual[at[1] + k * step[1]];
                   });
      store_optional(args, 1, x);
    }
    const std::vector<double> scale = optional_doubles(args, first), bias = optional_doubles(args, first + 1);
    std::vector<double> means(rows), inverse_stds(rows);
    for (int64_t r = 0; r < rows; ++r) {
      double* row = x.data() + r * cols;
      double mean = 0, square = 0;
      if (!is_rms) {
        for (int64_t c = 0; c < cols; ++c) mean += row[c];
        mean /= static_cast<double>(cols);
      }
      for (int64_t c = 0; c < cols; ++c) square += (row[c] - mean) * (row[c] - mean);
      const double inverse = 1 / std::sqrt(square / static_cast<double>(cols) + epsilon);
      means[r] = mean;
      inverse_stds[r] = inverse;
      for (int64_t c = 0; c < cols; ++c) {
        row[c] = (row[c] - mean) * inverse;
        if (!scale.empty()) row[c] *= scale[scale_at[r * cols + c]];
        if (!bias.empty()) row[c] += bias[bias_at[r * cols + c]];
      }
    }
    from_doubles(x, args.outputs[0]);
    if (!has_residual && !is_rms) {
      store_optional(args, 1, means);
      store_optional(args, 2, inverse_stds);
    }
  };
}

// batch_norm (given statistics), instance_norm and group_norm: per group of channels of axis 1, or of the last axis (group_norm in NHWC).
RunFunction prepare_channel_norm(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const Shape in = node.input_shapes[0];
  const double epsilon = node.attrs().get_float("epsilon", 1e-5);
  const bool last = node.attrs().get_string("layout", "NCHW") == "NHWC";
  const int64_t batch = in[0], channels = in.size() > 1 ? in[last ? in.size() - 1 : 1] : 1;
  const int64_t area = size_of(in) / std::max<int64_t>(1, batch * channels);
  const bool is_batch = op == "batch_norm";
  const int64_t groups = op == "group_norm" ? node.attrs().get_int("num_groups") : channels;
  if (groups <= 0 || channels % groups != 0)
    fail_node(node, ErrorCode::InvalidArgument, "{} channels do not split into {} groups", channels, groups);
  const int64_t group_size = channels / groups * area;
  return [=](const RunArgs& args) {
    std::vector<double> x = to_doubles(args.inputs[0]);
    const auto swap_axes = [&](int64_t rows, int64_t cols) {  // [batch, rows, cols] to [batch, cols, rows]
      std::vector<double> y(x.size());
      for (int64_t n = 0; n < batch; ++n)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < cols; ++c) y[(n * cols + c) * rows + r] = x[(n * rows + r) * cols + c];
      x = std::move(y);
    };
    if (last) swap_axes(area, channels);
    const std::vector<double> scale = optional_doubles(args, 1), bias = optional_doubles(args, 2);
    const std::vector<double> mean_in = is_batch ? to_doubles(args.inputs[3]) : std::vector<double>{},
                              var_in = is_batch ? to_doubles(args.inputs[4]) : std::vector<double>{};
    for (int64_t g = 0; g < batch * groups; ++g) {
      double* group = x.data() + g * group_size;
      double mean = 0, variance = 0;
      if (is_batch) {
        mean = mean_in[g % groups];
        variance = var_in[g % groups];
      } else {
        for (int64_t i = 0; i < group_size; ++i) mean += group[i];
        mean /= static_cast<double>(group_size);
        for (int64_t i = 0; i < group_size; ++i) variance += (group[i] - mean) * (group[i] - mean);
        variance /= static_cast<double>(group_size);
      }
      const double inverse = 1 / std::sqrt(variance + epsilon);
      for (int64_t i = 0; i < group_size; ++i) {
        const int64_t c = (g % groups) * (channels / groups) + i / area;
        group[i] = (group[i] - mean) * inverse * (scale.empty() ? 1 : scale[c]) + (bias.empty() ? 0 : bias[c]);
      }
    }
    if (last) swap_axes(channels, area);
    from_doubles(x, args.outputs[0]);
  };
}

RunFunction prepare_lrn(const NodeView& node) {
  const Shape in = node.input_shapes[0];
  const int64_t size = node.attrs().get_int("size"), channels = in[1], area = size_of(Shape(in.begin() + 2, in.end()));
  const double alpha = node.attrs().get_float("alpha", 1e-4), beta = node.attrs().get_float("beta", 0.75),
               bias = node.attrs().get_float("bias", 1);
  return [=](const RunArgs& args) {
    const std::vector<double> x = to_doubles(args.inputs[0]);
    std::vector<double> y(x.size());
    for (int64_t n = 0; n < in[0]; ++n)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t first = std::max<int64_t>(0, c - (size - 1) / 2), last = std::min(channels - 1, c + size / 2);
        for (int64_t i = 0; i < area; ++i) {
          double square = 0;
          for (int64_t k = first; k <= last; ++k) square += x[(n * channels + k) * area + i] * x[(n * channels + k) * area + i];
          const int64_t at = (n * channels + c) * area + i;
          y[at] = x[at] / std::pow(bias + alpha / static_cast<double>(size) * square, beta);
        }
      }
    from_doubles(y, args.outputs[0]);
  };
}

}  // namespace

KernelList norm_kernels() {
  return {define("softmax", prepare_softmax),         define("log_softmax", prepare_softmax),
          define("layer_norm", prepare_row_norm),     define("rms_norm", prepare_row_norm),
          define("add_layer_norm", prepare_row_norm), define("add_rms_norm", prepare_row_norm),
          define("batch_norm", prepare_channel_norm), define("instance_norm", prepare_channel_norm),
          define("group_norm", prepare_channel_norm), define("lrn", prepare_lrn)};
}

}  // namespace tokamak::cpu::ref
