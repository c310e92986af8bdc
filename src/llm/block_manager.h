#pragma once
// Paged KV cache: who holds which block, and which full blocks can be found again by their contents (prefix cache). Numbers only, no
// memory of a cache. Every operation on one block is O(1) and none allocates after construction, but the tables' own growth.
//
// A full block whose keys and values are computed can be registered: it is then found by (the block before it, its tokens). The index is a
// hash table over chained XXH3 hashes (hash of the previous block's hash and the tokens); a hit is verified, parent and tokens, so a
// collision cannot serve another prompt's cache. When two sequences compute the same block, the second is dropped for the first, so one
// content has one block. Blocks nobody references stay findable until they are needed: least recently used first, the end of a sequence
// before its beginning, hence never a parent before its children. One thread at a time.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tokamak::llm {

// The blocks of one sequence, in order.
struct BlockTable {
  std::vector<int32_t> blocks;
  int num_registered = 0;  // leading blocks that are in the prefix cache
};

class BlockManager {
 public:
  // Throws InvalidArgument unless both are positive.
  BlockManager(int num_blocks, int block_size, bool prefix_cache);

  int num_blocks() const { return static_cast<int>(blocks_.size()); }
  int block_size() const { return block_size_; }
  int num_free() const { return num_free_; }  // referenced by nobody; cached ones included
  int num_used() const { return num_blocks() - num_free_; }
  int blocks_for(int64_t num_tokens) const { return static_cast<int>((num_tokens + block_size_ - 1) / block_size_); }
  int ref_count(int block) const { return blocks_[block].ref_count; }

  // How many leading blocks of `tokens` are cached, and how many of those nobody references; takes nothing.
  struct Match {
    int num_blocks = 0;
    int num_unreferenced = 0;
  };
  Match find_prefix(std::span<const int32_t> tokens) const;
  // Fills an empty table with the cached leading blocks of `tokens`, at most `max_blocks`; returns the tokens they hold.
  int take_prefix(std::span<const int32_t> tokens, int max_blocks, BlockTable& table);

  // Blocks that grow() would take.
  int blocks_needed(const BlockTable& table, int64_t num_tokens) const;
  // Makes room for `num_tokens` tokens. False, and nothing taken, when there are not enough blocks.
  bool grow(BlockTable& table, int64_t num_tokens);
  // Drops the blocks past `num_tokens` tokens.
  void trim(BlockTable& table, int64_t num_tokens);
  void release(BlockTable& table);

  // Another table over the same blocks.
  BlockTable fork(const BlockTable& table);
  // Whether writing at `position` would write into a block that another table holds too.
  bool is_shared(const BlockTable& table, int64_t position) const;
  struct Copy {
    int32_t src, dst;
  };
  // Gives the table a block of its own at `position`; the caller copies the contents before anything else is written. Nullopt when no block
  // is free.
  std::optional<Copy> make_writable(BlockTable& table, int64_t position);

  // The first `num_computed` of `tokens` are in the cache: registers the full blocks that are not yet. May replace blocks of the table by
  // equal ones that were registered earlier.
  void register_full(BlockTable& table, std::span<const int32_t> tokens, int64_t num_computed);

  // Throws Error(Internal) when counts, lists and index disagree. For tests.
  void check() const;

 private:
  struct Block {
    int ref_count = 0;
    bool registered = false;
    int32_t parent = -1;           // block before it, when registered
    int32_t prev = -1, next = -1;  // in the free list
    int32_t next_in_bucket = -1;   // in the index
    uint64_t hash = 0;
  };

  std::span<const int32_t> tokens_of(int block) const {
    return {tokens_.data() + int64_t{block} * block_size_, static_cast<size_t>(block_size_)};
  }
  int32_t lookup(uint64_t hash, int32_t parent, std::span<const int32_t> tokens) const;
  void add_to_index(int32_t block);
  void remove_from_index(int32_t block);
  void acquire(int32_t block);
  int32_t allocate();
  void drop(int32_t block);
  void unlink(int32_t block);

  int block_size_;
  bool prefix_cache_;
  std::vector<Block> blocks_;
  std::vector<int32_t> tokens_;    // [num_blocks, block_size] contents of registered blocks
  std::vector<int32_t> buckets_;   // first block of each chain
  int32_t head_ = -1, tail_ = -1;  // free list; taken from the head
  int num_free_ = 0;
};

}  // namespace tokamak::llm
