#include "backends/cuda/kernels/strided_move.h"

#include <algorithm>

#include "backends/cuda/kernels/indexed.h"

namespace tokamak::cuda {
namespace {

// Axes without those of one element, neighbours joined where the input crosses them without a jump; outermost first.
void join(StridedMove& move) {
  Shape shape;
  std::vector<int64_t> strides;
  for (size_t d = 0; d < move.shape.size(); ++d) {
    if (move.shape[d] == 1) continue;
    if (!shape.empty() && strides.back() == move.strides[d] * move.shape[d]) {
      shape.back() *= move.shape[d], strides.back() = move.strides[d];
    } else {
      shape.push_back(move.shape[d]), strides.push_back(move.strides[d]);
    }
  }
  move.shape = std::move(shape), move.strides = std::move(strides);
}

class TransposeKernel final : public Kernel {
 public:
  TransposeKernel(Function function, Launch launch) : function_(std::move(function)), launch_(launch) {}
  void run(const RunArgs& args) const override { function_.launch(args.stream, launch_, args.inputs[0].raw(), args.outputs[0].raw()); }

 private:
  Function function_;
  Launch launch_;
};

// `fast`: the axis along which the input is contiguous; the output's is the last.
std::unique_ptr<Kernel> make_transpose(const NodeView& node, const StridedMove& move, size_t fast, const std::string& name) {
  const size_t last = move.shape.size() - 1;
  const std::vector<int64_t> out_strides = strides_of(move.shape);
  const int64_t rows = move.shape[last], cols = move.shape[fast];  // of the input's matrix: cols are contiguous
  std::vector<int64_t> batch_sizes, batch_in, batch_out;
  for (size_t d = 0; d < last; ++d) {
    if (d == fast) continue;
    batch_sizes.push_back(move.shape[d]), batch_in.push_back(move.strides[d]), batch_out.push_back(out_strides[d]);
  }
  int64_t vector = std::max<int64_t>(1, 4 / move.bytes);
  std::vector<int64_t> divided = {rows, cols, move.strides[last], out_strides[fast], move.offset};
  divided.insert(divided.end(), batch_in.begin(), batch_in.end());
  divided.insert(divided.end(), batch_out.begin(), batch_out.end());
  for (int64_t n : divided)
    while (n % vector != 0) vector /= 2;
  const int64_t tile = 32 * vector, batches = num_elements(batch_sizes);
  std::string function = "using Index = int64_t; DEVICE void batch_offsets(Index i, Index& in, Index& out) { " + split_index(batch_sizes);
  function += fmt::format(" in = {}; out = {}; }}", dot_index(batch_in, move.offset), dot_index(batch_out));
  std::replace(function.begin(), function.end(), '\n', ' ');
  const Source source = device_source(
      name, "transpose.cu",
      {"UNIT=" + unit_type(move.bytes), fmt::format("VECTOR={}", vector), fmt::format("ROWS={}", rows), fmt::format("COLS={}", cols),
       fmt::format("ROW_STRIDE={}", move.strides[last]), fmt::format("COLUMN_STRIDE={}", out_strides[fast]), "BATCH_FUNCTION=" + function});
  const Launch launch{
      .grid = {static_cast<unsigned>(ceil_div(rows, tile) * ceil_div(cols, tile) * batches)}, .block = {32, 8}, .overlap = true};
  return std::make_unique<TransposeKernel>(node.cuda->function(source, "transpose"), launch);
}

}  // namespace

std::unique_ptr<Kernel> make_strided_move(const NodeView& node, const StridedMove& original, const std::string& name) {
  StridedMove move = original;
  join(move);
  const size_t rank = move.shape.size();
  for (size_t d = 0; d + 1 < rank; ++d)
    if (move.strides[d] == 1 && move.strides[rank - 1] != 1 && move.bytes <= 8 && move.shape[d] >= 8 && move.shape[rank - 1] >= 8 &&
        move.strides[rank - 1] > 0)
      return make_transpose(node, move, d, name);
  // Runs of the input as units: the last axis in larger pieces.
  int64_t unit = move.bytes;
  if (rank > 0 && move.strides[rank - 1] == 1) {
    std::vector<int64_t> bytes = {move.shape[rank - 1] * move.bytes, move.offset * move.bytes};
    for (size_t d = 0; d + 1 < rank; ++d) bytes.push_back(move.strides[d] * move.bytes);
    unit = std::max(unit_bytes(bytes), move.bytes);
  }
  const int64_t elements = unit / move.bytes;
  IndexedCode code{.name = name, .preamble = {}, .body = {}};
  code.inputs = {{0, unit_type(unit)}};
  code.outputs = {{0, unit_type(unit)}};
  int64_t reach = 0;
  if (elements > 1) {
    move.shape[rank - 1] /= elements, move.offset /= elements;
    for (size_t d = 0; d + 1 < rank; ++d) move.strides[d] /= elements;
  }
  for (size_t d = 0; d < rank; ++d) reach += std::abs(move.strides[d]) * move.shape[d];
  code.count = num_elements(move.shape);
  code.largest = reach + std::abs(move.offset);
  code.body = split_index(move.shape) + "  out0[i] = in0[" + dot_index(move.strides, move.offset) + "];";
  return std::make_unique<IndexedKernel>(node, std::vector<IndexedCode>{code});
}

}  // namespace tokamak::cuda
