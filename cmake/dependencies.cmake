# Every dependency in one place: version in use, and why. `./dev setup` installs these packages (tools/packages.txt names them).
#
#   fmt            9.1 / 9.1   formatting; std::format is missing in g++ 12
#   xxhash         0.8         checksums of engine sections and cache keys (XXH3, memory speed)
#   nlohmann-json  3.11        reports and --json; command line only
#   CLI11          2.3         subcommands, help and validation; command line only
#   zlib           1.2/1.3     compressed .npz members; command line and tests only
#   oneDNN         2.6 / 3.1   optional: one source of CPU tactics beside our own kernels
#   GoogleTest     1.12/1.14   tests

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(ZLIB REQUIRED)
find_path(XXHASH_INCLUDE xxhash.h REQUIRED)

find_package(dnnl QUIET)
if(TARGET DNNL::dnnl)
  set(TOKAMAK_HAVE_ONEDNN ON)
else()
  set(TOKAMAK_HAVE_ONEDNN OFF)
endif()
if(TOKAMAK_TESTS)
  find_package(GTest REQUIRED)
endif()
