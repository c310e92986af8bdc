// random_normal, random_uniform, bernoulli, multinomial. With a seed, every run draws the same numbers; without, none repeats another's.

#include <algorithm>
#include <atomic>
#include <bit>

#include "backends/cpu/kernels/ref/ref.h"

namespace tokamak::cpu::ref {
namespace {

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
class Generator {
 public:
  explicit Generator(uint64_t state) : state_(state) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  double normal() {                                                         // Box and Muller, one of the pair
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586477 * uniform());
  }

 private:
  uint64_t state_;
};

// A function that gives each run its generator.
std::function<Generator()> generators(const NodeView& node) {
  if (node.attrs().has("seed")) return [seed = std::bit_cast<uint64_t>(node.attrs().get_float("seed"))] { return Generator(seed); };
  static std::atomic<uint64_t> runs{0};
  return [] { return Generator(runs.fetch_add(1) * 0xd1342543de82ef95 + 1); };
}

template <class Draw>
void fill_with(Tensor& y, const Draw& draw) {
  visit_number(y.dtype(), "random", [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < y.count(); ++i) y.data<T>()[i] = store<T>(draw(i));
  });
}

RunFunction prepare_normal(const NodeView& node) {
  const double mean = node.attrs().get_float("mean", 0), scale = node.attrs().get_float("scale", 1);
  return [=, make = generators(node)](const RunArgs& args) {
    Generator g = make();
    fill_with(args.outputs[0], [&](int64_t) { return mean + scale * g.normal(); });
  };
}

RunFunction prepare_uniform(const NodeView& node) {
  const double low = node.attrs().get_float("low", 0), high = node.attrs().get_float("high", 1);
  return [=, make = generators(node)](const RunArgs& args) {
    Generator g = make();
    fill_with(args.outputs[0], [&](int64_t) { return low + (high - low) * g.uniform(); });
  };
}

RunFunction prepare_bernoulli(const NodeView& node) {
  return [make = generators(node)](const RunArgs& args) {
    Generator g = make();
    const std::vector<double> p = to_doubles(args.inputs[0]);
    Tensor& y = args.outputs[0];
    if (y.dtype() == DType::Bool) {
      for (int64_t i = 0; i < y.count(); ++i) y.data<uint8_t>()[i] = g.uniform() < p[i];
    } else {
      fill_with(y, [&](int64_t i) { return g.uniform() < p[i] ? 1.0 : 0.0; });
    }
  };
}

RunFunction prepare_multinomial(const NodeView& node) {
  const int64_t classes = node.input_shapes[0][1], samples = node.output_shapes[0][1];
  return [=, make = generators(node)](const RunArgs& args) {
    Generator g = make();
    const std::vector<double> log_p = to_doubles(args.inputs[0]);
    std::vector<double> cumulative(classes);
    fill_with(args.outputs[0], [&](int64_t i) {
      if (i % samples == 0) {  // a new row
        const double* row = log_p.data() + i / samples * classes;
        const double highest = *std::max_element(row, row + classes);
        double sum = 0;
        for (int64_t c = 0; c < classes; ++c) cumulative[c] = sum += std::exp(row[c] - highest);
      }
      const double at = g.uniform() * cumulative[classes - 1];
      const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), at);
      return static_cast<double>(std::min<int64_t>(found - cumulative.begin(), classes - 1));
    });
  };
}

}  // namespace

KernelList random_kernels() {
  return {define("random_normal", prepare_normal), define("random_uniform", prepare_uniform), define("bernoulli", prepare_bernoulli),
          define("multinomial", prepare_multinomial)};
}

}  // namespace tokamak::cpu::ref
