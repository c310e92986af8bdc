#include "engine/engine_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>
#include <unordered_map>

#include "backends/cpu/cpu_features.h"
#include "backends/cpu/thread_pool.h"
#include "base/file.h"
#include "engine/code_section.h"
#include "engine/info_text.h"
#include "ir/op.h"
#include "ir/text.h"

namespace tokamak::engine {
namespace {

constexpr char kMagic[8] = {'T', 'O', 'K', 'A', 'M', 'A', 'K', '\n'};
constexpr int64_t kAlign = 64, kChunk = int64_t{4} << 20;
enum Kind : uint32_t { kInfo = 1, kReport, kGraph, kTable, kConstants, kCode };
constexpr const char* kNames[] = {"info", "report", "graph", "table", "constants", "code"};
constexpr uint32_t kMaxSections = 6;

struct Header {
  char magic[8];
  uint32_t version, num_sections;
  uint64_t file_size;
  uint64_t hash;
};
struct Section {
  uint32_t kind, zero;
  uint64_t offset, size, hash;
};
struct Entry {
  uint64_t offset, size;
};
static_assert(sizeof(Header) == 32 && sizeof(Section) == 32);

int64_t padded(int64_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

// Engines for the CPU are of version 1, so that older versions of Tokamak read them; a code section makes it version 2.
uint32_t num_sections_of(uint32_t version) { return version == 1 ? 5 : 6; }
int64_t first_section(uint32_t num_sections) { return padded(static_cast<int64_t>(sizeof(Header) + num_sections * sizeof(Section))); }

uint64_t hash_chunks(const std::byte* data, int64_t size, int threads) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
  if (chunks <= 1) return XXH3_64bits(data, static_cast<size_t>(size));
  std::vector<uint64_t> hashes(chunks);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t c; (c = next.fetch_add(1)) < chunks;)
      hashes[c] = XXH3_64bits(data + c * kChunk, static_cast<size_t>(std::min(kChunk, size - c * kChunk)));
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < std::min<int64_t>(threads, chunks); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& t : helpers) t.join();
  return XXH3_64bits(hashes.data(), hashes.size() * sizeof(uint64_t));
}

uint64_t header_hash(const std::byte* start, uint32_t num_sections) {
  std::vector<std::byte> bytes(start, start + first_section(num_sections));
  std::memset(bytes.data() + offsetof(Header, hash), 0, sizeof(uint64_t));
  return XXH3_64bits(bytes.data(), bytes.size());
}

// Weights of products that a kernel was chosen for, which checks layout and size (KernelDef::reads_layout).
bool may_be_packed(const ir::Use& use) {
  if (use.index == 2 && use.node->is("quantized_matmul")) return !use.node->kernel.empty();
  return use.index == 1 && !use.node->kernel.empty() &&
         (use.node->is("matmul") || use.node->is("matmul_integer") || use.node->is("quantized_matmul") || use.node->is("conv") ||
          use.node->is("conv_transpose"));
}

// A packed constant goes nowhere else: not out of a graph, through a view, into a subgraph, or to an operator whose shape inference reads
// contents, where it would pass for a dense tensor.
const ir::Value* escaped_packed_constant(const ir::Graph& graph) {
  const ir::Value* found = nullptr;
  ir::for_each_graph(graph, [&](const ir::Graph& g) {
    for (const ir::Value* v : g.outputs())
      if (!v->constant.layout().empty()) found = v;
    for (const ir::Value* v : g.constants()) {
      if (v->constant.layout().empty()) continue;
      for (const ir::Use& use : v->uses())
        if (!may_be_packed(use)) found = v;
    }
  });
  return found;
}

bool stored_in_table(const ir::Value& v) {
  return v.constant.dtype() != DType::String && (v.constant.count() > 16 || !v.constant.layout().empty());
}

}  // namespace

void write(const std::string& path, const ir::Graph& graph, const EngineInfo& info, const cuda::CodeCache* code) {
  // Equal constants (same storage) are stored once.
  std::vector<const Tensor*> tensors;
  std::unordered_map<const void*, int64_t> by_storage;
  ir::PrintOptions options;
  options.constant_entry = [&](const ir::Value& v) -> int64_t {
    if (!stored_in_table(v)) return -1;
    const auto [found, fresh] = by_storage.emplace(v.constant.raw(), static_cast<int64_t>(tensors.size()));
    if (!fresh && tensors[found->second]->size_bytes() == v.constant.size_bytes()) return found->second;
    tensors.push_back(&v.constant);
    return static_cast<int64_t>(tensors.size()) - 1;
  };
  std::string graph_text = ir::print(graph, options);
  std::string info_text = to_text(info), report = info.report;
  std::vector<Entry> table;
  int64_t constants_size = 0;
  for (const Tensor* t : tensors) {
    table.push_back({static_cast<uint64_t>(constants_size), static_cast<uint64_t>(t->size_bytes())});
    constants_size += padded(t->size_bytes());
  }
  std::string constants(static_cast<size_t>(constants_size), '\0');
  for (size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i]->size_bytes() > 0)
      std::memcpy(constants.data() + table[i].offset, tensors[i]->raw(), static_cast<size_t>(tensors[i]->size_bytes()));
  std::string table_text(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(Entry));

  // Text sections are padded with newlines and blanks so that they stay text; binary ones with zeros.
  const auto pad = [](std::string& s, char with) { s.resize(static_cast<size_t>(padded(static_cast<int64_t>(s.size()))), with); };
  pad(info_text, '\n');
  pad(report, ' ');
  pad(graph_text, '\n');
  pad(table_text, '\0');
  std::string code_bytes;
  std::vector<const std::string*> parts = {&info_text, &report, &graph_text, &table_text, &constants};  // in the order of Kind
  if (code != nullptr) {
    code_bytes = to_bytes(*code);
    parts.push_back(&code_bytes);
  }
  const auto num_sections = static_cast<uint32_t>(parts.size());
  std::string head(static_cast<size_t>(first_section(num_sections)), '\0');
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = code ? 2 : 1;
  header.num_sections = num_sections;
  int64_t offset = first_section(num_sections);
  for (uint32_t i = 0; i < num_sections; ++i) {
    const std::string& bytes = *parts[i];
    const Section section{
        i + 1, 0, static_cast<uint64_t>(offset), bytes.size(),
        hash_chunks(reinterpret_cast<const std::byte*>(bytes.data()), static_cast<int64_t>(bytes.size()), available_threads())};
    std::memcpy(head.data() + sizeof(Header) + i * sizeof(Section), &section, sizeof(section));
    offset += static_cast<int64_t>(bytes.size());
  }
  header.file_size = static_cast<uint64_t>(offset);
  std::memcpy(head.data(), &header, sizeof(header));
  header.hash = header_hash(reinterpret_cast<const std::byte*>(head.data()), num_sections);
  std::memcpy(head.data(), &header, sizeof(header));

  std::vector<std::span<const std::byte>> pieces;
  parts.insert(parts.begin(), &head);
  for (const std::string* text : parts) pieces.emplace_back(reinterpret_cast<const std::byte*>(text->data()), text->size());
  write_file_atomic(path, pieces);
}

bool is_engine_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[sizeof(kMagic)] = {};
  return file.read(magic, sizeof(magic)) && std::memcmp(magic, kMagic, sizeof(magic)) == 0;
}

Contents read(const std::string& path) {
  const auto file = MappedFile::open(path);
  return read(file->bytes(), file, path);
}

Contents read(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, const std::string& what) {
  const auto corrupt = [&](const std::string& reason) {
    fail(ErrorCode::Corrupt, "{}: {}; build the engine again from its model", what, reason);
  };
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0)
    fail(ErrorCode::Corrupt, "{}: not a Tokamak engine (the file does not start with TOKAMAK)", what);
  if (bytes.size() < sizeof(Header)) corrupt(fmt::format("truncated: {} bytes, the header alone has more", bytes.size()));
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version > kFormatVersion)
    fail(ErrorCode::Unsupported,
         "{}: engine format {} is newer than this version of Tokamak reads ({}); update Tokamak, or build the engine again", what,
         header.version, kFormatVersion);
  const uint32_t num_sections = num_sections_of(header.version);
  if (header.version == 0 || header.num_sections != num_sections) corrupt("the header is altered");
  if (bytes.size() < static_cast<size_t>(first_section(num_sections)))
    corrupt(fmt::format("truncated: {} bytes, the header alone has {}", bytes.size(), first_section(num_sections)));
  if (header.file_size != bytes.size())
    corrupt(fmt::format("truncated or extended: {} bytes, the header says {}", bytes.size(), header.file_size));
  if (header.hash != header_hash(bytes.data(), num_sections)) corrupt("the header's checksum does not match");
  Section sections[kMaxSections];
  std::memcpy(sections, bytes.data() + sizeof(Header), num_sections * sizeof(Section));
  uint64_t expected = static_cast<uint64_t>(first_section(num_sections));
  for (uint32_t i = 0; i < num_sections; ++i) {
    const Section& s = sections[i];
    if (s.kind != i + 1 || s.offset != expected || s.size > bytes.size() - s.offset || s.size % kAlign != 0)
      corrupt(fmt::format("section {} is misplaced", i));
    expected += s.size;
    if (s.hash != hash_chunks(bytes.data() + s.offset, static_cast<int64_t>(s.size), available_threads()))
      corrupt(fmt::format("the checksum of the {} section does not match: the file was altered or damaged", kNames[i]));
  }
  if (expected != bytes.size()) corrupt("bytes after the last section");

  // From here on the bytes are what a writer wrote, but not necessarily ours: nothing is trusted.
  const auto text_of = [&](Kind kind) {
    const Section& s = sections[kind - 1];
    return std::string_view(reinterpret_cast<const char*>(bytes.data()) + s.offset, s.size);
  };
  Contents contents;
  contents.info = info_from_text(text_of(kInfo), what);
  contents.info.report = std::string(text_of(kReport).substr(0, text_of(kReport).find_last_not_of(' ') + 1));
  const bool is_cuda = contents.info.device == "cuda";
  if (is_cuda != (num_sections == kMaxSections)) corrupt("an engine for a GPU has a code section, others have none");
  if (is_cuda) contents.code = code_from_bytes(bytes.subspan(sections[kCode - 1].offset, sections[kCode - 1].size), what);
  else if (!cpu_features().covers(CpuFeatures::parse(contents.info.target)))
    fail(ErrorCode::Unsupported, "{}: built for a CPU with {}, this one ({}) has {}; build the engine again on this machine", what,
         contents.info.target, cpu_model_name(), cpu_features().to_string());
  const Section &table = sections[kTable - 1], &constants = sections[kConstants - 1];
  ir::ParseOptions options;
  options.infer = false;
  options.constant = [&](int64_t entry, DType dtype, const Shape& shape, const std::string& layout) {
    if (entry < 0 || static_cast<uint64_t>(entry) >= table.size / sizeof(Entry))
      corrupt(fmt::format("constant {} is not in the table", entry));
    Entry e;
    std::memcpy(&e, bytes.data() + table.offset + static_cast<uint64_t>(entry) * sizeof(Entry), sizeof(e));
    if (e.offset > constants.size || e.size > constants.size - e.offset || e.offset % kAlign != 0)
      corrupt(fmt::format("constant {} lies outside its section", entry));
    if (dtype == DType::String) corrupt(fmt::format("constant {} has text elements", entry));
    const std::byte* data = bytes.data() + constants.offset + e.offset;
    if (!layout.empty()) return Tensor::packed_view(dtype, shape, layout, data, static_cast<int64_t>(e.size), owner);
    if (static_cast<uint64_t>(bytes_of(dtype, num_elements(shape))) != e.size)
      corrupt(fmt::format("constant {} has {} bytes for {}{}", entry, e.size, to_string(dtype), to_string(shape)));
    return Tensor::view(dtype, shape, data, owner);
  };
  contents.graph = ir::parse(text_of(kGraph), options);
  try {
    ir::verify(*contents.graph);
  } catch (const Error& e) {
    corrupt(e.what());
  }
  if (const ir::Value* v = escaped_packed_constant(*contents.graph))
    corrupt(fmt::format("packed constant %{} is used where a dense one belongs", v->name));
  return contents;
}

}  // namespace tokamak::engine
