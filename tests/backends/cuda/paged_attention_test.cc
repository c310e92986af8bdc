#ifdef TOKAMAK_CUDA
#include "tests/backends/cuda/check_kernels.h"
#include "tests/backends/cuda/paged_tester.h"

namespace tokamak::testing {

using namespace cuda;

std::vector<StepRun> run_step(const std::string& op, const std::vector<Tensor>& inputs, const ir::Attrs& attrs,
                              const std::vector<std::string>& archs, const std::string& kernel_name) {
  ir::Graph graph;
  std::vector<ir::Value*> values;
  for (const Tensor& t : inputs) values.push_back(t.defined() ? graph.add_constant(t) : nullptr);
  ir::Node* node = graph.add_node(op, values, attrs, "under test");
  std::vector<bool> dynamic;
  NodeView view = make_view(*node, inputs, {}, 1, dynamic);
  for (const Tensor*& constant : view.constants) constant = nullptr;
  // Code depends on few of the sizes.
  static std::map<std::string, std::shared_ptr<CodeCache>> code;
  const auto code_of = [](const std::string& arch) -> std::shared_ptr<CodeCache> {
    std::shared_ptr<CodeCache>& cache = code[arch];
    if (!cache) cache = std::make_shared<CodeCache>();
    return cache;
  };
  std::vector<Context> contexts;
  if (Device::is_available()) {
    const auto device = Device::get();
    contexts.emplace_back(device->target(), code_of("device"), device);
  } else {
    for (const std::string& name : archs) contexts.emplace_back(Target::named(name), code_of(name), nullptr);
  }
  std::vector<StepRun> runs;
  for (const Context& context : contexts) {
    view.cuda = &context;
    int accepted = 0;
    std::string reasons;
    for (const KernelDef* def : kernels_for(op)) {
      if (!kernel_name.empty() && def->name() != kernel_name) continue;
      if (const Support support = def->supports(view); !support) {
        reasons += fmt::format("\n  {}: {}", def->name(), support.reason());
        continue;
      }
      ++accepted;
      for (const std::string& tactic : def->tactics(view)) {
        std::unique_ptr<Kernel> kernel;
        EXPECT_NO_THROW(kernel = def->make(view, tactic)) << def->name() << " " << tactic;
        if (!kernel || !context.device()) continue;
        Device& device = *context.device();
        const Stream stream(context.device());
        constexpr int64_t kGuard = 256;
        const int64_t workspace_bytes = kernel->workspace_bytes();
        const Buffer workspace = device.allocate(workspace_bytes + kGuard, "test workspace");
        for (int round = 0; round < 2; ++round) {
          std::vector<Buffer> buffers;
          std::vector<Tensor> tensors;
          for (const Tensor& t : inputs) {
            tensors.emplace_back();
            if (!t.defined()) continue;
            buffers.push_back(device.allocate(t.size_bytes(), "test input"));
            check(driver().cuMemcpyHtoD(buffers.back().pointer(), t.raw(), static_cast<size_t>(t.size_bytes())), "upload");
            tensors.back() = Tensor::view(t.dtype(), t.shape(), buffers.back().data());
          }
          StepRun run{fmt::format("{} \"{}\"", def->name(), tactic), Tensor::empty(view.output_dtypes[0], view.output_shapes[0]),
                      Tensor::empty(inputs[1].dtype(), inputs[1].shape())};
          const int64_t bytes = run.output.size_bytes();
          const Buffer output = device.allocate(bytes + kGuard, "test output");
          check(driver().cuMemsetD8(output.pointer(), 0xff, static_cast<size_t>(bytes + kGuard)), "poison");
          check(driver().cuMemsetD8(workspace.pointer(), 0xff, static_cast<size_t>(workspace_bytes + kGuard)), "poison");
          // Poison and uploads went through the default stream, which the kernel's does not wait for.
          check(driver().cuStreamSynchronize(nullptr), "poison");
          std::vector<Tensor> outputs{Tensor::view(view.output_dtypes[0], view.output_shapes[0], output.data())};
          RunArgs args;
          args.inputs = tensors, args.outputs = outputs, args.workspace = workspace.data(), args.stream = stream.get();
          kernel->run(args);
          stream.synchronize();
          for (const Buffer* buffer : {&output, &workspace}) {
            std::vector<uint8_t> guard(kGuard);
            check(driver().cuMemcpyDtoH(guard.data(), buffer->pointer() + static_cast<size_t>(buffer->size_bytes() - kGuard), kGuard),
                  "guard");
            EXPECT_TRUE(std::ranges::all_of(guard, [](uint8_t b) { return b == 0xff; })) << run.kernel << ": wrote past its memory";
          }
          check(driver().cuMemcpyDtoH(run.output.raw(), output.pointer(), static_cast<size_t>(bytes)), "download");
          check(driver().cuMemcpyDtoH(run.cache.raw(), reinterpret_cast<CUdeviceptr>(tensors[1].raw()),
                                      static_cast<size_t>(run.cache.size_bytes())),
                "download");
          runs.push_back(std::move(run));
        }
      }
    }
    EXPECT_GT(accepted, 0) << "no CUDA kernel accepts it:" << reasons;
  }
  return runs;
}

namespace {

double tolerance_of(DType dtype) { return dtype == DType::BF16 ? 8e-3 : dtype == DType::F16 ? 1.5e-3 : 2e-5; }

// `rounded` (may be null): what comes of rounding that kernels may do; an element may be off by as much as that is.
void expect_close(const Tensor& actual, const Tensor& expected, double tolerance, const std::string& what,
                  const Tensor* rounded = nullptr) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < actual.count(); ++i) {
    const double a = actual.float_at(i), e = expected.float_at(i);
    const double off = rounded ? std::abs(rounded->float_at(i) - e) : 0;
    if (a == e || (std::isnan(a) && std::isnan(e)) || std::abs(a - e) <= tolerance * (1 + std::abs(e)) + off) continue;
    if (wrong++ == 0)
      ADD_FAILURE() << what << ": element " << i << " of " << to_string(actual.shape()) << " is " << a << ", expected " << e;
  }
  EXPECT_EQ(wrong, 0) << what << ": of " << actual.count();
}

// What a cache holds may be rounded to a neighbour of what the reference stored, seldom; what no token was written to is unchanged.
void expect_cache(const Tensor& actual, const Tensor& expected, const std::string& what) {
  const DType dtype = actual.dtype();
  const double step = dtype == DType::F8E4M3FN ? 0.126 : dtype == DType::BF16 ? 8e-3 : dtype == DType::F16 ? 1e-3 : 2e-5;
  int64_t off = 0;
  constexpr int64_t kPiece = 512;  // nearly all of a large cache is equal byte for byte
  for (int64_t begin = 0; begin < actual.count(); begin += kPiece) {
    const int64_t count = std::min(kPiece, actual.count() - begin), at = bytes_of(dtype, begin);
    if (std::memcmp(static_cast<const char*>(actual.raw()) + at, static_cast<const char*>(expected.raw()) + at,
                    static_cast<size_t>(bytes_of(dtype, count))) == 0)
      continue;
    for (int64_t i = begin; i < begin + count; ++i) {
      const double a = actual.float_at(i), e = expected.float_at(i);
      if (a == e || (std::isnan(a) && std::isnan(e))) continue;
      ++off;
      ASSERT_NEAR(a, e, step * std::abs(e) + 2e-3 * step) << what << ": element " << i << " of the cache";
    }
  }
  if (dtype != DType::F32) {
    EXPECT_LE(off, actual.count() / 50) << what << ": of " << actual.count();
  }
}

std::string describe(const PagedCase& c, DType activation) {
  std::string lengths;
  for (const auto& s : c.sequences) lengths += fmt::format(" {}/{}", s.count, s.length);
  return fmt::format("{} heads, {} kv heads of {}, blocks of {}, cache {}, activations {}, window {}, softcap {}, seed {}, sequences{}",
                     c.heads, c.kv_heads, c.dim, c.block_size, to_string(c.cache), to_string(activation), c.window, c.softcap, c.seed,
                     lengths);
}

}  // namespace

void check_cached_step(PagedCase c, DType activation, const std::vector<std::string>& archs) {
  if (!test::takes_next_case()) return;
  c.seed = std::random_device{}();
  SCOPED_TRACE(describe(c, activation));
  const PagedBatch batch(c);
  ir::Attrs attrs = c.write_attrs(), write_attrs = attrs, attention_attrs = c.attention_attrs();
  attrs.set("scale", c.scale), attrs.set("softcap", c.softcap), attrs.set("window", c.window);
  if (c.cache == DType::F8E4M3FN)
    for (ir::Attrs* all : {&attrs, &write_attrs, &attention_attrs}) all->set("k_scale", 0.75), all->set("v_scale", 1.25);
  const bool runs = Device::is_available();
  const Tensor before = runs ? batch.filled_cache(false) : batch.empty_cache();
  std::vector<Tensor> inputs = batch.write_inputs(before);
  inputs[0] = narrowed(inputs[0], activation);
  inputs.insert(inputs.begin() + 3, {batch.block_tables, batch.seq_lens, batch.query_starts});
  if (!runs) {
    run_step("cached_attention", inputs, attrs, archs);
    return;
  }
  std::vector<Tensor> on_cpu = inputs;
  on_cpu[0] = widened(inputs[0]), on_cpu[1] = before.clone();
  const Tensor exact = run_ref("cached_attention", on_cpu, attrs)[0];
  std::vector<Tensor> write_inputs = batch.write_inputs(before.clone());
  write_inputs[0] = on_cpu[0];
  const Tensor q = run_ref("kv_cache_write", write_inputs, write_attrs)[0];
  const auto attend = [&](const Tensor& query, const Tensor& cache) {
    return run_ref("paged_attention", batch.attention_inputs(query, cache), attention_attrs)[0];
  };
  // Kernels round q, as they round k and v, and may store a neighbour of what the reference stored.
  const Tensor rounded_q = widened(narrowed(q, activation));
  const Tensor rounded = attend(rounded_q, on_cpu[1]);
  inputs[1] = reordered_cache(before, true);
  const Tensor expected_cache = reordered_cache(on_cpu[1], true);
  for (const StepRun& run : run_step("cached_attention", inputs, attrs, archs)) {
    expect_cache(run.cache, expected_cache, run.kernel);
    if (same_bytes(run.cache, expected_cache)) {
      expect_close(run.output, exact, tolerance_of(activation), run.kernel, &rounded);
      continue;
    }
    const Tensor cache = reordered_cache(run.cache, false), own = attend(rounded_q, cache);
    expect_close(run.output, attend(q, cache), tolerance_of(activation), run.kernel, &own);
  }
}

void check_step(PagedCase c, DType activation, const std::vector<std::string>& archs, const std::string& kernel) {
  if (!test::takes_next_case()) return;
  c.seed = std::random_device{}();
  SCOPED_TRACE(describe(c, activation));
  const PagedBatch batch(c);
  ir::Attrs write_attrs = c.write_attrs(), attention_attrs = c.attention_attrs();
  if (c.cache == DType::F8E4M3FN)
    for (ir::Attrs* attrs : {&write_attrs, &attention_attrs}) attrs->set("k_scale", 0.75), attrs->set("v_scale", 1.25);

  if (!Device::is_available()) {
    const Tensor cache = batch.empty_cache();
    std::vector<Tensor> inputs = batch.write_inputs(cache);
    inputs[0] = narrowed(inputs[0], activation);
    run_step("kv_cache_write", inputs, write_attrs, archs);
    run_step("paged_attention", batch.attention_inputs(Tensor::empty(activation, {batch.tokens, c.heads * c.dim}), cache), attention_attrs,
             archs, kernel);
    return;
  }
  const Tensor before = batch.filled_cache(false);
  std::vector<Tensor> inputs = batch.write_inputs(before);
  inputs[0] = narrowed(inputs[0], activation);
  std::vector<Tensor> on_cpu = inputs;
  on_cpu[0] = widened(inputs[0]), on_cpu[1] = before.clone();
  const Tensor q = run_ref("kv_cache_write", on_cpu, write_attrs)[0];
  inputs[1] = reordered_cache(before, true);
  const Tensor expected_cache = reordered_cache(on_cpu[1], true);
  for (const StepRun& run : run_step("kv_cache_write", inputs, write_attrs, archs)) {
    expect_close(run.output, q, tolerance_of(activation), run.kernel);
    expect_cache(run.cache, expected_cache, run.kernel);
  }

  const Tensor query = narrowed(q, activation);
  const Tensor y = run_ref("paged_attention", batch.attention_inputs(widened(query), on_cpu[1]), attention_attrs)[0];
  for (const StepRun& run : run_step("paged_attention", batch.attention_inputs(query, expected_cache), attention_attrs, archs, kernel)) {
    expect_close(run.output, y, tolerance_of(activation), run.kernel);
    EXPECT_TRUE(same_bytes(run.cache, expected_cache)) << run.kernel << ": changed the cache";
  }
}

namespace {

constexpr DType kActivations[] = {DType::F32, DType::F16, DType::BF16};
constexpr DType kCaches[] = {DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN};

// Decoding, ragged, prefill; a sequence on a block's border; rows that no sequence owns.
const std::vector<std::vector<PagedCase::Sequence>> kSteps = {
    {{1, 1}}, {{200, 1}}, {{700, 1}, {1, 1}, {64, 1}, {65, 1}, {333, 1}}, {{40, 1}, {129, 17}, {33, 33}, {300, 70}}, {{150, 150}}};

TEST(CudaPagedAttention, EveryDtype) {
  for (DType activation : kActivations)
    for (DType cache : kCaches)
      for (size_t i : {2, 3}) {
        PagedCase c;
        c.heads = 8, c.kv_heads = 2, c.dim = 64, c.half = 32, c.cache = cache, c.sequences = kSteps[i], c.padding = i == 3 ? 3 : 0;
        check_step(c, activation);
      }
}

TEST(CudaPagedAttention, HeadSizesAndGroups) {
  for (const auto& [heads, kv_heads, dim] : std::vector<std::array<int64_t, 3>>{
           {4, 4, 128}, {8, 2, 80}, {8, 1, 96}, {16, 2, 128}, {5, 5, 64}, {6, 2, 256}, {20, 1, 64}, {3, 1, 10}})
    for (size_t i = 0; i < kSteps.size(); ++i)
      for (DType dtype : {DType::F16, DType::BF16}) {
        PagedCase c;
        c.heads = heads, c.kv_heads = kv_heads, c.dim = dim, c.block_size = i % 2 ? 16 : 48, c.half = dim / 2, c.cache = dtype;
        c.sequences = kSteps[i];
        if (test::wants_all() || (i >= 3 && dtype == DType::BF16)) check_step(c, dtype);
      }
}

TEST(CudaPagedAttention, WindowAndSoftcap) {
  for (const auto& steps : kSteps)
    for (const auto& [window, softcap] : std::vector<std::pair<int64_t, double>>{{9, 0}, {100, 0}, {0, 2}, {130, 5}}) {
      PagedCase c;
      c.heads = 4, c.kv_heads = 2, c.dim = 64, c.cache = DType::F16, c.sequences = steps, c.window = window, c.softcap = softcap;
      check_step(c, DType::F16);
    }
}

TEST(CudaPagedAttention, NormsAndRope) {
  for (bool interleaved : {false, true})
    for (int64_t half : {32, 13}) {
      PagedCase c;
      c.half = half, c.interleaved = interleaved, c.norms = true, c.cache = DType::BF16, c.sequences = {{20, 4}, {3, 3}};
      check_step(c, DType::BF16);
      check_step(c, DType::F32);
    }
}

// Rows that decode, more sequences than rows are used: lengths of 0.
TEST(CudaPagedAttention, UnusedSequences) {
  PagedCase c;
  c.heads = 8, c.kv_heads = 2, c.dim = 128, c.cache = DType::BF16, c.sequences = {{77, 1}, {0, 0}, {513, 1}, {0, 0}}, c.padding = 2;
  check_step(c, DType::BF16);
}

// What the integers name is skipped or clamped; nothing outside is read or written (compute-sanitizer sees that), and rows stay apart.
TEST(CudaPagedAttention, NonsenseIsSkipped) {
  PagedCase c;
  c.dim = 64, c.cache = DType::F16, c.sequences = {{20, 2}, {5, 5}};
  const PagedBatch batch(c);
  const Tensor cache = reordered_cache(batch.filled_cache(true), true);
  std::vector<Tensor> in = batch.write_inputs(cache);
  in[0] = narrowed(in[0], DType::F16);
  in[2] = i32({batch.tokens}, {-1, -2147483647, 2147483647, static_cast<int32_t>(batch.num_blocks * c.block_size), -7, -1, -1});
  for (const StepRun& run : run_step("kv_cache_write", in, c.write_attrs())) EXPECT_TRUE(same_bytes(run.cache, cache)) << run.kernel;
  const Tensor q = narrowed(Tensor::zeros(DType::F32, {batch.tokens, c.heads * c.dim}), DType::F16);
  for (const auto& [lens, starts] : std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>>{
           {{20, 5}, {5, 2, 100}}, {{-3, 2147483647}, {0, 2, 7}}, {{1, 0}, {-5, 3, 2}}, {{20, 5}, {2147483647, -2147483647, 7}}})
    for (const StepRun& run :
         run_step("paged_attention", {q, cache, batch.block_tables, i32({2}, lens), i32({3}, starts)}, c.attention_attrs()))
      EXPECT_TRUE(same_bytes(run.cache, cache)) << run.kernel;
}

TEST(CudaPagedAttention, CompilesForEveryArchitecture) {
  for (DType cache : kCaches) {
    PagedCase c;
    c.heads = 8, c.kv_heads = 2, c.dim = 128, c.cache = cache, c.sequences = kSteps[2];
    check_step(c, DType::F16, {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
    c.sequences = kSteps[4];
    check_step(c, DType::F16, {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"});
  }
}

}  // namespace
}  // namespace tokamak::testing
#endif
