# lowatt_add_dispatch(<target>)
#
# Gives <target> the kernels of all levels and run-time choice among them: adds one object file per
# level, each compiled with its level's flags, and links lowatt::lowatt privately. The objects become
# part of <target> itself, so a library that uses this can be installed and exported like any other;
# those who link it need not know Lowatt. (A library whose own headers include lowatt's links
# lowatt::lowatt publicly as well.)
#
# The units are generated in the build tree and compiled once, however many targets use them.

set(LOWATT_KERNEL_OPTIMIZATION -O3 CACHE STRING "Optimisation flags of Lowatt's kernel units")
mark_as_advanced(LOWATT_KERNEL_OPTIMIZATION)

# All levels of a processor, lowest first: of the one that is compiled for unless another is named.
function(lowatt_levels result)
  set(processor ${CMAKE_SYSTEM_PROCESSOR} ${ARGN})
  list(GET processor -1 processor)
  if(processor MATCHES "^(aarch64|arm64|ARM64)$")
    set(${result} neon64 PARENT_SCOPE)
  else()
    set(${result} sse2 avx2 avx512 avx512icl amx PARENT_SCOPE)
  endif()
endfunction()

# The flags that allow the instructions of one level and no others. -march comes first: it takes back
# a -march=native among the project's own flags.
function(lowatt_level_flags level result)
  if(level STREQUAL "neon64")
    set(${result} -march=armv8-a PARENT_SCOPE)
    return()
  endif()
  set(flags -march=x86-64)
  if(NOT level STREQUAL "sse2")
    list(APPEND flags -mavx2 -mfma -mbmi -mbmi2 -mlzcnt -mpopcnt -mf16c)
  endif()
  if(level MATCHES "^(avx512|amx)")
    list(APPEND flags -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512cd
      -mprefer-vector-width=512)
  endif()
  if(level MATCHES "^(avx512icl|amx)$")
    list(APPEND flags -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mavx512bitalg -mavx512vpopcntdq)
  endif()
  if(level STREQUAL "amx")
    list(APPEND flags -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND level MATCHES "^(avx512|amx)")
    # False alarms from GCC 12's own AVX-512 headers.
    list(APPEND flags -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  set(${result} ${flags} PARENT_SCOPE)
endfunction()

function(lowatt_add_dispatch target)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    message(FATAL_ERROR "lowatt_add_dispatch(${target}): kernels need a target that is compiled, "
      "not an INTERFACE library")
  endif()
  lowatt_levels(levels)
  foreach(level IN LISTS levels)
    set(unit lowatt_kernels_${level})
    if(NOT TARGET ${unit})
      set(source "${CMAKE_BINARY_DIR}/lowatt_kernels/${level}.cpp")
      file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT [[
// Generated: the kernels of level @level@.
#include <lowatt/dispatch/instantiate.hpp>

static_assert(lowatt::arch::LOWATT_STATIC_LEVEL::level == lowatt::Level::@level@,
              "the project's own compiler flags change the level of this unit");
]])
      lowatt_level_flags(${level} flags)
      add_library(${unit} OBJECT EXCLUDE_FROM_ALL "${source}")
      target_link_libraries(${unit} PRIVATE lowatt::headers)
      # No contraction of a*b+c: results must have the same bits at every level.
      target_compile_options(${unit} PRIVATE
        ${LOWATT_KERNEL_OPTIMIZATION} -ffp-contract=off ${flags})
      set_target_properties(${unit} PROPERTIES
        POSITION_INDEPENDENT_CODE ON
        CXX_VISIBILITY_PRESET hidden
        VISIBILITY_INLINES_HIDDEN ON
        INTERPROCEDURAL_OPTIMIZATION OFF)
    endif()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${unit}>)
  endforeach()
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:lowatt::lowatt>)
endfunction()
