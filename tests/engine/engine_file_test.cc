#include "engine/engine_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "backends/cpu/cpu_features.h"
#include "engine/code_section.h"
#include "ir/text.h"
#include "runtime/execution_context.h"

namespace tokamak {
namespace {

std::string temporary(const std::string& name) {
  return (std::filesystem::temp_directory_path() / ("tokamak_" + std::to_string(::getpid()) + "_" + name)).string();
}

std::shared_ptr<Engine> small_engine() {
  auto graph = ir::parse(
      "graph main(%x: f32[n,32]) {\n %b = const f32[2] {1, 2}\n %y = add(%x, %x)\n %r = reduce_sum(%y) {axes=[1], keepdims=0}\n return %y, "
      "%r\n}");
  Tensor weight = Tensor::empty(DType::F32, {32, 32});
  std::mt19937 random(3);
  for (int i = 0; i < 1024; ++i) weight.data<float>()[i] = static_cast<float>(random() % 100) / 10;
  ir::Value* w = graph->add_constant(weight, "w");
  ir::Value* y = graph->build("matmul", {graph->outputs()[0], w});
  y->name = "z";
  graph->set_outputs({y, graph->outputs()[1]});
  EngineInfo info;
  info.model_name = "a\\b\nc";
  info.target = "avx2";
  info.report = "{\"k\":1}";
  info.profiles = {{{"x", {1, 32}, {2, 32}, {8, 32}}}};
  return std::make_shared<Engine>(std::move(graph), info);
}

std::string bytes_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

engine::Contents read_bytes(const std::string& bytes) { return engine::read(std::as_bytes(std::span(bytes)), nullptr, "test"); }

TEST(EngineFile, RoundTripRunsAndIsReproducible) {
  const std::string a = temporary("a.engine"), b = temporary("b.engine");
  const auto engine = small_engine();
  engine->save(a);
  const auto loaded = Engine::load(a);
  loaded->save(b);
  EXPECT_EQ(bytes_of_file(a), bytes_of_file(b));
  EXPECT_EQ(loaded->info().model_name, "a\\b\nc");
  EXPECT_EQ(loaded->info().report, "{\"k\":1}");
  ASSERT_EQ(loaded->info().profiles.size(), 1u);
  EXPECT_EQ(loaded->info().profiles[0][0].max, (Shape{8, 32}));
  Tensor x = Tensor::zeros(DType::F32, {3, 32});
  for (int i = 0; i < 96; ++i) x.data<float>()[i] = static_cast<float>(i % 7);
  std::vector<Tensor> results;
  for (const auto& e : {std::shared_ptr<const Engine>(engine), loaded}) {
    ExecutionContext context(e);
    context.set_input("x", x);
    context.run();
    results.push_back(context.output("z").clone());
  }
  EXPECT_TRUE(same_bytes(results[0], results[1]));
  std::filesystem::remove(a);
  std::filesystem::remove(b);
}

TEST(EngineFile, AnyChangedByteIsFound) {
  const std::string path = temporary("c.engine");
  small_engine()->save(path);
  const std::string good = bytes_of_file(path);
  std::filesystem::remove(path);
  ASSERT_NO_THROW(read_bytes(good));
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x20);
    try {
      read_bytes(bad);
      FAIL() << "byte " << i << " was changed and nobody noticed";
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == ErrorCode::Corrupt || e.code() == ErrorCode::Unsupported) << e.what();
    }
  }
}

TEST(EngineFile, AnyTruncationIsFound) {
  const std::string path = temporary("d.engine");
  small_engine()->save(path);
  const std::string good = bytes_of_file(path);
  std::filesystem::remove(path);
  for (size_t size = 0; size < good.size(); size += size < 400 ? 1 : 37) EXPECT_THROW(read_bytes(good.substr(0, size)), Error) << size;
  EXPECT_THROW(read_bytes(good + std::string(64, '\0')), Error);
}

// A stranger's file with good checksums may still lie about its constants.
TEST(EngineFile, PackedConstantsAreNeverReadAsDense) {
  const std::string path = temporary("p.engine");
  const auto load_and_run = [&](const char* text, const std::string& layout, int64_t size_bytes) -> std::string {
    auto graph = ir::parse(text);
    Tensor packed = Tensor::packed(DType::F32, {64, 64}, layout, size_bytes);
    std::memset(packed.raw(), 0, static_cast<size_t>(size_bytes));
    ir::Value* w = graph->add_constant(packed, "w");
    for (ir::Node* node : graph->nodes_snapshot())
      for (int i = 0; i < node->num_inputs(); ++i)
        if (node->input(i) && node->input(i)->name == "hole") node->set_input(i, w);
    EngineInfo info;
    info.target = "avx2";
    Engine(std::move(graph), info).save(path);
    try {
      ExecutionContext context(Engine::load(path));
      context.set_input("x", Tensor::zeros(DType::F32, {2, 64}));
      context.run();
      return "ran";
    } catch (const Error& e) {
      return e.what();
    }
  };
  const char* good =
      "graph g(%x: f32[n,64]) {\n %hole = const f32[1] {0}\n %y: f32[n,64] = matmul(%x, %hole) kernel \"avx2.matmul\" \"\"\n return %y\n}";
  EXPECT_EQ(load_and_run(good, "gemm.nr64", 64 * 64 * 4), "ran");
  EXPECT_NE(load_and_run(good, "gemm.nr64", 64 * 64), "ran");
  EXPECT_NE(load_and_run(good, "gemm.nr0", 64 * 64 * 4), "ran");
  EXPECT_NE(load_and_run(good, "mystery", 64 * 64 * 4), "ran");
  EXPECT_NE(load_and_run("graph g(%x: f32[n,64]) {\n %hole = const f32[1] {0}\n %y: f32[n,64] = matmul(%x, %hole) kernel \"ref.matmul\" "
                         "\"\"\n return %y\n}",
                         "gemm.nr64", 64),
            "ran");
  EXPECT_NE(load_and_run("graph g(%x: f32[n,64]) {\n %hole = const f32[1] {0}\n %y: f32[64,64] = add(%hole, %hole) kernel \"avx512.add\" "
                         "\"\"\n return %x, %y\n}",
                         "gemm.nr64", 64),
            "ran");
  EXPECT_NE(
      load_and_run("graph g(%x: f32[n,64]) {\n %hole = const f32[1] {0}\n %y: f32[4096] = reshape(%hole) {shape=<4096>}\n return %x, %y\n}",
                   "gemm.nr64", 64),
      "ran");
  std::filesystem::remove(path);
}

// Packed weights and scales survive the file; nobody may lie about them, or use them elsewhere.
TEST(EngineFile, QuantizedWeights) {
  const std::string path = temporary("q.engine");
  const auto load_and_run = [&](const std::string& node, int64_t weight_bytes, int64_t scale_bytes) -> std::string {
    auto graph =
        ir::parse("graph g(%x: f32[n,64]) {\n %w = const i8[40,64] splat {1}\n %s = const f32[40,1] splat {0.5}\n %y: f32[n,40] = " + node +
                  "\n return %y\n}");
    Tensor weights = Tensor::packed(DType::I8, {40, 64}, "q8.n16k64", weight_bytes),
           scales = Tensor::packed(DType::F32, {40, 1}, "scale.n16", scale_bytes);
    std::memset(weights.raw(), 1, static_cast<size_t>(weight_bytes));
    for (int64_t i = 0; i < scale_bytes / 4; ++i) scales.data<float>()[i] = 0.5f;
    ir::Value *w = graph->add_constant(weights, "pw"), *s = graph->add_constant(scales, "ps");
    for (ir::Node* n : graph->nodes_snapshot())
      for (int i = 0; i < n->num_inputs(); ++i) {
        if (n->input(i) && n->input(i)->name == "w") n->set_input(i, w);
        else if (n->input(i) && n->input(i)->name == "s") n->set_input(i, s);
      }
    EngineInfo info;
    info.target = "avx2";
    Engine(std::move(graph), info).save(path);
    try {
      ExecutionContext context(Engine::load(path));
      Tensor x = Tensor::zeros(DType::F32, {2, 64});
      for (int64_t i = 0; i < 64; ++i) x.data<float>()[i] = 127;
      context.set_input("x", x);
      context.run();
      return fmt::format("{} {}", context.output("y").data<float>()[39], context.output("y").data<float>()[40]);
    } catch (const Error& e) {
      return to_string(e.code());
    }
  };
  const std::string node = "quantized_matmul(%x, %w, %s) {group_size=64} kernel \"avx2.quantized_matmul\" \"\"";
  EXPECT_EQ(load_and_run(node, 3 * 1024, 3 * 64), fmt::format("{} 0", 127 * 64 * 0.5));
  EXPECT_EQ(load_and_run(node, 3 * 1024 - 64, 3 * 64), "corrupt data");
  EXPECT_EQ(load_and_run(node, 3 * 1024, 2 * 64), "corrupt data");
  EXPECT_EQ(load_and_run("quantized_matmul(%x, %w, %s) {group_size=64} kernel \"ref.quantized_matmul\" \"\"", 3 * 1024, 3 * 64),
            fmt::format("{} 0", 127 * 64 * 0.5))
      << "a kernel that reads them takes over";
  EXPECT_EQ(load_and_run("quantized_matmul(%x, %w, %s) {group_size=64}", 3 * 1024, 3 * 64), "corrupt data") << "packed for no kernel";
  std::filesystem::remove(path);
}

// The smallest file that passes for GPU code: an ELF header without tables.
std::vector<char> small_cubin(size_t size) {
  std::vector<char> cubin(size, 0);
  std::memcpy(cubin.data(),
              "\x7f"
              "ELF\x02",
              5);
  return cubin;
}

std::shared_ptr<Engine> small_cuda_engine() {
  const auto cpu = small_engine();
  EngineInfo info = cpu->info();
  info.device = "cuda";
  info.target = "sm_90";
  auto code = std::make_shared<cuda::CodeCache>();
  code->insert(std::string(32, 'b'), small_cubin(100));
  code->insert(std::string(32, 'a'), small_cubin(64));
  return std::make_shared<Engine>(cpu->graph().clone(), info, code);
}

TEST(EngineFile, CodeOfAGpuSurvives) {
  const std::string a = temporary("ga.engine"), b = temporary("gb.engine");
  small_cuda_engine()->save(a);
  const auto loaded = Engine::load(a);  // no GPU is needed for that
  EXPECT_TRUE(loaded->is_cuda());
  EXPECT_EQ(loaded->info().target, "sm_90");
  const auto entries = loaded->code()->entries();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(*entries.at(std::string(32, 'a')), small_cubin(64));
  EXPECT_EQ(*entries.at(std::string(32, 'b')), small_cubin(100));
  loaded->save(b);
  EXPECT_EQ(bytes_of_file(a), bytes_of_file(b));
  EXPECT_TRUE(Engine::load(a, false)->code()->entries().empty());
  // Any changed byte is found here too.
  const std::string good = bytes_of_file(a);
  for (size_t i = 0; i < good.size(); i += 3) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x20);
    EXPECT_THROW(read_bytes(bad), Error) << i;
  }
  for (size_t size = 0; size < good.size(); size += 29) EXPECT_THROW(read_bytes(good.substr(0, size)), Error) << size;
  std::filesystem::remove(a);
  std::filesystem::remove(b);
}

TEST(EngineFile, CodeSectionTrustsNothing) {
  cuda::CodeCache code;
  code.insert(std::string(32, 'a'), small_cubin(64));
  const std::string good = engine::to_bytes(code);
  const auto error_of = [](const std::string& bytes) -> std::string {
    try {
      engine::code_from_bytes(std::as_bytes(std::span(bytes)), "test");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::Corrupt);
      return e.what();
    }
    return "";
  };
  const auto with = [&](size_t at, uint64_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return error_of(bytes);
  };
  EXPECT_EQ(error_of(good), "");
  EXPECT_NE(error_of("").find("too short"), std::string::npos);
  for (uint64_t count : {uint64_t{3}, uint64_t{1} << 60, ~uint64_t{0}}) EXPECT_NE(with(0, count), "") << count;
  EXPECT_NE(with(8, 0x5a5a5a5a5a5a5a5a).find("key"), std::string::npos);
  for (uint64_t offset : {uint64_t{65}, uint64_t{128}, ~uint64_t{63}}) EXPECT_NE(with(40, offset), "") << offset;
  for (uint64_t size : {uint64_t{10}, uint64_t{65}, ~uint64_t{0}}) EXPECT_NE(with(48, size), "") << size;
  // Inside the ELF file: where its section table is, and how many entries it has.
  EXPECT_NE(with(64 + 40, 1 << 20).find("no GPU code"), std::string::npos);
  EXPECT_NE(with(64 + 56, ~uint64_t{0}).find("no GPU code"), std::string::npos);
}

TEST(EngineFile, DeviceAndCodeBelongTogether) {
  const std::string path = temporary("gd.engine");
  const auto cuda = small_cuda_engine();
  engine::write(path, cuda->graph(), cuda->info(), nullptr);
  EXPECT_THROW(Engine::load(path), Error);
  EngineInfo info = cuda->info();
  info.device = "cpu";
  engine::write(path, cuda->graph(), info, cuda->code().get());
  EXPECT_THROW(Engine::load(path), Error);
  info.device = "tpu";
  info.target = "avx2";
  engine::write(path, cuda->graph(), info, nullptr);
  EXPECT_THROW(Engine::load(path), Error);
  std::filesystem::remove(path);
}

TEST(EngineFile, NewerFormatAndOtherCpuSaySo) {
  const std::string path = temporary("e.engine");
  small_engine()->save(path);
  std::string newer = bytes_of_file(path);
  const uint32_t version = engine::kFormatVersion + 1;
  std::memcpy(newer.data() + 8, &version, sizeof(version));
  try {
    read_bytes(newer);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::Unsupported);
    EXPECT_NE(std::string(e.what()).find("newer"), std::string::npos);
  }
  auto engine = small_engine();
  EngineInfo info = engine->info();
  info.target = "avx2+avx512+vnni+bf16+amx_int8+amx_bf16";
  if (!cpu_features().covers(CpuFeatures::parse(info.target))) {
    Engine(engine->graph().clone(), info).save(path);
    try {
      Engine::load(path);
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::Unsupported);
      EXPECT_NE(std::string(e.what()).find("build the engine again"), std::string::npos);
    }
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tokamak
