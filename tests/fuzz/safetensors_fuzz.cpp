// libFuzzer target for the .safetensors reader and the model that it may hold (clang only):
//   safetensors_fuzz -max_len=4096 -max_total_time=60 some_scratch_folder tests/fuzz/safetensors
// Whatever the bytes are, the reader throws InputError or returns what, written, reads as the same,
// and a model is made of that or refused.
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "safetensors.hpp"
#include "transformer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(bytes), size));
  try {
    const support::Safetensors contents = support::parse_safetensors(in, size, "fuzz.safetensors");
    std::size_t data_bytes = 0;
    for (const auto& [name, array] : contents.tensors)
      data_bytes += array.data.size() * sizeof(float);
    if (data_bytes > size) std::abort();

    const std::string written = support::safetensors_bytes("again", contents);
    std::istringstream again(written);
    const support::Safetensors reread =
        support::parse_safetensors(again, written.size(), "again.safetensors");
    if (support::safetensors_bytes("again", reread) != written) std::abort();
    support::make_transformer(contents, "fuzz.safetensors");
  } catch (const support::InputError&) {
  }
  return 0;
}
