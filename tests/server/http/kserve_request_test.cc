// The reader of inference requests and the writer of their answers, without a server.

#include "server/http/kserve_request.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "base/half.h"
#include "server/http/json_out.h"
#include "server/http/kserve_response.h"

namespace tokamak::server::http {
namespace {

Body body_of(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return std::make_shared<const std::vector<std::byte>>(bytes, bytes + text.size());
}

DecodedInfer read(const std::string& json, const std::string& binary = {}, SharedMemoryRegistry* registry = nullptr) {
  return read_infer("m", body_of(json + binary), binary.empty() ? std::nullopt : std::optional(json.size()), registry);
}

// The message of the error that reading `json` and `binary` ends with.
std::string refusal(const std::string& json, const std::string& binary = {}) {
  try {
    read(json, binary);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::InvalidArgument) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "taken: " << json;
  return {};
}

std::string input(const std::string& datatype, const std::string& shape, const std::string& rest) {
  return R"({"inputs":[{"name":"x","datatype":")" + datatype + R"(","shape":)" + shape + "," + rest + "}]}";
}

const Tensor& tensor_of(const DecodedInfer& decoded) { return decoded.request->inputs.at(0).tensor; }

TEST(KserveRequest, JsonTensors) {
  EXPECT_TRUE(
      same_bytes(tensor_of(read(input("FP32", "[2,2]", R"("data":[[1,2.5],[-3e2,4]])"))), Tensor::of<float>({2, 2}, {1, 2.5, -300, 4})));
  EXPECT_TRUE(same_bytes(tensor_of(read(input("INT64", "[2]", R"("data":[9223372036854775807,-9223372036854775808])"))),
                         Tensor::of<int64_t>({2}, {INT64_MAX, INT64_MIN})));
  EXPECT_TRUE(
      same_bytes(tensor_of(read(input("UINT64", "[1]", R"("data":[18446744073709551615])"))), Tensor::of<uint64_t>({1}, {UINT64_MAX})));
  EXPECT_TRUE(same_bytes(tensor_of(read(input("UINT8", "[3]", R"("data":[0,1,255])"))), Tensor::of<uint8_t>({3}, {0, 1, 255})));
  const DecodedInfer flags = read(input("BOOL", "[3]", R"("data":[true,false,1])"));
  EXPECT_EQ(tensor_of(flags).to_ints(), (std::vector<int64_t>{1, 0, 1}));
  const DecodedInfer halves = read(input("FP16", "[2]", R"("data":[1.5,65504])"));
  EXPECT_EQ(half_to_float(tensor_of(halves).data<uint16_t>()[1]), 65504.0f);
  const DecodedInfer texts = read(input("BYTES", "[1,2]", R"("data":["a\u0000b","\u00e9"])"));
  EXPECT_EQ(tensor_of(texts).strings(), (std::vector<std::string>{std::string("a\0b", 3), "\xC3\xA9"}));
  EXPECT_EQ(tensor_of(read(input("FP32", "[0,4]", R"("data":[])"))).shape(), (Shape{0, 4}));
  // The fields in any order.
  EXPECT_EQ(tensor_of(read(R"({"inputs":[{"data":[7],"shape":[1],"datatype":"INT32","name":"x"}]})")).int_at(0), 7);
}

TEST(KserveRequest, NotANumber) {
  const DecodedInfer decoded = read(input("FP32", "[4]", R"("data":[NaN,Infinity,-Infinity,-1])"));
  const float* values = tensor_of(decoded).data<float>();
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_EQ(values[1], HUGE_VALF);
  EXPECT_EQ(values[2], -HUGE_VALF);
  EXPECT_EQ(tensor_of(read(input("BYTES", "[2]", R"("data":["NaN \" NaN","Infinity"])"))).strings()[0], "NaN \" NaN");
  refusal(input("INT32", "[1]", R"("data":[NaN])"));
}

TEST(KserveRequest, WrongJson) {
  EXPECT_NE(refusal("").find("JSON"), std::string::npos);
  EXPECT_NE(refusal("[1]").find("object"), std::string::npos);
  EXPECT_NE(refusal("{}").find("inputs"), std::string::npos);
  EXPECT_NE(refusal(std::string(100'000, '[')).find("JSON"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[1]", "\"data\":" + std::string(100, '[') + "1" + std::string(100, ']'))).find("nested"),
            std::string::npos);
  EXPECT_NE(refusal(input("FP33", "[1]", R"("data":[1])")).find("'FP33'"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[-1]", R"("data":[1])")).find("negative"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[1.5]", R"("data":[1])")).find("integers"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "3", R"("data":[1])")).find("integers"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[3]", R"("data":[1,2])")).find("expected 3 values in data by its shape [3], found 2"),
            std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[4611686018427387904,4611686018427387904]", R"("data":[1])")).find("more elements"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[1]", R"("data":["1"])")).find("a string"), std::string::npos);
  EXPECT_NE(refusal(input("INT8", "[1]", R"("data":[128])")).find("INT8"), std::string::npos);
  EXPECT_NE(refusal(input("INT32", "[1]", R"("data":[1.5])")).find("INT32"), std::string::npos);
  EXPECT_NE(refusal(input("BYTES", "[1]", R"("data":[1])")).find("a number"), std::string::npos);
  EXPECT_NE(refusal(R"({"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]})").find("has no data"), std::string::npos);
  EXPECT_NE(refusal(R"({"inputs":[{"name":"x","datatype":"FP32","data":[1]}]})").find("has no shape"), std::string::npos);
  EXPECT_NE(refusal(R"({"inputs":[],"parameters":{"headers":1}})").find("reserved"), std::string::npos);
  EXPECT_NE(refusal(R"({"inputs":[],"parameters":{"p":{"q":1}}})").find("'p'"), std::string::npos);
  EXPECT_NE(refusal(R"({"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]})").find("twice"), std::string::npos);
}

TEST(KserveRequest, BinaryTensorsViewTheBody) {
  // The JSON is padded so that the tensor behind it is aligned, or not.
  std::string json = input("FP32", "[2]", R"("parameters":{"binary_data_size":8})");
  const float values[2] = {1, 2};
  const std::string binary(reinterpret_cast<const char*>(values), sizeof(values));
  bool was_view = false;
  for (int padding = 0; padding < 4; ++padding, json += ' ') {
    const Body body = body_of(json + binary);
    const DecodedInfer decoded = read_infer("m", body, json.size(), nullptr);
    EXPECT_TRUE(same_bytes(tensor_of(decoded), Tensor::of<float>({2}, {1, 2})));
    const auto* raw = static_cast<const std::byte*>(tensor_of(decoded).raw());
    const bool is_view = raw == body->data() + json.size();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(raw) % alignof(float), 0u);
    EXPECT_EQ(is_view, json.size() % 4 == 0);
    was_view |= is_view;
  }
  EXPECT_TRUE(was_view);
}

TEST(KserveRequest, WrongBinary) {
  EXPECT_NE(refusal(input("FP32", "[2]", R"("parameters":{"binary_data_size":8})"), "1234").find("4 bytes of the body are left"),
            std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[3]", R"("parameters":{"binary_data_size":8})"), "12345678").find("expected 3 elements of 4 bytes"),
            std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[2]", R"("parameters":{"binary_data_size":8})"), "123456789").find("additional input data"),
            std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[2]", R"("parameters":{"binary_data_size":-8})"), "12345678").find("0 or more"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[2]", R"("parameters":{"binary_data_size":"8"})"), "12345678").find("0 or more"), std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[2]", R"("data":[1,2],"parameters":{"binary_data_size":8})"), "12345678").find("one of them"),
            std::string::npos);
  EXPECT_NE(refusal(input("BYTES", "[1]", R"("parameters":{"binary_data_size":5})"), std::string("\x02\0\0\0a", 5)).find("1 are left"),
            std::string::npos);
  EXPECT_NE(
      refusal(input("BYTES", "[4611686018427387903]", R"("parameters":{"binary_data_size":4})"), std::string(4, '\0')).find("cannot hold"),
      std::string::npos);
  EXPECT_NE(refusal(input("FP32", "[4611686018427387904]", R"("parameters":{"binary_data_size":0})"), "").find("expected"),
            std::string::npos);
  EXPECT_THROW(parse_json_size("12x", 100), Error);
  EXPECT_THROW(parse_json_size("-1", 100), Error);
  EXPECT_THROW(parse_json_size("101", 100), Error);
  EXPECT_THROW(parse_json_size("99999999999999999999999", 100), Error);
  EXPECT_EQ(parse_json_size("100", 100), size_t{100});
  EXPECT_FALSE(parse_json_size("", 100));
}

TEST(KserveRequest, ParametersFindTheirPlaces) {
  const DecodedInfer decoded = read(
      R"({"id":"7","parameters":{"sequence_id":5,"sequence_start":true,"priority":2,"timeout":1000,"binary_data_output":true,"mine":"x"},
          "inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],
          "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z","parameters":{"classification":3}}]})");
  const InferRequest& request = *decoded.request;
  EXPECT_EQ(request.id, "7");
  EXPECT_EQ(request.sequence.number, 5u);
  EXPECT_TRUE(request.sequence_start);
  EXPECT_EQ(request.priority, 2u);
  EXPECT_EQ(request.timeout_us, 1000u);
  EXPECT_EQ(request.parameters.size(), 1u);
  EXPECT_EQ(request.outputs[1].classification, 3);
  EXPECT_TRUE(decoded.form.is_binary);
  EXPECT_FALSE(decoded.form.binary.at("y"));
  EXPECT_FALSE(decoded.form.binary.contains("z"));
}

TEST(KserveRequest, SharedMemoryHasToBeAllowed) {
  try {
    read(input("FP32", "[1]", R"("parameters":{"shared_memory_region":"r","shared_memory_byte_size":4})"));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::Unsupported);
  }
}

TEST(KserveResponse, JsonAndBinary) {
  InferResponse response{.model_name = "m\"", .model_version = 3, .id = "i"};
  response.outputs.push_back({"a", Tensor::of<float>({2}, {0.1f, NAN})});
  response.outputs.push_back({"b", Tensor::of<int32_t>({1}, {7})});
  const Response answer = write_infer(response, {.binary = {{"b", true}}});
  EXPECT_EQ(answer.body, R"({"id":"i","model_name":"m\"","model_version":"3","outputs":[)"
                         R"({"name":"a","datatype":"FP32","shape":[2],"data":[0.1,NaN]},)"
                         R"({"name":"b","datatype":"INT32","shape":[1],"parameters":{"binary_data_size":4}}]})");
  ASSERT_EQ(answer.pieces.size(), 1u);
  EXPECT_EQ(answer.pieces[0].second.data(), static_cast<const std::byte*>(response.outputs[1].tensor.raw()));  // not a copy
  EXPECT_EQ(answer.headers[0].second, "application/octet-stream");
  EXPECT_EQ(answer.headers[1].second, std::to_string(answer.body.size()));
}

TEST(KserveResponse, TextThatIsNotUtf8LeavesAsBinaryOnly) {
  InferResponse response{.model_name = "m", .model_version = 1};
  Tensor text = Tensor::empty(DType::String, {1});
  text.strings()[0] = "\xff";
  response.outputs.push_back({"a", text});
  EXPECT_THROW(write_infer(response, {}), Error);
  const Response answer = write_infer(response, {.is_binary = true});
  EXPECT_EQ(answer.pieces.at(0).second.size(), 5u);
  std::string json;
  append_string(json, "a\xff\xe2\x82\xac\n\x01");
  EXPECT_EQ(json, "\"a\xEF\xBF\xBD\xe2\x82\xac\\n\\u0001\"");
}

// Prints what a million floats take: the figure is in the change that brought it, the bound is for a slow machine.
TEST(KserveRequest, LargeDataArraysAreQuick) {
  std::string data = "\"data\":[";
  for (int i = 0; i < 1'000'000; ++i) data += fmt::format("{}{}", i > 0 ? "," : "", static_cast<double>(i % 1000) * 0.001234567 - 0.5);
  const std::string json = input("FP32", "[1000000]", data + "]");
  const Body body = body_of(json);
  const auto begin = std::chrono::steady_clock::now();
  const DecodedInfer decoded = read_infer("m", body, std::nullopt, nullptr);
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_EQ(tensor_of(decoded).count(), 1'000'000);
  EXPECT_LT(ms, 2000);
  std::printf("1e6 floats, %zu bytes of JSON: %.1f ms to read\n", json.size(), ms);
}

}  // namespace
}  // namespace tokamak::server::http
