#pragma once
// Facts of the KServe v2 protocol and Triton's extensions to it that HTTP and gRPC share: names of datatypes, tensors as bytes, and the
// request parameters that are ours.

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "server/request.h"

namespace tokamak::server::kserve {

// "FP32", "BF16", "BYTES", ... The name of a dtype that the protocol does not know is "".
const char* datatype_name(DType dtype);
std::optional<DType> parse_datatype(std::string_view name);

// The wire's form of a tensor: little-endian, row-major, dense; BYTES are a u32 length and the bytes, element by element.
int64_t wire_size(const Tensor& tensor);
void write_wire(const Tensor& tensor, std::byte* dst);  // wire_size() bytes

// The tensor that `bytes` are. Views them, `owner` keeps them alive; only BYTES, and numbers that are not aligned to their size, are
// copied. `where` begins the message: "input 'x' of model 'm'". Throws InvalidArgument when shape and size disagree or a dimension is
// negative.
Tensor read_wire(std::string_view where, DType dtype, Shape shape, std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

// num_elements() with a message that says where; InvalidArgument for negative dimensions and products that overflow.
int64_t checked_elements(std::string_view where, const Shape& shape);

// Moves sequence_id, sequence_start, sequence_end, priority and timeout (microseconds) to their places and the others to
// request.parameters. Throws InvalidArgument for a value of the wrong type and for reserved names: headers, binary_data_output, triton_*.
// `enable_empty_final_response`: where to put triton_enable_empty_final_response; null where the call does not stream, it is refused then.
void take_parameters(InferRequest& request, Parameters parameters, bool* enable_empty_final_response = nullptr);

// Where a tensor lies instead of in the message.
struct SharedMemoryRange {
  std::string region;
  uint64_t offset = 0, byte_size = 0;
};
// Takes shared_memory_region, shared_memory_offset and shared_memory_byte_size out of a tensor's parameters; nothing when the first is not
// there. Throws InvalidArgument for wrong types, negative numbers and a missing size.
std::optional<SharedMemoryRange> take_shared_memory(std::string_view where, Parameters& parameters);
// Takes `classification`: 0 when it is not there. Throws InvalidArgument unless it is a number above 0.
int take_classification(std::string_view where, Parameters& parameters);

}  // namespace tokamak::server::kserve
