// Traces as a file in the form of Triton's trace extension: one JSON array, and for each trace an object that says whose it is, one with
// its timestamps, and one for each tensor.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "server/http/json_out.h"
#include "server/kserve.h"
#include "server/trace_record.h"

namespace tokamak::server {

namespace {

using http::append_number;
using http::append_string;

void append_value(std::string& out, const TraceValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) append_string(out, *text);
  else if (const auto* number = std::get_if<int64_t>(&value)) append_number(out, *number);
  else append_number(out, std::get<double>(value));
}

void append_tensor(std::string& out, uint64_t number, const TraceTensor& t) {
  std::string data;
  try {
    http::append_elements(data, t.tensor, 0, t.tensor.count(), "a traced tensor");
  } catch (const Error& e) {
    data = e.what();
  }
  out += fmt::format(R"({{"id":{},"activity":"{}","tensor":{{"name":)", number, t.activity);
  append_string(out, t.name);
  out += R"(,"data":)";
  append_string(out, data);
  out += fmt::format(R"(,"shape":"{}","dtype":"{}"}}}})", fmt::join(t.tensor.shape(), ","), kserve::datatype_name(t.tensor.dtype()));
}

std::string json_of(const TraceRecord& record) {
  std::string out = fmt::format(R"({{"id":{},"model_name":)", record.number);
  append_string(out, record.model_name);
  out += fmt::format(R"(,"model_version":{})", record.model_version);
  if (!record.request_id.empty()) append_string(out += R"(,"request_id":)", record.request_id);
  if (record.parent_number != 0) out += fmt::format(R"(,"parent_id":{})", record.parent_number);
  if (!record.error.empty()) append_string(out += R"(,"error":)", record.error);
  for (const auto& [key, value] : record.values) {
    out += fmt::format(R"(,"{}":)", key);
    append_value(out, value);
  }
  out += '}';
  if (record.sample.has_timestamps) {
    out += fmt::format(",\n{{\"id\":{},\"timestamps\":[", record.number);
    for (const TraceMark& mark : record.sorted_marks()) {
      if (out.back() != '[') out += ',';
      out += fmt::format(R"({{"name":"{}","ns":{}}})", mark.name, mark.ns);
    }
    out += "]}";
  }
  for (const TraceTensor& tensor : record.tensors) append_tensor(out += ",\n", record.number, tensor);
  return out;
}

// One file. What is appended replaces the end of the array and writes it again, so that the file is complete in between.
class JsonArrayFile {
 public:
  explicit JsonArrayFile(std::string path) : path_(std::move(path)) {
    descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail(ErrorCode::Io, "cannot write the trace file '{}': {}", path_, std::strerror(errno));
  }
  ~JsonArrayFile() { close(descriptor_); }
  JsonArrayFile(const JsonArrayFile&) = delete;
  JsonArrayFile& operator=(const JsonArrayFile&) = delete;

  void append(std::string objects) {
    const std::string text = (size_ == 0 ? "[\n" : ",\n") + std::move(objects) + kEnd;
    const off_t at = size_ == 0 ? 0 : size_ - kEndSize;
    try {
      write_at(at, text);
    } catch (const Error&) {  // a full disk; what was there stays readable, as far as the disk lets it
      if (size_ > 0) {
        [[maybe_unused]] const ssize_t ended = pwrite(descriptor_, kEnd, kEndSize, at);
      }
      [[maybe_unused]] const int cut = ftruncate(descriptor_, size_);
      throw;
    }
    size_ = at + static_cast<off_t>(text.size());
  }

 private:
  static constexpr const char* kEnd = "\n]\n";
  static constexpr off_t kEndSize = 3;

  void write_at(off_t at, std::string_view text) const {
    while (!text.empty()) {
      const ssize_t written = pwrite(descriptor_, text.data(), text.size(), at);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(ErrorCode::Io, "cannot write the trace file '{}': {}", path_, std::strerror(errno));
      text.remove_prefix(static_cast<size_t>(written));
      at += written;
    }
  }

  const std::string path_;
  int descriptor_ = -1;
  off_t size_ = 0;
};

class TraceFile : public TraceExporter {
 public:
  explicit TraceFile(std::string path) : path_(std::move(path)) {}

  void write(std::span<const TraceRecord> records, std::chrono::milliseconds) override {
    std::map<std::string, std::string> texts;  // by scope, of files that are not full
    for (const TraceRecord& record : records) {
      const uint64_t frequency = record.sample.log_frequency;
      const std::string& scope = frequency == 0 ? kWhole : record.sample.scope;
      std::string& text = texts[scope];
      if (!text.empty()) text += ",\n";
      text += json_of(record);
      Part& part = parts_[scope];
      if (frequency == 0 || ++part.num_traces < frequency) continue;
      flush(scope, std::exchange(text, {}));
      part = {};
    }
    for (auto& [scope, text] : texts)
      if (!text.empty()) flush(scope, std::move(text));
  }

 private:
  struct Part {
    std::unique_ptr<JsonArrayFile> file;
    uint64_t num_traces = 0;
  };

  void flush(const std::string& scope, std::string text) {
    Part& part = parts_[scope];
    if (!part.file) {
      const std::string path = scope == kWhole ? path_ : fmt::format("{}.{}", path_, next_index_);
      part.file = std::make_unique<JsonArrayFile>(path);
      if (scope != kWhole) ++next_index_;
    }
    part.file->append(std::move(text));
  }

  // No model's name: the scope of what is not split into numbered files.
  inline static const std::string kWhole = "/";

  const std::string path_;
  std::map<std::string, Part> parts_;  // by scope
  int next_index_ = 0;
};

}  // namespace

std::unique_ptr<TraceExporter> make_trace_file(std::string file) { return std::make_unique<TraceFile>(std::move(file)); }

}  // namespace tokamak::server
