#define XXH_INLINE_ALL
#include "server/response_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "model_config.pb.h"
#include "server/dynamic_batcher.h"
#include "server/log.h"

namespace tokamak::server {

namespace {

// Length-prefixed, so that no two requests read alike.
class Digest {
 public:
  explicit Digest(uint64_t seed) { XXH3_128bits_reset_withSeed(&state_, seed); }
  void bytes(const void* data, size_t size) {
    if (size > 0) XXH3_128bits_update(&state_, data, size);
  }
  void number(uint64_t value) { bytes(&value, sizeof value); }
  void text(std::string_view value) {
    number(value.size());
    bytes(value.data(), value.size());
  }
  void parameter(const Parameter& value) {
    number(value.index());
    std::visit(
        [this](const auto& v) {
          if constexpr (std::is_same_v<std::decay_t<decltype(v)>, std::string>) text(v);
          else bytes(&v, sizeof v);
        },
        value);
  }
  void tensor(const Tensor& value) {
    number(static_cast<uint64_t>(value.dtype()));
    number(value.shape().size());
    for (const int64_t dim : value.shape()) number(static_cast<uint64_t>(dim));
    if (value.dtype() == DType::String) {
      for (const std::string& s : value.strings()) text(s);
    } else {
      bytes(value.raw(), static_cast<size_t>(value.size_bytes()));
    }
  }
  ResponseCache::Key key() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_);
    return {hash.low64, hash.high64};
  }

 private:
  XXH3_state_t state_ = {};
};

// In the order of names: clients may list the same in any order.
template <class T>
std::vector<const T*> by_name(const std::vector<T>& items) {
  std::vector<const T*> sorted;
  for (const T& item : items) sorted.push_back(&item);
  std::stable_sort(sorted.begin(), sorted.end(), [](const T* a, const T* b) { return a->name < b->name; });
  return sorted;
}

int64_t size_of(const ResponseCache::Answer& answer) {
  int64_t size = 512;  // what is kept beside the tensors, about
  for (const NamedTensor& output : answer.outputs) {
    size += static_cast<int64_t>(sizeof output + output.name.size()) + output.tensor.size_bytes();
    if (output.tensor.dtype() == DType::String)
      for (const std::string& s : output.tensor.strings()) size += static_cast<int64_t>(sizeof s + s.size());
  }
  for (const auto& [name, value] : answer.parameters) {
    size += static_cast<int64_t>(sizeof value + name.size());
    if (const auto* text = std::get_if<std::string>(&value)) size += static_cast<int64_t>(text->size());
  }
  return size;
}

std::atomic<uint64_t> last_model_id = 0;

uint64_t random_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

ResponseCache::ResponseCache(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes), seed_(random_seed()) {
  if (capacity_bytes <= 0)
    fail(ErrorCode::InvalidArgument, "the response cache needs a size above 0, not {}: --cache-config local,size=BYTES", capacity_bytes);
}

ResponseCache::Key ResponseCache::key_of(uint64_t owner, const InferRequest& request) const {
  Digest digest(seed_);
  digest.number(owner);
  digest.number(request.inputs.size());
  for (const NamedTensor* input : by_name(request.inputs)) {
    digest.text(input->name);
    digest.tensor(input->tensor);
  }
  digest.number(request.outputs.size());
  for (const RequestedOutput* output : by_name(request.outputs)) {
    digest.text(output->name);
    digest.number(static_cast<uint64_t>(output->classification));
  }
  for (const auto& [name, value] : request.parameters) {
    digest.text(name);
    digest.parameter(value);
  }
  return digest.key();
}

std::shared_ptr<const ResponseCache::Answer> ResponseCache::find(const Key& key) {
  const int64_t start = steady_now_ns();
  const std::lock_guard lock(mutex_);
  ++totals_.num_lookups;
  std::shared_ptr<const Answer> answer;
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    ++totals_.num_hits;
    entries_.splice(entries_.begin(), entries_, found->second);
    answer = found->second->answer;
  }
  totals_.lookup_ns += steady_now_ns() - start;
  return answer;
}

bool ResponseCache::insert(const Key& key, uint64_t owner, const Answer& answer) {
  const int64_t start = steady_now_ns();
  const int64_t size = size_of(answer);
  if (size > capacity_bytes_) return false;
  auto copy = std::make_shared<Answer>(answer);
  // An output may be a row of a batch's buffer, which must not stay for it.
  for (NamedTensor& output : copy->outputs) output.tensor = output.tensor.clone();

  const std::lock_guard lock(mutex_);
  if (const auto found = by_key_.find(key); found != by_key_.end()) drop(found->second);  // two have asked at once
  while (totals_.size_bytes + size > capacity_bytes_) {
    drop(std::prev(entries_.end()));
    ++totals_.num_evictions;
  }
  entries_.push_front({key, owner, size, std::move(copy)});
  by_key_[key] = entries_.begin();
  totals_.size_bytes += size;
  totals_.insertion_ns += steady_now_ns() - start;
  return true;
}

void ResponseCache::drop(std::list<Entry>::iterator entry) {
  totals_.size_bytes -= entry->size_bytes;
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

void ResponseCache::remove(uint64_t owner) {
  const std::lock_guard lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->owner == owner) drop(entry);
    entry = next;
  }
}

ResponseCache::Totals ResponseCache::totals() const {
  const std::lock_guard lock(mutex_);
  Totals totals = totals_;
  totals.num_entries = static_cast<int64_t>(entries_.size());
  return totals;
}

std::shared_ptr<ModelCache> ModelCache::create(const inference::ModelConfig& config, int64_t version, std::shared_ptr<ResponseCache> cache,
                                               std::shared_ptr<ModelStatistics> statistics) {
  if (!config.response_cache().enable()) return nullptr;
  if (!cache) {
    log_warning(
        "model '{}' enables the response cache, and this server has none: nothing is cached without --cache-config local,size=BYTES",
        config.name());
    return nullptr;
  }
  return std::shared_ptr<ModelCache>(new ModelCache(config, version, std::move(cache), std::move(statistics)));
}

ModelCache::ModelCache(const inference::ModelConfig& config, int64_t version, std::shared_ptr<ResponseCache> cache,
                       std::shared_ptr<ModelStatistics> statistics)
    : model_name_(config.name()), version_(version), id_(++last_model_id), cache_(std::move(cache)), statistics_(std::move(statistics)) {
  if (config.dynamic_batching().preserve_ordering()) order_ = std::make_shared<ResponseOrder>();
}

ModelCache::~ModelCache() { cache_->remove(id_); }

bool ModelCache::answer(InferRequest& request) {
  const int64_t start = steady_now_ns();
  if (order_) ResponseOrder::add(order_, request);
  const ResponseCache::Key key = cache_->key_of(id_, request);
  const auto known = cache_->find(key);
  const int64_t lookup_ns = steady_now_ns() - start;
  if (!known) {
    request.on_response = [self = shared_from_this(), key, lookup_ns,
                           on_response = std::move(request.on_response)](InferResponse response) {
      self->keep(key, response, lookup_ns);
      on_response(std::move(response));
    };
    return false;
  }
  const int64_t received = request.received_ns > 0 ? request.received_ns : start;
  statistics_->record_cache_hit(lookup_ns, 0, start + lookup_ns - received);
  request.on_response(
      {.model_name = model_name_, .model_version = version_, .id = request.id, .parameters = known->parameters, .outputs = known->outputs});
  return true;
}

void ModelCache::keep(const ResponseCache::Key& key, const InferResponse& response, int64_t lookup_ns) {
  if (response.error_code) return;
  const int64_t start = steady_now_ns();
  const ResponseCache::Answer answer = {response.outputs, response.parameters};
  if (!cache_->insert(key, id_, answer))
    log_verbose(1, "an answer of model '{}' is larger than the response cache ({} bytes) and is not kept", model_name_,
                cache_->capacity_bytes());
  statistics_->record_cache_miss(lookup_ns + steady_now_ns() - start);
}

}  // namespace tokamak::server
