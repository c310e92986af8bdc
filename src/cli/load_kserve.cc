// KServe v2 inference as a load: random tensors of the model's own inputs, sent in binary.

#include <fmt/format.h>

#include <cstring>
#include <random>

#include "cli/command.h"
#include "cli/load_workload.h"

namespace tokamak::cli {

namespace {

namespace http = server::http;

struct Input {
  std::string name, datatype;
  Shape shape;
  int64_t count = 1;
};

int bytes_of_datatype(const std::string& datatype) {
  if (datatype == "BOOL" || datatype.ends_with("T8")) return 1;
  if (datatype.ends_with("16")) return 2;
  if (datatype.ends_with("32")) return 4;
  if (datatype.ends_with("64")) return 8;
  fail(ErrorCode::Unsupported, "inputs of datatype {} cannot be made up; expected numbers", datatype);
}

// Small values: ids of any table, masks, and pixels alike.
void append_random(const Input& input, std::mt19937_64& random, std::string& out) {
  const auto put = [&](const auto& value) { out.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  for (int64_t i = 0; i < input.count; ++i) {
    const auto small = static_cast<int64_t>(random() % 2);
    const float real = static_cast<float>(random() % 2001) / 1000 - 1;
    if (input.datatype == "FP32") put(real);
    else if (input.datatype == "FP64") put(static_cast<double>(real));
    else if (input.datatype == "FP16") put(static_cast<uint16_t>(random() % 2 ? 0x3800 : 0xb800));  // +-0.5
    else if (input.datatype == "BF16") put(static_cast<uint16_t>(random() % 2 ? 0x3f00 : 0xbf00));
    else out.append(reinterpret_cast<const char*>(&small), bytes_of_datatype(input.datatype));  // little-endian
  }
}

class TensorReader : public AnswerReader {
 public:
  explicit TensorReader(int rows) : rows_(rows) {}
  void piece(int status, std::string_view bytes, int64_t now_ns, LoadRecord& record) override {
    if (record.first_ns == 0) record.first_ns = now_ns;
    if (status != 200 && body_.size() < 4096) body_ += bytes;
  }
  void end(int status, LoadRecord& record) override {
    if (status != 200) record.error = fmt::format("HTTP {}: {}", status, message_of_body(body_));
    record.rows = rows_;
  }

 private:
  int rows_;
  std::string body_;
};

class KserveLoad : public Workload {
 public:
  KserveLoad(const LoadTarget& target, const TensorLoad& load) : target_(target), batch_(load.batch) {
    if (target.model.empty()) fail(ErrorCode::InvalidArgument, "--protocol kserve needs --model NAME");
    base_ = target.url.path + "/v2/models/" + target.model;
    const Json metadata = get(base_), config = get(base_ + "/config");
    const int64_t max_batch = config.value("max_batch_size", 0);
    if (batch_ > 1 && batch_ > max_batch) fail(ErrorCode::OutOfRange, "--batch {}: the model's max_batch_size is {}", batch_, max_batch);
    for (const Json& item : metadata["inputs"]) {
      Input input{item["name"], item["datatype"], item["shape"].get<Shape>()};
      const Shape* asked = nullptr;
      for (const auto& [name, shape] : load.shapes)
        if (name.empty() || name == input.name) asked = &shape;
      for (size_t i = 0; i < input.shape.size(); ++i) {
        const bool is_batch = max_batch > 0 && i == 0;
        const size_t at = i - (max_batch > 0 ? 1 : 0);
        if (is_batch) input.shape[i] = batch_;
        else if (asked != nullptr && at < asked->size()) input.shape[i] = (*asked)[at];
        if (input.shape[i] < 0)
          fail(ErrorCode::InvalidArgument, "input '{}' has shape {}: give its variable dims with --shape {}:AxB (without the batch)",
               input.name, item["shape"].dump(), input.name);
      }
      input.count = num_elements(input.shape);
      (void)bytes_of_datatype(input.datatype);
      inputs_.push_back(std::move(input));
    }
  }
  std::string name() const override { return target_.model; }
  bool is_text() const override { return false; }
  std::unique_ptr<AnswerReader> reader() override { return std::make_unique<TensorReader>(batch_); }

  http::ClientRequest request(int index) override {
    std::mt19937_64 random(target_.seed * 1'000'003 + index);
    Json json = {{"inputs", Json::array()}, {"parameters", {{"binary_data_output", true}}}};
    std::string tensors;
    for (const Input& input : inputs_) {
      const size_t before = tensors.size();
      append_random(input, random, tensors);
      json["inputs"].push_back({{"name", input.name},
                                {"datatype", input.datatype},
                                {"shape", input.shape},
                                {"parameters", {{"binary_data_size", tensors.size() - before}}}});
    }
    http::ClientRequest request{.method = "POST", .target = base_ + "/infer", .body = json.dump()};
    request.headers = {{"Content-Type", "application/octet-stream"},
                       {"Inference-Header-Content-Length", std::to_string(request.body.size())}};
    request.body += tensors;
    return request;
  }

 private:
  Json get(const std::string& path) const {
    const http::Answer answer = http::fetch(target_.url, {.target = path}, std::chrono::seconds(30));
    if (answer.status != 200) fail(ErrorCode::NotFound, "GET {} was answered {}: {}", path, answer.status, message_of_body(answer.body));
    Json json = Json::parse(answer.body, nullptr, false);
    if (!json.is_object()) fail(ErrorCode::Corrupt, "GET {}: the answer is no JSON object", path);
    return json;
  }

  LoadTarget target_;
  int batch_;
  std::string base_;
  std::vector<Input> inputs_;
};

}  // namespace

std::unique_ptr<Workload> make_kserve_load(const LoadTarget& target, const TensorLoad& load) {
  return std::make_unique<KserveLoad>(target, load);
}

}  // namespace tokamak::cli
