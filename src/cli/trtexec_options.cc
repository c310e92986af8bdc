#include "cli/trtexec_options.h"

#include <algorithm>

#ifdef TOKAMAK_CUDA
#include "backends/cuda/device.h"
#endif
#include "builder/device.h"
#include "cli/session.h"

namespace tokamak::cli {

namespace {

std::vector<std::pair<std::string, std::string>> named_files(const std::string& text, const char* flag) {
  std::vector<std::pair<std::string, std::string>> files;
  if (text.empty()) return files;
  for (const std::string& item : split(text, ',')) {
    const size_t colon = item.find(':', item.starts_with("'") ? item.find('\'', 1) : 0);
    if (colon == std::string::npos) fail(ErrorCode::InvalidArgument, "--{}: expected name:file, found '{}'", flag, item);
    std::string name = item.substr(0, colon);
    if (name.size() > 1 && name.front() == '\'' && name.back() == '\'') name = name.substr(1, name.size() - 2);
    files.emplace_back(std::move(name), item.substr(colon + 1));
  }
  return files;
}

// The workspace entry of --memPoolSize; the other pools belong to other devices.
void read_pools(const std::string& text, BuildOptions& build, std::vector<std::string>& notes) {
  for (const std::string& item : split(text, ',')) {
    const size_t colon = item.find(':');
    const std::string pool = item.substr(0, colon), size = colon == std::string::npos ? "" : item.substr(colon + 1);
    const std::vector<std::string> known = {"workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM", "tacticSharedMem"};
    if (std::find(known.begin(), known.end(), pool) == known.end())
      fail(ErrorCode::InvalidArgument, "--memPoolSize: unknown pool '{}'{}", pool, suggestion(pool, known));
    const int64_t bytes = parse_size_bytes(size, 1 << 20);
    if (pool == "workspace") build.workspace_limit_bytes = bytes;
    else notes.push_back(fmt::format("--memPoolSize={}: this device has no such memory", pool));
  }
}

// TensorRT counts GPUs; `cpu` and `cuda:sm_90` are ours.
bool is_number(const std::string& value) { return !value.empty() && value.find_first_not_of("0123456789") == std::string::npos; }
std::string number_or_name(const std::string& value) { return is_number(value) ? "cuda:" + value : value; }

// Scripts written for TensorRT expect a GPU; where there is none they still run.
std::string default_device() {
#ifdef TOKAMAK_CUDA
  if (cuda::Device::is_available()) return "cuda";
#endif
  return "cpu";
}

const Shape* first_of(std::initializer_list<const NamedShapes*> lists, const std::string& name) {
  for (const NamedShapes* list : lists)
    if (const Shape* shape = find_shape(*list, name)) return shape;
  return nullptr;
}

}  // namespace

TrtOptions trt_options(const TrtWords& words) {
  TrtOptions o;
  o.profiles.resize(1);
  size_t profile = 0;
  std::string precision;
  const auto number = [](const std::string& flag, const std::string& value) { return parse_number(value, "--" + flag); };
  const auto integer = [](const std::string& flag, const std::string& value) {
    return static_cast<int>(std::clamp<int64_t>(parse_int(value, "--" + flag), -1, 1 << 30));
  };
  for (const auto& [flag, value] : words.flags) {
    if (flag == "onnx") o.onnx = value;
    else if (flag == "loadEngine") o.load_engine = value;
    else if (flag == "saveEngine") o.save_engine = value;
    else if (flag == "skipInference") o.skip_inference = true;
    else if (flag == "getPlanVersionOnly") o.version_only = true;
    else if (flag == "timeDeserialize") o.time_deserialize = true;
    else if (flag == "profile") {
      const int index = integer(flag, value);
      if (index < 0 || index > 63) fail(ErrorCode::InvalidArgument, "--profile: expected 0..63, found {}", value);
      profile = static_cast<size_t>(index);
      if (o.profiles.size() <= profile) o.profiles.resize(profile + 1);
    } else if (flag == "minShapes") o.profiles[profile].min = parse_shapes(value);
    else if (flag == "optShapes") o.profiles[profile].opt = parse_shapes(value);
    else if (flag == "maxShapes") o.profiles[profile].max = parse_shapes(value);
    else if (flag == "shapes") o.shapes = parse_shapes(value);
    else if (flag == "useProfile") o.measure.profile = integer(flag, value);
    else if (flag == "memPoolSize") read_pools(value, o.build, o.notes);
    else if (flag == "workspace") o.build.workspace_limit_bytes = parse_size_bytes(value, 1 << 20);
    else if (flag == "fp16" || flag == "bf16" || flag == "int8" || flag == "fp8" || flag == "int4" || flag == "best")
      precision = precision.empty() ? flag : precision + "+" + flag;
    else if (flag == "builderOptimizationLevel") o.build.opt_level = std::clamp(integer(flag, value), 0, 5);
    else if (flag == "timingCacheFile") o.build.timing_cache = value;
    else if (flag == "profilingVerbosity") {
      const std::vector<std::string> known = {"layer_names_only", "detailed", "none", "default", "verbose"};
      if (std::find(known.begin(), known.end(), value) == known.end())
        fail(ErrorCode::InvalidArgument, "--profilingVerbosity: unknown value '{}'{}", value, suggestion(value, known));
      o.detailed_layers = value == "detailed" || value == "verbose";
      o.no_layers = value == "none";
    } else if (flag == "iterations") o.measure.min_iterations = std::max(1, integer(flag, value));
    else if (flag == "warmUp") o.measure.warmup_ms = number(flag, value);
    else if (flag == "duration") o.measure.duration_s = number(flag, value);
    else if (flag == "sleepTime") o.measure.sleep_ms = number(flag, value);
    else if (flag == "idleTime") o.measure.idle_ms = number(flag, value);
    else if (flag == "infStreams") o.measure.streams = std::clamp(integer(flag, value), 1, 256);
    else if (flag == "threads" && !value.empty()) o.measure.threads = std::clamp(integer(flag, value), 1, 1024);
    else if (flag == "noDataTransfers") o.measure.transfers = false;
    else if (flag == "avgRuns") o.avg_runs = std::max(1, integer(flag, value));
    else if (flag == "percentile") {
      o.percentiles.clear();
      for (const std::string& part : split(value, ',')) {
        const double percent = number(flag, part);
        if (percent < 0 || percent > 100) fail(ErrorCode::InvalidArgument, "--percentile: expected 0..100, found {}", part);
        o.percentiles.push_back(percent);
      }
    } else if (flag == "verbose") o.verbose = true;
    else if (flag == "dumpProfile") o.dump_profile = true;
    else if (flag == "exportProfile") o.export_profile = value;
    else if (flag == "dumpLayerInfo") o.dump_layers = true;
    else if (flag == "exportLayerInfo") o.export_layers = value;
    else if (flag == "exportTimes") o.export_times = value;
    else if (flag == "dumpOutput") o.dump_output = true;
    else if (flag == "exportOutput") o.export_output = value;
    else if (flag == "dumpRawBindingsToFile") o.dump_bindings = true;
    else if (flag == "dumpOptimizationProfile") o.dump_profiles = true;
    else if (flag == "loadInputs") o.load_inputs = named_files(value, "loadInputs");
    else if (flag == "loadRefOutputs") o.reference_outputs = named_files(value, "loadRefOutputs");
    else if (flag == "rtol") o.rtol = number(flag, value);
    else if (flag == "atol") o.atol = number(flag, value);
    else if (flag == "device") o.build.device = number_or_name(value);
    // stronglyTyped, separateProfileRun and includeDataTransfers describe what happens anyway.
  }
  o.measure.transfers = !words.has("noDataTransfers");
  o.build.num_threads = o.measure.threads;
  const std::string asked = words.get("device");
  if (asked.empty()) o.build.device = default_device();
  else if (default_device() == "cpu" && is_number(asked)) {
    o.build.device = "cpu";
    o.notes.push_back(fmt::format("--device={}: there is no GPU here; the CPU is used", asked));
  }
  const DeviceName device = parse_device(o.build.device);
  o.measure.device = device.ordinal;
  if (device.is_cuda) open_device(o.build.device, false);  // says at once when there is none
  if (device.is_cuda && !words.has("noTF32")) o.build.precision = Precision::TF32;
  if (precision.find("int8") != std::string::npos || precision.find("fp8") != std::string::npos ||
      precision.find("int4") != std::string::npos || precision.find("best") != std::string::npos) {
    o.build.precision = Precision::Best;
    o.notes.push_back(fmt::format(
        "--{}: the fastest precision of the device is chosen for each layer; layers are quantized only where the model has Q/DQ nodes",
        precision));
  } else if (device.is_cuda && !precision.empty()) {
    o.build.precision = precision.find("fp16") != std::string::npos ? Precision::F16 : Precision::BF16;
  } else if (!precision.empty()) {
    std::string message;
    o.build.precision = lower_precision("--" + precision, message);
    o.notes.push_back(message);
  }
  if (o.onnx.empty() && o.load_engine.empty())
    fail(ErrorCode::InvalidArgument, "no model: give --onnx=model.onnx or --loadEngine=model.engine (--help lists the flags)");
  if (!o.onnx.empty() && !o.load_engine.empty()) fail(ErrorCode::InvalidArgument, "--onnx and --loadEngine exclude each other");
  if (!o.load_engine.empty() && !o.save_engine.empty())
    fail(ErrorCode::InvalidArgument, "--saveEngine needs --onnx; --loadEngine names a file that is already an engine");
  return o;
}

std::vector<OptimizationProfile> trt_profiles(const TrtOptions& options, std::span<ir::Value* const> inputs,
                                              std::vector<std::string>& warnings) {
  std::vector<OptimizationProfile> profiles;
  for (const TrtProfileShapes& given : options.profiles) {
    OptimizationProfile profile;
    for (const ir::Value* input : inputs) {
      if (input->type.is_static()) continue;
      const std::string& name = input->name;
      const Shape* min = first_of({&given.min, &given.opt, &given.max, &options.shapes}, name);
      const Shape* opt = first_of({&given.opt, &given.max, &given.min, &options.shapes}, name);
      const Shape* max = first_of({&given.max, &given.opt, &given.min, &options.shapes}, name);
      Shape ones;
      if (!min) {
        if (!input->type.ranked) fail(ErrorCode::InvalidArgument, "input '{}' has no declared rank: give --shapes={}:...", name, name);
        for (const ir::Dim& dim : input->type.dims) {
          ir::Dim::Bindings bindings;
          std::vector<std::string> symbols;
          dim.collect_symbols(symbols);
          for (const std::string& symbol : symbols) bindings[symbol] = 1;
          ones.push_back(dim.substitute(bindings).value());
        }
        warnings.push_back(
            fmt::format("Dynamic dimensions required for input: {}, but no shapes were provided. Automatically overriding shape to: {}",
                        name, format_shape(ones)));
        min = opt = max = &ones;
      }
      profile.push_back({name, *min, *opt, *max});
    }
    if (!profile.empty()) profiles.push_back(std::move(profile));
  }
  const auto check_names = [&](const NamedShapes& shapes) {
    for (const auto& [pattern, shape] : shapes) {
      std::vector<std::string> names;
      for (const ir::Value* input : inputs) names.push_back(input->name);
      if (std::none_of(names.begin(), names.end(), [&, &p = pattern](const std::string& name) { return matches(p, name); }))
        fail(ErrorCode::InvalidArgument, "no input is named '{}' (inputs: {}){}", pattern, fmt::join(names, ", "),
             suggestion(pattern, names));
    }
  };
  for (const TrtProfileShapes& given : options.profiles)
    for (const NamedShapes* shapes : {&given.min, &given.opt, &given.max}) check_names(*shapes);
  check_names(options.shapes);
  return profiles;
}

}  // namespace tokamak::cli
