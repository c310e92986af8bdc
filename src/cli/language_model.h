#pragma once
// From what a person names (folder, GGUF file, engine, synthetic shape) to the engine of a language model, through the engine cache.

#include <memory>
#include <string>

#include "cli/command.h"
#include "llm/tokenizer/tokenizer.h"
#include "runtime/engine.h"

namespace tokamak::cli {

// The flags of the commands that run language models.
struct LanguageModelFlags {
  BuildFlags build;
  bool no_cache = false;
  std::string cache_folder;  // "": default_cache_folder()

  void add_to(CLI::App& app);
};

struct LanguageModel {
  std::string name;
  std::shared_ptr<const Engine> engine;
  enum class Source { Built, Cache, EngineFile } source = Source::Built;
  double open_s = 0;   // everything from the name to the engine
  double build_s = 0;  // of it, importing and building; 0 unless built
};
const char* to_string(LanguageModel::Source source);  // "built", "cached", "engine file"

// `path` is a checkpoint folder, a GGUF file or an engine file; or "" with the name of a synthetic model. Notes go to standard error, as
// does a progress bar. Throws Error; Unsupported when it is something else than a language model.
LanguageModel open_language_model(const std::string& path, const std::string& synthetic, const LanguageModelFlags& flags);

inline bool is_language_model(const Engine& engine) { return engine.graph().metadata.contains("llm.architecture"); }

// "" when the engine's metadata has no such key.
std::string metadata(const Engine& engine, const std::string& key);
// Throws Unsupported when the model brings no tokenizer.
std::shared_ptr<const llm::Tokenizer> tokenizer_of(const Engine& engine);

}  // namespace tokamak::cli
