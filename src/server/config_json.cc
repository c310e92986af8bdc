// A config as JSON: field names as in the .proto, 64-bit integers as numbers, empty lists and default scalars present.

#include <google/protobuf/descriptor.h>

#include <nlohmann/json.hpp>

#include "server/config.h"

namespace tokamak::server {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

Json to_json(const Message& message);

// Element `i` of a repeated field, or the field itself (i < 0).
Json value(const Message& message, const FieldDescriptor* field, int i) {
  const auto& r = *message.GetReflection();
  const auto pick = [&](auto one, auto many) { return i < 0 ? (r.*one)(message, field) : (r.*many)(message, field, i); };
  using R = google::protobuf::Reflection;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: return pick(&R::GetInt32, &R::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64: return pick(&R::GetInt64, &R::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32: return pick(&R::GetUInt32, &R::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64: return pick(&R::GetUInt64, &R::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE: return pick(&R::GetDouble, &R::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_FLOAT: return pick(&R::GetFloat, &R::GetRepeatedFloat);
    case FieldDescriptor::CPPTYPE_BOOL: return pick(&R::GetBool, &R::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_STRING: return pick(&R::GetString, &R::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_ENUM: return pick(&R::GetEnum, &R::GetRepeatedEnum)->name();
    case FieldDescriptor::CPPTYPE_MESSAGE: return to_json(i < 0 ? r.GetMessage(message, field) : r.GetRepeatedMessage(message, field, i));
  }
  return nullptr;
}

Json map_value(const Message& message, const FieldDescriptor* field) {
  std::map<std::string, Json> sorted;  // the order in the message is no order
  const auto* key = field->message_type()->map_key();
  const auto* mapped = field->message_type()->map_value();
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    const Message& entry = message.GetReflection()->GetRepeatedMessage(message, field, i);
    const Json name = value(entry, key, -1);
    sorted[name.is_string() ? name.get<std::string>() : name.dump()] = value(entry, mapped, -1);
  }
  return sorted;
}

Json to_json(const Message& message) {
  Json out = Json::object();
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto* field = message.GetDescriptor()->field(i);
    if (field->is_map()) {
      out[field->name()] = map_value(message, field);
    } else if (field->is_repeated()) {
      Json& list = out[field->name()] = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, field); ++j) list.push_back(value(message, field, j));
    } else if (!field->has_presence() || reflection.HasField(message, field)) {
      out[field->name()] = value(message, field, -1);
    }
  }
  return out;
}

}  // namespace

std::string config_json(const inference::ModelConfig& config) {
  return to_json(config).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace tokamak::server
