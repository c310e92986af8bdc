#pragma once
// Holds every CUDA kernel of an op against the CPU's `ref` kernel. Without a GPU the code is compiled and nothing is run.

#include <string>
#include <vector>

#include "backends/cuda/cuda_backend.h"

namespace tokamak::test {

// A node of concrete shapes, as IR text: "graph main(%x: f16[3,5]) { %y = softmax(%x) {axis=0} return %y }". It has one node; inputs named
// %w... (first letter w) are given as constants, so that kernels may pack them. Inputs get fresh random contents unless `inputs` has one.
struct CudaCase {
  std::string text;
  std::vector<Tensor> inputs;        // by index; undefined or missing: random
  double rtol = -1, atol = -1;       // negative: by the output's dtype
  double scale = 1;                  // of random floats (normal)
  int64_t max_int = 100;             // random integers are in [0, max_int)
  std::string kernel = {};           // its full name, to hold this one alone; empty: all that accept
  std::vector<Tensor> rounded = {};  // by index: what `ref` reads instead, where kernels may round an input
};

struct CudaCheck {
  int num_kernels = 0;  // that accepted the node, each with all its tactics
  std::vector<std::string> declined;
};

// Every kernel that accepts the node: without a GPU compiled for sm_90 (or `archs`) with its first and its last tactic (wants_all(): all);
// on a GPU run with every tactic, twice with poisoned outputs and workspace, guards behind both checked, and compared with `ref` on the
// same inputs in float32. The expected value of outputs in a 16-bit type is not rounded first. A case that no kernel accepts fails the
// test. With the environment variable TOKAMAK_TEST_KERNELS only kernels whose names begin so are made and run ("cuda.": none of libraries,
// which a sanitizer takes minutes to instrument).
CudaCheck check_cuda_kernels(const CudaCase& c, const std::vector<std::string>& archs = {});

// Whether all that runs on a GPU is wanted: there is one, or the environment variable TOKAMAK_TEST_ALL is set, with which a machine without
// one compiles it into the folder TOKAMAK_CUDA_CODE_CACHE for one that has: compiling is what these tests spend their time on.
bool wants_all();

// Whether this process checks the next case: with the environment variable TOKAMAK_TEST_SHARE=I/N one of each N, so that N processes share
// the cases of a long test. check_cuda_kernels() asks it.
bool takes_next_case();

// Finite values of E4M3, of all sizes.
Tensor random_f8(const Shape& shape);

// The types to test where their code is alike; compiling is slow, so without a GPU one stands for all.
std::vector<const char*> float_types();

// A case whose outputs are sums of `k` products of normal numbers: those are about sqrt(k) large; kernels round once, in the output's type,
// which is bf16 or f16 where the text names one.
CudaCase sum_case(std::string text, double k);

}  // namespace tokamak::test
