#pragma once
// Ctrl-C as a count, for commands that stop an answer and go on.

namespace tokamak::cli {

// While one exists, SIGINT is counted instead of ending the process. One at a time.
class InterruptCounter {
 public:
  InterruptCounter();  // throws Io
  ~InterruptCounter();
  InterruptCounter(const InterruptCounter&) = delete;
  int count() const;  // since construction or reset()
  void reset();
  // Waits until `fd` can be read or is at its end (true), or an interrupt has come since the last call or reset() (false). Whichever
  // thread the signal happens to be delivered to.
  bool wait_readable(int fd);
};

}  // namespace tokamak::cli
