#include "cli/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/error.h"

namespace tokamak::cli {

namespace {

std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free);  // so that a signal handler may write it
int pipe_ends[2] = {-1, -1};                           // the handler writes a byte, wait_readable() polls
struct sigaction previous;

void on_interrupt(int) {
  const int saved = errno;
  interrupts.fetch_add(1);
  [[maybe_unused]] const ssize_t written = ::write(pipe_ends[1], "", 1);
  errno = saved;
}

void drain() {
  char bytes[64];
  while (::read(pipe_ends[0], bytes, sizeof(bytes)) > 0) continue;
}

}  // namespace

InterruptCounter::InterruptCounter() {
  if (::pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC) != 0) fail(ErrorCode::Io, "cannot create a pipe for signals");
  interrupts = 0;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &previous);
}

InterruptCounter::~InterruptCounter() {
  ::sigaction(SIGINT, &previous, nullptr);
  for (int& end : pipe_ends) ::close(end), end = -1;
}

int InterruptCounter::count() const { return interrupts; }

void InterruptCounter::reset() {
  drain();
  interrupts = 0;
}

bool InterruptCounter::wait_readable(int fd) {
  pollfd waits[] = {{pipe_ends[0], POLLIN, 0}, {fd, POLLIN, 0}};
  while (::poll(waits, 2, -1) < 0 && errno == EINTR) continue;
  if (waits[0].revents == 0) return true;
  drain();
  return false;
}

}  // namespace tokamak::cli
