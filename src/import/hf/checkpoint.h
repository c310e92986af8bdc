#pragma once
// Where the importer gets a model from: its configuration, texts and weights under Hugging Face's names, whatever the file format.

#include <map>
#include <memory>
#include <set>
#include <string>

#include "import/hf/hf.h"
#include "import/hf/json.h"
#include "import/hf/weight.h"

namespace tokamak::hf {

class Checkpoint {
 public:
  explicit Checkpoint(std::string path) : path_(std::move(path)), pool_(available_threads()) {}
  virtual ~Checkpoint() = default;

  const std::string& path() const { return path_; }
  ThreadPool& pool() { return pool_; }

  // config.json and, when there is one, generation_config.json (null: none), in Hugging Face's words.
  virtual const Json& config() const = 0;
  virtual const Json* generation_config() const = 0;
  // tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja: those there are.
  virtual const std::map<std::string, std::string>& texts() const = 0;
  // Whether the norms' weights are stored with the one added that Gemma's formula adds.
  virtual bool norms_include_one() const { return false; }
  virtual bool has(const std::string& name) const = 0;

  // Checked for shape and dtype and for NaN and infinity. May be asked for again. Throws Corrupt or Unsupported naming the tensor.
  Weight take(const std::string& name, const Shape& shape);
  // Names nobody took.
  std::vector<std::string> left_over() const;

 protected:
  virtual Weight load(const std::string& name, const Shape& shape) = 0;      // has(name); `shape` is what is expected of it
  virtual std::vector<std::string> names() const = 0;                        // as left_over() gives them
  virtual std::string shown(const std::string& name) const { return name; }  // as the file calls it

 private:
  std::string path_;
  ThreadPool pool_;
  std::set<std::string> taken_;
};

// A folder with config.json, model.safetensors or the shards that model.safetensors.index.json names, and texts. Throws NotFound naming
// what is missing, Corrupt, and Unsupported for weights in pickle files.
std::unique_ptr<Checkpoint> open_folder(const std::string& path);
// A GGUF file (gguf.h). Throws as it does, and Unsupported for an architecture or tokenizer that this version does not know.
std::unique_ptr<Checkpoint> open_gguf(const std::string& path, const HfOptions& options);
// From memory, which must outlive the graph.
std::unique_ptr<Checkpoint> open_gguf(std::span<const std::byte> bytes, const HfOptions& options);

}  // namespace tokamak::hf
