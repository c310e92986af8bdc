// generate, perplexity, bench, build and inspect on the small language model of examples/, from words to files and exit status.

#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>

#include "cli/sampling_flags.h"
#include "cli/stream_answer.h"
#include "cli/text_file.h"
#include "tests/support/command_line.h"

namespace tokamak::cli {
namespace {

namespace fs = std::filesystem;

const std::string kModel = TOKAMAK_SOURCE_DIR "/examples/models/llama3-docs-6m";
const std::string kShared = TOKAMAK_SOURCE_DIR "/../shared/models";

class CliLanguageModel : public test::CommandLineTest {
 protected:
  int tokamak(std::vector<std::string> words) {
    words.insert(words.begin(), "tokamak");
    words.insert(words.end(), {"--cache-dir", at("cache"), "--opt-level", "0", "--threads", "2"});
    return run(words);
  }
  int generate(std::vector<std::string> words) {
    words.insert(words.begin(), "generate");
    words.insert(words.end(), {"--json", at("g.json")});
    return tokamak(words);
  }
  // A copy of the checkpoint that a test may change.
  std::string copy_of_model() {
    fs::create_directories(folder_ / "copy");
    for (const char* file : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"})
      fs::copy_file(fs::path(kModel) / file, folder_ / "copy" / file);
    fs::create_symlink(kModel + "/model.safetensors", folder_ / "copy" / "model.safetensors");
    return at("copy");
  }
};

TEST_F(CliLanguageModel, GreedyTextIsTheReferences) {
  const auto reference = nlohmann::json::parse(read_file(kModel + "/reference.json"));
  int compared = 0;
  for (const auto& want : reference["greedy"]) {
    if (want["smallest_top2_margin"].get<double>() < 0.05) continue;  // float32 may decide otherwise
    ++compared;
    ASSERT_EQ(generate({kModel, "-p", want["prompt"], "--max-tokens", std::to_string(want["new_ids"].size())}), 0) << err_;
    const auto got = json("g.json");
    EXPECT_EQ(got["prompt_token_ids"], want["prompt_ids"]);
    EXPECT_EQ(got["token_ids"], want["new_ids"]) << want["prompt"];
    EXPECT_EQ(got["text"], want["text"]);
    EXPECT_EQ(got["finish_reason"], "length");
    EXPECT_GT(got["ttft_ms"].get<double>(), 0);
    EXPECT_GT(got["output_tokens_per_s"].get<double>(), 0);
    EXPECT_EQ(got["engine_from"], compared == 1 ? "built" : "cached");
    EXPECT_EQ(out_.substr(0, got["text"].get<std::string>().size()), got["text"]);
  }
  EXPECT_GE(compared, 4);
}

TEST_F(CliLanguageModel, AChangedFileIsBuiltAnewAndADamagedEntryToo) {
  const std::string model = copy_of_model();
  ASSERT_EQ(generate({model, "-p", "A file", "-n", "4"}), 0) << err_;
  const auto before = json("g.json");
  EXPECT_EQ(before["engine_from"], "built");
  ASSERT_EQ(generate({model, "-p", "A file", "-n", "4"}), 0);
  EXPECT_EQ(json("g.json")["engine_from"], "cached");
  EXPECT_EQ(json("g.json")["token_ids"], before["token_ids"]);

  std::string config = read_file(model + "/config.json");
  config.replace(config.find("500000.0"), 8, "100000.0");  // another rotary base
  put("copy/config.json", config);
  ASSERT_EQ(generate({model, "-p", "A file", "-n", "4"}), 0);
  EXPECT_EQ(json("g.json")["engine_from"], "built");
  ASSERT_EQ(generate({model, "-p", "A file", "-n", "4", "--no-cache"}), 0);
  EXPECT_EQ(json("g.json")["engine_from"], "built");

  for (const auto& entry : fs::directory_iterator(at("cache"))) fs::resize_file(entry.path(), fs::file_size(entry.path()) / 2);
  ASSERT_EQ(generate({model, "-p", "A file", "-n", "4"}), 0) << err_;
  EXPECT_EQ(json("g.json")["engine_from"], "built");
  EXPECT_TRUE(complained("built again")) << err_;
}

TEST_F(CliLanguageModel, StopStringsSeedsAndSpeculation) {
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "40"}), 0) << err_;
  const std::string text = json("g.json")["text"];
  const auto ids = json("g.json")["token_ids"];
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "40", "--stop", text.substr(20, 6)}), 0);
  EXPECT_EQ(json("g.json")["finish_reason"], "stop");
  EXPECT_EQ(json("g.json")["text"], text.substr(0, text.find(text.substr(20, 6))));
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "40", "--ngram", "4"}), 0);
  EXPECT_EQ(json("g.json")["token_ids"], ids);
  EXPECT_GT(json("g.json")["speculated_tokens"].get<int>(), 0);
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "40", "--draft", kModel}), 0) << err_;
  EXPECT_EQ(json("g.json")["token_ids"], ids);
  EXPECT_EQ(json("g.json")["accepted_tokens"], json("g.json")["speculated_tokens"]);  // its own draft

  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "20", "--temperature", "1", "--seed", "5"}), 0);
  const auto sampled = json("g.json")["token_ids"];
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "20", "--temperature", "1", "--seed", "5"}), 0);
  EXPECT_EQ(json("g.json")["token_ids"], sampled);
  ASSERT_EQ(generate({kModel, "-p", "The ls command", "-n", "20", "--temperature", "1", "--seed", "6"}), 0);
  EXPECT_NE(json("g.json")["token_ids"], sampled);
}

TEST_F(CliLanguageModel, ChatPutsThePromptThroughTheTemplate) {
  ASSERT_EQ(generate({kModel, "--chat", "--system", "Be brief.", "-p", "What is a file?", "-n", "3"}), 0) << err_;
  const auto ids = json("g.json")["prompt_token_ids"];
  EXPECT_EQ(ids[0], 4091);  // <|begin_of_text|>, written by the template and not once more by the tokenizer
  EXPECT_NE(ids[1], 4091);
  EXPECT_GT(ids.size(), 20u);
}

TEST_F(CliLanguageModel, JsonOnStandardOutputIsAlone) {
  ASSERT_EQ(tokamak({"generate", kModel, "-p", "A", "-n", "2", "--json", "-"}), 0) << err_;
  EXPECT_EQ(nlohmann::json::parse(out_)["token_ids"].size(), 2u);
}

TEST_F(CliLanguageModel, WrongWordsAndWrongModels) {
  EXPECT_EQ(generate({kModel, "-p", "A", "--temperature", "-1"}), 2);
  EXPECT_EQ(generate({kModel, "-p", "A", "--top-p", "2"}), 2);
  EXPECT_EQ(generate({kModel, "-p", "A", "--max-tokens", "0"}), 2);
  EXPECT_EQ(generate({kModel, "-p", "A", "--max-tokns", "3"}), 2);
  EXPECT_TRUE(complained("did you mean --max-tokens")) << err_;
  EXPECT_EQ(generate({kModel, "-p", "A", "--system", "x"}), 2);
  EXPECT_EQ(generate({kModel, "-p", "A", "--ngram", "2", "--draft", kModel}), 2);
  EXPECT_EQ(generate({at("nothing"), "-p", "A"}), 1);
  EXPECT_EQ(generate({TOKAMAK_SOURCE_DIR "/examples/models/vit.ts", "-p", "A"}), 1);
  EXPECT_TRUE(complained("ONNX")) << err_;
  EXPECT_EQ(generate({kModel, "-p", std::string(9000, 'x')}), 1);  // longer than the context
  EXPECT_TRUE(complained("1024")) << err_;
  EXPECT_EQ(generate({TOKAMAK_SOURCE_DIR "/tests/golden/hf/llama", "-p", "A"}), 1);  // without a tokenizer
  EXPECT_TRUE(complained("tokenizer.json")) << err_;
  EXPECT_EQ(tokamak({"perplexity", kModel, "--text", at("absent.txt")}), 1);
  put("short.txt", "");
  EXPECT_EQ(tokamak({"perplexity", kModel, "--text", at("short.txt")}), 1);
  EXPECT_EQ(tokamak({"perplexity", kModel, "--text", at("short.txt"), "--window", "4096"}), 1);
  EXPECT_TRUE(complained("1024")) << err_;
  EXPECT_EQ(tokamak({"bench", kModel, "--shapes", "x:1"}), 1);
  EXPECT_TRUE(complained("--shapes")) << err_;
  EXPECT_EQ(tokamak({"bench", kModel, "--batch", "0"}), 1);
  EXPECT_EQ(tokamak({"bench", kModel, "--prompt-tokens", "1000", "--new-tokens", "100"}), 1);
  EXPECT_EQ(tokamak({"bench", "--synthetic", "no-such-model"}), 1);
  EXPECT_EQ(tokamak({"bench"}), 2);
}

// What windows and documents change, against one window of the whole text.
TEST_F(CliLanguageModel, PerplexityOfWindowsAndDocuments) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "The ls command lists files in line " + std::to_string(i) + " of this text.\n";
  put("t.txt", text);
  gzFile file = gzopen(at("t.gz").c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  const auto measure = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"perplexity", kModel});
    words.insert(words.end(), {"--json", at("p.json")});
    EXPECT_EQ(tokamak(words), 0) << err_;
    return json("p.json");
  };
  const auto whole = measure({"--text", at("t.txt")});
  EXPECT_EQ(whole["windows"], 1);
  EXPECT_NEAR(whole["perplexity"].get<double>(), std::exp(whole["nats_per_token"].get<double>()), 1e-9);
  EXPECT_LT(whole["perplexity"].get<double>(), 100);
  EXPECT_EQ(measure({"--text", at("t.gz")})["nats_per_token"], whole["nats_per_token"]);
  const auto short_windows = measure({"--text", at("t.txt"), "--window", "64"});
  EXPECT_GT(short_windows["nats_per_token"].get<double>(), whole["nats_per_token"].get<double>());  // less context
  EXPECT_EQ(short_windows["tokens"], whole["tokens"]);
  EXPECT_EQ(measure({"--text", at("t.txt"), "--window", "64", "--max-windows", "2"})["tokens"], 128);
  // One document: the text and its end.
  const auto document = measure({"--text", at("t.txt"), "--documents"});
  EXPECT_EQ(document["windows"], 1);
  EXPECT_NEAR(static_cast<double>(document["tokens"].get<int64_t>()), static_cast<double>(whole["tokens"].get<int64_t>()), 1);
}

TEST_F(CliLanguageModel, PerplexityOfHeldOutTextIsTheReferences) {
  const std::string text = kShared + "/data/heldout.txt.gz";
  if (!fs::exists(text)) GTEST_SKIP() << text << " is not there";
  const auto reference = nlohmann::json::parse(read_file(kModel + "/reference.json"))["heldout"];
  ASSERT_EQ(
      tokamak({"perplexity", kModel, "--text", text, "--documents", "--window", "1024", "--max-windows", "64", "--json", at("p.json")}), 0)
      << err_;
  EXPECT_EQ(json("p.json")["windows"], 64);
  EXPECT_EQ(json("p.json")["tokens"], 64 * 1024);
  EXPECT_NEAR(json("p.json")["nats_per_token"].get<double>(), reference["nats_per_token"].get<double>(), 5e-4);
  // The reference was computed by a model that had been cast to bf16 as a whole, rotary frequencies included.
  ASSERT_EQ(
      tokamak({"perplexity", kModel, "--text", text, "--documents", "--max-windows", "64", "--rope-dtype", "bf16", "--json", at("p.json")}),
      0);
  EXPECT_NEAR(json("p.json")["nats_per_token"].get<double>(), reference["nats_per_token"].get<double>(), 1e-5);
}

TEST_F(CliLanguageModel, BenchReportsEveryBatchAndFeedsCost) {
  ASSERT_EQ(tokamak({"bench", kModel, "--batch", "1,3", "--prompt-tokens", "20", "--new-tokens", "6", "--profile-layers", "--json",
                     at("b.json")}),
            0)
      << err_;
  const auto b = json("b.json");
  for (const char* key : {"model", "device", "precision", "threads", "weights_bytes", "peak_memory_bytes", "kv_cache_bytes"})
    EXPECT_TRUE(b.contains(key)) << key;
  ASSERT_EQ(b["runs"].size(), 2u);
  EXPECT_EQ(b["runs"][1]["batch"], 3);
  EXPECT_EQ(b["runs"][1]["prompt_tokens"], 20);
  EXPECT_EQ(b["runs"][1]["new_tokens"], 6);
  for (const auto& r : b["runs"])
    for (const char* key : {"ttft_ms", "tpot_ms", "output_tokens_per_s", "prefill_tokens_per_s", "throughput_tokens_per_s"})
      EXPECT_GT(r[key].get<double>(), 0) << key;
  EXPECT_GT(b["runs"][0]["itl_ms"]["p99"].get<double>(), 0);
  EXPECT_LT(b["step_weights_bytes"].get<int64_t>(), b["weights_bytes"].get<int64_t>() + 1);
  EXPECT_TRUE(printed("paged_attention")) << out_;
  EXPECT_EQ(b["profile"].size(), 4u);
  ASSERT_EQ(run({"tokamak", "cost", "--from", at("b.json"), "--qps", "1", "--gpu-hour", "1", "--json", at("c.json")}), 0) << err_;
  EXPECT_EQ(json("c.json")["tokens_per_request"], 6);
}

TEST_F(CliLanguageModel, AnEngineFileGeneratesWithoutTheFolder) {
  ASSERT_EQ(run({"tokamak", "build", kModel, "-o", at("m.engine"), "--int8", "--opt-level", "0"}), 0) << err_;
  ASSERT_EQ(generate({at("m.engine"), "-p", "The ls command", "-n", "8"}), 0) << err_;
  EXPECT_EQ(json("g.json")["engine_from"], "engine file");
  EXPECT_EQ(json("g.json")["precision"], "int8");
  EXPECT_EQ(json("g.json")["token_ids"].size(), 8u);
  ASSERT_EQ(tokamak({"bench", at("m.engine"), "--prompt-tokens", "8", "--new-tokens", "2"}), 0) << err_;
  ASSERT_EQ(run({"tokamak", "inspect", at("m.engine"), "--json", at("i.json")}), 0) << err_;
  EXPECT_GT(json("i.json")["ops"]["paged_attention"].get<int>(), 0);
  ASSERT_EQ(run({"tokamak", "check", kModel}), 0) << err_;
}

TEST(CliText, GzipPlainAndDamaged) {
  const fs::path folder = fs::path(testing::TempDir()) / "tokamak_cli_text";
  fs::create_directories(folder);
  const std::string path = (folder / "t.gz").string();
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += std::to_string(i * 7919) + " ";
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  EXPECT_EQ(read_text_file(path), text);
  EXPECT_THROW(read_text_file(path, text.size() - 1), Error);
  std::string bytes = read_file(path);
  const auto write = [&](const std::string& b) { std::ofstream(path, std::ios::binary) << b; };
  write(bytes + bytes);  // two members
  EXPECT_EQ(read_text_file(path), text + text);
  for (const size_t cut : {size_t{3}, size_t{12}, bytes.size() / 2, bytes.size() - 1}) {
    write(bytes.substr(0, cut));
    EXPECT_THROW(read_text_file(path), Error) << cut;
  }
  bytes[bytes.size() / 2] ^= 1;
  write(bytes);
  EXPECT_THROW(read_text_file(path), Error);
  fs::remove_all(folder);
}

TEST(CliText, DocumentsAreSplitAtBlankLines) {
  using List = std::vector<std::string>;
  EXPECT_EQ(split_documents(""), List{});
  EXPECT_EQ(split_documents("\n\n"), List{});
  EXPECT_EQ(split_documents("a\nb\n\nc"), (List{"a\nb", "c"}));
  EXPECT_EQ(split_documents("\na\r\nb\r\n\r\n\n\nc\n"), (List{"a\nb", "c"}));
}

TEST(CliSampling, RecommendationsAndEscapes) {
  llm::SamplingParams base;
  base.temperature = 0.25f;
  EXPECT_EQ(recommended_sampling("", base).temperature, 0.25f);
  EXPECT_EQ(recommended_sampling(R"({"temperature": 0.6})", base).temperature, 0.25f);  // without do_sample it is not meant
  const auto p = recommended_sampling(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20})", base);
  EXPECT_FLOAT_EQ(p.temperature, 0.6f);
  EXPECT_FLOAT_EQ(p.top_p, 0.9f);
  EXPECT_EQ(p.top_k, 20);
  EXPECT_THROW(recommended_sampling(R"({"do_sample": true, "temperature": "hot"})", base), Error);
  EXPECT_THROW(recommended_sampling(R"({"do_sample": true, "top_p": 7})", base), Error);
  EXPECT_EQ(unescape("a\\nb\\\\n\\t\\x\\"), "a\nb\\n\t\\x\\");
}

TEST(CliStream, AModelDoesNotDriveTheTerminal) {
  EXPECT_EQ(printable("a\tb\nc\xC3\xA9"), "a\tb\nc\xC3\xA9");
  EXPECT_EQ(printable("\x1b[2J\x7f\xC2\x9b"), "\xEF\xBF\xBD[2J\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace tokamak::cli
