// A Hugging Face folder as a Checkpoint.

#include <filesystem>

#include "base/file.h"
#include "import/hf/checkpoint.h"
#include "import/hf/safetensors.h"

namespace tokamak::hf {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxText = int64_t{1} << 28;  // of a JSON file; the largest public tokenizer.json has 34 MB

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::string read_text(const fs::path& path) {
  const auto file = MappedFile::open(path.string());
  if (file->size_bytes() > kMaxText)
    fail(ErrorCode::Corrupt, "{}: {} bytes; expected a JSON file of at most {}", path.string(), file->size_bytes(), kMaxText);
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

class Folder : public Checkpoint {
 public:
  explicit Folder(const std::string& path) : Checkpoint(path), folder_(path) {
    const fs::path config = folder_ / "config.json";
    if (!is_file(config)) fail(ErrorCode::NotFound, "'{}' has no config.json; expected a Hugging Face checkpoint", path);
    config_ = parse_json(read_text(config), config.string());
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"})
      if (is_file(folder_ / name)) texts_[name] = read_text(folder_ / name);
    if (const auto found = texts_.find("generation_config.json"); found != texts_.end())
      generation_ = parse_json(found->second, (folder_ / found->first).string());
    open_weights();
  }

  const Json& config() const override { return config_; }
  const Json* generation_config() const override { return generation_.is_null() ? nullptr : &generation_; }
  const std::map<std::string, std::string>& texts() const override { return texts_; }
  bool has(const std::string& name) const override { return tensors_.contains(name); }

 protected:
  Weight load(const std::string& name, const Shape&) override { return {name, tensors_.at(name), {}, 0}; }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, tensor] : tensors_) out.push_back(name);
    return out;
  }

 private:
  void open_weights() {
    const fs::path index = folder_ / "model.safetensors.index.json", single = folder_ / "model.safetensors";
    if (is_file(index)) return open_shards(index);
    if (is_file(single)) {
      tensors_ = read_safetensors(single.string());
      return;
    }
    if (is_file(folder_ / "pytorch_model.bin") || is_file(folder_ / "pytorch_model.bin.index.json"))
      fail(ErrorCode::Unsupported, "'{}' has its weights as pickle files (pytorch_model.bin); convert them to safetensors", path());
    fail(ErrorCode::NotFound, "'{}' has neither model.safetensors nor model.safetensors.index.json", path());
  }

  void open_shards(const fs::path& index) {
    const Json json = parse_json(read_text(index), index.string());
    const auto weight_map = JsonObject(json, index.string()).object("weight_map");
    if (!weight_map) fail(ErrorCode::Corrupt, "{}: \"weight_map\" is missing; expected the shard of every tensor", index.string());
    std::map<std::string, std::map<std::string, Tensor>> shards;
    for (const auto& [name, value] : weight_map->items()) {
      if (!value.is_string()) weight_map->wrong(name, "the name of a shard");
      const std::string shard = value.get<std::string>();
      if (shard.empty() || shard.find_first_of("/\\") != std::string::npos || shard.front() == '.' || shard.find('\0') != std::string::npos)
        fail(ErrorCode::Corrupt, "{}: the shard of \"{}\" is '{}'; expected the name of a file in the same folder", index.string(), name,
             shard);
      auto found = shards.find(shard);
      if (found == shards.end()) {
        if (!is_file(folder_ / shard))
          fail(ErrorCode::NotFound, "{}: shard '{}', which holds \"{}\", is not in the folder; the download is incomplete", path(), shard,
               name);
        found = shards.emplace(shard, read_safetensors((folder_ / shard).string())).first;
      }
      const auto tensor = found->second.find(name);
      if (tensor == found->second.end())
        fail(ErrorCode::Corrupt, "{}: tensor \"{}\" is not in shard '{}', where {} says it is", path(), name, shard,
             index.filename().string());
      tensors_.emplace(name, tensor->second);
    }
  }

  fs::path folder_;
  Json config_, generation_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_folder(const std::string& path) { return std::make_unique<Folder>(path); }

}  // namespace tokamak::hf
