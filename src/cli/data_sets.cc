#include "cli/data_sets.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/args.h"
#include "cli/npz.h"
#include "import/onnx/import.h"

namespace tokamak::cli {

namespace fs = std::filesystem;

namespace {

// Folders and files in the order a person expects: case_2 before case_10.
bool natural_less(const fs::path& a, const fs::path& b) {
  const std::string x = a.filename(), y = b.filename();
  if (x.size() != y.size() && x.substr(0, x.find_first_of("0123456789")) == y.substr(0, y.find_first_of("0123456789")))
    return x.size() < y.size();
  return x < y;
}

std::vector<fs::path> entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder, error)) found.push_back(entry.path());
  if (error) fail(ErrorCode::Io, "cannot list '{}': {}", folder.string(), error.message());
  std::sort(found.begin(), found.end(), natural_less);
  return found;
}

std::vector<Case> find_cases(const fs::path& folder) {
  std::vector<Case> cases;
  for (const fs::path& path : entries(folder)) {
    const std::string name = path.filename();
    if (name.starts_with("case_") && name.ends_with(".npz")) cases.push_back({path.stem(), path});
    if (name.starts_with("test_data_set_") && fs::is_directory(path)) cases.push_back({name, path});
  }
  return cases;
}

// The row of the conformance suite's index for the case in `folder`, as column -> text.
std::map<std::string, std::string> index_row(const fs::path& folder) {
  const fs::path full = fs::absolute(folder).lexically_normal();
  const std::string key = (full.parent_path().filename() / full.filename()).string();
  fs::path above = full;
  for (int level = 0; level < 3; ++level) {
    above = above.parent_path();
    std::ifstream index(above / "index.tsv");
    std::string line;
    if (!std::getline(index, line)) continue;
    const std::vector<std::string> columns = split(line, '\t');
    while (std::getline(index, line)) {
      const std::vector<std::string> cells = split(line, '\t');
      if (cells.empty() || (cells[0] != key && cells[0] != full.filename())) continue;
      std::map<std::string, std::string> row;
      for (size_t i = 0; i < std::min(cells.size(), columns.size()); ++i) row[columns[i]] = cells[i];
      return row;
    }
  }
  return {};
}

TestModel describe(const fs::path& model) {
  const fs::path folder = model.has_parent_path() ? model.parent_path() : fs::path(".");
  TestModel test;
  test.model_path = model;
  test.name = fs::absolute(folder).lexically_normal().filename();
  if (model.filename() != "model.onnx") test.name = model.filename();
  test.cases = find_cases(folder);
  if (fs::exists(folder / "meta.json")) {
    const auto meta = nlohmann::json::parse(read_file(folder / "meta.json"), nullptr, false);
    if (!meta.is_object()) fail(ErrorCode::Corrupt, "{}: not a JSON object", (folder / "meta.json").string());
    for (const auto& [key, target] : {std::pair{"rtol", &test.tolerance.rtol}, {"atol", &test.tolerance.atol}})
      if (meta.contains(key) && meta[key].is_number()) *target = meta[key];
    return test;
  }
  const auto row = index_row(folder);
  if (row.contains("rtol")) test.tolerance.rtol = parse_number(row.at("rtol"), "index.tsv rtol");
  if (row.contains("atol")) test.tolerance.atol = parse_number(row.at("atol"), "index.tsv atol");
  if (row.contains("flags"))
    for (const char* flag : {"random", "training"})
      if (row.at("flags").find(flag) != std::string::npos)
        test.skip_reason = fmt::format("the index flags it '{}': its outputs come from one generator's draws", flag);
  return test;
}

void search(const fs::path& folder, std::vector<TestModel>& found, int depth) {
  if (fs::is_regular_file(folder / "model.onnx")) {
    found.push_back(describe(folder / "model.onnx"));
    return;
  }
  if (depth == 0) return;
  for (const fs::path& path : entries(folder))
    if (fs::is_directory(path)) search(path, found, depth - 1);
}

}  // namespace

std::vector<TestModel> find_test_models(const std::string& path) {
  std::vector<TestModel> found;
  if (!fs::exists(path)) fail(ErrorCode::NotFound, "no such file or folder: '{}'", path);
  if (!fs::is_directory(path)) {
    found.push_back(describe(path));
    return found;
  }
  search(fs::path(path).lexically_normal(), found, 4);
  if (found.empty()) fail(ErrorCode::NotFound, "no model.onnx in '{}' or the folders below", path);
  return found;
}

CaseData read_case(const Case& c) {
  CaseData data;
  if (c.path.ends_with(".npz")) {
    for (auto& [name, tensor] : read_npz(c.path)) {
      if (name.starts_with("in:")) data.inputs.emplace_back(name.substr(3), std::move(tensor));
      else if (name.starts_with("out:")) data.outputs.emplace_back(name.substr(4), std::move(tensor));
      else fail(ErrorCode::Corrupt, "{}: array '{}' begins with neither 'in:' nor 'out:'", c.path, name);
    }
    return data;
  }
  for (const auto& [kind, list] : {std::pair{"input", &data.inputs}, {"output", &data.outputs}})
    for (int i = 0;; ++i) {
      const std::string path = fmt::format("{}/{}_{}.pb", c.path, kind, i);
      if (!fs::exists(path)) break;
      list->emplace_back("", onnx::read_tensor_proto(MappedFile::open(path)->bytes()));
    }
  return data;
}

}  // namespace tokamak::cli
