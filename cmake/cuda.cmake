# Two ways to compile kernels/cuda: with nvcc, for devices, into the programs (SPILLWAY_CUDA); and as C++ against the emulated
# device, for tests, wherever there is a C++ compiler. Neither is needed for the rest, which is C.

include(CheckLanguage)
foreach(language CXX CUDA) # a compiler cache that serves C serves these
  if(NOT CMAKE_${language}_COMPILER_LAUNCHER AND CMAKE_C_COMPILER_LAUNCHER)
    set(CMAKE_${language}_COMPILER_LAUNCHER "${CMAKE_C_COMPILER_LAUNCHER}")
  endif()
endforeach()
if(NOT CMAKE_CXX_COMPILER AND CMAKE_C_COMPILER_ID MATCHES Clang) # sanitizers want both from one house
  string(REGEX REPLACE "clang([^/]*)$" "clang++\\1" cxx "${CMAKE_C_COMPILER}")
  if(EXISTS "${cxx}")
    set(CMAKE_CXX_COMPILER "${cxx}" CACHE FILEPATH "C++ compiler")
  endif()
endif()
check_language(CXX)
if(CMAKE_CXX_COMPILER)
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
else()
  message(STATUS "no C++ compiler: the CUDA kernels are not tested by emulation")
endif()

# nvcc: where it is on the PATH or where its packages put it. ON without one is an error, AUTO does without.
set(SPILLWAY_CUDA_FOUND OFF)
if(NOT SPILLWAY_CUDA STREQUAL "OFF")
  find_program(SPILLWAY_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATH_SUFFIXES bin)
  find_program(SPILLWAY_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(SPILLWAY_NVCC)
  if(SPILLWAY_NVCC AND CMAKE_CXX_COMPILER)
    set(CMAKE_CUDA_COMPILER "${SPILLWAY_NVCC}")
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90) # what runs on later devices is made from the last one's PTX by the driver
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_FLAGS_RELEASE "-O2")
    set(SPILLWAY_CUDA_FOUND ON)
  elseif(SPILLWAY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SPILLWAY_CUDA=ON: there is no nvcc (or no C++ compiler); set CUDA_PATH, or SPILLWAY_CUDA=OFF")
  endif()
endif()
message(STATUS "CUDA backend: ${SPILLWAY_CUDA_FOUND}")
