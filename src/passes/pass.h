#pragma once
// A graph rewrite. Each lives in a file of its own; passes/pipeline.cc lists them in order.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.h"

namespace tokamak::passes {

// What a pass may ask for and tell.
struct PassContext {
  bool is_gpu = false;             // what the graph is built for
  bool quantizes = false;          // weights of products will be rounded to a few bits
  std::vector<std::string> notes;  // lines for the build report
};

// `run` rewrites one graph (the pipeline calls it for every subgraph too) and returns how many rewrites it made. The graph is valid
// before and after; nodes without users may be left behind for `remove_dead`.
struct Pass {
  std::string_view name;
  std::string_view doc;
  int (*run)(ir::Graph&, PassContext&);
};

int canonicalize(ir::Graph&, PassContext&);
int simplify_shapes(ir::Graph&, PassContext&);
int fold_constants(ir::Graph&, PassContext&);
int eliminate_common(ir::Graph&, PassContext&);
int remove_dead(ir::Graph&, PassContext&);
int fold_batch_norm(ir::Graph&, PassContext&);
int merge_affine(ir::Graph&, PassContext&);
int fold_scales(ir::Graph&, PassContext&);
int fuse_activations(ir::Graph&, PassContext&);
int fuse_softmax(ir::Graph&, PassContext&);
int fuse_norms(ir::Graph&, PassContext&);
int fuse_rope(ir::Graph&, PassContext&);
int fuse_attention(ir::Graph&, PassContext&);
int fuse_add_norm(ir::Graph&, PassContext&);
int sink_reshapes(ir::Graph&, PassContext&);
int sink_row_transposes(ir::Graph&, PassContext&);
int sink_transposes(ir::Graph&, PassContext&);
int merge_matmuls(ir::Graph&, PassContext&);
int pack_projections(ir::Graph&, PassContext&);
int hoist_slices(ir::Graph&, PassContext&);
int pixel_matmuls(ir::Graph&, PassContext&);
int choose_layout(ir::Graph&, PassContext&);
int fuse_epilogues(ir::Graph&, PassContext&);
int fuse_regions(ir::Graph&, PassContext&);
int finish_movement(ir::Graph&, PassContext&);
// For GPUs only, behind all others.
int fuse_cached_attention(ir::Graph&, PassContext&);
int fuse_linear(ir::Graph&, PassContext&);
int scale_operands(ir::Graph&, PassContext&);

// For rewrites that make room for each other: tries `rewrite` (which says whether it replaced the node) on every node, over and over until
// none of them applies, at most 64 times. Returns how often one did.
int rewrite_until_settled(ir::Graph&, PassContext&, const std::function<bool(ir::Node*)>& rewrite);

}  // namespace tokamak::passes
