#include "cli/language_model.h"

#include <chrono>
#include <filesystem>
#include <optional>

#include "builder/engine_cache.h"
#include "cli/console.h"
#include "cli/session.h"
#include "import/hf/hf.h"

namespace tokamak::cli {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::unique_ptr<ir::Graph> synthetic_model(const std::string& name, const BuildOptions& options, BuildReport& report) {
  hf::HfOptions shape;
  shape.block_size = options.kv_block_size;
  shape.kv_dtype = kv_dtype_of(options);
  shape.max_context = options.max_context;
  shape.rope_dtype = options.rope_dtype;
  shape.rank = options.rank;
  shape.world_size = options.world_size;
  shape.notes = &report.notes;
  auto graph = hf::synthetic(name, shape);
  graph->metadata["model_name"] = name;
  return graph;
}

std::shared_ptr<const Engine> build(const std::string& path, const std::string& synthetic, BuildOptions options) {
  ProgressBar bar;
  options.progress = [&bar](const BuildProgress& p) { bar.update(p.step, p.fraction, p.remaining_s); };
  BuildReport report;
  auto graph = synthetic.empty() ? import_model(path, options, &report) : synthetic_model(synthetic, options, report);
  auto engine = build_engine(std::move(graph), options, &report);
  bar.clear();
  for (const std::string& note : report.notes) fmt::print(stderr, "note: {}\n", note);
  return engine;
}

// The folder to keep engines in, if any.
std::optional<EngineCache> open_cache(const LanguageModelFlags& flags) {
  if (flags.no_cache) return std::nullopt;
  const std::string folder = flags.cache_folder.empty() ? default_cache_folder() : flags.cache_folder;
  if (folder.empty()) {
    fmt::print(stderr, "note: neither XDG_CACHE_HOME nor HOME is set: the engine is not kept (--cache-dir names a folder)\n");
    return std::nullopt;
  }
  try {
    return EngineCache(folder);
  } catch (const Error& error) {
    if (!flags.cache_folder.empty()) throw;
    fmt::print(stderr, "note: the engine is not kept: {}\n", error.what());
    return std::nullopt;
  }
}

}  // namespace

void LanguageModelFlags::add_to(CLI::App& app) {
  build.add_to(app);
  app.add_flag("--no-cache", no_cache, "build anew and keep nothing");
  app.add_option("--cache-dir", cache_folder,
                 "folder of built engines (default: $XDG_CACHE_HOME/tokamak or ~/.cache/tokamak; delete it to clear the cache)");
}

const char* to_string(LanguageModel::Source source) {
  switch (source) {
    case LanguageModel::Source::Built: return "built";
    case LanguageModel::Source::Cache: return "cached";
    case LanguageModel::Source::EngineFile: return "engine file";
  }
  return "";
}

LanguageModel open_language_model(const std::string& path, const std::string& synthetic, const LanguageModelFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::string> notes;
  const BuildOptions options = flags.build.options(notes);
  for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
  LanguageModel model;
  model.name = synthetic.empty() ? path : synthetic;
  std::string file = path;
  if (synthetic.empty() && model_kind(file) == ModelKind::Engine) {
    model.engine = Engine::load(file);
    if (!is_language_model(*model.engine))
      fail(ErrorCode::Unsupported, "'{}' is an engine, but not of a language model (it has no llm.architecture)", path);
    model.source = LanguageModel::Source::EngineFile;
    model.open_s = seconds_since(start);
    return model;
  }
  if (synthetic.empty() && model_kind(file) == ModelKind::Onnx)
    fail(ErrorCode::Unsupported, "'{}' is an ONNX model; language models are Hugging Face folders, GGUF files or engines built from them",
         path);

  const std::optional<EngineCache> cache = open_cache(flags);
  std::string stem = std::filesystem::path(model.name).lexically_normal().string();
  while (stem.ends_with('/')) stem.pop_back();
  CacheKey key(stem.substr(stem.rfind('/') + 1), synthetic.empty() ? describe_model_files(file) : "synthetic " + synthetic + "\n");
  key.add(options);
  if (cache) {
    std::string note;
    model.engine = cache->find(key, note);
    if (!note.empty()) fmt::print(stderr, "note: {}\n", note);
    if (model.engine) {
      model.source = LanguageModel::Source::Cache;
      model.open_s = seconds_since(start);
      return model;
    }
  }
  model.engine = build(file, synthetic, options);
  model.build_s = seconds_since(start);
  if (cache) {
    try {
      cache->put(key, *model.engine);
      // What runs from here on is what runs next time, and the checkpoint's pages are no longer needed.
      std::string note;
      if (auto kept = cache->find(key, note)) model.engine = std::move(kept);
    } catch (const Error& error) {
      fmt::print(stderr, "note: the engine is not kept: {}\n", error.what());
    }
  }
  model.open_s = seconds_since(start);
  return model;
}

std::string metadata(const Engine& engine, const std::string& key) {
  const auto& all = engine.graph().metadata;
  const auto found = all.find(key);
  return found == all.end() ? "" : found->second;
}

std::shared_ptr<const llm::Tokenizer> tokenizer_of(const Engine& engine) {
  const std::string text = metadata(engine, "tokenizer.json");
  if (text.empty())
    fail(ErrorCode::Unsupported, "'{}' has no tokenizer: the checkpoint needs a tokenizer.json", metadata(engine, "model_name"));
  return llm::Tokenizer::from_json(text);
}

}  // namespace tokamak::cli
