# Two ways to compile kernels/cuda: with nvcc, for devices, into the programs (SPILLWAY_CUDA); and as C++ against the emulated
# device, for tests, wherever there is a C++ compiler. Neither is needed for the rest, which is C.

include(CheckLanguage)
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
