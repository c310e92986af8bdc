#pragma once
// Builds the step graph of a decoder-only transformer from the parts that the architectures share. An architecture's file strings the parts
// together; names of weights are Hugging Face's.
//
// Inputs, i32 but the caches:
//   token_ids, positions, slot_mapping [tokens]; block_tables [seqs, blocks_per_seq]; seq_lens [seqs]; query_starts [seqs+1];
//   logit_rows [rows]; kv_cache.0 .. kv_cache.(L-1) [num_blocks, 2, num_kv_heads, block_size, head_dim], in HfOptions::kv_dtype
// Output: logits f32 [rows, vocab_size].

#include "import/hf/checkpoint.h"
#include "import/hf/config.h"
#include "import/hf/hf.h"

namespace tokamak::hf {

class Decoder {
 public:
  using Value = ir::Value;

  // Adds the inputs and the metadata. The checkpoint must outlive this.
  Decoder(Checkpoint& checkpoint, ModelConfig config, const HfOptions& options);

  int64_t num_layers() const { return config_.num_layers; }

  // [tokens, hidden]
  Value* embed();
  // RMSNorm with the weight "model.layers.<layer>.<module>.weight".
  Value* norm(int64_t layer, const std::string& module, Value* x);
  // self_attn: projections, rotary embedding, cache, output projection.
  // [tokens, hidden]; in the last layer [rows, hidden]: from there on nothing is computed for tokens whose logits are not wanted.
  Value* attention(int64_t layer, Value* x);
  // x; in the last layer the rows of those tokens. For what attention() is added to.
  Value* wanted(int64_t layer, Value* x);
  // mlp: down(act(gate(x)) * up(x)).
  Value* gated_mlp(int64_t layer, Value* x);
  Value* add(Value* a, Value* b) { return graph_->build("add", {a, b}); }
  // The blocks of Llama and most others: x + attention(norm(x)), then x + mlp(norm(x)).
  Value* pre_norm_blocks(Value* x);
  // Final norm, head. Sets the output.
  void finish(Value* x);

  std::unique_ptr<ir::Graph> take_graph() { return std::move(graph_); }

 private:
  struct Rotary {
    Value *cos, *sin;
  };

  void add_inputs();
  void add_metadata();
  void find_prefix();
  std::string layer_prefix(int64_t layer) const { return fmt::format("{}layers.{}.", prefix_, layer); }
  void split_over_ranks();
  Weight take(const std::string& name, Shape shape) { return checkpoint_.take(name, shape); }
  // This rank's rows of a matrix or vector; of a matrix that is `num_parts` matrices one behind the other, of each part.
  Weight take_rows(const std::string& name, Shape shape_here, const std::vector<int64_t>& parts_here);
  Value* vector(const std::string& name, int64_t size, bool plus_one);
  Value* rms_norm(Value* x, Value* scale, const std::string& name);
  Value* linear(Value* x, const Weight& weight, Value* bias);
  // x times this rank's rows of a matrix: `rows` of them here.
  Value* column_parallel(Value* x, const std::string& name, int64_t rows, int64_t columns, bool bias);
  // This rank's columns of x and of the matrix (`columns` here), then the sum over the ranks.
  Value* row_parallel(Value* x, const std::string& name, int64_t rows, int64_t columns, bool bias);
  Value* merged(Value* x, const std::string& module, const std::vector<std::pair<std::string, int64_t>>& parts, int64_t columns, bool bias);
  Value* activate(Value* x);
  Value* scaled(Value* x, double factor);
  const Rotary& rotary(int rope);

  Checkpoint& checkpoint_;
  ModelConfig config_;  // heads and intermediate size: this rank's
  HfOptions options_;
  std::unique_ptr<ir::Graph> graph_;
  std::string prefix_;  // "model."
  Weight embedding_;
  int64_t context_;
  Value *token_ids_, *positions_, *slot_mapping_, *block_tables_, *seq_lens_, *query_starts_, *logit_rows_;
  std::vector<Value*> caches_;
  std::vector<std::optional<Rotary>> rotaries_;
};

}  // namespace tokamak::hf
