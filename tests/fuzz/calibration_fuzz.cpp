// libFuzzer target for the reader of calibration files (clang only):
//   calibration_fuzz -max_len=4096 -max_total_time=60 some_scratch_folder tests/fuzz/calibration
// Whatever the text is, the reader throws InputError or returns what, written, reads as the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "calibration.hpp"
#include "file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(bytes), size);
  try {
    const support::CalibrationFile file = support::parse_calibration(text, "fuzz.json");
    const std::string written = support::calibration_text(file);
    if (support::calibration_text(support::parse_calibration(written, "again")) != written)
      std::abort();
    support::require_same_call(file, "fuzz.json", file);
  } catch (const support::InputError&) {
  }
  return 0;
}
