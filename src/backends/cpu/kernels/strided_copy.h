#pragma once
// Copies a block of elements between two strided views: the one engine of transpose, concat, split, slice, expand and pad.

#include <cstdint>
#include <vector>

namespace tokamak {
class ThreadPool;
}

namespace tokamak::cpu {

class StridedCopy {
 public:
  // Sizes and strides by dim, outermost first; strides in elements, a source stride may be 0 (repeat) or negative, offsets in elements.
  // Elements of 1, 2, 4, 8 or 16 bytes.
  StridedCopy(int64_t element_bytes, std::vector<int64_t> sizes, std::vector<int64_t> source_strides, int64_t source_offset,
              std::vector<int64_t> destination_strides, int64_t destination_offset);

  // Never allocates. Source and destination must not overlap.
  void run(const void* source, void* destination, ThreadPool* pool) const;

  static bool handles(int64_t element_bits) {
    return element_bits == 8 || element_bits == 16 || element_bits == 32 || element_bits == 64 || element_bits == 128;
  }

 private:
  enum class Kind { Runs, Fill, Transpose, Strided };
  void piece(const char* source, char* destination, int64_t row, int64_t rows) const;

  int64_t bytes_;
  Kind kind_ = Kind::Strided;
  bool empty_ = false;
  // Dims merged where possible. The last is the inner loop; for Transpose the one before it is the source's contiguous dim.
  std::vector<int64_t> sizes_, source_, destination_;
  int64_t source_offset_, destination_offset_;
};

std::vector<int64_t> dense_strides(const std::vector<int64_t>& shape);

}  // namespace tokamak::cpu
