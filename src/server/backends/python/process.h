#pragma once
// The Python process of one instance: started, spoken to, ended.

#include <sys/types.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/backends/python/shared_region.h"

namespace tokamak::backends::python {

struct Message {
  nlohmann::json json;
  std::vector<std::byte> tail;
};

class Process {
 public:
  static constexpr size_t kSlots = 4096;  // requests whose cancellation can be told at a time

  // One thread may send while another receives; kill() is for any.
  //
  // Runs worker.py. `python`: an interpreter, by path or looked up in PATH. `model`: path of the model.py that it will be told to load; in
  // its command line, for whoever looks at the machine's processes. Throws Error (Io).
  Process(const std::string& python, const std::string& model);
  ~Process();  // kills it, if end() did not
  Process(const Process&) = delete;

  // Throws Unavailable when the process is gone.
  void send(const nlohmann::json& message);
  // The next message; nullopt after `timeout_ms` (negative: none). Throws Unavailable when the process is gone, with how it ended.
  std::optional<Message> receive(int timeout_ms);
  // Asks it to finalize, waits, kills it.
  void end(int timeout_ms);
  void kill();

  SharedRegion inputs{"tokamak-inputs"}, outputs{"tokamak-outputs"}, flags{"tokamak-flags"};

 private:
  std::string how_it_ended();
  void read_exactly(void* target, size_t size);

  std::mutex mutex_;  // of what follows but the socket: one thread sends, one receives
  pid_t pid_ = -1;
  int socket_ = -1;
  std::string ended_;
};

}  // namespace tokamak::backends::python
