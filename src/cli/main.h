#pragma once

namespace tokamak::cli {

// The whole command line; argv[0] decides between `tokamak` and the `trtexec` personality. Returns the exit status; never throws.
int main(int argc, char** argv);

}  // namespace tokamak::cli
