// Device plans without a GPU: where steps run, which copies they need, and that every step finds what it reads.
#ifdef TOKAMAK_CUDA
#include "runtime/device_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "backends/cpu/thread_pool.h"
#include "backends/cuda/device.h"
#include "ir/text.h"
#include "tests/support/message_of.h"

namespace tokamak {
namespace {

using test::message_of;

using StepKind = DevicePlan::StepKind;

struct Planned {
  std::unique_ptr<ir::Graph> graph;
  std::unique_ptr<cuda::Context> cuda;
  std::unique_ptr<DevicePlan> plan;
};

Planned plan_of(const std::string& text, const std::vector<Shape>& shapes, std::vector<Place> places = {}, Place output = Place::Host) {
  Planned p;
  p.graph = ir::parse(text);
  p.cuda = std::make_unique<cuda::Context>(cuda::Target::named("sm_90"), std::make_shared<cuda::CodeCache>(), nullptr);
  places.resize(shapes.size(), Place::Host);
  ThreadPool pool(2);
  p.plan = std::make_unique<DevicePlan>(*p.graph, bind_shapes(*p.graph, shapes, 1), pool, *p.cuda, std::move(places), output);
  return p;
}

std::vector<std::string> names_of(const DevicePlan& plan) {
  std::vector<std::string> names;
  for (const StepInfo& step : plan.step_infos())
    names.push_back(step.node ? fmt::format("{} on {}", step.kernel, step.place == Place::Host ? "host" : "gpu") : step.name);
  return names;
}

constexpr const char* kMixed =
    "graph g(%x: f32[n,64], %y: f32[n,64]) {\n"
    " %a: f32[n,64] = softmax(%x) {axis=-1}\n"
    " %b: f32[n,64] = add(%a, %y) {} \"add\" kernel \"ref.add\" \"\"\n"
    " %c: f32[n,64] = softmax(%b) {axis=-1}\n"
    " %d: f32[64,n] = reshape(%c) {shape=<64,n>}\n"
    " return %d, %b\n}";

TEST(DevicePlan, CopiesWhereAValueIsNeededOnTheOtherSide) {
  const Planned p = plan_of(kMixed, {{4, 64}, {4, 64}});
  EXPECT_EQ(names_of(*p.plan), (std::vector<std::string>{"upload %x", "cuda.softmax on gpu", "download %a", "ref.add on host", "upload %b",
                                                         "cuda.softmax on gpu", "download %c"}));
  EXPECT_EQ(p.plan->num_copies(), 4);
  EXPECT_EQ(p.plan->num_downloads(), 2);
  EXPECT_FALSE(p.plan->is_device_only());
  ASSERT_EQ(p.plan->fallbacks().size(), 1u);
  EXPECT_NE(p.plan->fallbacks()[0].find("add: runs on the host (ref.add)"), std::string::npos) << p.plan->fallbacks()[0];
  EXPECT_EQ(p.plan->staging_bytes(), 4 * 64 * 4);
}

TEST(DevicePlan, TensorsOfTheGpuAreNotCopied) {
  const char* text = "graph g(%x: f32[n,64]) {\n %y: f32[n,64] = softmax(%x) {axis=-1}\n return %y\n}";
  const Planned p = plan_of(text, {{4, 64}}, {Place::Device}, Place::Device);
  EXPECT_EQ(p.plan->num_copies(), 0);
  EXPECT_EQ(p.plan->staging_bytes(), 0);
  EXPECT_TRUE(p.plan->is_device_only());
  EXPECT_EQ(p.plan->host_arena_bytes(), 0);
  // A host step reads a tensor of the GPU through a download, an input that is also an output stays where it is.
  const Planned q = plan_of("graph g(%x: f32[n,64]) {\n %y: f32[n,64] = relu(%x) {} \"r\" kernel \"ref.relu\" \"\"\n return %y, %x\n}",
                            {{4, 64}}, {Place::Device}, Place::Device);
  EXPECT_EQ(names_of(*q.plan), (std::vector<std::string>{"download %x", "ref.relu on host", "upload %y"}));
}

TEST(DevicePlan, ConstantsOfTheGraphAndOfTheShapes) {
  std::string row = "1";
  for (int i = 1; i < 64; ++i) row += ", 1";
  const Planned p = plan_of("graph g(%x: f32[n,64]) {\n %w = const f32[1,64] {" + row +
                                "}\n %a: f32[n,64] = softmax(%x) {axis=-1}\n %b: f32[1,64] = softmax(%w) {axis=-1}\n return %a, %b\n}",
                            {{4, 64}}, {}, Place::Device);
  // softmax of a constant is computed once, on the host, and is an output on the GPU.
  ASSERT_EQ(p.plan->constants().size(), 1u);
  EXPECT_FALSE(p.plan->constants()[0].of_graph);
  EXPECT_EQ(p.plan->constants()[0].host.size_bytes(), 256);
}

TEST(DevicePlan, WrittenInputsStayOnTheirSide) {
  const std::string step =
      "graph g(%qkv: f32[t,96], %cache: f32[b,2,1,16,32], %slots: i32[t]) {\n"
      " %q: f32[t,32] = kv_cache_write(%qkv, %cache, %slots) {num_heads=1, num_kv_heads=1, head_dim=32} \"write\" kernel "
      "\"ref.kv_cache_write\" \"\"\n return %q\n}";
  const std::vector<Shape> shapes = {{4, 96}, {2, 2, 1, 16, 32}, {4}};
  EXPECT_NO_THROW(plan_of(step, shapes));
  const std::string message = message_of([&] { plan_of(step, shapes, {Place::Host, Place::Device, Place::Host}); });
  EXPECT_NE(message.find("written there in place"), std::string::npos) << message;
}

TEST(DevicePlan, EmptyResultsNeedNoCopies) {
  const Planned p = plan_of(
      "graph g(%x: f32[n,64]) {\n %a: f32[n,64] = softmax(%x) {axis=-1}\n %b: f32[n,64] = softmax(%a) {axis=-1}\n return %b\n}", {{0, 64}});
  EXPECT_TRUE(p.plan->is_device_only());
}

// Runs a plan over memory that only remembers what was written last: every step must find the value it reads.
class Rehearsal {
 public:
  explicit Rehearsal(DevicePlan& plan) : plan_(plan), host_(plan.host_arena_bytes() + 256), device_(plan.device_arena_bytes() + 256) {
    const auto aligned = [](std::vector<std::byte>& v) {
      return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(v.data()) + 255) / 256 * 256);
    };
    plan.place(aligned(host_), aligned(device_), [](size_t) { return reinterpret_cast<std::byte*>(64); });
  }

  void run(const ir::Graph& graph, const std::vector<Tensor>& inputs) {
    std::vector<Tensor> given = inputs;
    for (size_t i = 0; i < inputs.size(); ++i) {
      plan_.set_input(static_cast<int>(i), given[i]);
      write(given[i], graph.inputs()[i]);
    }
    for (const auto& copy : plan_.input_copies()) {
      for (const auto& piece : plan_.staged_copies()) {
        const int64_t offset = copy.staging_offset - piece.staging_offset;
        if (offset < 0 || offset + copy.size_bytes > piece.size_bytes) continue;
        write(Tensor::view(DType::U8, {copy.size_bytes}, piece.device + offset), graph.inputs()[copy.input]);
      }
    }
    for (DevicePlan::Step& step : plan_.steps()) {
      if (step.kind != StepKind::Kernel) {
        const ir::Value* v = holds(step.inputs[0]);
        EXPECT_TRUE(v && step.name.ends_with("%" + v->name)) << step.name << " finds " << (v ? v->name : "nothing");
        write(step.outputs[0], v);
        continue;
      }
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        const ir::Value* v = root(step.node->input(static_cast<int>(i)));
        if (v == nullptr || v->is_constant()) continue;
        EXPECT_EQ(holds(step.inputs[i]), v) << step.name << " looks for %" << v->name;
      }
      if (step.workspace) write(Tensor::view(DType::U8, {step.kernel->workspace_bytes()}, step.workspace), nullptr);
      for (size_t o = 0; o < step.outputs.size(); ++o) write(step.outputs[o], step.node->output(static_cast<int>(o)));
    }
    for (size_t i = 0; i < graph.outputs().size(); ++i) EXPECT_EQ(holds(plan_.output(static_cast<int>(i))), root(graph.outputs()[i]));
  }

 private:
  static const ir::Value* root(const ir::Value* v) {
    while (v && v->producer() && v->producer()->op().has(ir::kView)) v = v->producer()->input(0);
    return v;
  }
  void write(const Tensor& t, const ir::Value* value) {
    const auto* begin = static_cast<const std::byte*>(t.raw());
    // Forget what overlaps.
    for (auto it = memory_.begin(); it != memory_.end();)
      if (it->first < begin + t.size_bytes() && begin < it->first + it->second.second) it = memory_.erase(it);
      else ++it;
    memory_[begin] = {value, t.size_bytes()};
  }
  const ir::Value* holds(const Tensor& t) const {
    const auto found = memory_.find(static_cast<const std::byte*>(t.raw()));
    return found != memory_.end() && found->second.second == t.size_bytes() ? found->second.first : nullptr;
  }

  DevicePlan& plan_;
  std::vector<std::byte> host_, device_;
  std::map<const std::byte*, std::pair<const ir::Value*, int64_t>> memory_;
};

TEST(DevicePlan, EveryStepFindsWhatItReads) {
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    // Inputs of different sizes (some share a piece of staging), then a random mix of host and GPU steps over earlier values.
    const int num_inputs = 1 + static_cast<int>(random() % 3), num_nodes = 1 + static_cast<int>(random() % 14);
    std::string text = "graph g(";
    std::vector<Place> places;
    std::vector<Tensor> inputs;
    std::vector<Shape> shapes;
    for (int i = 0; i < num_inputs; ++i) {
      text += fmt::format("{}%v{}: f32[n,64]", i ? ", " : "", i);
      places.push_back(random() % 4 == 0 ? Place::Device : Place::Host);
    }
    text += ") {\n";
    std::vector<std::string> values;
    for (int i = 0; i < num_inputs; ++i) values.push_back(fmt::format("%v{}", i));
    for (int i = 0; i < num_nodes; ++i) {
      const auto any = [&] {
        return values[random() % 3 ? values.size() - 1 - random() % std::min<size_t>(values.size(), 3) : random() % values.size()];
      };
      const std::string name = fmt::format("%n{}", i);
      switch (random() % 4) {
        case 0: text += fmt::format(" {}: f32[n,64] = add({}, {}) {{}} \"s{}\" kernel \"ref.add\" \"\"\n", name, any(), any(), i); break;
        case 1: text += fmt::format(" {}: f32[n,64] = relu({}) {{}} \"s{}\" kernel \"ref.relu\" \"\"\n", name, any(), i); break;
        default: text += fmt::format(" {}: f32[n,64] = softmax({}) {{axis=-1}}\n", name, any());
      }
      values.push_back(name);
    }
    text += fmt::format(" return {}, {}\n}}", values.back(), values[random() % values.size()]);
    const int64_t n = random() % 5 == 0 ? 600 : 1 + static_cast<int64_t>(random() % 9);  // 600 rows: too large to share a piece
    for (int i = 0; i < num_inputs; ++i) {
      shapes.push_back({n, 64});
      inputs.push_back(Tensor::empty(DType::F32, {n, 64}));
    }
    SCOPED_TRACE(text);
    const Planned p = plan_of(text, shapes, places, random() % 2 ? Place::Host : Place::Device);
    Rehearsal(*p.plan).run(*p.graph, inputs);
  }
}

TEST(MakeKernel, TakesTheGpusKernelsFirstAndSaysWhyNot) {
  const auto kernel_for = [](const std::string& text, bool on_gpu) {
    const auto graph = ir::parse(text);
    const cuda::Context cuda(cuda::Target::named("sm_90"), std::make_shared<cuda::CodeCache>(), nullptr);
    const Binding binding = bind_shapes(*graph, {{4, 64}}, 1);
    ReadyKernel ready = make_kernel(make_view(*graph->nodes().front(), binding, 1, on_gpu ? &cuda : nullptr));
    return fmt::format("{} {} [{}] [{}]", ready.name, ready.place == Place::Host ? "host" : "gpu", ready.fallback_reason,
                       ready.host_reason);
  };
  const auto softmax = [](const std::string& dtype, const std::string& kernel) {
    return "graph g(%x: " + dtype + "[4,64]) {\n %y: " + dtype + "[4,64] = softmax(%x) {axis=-1} \"s\"" +
           (kernel.empty() ? "" : " kernel \"" + kernel + "\" \"\"") + "\n return %y\n}";
  };
  EXPECT_EQ(kernel_for(softmax("f32", ""), true), "cuda.softmax gpu [] []");
  EXPECT_EQ(kernel_for(softmax("f32", "cuda.softmax"), true), "cuda.softmax gpu [] []");
  EXPECT_EQ(kernel_for(softmax("f32", "ref.softmax"), true), "ref.softmax host [] [chosen when the engine was built]");
  // Without a GPU (values computed once on the host) the choice is passed over.
  EXPECT_NE(kernel_for(softmax("f32", "cuda.softmax"), false).find("host [] []"), std::string::npos);
  const std::string f64 = kernel_for(softmax("f64", "cuda.softmax"), true);
  EXPECT_NE(f64.find("ref.softmax host [cuda.softmax: x must be f32, f16 or bf16] [\n  cuda.softmax: x must be"), std::string::npos) << f64;
  EXPECT_NE(message_of([&] { kernel_for(softmax("f32", "cuda.no_such"), true); }).find("cuda.no_such"), std::string::npos);
}

}  // namespace
}  // namespace tokamak
#endif
