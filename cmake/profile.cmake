# The scheduler compiled by a profile of itself: tools/build_profiled.sh configures one build folder twice, since the compiler
# looks for the counts of an object file beside it. Sets profile_options, for the rooms that are trained.

set(SPILLWAY_PROFILE "" CACHE STRING "generate: count what runs; use: compile by what was counted")
set_property(CACHE SPILLWAY_PROFILE PROPERTY STRINGS "" generate use)
mark_as_advanced(SPILLWAY_PROFILE)

set(profile_options)
if(SPILLWAY_PROFILE AND NOT CMAKE_C_COMPILER_ID STREQUAL "GNU")
  message(FATAL_ERROR "SPILLWAY_PROFILE=${SPILLWAY_PROFILE} is for gcc; this compiler is ${CMAKE_C_COMPILER_ID}")
endif()
if(SPILLWAY_PROFILE STREQUAL "generate")
  set(profile_options -fprofile-generate -fprofile-update=atomic) # several threads count
  add_link_options(-fprofile-generate)
elseif(SPILLWAY_PROFILE STREQUAL "use") # what the training does not touch is compiled as ever, not for size
  set(profile_options -fprofile-use -fprofile-partial-training -Wno-missing-profile)
elseif(SPILLWAY_PROFILE)
  message(FATAL_ERROR "SPILLWAY_PROFILE is '${SPILLWAY_PROFILE}'; it may be empty, generate or use")
endif()
