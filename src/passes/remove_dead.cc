// Removes nodes whose results nobody wants, and constants without users. A node that writes one of its inputs is wanted for that.

#include "ir/op.h"
#include "passes/match.h"
#include "passes/pass.h"

namespace tokamak::passes {

int remove_dead(Graph& graph, PassContext&) {
  int removed = 0;
  std::vector<Node*> nodes = graph.nodes_snapshot();
  for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
    Node* n = *it;
    bool wanted = n->op().written_input >= 0;
    for (const Value* v : n->outputs()) wanted = wanted || (v != nullptr && (!v->uses().empty() || v->is_graph_output()));
    if (wanted) continue;
    graph.erase(n);
    ++removed;
  }
  graph.drop_unused_values();
  return removed;
}

}  // namespace tokamak::passes
