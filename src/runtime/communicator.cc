#include "runtime/communicator.h"

namespace tokamak {
namespace {
thread_local Communicator* current = nullptr;
}

Communicator* current_communicator() { return current; }

CommunicatorScope::CommunicatorScope(Communicator* communicator) : before_(current) { current = communicator; }
CommunicatorScope::~CommunicatorScope() { current = before_; }

}  // namespace tokamak
