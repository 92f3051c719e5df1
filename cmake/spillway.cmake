# What every target shares: warnings, sanitizers, the include root, libraries by pkg-config.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(LIBEVENT REQUIRED IMPORTED_TARGET libevent libevent_pthreads libevent_openssl)
pkg_check_modules(OPENSSL REQUIRED IMPORTED_TARGET libssl libcrypto)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)
pkg_check_modules(EXPAT REQUIRED IMPORTED_TARGET expat)
pkg_check_modules(CJOSE REQUIRED IMPORTED_TARGET cjose)

set(SPILLWAY_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, e.g. address,undefined")
mark_as_advanced(SPILLWAY_SANITIZE)

# Of the kernels' files: whether a pointer steps out of the address space would be asked at each step of thousands that are
# unrolled, which is more than half of their compilation (cpu/isa_avx2.c 45 s of a core, without it 21; isa_avx512.c 16 and
# 7.5). What it touches is looked at all the same.
set(unrolled_options "")
if(SPILLWAY_SANITIZE MATCHES "undefined")
  set(unrolled_options -fno-sanitize=pointer-overflow)
endif()

add_library(spillway_flags INTERFACE)
target_include_directories(spillway_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(spillway_flags INTERFACE _GNU_SOURCE SPILLWAY_VERSION="${PROJECT_VERSION}")
set(flags_c -Wshadow -Wstrict-prototypes -Wmissing-prototypes) # C++ takes a function for the constructor of its namesake
set(flags_host -Wall -Wextra -Wpointer-arith -Wvla -fno-strict-aliasing -ffp-contract=off -fstack-protector-strong)
if(NOT SPILLWAY_PROFILE) # other inlining makes other guesses of what may be unset or cut off
  list(APPEND flags_host -Werror)
endif()
if(SPILLWAY_SANITIZE)
  list(APPEND flags_host -fsanitize=${SPILLWAY_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()
target_compile_options(spillway_flags INTERFACE "$<$<COMPILE_LANGUAGE:C>:${flags_c}>"
                       "$<$<COMPILE_LANGUAGE:C,CXX>:${flags_host}>")
if(SPILLWAY_SANITIZE)
  target_link_options(spillway_flags INTERFACE -fsanitize=${SPILLWAY_SANITIZE})
endif()

# spillway_library(name DIR dir LINK libs...): a static library of every .c file directly in dir. main.c is left out.
function(spillway_library name)
  cmake_parse_arguments(ARG "" "DIR" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${ARG_DIR}/*.c)
  list(FILTER sources EXCLUDE REGEX "/main\\.c$")
  if(sources)
    add_library(${name} STATIC ${sources})
    target_link_libraries(${name} PUBLIC spillway_flags ${ARG_LINK})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE spillway_flags ${ARG_LINK})
  endif()
endfunction()

# spillway_hot(target): decisions are made here, a hundred thousand a second. Nobody reads errno after a logarithm or counts
# floating-point exceptions; no result changes by this.
function(spillway_hot target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O3> -fno-math-errno -fno-trapping-math)
endfunction()

# spillway_text(target file stem): the file's bytes as STEM_text and STEM_length in the target.
function(spillway_text target file stem)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "((0x..,){20})" "\\1\n" bytes "${bytes}")
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${stem}.c @ONLY CONTENT
"#include <stddef.h>
extern const char ${stem}_text[];
extern const size_t ${stem}_length;
const char ${stem}_text[] = {
@bytes@0};
const size_t ${stem}_length = sizeof ${stem}_text - 1;
")
  target_sources(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${stem}.c)
endfunction()
