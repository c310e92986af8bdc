#include "cli/trtexec_flags.h"

#include "base/error.h"
#include "cli/args.h"

namespace tokamak::cli {

namespace {

using enum FlagAction;
constexpr FlagValue kNone = FlagValue::None, kNeeded = FlagValue::Needed, kOptional = FlagValue::Optional;

constexpr std::string_view kGpu = "it concerns GPUs, and this runs on the CPU";
constexpr std::string_view kDla = "there is no DLA on this device";
constexpr std::string_view kPlugins = "there are no plugin libraries; operators are built in";
constexpr std::string_view kCalibration = "there is no calibration; models with Q/DQ nodes run as they are written";
constexpr std::string_view kTyped = "precision is chosen for the whole model";
constexpr std::string_view kPortable = "engines are data only and load wherever the CPU has the instructions they need";
constexpr std::string_view kWeights = "engines always hold their weights, memory-mapped";
constexpr std::string_view kSafety = "there is no safety runtime";
constexpr std::string_view kRoutes = "there is no route tuner; --builderOptimizationLevel sets how much is searched";
constexpr std::string_view kLayouts = "inputs and outputs are dense and row-major, in the model's types";
constexpr std::string_view kImplicit = "models carry their batch dimension; use --shapes";
constexpr std::string_view kFormats = "only ONNX models are read; use --onnx";
constexpr std::string_view kDebugTensors = "tensors inside an engine cannot be marked";

constexpr TrtFlag kFlags[] = {
    // Model.
    {"onnx", kNeeded, "8-11", Honoured, "ONNX model to build"},
    {"model", kNeeded, "8", Ignored, kFormats},
    {"deploy", kNeeded, "8", Ignored, kFormats},
    {"uff", kNeeded, "8", Ignored, kFormats},
    {"uffInput", kNeeded, "8", Ignored, kFormats},
    {"uffNHWC", kNone, "8", Ignored, kFormats},
    {"output", kNeeded, "8", Ignored, kFormats},
    // Engine files.
    {"saveEngine", kNeeded, "8-11", Honoured, "write the engine to this file"},
    {"loadEngine", kNeeded, "8-11", Honoured, "run this engine file instead of building"},
    {"skipInference", kNone, "8.6-11", Honoured, "build only"},
    {"buildOnly", kNone, "8-9", Alias, "skipInference"},
    {"getPlanVersionOnly", kNone, "9.1-11", Honoured, "print the version that wrote --loadEngine and stop"},
    {"asyncFileReader", kNone, "10.7-11", Ignored, "engine files are memory-mapped"},
    // Shapes.
    {"minShapes", kNeeded, "8-11", Honoured, "smallest shapes of a profile, name:1x3x224x224,..."},
    {"optShapes", kNeeded, "8-11", Honoured, "shapes to tune for"},
    {"maxShapes", kNeeded, "8-11", Honoured, "largest shapes"},
    {"shapes", kNeeded, "8-11", Honoured, "shapes to run"},
    {"profile", kNeeded, "9.1-11", Honoured, "the shapes that follow belong to profile i"},
    {"useProfile", kNeeded, "10-11", Honoured, "profile to run under"},
    {"minShapesCalib", kNeeded, "8-10", Ignored, kCalibration},
    {"optShapesCalib", kNeeded, "8-10", Ignored, kCalibration},
    {"maxShapesCalib", kNeeded, "8-10", Ignored, kCalibration},
    {"calibProfile", kNeeded, "8-10", Ignored, kCalibration},
    // Types and layouts.
    {"inputIOFormats", kNeeded, "8-11", Ignored, kLayouts},
    {"outputIOFormats", kNeeded, "8-11", Ignored, kLayouts},
    {"directIO", kNone, "8-11", Ignored, kLayouts},
    // Memory.
    {"memPoolSize", kNeeded, "8.4-11", Honoured, "workspace:SIZE bounds activations and scratch memory (default unit MiB)"},
    {"workspace", kNeeded, "8-9", Honoured, "same as --memPoolSize=workspace:SIZE"},
    {"allowWeightStreaming", kNone, "10-11", Ignored, kWeights},
    {"weightStreamingBudget", kNeeded, "10-11", Ignored, kWeights},
    {"allocationStrategy", kNeeded, "10-11", Ignored, "memory is planned for the shapes that run"},
    {"monitorMemory", kNone, "10-11", Ignored, kSafety},
    // Precision.
    {"fp16", kNone, "8-10", Honoured, "fp16 on a GPU, else the lower precision this CPU has"},
    {"bf16", kNone, "9-10", Honoured, "bfloat16 where the device has it"},
    {"int8", kNone, "8-10", Honoured, "the fastest precision the device has (as --best)"},
    {"fp8", kNone, "8.6-10", Honoured, "the fastest precision the device has (as --best)"},
    {"int4", kNone, "10", Honoured, "the fastest precision the device has (as --best)"},
    {"best", kNone, "8-10", Honoured, "the fastest precision the device has"},
    {"noTF32", kNone, "8-11", Honoured, "full float32 products on a GPU (the CPU's always are)"},
    {"stronglyTyped", kNone, "9.1-11", Honoured, "types as the model writes them"},
    {"calib", kNeeded, "8-10", Ignored, kCalibration},
    {"precisionConstraints", kNeeded, "8-10", Ignored, kTyped},
    {"layerPrecisions", kNeeded, "8-10", Ignored, kTyped},
    {"layerOutputTypes", kNeeded, "8-10", Ignored, kTyped},
    {"sparsity", kNeeded, "8-11", Ignored, "structured sparsity needs GPU tensor cores"},
    {"layerDeviceTypes", kNeeded, "8-11", Ignored, kDla},
    {"decomposableAttentions", kOptional, "10.14-11", Ignored, "attention is recognised in any form"},
    // Search.
    {"builderOptimizationLevel", kNeeded, "8.6-11", Honoured, "0: no timing .. 5: every candidate"},
    {"timingCacheFile", kNeeded, "8-11", Honoured, "read, merge into and write kernel timings"},
    {"noBuilderCache", kNone, "8-11", Ignored, "builds keep no cache but --timingCacheFile"},
    {"noCompilationCache", kNone, "10-11", Ignored, "nothing is compiled at build time"},
    {"errorOnTimingCacheMiss", kNone, "10-11", Ignored, "a missing timing is measured"},
    {"avgTiming", kNeeded, "8-11", Ignored, "the tuner chooses how often to time a candidate"},
    {"minTiming", kNeeded, "8-9", Ignored, "the tuner chooses how often to time a candidate"},
    {"maxTactics", kNeeded, "10.4-11", Ignored, "--builderOptimizationLevel bounds the candidates"},
    {"heuristic", kNone, "8.5-9", Ignored, "--builderOptimizationLevel=1 is its successor"},
    {"tacticSources", kNeeded, "8-11", Ignored, "those are GPU libraries"},
    {"tilingOptimizationLevel", kNeeded, "10.8-11", Ignored, kGpu},
    {"l2LimitForTiling", kNeeded, "10.8-11", Ignored, kGpu},
    {"preview", kNeeded, "8.5-11", Ignored, "there are no preview features"},
    {"maxAuxStreams", kNeeded, "8.6-11", Ignored, "one inference uses all threads without auxiliary streams"},
    {"distributiveIndependence", kNone, "10-11", Ignored, "each row's result already depends on that row alone only where kernels say so"},
    // Portability.
    {"versionCompatible", kNone, "8.6-11", Ignored, kPortable},
    {"vc", kNone, "8.6-11", Ignored, kPortable},
    {"excludeLeanRuntime", kNone, "8.6-11", Ignored, kPortable},
    {"useRuntime", kNeeded, "8.6-11", Ignored, "there is one runtime"},
    {"leanDLLPath", kNeeded, "8.6-11", Ignored, "there is one runtime"},
    {"hardwareCompatibilityLevel", kNeeded, "8.6-11", Ignored, kPortable},
    {"runtimePlatform", kNeeded, "10.2-11", Ignored, kPortable},
    {"tempdir", kNeeded, "8.6-11", Ignored, "no temporary files are written"},
    {"tempfileControls", kNeeded, "8.6-11", Ignored, "no temporary files are written"},
    // Refit.
    {"refit", kNone, "8-11", Ignored, "refit is not supported; build again"},
    {"stripWeights", kNone, "10-11", Ignored, kWeights},
    {"stripAllWeights", kNone, "10.1-11", Ignored, kWeights},
    {"weightless", kNone, "9-10", Ignored, kWeights},
    {"refitFromOnnx", kNeeded, "10.14-11", Ignored, "refit is not supported; build again"},
    {"timeRefit", kNone, "9-11", Ignored, "refit is not supported; build again"},
    {"dumpRefit", kNone, "8-11", Ignored, "refit is not supported; build again"},
    // Debug tensors.
    {"markDebug", kNeeded, "9-11", Ignored, kDebugTensors},
    {"markUnfusedTensorsAsDebugTensors", kNone, "10.12-11", Ignored, kDebugTensors},
    {"saveDebugTensors", kNeeded, "9-11", Ignored, kDebugTensors},
    {"saveAllDebugTensors", kNeeded, "10.12-11", Ignored, kDebugTensors},
    {"profilingVerbosity", kNeeded, "8-11", Honoured, "layer_names_only, detailed or none: what layer information holds"},
    {"nvtxMode", kNeeded, "8-9", Alias, "profilingVerbosity"},
    // Parser.
    {"pluginInstanceNorm", kNone, "10-11", Ignored, kPlugins},
    {"pi", kNone, "10-11", Ignored, kPlugins},
    {"nativeInstanceNorm", kNone, "9", Ignored, kPlugins},
    {"ni", kNone, "9", Ignored, kPlugins},
    {"enablePluginOverride", kNone, "10-11", Ignored, kPlugins},
    {"uint8AsymmetricQuantizationDLA", kNone, "10-11", Ignored, kDla},
    {"reportCapabilityDLA", kNone, "10-11", Ignored, kDla},
    {"adjustForDLA", kNone, "10-11", Ignored, kDla},
    {"explicitBatch", kNone, "8", Ignored, "batch is always explicit"},
    {"explicitPrecision", kNone, "8", Ignored, "Q/DQ nodes are always honoured"},
    {"batch", kNeeded, "8-9", Ignored, kImplicit},
    {"maxBatch", kNeeded, "8-9", Ignored, kImplicit},
    // Safety and DLA.
    {"safe", kNone, "8-11", Ignored, kSafety},
    {"consistency", kNone, "8-11", Ignored, kSafety},
    {"restricted", kNone, "8-10", Ignored, kSafety},
    {"dumpKernelText", kNone, "10-11", Ignored, kGpu},
    {"safetyPlugins", kNeeded, "10-11", Ignored, kSafety},
    {"remoteAutoTuningConfig", kNeeded, "10-11", Ignored, kSafety},
    {"cpuOnly", kNone, "10-11", Ignored, "it is always so here"},
    {"serialized", kNone, "8-11", Ignored, kSafety},
    {"std", kNone, "8-11", Ignored, kSafety},
    {"useDLACore", kNeeded, "8-11", Ignored, kDla},
    {"allowGPUFallback", kNone, "8-11", Ignored, kDla},
    {"buildDLAStandalone", kNone, "8-11", Ignored, kDla},
    // Inference.
    {"iterations", kNeeded, "8-11", Honoured, "at least so many queries (10)"},
    {"warmUp", kNeeded, "8-11", Honoured, "milliseconds before timing (200)"},
    {"duration", kNeeded, "8-11", Honoured, "at least so many seconds (3)"},
    {"sleepTime", kNeeded, "8-11", Honoured, "milliseconds between copying in and computing"},
    {"idleTime", kNeeded, "8-11", Honoured, "milliseconds between queries"},
    {"infStreams", kNeeded, "8.6-11", Honoured, "contexts that run at the same time"},
    {"streams", kNeeded, "8-11", Alias, "infStreams"},
    {"threads", kOptional, "8-11", Honoured, "streams always have threads of their own; =N is the number of CPU threads in all"},
    {"noDataTransfers", kNone, "8-11", Honoured, "do not copy inputs and outputs for every query"},
    {"includeDataTransfers", kNone, "11", Honoured, "copy inputs and outputs for every query (the default here)"},
    {"loadInputs", kNeeded, "8-11", Honoured, "name:file,... raw binary inputs"},
    {"separateProfileRun", kNone, "8-11", Honoured, "layers are always timed in a run of their own"},
    {"timeDeserialize", kNone, "8-11", Honoured, "time loading the engine, and stop"},
    {"useSpinWait", kNone, "8-11", Ignored, "a CPU query returns when it is done; nothing is waited for"},
    {"noSpinWait", kNone, "11", Ignored, "a CPU query returns when it is done; nothing is waited for"},
    {"useCudaGraph", kNone, "8-11", Ignored, kGpu},
    {"noCudaGraph", kNone, "11", Ignored, kGpu},
    {"exposeDMA", kNone, "8-11", Ignored, kGpu},
    {"useManagedMemory", kNone, "8-11", Ignored, kGpu},
    {"persistentCacheRatio", kNeeded, "8-11", Ignored, kGpu},
    // Accuracy.
    {"loadRefOutputs", kNeeded, "11.1", Honoured, "name:file,... raw binary expected outputs; a difference fails the run"},
    {"rtol", kNeeded, "11.1", Honoured, "relative tolerance of --loadRefOutputs (1e-3)"},
    {"atol", kNeeded, "11.1", Honoured, "absolute tolerance of --loadRefOutputs (1e-5)"},
    {"refPair", kNeeded, "11.1", Ignored, "one set of inputs and outputs is compared"},
    {"accuracyAlgorithm", kNeeded, "11.1", Ignored, "elements are compared by --rtol and --atol"},
    {"accuracyThreshold", kNeeded, "11.1", Ignored, "elements are compared by --rtol and --atol"},
    // Route tuner.
    {"tuneBuildRoutes", kNeeded, "11.1", Ignored, kRoutes},
    {"tuneBuildRouteFile", kNeeded, "11.1", Ignored, kRoutes},
    {"tuningSearch", kNeeded, "11.1", Ignored, kRoutes},
    {"tuningCacheFile", kNeeded, "11.1", Ignored, kRoutes},
    {"tuningTimeOut", kNeeded, "11.1", Ignored, kRoutes},
    {"saveAllEngines", kNone, "11.1", Ignored, kRoutes},
    {"dryRun", kNone, "11.1", Ignored, kRoutes},
    {"continue", kNone, "11.1", Ignored, kRoutes},
    {"helpBuildRoute", kOptional, "11.1", Ignored, kRoutes},
    {"setBuildRoute", kNeeded, "11.1", Ignored, kRoutes},
    {"tuningResultFile", kNeeded, "11.1", Ignored, kRoutes},
    // Reporting.
    {"verbose", kNone, "8-11", Honoured, "say more: passes, tactics"},
    {"v", kNone, "8-11", Alias, "verbose"},
    {"avgRuns", kNeeded, "8-11", Honoured, "queries averaged in one trace line (10)"},
    {"percentile", kNeeded, "8-11", Honoured, "percentages to report (90,95,99)"},
    {"dumpProfile", kNone, "8-11", Honoured, "print time by layer"},
    {"exportProfile", kNeeded, "8-11", Honoured, "write time by layer as JSON"},
    {"dumpLayerInfo", kNone, "8-11", Honoured, "print the layers"},
    {"exportLayerInfo", kNeeded, "8-11", Honoured, "write the layers as JSON"},
    {"exportTimes", kNeeded, "8-11", Honoured, "write the times of every query as JSON"},
    {"dumpOutput", kNone, "8-11", Honoured, "print the outputs of the last query"},
    {"exportOutput", kNeeded, "8-11", Honoured, "write the outputs of the last query as JSON"},
    {"dumpRawBindingsToFile", kNone, "9-11", Honoured, "write inputs and outputs as NAME.input.bin and NAME.output.bin"},
    {"dumpOptimizationProfile", kNone, "10-11", Honoured, "print the optimization profiles"},
    // System.
    {"device", kNeeded, "8-11", Honoured, "GPU number (the CPU where there is no GPU), cpu or cuda:sm_90"},
    {"staticPlugins", kNeeded, "8.6-11", Ignored, kPlugins},
    {"plugins", kNeeded, "8-11", Ignored, kPlugins},
    {"dynamicPlugins", kNeeded, "8.6-11", Ignored, kPlugins},
    {"setPluginsToSerialize", kNeeded, "8.6-11", Ignored, kPlugins},
    {"ignoreParsedPluginLibs", kNone, "8.6-11", Ignored, kPlugins},
    {"help", kNone, "8-11", Honoured, "this text"},
    {"h", kNone, "8-11", Alias, "help"},
};

std::string versions_text(std::string_view versions) { return fmt::format("TensorRT {}", versions); }

}  // namespace

std::span<const TrtFlag> trt_flags() { return kFlags; }

const TrtFlag* find_trt_flag(std::string_view name) {
  for (const TrtFlag& flag : kFlags)
    if (flag.name == name) return &flag;
  return nullptr;
}

bool TrtWords::has(std::string_view name) const {
  for (const auto& [flag, value] : flags)
    if (flag == name) return true;
  return false;
}

std::string TrtWords::get(std::string_view name, std::string_view otherwise) const {
  std::string found(otherwise);
  for (const auto& [flag, value] : flags)
    if (flag == name) found = value;
  return found;
}

TrtWords parse_trt_words(const std::vector<std::string>& args) {
  TrtWords words;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (!arg.starts_with("-") || arg == "-" || arg == "--")
      fail(ErrorCode::InvalidArgument, "stray word '{}': flags are written --name=value (--help lists them)", arg);
    const size_t begin = arg.starts_with("--") ? 2 : 1, equals = arg.find('=');
    const std::string name = arg.substr(begin, equals == std::string::npos ? equals : equals - begin);
    bool has_value = equals != std::string::npos;
    std::string value = has_value ? arg.substr(equals + 1) : "";
    const TrtFlag* flag = find_trt_flag(name);
    if (!flag) {
      std::vector<std::string> known;
      for (const TrtFlag& candidate : kFlags) known.emplace_back("--" + std::string(candidate.name));
      fail(ErrorCode::InvalidArgument, "unknown option --{}{} (--help lists them)", name, suggestion("--" + name, known));
    }
    if (flag->value == FlagValue::Needed && !has_value) {
      if (i + 1 >= args.size() || args[i + 1].starts_with("--"))
        fail(ErrorCode::InvalidArgument, "--{} needs a value: --{}=...", name, name);
      value = args[++i];
    }
    if (flag->value == FlagValue::None && has_value) fail(ErrorCode::InvalidArgument, "--{} takes no value, found '{}'", name, value);
    if (flag->action == Alias) {
      if (flag->note != "help" && flag->note != "verbose")
        words.warnings.push_back(fmt::format("--{} ({}) is an old name of --{}", name, versions_text(flag->versions), flag->note));
      flag = find_trt_flag(flag->note);
    }
    if (flag->action == Ignored) words.warnings.push_back(fmt::format("--{} does nothing here: {}", name, flag->note));
    else words.flags.emplace_back(flag->name, std::move(value));
  }
  return words;
}

std::string trt_help() {
  std::string text =
      "usage: trtexec --onnx=model.onnx [--saveEngine=model.engine] [flags]\n"
      "       trtexec --loadEngine=model.engine [flags]\n\n"
      "TensorRT's command line over Tokamak's CPU engine. Flags of TensorRT 8.6, 10 and 11 are known.\n\nHonoured:\n";
  for (const TrtFlag& flag : kFlags)
    if (flag.action == Honoured) {
      const char* value = flag.value == FlagValue::None ? "" : flag.value == FlagValue::Needed ? "=..." : "[=...]";
      text += fmt::format("  --{:28} {}\n", fmt::format("{}{}", flag.name, value), flag.note);
    }
  text += "\nOld names:\n";
  for (const TrtFlag& flag : kFlags)
    if (flag.action == Alias) text += fmt::format("  --{:28} --{}\n", flag.name, flag.note);
  text += "\nAccepted, with one warning line that says why they do nothing:\n";
  for (const TrtFlag& flag : kFlags)
    if (flag.action == Ignored) text += fmt::format("  --{:28} {}\n", flag.name, flag.note);
  return text +
         "\nExamples:\n"
         "  trtexec --onnx=model.onnx --saveEngine=model.engine --fp16 --workspace=1G --warmUp=500 --duration=10\n"
         "  trtexec --onnx=bert.onnx --minShapes=ids:1x1 --optShapes=ids:1x128 --maxShapes=ids:8x512 --saveEngine=bert.engine "
         "--skipInference\n"
         "  trtexec --loadEngine=bert.engine --shapes=ids:4x128 --exportTimes=times.json --dumpProfile\n";
}

}  // namespace tokamak::cli
