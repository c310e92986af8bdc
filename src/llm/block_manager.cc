#define XXH_INLINE_ALL
#include "llm/block_manager.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace tokamak::llm {
namespace {

uint64_t hash_of(uint64_t previous, std::span<const int32_t> tokens) {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), previous);
}

}  // namespace

BlockManager::BlockManager(int num_blocks, int block_size, bool prefix_cache) : block_size_(block_size), prefix_cache_(prefix_cache) {
  if (num_blocks < 1 || block_size < 1)
    fail(ErrorCode::InvalidArgument, "a KV cache of {} blocks of {} tokens: both must be positive", num_blocks, block_size);
  blocks_.resize(num_blocks);
  if (prefix_cache) {
    tokens_.resize(size_t(num_blocks) * block_size);
    buckets_.assign(std::bit_ceil(size_t(num_blocks) * 2), -1);
  }
  for (int32_t b = 0; b < num_blocks; ++b) blocks_[b] = {.prev = b - 1, .next = b + 1 < num_blocks ? b + 1 : -1};
  head_ = 0;
  tail_ = num_blocks - 1;
  num_free_ = num_blocks;
}

int32_t BlockManager::lookup(uint64_t hash, int32_t parent, std::span<const int32_t> tokens) const {
  for (int32_t b = buckets_[hash & (buckets_.size() - 1)]; b >= 0; b = blocks_[b].next_in_bucket)
    if (blocks_[b].hash == hash && blocks_[b].parent == parent && std::ranges::equal(tokens_of(b), tokens)) return b;
  return -1;
}

void BlockManager::add_to_index(int32_t block) {
  int32_t& first = buckets_[blocks_[block].hash & (buckets_.size() - 1)];
  blocks_[block].registered = true;
  blocks_[block].next_in_bucket = first;
  first = block;
}

void BlockManager::remove_from_index(int32_t block) {
  int32_t* link = &buckets_[blocks_[block].hash & (buckets_.size() - 1)];
  while (*link != block) link = &blocks_[*link].next_in_bucket;
  *link = blocks_[block].next_in_bucket;
  blocks_[block].registered = false;
}

void BlockManager::unlink(int32_t block) {
  Block& b = blocks_[block];
  (b.prev >= 0 ? blocks_[b.prev].next : head_) = b.next;
  (b.next >= 0 ? blocks_[b.next].prev : tail_) = b.prev;
  b.prev = b.next = -1;
  --num_free_;
}

void BlockManager::acquire(int32_t block) {
  if (blocks_[block].ref_count++ == 0) unlink(block);
}

int32_t BlockManager::allocate() {
  const int32_t block = head_;
  unlink(block);
  if (blocks_[block].registered) remove_from_index(block);
  blocks_[block].ref_count = 1;
  return block;
}

// Unregistered blocks are worth nothing and go first; registered ones queue behind all that were freed before.
void BlockManager::drop(int32_t block) {
  Block& b = blocks_[block];
  if (--b.ref_count > 0) return;
  if (b.registered) {
    b.prev = tail_;
    (tail_ >= 0 ? blocks_[tail_].next : head_) = block;
    tail_ = block;
  } else {
    b.next = head_;
    (head_ >= 0 ? blocks_[head_].prev : tail_) = block;
    head_ = block;
  }
  ++num_free_;
}

BlockManager::Match BlockManager::find_prefix(std::span<const int32_t> tokens) const {
  Match match;
  if (!prefix_cache_) return match;
  uint64_t hash = 0;
  int32_t parent = -1;
  for (; tokens.size() >= size_t(block_size_); tokens = tokens.subspan(block_size_)) {
    hash = hash_of(hash, tokens.first(block_size_));
    parent = lookup(hash, parent, tokens.first(block_size_));
    if (parent < 0) break;
    ++match.num_blocks;
    match.num_unreferenced += blocks_[parent].ref_count == 0;
  }
  return match;
}

int BlockManager::take_prefix(std::span<const int32_t> tokens, int max_blocks, BlockTable& table) {
  DCHECK(table.blocks.empty());
  if (!prefix_cache_) return 0;
  uint64_t hash = 0;
  int32_t parent = -1;
  for (; tokens.size() >= size_t(block_size_) && table.num_registered < max_blocks; tokens = tokens.subspan(block_size_)) {
    hash = hash_of(hash, tokens.first(block_size_));
    parent = lookup(hash, parent, tokens.first(block_size_));
    if (parent < 0) break;
    acquire(parent);
    table.blocks.push_back(parent);
    ++table.num_registered;
  }
  return table.num_registered * block_size_;
}

int BlockManager::blocks_needed(const BlockTable& table, int64_t num_tokens) const {
  return std::max(0, blocks_for(num_tokens) - static_cast<int>(table.blocks.size()));
}

bool BlockManager::grow(BlockTable& table, int64_t num_tokens) {
  int needed = blocks_needed(table, num_tokens);
  if (needed > num_free_) return false;
  for (; needed > 0; --needed) table.blocks.push_back(allocate());
  return true;
}

void BlockManager::trim(BlockTable& table, int64_t num_tokens) {
  const auto keep = static_cast<size_t>(blocks_for(num_tokens));
  while (table.blocks.size() > keep) {
    drop(table.blocks.back());
    table.blocks.pop_back();
  }
  table.num_registered = std::min(table.num_registered, static_cast<int>(table.blocks.size()));
}

void BlockManager::release(BlockTable& table) { trim(table, 0); }

BlockTable BlockManager::fork(const BlockTable& table) {
  for (int32_t block : table.blocks) acquire(block);
  return table;
}

bool BlockManager::is_shared(const BlockTable& table, int64_t position) const {
  const auto index = static_cast<size_t>(position / block_size_);
  return index < table.blocks.size() && blocks_[table.blocks[index]].ref_count > 1;
}

std::optional<BlockManager::Copy> BlockManager::make_writable(BlockTable& table, int64_t position) {
  if (num_free_ == 0) return std::nullopt;
  int32_t& block = table.blocks[position / block_size_];
  const Copy copy{block, allocate()};
  drop(block);
  block = copy.dst;
  return copy;
}

void BlockManager::register_full(BlockTable& table, std::span<const int32_t> tokens, int64_t num_computed) {
  if (!prefix_cache_) return;
  while (int64_t{table.num_registered + 1} * block_size_ <= num_computed) {
    const int index = table.num_registered;
    int32_t& block = table.blocks[index];
    const int32_t parent = index == 0 ? -1 : table.blocks[index - 1];
    const auto contents = tokens.subspan(size_t(index) * block_size_, block_size_);
    const uint64_t hash = hash_of(index == 0 ? 0 : blocks_[parent].hash, contents);
    if (const int32_t known = lookup(hash, parent, contents); known >= 0 && known != block) {
      acquire(known);
      drop(block);
      block = known;
    } else if (known < 0) {
      std::ranges::copy(contents, tokens_.begin() + int64_t{block} * block_size_);
      blocks_[block].parent = parent;
      blocks_[block].hash = hash;
      add_to_index(block);
    }
    ++table.num_registered;
  }
}

void BlockManager::check() const {
  const auto expect = [](bool ok, const char* what) {
    if (!ok) fail(ErrorCode::Internal, "block manager: {}", what);
  };
  int free = 0;
  int32_t prev = -1;
  std::vector<int> place(blocks_.size(), -1);
  for (int32_t b = head_; b >= 0; prev = b, b = blocks_[b].next) {
    expect(blocks_[b].ref_count == 0, "a referenced block is in the free list");
    expect(blocks_[b].prev == prev, "the free list's links disagree");
    expect(free < num_blocks(), "the free list has a cycle");
    place[b] = free++;
  }
  expect(tail_ == prev && free == num_free_, "the free list's length is wrong");
  int indexed = 0, registered = 0;
  for (const int32_t first : buckets_)
    for (int32_t b = first; b >= 0; b = blocks_[b].next_in_bucket) ++indexed;
  for (int32_t b = 0; b < num_blocks(); ++b) {
    expect(blocks_[b].ref_count >= 0 && (blocks_[b].ref_count == 0) == (place[b] >= 0), "an unreferenced block is not in the free list");
    if (!blocks_[b].registered) continue;
    ++registered;
    const int32_t parent = blocks_[b].parent;
    if (parent < 0) continue;
    expect(blocks_[parent].registered, "a registered block's parent is not registered");
    expect(place[parent] < 0 || (place[b] >= 0 && place[b] < place[parent]), "a parent would be evicted before its child");
  }
  expect(indexed == registered, "the index and the registered blocks differ");
}

}  // namespace tokamak::llm
