# GTest::gtest_main, installed or compiled from GoogleTest's sources: a cross compiler has no use for
# the library of the machine that it runs on.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  set(LOWATT_GOOGLETEST_SOURCE /usr/src/googletest CACHE PATH "GoogleTest's sources")
  if(NOT EXISTS ${LOWATT_GOOGLETEST_SOURCE}/CMakeLists.txt)
    message(FATAL_ERROR "GoogleTest was not found, and its sources are not in "
      "${LOWATT_GOOGLETEST_SOURCE}; on Debian: scripts/setup.sh neon64")
  endif()
  set(BUILD_GMOCK OFF)
  set(INSTALL_GTEST OFF)
  add_subdirectory(${LOWATT_GOOGLETEST_SOURCE} googletest EXCLUDE_FROM_ALL SYSTEM)
  target_compile_options(gtest PRIVATE -w)
  target_compile_options(gtest_main PRIVATE -w)
endif()
