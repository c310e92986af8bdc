#pragma once
// An ONNX file that ONNX Runtime loads: what it says about itself, and a session of it for each instance.

#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/backends/onnxruntime/library.h"

namespace tokamak::backends::onnxruntime {

// The element types that clients can send and receive, both ways.
std::optional<tkb_dtype> dtype_of(OrtElementType type);
OrtElementType element_type_of(tkb_dtype dtype);

struct Device {
  bool is_gpu = false;
  int gpu = 0;  // ordinal
  bool operator==(const Device&) const = default;
};

// Settings are Triton's: parameters intra_op_thread_count, inter_op_thread_count, execution_mode (0 sequential, 1 parallel),
// enable_mem_arena, enable_mem_pattern, and ONNX Runtime's own config entries by name (session.*, optimization.*, memory.*);
// optimization.graph.level (-1 basic, 1 extended, 2 none, else all); the execution accelerator "cuda" with its provider's options.
// Parameters that a config leaves out are taken from --backend-config=onnxruntime,KEY=VALUE.
class OrtModel {
 public:
  // Loads the file, for the device of the first instance. Throws NotFound, InvalidArgument, Unsupported, Internal.
  OrtModel(const tkb_server& server, const tkb_model_args& args);

  const Library& library() const { return library_; }
  const std::string& name() const { return name_; }
  const std::string& description() const { return description_; }  // as describe() of backend.h
  // For one more instance. Thread-safe. Throws as the constructor.
  Owned<OrtSession> make_session(const tkb_instance_args& args);
  Owned<OrtRunOptions> make_run_options() const;

 private:
  struct Tensor {
    std::string name, first_symbol;
    tkb_dtype dtype = TKB_F32;
    std::vector<int64_t> shape;  // -1: variable
  };

  std::string setting(const std::string& name) const;  // "" when there is none
  int64_t integer(const std::string& name, int64_t otherwise) const;
  Owned<OrtSession> open(const Device& device) const;
  void set_options(OrtSessionOptions* options) const;
  void append_cuda(OrtSessionOptions* options, int gpu) const;
  std::string describe(OrtSession* session) const;
  // Null: its type is none that clients have; `why` says which.
  std::optional<Tensor> read_tensor(std::string name, const OrtTypeInfo& info, const char* list, std::string& why) const;

  const tkb_server& server_;
  const std::string name_;
  const nlohmann::json config_;
  std::map<std::string, std::string> settings_;
  const Library& library_;
  std::string path_;
  Device first_device_;
  std::string description_;
  std::mutex mutex_;
  Owned<OrtSession> first_session_;  // until the first instance takes it
};

}  // namespace tokamak::backends::onnxruntime
