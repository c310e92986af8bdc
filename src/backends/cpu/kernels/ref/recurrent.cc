// lstm, gru and rnn by the equations of the ONNX operators, in double.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

struct Activation {
  std::string name;
  double alpha = 0, beta = 0;

  double operator()(double x) const {
    if (name == "sigmoid") return 1 / (1 + std::exp(-x));
    if (name == "tanh") return std::tanh(x);
    if (name == "relu") return std::max(0.0, x);
    if (name == "affine") return alpha * x + beta;
    if (name == "leakyrelu") return x >= 0 ? x : alpha * x;
    if (name == "thresholdedrelu") return x >= alpha ? x : 0;
    if (name == "scaledtanh") return alpha * std::tanh(beta * x);
    if (name == "hardsigmoid") return std::min(1.0, std::max(0.0, alpha * x + beta));
    if (name == "elu") return x >= 0 ? x : alpha * std::expm1(x);
    if (name == "softsign") return x / (1 + std::fabs(x));
    return std::log1p(std::exp(x));  // softplus; names are checked in read_activations
  }
};

struct ActivationDefaults {
  const char* name;
  bool has_alpha, has_beta;
  double alpha, beta;
};
constexpr ActivationDefaults kActivations[] = {
    {"sigmoid", false, false, 0, 0},  {"tanh", false, false, 0, 0},          {"relu", false, false, 0, 0},
    {"affine", true, true, 1, 0},     {"leakyrelu", true, false, 0.01, 0},   {"thresholdedrelu", true, false, 1, 0},
    {"scaledtanh", true, true, 1, 1}, {"hardsigmoid", true, true, 0.2, 0.5}, {"elu", true, false, 1, 0},
    {"softsign", false, false, 0, 0}, {"softplus", false, false, 0, 0}};

std::vector<Activation> read_activations(const NodeView& node, const std::vector<std::string>& defaults, int directions) {
  std::vector<std::string> names = node.attrs().get_strings("activations", {});
  if (names.empty())
    for (int d = 0; d < directions; ++d) names.insert(names.end(), defaults.begin(), defaults.end());
  if (names.size() != defaults.size() * directions)
    fail_node(node, ErrorCode::InvalidArgument, "expected {} activations, found {}", defaults.size() * directions, names.size());
  const std::vector<double> alphas = node.attrs().get_floats("activation_alpha", {}),
                            betas = node.attrs().get_floats("activation_beta", {});
  size_t next_alpha = 0, next_beta = 0;  // parameters are listed for the activations that take them, in order
  std::vector<Activation> list;
  for (std::string name : names) {
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
    const auto* found =
        std::find_if(std::begin(kActivations), std::end(kActivations), [&](const ActivationDefaults& a) { return name == a.name; });
    if (found == std::end(kActivations)) fail_node(node, ErrorCode::Unsupported, "activation \"{}\"", name);
    Activation activation{name, found->alpha, found->beta};
    if (found->has_alpha && next_alpha < alphas.size()) activation.alpha = alphas[next_alpha++];
    if (found->has_beta && next_beta < betas.size()) activation.beta = betas[next_beta++];
    list.push_back(activation);
  }
  return list;
}

enum class Cell { Lstm, Gru, Rnn };

// One direction's weights and its state for one batch element.
struct Step {
  Cell cell;
  int64_t hidden, inputs, gates;
  const double *w, *r, *bias_w, *bias_r, *peephole;  // biases and peepholes null when absent
  const Activation* activations;
  double clip;
  bool input_forget, linear_before_reset;

  double limited(double x) const { return clip > 0 ? std::clamp(x, -clip, clip) : x; }
  double input_part(const double* x, int64_t row) const {
    double sum = bias_w ? bias_w[row] : 0;
    for (int64_t i = 0; i < inputs; ++i) sum += w[row * inputs + i] * x[i];
    return sum;
  }
  double state_part(const double* h, int64_t row) const {
    double sum = bias_r ? bias_r[row] : 0;
    for (int64_t i = 0; i < hidden; ++i) sum += r[row * hidden + i] * h[i];
    return sum;
  }

  void run(const double* x, std::vector<double>& h, std::vector<double>& c) const {
    const std::vector<double> before = h;
    if (cell == Cell::Rnn) {
      for (int64_t j = 0; j < hidden; ++j) h[j] = activations[0](limited(input_part(x, j) + state_part(before.data(), j)));
    } else if (cell == Cell::Lstm) {
      for (int64_t j = 0; j < hidden; ++j) {
        const auto gate = [&](int64_t g) { return input_part(x, g * hidden + j) + state_part(before.data(), g * hidden + j); };
        const auto peep = [&](int64_t g, double state) { return peephole ? peephole[g * hidden + j] * state : 0; };
        const double i = activations[0](limited(gate(0) + peep(0, c[j])));
        const double f = input_forget ? 1 - i : activations[0](limited(gate(2) + peep(2, c[j])));
        const double candidate = activations[1](limited(gate(3)));
        const double state = f * c[j] + i * candidate;
        const double o = activations[0](limited(gate(1) + peep(1, state)));
        c[j] = state;
        h[j] = o * activations[2](state);
      }
    } else {
      std::vector<double> z(hidden), reset(hidden), scaled(hidden);
      for (int64_t j = 0; j < hidden; ++j) {
        z[j] = activations[0](limited(input_part(x, j) + state_part(before.data(), j)));
        reset[j] = activations[0](limited(input_part(x, hidden + j) + state_part(before.data(), hidden + j)));
        scaled[j] = reset[j] * before[j];
      }
      for (int64_t j = 0; j < hidden; ++j) {
        const int64_t row = 2 * hidden + j;
        const double recurrent = linear_before_reset ? reset[j] * state_part(before.data(), row) : state_part(scaled.data(), row);
        const double candidate = activations[1](limited(input_part(x, row) + recurrent));
        h[j] = (1 - z[j]) * candidate + z[j] * before[j];
      }
    }
  }
};

RunFunction prepare_recurrent(const NodeView& node) {
  const std::string_view op = node.node->op().name;
  const Cell cell = op == "lstm" ? Cell::Lstm : op == "gru" ? Cell::Gru : Cell::Rnn;
  const ir::Attrs& attrs = node.attrs();
  const Shape x_shape = node.input_shapes[0];
  const bool batch_first = attrs.get_int("layout", 0) == 1;
  const int64_t length = x_shape[batch_first ? 1 : 0], batch = x_shape[batch_first ? 0 : 1], inputs = x_shape[2];
  const int64_t hidden = attrs.get_int("hidden_size", node.input_shapes[2].back()), directions = node.input_shapes[1][0];
  const int64_t gates = cell == Cell::Lstm ? 4 : cell == Cell::Gru ? 3 : 1;
  const std::string direction = attrs.get_string("direction", "forward");
  const std::vector<std::string> defaults = cell == Cell::Lstm  ? std::vector<std::string>{"sigmoid", "tanh", "tanh"}
                                            : cell == Cell::Gru ? std::vector<std::string>{"sigmoid", "tanh"}
                                                                : std::vector<std::string>{"tanh"};
  const std::vector<Activation> activations = read_activations(node, defaults, static_cast<int>(directions));
  const double clip = attrs.get_float("clip", 0);
  const bool input_forget = attrs.get_bool("input_forget", false), linear_before_reset = attrs.get_bool("linear_before_reset", false);
  const int64_t per_direction = static_cast<int64_t>(defaults.size());
  const std::string label = label_of(node);
  return [=](const RunArgs& args) {
    const auto input = [&](size_t i) {
      return args.inputs.size() > i && args.inputs[i].defined() ? to_doubles(args.inputs[i]) : std::vector<double>{};
    };
    const std::vector<double> x = input(0), w = input(1), r = input(2), b = input(3), lengths = input(4), h0 = input(5), c0 = input(6),
                              p = input(7);
    const auto wants = [&](size_t i) { return args.outputs.size() > i && args.outputs[i].defined(); };
    std::vector<double> y(length * directions * batch * hidden, 0.0), last_h(directions * batch * hidden), last_c(last_h.size());
    for (int64_t d = 0; d < directions; ++d)
      for (int64_t n = 0; n < batch; ++n) {
        Step step{cell,
                  hidden,
                  inputs,
                  gates,
                  w.data() + d * gates * hidden * inputs,
                  r.data() + d * gates * hidden * hidden,
                  nullptr,
                  nullptr,
                  nullptr,
                  activations.data() + d * per_direction,
                  clip,
                  input_forget,
                  linear_before_reset};
        if (!b.empty()) {
          step.bias_w = b.data() + d * 2 * gates * hidden;
          step.bias_r = step.bias_w + gates * hidden;
        }
        if (!p.empty()) step.peephole = p.data() + d * 3 * hidden;
        const int64_t state_at = (batch_first ? n * directions + d : d * batch + n) * hidden;
        std::vector<double> h(hidden, 0.0), c(hidden, 0.0);
        if (!h0.empty()) std::copy_n(h0.begin() + state_at, hidden, h.begin());
        if (!c0.empty()) std::copy_n(c0.begin() + state_at, hidden, c.begin());
        const int64_t steps = lengths.empty() ? length : static_cast<int64_t>(lengths[n]);
        if (steps < 0 || steps > length) fail(ErrorCode::OutOfRange, "{} sequence length {} outside [0, {}]", label, steps, length);
        const bool backwards = d == 1 || direction == "reverse";
        for (int64_t s = 0; s < steps; ++s) {
          const int64_t t = backwards ? steps - 1 - s : s;
          step.run(x.data() + (batch_first ? n * length + t : t * batch + n) * inputs, h, c);
          const int64_t at = batch_first ? ((n * length + t) * directions + d) * hidden : ((t * directions + d) * batch + n) * hidden;
          std::copy(h.begin(), h.end(), y.begin() + at);
        }
        std::copy(h.begin(), h.end(), last_h.begin() + state_at);
        std::copy(c.begin(), c.end(), last_c.begin() + state_at);
      }
    if (wants(0)) from_doubles(y, args.outputs[0]);
    if (wants(1)) from_doubles(last_h, args.outputs[1]);
    if (wants(2)) from_doubles(last_c, args.outputs[2]);
  };
}

}  // namespace

KernelList recurrent_kernels() {
  return {define("lstm", prepare_recurrent), define("gru", prepare_recurrent), define("rnn", prepare_recurrent)};
}

}  // namespace tokamak::cpu::ref
