// How LATTE's keys and values lie in memory. Per tile of 64 keys:
//
//   nibbles  [head_dim/8][64 keys][4 bytes] u8   high nibbles + 8, in 0..15; keys in the order of
//                                                nibble_position()
//   rows     [64 keys] of k8 + 128, u8, then v8, s8 (or the value in float32), each padded to 16
//            numbers
//
// Byte b of a lane of chunk c holds dim 8c + b in its low half and dim 8c + 4 + b in its high half.
//
// The first pass runs down the nibbles, lane by lane; they are all that a filtered key costs: half
// a byte per dim. A survivor's key and value are picked up together. A register wider than the
// padding reads on from a key into what follows it: queries are padded with zeros.
#pragma once

#include "../core/precision.hpp"
#include "../core/tiles.hpp"
#include "../quant/nibble.hpp"
#include "../quant/scale.hpp"
#include "../simd/quantize.hpp"

namespace lowatt {

inline constexpr Index nibble_group = 8;  // dims that share one register lane of the nibbles
inline constexpr Index nibble_chunk = tile_keys * nibble_group / 2;  // bytes of such a group
inline constexpr Index latte_row_padding = 16;
inline constexpr Index latte_query_padding = 64;  // whole registers of every level

// Which lane of a chunk belongs to a key. Of 32 keys, lanes i and i + 16 are four keys apart, so
// that scores of 32 bits become 16 bits in the keys' own order when registers of any width are
// packed with those 16 lanes further on.
LOWATT_ALWAYS_INLINE constexpr Index nibble_position(Index key) noexcept {
  return key / 32 * 32 + key % 8 / 4 * 16 + key % 32 / 8 * 4 + key % 4;
}

struct LatteTileLayout {
  Index nibble_bytes = 0;
  bool has_float_values = false;
  Index value_offset = 0;  // of the value in a row
  Index row_bytes = 0;

  LOWATT_ALWAYS_INLINE LatteTileLayout(Index head_dim, Index value_dim,
                                       Precision values = Precision::int8) noexcept
      : nibble_bytes(round_up(head_dim, nibble_group) / 2 * tile_keys),
        has_float_values(values == Precision::fp32),
        value_offset(round_up(head_dim, latte_row_padding)),
        row_bytes(value_offset +
                  round_up(value_dim, latte_row_padding) * (has_float_values ? 4 : 1)) {}

  LOWATT_ALWAYS_INLINE Index row_offset(Index slot) const noexcept {
    return nibble_bytes + slot * row_bytes;
  }
  // Where reading on from the last key leads past its row, the tile ends that much later.
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    const Index read = row_offset(tile_keys - 1) + round_up(value_offset, latte_query_padding);
    const Index end = row_offset(tile_keys);
    return round_up(read > end ? read : end, 64);
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    constexpr Index lane = nibble_chunk / tile_keys;
    for (Index chunk = 0; chunk < nibble_bytes; chunk += nibble_chunk)
      for (Index t = first; t < tile_keys; ++t)
        __builtin_memset(tile + chunk + nibble_position(t) * lane, 0, lane);
    erase_tokens(tile + nibble_bytes, 1, row_bytes, first);
  }
};

struct LattePackArguments {
  PackArguments tokens;
  float key_inverse = 0;    // 1/sk
  float value_inverse = 0;  // 1/sv
  NibbleSplit split = NibbleSplit::round;
  Precision value_precision = Precision::int8;
};

static_assert(quantize_chunk % nibble_group == 0);

template <class L>
void latte_pack(const LattePackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const LatteTileLayout layout(tokens.head_dim, tokens.value_dim, arguments.value_precision);
  constexpr Index half = nibble_group / 2;
  alignas(64) std::int8_t bytes[quantize_chunk];
  alignas(64) std::uint8_t high[quantize_chunk];
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    auto* tile = reinterpret_cast<std::uint8_t*>(tokens.tile((tokens.first + i) / tile_keys));
    std::uint8_t* row = tile + layout.row_offset(slot);
    count_saturated<L>(tokens, i, arguments.key_inverse,
                       layout.has_float_values ? 0 : arguments.value_inverse, int8_limit);
    for (Index c = 0; c < tokens.head_dim; c += quantize_chunk) {
      const Index rest = tokens.head_dim - c;
      const Index count = rest < quantize_chunk ? rest : quantize_chunk;
      quantize_row<L>(tokens.key + i * tokens.key_stride + c, count, arguments.key_inverse, bytes);
      for (Index j = 0; j < count; ++j) row[c + j] = static_cast<std::uint8_t>(bytes[j] + 128);
      for (Index j = count; j < round_up(count, nibble_group); ++j) bytes[j] = 0;
      for (Index j = 0; j < round_up(count, nibble_group); ++j)
        high[j] = static_cast<std::uint8_t>(high_nibble(bytes[j], arguments.split) + 8);
      for (Index j = 0; j < count; j += nibble_group) {
        std::uint8_t* group =
            tile + (c + j) / nibble_group * nibble_chunk + nibble_position(slot) * half;
        for (Index b = 0; b < half; ++b)
          group[b] = static_cast<std::uint8_t>(high[j + b] | high[j + half + b] << 4);
      }
    }
    const float* value = tokens.value + i * tokens.value_stride;
    if (layout.has_float_values)
      __builtin_memcpy(row + layout.value_offset, value,
                       static_cast<std::size_t>(tokens.value_dim) * sizeof(float));
    else
      quantize_row<L>(value, tokens.value_dim, arguments.value_inverse,
                      reinterpret_cast<std::int8_t*>(row + layout.value_offset));
  }
}

}  // namespace lowatt
