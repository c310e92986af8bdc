// Whole models in 16 bits, on the CPU's kernels: what the pass makes of them runs, and gives what float32 gives.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "builder/builder.h"
#include "builder/default_shapes.h"
#include "passes/pipeline.h"
#include "quant/half.h"
#include "runtime/interpreter.h"

namespace tokamak::quant {
namespace {

namespace fs = std::filesystem;

// The largest difference as a share of the output's largest element; over float outputs.
double largest_error(const std::vector<Tensor>& got, const std::vector<Tensor>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (want[i].dtype() != DType::F32) continue;
    EXPECT_EQ(got[i].dtype(), DType::F32);
    EXPECT_EQ(got[i].shape(), want[i].shape());
    double largest = 0, error = 0;
    for (int64_t k = 0; k < want[i].count(); ++k) {
      largest = std::max(largest, std::fabs(want[i].float_at(k)));
      error = std::max(error, std::fabs(got[i].float_at(k) - want[i].float_at(k)));
      if (std::isnan(got[i].float_at(k)) != std::isnan(want[i].float_at(k))) return INFINITY;
    }
    worst = std::max(worst, largest > 0 ? error / largest : error);
  }
  return worst;
}

void check_model(const fs::path& folder, DType dtype, double tolerance) {
  SCOPED_TRACE(folder.filename().string());
  const auto graph = import_model((folder / "model.onnx").string());
  BuildReport report;
  passes::run_pipeline(*graph, {}, report);
  ThreadPool pool(2);
  const std::vector<Shape> shapes = default_shapes(*graph, 2);
  std::optional<Ranges> ranges;
  try {
    ranges = measure_ranges(*graph, shapes, pool);
  } catch (const Error& e) {
    return;  // made-up inputs are none that this model takes
  }
  floats_to_half(*graph, {.dtype = dtype, .ranges = &*ranges}, pool);
  ir::Dim::Bindings symbols;
  for (size_t i = 0; i < shapes.size(); ++i) bind_symbols(graph->inputs()[i]->name, graph->inputs()[i]->type, shapes[i], symbols);
  const std::vector<Tensor> outputs = Interpreter(2, pool).run(*graph, ranges->inputs, symbols, nullptr);
  // Where activations are integers, a last bit of a float is now and then one of them.
  const bool quantizes = folder.extension() == ".qdq" || folder.extension() == ".dynamic";
  EXPECT_LT(largest_error(outputs, ranges->outputs), quantizes ? 0.06 : tolerance);
}

void check_models(DType dtype, double tolerance) {
  ASSERT_TRUE(fs::exists(fs::path(TOKAMAK_SOURCE_DIR) / "examples/models"));
  for (const char* folder : {"examples/models", "../shared/models/onnx"}) {
    const fs::path root = fs::path(TOKAMAK_SOURCE_DIR) / folder;
    if (!fs::exists(root)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(root))
      if (fs::exists(entry.path() / "model.onnx")) check_model(entry.path(), dtype, tolerance);
  }
}

TEST(HalfModels, Fp16) { check_models(DType::F16, 0.01); }
TEST(HalfModels, Bf16) { check_models(DType::BF16, 0.06); }

}  // namespace
}  // namespace tokamak::quant
