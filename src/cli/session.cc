#include "cli/session.h"

#include <chrono>
#include <cstring>
#include <fstream>

#include "backends/cpu/cpu_features.h"
#include "base/file.h"
#include "builder/device.h"
#include "cli/console.h"
#include "quant/sample_inputs.h"

namespace tokamak::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

int device_ordinal(const BuildOptions& options) { return parse_device(options.device).ordinal; }

std::string running_on(const Engine& engine) { return engine.is_cuda() ? engine.info().device_name : cpu_model_name(); }

Opened open_model(std::string path, BuildOptions options, const NamedShapes& shapes) {
  Opened opened;
  const ModelKind kind = model_kind(path);
  const auto start = Clock::now();
  if (kind == ModelKind::Engine) {
    opened.engine = Engine::load(path);
    opened.load_ms = seconds_since(start) * 1e3;
    if (parse_device(options.device).is_cuda && !opened.engine->is_cuda())
      fail(ErrorCode::InvalidArgument, "'{}' is an engine for the CPU: build the model again with --device {}", path, options.device);
    return opened;
  }
  ProgressBar bar;
  if (!options.progress) options.progress = [&bar](const BuildProgress& p) { bar.update(p.step, p.fraction, p.remaining_s); };
  auto graph = import_model(path, options, &opened.report);
  if (options.profiles.empty() && !shapes.empty()) {
    OptimizationProfile profile;
    for (const ir::Value* input : graph->inputs()) {
      const Shape* shape = find_shape(shapes, input->name);
      if (shape && !input->type.is_static()) profile.push_back({input->name, *shape, *shape, *shape});
    }
    if (!profile.empty()) options.profiles.push_back(std::move(profile));
  }
  const double import_s = seconds_since(start);
  opened.engine = build_engine(std::move(graph), options, &opened.report);
  opened.report.import_s = import_s;
  opened.built = true;
  opened.build_s = seconds_since(start);
  return opened;
}

NamedShapes resolve_shapes(const Engine& engine, const NamedShapes& asked, int profile) {
  std::vector<std::string> names;
  for (const TensorInfo& input : engine.inputs()) names.push_back(input.name);
  for (const auto& [pattern, shape] : asked) {
    bool used = false;
    for (const std::string& name : names) used |= matches(pattern, name);
    if (!used)
      fail(ErrorCode::InvalidArgument, "no input is named '{}' (inputs: {}){}", pattern, fmt::join(names, ", "),
           suggestion(pattern, names));
    if (pattern.empty() && names.size() != 1)
      fail(ErrorCode::InvalidArgument, "the model has {} inputs: write NAME:{} (inputs: {})", names.size(), format_shape(shape),
           fmt::join(names, ", "));
  }
  const auto& profiles = engine.info().profiles;
  if (profile < 0 || (profile > 0 && profile >= static_cast<int>(profiles.size())))
    fail(ErrorCode::OutOfRange, "profile {} does not exist: the engine has {}", profile, profiles.size());

  std::vector<const Shape*> given(names.size(), nullptr);
  ir::Dim::Bindings bindings;
  for (size_t i = 0; i < names.size(); ++i) {
    given[i] = find_shape(asked, names[i]);
    if (!given[i] && !profiles.empty())
      for (const ShapeRange& range : profiles[profile])
        if (range.input == names[i]) given[i] = &range.opt;
    const ir::TensorType& type = engine.inputs()[i].type;
    if (!given[i] || !type.ranked) continue;
    if (type.rank() != static_cast<int64_t>(given[i]->size()))
      fail(ErrorCode::InvalidArgument, "input '{}' is {}: the shape {} has another rank", names[i], ir::to_string(type),
           format_shape(*given[i]));
    for (int64_t d = 0; d < type.rank(); ++d)
      if (const auto symbol = type.dims[d].as_symbol()) bindings.emplace(*symbol, (*given[i])[d]);
  }
  NamedShapes resolved;
  for (size_t i = 0; i < names.size(); ++i) {
    const ir::TensorType& type = engine.inputs()[i].type;
    if (given[i]) {
      resolved.emplace_back(names[i], *given[i]);
      continue;
    }
    if (!type.ranked)
      fail(ErrorCode::InvalidArgument, "input '{}' has no declared rank: give its shape with --shapes {}:...", names[i], names[i]);
    Shape shape;
    for (int64_t d = 0; d < type.rank(); ++d) {
      std::vector<std::string> symbols;
      type.dims[d].collect_symbols(symbols);
      for (const std::string& symbol : symbols) bindings.emplace(symbol, d == 0 ? 1 : 16);
      shape.push_back(type.dims[d].substitute(bindings).value());
    }
    resolved.emplace_back(names[i], std::move(shape));
  }
  return resolved;
}

Tensor random_input(const Engine& engine, const TensorInfo& input, const Shape& shape, uint64_t seed) {
  for (const ir::Value* value : engine.graph().inputs())
    if (value->name == input.name) return quant::sample_input(*value, shape, seed);
  fail(ErrorCode::NotFound, "the engine has no input '{}'", input.name);
}

Tensor raw_file_input(const TensorInfo& input, const Shape& shape, const std::string& path) {
  const auto file = MappedFile::open(path);
  Tensor tensor = Tensor::empty(input.dtype, shape);
  if (file->size_bytes() != tensor.size_bytes())
    fail(ErrorCode::InvalidArgument, "{}: input '{}' of shape {} and type {} takes {} bytes, the file has {}", path, input.name,
         format_shape(shape), to_string(input.dtype), tensor.size_bytes(), file->size_bytes());
  if (tensor.size_bytes() > 0) std::memcpy(tensor.raw(), file->bytes().data(), tensor.size_bytes());
  return tensor;
}

int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::strtoll(line.c_str() + 6, nullptr, 10) * 1024;
  return 0;
}

Precision lower_precision(const std::string& asked, std::string& message) {
  const CpuFeatures& features = cpu_features();
  if (features.avx512_bf16 || features.amx_bf16) {
    message = fmt::format("{}: this CPU's lower precision is bf16, which is used", asked);
    return Precision::BF16;
  }
  message = fmt::format("{}: this CPU has no lower precision than fp32 in hardware; fp32 is used", asked);
  return Precision::F32;
}

}  // namespace tokamak::cli
