#include "cli/main.h"

int main(int argc, char** argv) { return tokamak::cli::main(argc, argv); }
