# The CUDA backend. Host code is plain C++ against the toolkit's headers; libraries (driver, NVRTC, cuBLASLt, cuDNN) are opened at run time.
# Device code (src/backends/cuda/device) is carried as text and compiled by NVRTC for the GPU at hand when an engine is built.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backends/cuda/*.cc ${CMAKE_SOURCE_DIR}/src/backends/cuda/kernels/*.cc)
file(GLOB device_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backends/cuda/device/*.cuh ${CMAKE_SOURCE_DIR}/src/backends/cuda/device/*.cu)
set(embedded ${CMAKE_BINARY_DIR}/device_files.cc)
add_custom_command(
  OUTPUT ${embedded}
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${embedded} -DHEADER=backends/cuda/device_files.h -DNAMESPACE=tokamak::cuda -DFUNCTION=device_files
          "-DFILES=${device_files}" -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${device_files} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  VERBATIM)
target_sources(tokamak_runtime PRIVATE ${cuda_sources} ${embedded})
target_include_directories(tokamak_runtime SYSTEM PUBLIC ${TOKAMAK_CUDA_INCLUDE})
target_compile_definitions(tokamak_runtime PUBLIC TOKAMAK_CUDA=1)
target_link_libraries(tokamak_runtime PUBLIC ${CMAKE_DL_LIBS})
