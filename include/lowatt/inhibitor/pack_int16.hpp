// How the Inhibitor's keys and values lie in memory at 16 bits. Per tile of 64 keys:
//
//   keys    [head_dim/2][64 keys][2 dims] s16           one register: keys x 2 consecutive dims
//   sums    [64 keys] i32                               sum of the key over its dims
//   values  [value_dim/16][32 key pairs][16 dims][2 keys] s16   one register: dims x 2 keys
//
// A two-element dot product over a register needs no shuffle, at any register width. Dimensions are
// padded with zeros to a multiple of 2 (keys) and 16 (values). A token is appended by scattering it
// into the open tile; closed tiles are never touched again. Unused slots are zero: a value of 0 is
// inhibited whatever its score.
#pragma once

#include "../core/tiles.hpp"
#include "../quant/scale.hpp"
#include "../simd/quantize.hpp"

namespace lowatt {

inline constexpr Index key_pair = 2;    // dims of a key that lie together
inline constexpr Index value_pair = 2;  // keys of a value dim that lie together
inline constexpr Index value_pair_block = 16;
inline constexpr Index value_pair_stride = value_pair_block * value_pair;  // elements

struct InhibitorInt16TileLayout {
  Index key_count = 0, value_count = 0;  // elements, padding included

  LOWATT_ALWAYS_INLINE InhibitorInt16TileLayout(Index head_dim, Index value_dim) noexcept
      : key_count(round_up(head_dim, key_pair) * tile_keys),
        value_count(round_up(value_dim, value_pair_block) * tile_keys) {}

  LOWATT_ALWAYS_INLINE Index sums_offset() const noexcept {
    return key_count * Index{sizeof(std::int16_t)};
  }
  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept {
    return sums_offset() + tile_keys * Index{sizeof(std::int32_t)};
  }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    return values_offset() + value_count * Index{sizeof(std::int16_t)};
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    constexpr Index bytes = sizeof(std::int16_t);
    erase_tokens(tile, key_count / (key_pair * tile_keys), key_pair * bytes, first);
    erase_tokens(tile + sums_offset(), 1, Index{sizeof(std::int32_t)}, first);
    erase_tokens_together(tile + values_offset(), value_count / (value_pair_block * tile_keys),
                          value_pair, value_pair_block, bytes, first);
  }
};

// Elements from the start of a tile's values to register `vector` (bytes/4 dims) of key pair 0; the
// other pairs follow at value_pair_stride.
template <class L>
LOWATT_ALWAYS_INLINE constexpr Index value_pair_offset(Index vector) noexcept {
  constexpr Index size = Ops<L>::bytes / Index{sizeof(std::int16_t)};
  constexpr Index per_block = value_pair_stride / size;
  return vector / per_block * value_pair_block * tile_keys + vector % per_block * size;
}

struct InhibitorInt16PackArguments {
  PackArguments tokens;
  float key_inverse = 0;    // 1/s of keys and queries
  float value_inverse = 0;  // 1/sv
};

static_assert(quantize_chunk % value_pair_block == 0 && quantize_chunk % key_pair == 0);

template <class L>
void inhibitor_int16_pack(const InhibitorInt16PackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const InhibitorInt16TileLayout layout(tokens.head_dim, tokens.value_dim);
  alignas(64) std::int16_t steps[quantize_chunk];
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    auto* keys = reinterpret_cast<std::int16_t*>(tile) + slot * key_pair;
    auto* values = reinterpret_cast<std::int16_t*>(tile + layout.values_offset()) +
                   slot / value_pair * value_pair_stride + slot % value_pair;

    count_saturated<L>(tokens, i, arguments.key_inverse, arguments.value_inverse, int16_limit);
    std::int32_t sum = 0;
    for (Index first = 0; first < tokens.head_dim; first += quantize_chunk) {
      const Index rest = tokens.head_dim - first;
      const Index count = rest < quantize_chunk ? rest : quantize_chunk;
      quantize_row<L>(tokens.key + i * tokens.key_stride + first, count, arguments.key_inverse,
                      steps);
      for (Index c = 0; c < count; ++c) {
        keys[(first + c) / key_pair * key_pair * tile_keys + c % key_pair] = steps[c];
        sum += steps[c];
      }
    }
    reinterpret_cast<std::int32_t*>(tile + layout.sums_offset())[slot] = sum;

    for (Index first = 0; first < tokens.value_dim; first += quantize_chunk) {
      const Index rest = tokens.value_dim - first;
      const Index count = rest < quantize_chunk ? rest : quantize_chunk;
      quantize_row<L>(tokens.value + i * tokens.value_stride + first, count,
                      arguments.value_inverse, steps);
      for (Index c = 0; c < count; ++c)
        values[(first + c) / value_pair_block * value_pair_block * tile_keys +
               c % value_pair_block * value_pair] = steps[c];
    }
  }
}

}  // namespace lowatt
