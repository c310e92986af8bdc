// Linear layers of one to a few rows without tensor cores, for every combination of types: each weight is read once, converted and
// multiplied in float32. Floor: the bytes of w over the memory's bandwidth. With more rows the weights are read again (from L2) a block.

#include "backends/cuda/kernels/common.h"
#include "backends/cuda/kernels/epilogue.h"
#include "backends/cuda/kernels/linear.h"

namespace tokamak::cuda {
namespace {

constexpr int kWarps = 4;          // small blocks: what is left at the end is small too
constexpr int kLoadsInFlight = 8;  // a lane, of up to 16 bytes
constexpr int64_t kBlocks = 8;     // on an SM, about
constexpr int64_t kMaxTokens = 8;  // a block

// Bytes that a lane loads at once: rows begin at a multiple of it, and a group is whole loads.
int64_t load_bytes(const Linear& l) {
  for (int64_t bytes = 16; bytes > 1; bytes /= 2) {
    const int64_t elements = bytes * 8 / bits_of(l.w);
    if (elements > 0 && l.k % elements == 0 && (l.groups() <= 1 || l.group % elements == 0)) return bytes;
  }
  return 1;
}

constexpr int64_t kMaxNormBytes = 40 << 10;  // of normalised rows in shared memory

int64_t tokens_of(const Linear& l) { return l.m <= 4 ? l.m : kMaxTokens; }

// Neighbours of a row of x and of the norm's weights that are moved at once.
int64_t norm_vector(const Linear& l) {
  int64_t vector = bits_of(l.x) == 32 ? 4 : 8;
  while (l.k % vector != 0) vector /= 2;
  return vector;
}

}  // namespace

std::vector<std::string> gemv_tactics(const Linear& l, const std::string& prefix, std::string& reason) {
  if (l.row_bits() % 8 != 0) reason = fmt::format("k is {}: rows of 4-bit weights are not whole bytes", l.k);
  else if (l.groups() > 1 && l.group * bits_of(l.w) % 8 != 0) reason = fmt::format("groups of {} are not whole bytes", l.group);
  else if (ceil_div(l.m, kMaxTokens) > 65535) reason = fmt::format("{} rows are more than a grid covers", l.m);
  else if (const int64_t bytes = l.has_norm ? tokens_of(l) * l.k * bits_of(l.x) / 8 : 0; bytes > kMaxNormBytes)
    reason = fmt::format("{} bytes of rows to normalise are more than {}", bytes, kMaxNormBytes);
  else if (!l.gate.empty()) return {"gemv," + prefix + "rows=4", "gemv," + prefix + "rows=2"};
  else return {"gemv," + prefix + "rows=4", "gemv," + prefix + "rows=2", "gemv," + prefix + "rows=1"};
  return {};
}

std::unique_ptr<Kernel> make_gemv(const NodeView& node, const Linear& l, const std::string& tactic) {
  const int rows = std::min(tactic_number(tactic, "rows"), kLoadsInFlight);
  Epilogue epilogue(node);
  if (!l.gate.empty() && rows % 2 != 0) return nullptr;
  const int64_t tokens = tokens_of(l), norm_bytes = l.has_norm ? tokens * l.k * bits_of(l.x) / 8 : 0;
  if (norm_bytes > kMaxNormBytes) return nullptr;
  std::vector<std::string> defines = l.defines();
  const auto define = [&](const char* key, int64_t value) { defines.push_back(fmt::format("{}={}", key, value)); };
  define("LOAD_BYTES", load_bytes(l));
  define("TOKENS", tokens);
  define("WARPS", kWarps);
  if (l.has_norm) define("NORM_VECTOR", norm_vector(l));
  define("ROWS", rows);
  define("PREFETCH", kLoadsInFlight / rows);
  const Source source{"cuda.gemv", epilogue.code() + device_file("gemv.cu"), std::move(defines)};
  const Launch launch{.grid = {static_cast<unsigned>(ceil_div(l.n, kWarps * rows)), static_cast<unsigned>(ceil_div(l.m, tokens))},
                      .block = {kWarps * 32},
                      .shared_bytes = static_cast<int>(norm_bytes),
                      .overlap = true};
  return std::make_unique<LinearKernel>(node.cuda->function(source, "gemv"), l, std::move(epilogue), launch);
}

}  // namespace tokamak::cuda
