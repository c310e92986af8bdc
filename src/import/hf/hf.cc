#include "import/hf/hf.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "import/hf/models.h"
#include "import/hf/vocabulary.h"

namespace tokamak::hf {
namespace {

namespace fs = std::filesystem;

// Levenshtein distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replace = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replace, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

const ModelDef& find_model(const JsonObject& json) {
  const std::string architecture = architecture_of(json), type = json.text("model_type", "");
  for (const ModelDef& m : all_models())
    if (architecture.empty() ? m.model_type == type : m.architecture == architecture) return m;
  if (architecture.empty() && type.empty()) json.wrong("architectures", "the name of an architecture, as LlamaForCausalLM");
  const std::string name = (architecture.empty() ? type : architecture).substr(0, 100);
  const auto distance = [&](const ModelDef& m) { return edit_distance(name, architecture.empty() ? m.model_type : m.architecture); };
  std::string known;
  const ModelDef* nearest = nullptr;
  for (const ModelDef& m : all_models()) {
    known += (known.empty() ? "" : ", ") + std::string(m.architecture);
    if (nearest == nullptr || distance(m) < distance(*nearest)) nearest = &m;
  }
  fail(ErrorCode::Unsupported, "{}: architecture \"{}\" is not supported; the nearest that is: {}; all: {}", json.path(), name,
       nearest->architecture, known);
}

void refuse_quantized(const JsonObject& json) {
  const auto q = json.object("quantization_config");
  if (!q) return;
  fail(ErrorCode::Unsupported,
       "{}: \"quantization_config\" says the weights are stored as {}; give the unquantized checkpoint and choose a precision here",
       json.path(), q->text("quant_method", "quantized matrices"));
}

void check_vocabulary(const Checkpoint& checkpoint, const ModelConfig& config) {
  const auto text = checkpoint.texts().find("tokenizer.json");
  if (text == checkpoint.texts().end()) return;
  const VocabularySize size = vocabulary_size(text->second);
  if (size.model > config.vocab_size)
    fail(ErrorCode::Corrupt, "{}: tokenizer.json has token ids up to {}, config.json's vocab_size is {}: they are of different models",
         checkpoint.path(), size.model - 1, config.vocab_size);
  if (size.added > config.vocab_size + config.extra_tokens)
    fail(ErrorCode::Corrupt,
         "{}: tokenizer.json has added tokens with ids up to {}, config.json's vocab_size is {}: they are of different models",
         checkpoint.path(), size.added - 1, config.vocab_size);
}

void note_left_over(const Checkpoint& checkpoint, const HfOptions& options) {
  const std::vector<std::string> names = checkpoint.left_over();
  if (names.empty() || options.notes == nullptr) return;
  std::string text = fmt::format("{} tensors of the checkpoint are not part of this architecture and were left out: ", names.size());
  for (size_t i = 0; i < names.size() && i < 3; ++i) text += (i > 0 ? ", " : "") + names[i];
  options.notes->push_back(text + (names.size() > 3 ? ", ..." : ""));
}

bool starts_like_gguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "GGUF";
}

}  // namespace

std::span<const ModelDef> all_models() {
  static const std::vector<ModelDef> list = {
#define MODEL(name) models::name(),
#include "import/hf/all_models.inc"
#undef MODEL
  };
  return list;
}

bool is_checkpoint(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return fs::is_regular_file(fs::path(path) / "config.json", ignored);
  return fs::is_regular_file(path, ignored) && starts_like_gguf(path);
}

std::unique_ptr<ir::Graph> import_checkpoint(const std::string& path, const HfOptions& options) {
  std::error_code ignored;
  const bool is_folder = fs::is_directory(path, ignored);
  return import_from(*(is_folder ? open_folder(path) : open_gguf(path, options)), options);
}

std::unique_ptr<ir::Graph> import_from(Checkpoint& checkpoint, const HfOptions& options) {
  const JsonObject json(checkpoint.config(), "config.json");
  refuse_quantized(json);
  const ModelDef& model = find_model(json);
  ModelConfig config = model.configure(json, checkpoint.generation_config());
  config.architecture = model.architecture;
  check_vocabulary(checkpoint, config);
  Decoder decoder(checkpoint, std::move(config), options);
  model.build(decoder);
  note_left_over(checkpoint, options);
  auto graph = decoder.take_graph();
  graph->metadata["model_name"] = fs::path(checkpoint.path() + "/").lexically_normal().parent_path().filename().string();
  return graph;
}

}  // namespace tokamak::hf
