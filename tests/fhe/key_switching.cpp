#include "key_switching.hpp"

namespace lowatt::fhe {
namespace {

// From 64 bits to the nearest of 32.
SmallTorus small(Torus t) {
  return static_cast<SmallTorus>((t + (Torus{1} << 31)) >> 32);
}

void subtract_product(const SmallTorus* row, SmallTorus factor, std::size_t count,
                      SmallTorus* output) {
  for (std::size_t m = 0; m < count; ++m) output[m] -= factor * row[m];
}

}  // namespace

KeySwitchingKey::KeySwitchingKey(const Parameters& parameters, std::span<const Torus> large_key,
                                 std::span<const Torus> small_key, std::uint64_t seed)
    : decomposition_(parameters.key_switch_base_bits, parameters.key_switch_levels),
      row_size_(small_key.size() + 1),
      rows_(large_key.size() * static_cast<std::size_t>(decomposition_.levels()) * row_size_) {
  Random random(seed, key_switching_stream);
  SmallTorus* row = rows_.data();
  for (const Torus bit : large_key) {
    for (int level = 1; level <= decomposition_.levels(); ++level, row += row_size_) {
      SmallTorus body =
          small(bit * decomposition_.factor(level) + random.noise(parameters.lwe_noise));
      for (std::size_t m = 0; m < small_key.size(); ++m) {
        row[m] = static_cast<SmallTorus>(random.uniform() >> 32);
        body += row[m] * static_cast<SmallTorus>(small_key[m]);
      }
      row[small_key.size()] = body;
    }
  }
}

void KeySwitchingKey::apply(std::span<const Torus> input, std::vector<SmallTorus>& output) const {
  output.assign(row_size_, 0);
  output.back() = small(input.back());
  const SmallTorus* row = rows_.data();
  for (const Torus mask : input.first(input.size() - 1)) {
    const Torus with_offset = mask + decomposition_.offset();
    for (int level = 1; level <= decomposition_.levels(); ++level, row += row_size_) {
      const std::int64_t digit = decomposition_.digit(with_offset, level);
      if (digit != 0)
        subtract_product(row, static_cast<SmallTorus>(digit), row_size_, output.data());
    }
  }
}

}  // namespace lowatt::fhe
