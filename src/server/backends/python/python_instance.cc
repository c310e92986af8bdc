#include "server/backends/python/python_instance.h"

#include <time.h>

#include <chrono>
#include <cstring>

#include "server/backends/support.h"

namespace tokamak::backends::python {

namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr const char* kTypes[] = {"FP32",  "FP16",  "BF16",   "FP64",   "INT8",   "INT16", "INT32",
                                  "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL",  "BYTES"};
static_assert(std::size(kTypes) == TKB_BYTES + 1);

tkb_dtype parse_type(const std::string& name) {
  for (size_t i = 0; i < std::size(kTypes); ++i)
    if (name == kTypes[i]) return static_cast<tkb_dtype>(i);
  fail(ErrorCode::Internal, "model.py gave a tensor of type '{}'", name);
}

ErrorCode code_of(int triton_error) {
  constexpr ErrorCode codes[] = {ErrorCode::Internal,    ErrorCode::Internal,    ErrorCode::NotFound,      ErrorCode::InvalidArgument,
                                 ErrorCode::Unavailable, ErrorCode::Unsupported, ErrorCode::AlreadyExists, ErrorCode::Cancelled};
  return triton_error >= 0 && triton_error < static_cast<int>(std::size(codes)) ? codes[triton_error] : ErrorCode::Internal;
}

int64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

size_t align(size_t size) { return (size + 63) & ~size_t{63}; }

// Bytes in shared memory; strings have their lengths before them there.
size_t shared_size(const tkb_tensor& t) {
  if (t.dtype != TKB_BYTES) return t.size;
  size_t size = 0;
  for (int64_t i = 0; i < count_of(t); ++i) size += sizeof(uint32_t) + t.strings[i].size;
  return size;
}

void write_tensor(const tkb_tensor& t, std::byte* target) {
  if (t.dtype != TKB_BYTES) {
    if (t.size > 0) std::memcpy(target, t.data, t.size);
    return;
  }
  for (int64_t i = 0; i < count_of(t); ++i) {
    const uint32_t length = static_cast<uint32_t>(t.strings[i].size);
    std::memcpy(target, &length, sizeof length);
    if (length > 0) std::memcpy(target + sizeof length, t.strings[i].data, length);
    target += sizeof length + length;
  }
}

std::vector<tkb_bytes> read_strings(const std::byte* data, size_t size, int64_t count, const std::string& name) {
  std::vector<tkb_bytes> strings;
  size_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t length = 0;
    if (size - at < sizeof length) fail(ErrorCode::Internal, "output '{}' of model.py has fewer strings than its shape says", name);
    std::memcpy(&length, data + at, sizeof length);
    at += sizeof length;
    if (size - at < length) fail(ErrorCode::Internal, "output '{}' of model.py ends within a string", name);
    strings.push_back({reinterpret_cast<const char*>(data) + at, length});
    at += length;
  }
  return strings;
}

Json to_json(const tkb_parameter& p) {
  switch (p.kind) {
    case TKB_PARAMETER_BOOL: return p.integer != 0;
    case TKB_PARAMETER_INT: return p.integer;
    case TKB_PARAMETER_DOUBLE: return p.number;
    case TKB_PARAMETER_STRING: return p.string;
  }
  return nullptr;
}

// Sends a message and waits for its answer, before anything else is under way. Throws what Python raised.
Json call(Process& process, const PythonModel& model, const Json& message) {
  process.send(message);
  const auto reply = process.receive(model.start_timeout_ms);
  const std::string step = message.at("op");
  if (!reply) {
    process.kill();
    fail(ErrorCode::Unavailable, "model.py of '{}' did not {} within {} s (parameter start_timeout_ms)", model.name, step,
         model.start_timeout_ms / 1000);
  }
  if (reply->json.contains("error")) fail(ErrorCode::Internal, "model.py of '{}': {}", model.name, reply->json["error"].get<std::string>());
  return reply->json;
}

}  // namespace

std::optional<Json> auto_complete(const PythonModel& model, const std::string& config_json) {
  Process process(model.python, model.path);
  const Json reply = call(process, model, {{"op", "describe"}, {"path", model.path}, {"config", config_json}});
  process.end(model.finalize_timeout_ms);
  return reply.contains("config") ? std::optional(reply["config"]) : std::nullopt;
}

PythonInstance::PythonInstance(const tkb_server& server, const PythonModel& model, const tkb_instance_args& args)
    : server_(server), model_(model), args_(model.args) {
  args_["model_instance_kind"] = args.is_gpu ? "GPU" : "CPU";
  args_["model_instance_device_id"] = std::to_string(args.gpu);
  args_["model_instance_name"] = args.name;
  start();
}

PythonInstance::~PythonInstance() { stop(); }

void PythonInstance::start() {
  stop();
  process_ = std::make_unique<Process>(model_.python, model_.path);
  call(*process_, model_, {{"op", "initialize"}, {"path", model_.path}, {"args", args_}});
  {
    const std::lock_guard lock(mutex_);
    is_dead_ = false;
    kill_reason_.clear();
  }
  reader_ = std::thread([this] { read_messages(); });
}

void PythonInstance::stop() {
  if (!process_) return;
  if (reader_.joinable()) {
    bool is_dead = false;
    {
      const std::lock_guard lock(mutex_);
      is_dead = is_dead_;
      done_.reset();
    }
    if (!is_dead) {
      try {
        process_->send({{"op", "finalize"}});
      } catch (const Error&) {  // the reader sees it, too
      }
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(model_.finalize_timeout_ms), [this] { return is_dead_ || done_; });
    }
    process_->kill();
    reader_.join();
  }
  process_.reset();
}

void PythonInstance::read_messages() {
  try {
    while (true) {
      const std::optional<Message> message = process_->receive(-1);
      if (!message) continue;
      if (message->json.value("op", "") == "response") {
        respond_from_reader(*message);
        continue;
      }
      const std::lock_guard lock(mutex_);
      done_ = message->json;
      changed_.notify_all();
    }
  } catch (const std::exception& e) {
    fail_pending(e.what());
  }
}

void PythonInstance::fail_pending(const std::string& why) {
  std::map<int64_t, const tkb_request*> pending;
  std::string reason;
  {
    const std::lock_guard lock(mutex_);
    pending.swap(pending_);
    reason = kill_reason_.empty() ? why : kill_reason_;
  }
  for (const auto& [number, request] : pending)
    respond_error(server_, *request, ErrorCode::Internal, fmt::format("model '{}': {}", model_.name, reason));
  const std::lock_guard lock(mutex_);
  is_dead_ = true;
  changed_.notify_all();
}

const tkb_request* PythonInstance::take(int64_t number, bool is_final) {
  const std::lock_guard lock(mutex_);
  const auto found = pending_.find(number);
  if (found == pending_.end()) return nullptr;
  const tkb_request* request = found->second;
  if (is_final) pending_.erase(found);
  return request;
}

void PythonInstance::respond_from_reader(const Message& message) {
  const bool is_final = message.json.at("final").get<bool>();
  if (const tkb_request* request = take(message.json.at("r").get<int64_t>(), is_final))
    respond(*request, message.json, message.tail.data(), message.tail.size(), is_final);
}

void PythonInstance::respond(const tkb_request& request, const Json& fields, const std::byte* bytes, size_t size, bool is_final) {
  std::vector<tkb_tensor> tensors;
  std::vector<std::string> names;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<std::vector<tkb_bytes>> strings;
  std::vector<std::pair<std::string, std::string>> texts;  // of parameters
  std::vector<tkb_parameter> parameters;
  tkb_response response = {.is_final = is_final};
  response.error = guarded(server_, [&] {
    if (const auto error = fields.find("error"); error != fields.end())
      throw Error(code_of(fields.value("code", 1)), error->get<std::string>());
    const Json& outputs = fields.at("outputs");
    names.reserve(outputs.size());
    shapes.reserve(outputs.size());
    strings.reserve(outputs.size());
    for (const Json& output : outputs) {
      const size_t offset = output.at("offset"), length = output.at("size");
      names.push_back(output.at("name"));
      shapes.push_back(output.at("shape").get<std::vector<int64_t>>());
      if (offset > size || length > size - offset)
        fail(ErrorCode::Internal, "output '{}' of model.py lies outside its memory", names.back());
      tkb_tensor t = {.name = names.back().c_str(),
                      .dtype = parse_type(output.at("dtype")),
                      .rank = static_cast<int32_t>(shapes.back().size()),
                      .dims = shapes.back().data(),
                      .data = bytes + offset,
                      .size = length};
      if (t.dtype == TKB_BYTES) {
        strings.push_back(read_strings(bytes + offset, length, count_of(t), names.back()));
        t.strings = strings.back().data();
      }
      tensors.push_back(t);
    }
    const Json none = Json::object();
    const Json& given = fields.contains("parameters") ? fields["parameters"] : none;
    texts.reserve(given.size());
    for (const auto& [name, value] : given.items()) {
      texts.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
      tkb_parameter p = {.name = texts.back().first.c_str(), .kind = TKB_PARAMETER_STRING, .string = texts.back().second.c_str()};
      if (value.is_boolean()) p.kind = TKB_PARAMETER_BOOL, p.integer = value.get<bool>();
      else if (value.is_number_integer()) p.kind = TKB_PARAMETER_INT, p.integer = value.get<int64_t>();
      else if (value.is_number()) p.kind = TKB_PARAMETER_DOUBLE, p.number = value.get<double>();
      parameters.push_back(p);
    }
  });
  response.outputs = tensors.data();
  response.num_outputs = response.error ? 0 : tensors.size();
  response.parameters = parameters.data();
  response.num_parameters = parameters.size();
  server_.respond(&request, &response);
}

void PythonInstance::reschedule(const tkb_request& request) {
  tkb_error* error = server_.size > offsetof(tkb_server, reschedule)
                         ? server_.reschedule(&request, nullptr, 0)
                         : server_.error(TKB_UNSUPPORTED, "this server cannot reschedule requests");
  if (!error) return;
  const tkb_response response = {.error = error, .is_final = 1};
  server_.respond(&request, &response);
}

Json PythonInstance::write_inputs(const tkb_request* const* requests, size_t count) {
  size_t total = 0;
  for (size_t r = 0; r < count; ++r)
    for (size_t i = 0; i < requests[r]->num_inputs; ++i) total += align(shared_size(requests[r]->inputs[i]));
  std::byte* memory = process_->inputs.map(total, true);
  Json list = Json::array();
  size_t at = 0;
  for (size_t r = 0; r < count; ++r) {
    const tkb_request& request = *requests[r];
    const int64_t number = next_number_ + static_cast<int64_t>(r);
    Json inputs = Json::array(), outputs = Json::array(), parameters = Json::object();
    for (size_t i = 0; i < request.num_inputs; ++i) {
      const tkb_tensor& t = request.inputs[i];
      const size_t size = shared_size(t);
      write_tensor(t, memory + at);
      inputs.push_back({{"name", t.name},
                        {"dtype", kTypes[t.dtype]},
                        {"shape", std::vector<int64_t>(t.dims, t.dims + t.rank)},
                        {"offset", at},
                        {"size", size}});
      at += align(size);
    }
    for (size_t i = 0; i < request.num_outputs; ++i) outputs.push_back(request.outputs[i]);
    for (size_t i = 0; i < request.num_parameters; ++i) parameters[request.parameters[i].name] = to_json(request.parameters[i]);
    list.push_back({{"r", number},
                    {"slot", number % static_cast<int64_t>(Process::kSlots)},
                    {"id", request.id},
                    {"correlation_id", request.correlation_id},
                    {"correlation_text", request.correlation_text},
                    {"flags", request.flags},
                    {"priority", request.priority},
                    {"timeout_us", request.timeout_us},
                    {"inputs", std::move(inputs)},
                    {"outputs", std::move(outputs)},
                    {"parameters", std::move(parameters)}});
  }
  return {{"op", "execute"}, {"requests", std::move(list)}, {"in_size", total}};
}

// Null: the process ended, and the requests are answered.
std::optional<Json> PythonInstance::wait_done(const tkb_request* const* requests, size_t count) {
  const auto start = Clock::now();
  auto unwanted_since = Clock::time_point::max();
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, std::chrono::milliseconds(100), [this] { return is_dead_ || done_; })) {
    const auto now = Clock::now();
    if (model_.execution_timeout_ms > 0 && now - start > std::chrono::milliseconds(model_.execution_timeout_ms))
      kill_reason_ = fmt::format("execute() took longer than {} ms (parameter execution_timeout_ms); its process was ended",
                                 model_.execution_timeout_ms);
    // A request whose final response came no longer counts; without any left the client waits for nothing.
    bool is_wanted = false;
    for (const auto& [number, request] : pending_)
      for (size_t i = 0; i < count; ++i) is_wanted |= request == requests[i] && !server_.is_cancelled(request);
    if (is_wanted || model_.is_decoupled) unwanted_since = Clock::time_point::max();
    else if (unwanted_since == Clock::time_point::max()) unwanted_since = now;
    else if (now - unwanted_since > std::chrono::milliseconds(model_.cancel_grace_ms))
      kill_reason_ = "all requests of execute() were cancelled, and it went on; its process was ended";
    if (kill_reason_.empty()) continue;
    lock.unlock();
    process_->kill();
    lock.lock();
    changed_.wait(lock, [this] { return is_dead_; });
  }
  return is_dead_ ? std::nullopt : std::move(done_);
}

void PythonInstance::execute(const tkb_request* const* requests, size_t count) {
  bool is_dead = false;
  {
    const std::lock_guard lock(mutex_);
    is_dead = is_dead_;
  }
  if (is_dead) {
    server_.log(1, fmt::format("model '{}': its Python process is started again", model_.name).c_str());
    start();
  }
  const Json message = write_inputs(requests, count);
  std::byte* flags = process_->flags.map(Process::kSlots, false);
  const int64_t first = next_number_;
  {
    const std::lock_guard lock(mutex_);
    done_.reset();
    for (size_t i = 0; i < count; ++i) pending_[first + static_cast<int64_t>(i)] = requests[i];
  }
  next_number_ += static_cast<int64_t>(count);
  for (size_t i = 0; i < count; ++i) {
    std::byte* flag = flags + (first + static_cast<int64_t>(i)) % static_cast<int64_t>(Process::kSlots);
    *flag = std::byte{0};
    server_.on_cancel(
        requests[i], [](void* context) { *static_cast<std::byte*>(context) = std::byte{1}; }, flag);
  }
  const int64_t start = now_ns();
  if (!model_.is_decoupled) server_.report_compute(requests, count, start, start);  // also if it never comes back
  try {
    process_->send(message);
  } catch (const Error&) {  // the reader sees it as well, and answers
  }
  const std::optional<Json> done = wait_done(requests, count);
  if (!done) return;
  if (!model_.is_decoupled) server_.report_compute(requests, count, start, now_ns());
  if (done->contains("error")) {
    const std::string text = done->at("error");
    for (size_t i = 0; i < count; ++i)
      if (const tkb_request* request = take(first + static_cast<int64_t>(i), true))
        respond_error(server_, *request, ErrorCode::Internal, text);
    return;
  }
  for (const size_t i : done->at("rescheduled"))
    if (const tkb_request* request = i < count ? take(first + static_cast<int64_t>(i), true) : nullptr) reschedule(*request);
  const Json& responses = done->at("responses");
  if (responses.empty()) return;
  const size_t size = done->at("out_size");
  const std::byte* memory = process_->outputs.map(size, false);
  for (size_t i = 0; i < count; ++i)
    if (const tkb_request* request = take(first + static_cast<int64_t>(i), true)) respond(*request, responses.at(i), memory, size, true);
}

}  // namespace tokamak::backends::python
