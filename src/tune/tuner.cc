#include "tune/tuner.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/cuda_backend.h"
#endif
#include "ir/op.h"
#include "ir/text.h"
#include "runtime/size_choices.h"
#include "tune/in_graph.h"

namespace tokamak::tune {
namespace {

constexpr int kInGraphLevel = 3;      // from this opt_level on
constexpr double kTimedAlone = 0.85;  // of the tuner's time

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

// False for a GPU that is not here.
bool can_time(const TunerOptions& options) {
#ifdef TOKAMAK_CUDA
  if (options.cuda != nullptr && options.cuda->device() == nullptr) return false;
#endif
  return options.opt_level > 0;
}

// Those of a list that accept the node.
std::vector<Candidate> accepting(const std::vector<const KernelDef*>& kernels, const NodeView& view, const TunerOptions& options,
                                 TacticReport& report) {
  std::vector<Candidate> out;
  for (const KernelDef* def : kernels) {
    if (is_disabled(def->name(), options.disabled_kernels)) continue;
    if (def->name().starts_with("onednn.") && options.opt_level < 4) continue;  // why: kernels/onednn.cc
    const bool is_ref = def->name().starts_with("ref.");
    if ((is_ref || def->is_fallback()) && !out.empty() && options.opt_level < 5) continue;  // the oracle is never the fast one
    const Support support = def->supports(view);
    if (!support) {
      report.declined.emplace_back(def->name(), support.reason());
      continue;
    }
    // Nothing to time, or nothing that timing could tell: the first that accepts.
    const bool is_timed = can_time(options) && !(options.cuda != nullptr && view.node->op().has(ir::kDataDependentWork));
    const std::vector<std::string> tactics = def->tactics(view);
    for (size_t i = 0; i < tactics.size() && (i == 0 || (is_timed && options.opt_level >= 2)); ++i) out.push_back({def, tactics[i]});
    if (!is_timed || view.node->op().has(ir::kDataDependentWork)) break;
  }
  return out;
}

// With a GPU its kernels; where none accepts the node, the first of the host's, with the reason why in the report.
std::vector<Candidate> candidates_for(const NodeView& view, const TunerOptions& options, TacticReport& report) {
  const std::string_view op = view.node->op().name;
#ifdef TOKAMAK_CUDA
  if (options.cuda != nullptr) {
    std::vector<Candidate> out = accepting(cuda::kernels_for(op), view, options, report);
    if (!out.empty()) return out;
    for (const auto& [kernel, reason] : report.declined)
      report.host_reason += fmt::format("{}{}: {}", report.host_reason.empty() ? "" : "; ", kernel, reason);
    if (report.host_reason.empty()) report.host_reason = "the CUDA backend has no kernel for this operator";
    out = accepting(cpu::kernels_for(op), view, options, report);
    if (out.size() > 1) out.resize(1);
    return out;
  }
#endif
  return accepting(cpu::kernels_for(op), view, options, report);
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

std::string machine_of(const TunerOptions& options, int threads, int64_t streamed) {
#ifdef TOKAMAK_CUDA
  if (options.cuda != nullptr)
    return fmt::format("{} {}{}", options.cuda->target().device_name, options.cuda->target().name(),
                       options.cuda->allow_tf32() ? " tf32" : "");
#endif
  (void)options;
  return fmt::format("{} {} x{}{}", cpu_model_name(), cpu_features().to_string(), threads, streamed ? " streamed" : "");
}

std::unique_ptr<Stopwatch> stopwatch_for(const NodeView& view, ThreadPool& pool, int64_t streamed) {
#ifdef TOKAMAK_CUDA
  if (view.cuda != nullptr) return device_stopwatch(view);
#endif
  return host_stopwatch(view, pool, streamed);
}

// The kernels for each size, ascending; empty when one does for all, or when one packs constants: the others could not read them.
std::vector<SizeChoice> size_table(const std::vector<Choice*>& all) {
  const Choice& first = *all[0];
  std::vector<SizeChoice> table;
  bool differ = false;
  for (const Choice* c : all) {
    if (c == nullptr) continue;
    for (const Tensor& t : pack_constants(c->view, c->candidate()))
      if (t.defined()) return {};
    differ |= c->candidate().def != first.candidate().def || c->candidate().tactic != first.candidate().tactic;
    const int64_t size = size_of(c->view);
    if (std::none_of(table.begin(), table.end(), [&](const SizeChoice& s) { return s.size == size; }))
      table.push_back({size, std::string(c->candidate().def->name()), c->candidate().tactic});
  }
  if (!differ) return {};
  std::sort(table.begin(), table.end(), [](const SizeChoice& a, const SizeChoice& b) { return a.size < b.size; });
  return table;
}

struct Tuned {
  ir::Node* node;
  std::vector<Choice*> at;  // each point; null where that one does not reach the node
};

// The view of a node that can be tuned; nothing for views, control flow, what the binding does not reach, and what is known without
// running.
std::optional<NodeView> tunable(const ir::Node& node, const Binding& binding, int threads, const cuda::Context* cuda) {
  if (node.op().has(ir::kControlFlow) || node.op().has(ir::kView)) return std::nullopt;
  bool known = true;
  for (const ir::Value* v : node.inputs())
    if (v != nullptr && (!binding.values.contains(v) || !binding.at(v).is_static())) return std::nullopt;
  for (const ir::Value* v : node.outputs()) {
    if (!binding.values.contains(v) || !binding.at(v).is_static()) return std::nullopt;
    known &= binding.at(v).info.constant.defined();
  }
  if (known) return std::nullopt;
  NodeView view = make_view(node, binding, threads, cuda);
  // Only what is constant in every engine is constant here; values computed from shapes are not.
  for (int i = 0; i < node.num_inputs(); ++i)
    view.constants[i] = node.input(i) && node.input(i)->is_constant() ? &node.input(i)->constant : nullptr;
  return view;
}

#ifdef TOKAMAK_CUDA
// Of each point that has inputs for it.
void choose_in_graphs(ir::Graph& graph, std::span<const TuningPoint> points, const std::vector<Tuned>& nodes, const std::string& machine,
                      ThreadPool& pool, TimingCache& cache, const TunerOptions& options, BuildReport& report) {
  DeviceGraphClocks clocks(graph, pool, *options.cuda);
  for (size_t p = 0; p < points.size(); ++p) {
    if (options.progress) options.progress(kTimedAlone + (1 - kTimedAlone) * static_cast<double>(p) / static_cast<double>(points.size()));
    if (points[p].inputs.empty() || !points[p].binding.is_static) continue;
    std::vector<PlacedChoice> placed;
    for (const Tuned& tuned : nodes)
      if (tuned.at[p] != nullptr) placed.push_back({tuned.node, tuned.at[p]});
    const auto clock = [&] {
      for (const PlacedChoice& c : placed) {
        c.node->kernel = c.choice->candidate().def->name();
        c.node->tactic = c.choice->candidate().tactic;
      }
      std::string why_not;
      auto made = clocks.make(points[p].binding, points[p].inputs, why_not);
      if (!made) report.notes.push_back("kernels were chosen alone, not in the whole graph: " + why_not);
      return made;
    };
    choose_in_graph(placed, machine, cache, pool, clock, report);
  }
}
#endif

}  // namespace

void compile_candidates(std::span<const std::pair<const NodeView*, const Candidate*>> all, ThreadPool& pool) {
  std::mutex mutex;
  std::exception_ptr error;
  pool.parallel_for(static_cast<int64_t>(all.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) try {
        NodeView view = *all[i].first;
        const std::vector<Tensor> packed = pack_constants(view, *all[i].second);
        for (size_t k = 0; k < packed.size(); ++k)
          if (packed[k].defined()) view.constants[k] = &packed[k];
        all[i].second->def->make(view, all[i].second->tactic);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
  });
  if (error) std::rethrow_exception(error);
}

void tune(ir::Graph& graph, std::span<const TuningPoint> points, ThreadPool& pool, TimingCache& cache, const TunerOptions& options,
          BuildReport& report) {
  const Binding& binding = points[0].binding;
  const int64_t streamed = options.cuda == nullptr ? streamed_bytes(graph, pool.width()) : 0;
  const std::string machine = machine_of(options, pool.width(), streamed);
  std::map<std::string, Choice> by_signature;
  std::vector<Tuned> nodes;
  std::vector<Choice*> order;
  const auto add = [&](ir::Node* node, const Binding& sizes) -> Choice* {
    std::optional<NodeView> view = tunable(*node, sizes, pool.width(), options.cuda);
    if (!view) return nullptr;
    const auto [found, fresh] = by_signature.try_emplace(signature(*view));
    Choice& choice = found->second;
    if (!fresh) return &choice;
    choice.signature = found->first;
    choice.view = std::move(*view);
    choice.candidates = candidates_for(choice.view, options, choice.report);
    if (choice.candidates.empty()) {
      std::string reasons;
      for (const auto& [kernel, reason] : choice.report.declined) reasons += fmt::format("\n  {}: {}", kernel, reason);
      fail(ErrorCode::Unsupported, "[{} \"{}\"] no kernel accepts `{}`:{}", node->op().name, node->label(), found->first, reasons);
    }
    order.push_back(&choice);
    return &choice;
  };
  for (ir::Node* node : graph.nodes_snapshot()) {
    Choice* choice = add(node, binding);
    if (choice == nullptr) continue;
    Tuned& tuned = nodes.emplace_back(Tuned{node, {choice}});
    const bool is_first = node->op().has(ir::kDataDependentWork);  // that accepts, at any size
    for (const TuningPoint& point : points.subspan(1)) tuned.at.push_back(is_first ? choice : add(node, point.binding));
  }

  const auto entry_of = [&](size_t i, const Candidate& c) {
    return fmt::format("{} | {} | {} {}", machine, order[i]->signature, c.def->name(), c.tactic);
  };
  if (options.cuda != nullptr) {
    std::vector<std::pair<const NodeView*, const Candidate*>> untimed;
    for (size_t i = 0; i < order.size(); ++i)
      for (const Candidate& c : order[i]->candidates)
        if (order[i]->candidates.size() > 1 && !cache.find(entry_of(i, c))) untimed.emplace_back(&order[i]->view, &c);
    compile_candidates(untimed, pool);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    Choice& choice = *order[i];
    if (options.progress) options.progress(kTimedAlone * static_cast<double>(i) / static_cast<double>(order.size()));
    if (choice.candidates.size() < 2) continue;
    std::unique_ptr<Stopwatch> stopwatch;
    double best = 1e30;
    for (size_t k = 0; k < choice.candidates.size(); ++k) {
      const Candidate& c = choice.candidates[k];
      const std::string entry = entry_of(i, c);
      double us;
      if (const auto cached = cache.find(entry)) {
        us = *cached;
        ++report.cached;
      } else {
        if (!stopwatch) stopwatch = stopwatch_for(choice.view, pool, streamed);
        try {
          us = cache.insert(entry, stopwatch->measure(c, budget_of(options.opt_level), best));
        } catch (const Error& e) {
          throw Error(e.code(),
                      fmt::format("timing the kernel {} \"{}\" for `{}`: {}", c.def->name(), c.tactic, choice.signature, e.what()));
        }
        ++report.timed;
      }
      choice.report.candidates.emplace_back(c.tactic.empty() ? std::string(c.def->name()) : fmt::format("{} {}", c.def->name(), c.tactic),
                                            us);
      choice.us.push_back(us);
      if (us < best) {
        best = us;
        choice.chosen = k;
      }
    }
  }
#ifdef TOKAMAK_CUDA
  if (options.cuda != nullptr && can_time(options) && options.opt_level >= kInGraphLevel)
    choose_in_graphs(graph, points, nodes, machine, pool, cache, options, report);
#endif

  std::map<std::pair<const void*, std::string>, ir::Value*> packed_constants;
  for (const Tuned& tuned : nodes) {
    ir::Node& node = *tuned.node;
    const Choice& choice = *tuned.at[0];
    const NodeView view = *tunable(node, binding, pool.width(), options.cuda);
    node.kernel = choice.candidate().def->name();
    node.tactic = choice.candidate().tactic;
    const std::vector<Tensor> packed = pack_constants(view, choice.candidate());
    if (const auto table = size_table(tuned.at); !table.empty()) {
      node.kernel = kBySize;
      node.tactic = to_text(table);
    }
    TacticReport entry = choice.report;
    if (!choice.us.empty()) entry.us = choice.us[choice.chosen];
    entry.node = node.label();
    entry.op = node.op().name;
    entry.origin = node.origin;
    entry.kernel = node.kernel;
    entry.tactic = node.tactic;
    for (const Choice* other : std::span(tuned.at).subspan(1)) {
      if (other == nullptr) continue;
      for (const auto& [name, us] : other->report.candidates)
        entry.candidates.emplace_back(fmt::format("{} at {}", name, size_of(other->view)), us);
    }
    report.tactics.push_back(std::move(entry));
    // Where a fallback does only because of this size, each plan takes the first that accepts its own.
    if (node.op().has(ir::kDataDependentWork) && choice.candidate().def->is_fallback() && !choice.report.declined.empty()) {
      node.kernel.clear();
      node.tactic.clear();
    }

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
