#include "llm/grammar/token_mask.h"

#include <algorithm>

#include "base/error.h"
#include "llm/tokenizer/tokenizer.h"

namespace tokamak::llm {

namespace grammar {

namespace {
constexpr uint32_t kLargeSubtree = 256;  // nodes; for fewer, looking for a shortcut costs more than it saves
}

MaskCache::MaskCache(const Automaton& automaton, const Vocabulary& vocabulary)
    : vocabulary_(vocabulary),
      machine_(automaton),
      num_words_((vocabulary.text.size() + 63) / 64),
      path_(static_cast<size_t>(vocabulary.max_token_bytes) + 1) {}

bool MaskCache::loops(Machine::Config config, uint64_t kinds, bool is_many) {
  const auto index = static_cast<size_t>(config);
  if (index >= loop_kinds_.size() || !(loop_kinds_[index] & kKnown)) {
    if (!is_many) return false;
    uint64_t found = ~uint64_t{0};
    for (int byte = 0; byte < 256; ++byte) {
      if (machine_.step(config, static_cast<uint8_t>(byte)) != config) found &= ~(uint64_t{1} << kind_of_byte(static_cast<uint8_t>(byte)));
    }
    if (index >= loop_kinds_.size()) loop_kinds_.resize(index + 1 + index / 2);
    loop_kinds_[index] = found | kKnown;
  }
  return !(kinds & ~loop_kinds_[index]);
}

void MaskCache::walk(const Trie& trie, uint32_t node, Machine::Config config, Bits& allowed, std::vector<uint32_t>* escapes) {
  const auto allow = [&](uint32_t begin, uint32_t end) {
    for (uint32_t t = trie.token_begin[begin]; t < trie.token_begin[end]; ++t) {
      const int32_t token = trie.tokens[t];
      allowed[token / 64] |= uint64_t{1} << (token % 64);
    }
  };
  path_[trie.depth[node]] = config;
  const uint32_t end = trie.skip[node];
  for (uint32_t i = node + 1; i < end;) {
    const Machine::Config before = path_[trie.depth[i] - 1];
    const Machine::Config next = machine_.step(before, trie.byte[i]);
    if (next == Machine::kDead) {
      i = trie.skip[i];
      continue;
    }
    const uint32_t size = trie.skip[i] - i;
    if (next == before && size > 1 && loops(next, trie.below[i], size >= kLargeSubtree) && !machine_.has_escaped(next)) {
      allow(i, trie.skip[i]);
      i = trie.skip[i];
      continue;
    }
    allow(i, i + 1);
    if (size == 1) {
      ++i;
      continue;
    }
    if (escapes && machine_.has_escaped(next)) escapes->push_back(i);
    path_[trie.depth[i]] = next;
    ++i;
  }
}

const MaskCache::LocalMask& MaskCache::local_mask(Machine::Config local) {
  const auto found = local_masks_.find(local);
  if (found != local_masks_.end()) return found->second;
  LocalMask mask{Bits(num_words_), {}};
  walk(vocabulary_.trie, 0, local, mask.allowed, &mask.escapes);
  mask_bytes_ += num_words_ * 8 + mask.escapes.size() * 4;
  return local_masks_.emplace(local, std::move(mask)).first->second;
}

std::span<const uint64_t> MaskCache::mask(Machine::Config config, bool is_first) {
  if (is_first && !vocabulary_.first_text.empty()) {
    if (first_mask_.empty()) {
      Bits mask(num_words_);
      walk(vocabulary_.first_trie, 0, config, mask, nullptr);
      first_mask_ = std::move(mask);
    }
    return first_mask_;
  }
  const auto known = mask_of_.find(config);
  if (known != mask_of_.end()) return masks_[known->second];
  const std::vector<Machine::Part> parts = machine_.split(config, vocabulary_.max_token_bytes);
  std::vector<int32_t> key;
  for (const Machine::Part& part : parts) key.insert(key.end(), {part.callers, part.local});
  bool is_new = false;
  const int32_t index = part_lists_.intern(key, &is_new);
  if (is_new) masks_.emplace_back();
  if (masks_[index].empty()) {  // or computing it threw
    Bits mask(num_words_);
    for (const Machine::Part& part : parts) {
      const LocalMask& local = local_mask(part.local);
      for (size_t w = 0; w < num_words_; ++w) mask[w] |= local.allowed[w];
      const Machine::Config after = machine_.resume(part.callers);
      if (!machine_.goes_on(after)) continue;
      for (const uint32_t node : local.escapes) walk(vocabulary_.trie, node, after, mask, nullptr);
    }
    masks_[index] = std::move(mask);
    mask_bytes_ += num_words_ * 8;
  }
  mask_of_.emplace(config, index);
  return masks_[index];
}

}  // namespace grammar

namespace {

using grammar::Machine;
using grammar::MaskCache;

constexpr size_t kMaxCacheBytes = size_t{64} << 20;

// What all answers under one mask share.
struct SharedMasks {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const TokenTrie> vocabulary;
  std::mutex mutex;
  std::shared_ptr<MaskCache> cache;  // the newest; answers that have an older one move their state to it

  std::shared_ptr<MaskCache> make_cache() const { return std::make_shared<MaskCache>(*grammar->automaton(), vocabulary->vocabulary()); }
};

class GrammarMask final : public TokenMask {
 public:
  explicit GrammarMask(std::shared_ptr<SharedMasks> shared) : shared_(std::move(shared)) {}

  std::unique_ptr<TokenMask> clone() const override { return std::make_unique<GrammarMask>(*this); }

  void fill(std::span<uint64_t> allowed) override {
    const std::lock_guard lock(shared_->mutex);
    MaskCache& cache = renew();
    const auto& vocabulary = shared_->vocabulary->vocabulary();
    if (!has_ended_) {
      const auto mask = cache.mask(config_, is_first_);
      std::copy_n(mask.begin(), std::min(mask.size(), allowed.size()), allowed.begin());
    }
    if (!has_ended_ && !cache.machine().is_accepting(config_)) return;
    for (const int32_t id : vocabulary.eos_ids) {
      if (static_cast<size_t>(id) / 64 < allowed.size()) allowed[id / 64] |= uint64_t{1} << (id % 64);
    }
  }

  void accept(int32_t token) override {
    const std::lock_guard lock(shared_->mutex);
    MaskCache& cache = renew();
    const auto& vocabulary = shared_->vocabulary->vocabulary();
    const auto& eos = vocabulary.eos_ids;
    if (std::find(eos.begin(), eos.end(), token) != eos.end()) {
      if (!has_ended_ && !cache.machine().is_accepting(config_))
        fail(ErrorCode::InvalidArgument, "token {} ends the answer before the grammar does", token);
      has_ended_ = true;
      return;
    }
    const auto& texts = is_first_ && !vocabulary.first_text.empty() ? vocabulary.first_text : vocabulary.text;
    Machine::Config next = Machine::kDead;
    if (!has_ended_ && token >= 0 && static_cast<size_t>(token) < texts.size() && !texts[token].empty())
      next = cache.machine().run(config_, texts[token]);
    if (next == Machine::kDead) fail(ErrorCode::InvalidArgument, "token {} is not one that the grammar allows here", token);
    config_ = next;
    is_first_ = false;
  }

 private:
  // The cache to use, with config_ in it.
  MaskCache& renew() {
    auto& newest = shared_->cache;
    if (newest->bytes() > kMaxCacheBytes) newest = shared_->make_cache();
    if (!cache_) config_ = newest->machine().initial();
    else if (cache_ != newest) config_ = cache_->machine().move_to(newest->machine(), config_);
    cache_ = newest;
    cache_->start_work();
    return *cache_;
  }

  std::shared_ptr<SharedMasks> shared_;
  std::shared_ptr<MaskCache> cache_;  // null: at the start, in any
  Machine::Config config_ = Machine::kDead;
  bool is_first_ = true, has_ended_ = false;
};

}  // namespace

std::shared_ptr<const TokenMask> make_token_mask(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTrie> vocabulary) {
  auto shared = std::make_shared<SharedMasks>();
  shared->grammar = std::move(grammar);
  shared->vocabulary = std::move(vocabulary);
  shared->cache = shared->make_cache();
  return std::make_shared<const GrammarMask>(std::move(shared));
}

std::shared_ptr<const TokenMask> make_token_mask(std::shared_ptr<const Grammar> grammar, const Tokenizer& tokenizer,
                                                 std::vector<int32_t> eos_ids) {
  return make_token_mask(std::move(grammar), TokenTrie::from_tokenizer(tokenizer, std::move(eos_ids)));
}

}  // namespace tokamak::llm
