// Times every CUDA kernel of attention on steps of language models and on encoders: tokamak_cuda_attention [TEXT]: cases whose name has
// TEXT. Launches follow each other in a CUDA graph and take turns at blocks of the cache that together are larger than the L2 cache.
// Decoding is held against the bytes of the keys and values it reads, prefill against the products it needs (4 * heads * head_dim for a
// pair of a new token and one it sees). The last column is the largest difference from the plain kernel's output.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "backends/cuda/cuda_backend.h"
#include "base/error.h"
#include "base/half.h"
#include "benchmarks/cuda_replays.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak {
namespace {

using namespace cuda;

constexpr double kBandwidth = 3.06e12;  // bytes a second that an H100's memory reads
constexpr int kMaxCopies = 16, kBlockSize = 16;

struct Case {
  std::string name, text;
  std::vector<Tensor> shared;               // inputs that all launches have, undefined elsewhere
  std::vector<std::vector<Tensor>> copies;  // and their own
  double bytes = 0, flops = 0;
};

Tensor noise(DType dtype, const Shape& shape) {
  Tensor t = Tensor::empty(dtype, shape);
  std::mt19937 random(1);
  std::vector<float> pool(8191);
  std::normal_distribution<float> normal;
  for (float& x : pool) x = normal(random);
  for (int64_t i = 0; i < t.count(); ++i) {
    const float x = pool[i % 8191];
    if (dtype == DType::F8E4M3FN) t.data<uint8_t>()[i] = static_cast<uint8_t>((x < 0 ? 0x80 : 0) | (0x28 + i % 16));  // 0.25 to 1
    else t.data<uint16_t>()[i] = dtype == DType::F16 ? float_to_half(x) : float_to_bfloat16(x);
  }
  return t;
}
Tensor ints(const Shape& shape, const std::vector<int32_t>& values) { return Tensor::of<int32_t>(shape, values); }

// `count` new tokens of each of `sequences` with `length` cached ones; tables have room for `room` tokens.
Case step(const std::string& name, DType dtype, DType cache, int64_t heads, int64_t kv_heads, int64_t dim, int64_t sequences,
          int64_t length, int64_t count, int64_t room) {
  Case c;
  const int64_t used = (length + kBlockSize - 1) / kBlockSize, columns = std::max(used, room / kBlockSize);
  const double token_bytes = static_cast<double>(2 * kv_heads * dim * bytes_of(cache, 1));
  c.bytes = static_cast<double>(sequences * length) * token_bytes;
  c.flops = 4.0 * static_cast<double>(heads * dim * sequences) * static_cast<double>(count * length - count * (count - 1) / 2);
  const auto copies = static_cast<int>(std::clamp(125e6 / c.bytes + 1, 1.0, double{kMaxCopies}));
  const int64_t blocks = copies * sequences * used, tokens = sequences * count;
  c.name = fmt::format("{} {} cache {} {}/{}x{} batch {} length {} new {}", name, to_string(dtype), to_string(cache), heads, kv_heads, dim,
                       sequences, length, count);
  c.text = fmt::format(
      "graph main(%q: {}[{},{}], %cache: {}[{},2,{},{},{}], %t: i32[{},{}], %l: i32[{}], %s: i32[{}]) {{ %y = paged_attention(%q, %cache, "
      "%t, "
      "%l, %s) {{num_heads={}, num_kv_heads={}, head_dim={}}} return %y }}",
      to_string(dtype), tokens, heads * dim, to_string(cache), blocks, kv_heads, kBlockSize, dim, sequences, columns, sequences,
      sequences + 1, heads, kv_heads, dim);
  std::vector<int32_t> order(blocks), starts(sequences + 1);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(2));
  for (int64_t s = 0; s <= sequences; ++s) starts[s] = static_cast<int32_t>(s * count);
  c.shared = {noise(dtype, {tokens, heads * dim}), noise(cache, {blocks, 2, kv_heads, kBlockSize, dim}), Tensor(),
              ints({sequences}, std::vector<int32_t>(sequences, static_cast<int32_t>(length))), ints({sequences + 1}, starts)};
  size_t next = 0;
  for (int i = 0; i < copies; ++i) {
    std::vector<int32_t> table(sequences * columns, 0);
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t b = 0; b < used; ++b) table[s * columns + b] = order[next++];
    c.copies.push_back({Tensor(), Tensor(), ints({sequences, columns}, table), Tensor(), Tensor()});
  }
  return c;
}

// A step of a serving engine: `decoding` sequences with `past` cached tokens and a new one, then `prompts` of `prompt_tokens` new ones,
// in tables for `sequences` and arrays for `rows`. Sequences share blocks of the cache, far enough apart to be read from memory each time.
// `bytes`: of the decoding ones; `flops`: of the prompts.
Case mixed(DType dtype, DType cache, int64_t heads, int64_t kv_heads, int64_t dim, int64_t decoding, int64_t past, int64_t prompts,
           int64_t prompt_tokens, int64_t sequences, int64_t rows) {
  constexpr int64_t kBlocks = 8192;
  Case c;
  c.name = fmt::format("mixed {} cache {} {}/{}x{} decode {} of {} prompts {} of {}", to_string(dtype), to_string(cache), heads, kv_heads,
                       dim, decoding, past, prompts, prompt_tokens);
  const int64_t columns = (std::max(past + 1, prompt_tokens) + kBlockSize - 1) / kBlockSize;
  c.bytes = static_cast<double>(decoding * (past + 1) * 2 * kv_heads * dim * bytes_of(cache, 1));
  c.flops = 2.0 * static_cast<double>(heads * dim * prompts * prompt_tokens * (prompt_tokens + 1));
  c.text = fmt::format(
      "graph main(%q: {}[{},{}], %cache: {}[{},2,{},{},{}], %t: i32[{},{}], %l: i32[{}], %s: i32[{}]) {{ %y = paged_attention(%q, %cache, "
      "%t, %l, %s) {{num_heads={}, num_kv_heads={}, head_dim={}}} return %y }}",
      to_string(dtype), rows, heads * dim, to_string(cache), kBlocks, kv_heads, kBlockSize, dim, sequences, columns, sequences,
      sequences + 1, heads, kv_heads, dim);
  std::vector<int32_t> order(kBlocks), table(sequences * columns, 0), lengths(sequences, 0), starts{0};
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(2));
  size_t next = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    const bool decodes = s < decoding, is_used = s < decoding + prompts;
    lengths[s] = static_cast<int32_t>(!is_used ? 0 : decodes ? past + 1 : prompt_tokens);
    for (int64_t b = 0; b < (lengths[s] + kBlockSize - 1) / kBlockSize; ++b) table[s * columns + b] = order[next++ % kBlocks];
    starts.push_back(starts.back() + (!is_used ? 0 : decodes ? 1 : static_cast<int32_t>(prompt_tokens)));
  }
  c.shared = {noise(dtype, {rows, heads * dim}), noise(cache, {kBlocks, 2, kv_heads, kBlockSize, dim}), ints({sequences, columns}, table),
              ints({sequences}, lengths), ints({sequences + 1}, starts)};
  c.copies = {std::vector<Tensor>(5)};
  return c;
}

// cached_attention on the same step: the floor is the same, the norm, the rotation and the write come with it. `fused` false: its two parts
// must be timed alone, this is the first.
Case cached(Case c, DType dtype, DType cache, int64_t heads, int64_t kv_heads, int64_t dim, int64_t sequences, int64_t length, bool fused) {
  const Shape &blocks = c.shared[1].shape(), &table = c.copies[0][2].shape();
  c.name = (fused ? "cached " : "write ") + c.name;
  const std::string attrs = fmt::format("{{num_heads={}, num_kv_heads={}, head_dim={}}}", heads, kv_heads, dim);
  const int64_t width = (heads + 2 * kv_heads) * dim, tokens = c.shared[0].shape()[0];
  const std::string common = fmt::format("%qkv: {}[{},{}], %cache: {}{}, %slots: i32[{}]", to_string(dtype), tokens, width,
                                         to_string(cache), to_string(blocks), tokens);
  const std::string rope = fmt::format("%cos: f32[{0},{1}], %sin: f32[{0},{1}]", tokens, dim / 2);
  if (fused)
    c.text = fmt::format(
        "graph main({}, %t: i32{}, %l: i32[{}], %s: i32[{}], {}) {{ %y = cached_attention(%qkv, %cache, %slots, %t, %l, %s, %cos, %sin) {} "
        "return %y }}",
        common, to_string(table), sequences, sequences + 1, rope, attrs);
  else
    c.text =
        fmt::format("graph main({}, {}) {{ %q = kv_cache_write(%qkv, %cache, %slots, %cos, %sin) {} return %q }}", common, rope, attrs);
  Tensor angle = Tensor::empty(DType::F32, {tokens, dim / 2});
  for (int64_t i = 0; i < angle.count(); ++i) angle.data<float>()[i] = 0.7f;
  std::vector<Tensor> shared{noise(dtype, {tokens, width}), c.shared[1], Tensor()};
  if (fused) shared.insert(shared.end(), {Tensor(), c.shared[3], c.shared[4]});
  shared.insert(shared.end(), {angle, angle});
  c.shared = shared;
  const int64_t count = tokens / sequences, columns = table[1];
  for (auto& copy : c.copies) {
    const int32_t* const entries = copy[2].data<int32_t>();
    std::vector<int32_t> slots;
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t p = length - count; p < length; ++p)
        slots.push_back(static_cast<int32_t>(entries[s * columns + p / kBlockSize] * kBlockSize + p % kBlockSize));
    std::vector<Tensor> own(shared.size());
    own[2] = ints({tokens}, slots);
    if (fused) own[3] = copy[2];
    copy = own;
  }
  if (!fused)
    c.bytes = static_cast<double>(tokens) * dim * static_cast<double>(bytes_of(dtype, width / dim + heads) + bytes_of(cache, 2 * kv_heads)),
    c.flops = 0;
  return c;
}

Case dense(const std::string& name, DType dtype, int64_t batch, int64_t heads, int64_t length, int64_t dim, bool causal) {
  Case c;
  c.name =
      fmt::format("{} {} batch {} heads {}x{} length {}{}", name, to_string(dtype), batch, heads, dim, length, causal ? " causal" : "");
  const std::string type = fmt::format("{}[{},{},{},{}]", to_string(dtype), batch, length, heads, dim);
  c.text = fmt::format(
      "graph main(%q: {0}, %k: {0}, %v: {0}) {{ %y = attention(%q, %k, %v) {{q_layout=\"BSHD\", kv_layout=\"BSHD\", is_causal={1}}} return "
      "%y "
      "}}",
      type, causal ? 1 : 0);
  c.bytes = 4.0 * static_cast<double>(batch * length * heads * dim * bytes_of(dtype, 1));
  c.flops = 4.0 * static_cast<double>(batch * heads * length * length * dim) / (causal ? 2 : 1);
  const Shape shape{batch, length, heads, dim};
  c.shared = {noise(dtype, shape), noise(dtype, shape), noise(dtype, shape)};
  c.copies = {{Tensor(), Tensor(), Tensor()}};
  return c;
}

void run_case(const Case& c, const Context& context);

void run_all(const std::string& only, const Context& context) {
  const auto add = [&](const auto& make) {
    const Case c = make();
    if (c.name.find(only) != std::string::npos) run_case(c, context);
  };
  constexpr DType F16 = DType::F16, BF16 = DType::BF16, F8 = DType::F8E4M3FN;
  // Llama-2-7B and Llama-3.1-8B; short contexts in tables with room for 4,096.
  for (const auto& [batch, length] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 200}, {8, 200}, {64, 200}, {1, 4096}, {16, 4096}, {1, 32768}}) {
    add([&] { return step("decode", F16, F16, 32, 32, 128, batch, length, 1, 4096); });
    add([&] { return step("decode", BF16, BF16, 32, 8, 128, batch, length, 1, 4096); });
    add([&] { return step("decode", BF16, F8, 32, 8, 128, batch, length, 1, 4096); });
  }
  add([&] { return step("decode", BF16, F8, 32, 8, 128, 256, 1500, 1, 4096); });
  const auto both = [](DType dtype, DType cache, int64_t kv_heads, int64_t batch, int64_t length, int64_t count, bool fused) {
    return cached(step(count == 1 ? "decode" : "prefill", dtype, cache, 32, kv_heads, 128, batch, length, count, 4096), dtype, cache, 32,
                  kv_heads, 128, batch, length, fused);
  };
  for (const auto& [batch, length] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 200}, {4, 200}, {8, 200}, {16, 200}, {64, 200}, {1, 1000}, {1, 4096}, {16, 4096}, {1, 32768}, {64, 1000}}) {
    add([&] { return both(F16, F16, 32, batch, length, 1, true); });
    add([&] { return both(BF16, BF16, 8, batch, length, 1, true); });
    add([&] { return both(BF16, F8, 8, batch, length, 1, true); });
  }
  for (const auto& [batch, count] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {64, 1}, {1, 128}, {1, 2048}}) {
    add([&] { return both(F16, F16, 32, batch, std::max<int64_t>(count, 200), count, false); });
    add([&] { return both(BF16, F8, 8, batch, std::max<int64_t>(count, 200), count, false); });
  }
  // Llama-3.1-8B under 1,000 requests of 2,048 and of 128 prompt tokens; the latter's prompts alone; a few long contexts beside a prompt.
  add([&] { return mixed(BF16, F8, 32, 8, 128, 370, 2100, 3, 2048, 1025, 6656); });
  add([&] { return mixed(BF16, F8, 32, 8, 128, 443, 190, 50, 128, 1025, 7168); });
  add([&] { return mixed(BF16, F8, 32, 8, 128, 0, 0, 64, 128, 1025, 8192 + 1024); });
  add([&] { return mixed(BF16, BF16, 32, 8, 128, 12, 8000, 1, 2000, 17, 2048); });
  for (int64_t length : {128, 2048, 8192}) {
    add([&] { return step("prefill", BF16, BF16, 32, 32, 128, 1, length, length, length); });
    add([&] { return step("prefill", BF16, BF16, 32, 8, 128, 1, length, length, length); });
  }
  add([&] { return step("prefill", BF16, F8, 32, 8, 128, 1, 8192, 8192, 8192); });
  add([&] { return step("prefill", BF16, BF16, 32, 8, 64, 1, 8192, 8192, 8192); });
  add([&] { return step("prefill", BF16, BF16, 32, 8, 128, 16, 512, 512, 4096); });
  add([&] { return step("prefill", BF16, BF16, 32, 8, 128, 2, 4096, 512, 4096); });
  add([&] { return dense("bert", F16, 1, 12, 128, 64, false); });
  add([&] { return dense("bert", F16, 32, 12, 128, 64, false); });
  add([&] { return dense("vit", F16, 1, 12, 197, 64, false); });
  add([&] { return dense("vit", F16, 32, 12, 197, 64, false); });
  for (bool causal : {false, true}) add([&] { return dense("long", BF16, 8, 16, 2048, 128, causal); });
  add([&] { return dense("long", F16, 1, 32, 8192, 64, false); });
  add([&] { return dense("long", BF16, 1, 32, 8192, 128, true); });
  add([&] { return dense("long", BF16, 1, 32, 8192, 128, false); });
}

// Microseconds a launch.
double measure(const Kernel& kernel, const std::vector<std::vector<Tensor>>& copies, std::vector<Tensor>& outputs, void* workspace,
               const std::shared_ptr<Device>& device, int launches) {
  return median_launch_us(device, launches, [&](CUstream stream, int i) {
    RunArgs args;
    args.inputs = copies[static_cast<size_t>(i) % copies.size()];
    args.outputs = outputs, args.workspace = workspace, args.stream = stream;
    kernel.run(args);
  });
}

void run_case(const Case& c, const Context& context) {
  const auto graph = ir::parse(c.text);
  const ir::Node& node = *graph->nodes().front();
  NodeView view;
  view.node = &node, view.cuda = &context;
  for (const ir::Value* v : node.inputs()) {
    view.input_dtypes.push_back(v->type.dtype), view.input_shapes.push_back(v->type.static_shape());
    view.constants.push_back(nullptr);
  }
  view.output_dtypes = {node.output(0)->type.dtype}, view.output_shapes = {node.output(0)->type.static_shape()};
  const auto& device = context.device();
  std::vector<Buffer> buffers;
  const auto upload = [&](const Tensor& t) {
    if (!t.defined()) return Tensor();
    buffers.push_back(device->allocate(t.size_bytes(), "benchmark input"));
    check(driver().cuMemcpyHtoD(buffers.back().pointer(), t.raw(), static_cast<size_t>(t.size_bytes())), "upload");
    return Tensor::view(t.dtype(), t.shape(), buffers.back().data());
  };
  std::vector<Tensor> shared;
  for (const Tensor& t : c.shared) shared.push_back(upload(t));
  std::vector<std::vector<Tensor>> copies;
  for (const auto& copy : c.copies) {
    copies.emplace_back();
    for (size_t i = 0; i < copy.size(); ++i) copies.back().push_back(copy[i].defined() ? upload(copy[i]) : shared[i]);
  }
  Tensor host = Tensor::empty(view.output_dtypes[0], view.output_shapes[0]), plain;
  const Buffer output = device->allocate(host.size_bytes(), "benchmark output");
  std::vector<Tensor> outputs{Tensor::view(host.dtype(), host.shape(), output.data())};
  std::printf("%s: %.1f MB, %.2f us at full bandwidth, %.1f GFLOP\n", c.name.c_str(), c.bytes / 1e6, c.bytes / kBandwidth * 1e6,
              c.flops / 1e9);
  auto defs = kernels_for(node.op().name);
  std::reverse(defs.begin(), defs.end());  // the plain one first
  for (const KernelDef* def : defs) {
    if (!def->supports(view)) continue;
    for (const std::string& tactic : def->tactics(view)) {
      const auto kernel = def->make(view, tactic);
      const Buffer workspace = device->allocate(kernel->workspace_bytes(), "benchmark workspace");
      const bool is_slow = c.flops > 2e11;
      const double us = measure(*kernel, copies, outputs, workspace.data(), device, is_slow ? 1 : 2 * kMaxCopies);
      {  // the first copy's output
        const Stream stream(device);
        RunArgs args;
        args.inputs = copies[0], args.outputs = outputs, args.workspace = workspace.data(), args.stream = stream.get();
        kernel->run(args);
        stream.synchronize();
      }
      check(driver().cuMemcpyDtoH(host.raw(), output.pointer(), static_cast<size_t>(host.size_bytes())), "download");
      if (!plain.defined()) plain = host.clone();
      double worst = 0;
      const int64_t stride = std::max<int64_t>(1, host.count() / 400000) | 1;
      for (int64_t i = 0; i < host.count(); i += stride) {
        const double difference = std::abs(host.float_at(i) - plain.float_at(i));
        if (!(difference <= worst)) worst = difference;
      }
      std::printf("  %-30s %-16s %10.2f us %6.1f %% of bandwidth %7.1f TFLOP/s  differs %.1e\n", std::string(def->name()).c_str(),
                  tactic.c_str(), us, 100 * c.bytes / kBandwidth / us * 1e6, c.flops / us / 1e6, worst);
      std::fflush(stdout);
    }
  }
}

int run(const std::string& only) {
  const auto device = Device::get();
  const Context context(device->target(), std::make_shared<CodeCache>(), device);
  std::printf("%s\n", device->target().device_name.c_str());
  run_all(only, context);
  return 0;
}

}  // namespace
}  // namespace tokamak

int main(int argc, char** argv) {
  try {
    return tokamak::run(argc > 1 ? argv[1] : "");
  } catch (const tokamak::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
