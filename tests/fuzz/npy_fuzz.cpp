// libFuzzer target for the .npy reader (clang only):
//   npy_fuzz -max_len=4096 -max_total_time=60 some_scratch_folder tests/golden
// Whatever the bytes are, the reader returns an array that fits them or throws InputError.
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "npy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(bytes), size));
  try {
    const support::FloatArray array = support::parse_npy(in, size, "fuzz.npy");
    lowatt::Index count = 1;
    for (const lowatt::Index extent : array.shape) count *= extent;
    if (static_cast<std::size_t>(count) != array.data.size()) std::abort();
    if (array.data.size() * sizeof(float) >= size) std::abort();
  } catch (const support::InputError&) {
  }
  return 0;
}
