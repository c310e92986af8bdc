# Every dependency in one place: version in use, and why. `./dev setup` installs these packages (tools/packages.txt names them).
#
#   fmt            9.1 / 9.1   formatting; std::format is missing in g++ 12
#   xxhash         0.8         checksums of engine sections and cache keys (XXH3, memory speed)
#   nlohmann-json  3.11        reports and --json; checkpoints' config.json, tokenizer.json and safetensors headers
#   PCRE2          10.42       the split patterns of tokenizers (Unicode classes, look-ahead, JIT)
#   utf8proc       2.8/2.9     Unicode normalisation in tokenizers
#   CLI11          2.3         subcommands, help and validation; command line only
#   zlib           1.2/1.3     compressed .npz members; command line and tests only
#   oneDNN         2.6 / 3.1   optional: one source of CPU tactics beside our own kernels
#   Boost          1.81/1.83   HTTP/1.1 and TLS of the server (Asio, Beast; headers alone)
#   gRPC, protobuf 1.51 / 3.21 the server's second protocol; protobuf also reads config.pbtxt
#   simdjson       3.0/3.6     tensors in JSON, at the speed of their digits
#   OpenSSL        3.0         TLS of the server
#   GoogleTest     1.12/1.14   tests

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(ZLIB REQUIRED)
find_path(XXHASH_INCLUDE xxhash.h REQUIRED)

# A library without a usable CMake package, as an imported target.
function(tokamak_find_library target header library)
  string(MAKE_C_IDENTIFIER ${library} id)
  find_path(${id}_INCLUDE ${header})
  find_library(${id}_LIBRARY ${library})
  if(${id}_INCLUDE AND ${id}_LIBRARY)
    add_library(${target} UNKNOWN IMPORTED)
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${${id}_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${${id}_INCLUDE})
  elseif(NOT "OPTIONAL" IN_LIST ARGN)
    message(FATAL_ERROR "${library} not found: ./dev setup installs it")
  endif()
endfunction()
tokamak_find_library(PCRE2::8 pcre2.h pcre2-8)
tokamak_find_library(utf8proc::utf8proc utf8proc.h utf8proc)

# Not find_package(dnnl): the package's own configuration insists on OpenCL, which the distribution does not install with it.
tokamak_find_library(DNNL::dnnl dnnl.hpp dnnl OPTIONAL)
if(TARGET DNNL::dnnl)
  set(TOKAMAK_HAVE_ONEDNN ON)
else()
  set(TOKAMAK_HAVE_ONEDNN OFF)
endif()
if(TOKAMAK_TESTS)
  find_package(GTest REQUIRED)
endif()
