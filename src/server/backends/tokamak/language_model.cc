#include "server/backends/tokamak/language_model.h"

#include <nlohmann/json.hpp>

#include "server/backends/support.h"

namespace tokamak::backends {

namespace {

llm::LlmOptions llm_options(const Parameters& p) {
  llm::LlmOptions options;
  options.max_num_seqs = static_cast<int>(p.integer("max_num_seqs", options.max_num_seqs));
  options.max_num_batched_tokens =
      static_cast<int>(p.integer("max_num_batched_tokens", std::max(options.max_num_batched_tokens, options.max_num_seqs)));
  options.max_context_length = static_cast<int>(p.integer("max_context_length", 0));
  options.kv_cache_bytes = p.integer("kv_cache_bytes", 0);
  options.prefix_cache = p.flag("prefix_cache", true);
  options.chunked_prefill = p.flag("chunked_prefill", true);
  options.max_waiting = static_cast<int>(p.integer("max_waiting", 0));
  options.num_threads = static_cast<int>(p.integer("threads", 0));
  return options;
}

// Values of clients that put numbers into strings are numbers too.
nlohmann::json number_of(const std::string& name, const nlohmann::json& value) {
  if (value.is_number()) return value;
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_string()) {
    const nlohmann::json parsed = nlohmann::json::parse(value.get_ref<const std::string&>(), nullptr, false);
    if (parsed.is_number()) return parsed;
  }
  fail(ErrorCode::InvalidArgument, "parameter '{}' is {}, expected a number", name, value.dump());
}

bool flag_of(const std::string& name, const nlohmann::json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value == "true" || value == "True") return true;
  if (value == "false" || value == "False") return false;
  return number_of(name, value).get<double>() != 0;
}

int integer_of(const std::string& name, const nlohmann::json& value) {
  const double number = number_of(name, value).get<double>();
  if (!(number >= -1e9 && number <= 1e9) || number != static_cast<int>(number))
    fail(ErrorCode::InvalidArgument, "parameter '{}' is {}, expected a whole number", name, value.dump());
  return static_cast<int>(number);
}

struct Ask {
  llm::SamplingParams sampling;
  bool is_stream = false, excludes_input = true;
  int priority = 0;
};

std::vector<std::string> strings_of(const std::string& name, const nlohmann::json& value) {
  if (value.is_array() && std::all_of(value.begin(), value.end(), [](const auto& v) { return v.is_string(); })) return value;
  if (!value.is_string())
    fail(ErrorCode::InvalidArgument, "parameter '{}' is {}, expected a string or a list of strings", name, value.dump());
  const std::string& text = value.get_ref<const std::string&>();
  if (text.starts_with('[')) {
    const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
    if (list.is_array()) return strings_of(name, list);
  }
  return {text};
}

void set(Ask& ask, const std::string& name, const nlohmann::json& value) {
  llm::SamplingParams& s = ask.sampling;
  const auto number = [&] { return static_cast<float>(number_of(name, value).get<double>()); };
  const auto integer = [&] { return integer_of(name, value); };
  if (name == "stream") ask.is_stream = flag_of(name, value);
  else if (name == "exclude_input_in_output") ask.excludes_input = flag_of(name, value);
  else if (name == "max_tokens") s.max_tokens = integer();
  else if (name == "min_tokens") s.min_tokens = integer();
  else if (name == "temperature") s.temperature = number();
  else if (name == "top_p") s.top_p = number();
  else if (name == "top_k") s.top_k = std::max(0, integer());  // -1 is all, too
  else if (name == "min_p") s.min_p = number();
  else if (name == "n") s.n = integer();
  else if (name == "seed" || name == "random_seed") s.seed = static_cast<uint64_t>(integer());
  else if (name == "stop" || name == "stop_words") s.stop = strings_of(name, value);
  else if (name == "ignore_eos") s.ignore_eos = flag_of(name, value);
  else if (name == "skip_special_tokens") s.skip_special_tokens = flag_of(name, value);
  else if (name == "include_stop_str_in_output") s.include_stop_str_in_output = flag_of(name, value);
  else if (name == "repetition_penalty") s.repetition_penalty = number();
  else if (name == "presence_penalty") s.presence_penalty = number();
  else if (name == "frequency_penalty") s.frequency_penalty = number();
  else if (name == "stop_token_ids") {
    const nlohmann::json list = value.is_string() ? nlohmann::json::parse(value.get_ref<const std::string&>(), nullptr, false) : value;
    if (!list.is_array()) fail(ErrorCode::InvalidArgument, "parameter '{}' is {}, expected a list of token ids", name, value.dump());
    for (const auto& id : list) s.stop_token_ids.push_back(integer_of(name, id));
  } else {
    fail(ErrorCode::InvalidArgument, "parameter '{}' is not one of this model's", name);
  }
}

nlohmann::json to_json(const tkb_parameter& p) {
  switch (p.kind) {
    case TKB_PARAMETER_BOOL: return p.integer != 0;
    case TKB_PARAMETER_INT: return p.integer;
    case TKB_PARAMETER_DOUBLE: return p.number;
    case TKB_PARAMETER_STRING: return p.string;
  }
  return nullptr;
}

std::string first_string(const tkb_tensor& t) {
  if (count_of(t) != 1) fail(ErrorCode::InvalidArgument, "input '{}' must have one element", t.name);
  return {t.strings[0].data, t.strings[0].size};
}

Ask read(const tkb_request& request, std::string& prompt) {
  Ask ask;
  for (size_t i = 0; i < request.num_inputs; ++i) {
    const tkb_tensor& t = request.inputs[i];
    const std::string name = t.name;
    if (name == "text_input") {
      prompt = first_string(t);
    } else if (name == "sampling_parameters") {
      const nlohmann::json all = nlohmann::json::parse(first_string(t), nullptr, false);
      if (!all.is_object()) fail(ErrorCode::InvalidArgument, "sampling_parameters is not a JSON object");
      for (const auto& [key, value] : all.items()) set(ask, key, value);
    } else if (t.dtype == TKB_BOOL && count_of(t) == 1) {
      set(ask, name, *static_cast<const char*>(t.data) != 0);
    }
  }
  for (size_t i = 0; i < request.num_parameters; ++i) set(ask, request.parameters[i].name, to_json(request.parameters[i]));
  if (ask.is_stream && ask.sampling.n != 1)
    fail(ErrorCode::InvalidArgument, "a stream has one answer: n must be 1, not {}", ask.sampling.n);
  return ask;
}

}  // namespace

struct LanguageModel::Generation {
  llm::LlmEngine* engine = nullptr;
  const tkb_request* request = nullptr;  // until the final response
  bool is_stream = false;
  std::vector<std::string> texts;  // of the answers so far; when not streaming
  std::vector<std::string> finish_reasons;
  std::atomic<llm::RequestId> id = 0;  // 0: not submitted yet
  std::atomic<bool> is_cancelled = false;

  static void cancel(void* context) {
    auto* self = static_cast<Generation*>(context);
    self->is_cancelled = true;
    if (self->id != 0) self->engine->cancel(self->id);
  }
};

bool LanguageModel::is_one(const Engine& engine) { return engine.graph().metadata.contains("llm.architecture"); }

LanguageModel::LanguageModel(const tkb_server& server, std::string name, std::shared_ptr<const Engine> engine, const Parameters& parameters)
    : server_(server), llm_(std::move(name), std::move(engine), llm_options(parameters)) {}

LanguageModel::~LanguageModel() = default;

std::string LanguageModel::describe() {
  const auto io = [](const char* name, const char* type, bool is_optional, int64_t dim) {
    return nlohmann::json{{"name", name}, {"data_type", type}, {"shape", {dim}}, {"optional", is_optional}};
  };
  const nlohmann::json json = {{"inputs",
                                {io("text_input", "TYPE_STRING", false, 1), io("stream", "TYPE_BOOL", true, 1),
                                 io("sampling_parameters", "TYPE_STRING", true, 1), io("exclude_input_in_output", "TYPE_BOOL", true, 1)}},
                               {"outputs", {io("text_output", "TYPE_STRING", false, -1)}},
                               {"can_batch", false},
                               {"decoupled", true}};
  return json.dump();
}

void LanguageModel::generate(const tkb_request& request) {
  std::string prompt;
  auto generation = std::make_shared<Generation>();
  llm::Request ask;
  tkb_error* error = guarded(server_, [&] {
    const Ask read_ask = read(request, prompt);
    ask.sampling = read_ask.sampling;
    ask.prompt_ids = llm_.tokenizer().encode(prompt);
    generation->engine = &llm_.engine();
    generation->request = &request;
    generation->is_stream = read_ask.is_stream;
    generation->texts.resize(std::max(1, ask.sampling.n));
    generation->finish_reasons.resize(generation->texts.size());
    if (!read_ask.is_stream && !read_ask.excludes_input) std::fill(generation->texts.begin(), generation->texts.end(), prompt);
    // The registered context lives until the final response: on_event holds it.
    server_.on_cancel(&request, Generation::cancel, generation.get());
    ask.on_event = [this, generation](const llm::Event& event) { on_event(generation, event); };
    generation->id = llm_.engine().submit(std::move(ask));
    if (generation->is_cancelled) llm_.engine().cancel(generation->id);
  });
  if (!error) return;
  const tkb_response response = {.error = error, .is_final = 1};
  server_.respond(&request, &response);
}

void LanguageModel::on_event(const std::shared_ptr<Generation>& generation, const llm::Event& event) {
  if (event.finish_reason == llm::FinishReason::Error || event.finish_reason == llm::FinishReason::Abort) {
    if (!event.is_last) return;
    const bool is_error = event.finish_reason == llm::FinishReason::Error;
    respond_error(server_, *generation->request, is_error ? event.error_code : ErrorCode::Cancelled,
                  is_error                   ? event.error
                  : generation->is_cancelled ? "Request cancelled"
                                             : "the model is being unloaded");
    return;
  }
  if (event.finish_reason != llm::FinishReason::None) generation->finish_reasons[event.index] = to_string(event.finish_reason);
  if (!generation->is_stream) generation->texts[event.index] += event.text;
  if (!event.is_last && (!generation->is_stream || event.text.empty())) return;

  std::vector<tkb_bytes> strings;
  if (generation->is_stream) strings.push_back({event.text.data(), event.text.size()});
  else
    for (const std::string& text : generation->texts) strings.push_back({text.data(), text.size()});
  const int64_t dims[] = {static_cast<int64_t>(strings.size())};
  const tkb_tensor output = {.name = "text_output", .dtype = TKB_BYTES, .rank = 1, .dims = dims, .strings = strings.data()};
  std::string reason;
  for (const std::string& r : generation->finish_reasons) reason += (reason.empty() ? "" : ",") + r;
  const tkb_parameter parameters[] = {
      {.name = "finish_reason", .kind = TKB_PARAMETER_STRING, .string = reason.c_str()},
      {.name = "prompt_tokens", .kind = TKB_PARAMETER_INT, .integer = event.usage.prompt_tokens, .string = ""},
      {.name = "completion_tokens", .kind = TKB_PARAMETER_INT, .integer = event.usage.completion_tokens, .string = ""}};
  const tkb_response response = {.outputs = &output,
                                 .num_outputs = 1,
                                 .parameters = parameters,
                                 .num_parameters = event.is_last ? std::size(parameters) : 0,
                                 .is_final = event.is_last};
  server_.respond(generation->request, &response);
}

}  // namespace tokamak::backends
