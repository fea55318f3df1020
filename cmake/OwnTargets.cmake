# Settings for the targets of this project when it is built by itself: Release unless told otherwise,
# warnings as errors, ccache where there is one, sanitizers on request.

get_property(is_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT is_multi_config AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

find_program(LOWATT_CCACHE ccache)
mark_as_advanced(LOWATT_CCACHE)
if(LOWATT_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LOWATT_CCACHE})
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# `cmake --compile-no-warning-as-error` switches errors off.
if(NOT DEFINED CMAKE_COMPILE_WARNING_AS_ERROR)
  set(CMAKE_COMPILE_WARNING_AS_ERROR ON)
endif()
# No contraction: tests compare bits, and references must not depend on flags.
add_compile_options(-Wall -Wextra -Wconversion -Wshadow -ffp-contract=off)

set(LOWATT_SANITIZE "" CACHE STRING "Sanitizers for this project's targets, such as address,undefined")
if(LOWATT_SANITIZE)
  add_compile_options(-fsanitize=${LOWATT_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${LOWATT_SANITIZE})
endif()
