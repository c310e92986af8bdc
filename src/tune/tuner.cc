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
#include "tune/stopwatch.h"

namespace tokamak::tune {
namespace {

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

// What is known about all nodes with one signature.
struct Choice {
  NodeView view;  // of the first of them
  std::vector<Candidate> candidates;
  Candidate candidate;
  TacticReport report;
};

// The kernels for each size, ascending; empty when one does for all, or when one packs constants: the others could not read them.
std::vector<SizeChoice> size_table(const Choice& first, const std::vector<const Choice*>& more) {
  std::vector<const Choice*> all{&first};
  all.insert(all.end(), more.begin(), more.end());
  std::vector<SizeChoice> table;
  bool differ = false;
  for (const Choice* c : all) {
    for (const Tensor& t : pack_constants(c->view, c->candidate))
      if (t.defined()) return {};
    differ |= c->candidate.def != first.candidate.def || c->candidate.tactic != first.candidate.tactic;
    const int64_t size = size_of(c->view);
    if (std::none_of(table.begin(), table.end(), [&](const SizeChoice& s) { return s.size == size; }))
      table.push_back({size, std::string(c->candidate.def->name()), c->candidate.tactic});
  }
  if (!differ) return {};
  std::sort(table.begin(), table.end(), [](const SizeChoice& a, const SizeChoice& b) { return a.size < b.size; });
  return table;
}

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

// The GPU's code of everything that will be timed, compiled by all threads at once: the compiler takes longer than the timing.
void compile_candidates(const std::vector<std::pair<const NodeView*, const Candidate*>>& all, ThreadPool& pool) {
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

}  // namespace

void tune(ir::Graph& graph, const Binding& binding, ThreadPool& pool, TimingCache& cache, const TunerOptions& options, BuildReport& report,
          std::span<const Binding> more) {
  const int64_t streamed = options.cuda == nullptr ? streamed_bytes(graph, pool.width()) : 0;
  const std::string machine = machine_of(options, pool.width(), streamed);
  std::map<std::string, Choice> by_signature;
  struct Tuned {
    ir::Node* node;
    const Choice* choice;
    std::vector<const Choice*> more;  // for the other sizes
  };
  std::vector<Tuned> nodes;
  std::vector<Choice*> order;
  std::vector<std::string> keys;
  const auto add = [&](ir::Node* node, const Binding& sizes) -> Choice* {
    std::optional<NodeView> view = tunable(*node, sizes, pool.width(), options.cuda);
    if (!view) return nullptr;
    const auto [found, fresh] = by_signature.try_emplace(signature(*view));
    Choice& choice = found->second;
    if (!fresh) return &choice;
    choice.view = std::move(*view);
    choice.candidates = candidates_for(choice.view, options, choice.report);
    if (choice.candidates.empty()) {
      std::string reasons;
      for (const auto& [kernel, reason] : choice.report.declined) reasons += fmt::format("\n  {}: {}", kernel, reason);
      fail(ErrorCode::Unsupported, "[{} \"{}\"] no kernel accepts `{}`:{}", node->op().name, node->label(), found->first, reasons);
    }
    choice.candidate = choice.candidates[0];
    order.push_back(&choice);
    keys.push_back(found->first);
    return &choice;
  };
  for (ir::Node* node : graph.nodes_snapshot()) {
    const Choice* choice = add(node, binding);
    if (choice == nullptr) continue;
    nodes.push_back({node, choice, {}});
    if (node->op().has(ir::kDataDependentWork)) continue;  // the first that accepts, at any size
    for (const Binding& sizes : more)
      if (const Choice* other = add(node, sizes)) nodes.back().more.push_back(other);
  }

  const auto entry_of = [&](size_t i, const Candidate& c) {
    return fmt::format("{} | {} | {} {}", machine, keys[i], c.def->name(), c.tactic);
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
    if (options.progress) options.progress(static_cast<double>(i) / static_cast<double>(order.size()));
    if (choice.candidates.size() < 2) continue;
    std::unique_ptr<Stopwatch> stopwatch;
    double best = 1e30;
    for (const Candidate& c : choice.candidates) {
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
          throw Error(e.code(), fmt::format("timing the kernel {} \"{}\" for `{}`: {}", c.def->name(), c.tactic, keys[i], e.what()));
        }
        ++report.timed;
      }
      choice.report.candidates.emplace_back(c.tactic.empty() ? std::string(c.def->name()) : fmt::format("{} {}", c.def->name(), c.tactic),
                                            us);
      if (us < best) {
        best = us;
        choice.candidate = c;
      }
    }
    choice.report.us = best;
  }

  std::map<std::pair<const void*, std::string>, ir::Value*> packed_constants;
  for (const Tuned& tuned : nodes) {
    ir::Node& node = *tuned.node;
    const Choice& choice = *tuned.choice;
    const NodeView view = *tunable(node, binding, pool.width(), options.cuda);
    node.kernel = choice.candidate.def->name();
    node.tactic = choice.candidate.tactic;
    const std::vector<Tensor> packed = pack_constants(view, choice.candidate);
    if (const auto table = size_table(choice, tuned.more); !table.empty()) {
      node.kernel = kBySize;
      node.tactic = to_text(table);
    }
    TacticReport entry = choice.report;
    entry.node = node.label();
    entry.op = node.op().name;
    entry.origin = node.origin;
    entry.kernel = node.kernel;
    entry.tactic = node.tactic;
    for (const Choice* other : tuned.more)
      for (const auto& [name, us] : other->report.candidates)
        entry.candidates.emplace_back(fmt::format("{} at {}", name, size_of(other->view)), us);
    report.tactics.push_back(std::move(entry));
    // Where a fallback does only because of this size, each plan takes the first that accepts its own.
    if (node.op().has(ir::kDataDependentWork) && choice.candidate.def->is_fallback() && !choice.report.declined.empty()) {
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
