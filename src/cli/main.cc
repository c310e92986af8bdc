#include "cli/main.h"

namespace tokamak::cli {

int main(int, char**) { return 2; }

}  // namespace tokamak::cli
