// Engines whose files are well formed and whose contents are not what our builder writes: an error at load or when the shapes are planned,
// never a wrong read.

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/thread_pool.h"
#include "ir/text.h"
#include "runtime/execution_context.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#include "runtime/device_plan.h"
#endif

namespace tokamak {
namespace {

// Saves, loads and runs with zeros of the given shape; the message of the error, or "" when nothing objected.
std::string error_of(std::unique_ptr<ir::Graph> graph, const Shape& shape) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("tokamak_hostile_" + std::to_string(::getpid()) + ".engine")).string();
  std::string message;
  try {
    Engine(std::move(graph), {}).save(path);
    const auto engine = Engine::load(path);
    ExecutionContext context(engine);
    context.set_input("x", Tensor::zeros(DType::F32, shape));
    context.run();
  } catch (const Error& e) {
    EXPECT_NE(e.code(), ErrorCode::Internal) << e.what();
    message = e.what();
  }
  std::filesystem::remove(path);
  return message;
}

void expect_error(std::unique_ptr<ir::Graph> graph, const Shape& shape, const char* part) {
  const std::string message = error_of(std::move(graph), shape);
  EXPECT_NE(message.find(part), std::string::npos) << "expected \"" << part << "\", found \"" << message << "\"";
}

std::unique_ptr<ir::Graph> with_constant(const char* text, Tensor constant) {
  return ir::parse(text, {.constant = [&](int64_t, DType, const Shape&, const std::string&) { return constant; }});
}

TEST(HostileEngine, KernelOfAnotherOperator) {
  // relu's own kernel takes over.
  const auto graph = ir::parse("graph g(%x: f32[n,8]) {\n %y: f32[n,8] = relu(%x) {} \"r\" kernel \"ref.softmax\" \"\"\n return %y\n}");
  ExecutionContext context(std::make_shared<const Engine>(graph->clone(), EngineInfo()));
  context.set_input("x", Tensor::zeros(DType::F32, {2, 8}));
  context.run();
  for (int i = 0; i < 16; ++i) EXPECT_EQ(context.output(0).data<float>()[i], 0);
  expect_error(ir::parse("graph g(%x: f32[n,8]) {\n %y: f32[n,8] = relu(%x) {} \"r\" kernel \"none.such\" \"\"\n return %y\n}"), {2, 8},
               "none.such");
}

TEST(HostileEngine, PackedWeightsOfTheWrongSize) {
  for (const char* kernel : {"avx2.matmul", "avx512.matmul"}) {
    const KernelDef* def = cpu::find_kernel(kernel);
    ASSERT_NE(def, nullptr);
    for (const char* layout : {"gemm.nr16", "gemm.nr64", "gemm.nr0", "gemm.nr7", "gemm.nr", "other", "gemm.bf16.nr64"}) {
      const std::string text = fmt::format(
          "graph g(%x: f32[n,64]) {{\n %w = const f32[64,64] @0 layout \"{}\"\n %y: f32[n,64] = matmul(%x, %w) {{}} \"m\" kernel \"{}\" "
          "\"nr16\"\n return %y\n}}",
          layout, kernel);
      EXPECT_NE(error_of(with_constant(text.c_str(), Tensor::packed(DType::F32, {64, 64}, layout, 64)), {32, 64}), "") << text;
    }
  }
  for (const char* kernel : {"avx2.conv_igemm", "avx512.conv_igemm", "avx2.conv_winograd", "avx512.conv_winograd"}) {
    if (cpu::find_kernel(kernel) == nullptr) continue;
    const std::string text = fmt::format(
        "graph g(%x: f32[n,8,8,16]) {{\n %w = const f32[16,16,3,3] @0 layout \"{0}\"\n"
        " %y: f32[n,6,6,16] = conv(%x, %w) {{layout=\"NHWC\"}} \"c\" kernel \"{0}\" \"\"\n return %y\n}}",
        kernel);
    EXPECT_NE(error_of(with_constant(text.c_str(), Tensor::packed(DType::F32, {16, 16, 3, 3}, kernel, 64)), {1, 8, 8, 16}), "") << text;
  }
}

TEST(HostileEngine, PackedConstantsWhereNobodyUnpacksThem) {
  const Tensor packed = Tensor::packed(DType::F32, {64, 64}, "gemm.nr16", 64);
  const std::pair<const char*, const char*> cases[] = {
      {"graph g(%x: f32[64,64]) {\n %w = const f32[64,64] @0 layout \"gemm.nr16\"\n %y: f32[64,64] = add(%x, %w)\n return %y\n}",
       "where a dense one belongs"},
      {"graph g(%x: f32[64,64]) {\n %w = const f32[64,64] @0 layout \"gemm.nr16\"\n %y: f32[64,64] = matmul(%w, %x)\n return %y\n}",
       "where a dense one belongs"},
      {"graph g(%x: f32[64,64]) {\n %w = const f32[64,64] @0 layout \"gemm.nr16\"\n %y: f32[4096] = reshape(%w) {shape=<4096>}\n return "
       "%y\n}",
       "where a dense one belongs"},
      {"graph g(%x: f32[64,64]) {\n %w = const f32[64,64] @0 layout \"gemm.nr16\"\n %y: f32[64,64] = relu(%x)\n return %y, %w\n}",
       "where a dense one belongs"},
      {"graph g(%x: f32[64,64]) {\n %w = const f32[64,64] @0 layout \"gemm.nr16\"\n %y: f32[64,64] = matmul(%x, %w) {} \"m\" kernel "
       "\"ref.matmul\" \"\"\n return %y\n}",
       "b is packed in 64 bytes"},
      {"graph g(%x: f32[64,64]) {\n %w = const i64[1] @0 layout \"gemm.nr16\"\n %y: f32[4096] = slice(%x, %w, %w, %w) {} \"s\" kernel "
       "\"ref.slice\" \"\"\n return %y\n}",
       "where a dense one belongs"},
  };
  for (const auto& [text, part] : cases) expect_error(with_constant(text, packed), {64, 64}, part);
}

#ifdef TOKAMAK_CUDA
// The same for an engine for a GPU, planned without one.
TEST(HostileEngine, PackedConstantsOfAGpuWhereNobodyUnpacksThem) {
  const auto plan_error = [](const std::string& text, const Tensor& constant) -> std::string {
    const auto graph = with_constant(text.c_str(), constant);
    const cuda::Context cuda(cuda::Target::named("sm_90"), std::make_shared<cuda::CodeCache>(), nullptr);
    ThreadPool pool(1);
    try {
      DevicePlan(*graph, bind_shapes(*graph, {{32, 64}}, 1), pool, cuda, {Place::Host}, Place::Host);
    } catch (const Error& e) {
      EXPECT_NE(e.code(), ErrorCode::Internal) << e.what();
      return e.what();
    }
    return "";
  };
  // Layouts of either backend and of none, with too few bytes, for a chosen kernel of the GPU, one of the CPU and none.
  for (const char* layout : {"gemm.nr16", "cuda.linear", "cuda.mystery", "other"})
    for (const char* kernel : {"kernel \"cublaslt.matmul\" \"\"", "kernel \"cuda.linear_mma\" \"\"", "kernel \"ref.matmul\" \"\"", ""}) {
      const std::string text = fmt::format(
          "graph g(%x: f32[n,64]) {{\n %w = const f32[64,64] @0 layout \"{}\"\n %y: f32[n,64] = matmul(%x, %w) {{}} \"m\" {}\n return "
          "%y\n}}",
          layout, kernel);
      EXPECT_NE(plan_error(text, Tensor::packed(DType::F32, {64, 64}, layout, 64)), "") << text;
    }
  EXPECT_NE(plan_error("graph g(%x: f32[n,64]) {\n %y: f32[n,64] = relu(%x) {} \"r\" kernel \"cuda.none_such\" \"\"\n return %y\n}", {})
                .find("cuda.none_such"),
            std::string::npos);
  // A kernel for another operator: relu's own takes over.
  EXPECT_EQ(plan_error("graph g(%x: f32[n,64]) {\n %y: f32[n,64] = relu(%x) {} \"r\" kernel \"cuda.softmax\" \"\"\n return %y\n}", {}), "");
}
#endif

// The parser refuses none of these without inference: the verifier or the runtime must.
TEST(HostileEngine, ControlFlowWithoutBodies) {
  const char* const texts[] = {
      "graph g(%x: f32[2]) {\n %c = const bool[] {1}\n %y: f32[2] = if(%c)\n return %y\n}",
      "graph g(%x: f32[2]) {\n %c = const bool[] {1}\n %y: f32[2] = if(%c) with graph a() { return %x } with graph b() { return }\n return "
      "%y\n}",
      "graph g(%x: f32[2]) {\n %c = const bool[] {1}\n %y: f32[2] = if(%c) with graph a(%q: f32[2]) { return %x } with graph b(%r: f32[2]) "
      "{ return %x }\n return %y\n}",
      "graph g(%x: f32[2]) {\n %c = const bool[] {1}\n %y: f32[2] = loop(_, %c, %x)\n return %y\n}",
      "graph g(%x: f32[2]) {\n %c = const bool[] {1}\n %y: f32[2] = loop(_, %c, %x) with graph b(%i: i64[]) { return %c }\n return %y\n}",
      "graph g(%x: f32[2]) {\n %y: f32[2] = scan(%x) {num_scan_inputs=5} with graph b(%i: f32[]) { return %i }\n return %y\n}",
      "graph g(%x: f32[2]) {\n %y: f32[2] = scan(%x) {num_scan_inputs=1, scan_input_directions=[0,1,1]} with graph b(%i: f32[]) { return "
      "%i }\n return %y\n}",
      "graph g(%x: f32[2]) {\n %y: f32[2] = scan(%x) {num_scan_inputs=1, scan_output_axes=[7]} with graph b(%i: f32[]) { return %i }\n "
      "return %y\n}",
      "graph g(%x: f32[2]) {\n %c = const bool[0] {}\n %y: f32[2] = loop(_, %c, %x) with graph b(%i: i64[], %d: bool[], %s: f32[2]) { "
      "return %d, %s }\n return %y\n}",
  };
  for (const char* text : texts) EXPECT_NE(error_of(ir::parse(text, {.infer = false}), {2}), "") << text;
}

}  // namespace
}  // namespace tokamak
