#pragma once
// Models with inputs and expected outputs: folders of model.onnx with case_N.npz (arrays in:NAME, out:NAME) or with
// test_data_set_N/input_I.pb and output_I.pb (the ONNX project's form).

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/compare.h"

namespace tokamak::cli {

struct Case {
  std::string name;  // "case_0", "test_data_set_0"
  std::string path;  // file or folder
};

struct CaseData {
  // Names are empty where data is by position.
  std::vector<std::pair<std::string, Tensor>> inputs, outputs;
};

struct TestModel {
  std::string name;  // the folder's name, or category/case of the conformance suite
  std::string model_path;
  std::vector<Case> cases;  // empty: no data beside the model
  Tolerance tolerance;
  std::string skip_reason;  // outputs nobody can be held to (random generators)
};

// The models under `path`: an .onnx file, a folder with model.onnx, or a folder of such folders (searched in depth, names in order).
// Tolerances come from meta.json beside the model, else from the conformance suite's index.tsv up to three folders above, else rtol 1e-3
// and atol 1e-7. Throws NotFound when there is no model, Corrupt for a bad meta.json.
std::vector<TestModel> find_test_models(const std::string& path);

// Throws Corrupt, Unsupported (sequences), Io.
CaseData read_case(const Case& c);

}  // namespace tokamak::cli
