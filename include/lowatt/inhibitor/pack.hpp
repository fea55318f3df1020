// How the Inhibitor's keys and values lie in memory at 8 bits. Per tile of 64 keys:
//
//   keys      [head_dim/4][64 keys][4 dims] u8   k8 + 128 (simd/byte_tile.hpp) sums      [64 keys]
//   i32                      sum of those bytes over the dims greatest  [64 keys] u8 largest |v8|
//   of the key's value box       [2][head_dim] u8                   least and largest k8 + 128 of
//   the tile, per dim;
//                                                each row padded to 64 dims
//   values    [value_dim/16][16 key groups][16 dims][4 keys] s8 (simd/byte_tile.hpp)
//
// Keys are unsigned so that |q - k| = q + k - 2 min(q, k) needs one unsigned minimum and one dot
// product with ones. Signs and magnitudes of values are derived per tile and block of queries.
// Unused slots are zero: a value of 0 is inhibited whatever its score. `greatest` and `box` tell
// which keys, and which tiles, cannot add anything to a row (tile.hpp).
#pragma once

#include "../quant/scale.hpp"
#include "../simd/byte_tile.hpp"

namespace lowatt {

inline constexpr Index inhibitor_box_step = 64;  // dims that a row of the box is padded to

struct InhibitorTileLayout {
  Index key_bytes = 0, value_bytes = 0, box_dims = 0;

  LOWATT_ALWAYS_INLINE InhibitorTileLayout(Index head_dim, Index value_dim) noexcept
      : key_bytes(key_tile_bytes(head_dim)),
        value_bytes(value_tile_bytes(value_dim)),
        box_dims(round_up(head_dim, inhibitor_box_step)) {}

  LOWATT_ALWAYS_INLINE Index sums_offset() const noexcept { return key_bytes; }
  LOWATT_ALWAYS_INLINE Index greatest_offset() const noexcept {
    return sums_offset() + tile_keys * Index{sizeof(std::int32_t)};
  }
  LOWATT_ALWAYS_INLINE Index box_offset() const noexcept { return greatest_offset() + tile_keys; }
  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept { return box_offset() + 2 * box_dims; }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return values_offset() + value_bytes; }
};

// One tile, to read.
struct InhibitorTile {
  const std::uint8_t* keys = nullptr;
  const std::int32_t* sums = nullptr;
  const std::uint8_t* greatest = nullptr;
  const std::uint8_t* least_key = nullptr;  // the box
  const std::uint8_t* largest_key = nullptr;
  const std::int8_t* values = nullptr;

  LOWATT_ALWAYS_INLINE InhibitorTile(const std::byte* tile,
                                     const InhibitorTileLayout& layout) noexcept
      : keys(reinterpret_cast<const std::uint8_t*>(tile)),
        sums(reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset())),
        greatest(reinterpret_cast<const std::uint8_t*>(tile + layout.greatest_offset())),
        least_key(reinterpret_cast<const std::uint8_t*>(tile + layout.box_offset())),
        largest_key(least_key + layout.box_dims),
        values(reinterpret_cast<const std::int8_t*>(tile + layout.values_offset())) {}
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
    auto* least = reinterpret_cast<std::uint8_t*>(tile + layout.box_offset());
    auto* largest = least + layout.box_dims;
    std::int32_t sum = 0;
    for (Index c = 0; c < tokens.head_dim; c += quantize_chunk) {
      const Index count =
          tokens.head_dim - c < quantize_chunk ? tokens.head_dim - c : quantize_chunk;
      quantize_row<L>(tokens.key + i * tokens.key_stride + c, count, arguments.key_inverse, bytes);
      for (Index j = 0; j < count; ++j) {
        biased[j] = static_cast<std::uint8_t>(bytes[j] + 128);
        sum += biased[j];
      }
      for (Index j = 0; j < count; ++j) {
        const std::uint8_t byte = biased[j];
        least[c + j] = slot == 0 || byte < least[c + j] ? byte : least[c + j];
        largest[c + j] = slot == 0 || byte > largest[c + j] ? byte : largest[c + j];
      }
      scatter_key(biased, count, slot, reinterpret_cast<std::uint8_t*>(tile) + c * tile_keys);
    }
    reinterpret_cast<std::int32_t*>(tile + layout.sums_offset())[slot] = sum;
    reinterpret_cast<std::uint8_t*>(tile + layout.greatest_offset())[slot] = pack_value<L>(
        tokens.value + i * tokens.value_stride, tokens.value_dim, arguments.value_inverse, slot,
        reinterpret_cast<std::int8_t*>(tile + layout.values_offset()));
  }
}

}  // namespace lowatt
