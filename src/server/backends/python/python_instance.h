#pragma once
// One instance of a model.py: requests to its process and responses back; the process is started again when it ended.

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "server/backends/python/process.h"
#include "tokamak/backend.h"

namespace tokamak::backends::python {

struct PythonModel {
  std::string name, python, path;  // of the interpreter and of model.py
  nlohmann::json args;             // of TritonPythonModel.initialize()
  bool is_decoupled = false;
  int start_timeout_ms = 120'000;  // to import model.py and initialize
  int execution_timeout_ms = 0;    // 0: none
  int cancel_grace_ms = 5'000;     // an execution whose requests were all cancelled ends by itself within this, or is ended
  int finalize_timeout_ms = 10'000;
  std::string description;  // JSON for the server, "" when model.py says nothing
};

// What auto_complete_config() of model.py makes of the config; nullopt when it has none. Throws what it raises, or that it took too long.
std::optional<nlohmann::json> auto_complete(const PythonModel& model, const std::string& config_json);

class PythonInstance {
 public:
  // Throws what initialize() raises.
  PythonInstance(const tkb_server& server, const PythonModel& model, const tkb_instance_args& args);
  ~PythonInstance();
  void execute(const tkb_request* const* requests, size_t count);

 private:
  void start();
  void stop();
  void read_messages();
  void respond(const tkb_request& request, const nlohmann::json& fields, const std::byte* bytes, size_t size, bool is_final);
  void respond_from_reader(const Message& message);
  void reschedule(const tkb_request& request);
  const tkb_request* take(int64_t number, bool is_final);
  void fail_pending(const std::string& why);
  nlohmann::json write_inputs(const tkb_request* const* requests, size_t count);
  std::optional<nlohmann::json> wait_done(const tkb_request* const* requests, size_t count);

  const tkb_server& server_;
  const PythonModel& model_;
  nlohmann::json args_;
  std::unique_ptr<Process> process_;
  std::thread reader_;
  int64_t next_number_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, const tkb_request*> pending_;  // without their final response
  std::optional<nlohmann::json> done_;             // of the execution
  bool is_dead_ = true;
  std::string kill_reason_;
};

}  // namespace tokamak::backends::python
