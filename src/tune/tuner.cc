#include "tune/tuner.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::tune {
namespace {

struct Candidate {
  const KernelDef* def;
  std::string tactic;
};

double now_us() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// How long one candidate may be timed: the first of the two limits that is reached ends it.
struct Budget {
  double us;
  int runs;
};
Budget budget_of(int opt_level) {
  constexpr Budget kBudgets[] = {{0, 0}, {1e3, 6}, {3e3, 15}, {8e3, 40}, {25e3, 100}, {80e3, 300}};
  return kBudgets[std::clamp(opt_level, 0, 5)];
}

// What decides a node's speed: the op, its attributes, and each input's and output's type; "=" marks constants.
std::string signature(const NodeView& view) {
  std::string text = std::string(view.node->op().name) + ir::print_attrs(view.attrs());
  for (size_t i = 0; i < view.input_shapes.size(); ++i) {
    if (!view.has_input(static_cast<int>(i))) text += " _";
    else text += fmt::format(" {}{}{}", view.constants[i] ? "=" : "", to_string(view.input_dtypes[i]), to_string(view.input_shapes[i]));
  }
  text += " ->";
  for (size_t i = 0; i < view.output_shapes.size(); ++i)
    text += fmt::format(" {}{}", to_string(view.output_dtypes[i]), to_string(view.output_shapes[i]));
  return text;
}

bool is_disabled(std::string_view name, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& p) { return name.starts_with(p); });
}

std::vector<Candidate> candidates_for(const NodeView& view, const TunerOptions& options, TacticReport& report) {
  std::vector<Candidate> out;
  for (const KernelDef* def : cpu::kernels_for(view.node->op().name)) {
    if (is_disabled(def->name(), options.disabled_kernels)) continue;
    if (def->name().starts_with("onednn.") && options.opt_level < 4) continue;  // why: kernels/onednn.cc
    const bool is_ref = def->name().starts_with("ref.");
    if ((is_ref || def->is_fallback()) && !out.empty() && options.opt_level < 5) continue;  // the oracle is never the fast one
    const Support support = def->supports(view);
    if (!support) {
      report.declined.emplace_back(def->name(), support.reason());
      continue;
    }
    const std::vector<std::string> tactics = def->tactics(view);
    for (size_t i = 0; i < tactics.size() && (i == 0 || options.opt_level >= 2); ++i) out.push_back({def, tactics[i]});
    // Nothing to time, or nothing that timing could tell: the first that accepts.
    if (options.opt_level == 0 || view.node->op().has(ir::kDataDependentWork)) break;
  }
  return out;
}

// Contents that no kernel trips over: floats of ordinary size, zero indices, true and false.
Tensor random_tensor(DType dtype, const Shape& shape, std::mt19937& random) {
  Tensor t = Tensor::zeros(dtype, shape);
  if (dtype == DType::F32) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t i = 0; i < t.count(); ++i) t.data<float>()[i] = uniform(random);
  } else if (dtype == DType::Bool) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = random() & 1;
  } else if (dtype == DType::I8 || dtype == DType::U8) {
    for (int64_t i = 0; i < t.count(); ++i) t.data<uint8_t>()[i] = static_cast<uint8_t>(random());
  }
  return t;
}

// The weights of `view` as this candidate stores them.
std::vector<Tensor> pack_constants(const NodeView& view, const Candidate& candidate) {
  std::vector<Tensor> packed(view.input_shapes.size());
  for (size_t i = 0; i < packed.size(); ++i)
    if (view.constants[i]) packed[i] = candidate.def->pack(view, candidate.tactic, static_cast<int>(i));
  return packed;
}

// Bytes of constants that pass through the caches between two runs of a node, or 0 when the graph's constants stay in the second-level
// caches of the threads: then a node finds its weights where the last inference left them.
int64_t streamed_bytes(const ir::Graph& graph, int threads) {
  constexpr int64_t kMost = 64 << 20;  // of copies that a measurement makes
  const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
  const int64_t caches = (l2 > 0 ? l2 : 1 << 20) * int64_t{threads};
  int64_t bytes = 0;
  for (const ir::Value* v : graph.constants()) bytes += v->constant.size_bytes();
  return bytes <= caches ? 0 : std::min(2 * caches, kMost);
}

class Stopwatch {
 public:
  // Each run finds its constants as after `streamed_bytes` of others: not in the nearest caches, unless it is 0.
  Stopwatch(const NodeView& view, ThreadPool& pool, int64_t streamed_bytes) : view_(view), pool_(pool), streamed_bytes_(streamed_bytes) {
    std::mt19937 random(1);
    for (size_t i = 0; i < view.input_shapes.size(); ++i) {
      if (!view.has_input(static_cast<int>(i))) inputs_.emplace_back();
      else inputs_.push_back(view.constants[i] ? *view.constants[i] : random_tensor(view.input_dtypes[i], view.input_shapes[i], random));
    }
    for (size_t i = 0; i < view.output_shapes.size(); ++i) outputs_.push_back(Tensor::empty(view.output_dtypes[i], view.output_shapes[i]));
  }

  // The fastest of several runs; gives up early on a candidate that is well behind `best`.
  double measure(const Candidate& candidate, Budget budget, double best) {
    std::vector<Tensor> inputs = inputs_;
    const std::vector<Tensor> packed = pack_constants(view_, candidate);
    int64_t bytes = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (packed[i].defined()) inputs[i] = packed[i];
      if (view_.constants[i]) bytes += inputs[i].size_bytes();
    }
    // Runs take turns at copies of the constants, each copy with a kernel of its own: some kernels keep what they read of them.
    const int64_t copies = bytes == 0 ? 1 : std::clamp<int64_t>((streamed_bytes_ + bytes - 1) / bytes, 1, budget.runs);
    std::vector<Turn> turns(copies);
    for (Turn& turn : turns) {
      turn.inputs = inputs;
      NodeView view = view_;
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (!view_.constants[i]) continue;
        if (&turn != &turns[0]) turn.inputs[i] = inputs[i].clone();
        view.constants[i] = &turn.inputs[i];
      }
      turn.kernel = candidate.def->make(view, candidate.tactic);
    }
    const Tensor workspace = Tensor::empty(DType::U8, {turns[0].kernel->workspace_bytes()});
    double fastest = 1e30;
    const double start = now_us();
    for (int run = 0; run < budget.runs; ++run) {
      const Turn& turn = turns[run % copies];
      const RunArgs args{turn.inputs, outputs_, const_cast<void*>(workspace.raw()), &pool_};
      const double begin = now_us();
      turn.kernel->run(args);
      const double end = now_us();
      fastest = std::min(fastest, end - begin);
      if (run >= 2 && fastest > 1.5 * best) break;
      if (run >= 2 && end - start > budget.us) break;
    }
    return fastest;
  }

 private:
  struct Turn {
    std::vector<Tensor> inputs;
    std::unique_ptr<Kernel> kernel;
  };
  const NodeView& view_;
  ThreadPool& pool_;
  int64_t streamed_bytes_;
  std::vector<Tensor> inputs_, outputs_;
};

}  // namespace

void tune(ir::Graph& graph, const Binding& binding, ThreadPool& pool, TimingCache& cache, const TunerOptions& options,
          BuildReport& report) {
  const int64_t streamed = streamed_bytes(graph, pool.width());
  const std::string machine =
      fmt::format("{} {} x{}{}", cpu_model_name(), cpu_features().to_string(), pool.width(), streamed ? " streamed" : "");
  struct Choice {
    Candidate candidate;
    TacticReport report;
  };
  std::map<std::string, Choice> by_signature;
  std::map<std::pair<const void*, std::string>, ir::Value*> packed_constants;
  const std::vector<ir::Node*> nodes = graph.nodes_snapshot();
  for (size_t n = 0; n < nodes.size(); ++n) {
    ir::Node& node = *nodes[n];
    if (options.progress) options.progress(static_cast<double>(n) / static_cast<double>(nodes.size()));
    if (node.op().has(ir::kControlFlow) || node.op().has(ir::kView)) continue;
    bool reachable = true, known = true;
    for (const ir::Value* v : node.inputs()) reachable &= v == nullptr || (binding.values.contains(v) && binding.at(v).is_static());
    for (const ir::Value* v : node.outputs()) {
      reachable &= binding.values.contains(v) && binding.at(v).is_static();
      known &= reachable && binding.at(v).info.constant.defined();
    }
    if (!reachable || known) continue;
    NodeView view = make_view(node, binding, pool.width());
    // Only what is constant in every engine is constant here; values computed from shapes are not.
    for (int i = 0; i < node.num_inputs(); ++i)
      view.constants[i] = node.input(i) && node.input(i)->is_constant() ? &node.input(i)->constant : nullptr;

    const std::string key = signature(view);
    auto found = by_signature.find(key);
    if (found == by_signature.end()) {
      Choice choice;
      const std::vector<Candidate> candidates = candidates_for(view, options, choice.report);
      if (candidates.empty()) {
        std::string reasons;
        for (const auto& [kernel, reason] : choice.report.declined) reasons += fmt::format("\n  {}: {}", kernel, reason);
        fail(ErrorCode::Unsupported, "[{} \"{}\"] no kernel accepts `{}`:{}", node.op().name, node.label(), key, reasons);
      }
      choice.candidate = candidates[0];
      if (candidates.size() > 1) {
        Stopwatch stopwatch(view, pool, streamed);
        double best = 1e30;
        for (const Candidate& c : candidates) {
          const std::string entry = fmt::format("{} | {} | {} {}", machine, key, c.def->name(), c.tactic);
          double us;
          if (const auto cached = cache.find(entry)) {
            us = *cached;
            ++report.cached;
          } else {
            us = cache.insert(entry, stopwatch.measure(c, budget_of(options.opt_level), best));
            ++report.timed;
          }
          choice.report.candidates.emplace_back(
              c.tactic.empty() ? std::string(c.def->name()) : fmt::format("{} {}", c.def->name(), c.tactic), us);
          if (us < best) {
            best = us;
            choice.candidate = c;
          }
        }
        choice.report.us = best;
      }
      found = by_signature.emplace(key, std::move(choice)).first;
    }
    const Choice& choice = found->second;
    node.kernel = choice.candidate.def->name();
    node.tactic = choice.candidate.tactic;
    TacticReport entry = choice.report;
    entry.node = node.label();
    entry.op = node.op().name;
    entry.origin = node.origin;
    entry.kernel = node.kernel;
    entry.tactic = node.tactic;
    report.tactics.push_back(std::move(entry));

    const std::vector<Tensor> packed = pack_constants(view, choice.candidate);
    for (size_t i = 0; i < packed.size(); ++i) {
      if (!packed[i].defined()) continue;
      ir::Value* source = node.input(static_cast<int>(i));
      ir::Value*& value = packed_constants[{source->constant.raw(), packed[i].layout()}];
      if (value == nullptr || !same_bytes(value->constant, packed[i])) value = graph.add_constant(packed[i], source->name);
      node.set_input(static_cast<int>(i), value);
    }
  }
  graph.drop_unused_values();
}

}  // namespace tokamak::tune
