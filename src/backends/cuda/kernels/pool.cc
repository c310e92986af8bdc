// max_pool, avg_pool, lp_pool over one to three spatial axes, channels first or last. Floor: x read once (windows overlap in the caches).

#include "backends/cpu/kernels/ref/window.h"
#include "backends/cuda/kernels/common.h"
#include "ir/op.h"

namespace tokamak::cuda {
namespace {

using cpu::ref::Planes;
using cpu::ref::Window;

std::string compute_of(DType d) {
  if (d == DType::F64) return "double";
  return is_float(d) ? "float" : device_type(d);
}

std::string lowest_of(DType d) {
  switch (d) {
    case DType::I8: return "-128";
    case DType::I16: return "-32768";
    case DType::I32: return "(-2147483647 - 1)";
    case DType::I64: return "(-9223372036854775807ll - 1)";
    default: return is_float(d) ? "-__int_as_float(0x7f800000)" : "0";
  }
}

class Pool final : public Kernel {
 public:
  Pool(Function function, int64_t count) : function_(std::move(function)), count_(count) {}
  void run(const RunArgs& args) const override {
    void* const indices = args.outputs.size() > 1 && args.outputs[1].defined() ? args.outputs[1].raw() : nullptr;
    function_.launch(args.stream, {.grid = {static_cast<unsigned>(ceil_div(count_, 256))}, .block = {256}, .overlap = true},
                     args.inputs[0].raw(), args.outputs[0].raw(), indices, count_);
  }

 private:
  Function function_;
  int64_t count_;
};

class PoolDef final : public CudaKernelDef {
 public:
  PoolDef(std::string op, int kind) : name_("cuda." + op), op_(std::move(op)), kind_(kind) {}
  std::string_view name() const override { return name_; }
  std::string_view op() const override { return op_; }
  Support supports(const NodeView& node) const override {
    const DType dtype = node.input_dtypes[0];
    if (dtype == DType::Bool || device_type(dtype).empty() || (kind_ != 0 && !is_float(dtype)))
      return Support::no(fmt::format("dtype {}", to_string(dtype)));
    const size_t rank = node.input_shapes[0].size();
    if (rank < 3 || rank > 5) return Support::no("expected one to three spatial axes");
    for (int64_t d : node.input_shapes[0])
      if (d > (1 << 28)) return Support::no("an axis is too long");
    if (kind_ == 2 && node.attrs().get_int("p", 2) < 1) return Support::no("p below 1");
    return Support::yes();
  }
  std::unique_ptr<Kernel> make(const NodeView& node, const std::string&) const override {
    const bool last = cpu::ref::is_channels_last(node);
    const Planes in(node.input_shapes[0], last), out(node.output_shapes[0], last);
    const Window window(node, node.attrs().get_ints("kernel"), in, out);
    const DType dtype = node.input_dtypes[0];
    int64_t width = last ? 16 / bytes_of_element(dtype) : 1;
    if (width > 8) width = 8;
    while (in.channels % width != 0) width /= 2;
    std::vector<std::string> defines = {"ELEMENT=" + device_type(dtype),
                                        "COMPUTE=" + compute_of(dtype),
                                        "LOWEST=" + lowest_of(dtype),
                                        fmt::format("KIND={}", kind_),
                                        fmt::format("CHANNELS={}", in.channels),
                                        fmt::format("CHANNELS_LAST={:d}", last),
                                        fmt::format("WIDTH={}", width),
                                        fmt::format("HAS_INDICES={:d}", node.num_outputs() > 1),
                                        fmt::format("COLUMN_MAJOR={:d}", node.attrs().get_int("storage_order", 0) != 0),
                                        fmt::format("INCLUDE_PAD={:d}", node.attrs().get_bool("count_include_pad", false)),
                                        fmt::format("POWER={}", node.attrs().get_int("p", 2))};
    for (int a = 0; a < 3; ++a) {
      const auto define = [&](const char* name, int64_t value) { defines.push_back(fmt::format("{}{}={}", name, "DHW"[a], value)); };
      define("IN_", in.size[a]), define("OUT_", out.size[a]), define("K_", window.kernel[a]), define("S_", window.stride[a]);
      define("D_", window.dilation[a]), define("P_", window.pad_begin[a]), define("E_", window.pad_end[a]);
    }
    return std::make_unique<Pool>(node.cuda->function(device_source(name_, "pool.cu", defines), "pool"),
                                  num_elements(node.output_shapes[0]) / width);
  }

 private:
  std::string name_, op_;
  int kind_;
};

}  // namespace

std::vector<const KernelDef*> pool_kernels() {
  static const PoolDef max("max_pool", 0), avg("avg_pool", 1), lp("lp_pool", 2);
  return {&max, &avg, &lp};
}

}  // namespace tokamak::cuda
