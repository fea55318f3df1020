// How the Inhibitor's keys and values lie in memory at 8 bits. Per tile of 64 keys:
//
//   keys    [head_dim/4][64 keys][4 dims] u8   k8 + 128                        (simd/byte_tile.hpp)
//   sums    [64 keys] i32                      sum of those bytes over the dims
//   values  [value_dim/16][16 key groups][16 dims][4 keys] s8                  (simd/byte_tile.hpp)
//
// Keys are unsigned so that |q - k| = q + k - 2 min(q, k) needs one unsigned minimum and one dot
// product with ones. Signs and magnitudes of values are derived per tile and block of queries.
// Unused slots are zero: a value of 0 is inhibited whatever its score.
#pragma once

#include "../quant/scale.hpp"
#include "../simd/byte_tile.hpp"

namespace lowatt {

struct InhibitorTileLayout {
  Index key_bytes = 0, value_bytes = 0;

  LOWATT_ALWAYS_INLINE InhibitorTileLayout(Index head_dim, Index value_dim) noexcept
      : key_bytes(key_tile_bytes(head_dim)), value_bytes(value_tile_bytes(value_dim)) {}

  LOWATT_ALWAYS_INLINE Index sums_offset() const noexcept { return key_bytes; }
  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept {
    return key_bytes + tile_keys * Index{sizeof(std::int32_t)};
  }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return values_offset() + value_bytes; }
};

struct InhibitorPackArguments {
  PackArguments tokens;
  float key_inverse = 0;    // 1/s of keys and queries
  float value_inverse = 0;  // 1/sv
};

template <class L>
void inhibitor_pack(const InhibitorPackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const InhibitorTileLayout layout(tokens.head_dim, tokens.value_dim);
  alignas(64) std::int8_t bytes[quantize_chunk];
  alignas(64) std::uint8_t biased[quantize_chunk];
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    std::int32_t sum = 0;
    for (Index c = 0; c < tokens.head_dim; c += quantize_chunk) {
      const Index count =
          tokens.head_dim - c < quantize_chunk ? tokens.head_dim - c : quantize_chunk;
      quantize_row<L>(tokens.key + i * tokens.key_stride + c, count, arguments.key_inverse, bytes);
      for (Index j = 0; j < count; ++j) {
        biased[j] = static_cast<std::uint8_t>(bytes[j] + 128);
        sum += biased[j];
      }
      scatter_key(biased, count, slot, reinterpret_cast<std::uint8_t*>(tile) + c * tile_keys);
    }
    reinterpret_cast<std::int32_t*>(tile + layout.sums_offset())[slot] = sum;
    pack_value<L>(tokens.value + i * tokens.value_stride, tokens.value_dim, arguments.value_inverse,
                  slot, reinterpret_cast<std::int8_t*>(tile + layout.values_offset()));
  }
}

}  // namespace lowatt
