#pragma once
// Answers that were given before, kept in memory for requests that ask the same again; --cache-config local,size=BYTES. One for all models
// whose config has response_cache { enable: true }.
//
// A request is known by a 128-bit XXH3 of all that its answer may depend on: the loaded model, names, types, shapes and bytes of the
// inputs, the outputs asked for (with their classification) and the custom parameters. Only the digest is kept: two requests share one by
// chance once in 2^64 answers, and the seed differs from process to process, so that nobody can prepare such a pair.

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "server/request.h"
#include "server/statistics.h"

namespace inference {
class ModelConfig;
}

namespace tokamak::server {

class ResponseOrder;  // dynamic_batcher.h

// Least recently used answers go first. Thread-safe.
class ResponseCache {
 public:
  struct Key {
    uint64_t low = 0, high = 0;
    bool operator==(const Key&) const = default;
  };
  struct Answer {
    std::vector<NamedTensor> outputs;
    Parameters parameters;
  };
  struct Totals {
    int64_t size_bytes = 0, num_entries = 0;
    uint64_t num_lookups = 0, num_hits = 0, num_evictions = 0;
    int64_t lookup_ns = 0, insertion_ns = 0;
  };

  // Throws InvalidArgument unless `capacity_bytes` is above 0. Memory is taken as answers come.
  explicit ResponseCache(int64_t capacity_bytes);

  // Of the request, for the loaded model `owner`.
  Key key_of(uint64_t owner, const InferRequest& request) const;
  // Null when it is not there. The answer's tensors are shared: not to be written to.
  std::shared_ptr<const Answer> find(const Key& key);
  // Keeps a copy, and drops what was not asked for the longest until it fits. False when it is larger than the whole cache: it is left out.
  bool insert(const Key& key, uint64_t owner, const Answer& answer);
  // Drops the answers of a model.
  void remove(uint64_t owner);

  int64_t capacity_bytes() const { return capacity_bytes_; }
  Totals totals() const;

 private:
  struct Entry {
    Key key;
    uint64_t owner = 0;
    int64_t size_bytes = 0;
    std::shared_ptr<const Answer> answer;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const { return key.low; }
  };
  void drop(std::list<Entry>::iterator entry);

  const int64_t capacity_bytes_;
  const uint64_t seed_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // used last first
  std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> by_key_;
  Totals totals_;
};

// The cache as one loaded version of a model sees it; its answers leave the cache with it, so that a model that is loaded again begins
// anew. Thread-safe.
class ModelCache : public std::enable_shared_from_this<ModelCache> {
 public:
  // Null when the config does not ask for it, or when there is no `cache`: the log then warns.
  static std::shared_ptr<ModelCache> create(const inference::ModelConfig& config, int64_t version, std::shared_ptr<ResponseCache> cache,
                                            std::shared_ptr<ModelStatistics> statistics);
  ~ModelCache();
  ModelCache(const ModelCache&) = delete;
  ModelCache& operator=(const ModelCache&) = delete;

  // The head of Model::infer(). True: the request has its answer. False: it goes on, and the answer that it gets will be kept unless that
  // is an error.
  bool answer(InferRequest& request);

 private:
  ModelCache(const inference::ModelConfig& config, int64_t version, std::shared_ptr<ResponseCache> cache,
             std::shared_ptr<ModelStatistics> statistics);
  void keep(const ResponseCache::Key& key, const InferResponse& response, int64_t lookup_ns);

  const std::string model_name_;
  const int64_t version_;
  const uint64_t id_;
  const std::shared_ptr<ResponseCache> cache_;
  const std::shared_ptr<ModelStatistics> statistics_;
  std::shared_ptr<ResponseOrder> order_;  // of a model that preserves it: an answer from here does not overtake others
};

}  // namespace tokamak::server
