#pragma once
// One instance of a model: a session, and the batches that it runs.

#include <atomic>
#include <string>
#include <vector>

#include "server/backends/onnxruntime/ort_model.h"

namespace tokamak::backends::onnxruntime {

class OrtInstance {
 public:
  OrtInstance(const tkb_server& server, OrtModel& model, const tkb_instance_args& args);
  // One request's inputs are not copied, nor are its outputs: the server gets ONNX Runtime's memory on loan. An execution ends early when
  // all its requests are cancelled.
  void execute(const tkb_request* const* requests, size_t count);

 private:
  struct Output {
    const char* name = nullptr;
    Owned<OrtValue> value;
    tkb_dtype dtype = TKB_F32;
    std::vector<int64_t> shape = {};
    const std::byte* data = nullptr;      // not of strings
    std::string text = {};                // of strings, one behind the other
    std::vector<tkb_bytes> strings = {};  // pointing into it
  };

  static void on_cancel(void* instance);
  Owned<OrtValue> make_input(const tkb_request* const* requests, size_t count, size_t input, int64_t rows);
  Owned<OrtValue> make_strings(const tkb_request* const* requests, size_t count, size_t input, const std::vector<int64_t>& shape) const;
  std::vector<Output> run(const tkb_request* const* requests, size_t count, const std::vector<Owned<OrtValue>>& inputs);
  void read(Output& output, int64_t rows) const;
  void read_strings(Output& output, int64_t count) const;
  void respond(const tkb_request* const* requests, size_t count, int64_t rows, std::vector<Output>& outputs);

  const tkb_server& server_;
  const Library& library_;
  Owned<OrtSession> session_;
  Owned<OrtRunOptions> run_options_;
  std::atomic<size_t> num_wanted_ = 0;            // requests of the execution that are not cancelled
  std::vector<std::vector<std::byte>> gathered_;  // by input; grow and stay
};

}  // namespace tokamak::backends::onnxruntime
