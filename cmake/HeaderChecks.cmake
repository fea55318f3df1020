# Checks that each header stands alone: target all_verify_interface_header_sets compiles a unit for
# each that includes nothing else. Headers of one level (..._<level>.hpp) are compiled with that
# level's flags, and for its processor alone; those in interop/ with the library that they are for.

function(lowatt_check_headers name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "FLAGS;LIBRARIES;FILES")
  if(NOT arg_FILES)
    return()
  endif()
  set(target lowatt_check_${name})
  add_library(${target} INTERFACE)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${arg_FILES})
  target_link_libraries(${target} INTERFACE lowatt_headers ${arg_LIBRARIES})
  target_compile_options(${target} INTERFACE -O0 ${arg_FLAGS})
  set_target_properties(${target} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
endfunction()

set(rest ${headers})

set(interop ${headers})
list(FILTER interop INCLUDE REGEX "/interop/")
list(FILTER rest EXCLUDE REGEX "/interop/")
find_package(Eigen3 REQUIRED NO_MODULE)
find_package(OpenMP REQUIRED)
find_package(TBB QUIET)
find_package(OpenFHE QUIET)
set(openfhe ${interop})
list(FILTER openfhe INCLUDE REGEX "/openfhe\\.hpp$")
list(FILTER interop EXCLUDE REGEX "/openfhe\\.hpp$")
if(OpenFHE_FOUND)
  lowatt_check_headers(openfhe FILES ${openfhe} FLAGS -isystem${OpenFHE_INCLUDE}/core
    -isystem${OpenFHE_INCLUDE}/binfhe -isystem${OpenFHE_INCLUDE}/third-party/include)
else()
  message(STATUS "Lowatt: interop/openfhe.hpp is not compiled: OpenFHE was not found")
endif()
if(TARGET TBB::tbb)
  lowatt_check_headers(interop FILES ${interop}
    LIBRARIES Eigen3::Eigen OpenMP::OpenMP_CXX TBB::tbb)
endif()

lowatt_levels(levels)
lowatt_levels(levels_of_x86 x86_64)
lowatt_levels(levels_of_arm aarch64)
foreach(level IN LISTS levels_of_x86 levels_of_arm)
  set(of_level ${headers})
  list(FILTER of_level INCLUDE REGEX "_${level}\\.hpp$")
  list(FILTER rest EXCLUDE REGEX "_${level}\\.hpp$")
  if(level IN_LIST levels)
    lowatt_level_flags(${level} flags)
    lowatt_check_headers(${level} FILES ${of_level} FLAGS ${flags})
  endif()
endforeach()

lowatt_check_headers(all_levels FILES ${rest})
