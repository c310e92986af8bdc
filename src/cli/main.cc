#include "cli/main.h"

#include <fmt/format.h>

#include <exception>
#include <new>

#include "base/error.h"
#include "cli/args.h"
#include "cli/command.h"

namespace tokamak::cli {

namespace {

constexpr Command kCommands[] = {
    {"build", "compile an ONNX model into an engine file", run_build},
    {"bench", "measure throughput and latency of a model or engine", run_bench},
    {"generate", "text from a language model: one prompt, or an interactive chat", run_generate},
    {"perplexity", "how well a language model predicts a text", run_perplexity},
    {"verify", "compare a model's outputs with expected ones", run_verify},
    {"check", "list the nodes of a model that would not build, and why", run_check},
    {"inspect", "show what is in a model or engine: passes, kernels, memory", run_inspect},
    {"cost", "GPUs needed, money a month and per million tokens, from measured throughput", run_cost},
#ifdef TOKAMAK_SERVER
    {"serve", "serve models: OpenAI's API and KServe v2 over HTTP and gRPC", run_serve},
    {"load", "measure a server as its clients see it: throughput, latencies, goodput", run_load},
#endif
};

void print_help() {
  fmt::print("usage: tokamak COMMAND [ARGUMENTS]      (tokamak COMMAND --help has examples)\n\n");
  for (const Command& command : kCommands) fmt::print("  {:11}{}\n", command.name, command.summary);
  fmt::print("  {:11}{}\n", "trtexec", "TensorRT's command line: its flags, its report, its JSON files");
}

int dispatch(const std::string& program, const Words& args) {
  if (program == "trtexec") return run_trtexec(program, args);
  if (args.empty()) {
    print_help();
    return 2;
  }
  const Words rest(args.begin() + 1, args.end());
  if (args[0] == "trtexec") return run_trtexec("tokamak trtexec", rest);
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    print_help();
    return 0;
  }
  if (args[0] == "--version") {
    fmt::print("tokamak {}\n", TOKAMAK_VERSION);
    return 0;
  }
  std::vector<std::string> known = {"trtexec"};
  for (const Command& command : kCommands) {
    if (args[0] == command.name) return command.run(rest);
    known.push_back(command.name);
  }
  fmt::print(stderr, "error: unknown command '{}'{} (tokamak --help lists them)\n", args[0], suggestion(args[0], known));
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string path = argc > 0 ? argv[0] : "tokamak";
    return dispatch(path.substr(path.rfind('/') + 1), Words(argv + (argc > 0 ? 1 : 0), argv + argc));
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: out of memory\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
  }
  return 1;
}

}  // namespace tokamak::cli
