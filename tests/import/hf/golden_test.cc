// Every architecture and rotary scaling against transformers: tiny random checkpoints (tests/golden/make_hf_goldens.py), prompts longer
// than the sliding windows, both layouts of config.json, in one step and in several.

#include <filesystem>

#include "import/hf/hf.h"
#include "import/hf/safetensors.h"
#include "tests/import/hf/step_runner.h"

namespace tokamak {
namespace {

namespace fs = std::filesystem;
const fs::path kGoldens = fs::path(TOKAMAK_SOURCE_DIR) / "tests/golden/hf";

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGoldens)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class HfGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(HfGolden, LogitsEqualTransformers) {
  const auto golden = hf::read_safetensors((kGoldens / GetParam() / "golden.safetensors").string());
  const Tensor ids = golden.at("ids");
  const std::vector<int32_t> tokens(ids.data<int32_t>(), ids.data<int32_t>() + ids.count());
  const fs::path old_folder = fs::path(::testing::TempDir()) / ("old_" + GetParam());
  fs::create_directories(old_folder);
  for (const auto& [from, to] : {std::pair{"config_old.json", "config.json"}, {"model.safetensors", "model.safetensors"}})
    fs::copy_file(kGoldens / GetParam() / from, old_folder / to, fs::copy_options::overwrite_existing);
  for (const fs::path& folder : {kGoldens / GetParam(), old_folder}) {
    hf::HfOptions import;
    import.kv_dtype = DType::F32;
    import.block_size = 16;
    import.max_context = golden.at("context").int_at(0);
    std::vector<std::string> notes;
    import.notes = &notes;
    BuildOptions options;
    options.opt_level = 0;
    const auto engine = build_engine(hf::import_checkpoint(folder.string(), import), options);
    EXPECT_TRUE(notes.empty()) << notes.front();
    for (size_t chunk : {100, 5, 1})
      EXPECT_LT(testing::max_difference(testing::StepRunner(engine).run(tokens, chunk), golden.at("logits")), 2e-4)
          << folder << " " << chunk;
  }
  fs::remove_all(old_folder);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, HfGolden, ::testing::ValuesIn(golden_names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tokamak
