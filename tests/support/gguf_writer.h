#pragma once
// Writes GGUF files for tests: as little as a reader can be asked to read.

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace tokamak::testing {

class GgufWriter {
 public:
  uint32_t version = 3;

  void integer(const std::string& key, uint32_t value) { begin(key, 4), number(values_, value); }
  void real(const std::string& key, float value) { begin(key, 6), number(values_, value); }
  void boolean(const std::string& key, bool value) { begin(key, 7), number(values_, static_cast<uint8_t>(value)); }
  void text(const std::string& key, const std::string& value) { begin(key, 8), string(values_, value); }
  void texts(const std::string& key, const std::vector<std::string>& list) {
    begin(key, 9), number(values_, uint32_t{8}), number(values_, uint64_t{list.size()});
    for (const std::string& s : list) string(values_, s);
  }
  void integers(const std::string& key, const std::vector<int32_t>& list) {
    begin(key, 9), number(values_, uint32_t{5}), number(values_, uint64_t{list.size()});
    for (int32_t v : list) number(values_, v);
  }
  void reals(const std::string& key, const std::vector<float>& list) {
    begin(key, 9), number(values_, uint32_t{6}), number(values_, uint64_t{list.size()});
    for (float v : list) number(values_, v);
  }
  void tensor(const std::string& name, const Shape& shape, uint32_t type, const void* bytes, size_t size) {
    data_.resize((data_.size() + 31) / 32 * 32);
    raw_tensor(name, shape, type, data_.size());
    data_.append(static_cast<const char*>(bytes), size);
  }
  void tensor(const std::string& name, const Tensor& t) {
    tensor(name, t.shape(), t.dtype() == DType::F32 ? 0 : t.dtype() == DType::F16 ? 1 : 30, t.raw(), t.size_bytes());
  }
  // Only an entry, with an offset of the caller's.
  void raw_tensor(const std::string& name, const Shape& shape, uint32_t type, uint64_t offset) {
    string(infos_, name), number(infos_, static_cast<uint32_t>(shape.size()));
    for (size_t d = shape.size(); d-- > 0;) number(infos_, static_cast<uint64_t>(shape[d]));
    number(infos_, type), number(infos_, offset);
    ++num_tensors_;
  }

  std::string file() const {
    std::string out = "GGUF";
    number(out, version), number(out, num_tensors_), number(out, num_values_);
    out += values_ + infos_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

 private:
  template <class T>
  static void number(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static void string(std::string& to, const std::string& value) { number(to, uint64_t{value.size()}), to += value; }
  void begin(const std::string& key, uint32_t type) { string(values_, key), number(values_, type), ++num_values_; }
  std::string values_, infos_, data_;
  uint64_t num_tensors_ = 0, num_values_ = 0;
};

}  // namespace tokamak::testing
