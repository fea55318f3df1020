// libFuzzer target for the IDX reader (clang only):
//   idx_fuzz -max_len=4096 -max_total_time=60 some_scratch_folder tests/fuzz/idx
// Whatever the bytes are, the reader returns an array that fits them or throws InputError.
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "idx.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(bytes), size));
  try {
    const support::IdxArray array = support::parse_idx(in, size, "fuzz.idx");
    lowatt::Index count = 1;
    for (const lowatt::Index extent : array.shape) count *= extent;
    if (static_cast<std::size_t>(count) != array.data.size()) std::abort();
    if (array.data.size() + 4 + 4 * array.shape.size() != size) std::abort();
  } catch (const support::InputError&) {
  }
  return 0;
}
