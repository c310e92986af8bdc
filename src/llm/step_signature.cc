#include "llm/step_signature.h"

namespace tokamak::llm {
namespace {

constexpr int kNumIndexInputs = 7;

[[noreturn]] void not_a_model(std::string what) {
  fail(ErrorCode::Unsupported, "this engine is not a language model that can generate: {}", what);
}

// Dims are sizes or, where -1, symbols.
void check_tensor(const std::vector<TensorInfo>& infos, size_t index, const std::string& name, DType dtype, const Shape& dims) {
  if (index >= infos.size()) not_a_model(fmt::format("\"{}\" is missing", name));
  const TensorInfo& info = infos[index];
  bool same = info.name == name && info.dtype == dtype && info.type.ranked && info.type.rank() == std::ssize(dims);
  for (size_t d = 0; same && d < dims.size(); ++d) same = dims[d] < 0 ? !info.type.dims[d].is_const() : info.type.dims[d].is(dims[d]);
  if (!same)
    not_a_model(fmt::format("expected \"{}\" of {}{} (-1: any size), found \"{}\" of {}", name, to_string(dtype), to_string(dims),
                            info.name, to_string(info.type)));
}

void check_signature(const Engine& engine, const ModelConfig& config) {
  const auto& in = engine.inputs();
  static constexpr const char* kNames[] = {"token_ids", "positions",    "slot_mapping", "block_tables",
                                           "seq_lens",  "query_starts", "logit_rows"};
  for (size_t i = 0; i < kNumIndexInputs; ++i) check_tensor(in, i, kNames[i], DType::I32, Shape(i == 3 ? 2 : 1, -1));
  for (int layer = 0; layer < config.num_layers; ++layer)
    check_tensor(in, kNumIndexInputs + layer, cache_input_name(layer), config.kv_dtype,
                 {-1, 2, config.num_kv_heads, config.block_size, config.head_dim});
  if (std::ssize(in) != kNumIndexInputs + config.num_layers)
    not_a_model(fmt::format("\"{}\" is an input too many", in[kNumIndexInputs + config.num_layers].name));
  check_tensor(engine.outputs(), 0, "logits", DType::F32, {-1, config.vocab_size});
}

}  // namespace

std::string cache_input_name(int layer) { return "kv_cache." + std::to_string(layer); }

ModelConfig step_config(const Engine& engine) {
  ModelConfig config = ModelConfig::from_metadata(engine.graph().metadata);
  check_signature(engine, config);
  return config;
}

}  // namespace tokamak::llm
