#include "builder/precision.h"

#include <fmt/format.h>

#include "backends/cpu/cpu_features.h"
#include "builder/device.h"
#include "quant/bf16.h"
#include "quant/f32.h"
#include "quant/fp8.h"
#include "quant/half.h"
#include "quant/int4.h"
#include "quant/int8.h"
#include "quant/matrices.h"
#include "quant/moments.h"

namespace tokamak {
namespace {

// Multiplications and additions of calibrating an int4 build: the passes over the text, then the rounding.
double calibration_gflop(ir::Graph& graph, const quant::MomentOptions& options) {
  double work = 0;
  for (const quant::ConstantMatrix& m : quant::constant_matrices(graph)) {
    const double n = static_cast<double>(m.n), k = static_cast<double>(m.k);
    work += 2 * n * k * options.sequences * options.length * (options.rounds + 1) + n * k * k + k * k * k / 3;
  }
  return work * 1e-9;
}

int weights_to_int4(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report) {
  const quant::MomentOptions text;
  if (!quant::is_step_graph(graph) || options.int4_calibration_gflop <= 0)
    return quant::weights_to_int4(graph, options.int4_group_size, nullptr, pool);
  const double needed = calibration_gflop(graph, text);
  if (needed > options.int4_calibration_gflop) {
    report.notes.push_back(
        fmt::format("4-bit weights are rounded one by one: rounding them for the model's own text would take {:.0f} GFLOP, "
                    "more than int4_calibration_gflop ({:.0f})",
                    needed, options.int4_calibration_gflop));
    return quant::weights_to_int4(graph, options.int4_group_size, nullptr, pool);
  }
  const quant::MeasuredMoments moments = quant::measure_moments(graph, text, pool);
  report.notes.push_back(fmt::format("4-bit weights are rounded for {} tokens of the model's own text", text.sequences * text.length));
  return quant::weights_to_int4(graph, options.int4_group_size, &moments, pool);
}

// Products whose weights are in integers of a dtype.
int count_quantized(const ir::Graph& graph, DType dtype) {
  int count = 0;
  ir::for_each_graph(graph, [&](const ir::Graph& g) {
    for (const auto& node : g.nodes()) count += node->is("quantized_matmul") && node->input(1)->type.dtype == dtype;
  });
  return count;
}

// Tensor cores then multiply fp8 by fp8 where a step has many rows, the head's of many sequences included.
void allow_fp8_activations(ir::Graph& graph) {
  ir::for_each_graph(graph, [](ir::Graph& g) {
    for (const auto& node : g.nodes())
      if (node->is("quantized_matmul") && node->input(1)->type.dtype == DType::F8E4M3FN) node->attrs.set("activation", "f8e4m3fn");
  });
}

// Weights as integers or 8-bit floats, for either device. Returns the precision's name when something changed.
const char* quantize_weights(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report) {
  const int kept8 = count_quantized(graph, DType::I8), kept4 = count_quantized(graph, DType::I4);
  const auto note = [&](int count, const char* text) {
    if (count > 0) report.notes.push_back(fmt::format("{} matrix products {}", count, text));
  };
  note(kept8 + kept4, "keep the quantized weights of the file");
  const char* kept = kept4 > 0 ? "int4" : kept8 > 0 ? "int8" : nullptr;
  switch (options.precision) {
    case Precision::Int8: {
      const int otherwise = parse_device(options.device).is_cuda ? 0 : quant::kInt8GroupSize;
      const int count = quant::weights_to_int8(graph, options.int8_group_size.value_or(otherwise), pool);
      note(count, "have 8-bit weights");
      return count > 0 && kept4 == 0 ? "int8" : kept;
    }
    case Precision::Int4: {
      const int count = weights_to_int4(graph, options, pool, report);
      note(count_quantized(graph, DType::I4) - kept4, "have 4-bit weights, one scale a group");
      note(count_quantized(graph, DType::I8) - kept8, "have 8-bit weights");
      return count > 0 ? "int4" : kept;
    }
    case Precision::FP8: {
      const int count = quant::weights_to_fp8(graph, pool);
      allow_fp8_activations(graph);
      note(count, "have FP8 (E4M3) weights, one scale a channel");
      return count > 0 && kept == nullptr ? "fp8" : kept;
    }
    default: return kept;
  }
}

}  // namespace

// Puts the weights of matrix products into the asked precision; returns the name of what it came to.
// After the passes: they fold and fuse float weights only. (Products that a GGUF file brings quantized get their epilogues as matmuls do.)
const char* choose_weights(ir::Graph& graph, const BuildOptions& options, ThreadPool& pool, BuildReport& report) {
  if (options.precision == Precision::FP8) fail(ErrorCode::Unsupported, "fp8 needs a GPU; on the CPU int8 takes as many bytes");
  const char* quantized = quantize_weights(graph, options, pool, report);
  switch (options.precision) {
    case Precision::FP8:
    case Precision::Int8:
    case Precision::Int4: return quantized ? quantized : "fp32";
    case Precision::BF16:
    case Precision::F16:
    case Precision::Best:
      if (!cpu_features().avx512_bf16 && !cpu_features().amx_bf16) {
        report.notes.push_back("this CPU has no bf16 instructions: built in fp32");
      } else if (const int count = quant::weights_to_bf16(graph, pool); count > 0) {
        report.notes.push_back(
            fmt::format("{} matrix products multiply in bf16 with fp32 accumulation; everything else stays fp32", count));
        return quantized ? quantized : "bf16";
      } else if (!quantized) {
        report.notes.push_back("no matrix product has constant weights to hold in bf16: built in fp32");
      }
      [[fallthrough]];
    case Precision::TF32:
    case Precision::F32: quant::weights_to_f32(graph, pool); return quantized ? quantized : "fp32";
  }
  return "fp32";
}

namespace {

// How large the graph's values get; nothing, with a note, when that is not to be found out. `shapes` may be empty: none are known.
std::optional<quant::Ranges> ranges_of(const ir::Graph& graph, const std::vector<Shape>& shapes, const BuildOptions& options,
                                       ThreadPool& pool, BuildReport& report) {
  const char* unmeasured = "values beyond the range of fp16 are not looked for: ";
  if (options.precision == Precision::FP8) {
    report.notes.push_back(fmt::format("{}the CPU does not multiply by fp8 weights", unmeasured));
    return std::nullopt;
  }
  if (quant::is_step_graph(graph)) {
    report.notes.push_back(fmt::format("{}in language models that is not done; bf16 has the range of fp32", unmeasured));
    return std::nullopt;
  }
  if (shapes.empty() && !graph.inputs().empty()) {
    report.notes.push_back(fmt::format("{}no input shapes are known; give --profile", unmeasured));
    return std::nullopt;
  }
  const double gflop = quant::gflop_of(graph, bind_shapes(graph, shapes, pool.width()));
  if (gflop > options.range_gflop) {
    report.notes.push_back(fmt::format("{}one run on the CPU would take {:.0f} GFLOP, more than range_gflop ({:.0f})", unmeasured, gflop,
                                       options.range_gflop));
    return std::nullopt;
  }
  try {
    quant::Ranges ranges = quant::measure_ranges(graph, shapes, pool);
    report.notes.push_back("fp16: how large values get was measured on random inputs, in fp32 on the CPU");
    return ranges;
  } catch (const Error& e) {  // made-up inputs may be none that the model takes
    report.notes.push_back(fmt::format("{}the model does not run on random inputs: {}", unmeasured, e.what()));
    return std::nullopt;
  }
}

std::string first_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 6;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMost); ++i) text += (i ? ", " : "") + names[i];
  return names.size() > kMost ? fmt::format("{} and {} more", text, names.size() - kMost) : text;
}

// All values in 16 bits, but for those that need more.
void choose_half(ir::Graph& graph, DType dtype, const quant::Ranges* ranges, ThreadPool& pool, BuildReport& report) {
  const quant::HalfReport half = quant::floats_to_half(graph, {.dtype = dtype, .ranges = ranges}, pool);
  const char* name = dtype == DType::F16 ? "fp16" : "bf16";
  std::string kept;
  for (const auto& [op, count] : half.kept) kept += fmt::format("{}{} {}", kept.empty() ? "" : ", ", count, op);
  report.notes.push_back(
      fmt::format("{} nodes work in {} with fp32 accumulation{}", half.nodes, name, kept.empty() ? "" : "; in fp32 stay " + kept));
  if (!half.kept_for_range.empty())
    report.notes.push_back(fmt::format("fp32 where fp16 has not the range: {}", first_of(half.kept_for_range)));
  for (const std::string& why : half.refused) report.notes.push_back(fmt::format("stays fp32: {}", why));
}

}  // namespace

// The same for a GPU. `ranges` receives what was measured for fp16.
const char* choose_precision_for_gpu(ir::Graph& graph, const BuildOptions& options, const std::vector<Shape>& shapes, ThreadPool& pool,
                                     std::optional<quant::Ranges>& ranges, BuildReport& report) {
  const char* quantized = quantize_weights(graph, options, pool, report);
  std::optional<DType> dtype;
  switch (options.precision) {
    case Precision::F32:
    case Precision::TF32: break;
    case Precision::F16: dtype = DType::F16; break;
    case Precision::BF16: dtype = DType::BF16; break;
    case Precision::Best: dtype = quant::is_step_graph(graph) ? DType::BF16 : DType::F16; break;
    case Precision::Int8:
    case Precision::Int4:
    case Precision::FP8: dtype = options.activations; break;
  }
  if (!dtype) {
    quant::weights_to_f32(graph, pool);
    return quantized ? quantized : options.precision == Precision::TF32 ? "tf32" : "fp32";
  }
  if (dtype == DType::F16) ranges = ranges_of(graph, shapes, options, pool, report);
  choose_half(graph, *dtype, ranges ? &*ranges : nullptr, pool, report);
  return quantized ? quantized : dtype == DType::F16 ? "fp16" : "bf16";
}

DType kv_dtype_of(const BuildOptions& options) {
  if (options.kv_dtype) return *options.kv_dtype;
  if (options.precision == Precision::F32 || options.precision == Precision::TF32) return DType::F32;
  if (!parse_device(options.device).is_cuda) return DType::BF16;
  if (options.precision == Precision::F16) return DType::F16;
  const bool quantized =
      options.precision == Precision::Int8 || options.precision == Precision::Int4 || options.precision == Precision::FP8;
  return quantized ? options.activations : DType::BF16;
}

}  // namespace tokamak
