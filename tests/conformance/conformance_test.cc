// The ONNX project's backend cases (../shared/onnx-conformance), run twice: as imported with the reference kernels, node by node, and as
// the builder compiles them. A case that fails must be in skip.txt, and one that passes must not, so that the list only shrinks.
// TOKAMAK_CASES names a folder of unpacked cases (for debugging); TOKAMAK_CASE_FILTER a part of the case names to run.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#endif
#include "builder/builder.h"
#include "import/onnx/import.h"
#include "runtime/execution_context.h"
#include "runtime/interpreter.h"

namespace tokamak {
namespace {

namespace fs = std::filesystem;

// Unpacks the archive once into the build folder. Nothing when there is neither archive nor tar with zstd; `why` says so.
std::optional<fs::path> find_cases(std::string& why) {
  if (const char* folder = std::getenv("TOKAMAK_CASES")) return fs::path(folder);
  const fs::path archive = fs::path(TOKAMAK_SOURCE_DIR) / "../shared/onnx-conformance/open.tar.zst";
  if (!fs::exists(archive)) {
    why = "../shared/onnx-conformance/open.tar.zst is not there";
    return std::nullopt;
  }
  const fs::path folder = fs::path(TOKAMAK_BINARY_DIR) / "conformance-cases", stamp = folder / "complete";
  if (!fs::exists(stamp)) {
    // Several shards of the test binary may get here at once: unpack apart, then rename.
    const fs::path mine = folder.string() + "." + std::to_string(::getpid());
    fs::create_directories(mine);
    const std::string command = "tar -C '" + mine.string() + "' -xf '" + archive.string() + "' 2>/dev/null";
    if (std::system(command.c_str()) != 0) {
      fs::remove_all(mine);
      why = "tar with zstd is not installed";
      return std::nullopt;
    }
    std::ofstream(mine / "complete") << "\n";
    std::error_code error;
    fs::rename(mine, folder, error);
    if (error) fs::remove_all(mine);  // another shard was first
  }
  return folder;
}

std::map<std::string, std::string> read_skips() {
  std::ifstream file(fs::path(TOKAMAK_SOURCE_DIR) / "tests/conformance/skip.txt");
  std::map<std::string, std::string> skips;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string name, reason;
    words >> name;
    std::getline(words >> std::ws, reason);
    skips[name] = reason;
  }
  return skips;
}

Tensor read_tensor(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorCode::NotFound, "{} is not there", path.filename().string());
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return onnx::read_tensor_proto(std::as_bytes(std::span(bytes))).clone();
}

// The suite's rule; empty when they agree.
std::string difference(const Tensor& got, const Tensor& want, double rtol, double atol) {
  if (got.dtype() != want.dtype()) return fmt::format("type {} for {}", to_string(got.dtype()), to_string(want.dtype()));
  if (got.shape() != want.shape()) return fmt::format("shape {} for {}", to_string(got.shape()), to_string(want.shape()));
  for (int64_t i = 0; i < want.count(); ++i) {
    if (want.dtype() == DType::String) {
      if (got.strings()[i] != want.strings()[i])
        return fmt::format("element {}: \"{}\" for \"{}\"", i, got.strings()[i], want.strings()[i]);
      continue;
    }
    const double g = got.float_at(i), w = want.float_at(i);
    const bool close = std::isnan(w)   ? std::isnan(g)
                       : std::isinf(w) ? g == w
                                       : std::fabs(g - w) <= atol + rtol * std::fabs(w);  // false for a NaN
    if (!close) return fmt::format("element {}: {} for {}", i, g, w);
  }
  return "";
}

void use_reference_kernels(ir::Graph& graph) {
  ir::for_each_graph(graph, [](ir::Graph& g) {
    for (const auto& node : g.nodes()) {
      const std::string name = fmt::format("ref.{}", node->op().name);
      if (cpu::find_kernel(name)) node->kernel = name;
    }
  });
}

Tensor read_input(const fs::path& folder, size_t i) { return read_tensor(folder / "test_data_set_0" / fmt::format("input_{}.pb", i)); }

std::vector<Tensor> run_reference(const fs::path& folder, ThreadPool& pool) {
  const std::unique_ptr<ir::Graph> graph = onnx::import_model((folder / "model.onnx").string());
  use_reference_kernels(*graph);
  std::vector<Tensor> inputs;
  ir::Dim::Bindings symbols;
  for (size_t i = 0; i < graph->inputs().size(); ++i) {
    inputs.push_back(read_input(folder, i));
    bind_symbols(graph->inputs()[i]->name, graph->inputs()[i]->type, inputs.back().shape(), symbols);
  }
  return Interpreter(pool.width(), pool).run(*graph, inputs, symbols, nullptr);
}

std::shared_ptr<const Engine> build_case(const fs::path& folder, const std::string& device, int threads, BuildReport* report = nullptr) {
  BuildOptions options;
  options.device = device;
  options.opt_level = 0;
  options.num_threads = threads;
  return build_engine((folder / "model.onnx").string(), options, report);
}

std::vector<Tensor> run_built(const fs::path& folder, const std::string& device, const std::shared_ptr<ThreadPool>& pool,
                              BuildReport* report = nullptr) {
  const std::shared_ptr<const Engine> engine = build_case(folder, device, pool->width(), report);
  ExecutionContext context(engine, {.pool = pool});
  for (size_t i = 0; i < engine->inputs().size(); ++i) context.set_input(engine->inputs()[i].name, read_input(folder, i));
  context.run();
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < engine->outputs().size(); ++i) outputs.push_back(context.output(static_cast<int>(i)).clone());
  return outputs;
}

// Empty when the case passes, else why not. `device` "ref": the reference kernels.
std::string run_case(const fs::path& folder, const std::string& device, const std::shared_ptr<ThreadPool>& pool,
                     BuildReport* report = nullptr) {
  try {
    const std::vector<Tensor> outputs = device == "ref" ? run_reference(folder, *pool) : run_built(folder, device, pool, report);
    for (size_t i = 0; i < outputs.size(); ++i) {
      const double rtol = folder.filename() == "test_densenet121" ? 2e-3 : 1e-3;
      const std::string text = difference(outputs[i], read_tensor(folder / "test_data_set_0" / fmt::format("output_{}.pb", i)), rtol, 1e-7);
      if (!text.empty()) return fmt::format("output {}: {}", i, text);
    }
    return "";
  } catch (const Error& e) {
    std::string text = e.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.substr(0, 300);
  }
}

std::vector<fs::path> cases_of(const fs::path& root, const std::string& category) {
  const char* filter = std::getenv("TOKAMAK_CASE_FILTER");
  std::vector<fs::path> cases;
  for (const fs::directory_entry& entry : fs::directory_iterator(root / category))
    if (!filter || entry.path().filename().string().find(filter) != std::string::npos) cases.push_back(entry.path());
  std::sort(cases.begin(), cases.end());
  return cases;
}

void run_category(const std::string& category, bool reference) {
  std::string why;
  const std::optional<fs::path> root = find_cases(why);
  if (!root) GTEST_SKIP() << why;
  const std::map<std::string, std::string> skips = read_skips();
  const std::vector<fs::path> cases = cases_of(*root, category);
  const auto pool = std::make_shared<ThreadPool>(2);
  int passed = 0, skipped = 0;
  std::ofstream failures(fs::path(TOKAMAK_BINARY_DIR) / fmt::format("conformance-{}-{}.txt", category, reference ? "ref" : "built"));
  for (const fs::path& folder : cases) {
    const std::string name = category + "/" + folder.filename().string();
    const std::string message = run_case(folder, reference ? "ref" : "cpu", pool);
    const bool listed = skips.count(name) > 0;
    if (message.empty()) ++passed;
    else failures << name << "  " << message << std::endl;
    if (!message.empty() && listed) ++skipped;
    if (!message.empty() && !listed) ADD_FAILURE() << name << ": " << message;
    if (message.empty() && listed) ADD_FAILURE() << name << " passes: take it off tests/conformance/skip.txt (" << skips.at(name) << ")";
  }
  fmt::print("[ conformance ] {}: {} of {} cases pass, {} skipped\n", category, passed, cases.size(), skipped);
}

#ifdef TOKAMAK_CUDA

// Of the cases that the CPU passes, 95 in a hundred pass; those with nodes that ran on the host are counted apart.
void run_on_gpu(const std::string& category, const fs::path& root) {
  const std::map<std::string, std::string> skips = read_skips();
  const auto pool = std::make_shared<ThreadPool>(2);
  int wanted = 0, passed = 0, fell_back = 0;
  std::ofstream failures(fs::path(TOKAMAK_BINARY_DIR) / fmt::format("conformance-{}-cuda.txt", category));
  for (const fs::path& folder : cases_of(root, category)) {
    const std::string name = category + "/" + folder.filename().string();
    if (skips.count(name)) continue;
    ++wanted;
    BuildReport report;
    const std::string message = run_case(folder, "cuda", pool, &report);
    passed += message.empty();
    fell_back += message.empty() && report.num_host_nodes() > 0;
    if (!message.empty()) failures << name << "  " << message << std::endl;
  }
  fmt::print("[ conformance ] {} on the GPU: {} of {} cases pass, {} of them with nodes on the CPU\n", category, passed, wanted, fell_back);
  EXPECT_GE(passed, 0.95 * wanted) << "conformance-" << category << "-cuda.txt says which failed";
}

// Without a GPU: some of the cases are built for one, so that their kernels are compiled.
void build_for_gpu(const std::string& category, const fs::path& root) {
  constexpr size_t kStride = 12;
  const std::vector<fs::path> cases = cases_of(root, category);
  const std::map<std::string, std::string> skips = read_skips();
  int built = 0, with_code = 0;
  for (size_t i = 0; i < cases.size(); i += kStride) {
    const std::string name = category + "/" + cases[i].filename().string();
    if (skips.count(name)) continue;
    try {
      const auto engine = build_case(cases[i], "cuda:sm_90", 2);
      ++built;
      with_code += !engine->code()->entries().empty();
    } catch (const Error& e) {
      ADD_FAILURE() << name << ": " << e.what();
    }
  }
  fmt::print("[ conformance ] {}: {} cases built for sm_90, {} with kernels of the GPU\n", category, built, with_code);
}

void run_cuda_category(const std::string& category) {
  std::string why;
  const std::optional<fs::path> root = find_cases(why);
  if (!root) GTEST_SKIP() << why;
  if (cuda::Device::is_available()) run_on_gpu(category, *root);
  else build_for_gpu(category, *root);
}

TEST(CudaConformance, Node) { run_cuda_category("node"); }
TEST(CudaConformance, Simple) { run_cuda_category("simple"); }
TEST(CudaConformance, PytorchOperator) { run_cuda_category("pytorch-operator"); }
TEST(CudaConformance, PytorchConverted) { run_cuda_category("pytorch-converted"); }
TEST(CudaConformance, Light) { run_cuda_category("light"); }

#endif

TEST(ConformanceRule, FindsDifferences) {
  const auto t = [](std::vector<float> v) { return Tensor::of<float>({static_cast<int64_t>(v.size())}, v); };
  const float nan = std::nanf("");
  EXPECT_EQ(difference(t({1, nan, INFINITY}), t({1.0005f, nan, INFINITY}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({1}), t({1.01f}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({nan}), t({1}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({1e30f}), t({INFINITY}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({-INFINITY}), t({INFINITY}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({1}), t({1, 1}), 1e-3, 1e-7), "");
  EXPECT_NE(difference(t({1}), Tensor::of<double>({1}, {1}), 1e-3, 1e-7), "");
}

TEST(ConformanceRef, Node) { run_category("node", true); }
TEST(ConformanceRef, Simple) { run_category("simple", true); }
TEST(ConformanceRef, PytorchOperator) { run_category("pytorch-operator", true); }
TEST(ConformanceRef, PytorchConverted) { run_category("pytorch-converted", true); }
TEST(ConformanceBuilt, Node) { run_category("node", false); }
TEST(ConformanceBuilt, Simple) { run_category("simple", false); }
TEST(ConformanceBuilt, PytorchOperator) { run_category("pytorch-operator", false); }
TEST(ConformanceBuilt, PytorchConverted) { run_category("pytorch-converted", false); }
TEST(ConformanceBuilt, Light) { run_category("light", false); }

}  // namespace
}  // namespace tokamak
