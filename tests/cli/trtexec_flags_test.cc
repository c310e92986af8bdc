#include "cli/trtexec_flags.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "cli/trtexec_options.h"

namespace tokamak::cli {
namespace {

// The flags of TensorRT 8.6, 10.16 and 11.1, by group.
constexpr const char* kAll =
    "onnx model deploy uff uffInput uffNHWC output saveEngine loadEngine skipInference getPlanVersionOnly asyncFileReader minShapes "
    "optShapes maxShapes shapes "
    "profile useProfile minShapesCalib optShapesCalib maxShapesCalib calibProfile inputIOFormats outputIOFormats directIO memPoolSize "
    "allowWeightStreaming "
    "weightStreamingBudget allocationStrategy monitorMemory fp16 int8 bf16 fp8 int4 best noTF32 stronglyTyped calib precisionConstraints "
    "layerPrecisions "
    "layerOutputTypes sparsity layerDeviceTypes decomposableAttentions builderOptimizationLevel timingCacheFile noBuilderCache "
    "noCompilationCache "
    "errorOnTimingCacheMiss avgTiming maxTactics tacticSources tilingOptimizationLevel l2LimitForTiling preview maxAuxStreams "
    "distributiveIndependence "
    "versionCompatible vc excludeLeanRuntime useRuntime leanDLLPath hardwareCompatibilityLevel runtimePlatform tempdir tempfileControls "
    "refit stripWeights "
    "stripAllWeights weightless refitFromOnnx timeRefit markDebug markUnfusedTensorsAsDebugTensors saveDebugTensors saveAllDebugTensors "
    "profilingVerbosity "
    "pluginInstanceNorm pi enablePluginOverride uint8AsymmetricQuantizationDLA reportCapabilityDLA adjustForDLA safe consistency "
    "restricted dumpKernelText "
    "safetyPlugins remoteAutoTuningConfig cpuOnly useDLACore allowGPUFallback buildDLAStandalone iterations warmUp duration sleepTime "
    "idleTime infStreams streams "
    "useCudaGraph noDataTransfers useSpinWait exposeDMA useManagedMemory threads loadInputs persistentCacheRatio timeDeserialize "
    "separateProfileRun "
    "includeDataTransfers noSpinWait noCudaGraph loadRefOutputs refPair accuracyAlgorithm atol rtol accuracyThreshold tuneBuildRoutes "
    "tuneBuildRouteFile "
    "tuningSearch tuningCacheFile tuningTimeOut saveAllEngines dryRun continue helpBuildRoute setBuildRoute tuningResultFile verbose "
    "avgRuns percentile "
    "dumpProfile exportProfile dumpLayerInfo exportLayerInfo exportTimes dumpOutput exportOutput dumpRawBindingsToFile "
    "dumpOptimizationProfile dumpRefit device "
    "staticPlugins plugins dynamicPlugins setPluginsToSerialize ignoreParsedPluginLibs help h workspace buildOnly explicitBatch "
    "explicitPrecision batch maxBatch "
    "minTiming heuristic nvtxMode nativeInstanceNorm ni";

TEST(TrtexecFlags, TableIsCompleteAndConsistent) {
  for (const std::string& name : split(kAll, ' ')) EXPECT_NE(find_trt_flag(name), nullptr) << name;
  std::set<std::string_view> seen;
  for (const TrtFlag& flag : trt_flags()) {
    EXPECT_TRUE(seen.insert(flag.name).second) << "twice: " << flag.name;
    EXPECT_FALSE(flag.note.empty()) << flag.name;
    if (flag.action != FlagAction::Alias) continue;
    const TrtFlag* target = find_trt_flag(flag.note);
    ASSERT_NE(target, nullptr) << flag.name;
    EXPECT_NE(target->action, FlagAction::Alias) << flag.name;
  }
}

TEST(TrtexecFlags, EveryIgnoredFlagGivesOneWarningAndNoError) {
  for (const TrtFlag& flag : trt_flags()) {
    if (flag.action != FlagAction::Ignored) continue;
    const TrtWords words = parse_trt_words({fmt::format("--{}{}", flag.name, flag.value == FlagValue::Needed ? "=1" : "")});
    EXPECT_EQ(words.warnings.size(), 1u) << flag.name;
    EXPECT_TRUE(words.flags.empty()) << flag.name;
  }
}

TEST(TrtexecFlags, UnknownMissingStray) {
  try {
    parse_trt_words({"--onxn=a"});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("--onnx"), std::string::npos) << e.what();
  }
  EXPECT_THROW(parse_trt_words({"--onnx"}), Error);
  EXPECT_THROW(parse_trt_words({"--fp16=yes"}), Error);
  EXPECT_THROW(parse_trt_words({"model.onnx"}), Error);
  EXPECT_EQ(parse_trt_words({"--onnx", "a.onnx", "-h"}).get("onnx"), "a.onnx");
  EXPECT_EQ(parse_trt_words({"--onnx=a=b.onnx"}).get("onnx"), "a=b.onnx");
}

TrtOptions options(const std::string& line) { return trt_options(parse_trt_words(split(line, ' '))); }

TEST(TrtexecOptions, TheTutorialLine) {
  const TrtOptions o = options("--onnx=model.onnx --saveEngine=model.engine --fp16 --workspace=1G --warmUp=500 --duration=10");
  EXPECT_EQ(o.onnx, "model.onnx");
  EXPECT_EQ(o.save_engine, "model.engine");
  EXPECT_EQ(o.build.workspace_limit_bytes, int64_t{1} << 30);
  EXPECT_EQ(o.measure.warmup_ms, 500);
  EXPECT_EQ(o.measure.duration_s, 10);
  EXPECT_EQ(o.notes.size(), 1u);
  EXPECT_TRUE(o.measure.transfers);
}

TEST(TrtexecOptions, UnitlessSizesAreMebibytes) {
  EXPECT_EQ(options("--onnx=m --workspace=256").build.workspace_limit_bytes, 256 << 20);
  EXPECT_EQ(options("--onnx=m --memPoolSize=workspace:64,dlaSRAM:1").build.workspace_limit_bytes, 64 << 20);
  EXPECT_THROW(options("--onnx=m --memPoolSize=wrkspace:64"), Error);
}

TEST(TrtexecOptions, BadValuesAreErrors) {
  for (const char* line :
       {"--fp16", "--onnx=a --loadEngine=b", "--loadEngine=a --saveEngine=b", "--onnx=m --percentile=101", "--onnx=m --duration=x",
        "--onnx=m --shapes=a:1x-2", "--onnx=m --profilingVerbosity=chatty", "--onnx=m --loadInputs=file"})
    EXPECT_THROW(options(line), Error) << line;
}

TEST(TrtexecOptions, ProfilesFillWhatIsMissing) {
  ir::Graph graph;
  graph.add_input("a", ir::TensorType(DType::F32, {ir::Dim::symbol("n"), 8}));
  graph.add_input("fixed", ir::TensorType(DType::F32, {4}));
  std::vector<std::string> warnings;
  auto profiles = trt_profiles(options("--onnx=m --optShapes=a:2x8 --maxShapes=a:4x8"), graph.inputs(), warnings);
  ASSERT_EQ(profiles.size(), 1u);
  ASSERT_EQ(profiles[0].size(), 1u);
  EXPECT_EQ(profiles[0][0].min, (Shape{2, 8}));
  EXPECT_EQ(profiles[0][0].max, (Shape{4, 8}));
  EXPECT_TRUE(warnings.empty());
  profiles = trt_profiles(options("--onnx=m --shapes=a:3x8"), graph.inputs(), warnings);
  EXPECT_EQ(profiles[0][0].opt, (Shape{3, 8}));
  profiles = trt_profiles(options("--onnx=m"), graph.inputs(), warnings);
  EXPECT_EQ(profiles[0][0].opt, (Shape{1, 8}));
  EXPECT_EQ(warnings.size(), 1u);
  profiles = trt_profiles(options("--onnx=m --optShapes=a:1x8 --profile=1 --optShapes=a:16x8"), graph.inputs(), warnings);
  ASSERT_EQ(profiles.size(), 2u);
  EXPECT_EQ(profiles[1][0].opt, (Shape{16, 8}));
  EXPECT_THROW(trt_profiles(options("--onnx=m --optShapes=b:1x8"), graph.inputs(), warnings), Error);
}

}  // namespace
}  // namespace tokamak::cli
