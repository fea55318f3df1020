// How entry points report bad input: a Status from try_...(), an Error thrown by the plain name.
#pragma once

#include <cstdarg>
#include <cstdio>

#include "config.hpp"

#if LOWATT_HAS_EXCEPTIONS
#include <exception>
#endif

namespace lowatt {

enum class StatusCode {
  ok,
  invalid_argument,  // a parameter's value
  invalid_shape,     // extents or strides, alone or against each other
  out_of_capacity,   // an append that the cache cannot hold
  unsupported,       // a level or layout that this build or CPU lacks
  out_of_memory
};

// An outcome with one sentence that names the argument and its value. Fixed size: no allocation.
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::ok;
  char message[192] = {};

  LOWATT_ALWAYS_INLINE bool ok() const noexcept { return code == StatusCode::ok; }
};

}  // namespace lowatt

LOWATT_API_BEGIN

// Makes a failed Status; `format` as for printf.
__attribute__((format(printf, 2, 3))) inline Status failure(StatusCode code, const char* format,
                                                            ...) noexcept {
  Status status{};
  status.code = code;
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(status.message, sizeof status.message, format, arguments);
  va_end(arguments);
  return status;
}

#if LOWATT_HAS_EXCEPTIONS
class Error : public std::exception {
 public:
  explicit Error(const Status& status) noexcept : status_(status) {}
  const char* what() const noexcept override { return status_.message; }
  StatusCode code() const noexcept { return status_.code; }

 private:
  Status status_;
};

inline void throw_if_failed(const Status& status) {
  if (!status.ok()) throw Error(status);
}
#endif

LOWATT_API_END
