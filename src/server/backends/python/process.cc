#include "server/backends/python/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "server/backends/python/embedded_files.h"

namespace tokamak::backends::python {

namespace fs = std::filesystem;

namespace {

// The Python files, on disk for the interpreter; removed when the library is.
class WorkerFolder {
 public:
  WorkerFolder() {
    std::string name = (fs::temp_directory_path() / "tokamak-python-XXXXXX").string();
    if (!::mkdtemp(name.data())) fail(ErrorCode::Io, "cannot make a folder like '{}': {}", name, std::strerror(errno));
    path_ = name;
    for (const auto& [file, text] : embedded_files())
      if (!(std::ofstream(path_ / file, std::ios::binary) << text).flush())
        fail(ErrorCode::Io, "cannot write '{}'", (path_ / file).string());
  }
  ~WorkerFolder() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

const fs::path& worker_folder() {
  static const WorkerFolder folder;
  return folder.path();
}

std::vector<std::string> environment(const fs::path& folder) {
  std::vector<std::string> result;
  std::string path = folder.string();
  for (char** e = environ; *e; ++e) {
    const std::string_view entry = *e;
    if (entry.starts_with("PYTHONPATH=")) path += ":" + std::string(entry.substr(11));
    else result.emplace_back(entry);
  }
  result.push_back("PYTHONPATH=" + path);
  result.push_back("PYTHONUNBUFFERED=1");
  result.push_back("PYTHONDONTWRITEBYTECODE=1");
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

Process::Process(const std::string& python, const std::string& model) {
  const fs::path& folder = worker_folder();
  flags.map(kSlots, true);
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) fail(ErrorCode::Io, "socketpair: {}", std::strerror(errno));
  socket_ = pair[0];
  std::vector<std::string> words = {python, (folder / "worker.py").string(), model}, variables = environment(folder);
  std::vector<char*> argv = pointers(words), env = pointers(variables);
  // High numbers first: 3 to 6 may be among the sources.
  int fds[4] = {pair[1], inputs.fd(), outputs.fd(), flags.fd()};
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {  // only calls that are safe after fork() in a process with threads
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    for (int& fd : fds) fd = ::fcntl(fd, F_DUPFD, 64);
    for (int i = 0; i < 4; ++i) ::dup2(fds[i], 3 + i);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    if (const int null = ::open("/dev/null", O_RDONLY); null >= 0) ::dup2(null, STDIN_FILENO);
    ::close_range(7, ~0u, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGINT, SIG_IGN);  // the server ends it in order
    ::execvpe(argv[0], argv.data(), env.data());
    ::_exit(127);
  }
  ::close(pair[1]);
  if (pid_ < 0) {
    ::close(socket_);
    fail(ErrorCode::Io, "cannot start '{}': {}", python, std::strerror(errno));
  }
}

Process::~Process() {
  kill();
  ::close(socket_);
}

void Process::kill() {
  {
    const std::lock_guard lock(mutex_);
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
  }
  how_it_ended();
}

std::string Process::how_it_ended() {
  const std::lock_guard lock(mutex_);
  if (pid_ < 0) return ended_;
  int status = 0;
  pid_t waited = 0;
  // The socket closes a moment before the process is one to wait for; one that closed it and goes on is ended.
  for (int i = 0; i < 200 && waited == 0; ++i) {
    waited = ::waitpid(pid_, &status, WNOHANG);
    if (waited == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (waited == 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status, 0);
  }
  pid_ = -1;
  if (WIFSIGNALED(status)) ended_ = fmt::format("was ended by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  else if (WEXITSTATUS(status) == 127) ended_ = "could not be started: is the interpreter there?";
  else ended_ = fmt::format("exited with status {}", WEXITSTATUS(status));
  return ended_;
}

void Process::send(const nlohmann::json& message) {
  std::string text(8, '\0');
  text += message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const uint32_t length = static_cast<uint32_t>(text.size() - 8);
  std::memcpy(text.data(), &length, sizeof length);
  size_t at = 0;
  while (at < text.size()) {
    const ssize_t sent = ::send(socket_, text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) fail(ErrorCode::Unavailable, "the model's Python process {}", how_it_ended());
    at += static_cast<size_t>(sent);
  }
}

void Process::read_exactly(void* target, size_t size) {
  auto* at = static_cast<std::byte*>(target);
  while (size > 0) {
    const ssize_t count = ::recv(socket_, at, size, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(ErrorCode::Unavailable, "the model's Python process {}", how_it_ended());
    at += count;
    size -= static_cast<size_t>(count);
  }
}

std::optional<Message> Process::receive(int timeout_ms) {
  pollfd poll = {.fd = socket_, .events = POLLIN};
  int ready = 0;
  do ready = ::poll(&poll, 1, timeout_ms);
  while (ready < 0 && errno == EINTR);
  if (ready == 0) return std::nullopt;
  uint32_t lengths[2];
  read_exactly(lengths, sizeof lengths);
  std::string text(lengths[0], '\0');
  Message message;
  read_exactly(text.data(), text.size());
  message.tail.resize(lengths[1]);
  read_exactly(message.tail.data(), message.tail.size());
  message.json = nlohmann::json::parse(text, nullptr, false);
  if (!message.json.is_object()) fail(ErrorCode::Internal, "the model's Python process sent what is no message");
  return message;
}

void Process::end(int timeout_ms) {
  try {
    send({{"op", "finalize"}});
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()).count();
      const auto message = receive(static_cast<int>(std::max<int64_t>(left, 0)));
      if (!message || message->json.value("op", "") == "done") break;
    }
    how_it_ended();
  } catch (const Error&) {
    kill();  // it ended by itself
  }
}

}  // namespace tokamak::backends::python
