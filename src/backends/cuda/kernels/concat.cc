// concat and split: one launch for up to 32 pieces. Floor: every byte read once and written once.

#include <algorithm>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/indexed_def.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

constexpr size_t kMostPieces = 32;

class ConcatKernel final : public Kernel {
 public:
  struct Group {  // one launch
    uint64_t words[3 * kMostPieces + 3] = {};
    int first = 0, count = 0;
    Launch launch;
  };
  ConcatKernel(Function function, std::vector<Group> groups, bool is_split)
      : function_(std::move(function)), groups_(std::move(groups)), is_split_(is_split) {}
  void run(const RunArgs& args) const override {
    for (const Group& group : groups_) {
      uint64_t words[3 * kMostPieces + 3];
      std::copy(std::begin(group.words), std::end(group.words), words);
      for (int i = 0; i < group.count; ++i)
        words[i] = reinterpret_cast<uint64_t>(is_split_ ? args.outputs[group.first + i].raw() : args.inputs[group.first + i].raw());
      words[kMostPieces] = reinterpret_cast<uint64_t>(is_split_ ? args.inputs[0].raw() : args.outputs[0].raw());
      void* arguments[] = {words};
      function_.launch_raw(args.stream, group.launch, arguments);
    }
  }

 private:
  Function function_;
  std::vector<Group> groups_;
  bool is_split_;
};

class ConcatDef final : public CudaKernelDef {
 public:
  explicit ConcatDef(bool is_split) : is_split_(is_split) {}
  std::string_view name() const override { return is_split_ ? "cuda.split" : "cuda.concat"; }
  std::string_view op() const override { return is_split_ ? "split" : "concat"; }
  Support supports(const NodeView& node) const override { return supports_moving(node); }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& whole = is_split_ ? node.input_shapes[0] : node.output_shapes[0];
    const std::vector<Shape>& shapes = is_split_ ? node.output_shapes : node.input_shapes;
    const int64_t axis = normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(whole.size()));
    const int64_t rows = num_elements(std::span(whole).first(axis)), inner = num_elements(std::span(whole).subspan(axis + 1));
    const int64_t bytes = bytes_of_element(node.input_dtypes[0]);
    std::vector<int64_t> lengths, all = {whole[axis] * inner * bytes};
    for (const Shape& shape : shapes) lengths.push_back(shape[axis] * inner * bytes);
    all.insert(all.end(), lengths.begin(), lengths.end());
    const int64_t unit = unit_bytes(all);
    const bool wide = num_elements(whole) * bytes / unit > INT32_MAX / 2;
    std::vector<ConcatKernel::Group> groups;
    int64_t start = 0;
    for (size_t first = 0; first < lengths.size(); first += kMostPieces) {
      ConcatKernel::Group group;
      group.first = static_cast<int>(first), group.count = static_cast<int>(std::min(kMostPieces, lengths.size() - first));
      int64_t longest = 0;
      for (int i = 0; i < group.count; ++i) {
        const int64_t length = lengths[first + i] / unit;
        group.words[kMostPieces + 1 + i] = static_cast<uint64_t>(length);
        group.words[2 * kMostPieces + 1 + i] = static_cast<uint64_t>(start);
        start += length, longest = std::max(longest, length);
      }
      group.words[3 * kMostPieces + 1] = static_cast<uint64_t>(rows);
      group.words[3 * kMostPieces + 2] = static_cast<uint64_t>(whole[axis] * inner * bytes / unit);
      group.launch = {.grid = {static_cast<unsigned>(std::clamp<int64_t>(ceil_div(rows * longest, 256), 1, 1 << 20)),
                               static_cast<unsigned>(group.count)},
                      .block = {256},
                      .overlap = true};
      if (longest * rows > 0) groups.push_back(group);
    }
    const Source source = device_source(std::string(name()), "concat.cu",
                                        {"UNIT=" + unit_type(unit), fmt::format("MOST_PIECES={}", kMostPieces),
                                         fmt::format("IS_SPLIT={:d}", is_split_), fmt::format("INDEX={}", wide ? "int64_t" : "int")});
    return std::make_unique<ConcatKernel>(node.cuda->function(source, "concat"), std::move(groups), is_split_);
  }

 private:
  bool is_split_;
};

}  // namespace

std::vector<const KernelDef*> concat_kernels() {
  static const ConcatDef concat(false), split(true);
  return {&concat, &split};
}

}  // namespace tokamak::cuda
