#include "import/hf/decoder.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/half.h"

namespace tokamak::hf {

using ir::Dim;
using ir::Dims;
using ir::TensorType;
using ir::Value;

Decoder::Decoder(Checkpoint& checkpoint, ModelConfig config, const HfOptions& options)
    : checkpoint_(checkpoint), config_(std::move(config)), options_(options), graph_(std::make_unique<ir::Graph>()) {
  if (options.kv_dtype != DType::F32 && options.kv_dtype != DType::F16 && options.kv_dtype != DType::BF16 &&
      options.kv_dtype != DType::F8E4M3FN)
    fail(ErrorCode::InvalidArgument, "the KV cache's dtype is {}; expected f32, f16, bf16 or f8e4m3fn", to_string(options.kv_dtype));
  if (options.block_size < 16 || options.block_size > 4096 || options.block_size % 16 != 0)
    fail(ErrorCode::InvalidArgument, "the KV cache's block size is {}; expected a multiple of 16 tokens up to 4096", options.block_size);
  if (options.max_context < 0 || options.max_context > (1 << 28))
    fail(ErrorCode::InvalidArgument, "the context length is {}; expected 1 to 2^28 tokens, or 0 for the checkpoint's", options.max_context);
  split_over_ranks();
  context_ = options.max_context > 0 ? options.max_context : config_.max_positions;
  rotaries_.resize(config_.ropes.size());
  find_prefix();
  add_inputs();
  add_metadata();
}

void Decoder::split_over_ranks() {
  const int64_t rank = options_.rank, world_size = options_.world_size;
  if (world_size < 1 || rank < 0 || rank >= world_size)
    fail(ErrorCode::InvalidArgument, "rank {} of a model split over {} devices; expected 0 to {}", rank, world_size,
         std::max<int64_t>(world_size, 1) - 1);
  const int64_t most = std::gcd(std::gcd(config_.num_heads, config_.num_kv_heads), config_.intermediate_size);
  for (const auto& [what, size] : {std::pair{"query heads", &config_.num_heads},
                                   {"key and value heads", &config_.num_kv_heads},
                                   {"channels inside its MLP", &config_.intermediate_size}}) {
    if (*size % world_size != 0)
      fail(ErrorCode::Unsupported,
           "the model has {} {}, which {} ranks do not divide; it can be split over numbers of ranks that divide {}", *size, what,
           world_size, most);
    *size /= world_size;
  }
}

void Decoder::add_inputs() {
  const Dim tokens = Dim::symbol("tokens"), seqs = Dim::symbol("seqs");
  const auto i32 = [&](const char* name, Dims dims) { return graph_->add_input(name, TensorType(DType::I32, std::move(dims))); };
  token_ids_ = i32("token_ids", {tokens});
  positions_ = i32("positions", {tokens});
  slot_mapping_ = i32("slot_mapping", {tokens});
  block_tables_ = i32("block_tables", {seqs, Dim::symbol("blocks_per_seq")});
  seq_lens_ = i32("seq_lens", {seqs});
  query_starts_ = i32("query_starts", {seqs + 1});
  logit_rows_ = i32("logit_rows", {Dim::symbol("rows")});
  for (int64_t i = 0; i < config_.num_layers; ++i)
    caches_.push_back(graph_->add_input(
        fmt::format("kv_cache.{}", i),
        TensorType(options_.kv_dtype, {Dim::symbol("num_blocks"), 2, config_.num_kv_heads, options_.block_size, config_.head_dim})));
}

void Decoder::add_metadata() {
  auto& m = graph_->metadata;
  m["llm.architecture"] = config_.architecture;
  m["llm.vocab_size"] = std::to_string(config_.vocab_size);
  m["llm.context_length"] = std::to_string(context_);
  m["llm.num_layers"] = std::to_string(config_.num_layers);
  m["llm.num_heads"] = std::to_string(config_.num_heads);
  m["llm.num_kv_heads"] = std::to_string(config_.num_kv_heads);
  m["llm.head_dim"] = std::to_string(config_.head_dim);
  m["llm.hidden_size"] = std::to_string(config_.hidden_size);
  m["llm.block_size"] = std::to_string(options_.block_size);
  m["llm.kv_dtype"] = to_string(options_.kv_dtype);
  std::string eos;
  for (int64_t id : config_.eos_token_ids) eos += (eos.empty() ? "" : ",") + std::to_string(id);
  m["llm.eos_token_ids"] = eos;
  m["llm.bos_token_id"] = config_.bos_token_id < 0 ? "" : std::to_string(config_.bos_token_id);
  if (options_.world_size > 1) {  // the numbers of heads above are then this rank's
    m["llm.rank"] = std::to_string(options_.rank);
    m["llm.world_size"] = std::to_string(options_.world_size);
  }
  for (const auto& [name, text] : checkpoint_.texts()) m[name] = text;
}

// Base models are saved without "model.", the text part of vision models under one name or another.
void Decoder::find_prefix() {
  for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", ""}) {
    prefix_ = prefix;
    if (checkpoint_.has(prefix_ + "embed_tokens.weight")) return;
  }
  prefix_ = "model.";
}

Value* Decoder::vector(const std::string& name, int64_t size, bool plus_one) {
  std::vector<float> values = to_floats(take(name, {size}));
  if (plus_one && !checkpoint_.norms_include_one())
    for (float& v : values) v += 1;
  return graph_->add_constant(Tensor::of<float>({size}, values), name);
}

Value* Decoder::rms_norm(Value* x, Value* scale, const std::string& name) {
  return graph_->build("rms_norm", {x, scale}, {{"axis", int64_t{-1}}, {"epsilon", config_.norm_epsilon}}, nullptr, name);
}

Value* Decoder::norm(int64_t layer, const std::string& module, Value* x) {
  const std::string name = layer_prefix(layer) + module;
  return rms_norm(x, vector(name + ".weight", config_.hidden_size, config_.norm_plus_one), name);
}

Value* Decoder::scaled(Value* x, double factor) {
  return graph_->build("mul", {x, graph_->add_constant(Tensor::scalar(static_cast<float>(factor)))});
}

Value* Decoder::embed() {
  embedding_ = take(prefix_ + "embed_tokens.weight", {config_.vocab_size, config_.hidden_size});
  const Tensor table = embedding_.is_quantized() ? to_dense(embedding_, options_.dequantized, checkpoint_.pool()) : embedding_.data;
  Value* x = graph_->build("gather", {graph_->add_constant(table, embedding_.name), token_ids_}, {{"axis", int64_t{0}}}, nullptr,
                           prefix_ + "embed_tokens");
  if (table.dtype() != DType::F32) x = graph_->build("cast", {x}, {{"to", DType::F32}});
  return config_.embedding_scale == 1 ? x : scaled(x, config_.embedding_scale);
}

Value* Decoder::linear(Value* x, const Weight& weight, Value* bias) {
  const std::string name = weight.name.substr(0, weight.name.rfind(".weight"));
  std::vector<Value*> inputs{x, graph_->add_constant(weight.data, weight.name)};
  Value* y = nullptr;
  if (weight.is_quantized()) {
    inputs.push_back(graph_->add_constant(weight.scale, weight.name + ".scale"));
    y = graph_->build("quantized_matmul", inputs, {{"group_size", weight.group_size}}, nullptr, name);
  } else {
    y = graph_->build("matmul", inputs, {{"trans_b", int64_t{1}}}, nullptr, name);
  }
  return bias == nullptr ? y : add(y, bias);
}

Weight Decoder::take_rows(const std::string& name, Shape shape_here, const std::vector<int64_t>& parts_here) {
  shape_here[0] *= options_.world_size;
  const Weight all = take(name, shape_here);
  if (options_.world_size == 1) return all;
  std::vector<Weight> parts;
  int64_t begin = 0;
  for (const int64_t rows : parts_here) {
    parts.push_back(slice_rows(all, begin + options_.rank * rows, begin + (options_.rank + 1) * rows, name));
    begin += rows * options_.world_size;
  }
  return parts.size() == 1 ? parts[0] : concat_rows(parts, options_.dequantized, name, checkpoint_.pool());
}

Value* Decoder::column_parallel(Value* x, const std::string& name, int64_t rows, int64_t columns, bool bias) {
  Value* b = nullptr;
  if (bias) b = graph_->add_constant(Tensor::of<float>({rows}, to_floats(take_rows(name + ".bias", {rows}, {rows}))), name + ".bias");
  return linear(x, take_rows(name + ".weight", {rows, columns}, {rows}), b);
}

Value* Decoder::row_parallel(Value* x, const std::string& name, int64_t rows, int64_t columns, bool bias) {
  const int64_t rank = options_.rank, world_size = options_.world_size;
  Weight weight = take(name + ".weight", {rows, columns * world_size});
  if (world_size > 1) weight = slice_columns(weight, rank * columns, (rank + 1) * columns);
  Value* y = linear(x, weight, nullptr);
  if (world_size > 1) y = graph_->build("all_reduce", {y}, {{"rank", rank}, {"world_size", world_size}}, nullptr, name + ".all_reduce");
  return bias ? add(y, vector(name + ".bias", rows, false)) : y;
}

// Several projections of one input as one, side by side.
Value* Decoder::merged(Value* x, const std::string& module, const std::vector<std::pair<std::string, int64_t>>& parts, int64_t columns,
                       bool bias) {
  std::vector<Weight> weights;
  std::vector<float> biases;
  for (const auto& [name, rows] : parts) {
    weights.push_back(take_rows(name + ".weight", {rows, columns}, {rows}));
    if (!bias) continue;
    const std::vector<float> part = to_floats(take_rows(name + ".bias", {rows}, {rows}));
    biases.insert(biases.end(), part.begin(), part.end());
  }
  const Weight all = concat_rows(weights, options_.dequantized, module + ".weight", checkpoint_.pool());
  Value* b = bias ? graph_->add_constant(Tensor::of<float>({static_cast<int64_t>(biases.size())}, biases), module + ".bias") : nullptr;
  return linear(x, all, b);
}

const Decoder::Rotary& Decoder::rotary(int rope) {
  std::optional<Rotary>& made = rotaries_[rope];
  if (made) return *made;
  RopeFrequencies f =
      rope_frequencies(config_.ropes[rope], config_.head_dim, static_cast<double>(config_.max_positions), static_cast<double>(context_));
  if (options_.rope_dtype == DType::BF16)
    for (float& inverse : f.inverse) inverse = BFloat16(inverse);
  const auto pairs = static_cast<int64_t>(f.inverse.size());
  Value* p = graph_->build("cast", {positions_}, {{"to", DType::F32}});
  p = graph_->build("reshape", {p}, {{"shape", Dims{Dim::symbol("tokens"), 1}}});
  Value* angles =
      graph_->build("mul", {p, graph_->add_constant(Tensor::of<float>({pairs}, f.inverse), fmt::format("rope.{}.inverse", rope))});
  Rotary r{graph_->build("cos", {angles}), graph_->build("sin", {angles})};
  if (f.attention_factor != 1) r = {scaled(r.cos, f.attention_factor), scaled(r.sin, f.attention_factor)};
  made = r;
  return *made;
}

Value* Decoder::attention(int64_t layer, Value* x) {
  const ModelConfig& c = config_;
  const std::string module = layer_prefix(layer) + "self_attn.";
  const int64_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  Value* qkv = nullptr;
  if (c.fused_projections) {  // rows of q, of k, of v
    const std::string name = module + "qkv_proj";
    Value* b = nullptr;
    if (c.qkv_bias)
      b = graph_->add_constant(Tensor::of<float>({q + 2 * kv}, to_floats(take_rows(name + ".bias", {q + 2 * kv}, {q, kv, kv}))),
                               name + ".bias");
    qkv = linear(x, take_rows(name + ".weight", {q + 2 * kv, c.hidden_size}, {q, kv, kv}), b);
  } else {
    qkv = merged(x, module + "qkv_proj", {{module + "q_proj", q}, {module + "k_proj", kv}, {module + "v_proj", kv}}, c.hidden_size,
                 c.qkv_bias);
  }
  const Rotary& r = rotary(c.layers[layer].rope);
  std::vector<Value*> inputs{qkv, caches_[layer], slot_mapping_, r.cos, r.sin};
  if (c.qk_norm)
    for (const char* name : {"q_norm.weight", "k_norm.weight"}) inputs.push_back(vector(module + name, c.head_dim, c.norm_plus_one));
  ir::Attrs heads{{"num_heads", c.num_heads}, {"num_kv_heads", c.num_kv_heads}, {"head_dim", c.head_dim}};
  ir::Attrs write = heads, read = heads;
  if (c.qk_norm) write.set("epsilon", c.norm_epsilon);
  read.set("scale", c.attention_scale);
  if (c.attention_softcap > 0) read.set("softcap", c.attention_softcap);
  if (c.layers[layer].window > 0) read.set("window", c.layers[layer].window);
  Value* queries = graph_->build("kv_cache_write", inputs, write, nullptr, module + "kv_cache_write");
  Value* y = graph_->build("paged_attention", {queries, caches_[layer], block_tables_, seq_lens_, query_starts_}, read, nullptr,
                           module + "attention");
  return row_parallel(wanted(layer, y), module + "o_proj", c.hidden_size, q, c.output_bias);
}

Value* Decoder::wanted(int64_t layer, Value* x) {
  if (layer + 1 < num_layers()) return x;
  return graph_->build("gather", {x, logit_rows_}, {{"axis", int64_t{0}}}, nullptr, "logit_rows");
}

Value* Decoder::activate(Value* x) {
  switch (config_.activation) {
    case Activation::Silu: return graph_->build("silu", {x});
    case Activation::GeluTanh: return graph_->build("gelu_tanh", {x});
    case Activation::Gelu: return graph_->build("gelu", {x});
  }
  CHECK(false);
}

Value* Decoder::gated_mlp(int64_t layer, Value* x) {
  const ModelConfig& c = config_;
  const std::string module = layer_prefix(layer) + "mlp.";
  Value *gate = nullptr, *up = nullptr;
  if (c.fused_projections) {  // the gate's rows, then up's
    const Weight both =
        take_rows(module + "gate_up_proj.weight", {2 * c.intermediate_size, c.hidden_size}, {c.intermediate_size, c.intermediate_size});
    gate = linear(x, slice_rows(both, 0, c.intermediate_size, module + "gate_proj.weight"), nullptr);
    up = linear(x, slice_rows(both, c.intermediate_size, 2 * c.intermediate_size, module + "up_proj.weight"), nullptr);
  } else {
    gate = column_parallel(x, module + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    up = column_parallel(x, module + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
  }
  Value* y = graph_->build("mul", {activate(gate), up});
  return row_parallel(y, module + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
}

Value* Decoder::pre_norm_blocks(Value* x) {
  for (int64_t i = 0; i < num_layers(); ++i) {
    Value* const y = norm(i, "input_layernorm", x);
    x = wanted(i, x);
    x = add(x, attention(i, y));
    x = add(x, gated_mlp(i, norm(i, "post_attention_layernorm", x)));
  }
  return x;
}

void Decoder::finish(Value* x) {
  x = rms_norm(x, vector(prefix_ + "norm.weight", config_.hidden_size, config_.norm_plus_one), prefix_ + "norm");
  Weight head = embedding_;
  if (!config_.tied_embeddings)
    head = take(prefix_ == "language_model.model." ? "language_model.lm_head.weight" : "lm_head.weight",
                {config_.vocab_size, config_.hidden_size});
  Value* logits = linear(x, head, nullptr);
  logits->producer()->name = "lm_head";
  if (config_.logit_softcap > 0) logits = scaled(graph_->build("tanh", {scaled(logits, 1 / config_.logit_softcap)}), config_.logit_softcap);
  logits->name = "logits";
  graph_->set_outputs({logits});
}

}  // namespace tokamak::hf
