// How Bitformer's keys and values lie in memory. Per tile of 64 keys:
//
//   codes   [row bytes][64 keys] u8                                 (simd/thermometer_tile.hpp)
//   values  [value_dim/16][16 key groups][16 dims][4 keys] s8               (simd/byte_tile.hpp)
#pragma once

#include "../quant/scale.hpp"
#include "../simd/byte_tile.hpp"
#include "../simd/thermometer_tile.hpp"

namespace lowatt {

struct BitformerTileLayout {
  Index code_bytes = 0, value_bytes = 0;

  LOWATT_ALWAYS_INLINE BitformerTileLayout(int planes, Index head_dim, Index value_dim) noexcept
      : code_bytes(thermometer_tile_bytes(planes, head_dim)),
        value_bytes(value_tile_bytes(value_dim)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept { return code_bytes; }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return code_bytes + value_bytes; }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    erase_tokens(tile, code_bytes / tile_keys, 1, first);
    erase_values(tile + values_offset(), value_bytes, first);
  }
};

struct BitformerPackArguments {
  PackArguments tokens;
  int planes = 1;
  const float* thresholds = nullptr;  // one per plane
  const float* key_mean = nullptr;    // one per channel, subtracted from keys; null: none
  float value_inverse = 0;            // 1/sv
};

template <class L>
void bitformer_pack(const BitformerPackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const BitformerTileLayout layout(arguments.planes, tokens.head_dim, tokens.value_dim);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    count_saturated<L>(tokens, i, 0, arguments.value_inverse, int8_limit);
    pack_thermometer<L>(tokens.key + i * tokens.key_stride, arguments.key_mean, tokens.head_dim,
                        arguments.planes, arguments.thresholds, slot,
                        reinterpret_cast<std::uint8_t*>(tile));
    pack_value<L>(tokens.value + i * tokens.value_stride, tokens.value_dim, arguments.value_inverse,
                  slot, reinterpret_cast<std::int8_t*>(tile + layout.values_offset()));
  }
}

}  // namespace lowatt
