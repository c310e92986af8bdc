// cumsum, cumprod, argmax, argmin, topk: along one axis. Floor: x read once (topk of long rows reads it once a digit of the keys, from L2).

#include <algorithm>
#include <bit>

#include "backends/cpu/kernels/ref/ref.h"
#include "backends/cuda/kernels/common.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::normalize_axis;

constexpr int64_t kMostSorted = 2048;  // entries in shared memory

// x as [outer, size, inner].
struct Line {
  int64_t outer = 1, size = 1, inner = 1;
  Line(const Shape& shape, int64_t axis) {
    if (shape.empty()) return;
    outer = num_elements(std::span(shape).first(axis));
    size = shape[axis];
    inner = num_elements(std::span(shape).subspan(axis + 1));
  }
  int64_t rows() const { return outer * inner; }
};

bool is_number(DType d) { return d != DType::Bool && !device_type(d).empty(); }
// Arithmetic that shuffles can move.
std::string compute_of(DType d) {
  if (d == DType::F64) return "double";
  if (is_float(d)) return "float";
  if (bits_of(d) < 32) return "int32_t";
  return device_type(d);
}

// One launch with x, the output (or outputs) and a number.
class LineKernel final : public Kernel {
 public:
  LineKernel(Function function, Launch launch, int64_t columns) : function_(std::move(function)), launch_(launch), columns_(columns) {}
  void run(const RunArgs& args) const override {
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.outputs[0].raw(), columns_);
  }

 private:
  Function function_;
  Launch launch_;
  int64_t columns_;
};

// Rows of a contiguous axis by blocks, else columns by threads: entries NAME_rows and NAME_columns of `file`.
std::unique_ptr<Kernel> make_line(const NodeView& node, const std::string& name, const std::string& file, const std::string& entry,
                                  const Line& line, std::vector<std::string> defines) {
  const bool by_rows = line.inner == 1 && line.size > 8;
  const int64_t threads =
      by_rows ? std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ceil_div(line.size, 4)))), 32, 512) : 128;
  defines.push_back(fmt::format("SIZE={}", line.size));
  defines.push_back(fmt::format("INNER={}", line.inner));
  defines.push_back(fmt::format("THREADS={}", threads));
  const int64_t blocks = by_rows ? line.rows() : ceil_div(line.rows(), threads);
  return std::make_unique<LineKernel>(
      node.cuda->function(device_source(name, file, defines), entry + (by_rows ? "_rows" : "_columns")),
      Launch{.grid = {static_cast<unsigned>(blocks)}, .block = {static_cast<unsigned>(threads)}, .overlap = true}, line.rows());
}

class ScanDef final : public CudaKernelDef {
 public:
  explicit ScanDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!is_number(node.input_dtypes[0])) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    if (node.constants[1] == nullptr) return Support::no("the axis must be constant");
    return num_elements(node.input_shapes[0]) > INT32_MAX ? Support::no("more than 2^31 elements") : Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& x = node.input_shapes[0];
    const DType dtype = node.input_dtypes[0];
    const Line line(x, normalize_axis(node.constants[1]->int_at(0), static_cast<int64_t>(x.size())));
    const std::string accumulator = is_float(dtype) ? "double" : is_signed_integer(dtype) ? "int64_t" : "uint64_t";
    return make_line(node, name_, "scan.cu", "scan", line,
                     {"ELEMENT=" + device_type(dtype), "ACCUMULATOR=" + accumulator, fmt::format("IS_PRODUCT={:d}", op_ == "cumprod"),
                      fmt::format("EXCLUSIVE={:d}", node.attrs().get_bool("exclusive", false)),
                      fmt::format("REVERSE={:d}", node.attrs().get_bool("reverse", false))});
  }

 private:
  std::string name_, op_;
};

class ArgDef final : public CudaKernelDef {
 public:
  explicit ArgDef(std::string op) : name_("cuda." + op), op_(std::move(op)) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    if (!is_number(node.input_dtypes[0])) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    return num_elements(node.output_shapes[0]) > INT32_MAX ? Support::no("more rows than a grid has blocks") : Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Shape& x = node.input_shapes[0];
    const DType dtype = node.input_dtypes[0];
    const Line line(x, normalize_axis(node.attrs().get_int("axis", 0), static_cast<int64_t>(x.size())));
    const bool last = node.attrs().get_bool("select_last_index", node.attrs().get_bool("select_last", false));
    return make_line(node, name_, "arg.cu", "arg", line,
                     {"ELEMENT=" + device_type(dtype), "COMPUTE=" + compute_of(dtype), fmt::format("IS_MAX={:d}", op_ == "argmax"),
                      fmt::format("LAST={:d}", last)});
  }

 private:
  std::string name_, op_;
};

class TopkKernel final : public Kernel {
 public:
  TopkKernel(Function function, Launch launch) : function_(std::move(function)), launch_(launch) {}
  void run(const RunArgs& args) const override {
    void* const indices = args.outputs.size() > 1 && args.outputs[1].defined() ? args.outputs[1].raw() : nullptr;
    function_.launch(args.stream, launch_, args.inputs[0].raw(), args.outputs[0].raw(), indices);
  }

 private:
  Function function_;
  Launch launch_;
};

class TopkDef final : public CudaKernelDef {
 public:
  std::string_view name() const override { return "cuda.topk"; }
  std::string_view op() const override { return "topk"; }
  Support supports(const NodeView& node) const override {
    if (!is_number(node.input_dtypes[0])) return Support::no(fmt::format("dtype {}", to_string(node.input_dtypes[0])));
    const Line line(node.input_shapes[0], axis_of(node));
    const int64_t k = node.output_shapes[0][axis_of(node)];
    if (k > line.size) return Support::no(fmt::format("k is {} on an axis of {}", k, line.size));
    if (k > kMostSorted) return Support::no(fmt::format("k is {}, at most {}", k, kMostSorted));
    if (line.size > INT32_MAX / 2 || line.rows() > INT32_MAX) return Support::no("rows too long or too many");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const Line line(node.input_shapes[0], axis_of(node));
    const int64_t k = node.output_shapes[0][axis_of(node)];
    const DType dtype = node.input_dtypes[0];
    const auto power_of_two = [](int64_t n) { return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 2)))); };
    const bool whole = power_of_two(line.size) <= kMostSorted;
    const int64_t sorted = power_of_two(whole ? line.size : k), threads = whole ? std::clamp<int64_t>(sorted / 2, 32, 1024) : 1024;
    const bool wide = bits_of(dtype) == 64;
    const Source source = device_source(
        "cuda.topk", "topk.cu",
        {"ELEMENT=" + device_type(dtype), "COMPUTE=" + compute_of(dtype), std::string("KEY=") + (wide ? "uint64_t" : "uint32_t"),
         fmt::format("KEY_BYTES={}", wide ? 8 : 4), fmt::format("SIZE={}", line.size), fmt::format("INNER={}", line.inner),
         fmt::format("K_COUNT={}", k), fmt::format("SORT_SIZE={}", sorted), fmt::format("THREADS={}", threads),
         fmt::format("LARGEST={:d}", node.attrs().get_bool("largest", true)), fmt::format("IS_FLOAT={:d}", is_float(dtype)),
         fmt::format("IS_SIGNED={:d}", is_signed_integer(dtype))});
    return std::make_unique<TopkKernel>(
        node.cuda->function(source, "topk"),
        Launch{.grid = {static_cast<unsigned>(line.rows())}, .block = {static_cast<unsigned>(threads)}, .overlap = true});
  }

 private:
  static int64_t axis_of(const NodeView& node) {
    return normalize_axis(node.attrs().get_int("axis", -1), static_cast<int64_t>(node.input_shapes[0].size()));
  }
};

}  // namespace

std::vector<const KernelDef*> search_kernels() {
  static const ScanDef cumsum("cumsum"), cumprod("cumprod");
  static const ArgDef argmax("argmax"), argmin("argmin");
  static const TopkDef topk;
  return {&cumsum, &cumprod, &argmax, &argmin, &topk};
}

}  // namespace tokamak::cuda
