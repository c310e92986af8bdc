// Runs every tests/passes/*.ir: cases separated by "# ----", each with a line "# RUN: pass, pass" and lines "# CHECK: text" (found in this
// order in the printed result), "# CHECK-NOT: text" (not found anywhere). Every case is also computed before and after with the reference
// kernels on random inputs; "# TOLERANCE: x" overrides the relative error allowed, "# NO-EVAL: reason" says why a case is not computed.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "ir/infer.h"
#include "ir/text.h"
#include "passes/evaluate.h"
#include "passes/pipeline.h"

namespace tokamak::passes {
namespace {

struct Case {
  std::string name, text;
  std::vector<std::string> run;
  std::vector<std::pair<std::string, bool>> checks;  // text, expected
  double tolerance = 1e-4;
  bool evaluate = true;

  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

std::string trimmed(std::string s) {
  s.erase(0, s.find_first_not_of(" \t"));
  s.erase(s.find_last_not_of(" \t\r") + 1);
  return s;
}

std::vector<Case> read_cases() {
  std::vector<Case> cases;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(TOKAMAK_SOURCE_DIR "/tests/passes"))
    if (entry.path().extension() == ".ir") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::ifstream in(file);
    std::string line;
    Case current;
    int number = 0;
    const auto finish = [&] {
      if (current.text.find("graph") == std::string::npos) return;
      current.name = file.stem().string() + "_" + std::to_string(number++);
      std::replace(current.name.begin(), current.name.end(), '-', '_');
      cases.push_back(current);
      current = {};
    };
    while (std::getline(in, line)) {
      const auto after = [&](std::string_view key, std::string* rest) {
        const size_t at = line.find(key);
        if (at == std::string::npos) return false;
        *rest = trimmed(line.substr(at + key.size()));
        return true;
      };
      std::string rest;
      if (line.starts_with("# ----")) {
        finish();
      } else if (after("# RUN:", &rest)) {
        std::stringstream names(rest);
        for (std::string name; std::getline(names, name, ',');) current.run.push_back(trimmed(name));
      } else if (after("# CHECK-NOT:", &rest)) {
        current.checks.emplace_back(rest, false);
      } else if (after("# CHECK:", &rest)) {
        current.checks.emplace_back(rest, true);
      } else if (after("# TOLERANCE:", &rest)) {
        current.tolerance = std::stod(rest);
      } else if (after("# NO-EVAL:", &rest)) {
        current.evaluate = false;
      } else {
        current.text += line + "\n";
      }
    }
    finish();
  }
  return cases;
}

Tensor random_tensor(const ir::TensorType& type, const ir::Dim::Bindings& bindings, std::mt19937& random) {
  Shape shape;
  for (const ir::Dim& d : type.dims) shape.push_back(d.substitute(bindings).value());
  Tensor t = Tensor::empty(type.dtype, shape);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < t.count(); ++i) {
    if (type.dtype == DType::F32) t.data<float>()[i] = normal(random);
    else if (type.dtype == DType::I64) t.data<int64_t>()[i] = random() % 2;
    else if (type.dtype == DType::I32) t.data<int32_t>()[i] = static_cast<int32_t>(random() % 2);
    else if (type.dtype == DType::Bool) t.data<bool>()[i] = random() % 4 != 0;
    else ADD_FAILURE() << "no random values for " << to_string(type.dtype);
  }
  return t;
}

void expect_same(const ir::Graph& before, const ir::Graph& after, double tolerance) {
  std::mt19937 random(7);
  ir::Dim::Bindings bindings;
  std::vector<Tensor> inputs;
  for (const ir::Value* v : before.inputs())
    for (const ir::Dim& d : v->type.dims)
      if (auto s = d.as_symbol()) bindings.try_emplace(*s, 2 + static_cast<int64_t>(bindings.size()));
  for (const ir::Value* v : before.inputs()) inputs.push_back(random_tensor(v->type, bindings, random));
  const auto expected = evaluate(before, inputs), found = evaluate(after, inputs);
  ASSERT_EQ(expected.size(), found.size());
  for (size_t o = 0; o < expected.size(); ++o) {
    ASSERT_EQ(expected[o].shape(), found[o].shape()) << "output " << o;
    ASSERT_EQ(expected[o].dtype(), found[o].dtype()) << "output " << o;
    double largest = 1e-3;
    for (int64_t i = 0; i < expected[o].count(); ++i)
      if (std::isfinite(expected[o].float_at(i))) largest = std::max(largest, std::fabs(expected[o].float_at(i)));
    for (int64_t i = 0; i < expected[o].count(); ++i) {
      const double a = expected[o].float_at(i), b = found[o].float_at(i);
      if (a == b || (std::isnan(a) && std::isnan(b))) continue;
      ASSERT_LE(std::fabs(a - b), tolerance * largest) << "output " << o << " element " << i << ": " << a << " before, " << b << " after";
    }
  }
}

class PassCases : public testing::TestWithParam<Case> {};

TEST_P(PassCases, Rewrites) {
  const Case& c = GetParam();
  const auto before = ir::parse(c.text);
  const auto graph = ir::parse(c.text);
  ASSERT_FALSE(c.run.empty());
  run_passes(*graph, c.run);
  const std::string printed = ir::print(*graph);
  size_t at = 0;
  for (const auto& [text, expected] : c.checks) {
    if (!expected) {
      EXPECT_EQ(printed.find(text), std::string::npos) << "found \"" << text << "\" in\n" << printed;
      continue;
    }
    const size_t found = printed.find(text, at);
    ASSERT_NE(found, std::string::npos) << "missing \"" << text << "\" (in this order) in\n" << printed;
    at = found + text.size();
  }
  ir::verify(*graph);
  if (c.evaluate) expect_same(*before, *graph, c.tolerance);
  if (HasFailure()) std::printf("%s\n", printed.c_str());
}

INSTANTIATE_TEST_SUITE_P(Ir, PassCases, testing::ValuesIn(read_cases()), [](const auto& info) { return info.param.name; });

TEST(Pipeline, UnknownPassNamesTheKnownOnes) {
  const auto graph = ir::parse("graph main(%x: f32[2]) {\n  return %x\n}\n");
  try {
    BuildReport report;
    run_pipeline(*graph, {.disabled = {"no-such-pass"}}, report);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::InvalidArgument);
    EXPECT_NE(std::string(e.what()).find("fuse-attention"), std::string::npos) << e.what();
  }
}

TEST(Pipeline, DisabledPassDoesNotRunAndReportsCount) {
  const std::string text = "graph main(%x: f32[2,3]) {\n  %a = relu(%x)\n  %b = exp(%a)\n  return %b\n}\n";
  const auto with = ir::parse(text), without = ir::parse(text);
  BuildReport report, other;
  run_pipeline(*with, {}, report);
  run_pipeline(*without, {.disabled = {"fuse-regions"}}, other);
  EXPECT_EQ(with->num_nodes(), 1);
  EXPECT_EQ(without->num_nodes(), 2);
  bool reported = false;
  for (const PassReport& r : report.passes) reported = reported || (r.name == "fuse-regions" && r.rewrites == 1);
  EXPECT_TRUE(reported);
}

TEST(Pipeline, DumpsAfterANamedPass) {
  const auto graph = ir::parse("graph main(%x: f32[2,3]) {\n  %a = identity(%x)\n  %b = exp(%a)\n  return %b\n}\n");
  std::string seen;
  PipelineOptions options;
  options.dump_ir = "after:fuse-regions";
  options.dump_sink = [&](const std::string& text) { seen += text; };
  BuildReport report;
  run_pipeline(*graph, options, report);
  EXPECT_NE(seen.find("# after fuse-regions"), std::string::npos);
  EXPECT_NE(seen.find("fused"), std::string::npos);
}

}  // namespace
}  // namespace tokamak::passes
