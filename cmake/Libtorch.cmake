# lowatt_libtorch: what the training programs, the tests against autograd and the gradient benchmark
# link. Without libtorch, or with another compiler than g++, the target is missing and they are left
# out; the reason is printed.

if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(reason "Debian's libtorch headers compile in C++20 with g++ only, and this compiler is ${CMAKE_CXX_COMPILER_ID}")
elseif(CMAKE_CROSSCOMPILING)
  set(reason "this build is for another processor than this machine's")
elseif(LOWATT_SANITIZE)
  set(reason "libtorch was not compiled with sanitizers")
else()
  # Its package file changes the flags of everything that is configured after it.
  set(flags_before "${CMAKE_CXX_FLAGS}")
  find_package(Torch QUIET)
  set(CMAKE_CXX_FLAGS "${flags_before}")
  if(NOT Torch_FOUND)
    set(reason "libtorch was not found; on Debian: scripts/setup.sh training")
  endif()
endif()

if(DEFINED reason)
  message(STATUS "Lowatt: without training programs: ${reason}")
else()
  add_library(lowatt_libtorch INTERFACE)
  target_include_directories(lowatt_libtorch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(lowatt_libtorch INTERFACE ${TORCH_LIBRARIES})
endif()
