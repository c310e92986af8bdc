#include "backends/cuda/code_folder.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace tokamak::cuda {

CodeFolder::CodeFolder(std::string path, std::string compiler) : path_(std::move(path)), compiler_(std::move(compiler)) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error) fail(ErrorCode::InvalidArgument, "TOKAMAK_CUDA_CODE_CACHE: the folder \"{}\" cannot be made: {}", path_, error.message());
}

const CodeFolder* CodeFolder::of_environment(const std::string& compiler) {
  static const auto folder = [&]() -> std::unique_ptr<const CodeFolder> {
    const char* path = std::getenv("TOKAMAK_CUDA_CODE_CACHE");
    return path == nullptr || *path == '\0' ? nullptr : std::make_unique<const CodeFolder>(path, compiler);
  }();
  return folder.get();
}

std::shared_ptr<const std::vector<char>> CodeFolder::find(const std::string& key) const {
  std::ifstream file(file_of(key), std::ios::binary);
  if (!file) return nullptr;
  std::vector<char> cubin{std::istreambuf_iterator<char>(file), {}};
  const bool is_elf = cubin.size() > 64 && std::string(cubin.data(), 4) == "\177ELF";
  return is_elf ? std::make_shared<const std::vector<char>>(std::move(cubin)) : nullptr;
}

void CodeFolder::store(const std::string& key, const std::vector<char>& cubin) const {
  static std::atomic<int> count;
  const std::string whole = file_of(key), part = whole + "." + std::to_string(getpid()) + "." + std::to_string(count++);
  std::ofstream file(part, std::ios::binary);
  file.write(cubin.data(), static_cast<std::streamsize>(cubin.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(part, whole, error);
  if (file && !error) return;
  std::filesystem::remove(part, error);
  fail(ErrorCode::InvalidArgument, "TOKAMAK_CUDA_CODE_CACHE: \"{}\" cannot be written; is the folder writable, is the disk full?", whole);
}

}  // namespace tokamak::cuda
