// A server of KserveModels for the black-box suites: prints its port, runs until its standard input ends.

#include <cstdio>

#include "server/http/kserve_routes.h"
#include "server/shared_memory.h"
#include "tests/server/http/kserve_models.h"

int main(int argc, char** argv) {
  using namespace tokamak;
  if (argc != 2) {
    std::fprintf(stderr, "usage: kserve_server EMPTY_FOLDER\n");
    return 2;
  }
  test::write_kserve_repository(argv[1]);
  server::Server core(
      server::ServerOptions{.repository = {.paths = {argv[1]}, .mode = server::ControlMode::Explicit, .startup_models = {"*"}},
                            .loader = test::load_kserve_model,
                            .shared_memory = std::make_shared<server::SharedMemoryRegistry>()});
  for (const auto& [model, reason] : core.start()) std::fprintf(stderr, "%s: %s\n", model.c_str(), reason.c_str());
  server::http::Server http({.address = "127.0.0.1", .port = 0, .threads = 2});
  server::http::add_kserve_routes(http, core, {.forward_header_pattern = "x-forwarded-.*"});
  http.start();
  std::printf("%d\n", http.port());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  http.stop(1);
  core.stop(std::chrono::seconds(5));
}
