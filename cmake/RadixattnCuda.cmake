# Is there CUDA? Sets RADIXATTN_CUDA_ENABLED, and enables the language where it is.
#
#   RADIXATTN_CUDA=AUTO  with CUDA when a CUDA compiler is found (the default)
#                  ON    with CUDA, or no configuration
#                  OFF   without
#   CMAKE_CUDA_ARCHITECTURES is the user's; by default every architecture that kernels are written
#   for, and PTX of the newest, from which later drivers compile.
set(RADIXATTN_CUDA_ENABLED OFF)
if(NOT RADIXATTN_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "RADIXATTN_CUDA is \"${RADIXATTN_CUDA}\": expected AUTO, ON or OFF")
endif()
if(RADIXATTN_CUDA STREQUAL "OFF")
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90a-real 100-real 120)
endif()
include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER AND EXISTS /usr/local/cuda/bin/nvcc)
  set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc)
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(RADIXATTN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RADIXATTN_CUDA=ON, but no CUDA compiler was found: set CMAKE_CUDA_COMPILER to nvcc")
  endif()
  message(STATUS "CUDA backend: no CUDA compiler, building for the CPU")
  return()
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake before 3.25.2 does not know that nvcc 12 has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit REQUIRED)
message(STATUS "CUDA backend: ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
set(RADIXATTN_CUDA_ENABLED ON)
