# The server: HTTP on Boost.Asio and Beast, gRPC of the distribution, our own .proto texts compiled once into a library of their own.

find_package(OpenSSL REQUIRED)
find_package(Boost 1.81 QUIET)
find_program(PROTOC protoc)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin)
if(NOT Boost_FOUND OR NOT PROTOC OR NOT GRPC_CPP_PLUGIN)
  message(FATAL_ERROR "the server needs Boost 1.81, protoc and grpc_cpp_plugin: ./dev setup installs them, -DTOKAMAK_SERVER=OFF does without")
endif()
tokamak_find_library(protobuf::libprotobuf google/protobuf/message.h protobuf)
tokamak_find_library(gRPC::grpc++ grpcpp/grpcpp.h grpc++)
tokamak_find_library(simdjson::simdjson simdjson.h simdjson)
find_library(GRPC_CORE grpc REQUIRED)
find_library(GRPC_GPR gpr REQUIRED)
find_library(ABSL_SYNCHRONIZATION absl_synchronization REQUIRED)  # the mutex in the headers of the callback API

file(GLOB protos CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/server/proto/*.proto)
set(proto_out ${CMAKE_BINARY_DIR}/proto)
set(proto_sources)
foreach(proto ${protos})
  get_filename_component(stem ${proto} NAME_WE)
  set(generated ${proto_out}/${stem}.pb.cc ${proto_out}/${stem}.grpc.pb.cc)
  add_custom_command(OUTPUT ${generated} ${proto_out}/${stem}.pb.h ${proto_out}/${stem}.grpc.pb.h
                     COMMAND ${CMAKE_COMMAND} -E make_directory ${proto_out}
                     COMMAND ${PROTOC} -I${CMAKE_SOURCE_DIR}/src/server/proto --cpp_out=${proto_out} --grpc_out=${proto_out}
                             --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN} ${proto}
                     DEPENDS ${protos} VERBATIM)
  list(APPEND proto_sources ${generated})
endforeach()
add_library(tokamak_protos STATIC ${proto_sources})
target_include_directories(tokamak_protos SYSTEM PUBLIC ${proto_out})
target_link_libraries(tokamak_protos PUBLIC gRPC::grpc++ protobuf::libprotobuf ${GRPC_CORE} ${GRPC_GPR} ${ABSL_SYNCHRONIZATION})

tokamak_library(tokamak_server FOLDERS server EXCLUDE server/backends/python server/backends/onnxruntime
                LINK tokamak_llm tokamak_compiler tokamak_protos nlohmann_json::nlohmann_json)
target_link_libraries(tokamak_server PUBLIC ZLIB::ZLIB simdjson::simdjson OpenSSL::SSL OpenSSL::Crypto ${CMAKE_DL_LIBS})
target_include_directories(tokamak_server SYSTEM PRIVATE ${Boost_INCLUDE_DIRS})
# Boost is in few files; header-only, without exceptions' source locations it links nothing.
target_compile_definitions(tokamak_server PRIVATE BOOST_ERROR_CODE_HEADER_ONLY BOOST_ASIO_NO_DEPRECATED)

# Backends that are libraries of their own, beside the program. They know backend.h and the base library, nothing of the server.
function(tokamak_backend name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/server/backends/${name}/*.cc)
  add_library(tokamak_${name} SHARED ${sources} ${ARGN})
  target_include_directories(tokamak_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/include)
  target_link_libraries(tokamak_${name} PRIVATE tokamak_core nlohmann_json::nlohmann_json ${CMAKE_DL_LIBS} tokamak_options)
  target_link_options(tokamak_${name} PRIVATE -Wl,--exclude-libs,ALL)
  set_target_properties(tokamak_${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} CXX_VISIBILITY_PRESET hidden
                                                   VISIBILITY_INLINES_HIDDEN ON)
  add_dependencies(tokamak_server tokamak_${name})
endfunction()

set(page_files ${CMAKE_SOURCE_DIR}/src/server/page/index.html)
set(embedded_page ${CMAKE_BINARY_DIR}/embedded_page.cc)
add_custom_command(
  OUTPUT ${embedded_page}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded_page} -DHEADER=server/page/page_files.h -DNAMESPACE=tokamak::server -DFUNCTION=page_files
          "-DFILES=${page_files}" -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${page_files} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  VERBATIM)
target_sources(tokamak_server PRIVATE ${embedded_page})

set(python_files ${CMAKE_SOURCE_DIR}/src/server/backends/python/worker.py
                 ${CMAKE_SOURCE_DIR}/src/server/backends/python/triton_python_backend_utils.py)
set(embedded_python ${CMAKE_BINARY_DIR}/embedded_python.cc)
add_custom_command(
  OUTPUT ${embedded_python}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded_python} -DHEADER=server/backends/python/embedded_files.h -DNAMESPACE=tokamak::backends::python -DFUNCTION=embedded_files
          "-DFILES=${python_files}" -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${python_files} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  VERBATIM)
tokamak_backend(python ${embedded_python})
tokamak_backend(onnxruntime)
