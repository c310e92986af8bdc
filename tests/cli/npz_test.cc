#include "cli/npz.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <fstream>

#include "base/file.h"

namespace tokamak::cli {
namespace {

std::string npy(const std::string& descr, const std::string& shape, const std::string& data, bool fortran = false, int version = 1) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': " + (fortran ? "True" : "False") + ", 'shape': " + shape + ", }\n";
  std::string out = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  const uint32_t size = static_cast<uint32_t>(header.size());
  out.append(reinterpret_cast<const char*>(&size), version == 1 ? 2 : 4);
  return out + header + data;
}

template <class T>
std::string raw(std::vector<T> values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

Tensor read(const std::string& text) { return read_npy(std::as_bytes(std::span(text)), "test"); }

TEST(CliNpy, TypesOrdersVersions) {
  const Tensor f = read(npy("<f4", "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6})));
  EXPECT_EQ(f.shape(), (Shape{2, 3}));
  EXPECT_EQ(f.float_at(5), 6);
  const Tensor t = read(npy("<i8", "(2, 3)", raw<int64_t>({1, 4, 2, 5, 3, 6}), true, 2));
  EXPECT_EQ(t.to_ints(), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(read(npy("|b1", "(2,)", std::string("\1\0", 2))).int_at(0), 1);
  EXPECT_EQ(read(npy("<f2", "()", raw<uint16_t>({0x3c00}))).float_at(0), 1.0);
  EXPECT_EQ(read(npy("|V2", "(1,)", raw<uint16_t>({0x3f80}))).dtype(), DType::BF16);
  EXPECT_EQ(read(npy("<f4", "(0, 3)", "")).count(), 0);
  const Tensor s = read(npy("<U2", "(2,)", raw<uint32_t>({'a', 0, 0xe9, 'z'}), false, 3));
  EXPECT_EQ(s.strings()[0], "a");
  EXPECT_EQ(s.strings()[1], "\xc3\xa9z");
}

TEST(CliNpy, BadFilesAreErrors) {
  const std::string good = npy("<f4", "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6}));
  for (size_t cut = 0; cut < good.size(); ++cut) EXPECT_THROW(read(good.substr(0, cut)), Error) << cut;
  EXPECT_THROW(read(npy("|O", "(1,)", "12345678")), Error);
  EXPECT_THROW(read(npy(">f4", "(1,)", "1234")), Error);
  EXPECT_THROW(read(npy("<f4", "(-1,)", "1234")), Error);
  EXPECT_THROW(read(npy("<f4", "(9999999999, 9999999999)", "1234")), Error);
  EXPECT_THROW(read(npy("<f9", "(1,)", "123456789")), Error);
}

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

// A zip archive of one member.
std::string zip(const std::string& name, const std::string& content, bool deflated) {
  std::string packed = content;
  if (deflated) {
    packed.resize(compressBound(content.size()) + 64);
    z_stream z{};
    EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
    z.avail_in = static_cast<uInt>(content.size());
    z.next_out = reinterpret_cast<Bytef*>(packed.data());
    z.avail_out = static_cast<uInt>(packed.size());
    EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
    packed.resize(z.total_out);
    deflateEnd(&z);
  }
  const uint32_t crc = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(content.data()), static_cast<uInt>(content.size())));
  const auto common = [&](std::string& out) {
    put<uint16_t>(out, 20), put<uint16_t>(out, 0), put<uint16_t>(out, deflated ? 8 : 0), put<uint32_t>(out, 0), put<uint32_t>(out, crc);
    put<uint32_t>(out, static_cast<uint32_t>(packed.size())), put<uint32_t>(out, static_cast<uint32_t>(content.size()));
    put<uint16_t>(out, static_cast<uint16_t>(name.size())), put<uint16_t>(out, 0);
  };
  std::string out;
  put<uint32_t>(out, 0x04034b50);
  common(out);
  out += name + packed;
  const uint32_t directory = static_cast<uint32_t>(out.size());
  put<uint32_t>(out, 0x02014b50);
  put<uint16_t>(out, 20);
  common(out);
  out.append(10, '\0');
  put<uint32_t>(out, 0);
  out += name;
  const uint32_t size = static_cast<uint32_t>(out.size()) - directory;
  put<uint32_t>(out, 0x06054b50);
  put<uint32_t>(out, 0), put<uint16_t>(out, 1), put<uint16_t>(out, 1), put<uint32_t>(out, size), put<uint32_t>(out, directory),
      put<uint16_t>(out, 0);
  return out;
}

TEST(CliNpz, StoredAndDeflated) {
  const std::string path = testing::TempDir() + "cli_npz_test.npz";
  const std::string array = npy("<f4", "(1000,)", raw(std::vector<float>(1000, 2.5f)));
  for (const bool deflated : {false, true}) {
    write_file_atomic(path, std::string_view(zip("in:x.npy", array, deflated)));
    const auto arrays = read_npz(path);
    ASSERT_EQ(arrays.size(), 1u);
    EXPECT_EQ(arrays[0].first, "in:x");
    EXPECT_EQ(arrays[0].second.float_at(999), 2.5);
  }
}

TEST(CliNpz, EveryCutAndEveryChangedByteIsAnErrorOrHarmless) {
  const std::string path = testing::TempDir() + "cli_npz_bad.npz";
  for (const bool deflated : {false, true}) {
    const std::string good = zip("x.npy", npy("<f4", "(4,)", raw<float>({1, 2, 3, 4})), deflated);
    for (size_t cut = 0; cut < good.size(); cut += 3) {
      std::ofstream(path, std::ios::binary) << good.substr(0, cut);
      EXPECT_THROW(read_npz(path), Error) << cut;
    }
    for (size_t i = 0; i < good.size(); ++i) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 0x55);
      std::ofstream(path, std::ios::binary) << bad;
      try {
        for (const auto& [name, tensor] : read_npz(path)) EXPECT_EQ(tensor.float_at(3), 4) << i;  // the checksum guards contents
      } catch (const Error&) {
      }
    }
  }
}

}  // namespace
}  // namespace tokamak::cli
