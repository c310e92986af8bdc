// What an engine is built for: names of devices, and building for a GPU that is not here.

#include "builder/device.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/half.h"
#include "builder/builder.h"
#include "ir/text.h"
#include "runtime/execution_context.h"
#include "runtime/size_choices.h"
#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#endif

namespace tokamak {
namespace {

TEST(DeviceName, Spellings) {
  EXPECT_FALSE(parse_device("cpu").is_cuda);
  EXPECT_TRUE(parse_device("cuda").is_cuda);
  EXPECT_EQ(parse_device("cuda:1").ordinal, 1);
  EXPECT_EQ(parse_device("cuda:sm_90").architecture, "sm_90");
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:sm90", "cuda:1x", "cuda:-1", "CPU"})
    EXPECT_THROW(parse_device(wrong), Error) << wrong;
}

#ifdef TOKAMAK_CUDA

constexpr const char* kNet =
    "graph g(%x: f32[n,64]) {\n %w = const f32[64] {1}\n %a = softmax(%x) {axis=-1}\n %b = softmax(%a) {axis=0}\n return %b\n}";

std::string net() {
  std::string values = "1";
  for (int i = 1; i < 64; ++i) values += ",1";
  std::string text = kNet;
  return text.replace(text.find("{1}"), 3, "{" + values + "}");
}

BuildOptions for_h100(Precision precision = Precision::F32) {
  BuildOptions options;
  options.device = "cuda:sm_90";
  options.precision = precision;
  options.num_threads = 2;
  return options;
}

TEST(BuildForGpu, WithoutOneTheEngineCarriesItsCode) {
  BuildReport report;
  const auto engine = build_engine(ir::parse(net()), for_h100(), &report);
  EXPECT_TRUE(engine->is_cuda());
  EXPECT_EQ(engine->info().device, "cuda");
  EXPECT_EQ(engine->info().target, "sm_90");
  EXPECT_EQ(engine->info().precision, "fp32");
  EXPECT_EQ(report.timed, 0);
  EXPECT_EQ(report.num_host_nodes(), 0);
  for (const auto& node : engine->graph().nodes()) EXPECT_EQ(node->kernel, "cuda.softmax");
  EXPECT_EQ(engine->code()->entries().size(), 2u);  // one a shape
}

TEST(BuildForGpu, IsReproducible) {
  const auto bytes = [] {
    const std::string path = ::testing::TempDir() + "/reproducible.engine";
    build_engine(ir::parse(net()), for_h100(Precision::F16))->save(path);
    return read_file(path);
  };
  EXPECT_EQ(bytes(), bytes());
}

TEST(BuildForGpu, BatchSizesShareTheCodeOfAConvolution) {
  std::string weights;
  for (int i = 0; i < 16 * 9; ++i) weights += (i ? "," : "") + std::to_string(i % 7 - 3);
  const auto codes = [&](int64_t batch) {
    const std::string text = "graph g(%x: f32[" + std::to_string(batch) + ",16,8,8]) {\n %w = const f32[16,1,3,3] {" + weights +
                             "}\n %y = conv(%x, %w) {group=16, pads=[1,1,1,1]}\n return %y\n}";
    std::vector<std::string> keys;
    const auto engine = build_engine(ir::parse(text), for_h100());
    for (const auto& node : engine->graph().nodes())
      if (node->is("conv")) keys.push_back(node->kernel);
    for (const auto& [key, cubin] : engine->code()->entries()) keys.push_back(key);
    return keys;
  };
  const std::vector<std::string> one = codes(1);
  EXPECT_EQ(one.at(0), "cuda.conv_depthwise");
  const std::vector<std::string> five = codes(5);
  int shared = 0;
  for (const std::string& key : one) shared += std::count(five.begin(), five.end(), key) > 0;
  EXPECT_GE(shared, 2);  // the kernel's name and its code
}

// Several models are loaded and executed at once, on streams that come and go: no handle of a library may remember one that is gone.
TEST(BuildForGpu, ConvolutionsOnSeveralThreads) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << "needs a GPU";
  const std::string model = std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/digits-resnet.ts/model.onnx";
  BuildOptions options;
  const auto on_cpu = build_engine(model, options);
  options.device = "cuda";
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        ExecutionContext reference(on_cpu), context(build_engine(model, options));
        for (const int64_t batch : {1, 3, 2, 3, 5, 1, 3}) {
          Tensor x = Tensor::empty(DType::F32, {batch, 1, 32, 32});
          for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>((i * 37 + t * 11 + round) % 101) / 101;
          for (ExecutionContext* c : {&reference, &context}) {
            c->set_input("image", x);
            c->run();
          }
          const Tensor &expected = reference.output(0), &actual = context.output(0);
          ASSERT_EQ(actual.shape(), expected.shape());
          for (int64_t i = 0; i < actual.count(); ++i) ASSERT_NEAR(actual.float_at(i), expected.float_at(i), 2e-3) << batch << " " << i;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// Kernels begin before the one in front ends: a convolution of three channels whose x is long in coming, and another in every run.
TEST(BuildForGpu, KernelsThatBeginEarlyReadWhatTheOneInFrontWrites) {
  std::vector<double> weights;
  for (int i = 0; i < 16 * 27; ++i) weights.push_back((i % 7 - 3) / 4.);
  BuildOptions options = for_h100();
  if (cuda::Device::is_available()) options.device = "cuda";
  options.opt_level = 0;
  options.disabled_kernels = {"cudnn."};
  const auto engine =
      build_engine(ir::parse(fmt::format("graph g(%x: f16[192,65536]) {{ %w = const f16[16,3,3,3] {{{}}} "
                                         "%s: f16[192,1] = reduce_sum(%x) {{axes=[1]}} %i: f16[1,8,8,3] = reshape(%s) {{shape=<1,8,8,3>}} "
                                         "%y: f16[1,8,8,16] = conv(%i, %w) {{layout=\"NHWC\", pads=[1,1,1,1]}} return %y }}",
                                         fmt::join(weights, ","))),
                   options);
  const auto& nodes = engine->graph().nodes();
  EXPECT_TRUE(std::any_of(nodes.begin(), nodes.end(), [](const auto& node) { return node->kernel == "cuda.conv_igemm"; }));
  if (!cuda::Device::is_available()) GTEST_SKIP() << "needs a GPU";
  ExecutionContext context(engine);
  const auto all = [](float value) {
    Tensor t = Tensor::empty(DType::F16, {192, 65536});
    std::fill_n(t.data<uint16_t>(), t.count(), float_to_half(value));
    return t;
  };
  const Tensor inputs[] = {all(0x1p-10F), all(-0x1p-9F)};  // sums of 64 and of -128
  for (int run = 0; run < 20; ++run) {
    context.set_input("x", inputs[run % 2]);
    context.run();
    const Tensor& y = context.output(0);
    for (int64_t i = 0; i < y.count(); ++i) {
      const int64_t row = i / 128, column = i / 16 % 8, m = i % 16;
      double expected = 0;
      for (int64_t tap = 0; tap < 9; ++tap)
        if (const int64_t h = row + tap / 3 - 1, w = column + tap % 3 - 1; h >= 0 && h < 8 && w >= 0 && w < 8)
          for (int64_t c = 0; c < 3; ++c) expected += weights[static_cast<size_t>((m * 3 + c) * 9 + tap)];
      ASSERT_EQ(y.float_at(i), static_cast<float>(expected * (run % 2 ? -128 : 64))) << "run " << run << ", element " << i;
    }
  }
}

TEST(BuildForGpu, HalfPrecisionIsInTheGraph) {
  BuildReport report;
  const auto engine = build_engine(ir::parse(net()), for_h100(Precision::F16), &report);
  EXPECT_EQ(engine->info().precision, "fp16");
  EXPECT_EQ(engine->inputs()[0].dtype, DType::F32);
  EXPECT_EQ(engine->outputs()[0].dtype, DType::F32);
  int half = 0;
  for (const auto& node : engine->graph().nodes()) half += node->is("softmax") && node->output()->type.dtype == DType::F16;
  EXPECT_EQ(half, 2);
}

TEST(BuildForGpu, WithoutAKernelThereTheHostRunsTheNode) {
  BuildReport report;
  const auto engine = build_engine(
      ir::parse(
          "graph g(%x: f32[4,4]) { %a = softmax(%x) {axis=-1} %b = random_uniform() {shape=[4,4], dtype=f32} %c = add(%a, %b) return %c }"),
      for_h100(), &report);
  ASSERT_GE(report.num_host_nodes(), 1);
  for (const TacticReport& t : report.tactics) {
    if (t.op == "random_uniform") {
      EXPECT_NE(t.host_reason.find("CUDA"), std::string::npos) << t.host_reason;
    }
  }
}

TEST(BuildForGpu, ResizesToTheShapeOfAnotherStayOnTheGpu) {
  BuildReport report;
  build_engine(ir::parse("graph g(%x: f32[n,3,4,4], %z: f32[n,3,7,6]) { %s: i64[4] = shape(%z) {start=0} "
                         "%r: f32[n,3,7,6] = resize(%x, _, _, %s) {mode=\"linear\"} %y: f32[n,3,7,6] = add(%r, %z) return %y }"),
               for_h100(), &report);
  EXPECT_EQ(report.num_host_nodes(), 0);
}

TEST(BuildForGpu, LanguageModelsStayOnTheGpu) {
  BuildOptions options = for_h100(Precision::FP8);
  options.activations = DType::F16;
  BuildReport report;
  const auto engine = build_engine(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m", options, &report);
  EXPECT_EQ(engine->info().precision, "fp8");
  EXPECT_EQ(engine->outputs()[0].dtype, DType::F32);
  EXPECT_EQ(report.num_host_nodes(), 0);
  int products = 0, rounding = 0;  // of activations to fp8, where a step has many rows
  for (const auto& node : engine->graph().nodes()) {
    EXPECT_FALSE(node->is("paged_attention"));
    if (node->is("cached_attention")) {
      EXPECT_EQ(node->input(1)->type.dtype, DType::F16);
    }
    EXPECT_FALSE(node->is("quantized_matmul") || node->is("rms_norm")) << node->label();
    if (!node->is("linear")) continue;
    ++products;
    rounding += node->attrs.get_string("activation", "") == "f8e4m3fn";
    EXPECT_EQ(node->input(0)->type.dtype, DType::F16);
    EXPECT_EQ(node->input(1)->type.dtype, DType::F8E4M3FN);
    EXPECT_EQ(node->kernel, kBySize);  // chosen for few rows and for many
    EXPECT_GE(parse_size_choices(node->tactic).size(), 5u);
  }
  EXPECT_GT(products, 12);
  EXPECT_EQ(rounding, products);
}

TEST(BuildForGpu, DecodingStepsAreTimedAsAWhole) {
  if (!cuda::Device::is_available()) GTEST_SKIP() << "needs a GPU";
  BuildOptions options = for_h100(Precision::Int8);
  options.device = "cuda";
  const std::string cache = ::testing::TempDir() + "/whole-steps.timings";
  std::filesystem::remove(cache);
  options.timing_cache = cache;
  build_engine(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m", options);
  EXPECT_NE(read_file(cache).find(" | graph | "), std::string::npos);
  BuildReport again;
  build_engine(std::string(TOKAMAK_SOURCE_DIR) + "/examples/models/llama3-docs-6m", options, &again);
  EXPECT_EQ(again.timed, 0);
  std::filesystem::remove(cache);
}

TEST(BuildForGpu, NeedsAKnownOneOrOneThatIsHere) {
  BuildOptions options;
  options.device = "cuda:sm_11";
  EXPECT_THROW(build_engine(ir::parse(net()), options), Error);
  if (cuda::Device::is_available()) GTEST_SKIP() << "there is a GPU";
  options.device = "cuda";
  try {
    build_engine(ir::parse(net()), options);
    ADD_FAILURE() << "built for a GPU that is not there";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::Unsupported);
    EXPECT_NE(std::string(e.what()).find("cuda:sm_90"), std::string::npos) << e.what();
  }
}

#endif

}  // namespace
}  // namespace tokamak
