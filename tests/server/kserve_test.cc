#include "server/kserve.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tokamak::server::kserve {
namespace {

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values.data(), values.size())); }

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::InvalidArgument);
    return error.what();
  }
  return "no error";
}

TEST(Kserve, DatatypesHaveNames) {
  for (const char* name :
       {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"}) {
    const auto dtype = parse_datatype(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_STREQ(datatype_name(*dtype), name);
  }
  EXPECT_FALSE(parse_datatype("fp32"));
  EXPECT_FALSE(parse_datatype(""));
  EXPECT_STREQ(datatype_name(DType::F8E4M3FN), "");
}

TEST(Kserve, NumbersAreViewsThatKeepTheirOwner) {
  const auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4, 5, 6});
  const Tensor tensor = read_wire("x", DType::F32, {2, 3}, bytes_of(*owner), owner);
  EXPECT_EQ(tensor.raw(), owner->data());
  EXPECT_EQ(owner.use_count(), 2);
  std::vector<std::byte> wire(static_cast<size_t>(wire_size(tensor)));
  write_wire(tensor, wire.data());
  EXPECT_EQ(std::memcmp(wire.data(), owner->data(), wire.size()), 0);
}

TEST(Kserve, NumbersOffTheirAlignmentAreCopied) {
  alignas(8) char bytes[12] = {};
  const int32_t values[2] = {7, -9};
  std::memcpy(bytes + 1, values, sizeof(values));
  const Tensor tensor = read_wire("x", DType::I32, {2}, std::as_bytes(std::span(bytes + 1, 8)), nullptr);
  EXPECT_EQ(tensor.to_ints(), (std::vector<int64_t>{7, -9}));
}

TEST(Kserve, BytesGoThereAndBack) {
  const Tensor tensor = Tensor::empty(DType::String, {2, 2});
  const_cast<Tensor&>(tensor).strings() = {"", std::string("a\0b", 3), "\xff\xfe", std::string(1000, 'x')};
  std::vector<std::byte> wire(static_cast<size_t>(wire_size(tensor)));
  write_wire(tensor, wire.data());
  EXPECT_EQ(wire.size(), 4 * 4 + 3 + 2 + 1000U);
  EXPECT_TRUE(same_bytes(read_wire("x", DType::String, {2, 2}, wire, nullptr), tensor));
}

TEST(Kserve, SizesAreChecked) {
  const std::vector<float> values(6);
  const auto read = [&](DType dtype, Shape shape) {
    return error_of([&] { read_wire("input 'x'", dtype, std::move(shape), bytes_of(values), nullptr); });
  };
  EXPECT_EQ(read(DType::F32, {2, 4}), "input 'x': expected 8 elements of 4 bytes by its shape [2,4] and datatype FP32, found 24 bytes");
  EXPECT_EQ(read(DType::F32, {-1, 6}), "input 'x': shape [-1,6] has a negative dimension");
  EXPECT_EQ(read(DType::F32, {int64_t{1} << 40, int64_t{1} << 40}),
            "input 'x': shape [1099511627776,1099511627776] has more elements than can be counted");
  EXPECT_NE(read(DType::F64, {int64_t{1} << 61}).find("found 24 bytes"), std::string::npos);  // 2^64 bytes would wrap to 0
  EXPECT_NE(read(DType::String, {int64_t{1} << 61}).find("cannot hold them"), std::string::npos);
  EXPECT_NE(read(DType::String, {2}).find("16 bytes are left behind"), std::string::npos);  // six empty elements, two declared
  const std::vector<uint32_t> long_element = {9, 0};
  EXPECT_NE(
      error_of([&] { read_wire("x", DType::String, {1}, bytes_of(long_element), nullptr); }).find("has 9 bytes by its length, 4 are left"),
      std::string::npos);
}

TEST(Kserve, EmptyTensors) {
  EXPECT_EQ(read_wire("x", DType::F32, {0, 4}, {}, nullptr).count(), 0);
  EXPECT_TRUE(read_wire("x", DType::F32, {0}, {}, nullptr).defined());
  EXPECT_EQ(read_wire("x", DType::String, {0}, {}, nullptr).count(), 0);
}

TEST(Kserve, ParametersGoToTheirPlaces) {
  InferRequest request;
  bool empty_final = false;
  take_parameters(request,
                  {{"sequence_id", int64_t{42}},
                   {"sequence_start", true},
                   {"sequence_end", true},
                   {"priority", uint64_t{3}},
                   {"timeout", int64_t{1000}},
                   {"triton_enable_empty_final_response", true},
                   {"mine", std::string("kept")}},
                  &empty_final);
  EXPECT_EQ(request.sequence.number, 42U);
  EXPECT_TRUE(request.sequence_start && request.sequence_end && empty_final);
  EXPECT_EQ(request.priority, 3U);
  EXPECT_EQ(request.timeout_us, 1000U);
  ASSERT_EQ(request.parameters.size(), 1U);
  EXPECT_EQ(std::get<std::string>(request.parameters.at("mine")), "kept");

  InferRequest text;
  take_parameters(text, {{"sequence_id", std::string("correlation-7")}});
  EXPECT_EQ(text.sequence.text, "correlation-7");
}

TEST(Kserve, ReservedAndWrongParametersAreRefused) {
  const auto take = [](const char* name, Parameter value) {
    return error_of([&] {
      InferRequest request;
      take_parameters(request, {{name, value}});
    });
  };
  EXPECT_NE(take("headers", std::string("a")).find("'headers' is reserved"), std::string::npos);
  EXPECT_NE(take("binary_data_output", true).find("reserved"), std::string::npos);
  EXPECT_NE(take("triton_x", true).find("reserved"), std::string::npos);
  EXPECT_NE(take("triton_enable_empty_final_response", true).find("reserved"), std::string::npos);
  EXPECT_NE(take("sequence_id", 1.5).find("must be an integer"), std::string::npos);
  EXPECT_NE(take("sequence_start", int64_t{1}).find("must be a boolean"), std::string::npos);
  EXPECT_NE(take("timeout", int64_t{-1}).find("from 0 to"), std::string::npos);
  EXPECT_NE(take("priority", std::string("high")).find("must be an integer"), std::string::npos);
}

TEST(Kserve, SharedMemoryRanges) {
  Parameters parameters = {{"shared_memory_region", std::string("r")},
                           {"shared_memory_byte_size", int64_t{64}},
                           {"shared_memory_offset", int64_t{8}},
                           {"other", true}};
  const auto range = take_shared_memory("x", parameters);
  ASSERT_TRUE(range);
  EXPECT_EQ(range->region, "r");
  EXPECT_EQ(range->offset, 8U);
  EXPECT_EQ(range->byte_size, 64U);
  EXPECT_EQ(parameters.size(), 1U);
  EXPECT_FALSE(take_shared_memory("x", parameters));

  Parameters no_size = {{"shared_memory_region", std::string("r")}};
  EXPECT_NE(error_of([&] { take_shared_memory("x", no_size); }).find("needs parameter 'shared_memory_byte_size'"), std::string::npos);
  Parameters no_region = {{"shared_memory_byte_size", int64_t{4}}};
  EXPECT_NE(error_of([&] { take_shared_memory("x", no_region); }).find("needs parameter 'shared_memory_region'"), std::string::npos);
  Parameters negative = {{"shared_memory_region", std::string("r")}, {"shared_memory_byte_size", int64_t{-4}}};
  EXPECT_NE(error_of([&] { take_shared_memory("x", negative); }).find("must be an integer"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::server::kserve
