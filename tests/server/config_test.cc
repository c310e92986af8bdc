#include "server/config.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/support/message_of.h"

namespace tokamak::server {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;

inference::ModelConfig parse(const std::string& text) {
  std::vector<std::string> warnings;
  auto config = parse_config(text, "config.pbtxt", warnings);
  EXPECT_THAT(warnings, testing::IsEmpty());
  if (config.name().empty()) config.set_name("m");
  return config;
}

// What `text` becomes for a model, as text again.
std::string completed(const std::string& text, const ModelDescription& model) {
  auto config = parse(text);
  config.set_name("m");
  if (config.backend().empty()) config.set_backend("tokamak");
  complete_config(config, model, 4);
  validate_config(config);
  config.clear_name();
  config.clear_backend();
  return config.ShortDebugString();
}

const ModelDescription kBatches = {.inputs = {{"x", DType::F32, {-1, 3, -1}}}, .outputs = {{"y", DType::I64, {-1, 10}}}, .can_batch = true};
const ModelDescription kFixed = {.inputs = {{"x", DType::F32, {2, 3}}}, .outputs = {{"y", DType::F16, {}}}, .can_batch = false};

TEST(ServerConfig, Datatypes) {
  for (const char* name :
       {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16"}) {
    const auto dtype = parse_datatype(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_EQ(datatype_name(*dtype), name);
    EXPECT_EQ(from_config_type(to_config_type(*dtype)), dtype);
  }
  EXPECT_FALSE(parse_datatype("float"));
  EXPECT_EQ(to_config_type(DType::I4), inference::TYPE_INVALID);
}

TEST(ServerConfig, BadTextIsNamedWithItsPlace) {
  std::vector<std::string> warnings;
  EXPECT_THAT(test::message_of([&] { parse_config("name: 'a'\nmax_batch_size: ]", "m/config.pbtxt", warnings); }),
              HasSubstr("failed to read text proto from m/config.pbtxt:2:17"));
  EXPECT_THROW(parse_config("name: \"", "f", warnings), Error);
  EXPECT_THROW(parse_config("input [{ data_type: TYPE_FP8 }]", "f", warnings), Error);
  EXPECT_THROW(parse_config("max_batch_size: 99999999999", "f", warnings), Error);
  EXPECT_TRUE(warnings.empty());
  const auto config = parse_config("name: 'a' no_such_field: 3 other { x: 1 }", "f", warnings);
  EXPECT_EQ(config.name(), "a");
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_THAT(warnings[0], HasSubstr("no_such_field"));
}

TEST(ServerConfig, FieldsWithoutEffectAreNamed) {
  const auto config = parse(R"(optimization { graph { level: 1 } } instance_group { profile: "0" count: 2 }
      input { name: "x" allow_ragged_batch: true } dynamic_batching { preserve_ordering: true })");
  EXPECT_THAT(unused_fields(config), ElementsAre("instance_group.profile", "optimization"));
}

TEST(ServerConfig, DefaultsWithoutTheModel) {
  auto config = parse("platform: 'onnxruntime_onnx' max_batch_size: 8 dynamic_batching {} instance_group { gpus: 1 }");
  apply_defaults(config, "m", "");
  EXPECT_EQ(config.backend(), "onnxruntime");
  EXPECT_EQ(config.version_policy().latest().num_versions(), 1u);
  EXPECT_THAT(config.dynamic_batching().preferred_batch_size(), ElementsAre(8));
  EXPECT_EQ(config.instance_group(0).kind(), inference::ModelInstanceGroup::KIND_GPU);
  EXPECT_EQ(config.instance_group(0).name(), "m_0");
  EXPECT_EQ(config.instance_group(0).count(), 1);
  auto by_file = parse("default_model_filename: 'net.onnx' sequence_batching { oldest {} }");
  apply_defaults(by_file, "m", "");
  EXPECT_EQ(by_file.backend(), "tokamak");
  EXPECT_EQ(by_file.sequence_batching().max_sequence_idle_microseconds(), 1'000'000u);
  auto other = parse("backend: 'x' name: 'other'");
  EXPECT_THROW(apply_defaults(other, "m", ""), Error);
  auto none = parse("max_batch_size: 1");
  EXPECT_THAT(test::message_of([&] { apply_defaults(none, "m", ""); }), HasSubstr("must specify 'platform' or 'backend' for 'm'"));
  auto plan = parse("platform: 'tensorrt_plan'");
  EXPECT_THROW(apply_defaults(plan, "m", ""), Error);
}

TEST(ServerConfig, CompletesWhatIsLeftOpen) {
  EXPECT_EQ(completed("", kBatches), R"(max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 3 dims: -1 } )"
                                     R"(output { name: "y" data_type: TYPE_INT64 dims: 10 } dynamic_batching { preferred_batch_size: 4 })");
  EXPECT_EQ(completed("", kFixed), R"(input { name: "x" data_type: TYPE_FP32 dims: 2 dims: 3 } )"
                                   R"(output { name: "y" data_type: TYPE_FP16 dims: 1 reshape { } })");
  // dims of the model's own rank: no batches
  EXPECT_EQ(completed("input { name: 'x' data_type: TYPE_FP32 dims: [-1, 3, -1] }", kBatches),
            R"(input { name: "x" data_type: TYPE_FP32 dims: -1 dims: 3 dims: -1 } )"
            R"(output { name: "y" data_type: TYPE_INT64 dims: -1 dims: 10 })");
  // what is said stays
  EXPECT_EQ(completed("max_batch_size: 1 input { name: 'x' dims: [3, 7] } sequence_batching {}", kBatches),
            R"(max_batch_size: 1 input { name: "x" data_type: TYPE_FP32 dims: 3 dims: 7 } )"
            R"(output { name: "y" data_type: TYPE_INT64 dims: 10 } sequence_batching { })");
}

TEST(ServerConfig, ContradictionsWithTheModel) {
  const auto message = [](const char* text, const ModelDescription& model) { return test::message_of([&] { completed(text, model); }); };
  EXPECT_EQ(message("max_batch_size: 8", kFixed),
            "autofill failed for model 'm': model does not support batching while non-zero max_batch_size is specified");
  EXPECT_THAT(message("input { name: 'z' data_type: TYPE_FP32 dims: 1 }", kBatches), HasSubstr("allowed inputs are: x"));
  EXPECT_THAT(message("input { name: 'x' data_type: TYPE_INT8 dims: [3, 4] }", kBatches), HasSubstr("expects datatype TYPE_INT8"));
  EXPECT_THAT(message("max_batch_size: 2 input { name: 'x' data_type: TYPE_FP32 dims: [4, 4] }", kBatches), HasSubstr("[-1,4,4]"));
  EXPECT_THAT(message("output { name: 'x' data_type: TYPE_FP16 dims: 1 }", kFixed), HasSubstr("has output 'x'"));
}

struct Refused {
  const char *text, *message;
};

TEST(ServerConfig, RefusesWhatContradictsItself) {
  const std::string io = "backend: 'b' input { name: 'x' data_type: TYPE_FP32 dims: 4 } output { name: 'y' data_type: TYPE_FP32 dims: 4 } ";
  const Refused kCases[] = {
      {"max_batch_size: -1", "'max_batch_size' must be non-negative value for m"},
      {"input { data_type: TYPE_FP32 dims: 1 }", "model input must specify 'name'"},
      {"input { name: 'a' dims: 1 }", "model input 'a' must specify 'data_type'"},
      {"output { name: 'a' data_type: TYPE_FP32 }", "model output 'a' must specify 'dims'"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 0 }", "dimension must be integer >= 1, or -1"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: -2 }", "dimension must be integer >= 1, or -1"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 4 reshape { shape: [2, 3] } }", "has different size for dims and reshape"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [-1, 2] reshape { shape: [-1, -1] } }",
       "different number of variable-size dimensions"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [9223372036854775807, 4] reshape { shape: 4 } }", "overflow"},
      {"input { name: 'x' data_type: TYPE_FP32 dims: 1 }", "model input 'x' is given twice"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 1 format: FORMAT_NCHW }", "model input NHWC/NCHW require 3 dims"},
      {"input { name: 'a' data_type: TYPE_INT32 dims: 1 is_shape_tensor: true }", "shape tensors are only supported for TensorRT platform"},
      {"max_batch_size: 4 dynamic_batching { preferred_batch_size: 0 }", "dynamic batching preferred size must be positive for m"},
      {"max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "dynamic batching preferred size must be <= max batch size for m"},
      {"dynamic_batching { priority_levels: 3 }", "default priority level must be in range [1, 3] for m"},
      {"dynamic_batching { priority_levels: 3 default_priority_level: 1 priority_queue_policy { key: 4 value {} } }",
       "priority queue policy must have priority level in range [1, 3] for m"},
      {"dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
       "Only one priority level is allowed when 'preserve_ordering' is true for m"},
      {"dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }",
       "Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true for m"},
      {"sequence_batching { control_input { control { kind: CONTROL_SEQUENCE_START } } }", "control tensor must have a name for m"},
      {"sequence_batching { control_input { name: 's' control { kind: CONTROL_SEQUENCE_START } } }",
       "must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_START for m"},
      {"sequence_batching { control_input { name: 's' control { kind: CONTROL_SEQUENCE_START int32_false_true: 0 } } }",
       "exactly 2 entries"},
      {"sequence_batching { control_input { name: 's' control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } } }",
       "unexpected data type for control CONTROL_SEQUENCE_CORRID for m"},
      {"sequence_batching { control_input { name: 's' } }", "control tensor 's' must specify a 'control' for m"},
      {"input { name: 's' data_type: TYPE_INT32 dims: 1 } sequence_batching { control_input { name: 's' control { kind: "
       "CONTROL_SEQUENCE_START int32_false_true: [0, 1] } } }",
       "clients must not send it"},
      {"sequence_batching { state { input_name: 'i' data_type: TYPE_INT32 } }", "must have 'input_name' and 'output_name' for m"},
      {"sequence_batching { state { input_name: 'i' output_name: 'o' } }", "state 'i' must specify 'data_type' for m"},
      {"sequence_batching { state { input_name: 'i' output_name: 'o' data_type: TYPE_INT32 dims: 0 } }", "integer >= 1"},
      {"sequence_batching { state { input_name: 'i' output_name: 'o' data_type: TYPE_INT32 } state { input_name: 'j' output_name: 'o' "
       "data_type: TYPE_INT32 } }",
       "State output name 'o' specified more than once."},
      {"sequence_batching {} response_cache { enable: true }", "Please disable the response cache."},
      {"sequence_batching { direct { minimum_slot_utilization: 2 } }", "minimum slot utilization must be in range (0.0, 1.0] for m"},
      {"model_transaction_policy { decoupled: true } response_cache { enable: true }", "'decoupled' transaction policy"},
      {"instance_group { name: 'g' kind: KIND_CPU gpus: 0 }",
       "instance group g of model m has kind KIND_CPU but specifies one or more GPUs"},
      {"model_metrics { metric_control { metric_identifier { family: 'f' } } }", "metric control must specify 'histogram_options'"},
      {"platform: 'ensemble'", "ensemble scheduling must be set for ensemble m"},
  };
  EXPECT_NO_THROW(validate_config(parse(io)));
  for (const auto& [text, message] : kCases)
    EXPECT_THAT(test::message_of([&] { validate_config(parse(io + text)); }), HasSubstr(message)) << text;
}

TEST(ServerConfig, RefusesBrokenEnsembles) {
  const std::string head =
      "platform: 'ensemble' input { name: 'x' data_type: TYPE_FP32 dims: 1 } output { name: 'y' data_type: TYPE_FP32 dims: 1 } ";
  const std::string a = "step { model_name: 'a' input_map { key: 'i' value: 'x' } output_map { key: 'o' value: 't' } } ";
  const std::string b = "step { model_name: 'b' input_map { key: 'i' value: 't' } output_map { key: 'o' value: 'y' } } ";
  const auto message = [&](const std::string& steps) {
    return test::message_of([&] { validate_config(parse(head + "ensemble_scheduling { " + steps + "}")); });
  };
  EXPECT_NO_THROW(validate_config(parse(head + "ensemble_scheduling { " + b + a + "}")));
  EXPECT_EQ(message(""), "must specify 'step' for ensemble 'm'");
  EXPECT_EQ(message(b), "ensemble input 'x' for ensemble m is not used");
  EXPECT_EQ(message(a), "output 'y' for ensemble 'm' is not written");
  EXPECT_EQ(message(a + b + a), "ensemble tensor 't' can appear in an output map only once for ensemble 'm' step 2");
  EXPECT_EQ(message(a + b + "step { model_name: 'c' input_map { key: 'i' value: 't' } output_map { key: 'o' value: 'u' } } "),
            "ensemble tensor 'u' is unused in ensemble 'm'");
  EXPECT_EQ(message(a + "step { model_name: 'b' input_map { key: 'i' value: 't' } input_map { key: 'j' value: 'y' } "
                        "output_map { key: 'o' value: 'y' } } "),
            "output 'y' for ensemble 'm' is not written");
}

TEST(ServerConfig, JsonHasNumbersAndLists) {
  const auto config = parse(R"(name: "m" max_batch_size: 8 input { name: "x" data_type: TYPE_STRING dims: [-1, 9007199254740993] }
    dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 priority_queue_policy { key: 2 value { max_queue_size: 3 } } }
    parameters { key: "b" value { string_value: "2" } } parameters { key: "a" value { string_value: "1" } })");
  const auto json = nlohmann::ordered_json::parse(config_json(config));
  EXPECT_EQ(json["input"][0]["dims"].dump(), "[-1,9007199254740993]");
  EXPECT_EQ(json["input"][0]["data_type"], "TYPE_STRING");
  EXPECT_EQ(json["input"][0]["optional"], false);
  EXPECT_EQ(json["dynamic_batching"]["max_queue_delay_microseconds"].dump(), "18446744073709551615");
  EXPECT_EQ(json["dynamic_batching"]["priority_queue_policy"]["2"]["max_queue_size"], 3);
  EXPECT_EQ(json["parameters"].dump(), R"({"a":{"string_value":"1"},"b":{"string_value":"2"}})");
  EXPECT_EQ(json["output"].dump(), "[]");
  EXPECT_FALSE(json.contains("sequence_batching"));
  // What is told can be given back.
  EXPECT_EQ(parse_config_json(json.dump()).SerializeAsString().size(), config.SerializeAsString().size());
}

TEST(ServerConfig, MetadataHasTheBatchAxis) {
  const auto config =
      parse("max_batch_size: 2 input { name: 'x' data_type: TYPE_FP32 dims: [3] } output { name: 'y' data_type: TYPE_STRING dims: [1] }");
  EXPECT_EQ(input_metadata(config)[0].shape, (Shape{-1, 3}));
  const auto outputs = output_metadata(config, {{"y", {"cat", "dog"}}});
  EXPECT_EQ(outputs[0].dtype, DType::String);
  EXPECT_THAT(outputs[0].labels, ElementsAre("cat", "dog"));
}

}  // namespace

}  // namespace tokamak::server
