#pragma once
// The part of ONNX Runtime's C API that this backend calls, declared here because the library is opened at run time and its headers are not
// needed to build. The API is a table of functions whose order never changes and which only grows: each member below is loaded from its
// index in that table. Names, indices and signatures are those of struct OrtApi (onnxruntime_c_api.h of ONNX Runtime).

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tokamak::backends::onnxruntime {

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtValue;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtCUDAProviderOptionsV2;

enum OrtLoggingLevel : int { kOrtVerbose, kOrtInfo, kOrtWarning, kOrtError, kOrtFatal };
enum OrtOptimizationLevel : int { kOrtDisableAll = 0, kOrtEnableBasic = 1, kOrtEnableExtended = 2, kOrtEnableAll = 99 };
enum OrtExecutionMode : int { kOrtSequential, kOrtParallel };
enum OrtAllocatorType : int { kOrtArenaAllocator = 1 };
enum OrtMemType : int { kOrtMemTypeDefault = 0 };
enum OrtOnnxType : int { kOrtTensor = 1 };
using OrtElementType = int;  // onnx.proto's TensorProto.DataType

using OrtLoggingFunction = void (*)(void* param, OrtLoggingLevel severity, const char* category, const char* log_id, const char* location,
                                    const char* message);

// What the library's one exported function, OrtGetApiBase(), returns.
struct OrtApiBase {
  const void* (*GetApi)(uint32_t version);  // null: the library is older than that
  const char* (*GetVersionString)();
};

// Version n of the API came with ONNX Runtime 1.n.
inline constexpr uint32_t kOrtApiVersion = 15;

class OrtApi {
  struct Entry {
    const void* function;
    template <class F>
    operator F*() const {
      return reinterpret_cast<F*>(const_cast<void*>(function));
    }
  };
  const void* const* table_;
  Entry at(int index) const { return {table_[index]}; }

 public:
  // `table`: of OrtApiBase::GetApi(kOrtApiVersion).
  explicit OrtApi(const void* table) : table_(static_cast<const void* const*>(table)) {}

  // Version 1. A null status is success; others are released with ReleaseStatus.
  int (*GetErrorCode)(const OrtStatus*) = at(1);
  const char* (*GetErrorMessage)(const OrtStatus*) = at(2);
  OrtStatus* (*CreateEnvWithCustomLogger)(OrtLoggingFunction, void* param, OrtLoggingLevel, const char* log_id, OrtEnv**) = at(4);
  OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**) = at(7);
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs, size_t num_inputs,
                    const char* const* output_names, size_t num_outputs, OrtValue** outputs) = at(9);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**) = at(10);
  OrtStatus* (*SetSessionExecutionMode)(OrtSessionOptions*, OrtExecutionMode) = at(13);
  OrtStatus* (*DisableMemPattern)(OrtSessionOptions*) = at(17);
  OrtStatus* (*DisableCpuMemArena)(OrtSessionOptions*) = at(19);
  OrtStatus* (*SetSessionGraphOptimizationLevel)(OrtSessionOptions*, OrtOptimizationLevel) = at(23);
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int) = at(24);
  OrtStatus* (*SetInterOpNumThreads)(OrtSessionOptions*, int) = at(25);
  OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*) = at(30);
  OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*) = at(31);
  OrtStatus* (*SessionGetOverridableInitializerCount)(const OrtSession*, size_t*) = at(32);
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**) = at(33);
  OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**) = at(34);
  OrtStatus* (*SessionGetOverridableInitializerTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**) = at(35);
  OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t index, OrtAllocator*, char**) = at(36);
  OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t index, OrtAllocator*, char**) = at(37);
  OrtStatus* (*SessionGetOverridableInitializerName)(const OrtSession*, size_t index, OrtAllocator*, char**) = at(38);
  OrtStatus* (*CreateRunOptions)(OrtRunOptions**) = at(39);
  OrtStatus* (*RunOptionsSetRunLogSeverityLevel)(OrtRunOptions*, int) = at(41);
  OrtStatus* (*RunOptionsSetTerminate)(OrtRunOptions*) = at(46);
  OrtStatus* (*RunOptionsUnsetTerminate)(OrtRunOptions*) = at(47);
  OrtStatus* (*CreateTensorAsOrtValue)(OrtAllocator*, const int64_t* shape, size_t rank, OrtElementType, OrtValue**) = at(48);
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t size, const int64_t* shape, size_t rank,
                                               OrtElementType, OrtValue**) = at(49);
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void**) = at(51);
  OrtStatus* (*GetStringTensorDataLength)(const OrtValue*, size_t*) = at(53);
  OrtStatus* (*GetStringTensorContent)(const OrtValue*, void* bytes, size_t size, size_t* offsets, size_t num_offsets) = at(54);
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**) = at(55);
  OrtStatus* (*GetOnnxTypeFromTypeInfo)(const OrtTypeInfo*, OrtOnnxType*) = at(56);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, OrtElementType*) = at(60);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*) = at(61);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t rank) = at(62);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo*, const char** names, size_t rank) = at(63);
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**) = at(65);
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**) = at(69);
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void*) = at(76);
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**) = at(78);
  void (*ReleaseStatus)(OrtStatus*) = at(93);
  void (*ReleaseSession)(OrtSession*) = at(95);
  void (*ReleaseValue)(OrtValue*) = at(96);
  void (*ReleaseRunOptions)(OrtRunOptions*) = at(97);
  void (*ReleaseTypeInfo)(OrtTypeInfo*) = at(98);
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*) = at(99);
  void (*ReleaseSessionOptions)(OrtSessionOptions*) = at(100);
  // Version 4.
  OrtStatus* (*GetAvailableProviders)(char*** names, int* count) = at(125);
  OrtStatus* (*ReleaseAvailableProviders)(char** names, int count) = at(126);
  // Version 5.
  OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions*, const char* key, const char* value) = at(130);
  // Version 8.
  OrtStatus* (*AddRunConfigEntry)(OrtRunOptions*, const char* key, const char* value) = at(165);
  // Version 11.
  OrtStatus* (*SessionOptionsAppendExecutionProvider_CUDA_V2)(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*) = at(204);
  OrtStatus* (*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2**) = at(205);
  OrtStatus* (*UpdateCUDAProviderOptions)(OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values,
                                          size_t count) = at(206);
  void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2*) = at(208);
  // Version 15: the buffer of a string of any bytes, to be written.
  OrtStatus* (*GetResizedStringTensorElementBuffer)(OrtValue*, size_t index, size_t size, char** buffer) = at(252);
};

// An object of the library with the function that releases it.
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

}  // namespace tokamak::backends::onnxruntime
