// How the programs fail: status 2 and exactly one line on stderr.
#pragma once

#include <exception>
#include <iostream>
#include <new>
#include <string>

#include "npy.hpp"

namespace support {

// Messages may quote what a user wrote: file names can hold newlines.
inline void print_failure(std::string message) {
  for (char& c : message)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  std::cerr << "error: " + message + "\n";
}

// Runs f() and returns the exit status.
template <class F>
int report_failure(F&& f) {
  try {
    f();
    if (!std::cout.flush()) throw InputError("standard output cannot be written");
    return 0;
  } catch (const std::bad_alloc&) {
    print_failure("not enough memory");
  } catch (const std::exception& error) {
    print_failure(error.what());
  }
  return 2;
}

}  // namespace support
