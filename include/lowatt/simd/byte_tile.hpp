// How 64 tokens of 8-bit keys or values lie in memory, so that a 4-byte dot product over a register
// needs no shuffle, at any register width and as operand B of an AMX product:
//
//   keys    [head_dim/4][64 keys][4 dims]                 one register: keys x 4 consecutive dims
//   values  [value_dim/16][16 key groups][16 dims][4 keys]  one register: dims x 4 consecutive keys
//
// Dimensions are padded with zeros to a multiple of 4 (keys) and 16 (values). A token is appended
// by scattering its bytes into the open tile; closed tiles are never touched again.
#pragma once

#include "../core/tiles.hpp"
#include "quantize.hpp"

namespace lowatt {

inline constexpr Index key_group = 4;    // dims of a key that lie together
inline constexpr Index value_group = 4;  // keys of a value dim that lie together
inline constexpr Index value_block = 16;
inline constexpr Index value_group_stride = value_block * value_group;  // bytes

LOWATT_ALWAYS_INLINE constexpr Index key_tile_bytes(Index head_dim) noexcept {
  return round_up(head_dim, key_group) * tile_keys;
}
LOWATT_ALWAYS_INLINE constexpr Index value_tile_bytes(Index value_dim) noexcept {
  return round_up(value_dim, value_block) * tile_keys;
}

// Writes the bytes of key `slot` (0..63) into a key tile. What head_dim lacks to a multiple of four
// is read too and should be zero.
LOWATT_ALWAYS_INLINE void scatter_key(const std::uint8_t* key, Index head_dim, Index slot,
                                      std::uint8_t* tile) noexcept {
  for (Index c = 0; c < head_dim; c += key_group)
    __builtin_memcpy(tile + c * tile_keys + slot * key_group, key + c, key_group);
}

// Writes dims [first_dim, first_dim + count) of value `slot` (0..63) into a value tile. first_dim
// is a multiple of 16.
LOWATT_ALWAYS_INLINE void scatter_value(const std::int8_t* value, Index first_dim, Index count,
                                        Index slot, std::int8_t* tile) noexcept {
  tile += slot / value_group * value_group_stride + slot % value_group;
  for (Index c = 0; c < count; c += value_block) {
    std::int8_t* block = tile + (first_dim + c) * tile_keys;
    const Index dims = count - c < value_block ? count - c : value_block;
    if (dims == value_block) {
      for (Index i = 0; i < value_block; ++i) block[i * value_group] = value[c + i];
    } else {
      for (Index i = 0; i < dims; ++i) block[i * value_group] = value[c + i];
    }
  }
}

static_assert(quantize_chunk % value_block == 0 && quantize_chunk % (2 * key_group) == 0);

// Quantises one value and writes its bytes to `slot` (0..63) of a value tile.
template <class L>
void pack_value(const float* value, Index value_dim, float inverse, Index slot,
                std::int8_t* tile) noexcept {
  alignas(64) std::int8_t bytes[quantize_chunk];
  for (Index first = 0; first < value_dim; first += quantize_chunk) {
    const Index count = value_dim - first < quantize_chunk ? value_dim - first : quantize_chunk;
    quantize_row<L>(value + first, count, inverse, bytes);
    scatter_value(bytes, first, count, slot, tile);
  }
}

// Makes keys and values from `first` on padding again.
LOWATT_ALWAYS_INLINE void erase_keys(std::byte* tile, Index key_bytes, Index first) noexcept {
  erase_tokens(tile, key_bytes / (key_group * tile_keys), key_group, first);
}
LOWATT_ALWAYS_INLINE void erase_values(std::byte* tile, Index value_bytes, Index first) noexcept {
  erase_tokens_together(tile, value_bytes / (value_block * tile_keys), value_group, value_block, 1,
                        first);
}

// Bytes from the start of a value tile to register `vector` (bytes/4 dims) of key group 0; the key
// groups follow at value_group_stride.
template <class L>
LOWATT_ALWAYS_INLINE constexpr Index value_vector_offset(Index vector) noexcept {
  constexpr Index per_block = value_group_stride / Ops<L>::bytes;
  return vector / per_block * value_block * tile_keys + vector % per_block * Ops<L>::bytes;
}

}  // namespace lowatt
