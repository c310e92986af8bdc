// kv_cache_write and the paged_attention that reads its q and its cache become cached_attention, for backends that have kernels for both at
// once (the CPU's have not).

#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {
namespace {

bool fuse(Node* attend) {
  Node* write = sole_producer(attend->input(0), "kv_cache_write");
  if (write == nullptr || write->graph() != attend->graph() || write->input(1) != attend->input(1)) return false;
  // Nobody else may see the cache between the two.
  for (const ir::Use& use : write->input(1)->uses())
    if (use.node != write && use.node != attend) return false;
  for (const char* name : {"k_scale", "v_scale"})
    if (write->attrs.get_float(name, 1) != attend->attrs.get_float(name, 1)) return false;
  for (const char* name : {"num_heads", "num_kv_heads", "head_dim"})
    if (write->attrs.get_int(name) != attend->attrs.get_int(name)) return false;
  std::vector<Value*> inputs{write->input(0), write->input(1), write->input(2), attend->input(2), attend->input(3), attend->input(4)};
  for (int i = 3; i < write->num_inputs(); ++i) inputs.push_back(write->input(i));
  Attrs attrs = attend->attrs;
  for (const char* name : {"epsilon", "interleaved"})
    if (const auto* value = write->attrs.find(name)) attrs.set(name, *value);
  Node* fused = attend->graph()->add_node("cached_attention", inputs, attrs, attend->name, attend);
  fused->origin = merged_origin({write, attend});
  replace(attend->output(0), fused->output(0));
  Graph& graph = *attend->graph();
  graph.erase(attend);
  graph.erase(write);  // erase_if_dead() keeps nodes that write
  return true;
}

}  // namespace

int fuse_cached_attention(Graph& graph, PassContext&) {
  int fused = 0;
  for (Node* n : graph.nodes_snapshot())
    if (n->is("paged_attention") && fuse(n)) ++fused;
  return fused;
}

}  // namespace tokamak::passes
