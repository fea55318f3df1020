// How Bitformer's keys and values lie in memory. Per tile of 64 keys:
//
//   bits    [planes][head_dim/8][64 keys] u8                  bit k % 8 of byte k / 8 is channel k
//   values  [value_dim/16][16 key groups][16 dims][4 keys] s8                  (simd/byte_tile.hpp)
//
// A register of bits holds eight channels of many keys, so that a query's byte against it (xor,
// count, add) gives distances that lie in the order of the keys. Bits beyond the last channel are 0
// in queries and keys alike: they cancel.
#pragma once

#include "../quant/bit_planes.hpp"
#include "../simd/byte_tile.hpp"

namespace lowatt {

struct BitformerTileLayout {
  Index bit_bytes = 0, value_bytes = 0;

  LOWATT_ALWAYS_INLINE BitformerTileLayout(int planes, Index head_dim, Index value_dim) noexcept
      : bit_bytes(planes * plane_bytes(head_dim) * tile_keys),
        value_bytes(value_tile_bytes(value_dim)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept { return bit_bytes; }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return bit_bytes + value_bytes; }
};

struct BitformerPackArguments {
  PackArguments tokens;
  int planes = 1;
  const float* thresholds = nullptr;  // one per plane
  const float* key_mean = nullptr;    // one per channel, subtracted from keys; null: none
  float value_inverse = 0;            // 1/sv
};

// An integer for each float such that x >= y exactly when bit_order(x) >= bit_order(y): both zeros
// are 0, and a NaN, which reaches no threshold, lies below everything.
LOWATT_ALWAYS_INLINE std::int32_t bit_order(float x) noexcept {
  const std::int32_t bits = __builtin_bit_cast(std::int32_t, x);
  const std::int32_t magnitude = bits & 0x7fffffff;
  const std::int32_t order = bits < 0 ? -magnitude : magnitude;
  return magnitude > 0x7f800000 ? INT32_MIN : order;
}

// Encodes one row: calls each(step, byte) for the bytes of all planes, eight channels at a time,
// where step counts bytes plane by plane. `mean` may be null.
template <class L, class Each>
LOWATT_ALWAYS_INLINE void bitformer_encode(const float* x, const float* mean, Index dim, int planes,
                                           const float* thresholds, Each&& each) noexcept {
  constexpr Index chunk = 64;  // channels that one comparison covers
  alignas(64) float part[chunk];
  alignas(64) std::int32_t order[chunk];
  for (Index c = 0; c < dim; c += chunk) {
    const Index count = dim - c < chunk ? dim - c : chunk;
    const float* source = x + c;
    if (mean != nullptr || count < chunk) {
      for (Index k = 0; k < count; ++k)
        part[k] = mean != nullptr ? x[c + k] - mean[c + k] : x[c + k];
      for (Index k = count; k < chunk; ++k) part[k] = __builtin_nanf("");  // no bit in any plane
      source = part;
    }
    for (Index k = 0; k < chunk; ++k) order[k] = bit_order(source[k]);
    for (int t = 0; t < planes; ++t) {
      std::uint64_t word = Ops<L>::mask_not_below(order, bit_order(thresholds[t]));
      const Index first = t * plane_bytes(dim) + c / 8;
      for (Index b = 0; b < plane_bytes(count); ++b, word >>= 8)
        each(first + b, static_cast<std::uint8_t>(word));
    }
  }
}

template <class L>
void bitformer_pack(const BitformerPackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const BitformerTileLayout layout(arguments.planes, tokens.head_dim, tokens.value_dim);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    auto* bits = reinterpret_cast<std::uint8_t*>(tile);
    bitformer_encode<L>(
        tokens.key + i * tokens.key_stride, arguments.key_mean, tokens.head_dim, arguments.planes,
        arguments.thresholds,
        [&](Index step, std::uint8_t byte) noexcept { bits[step * tile_keys + slot] = byte; });
    pack_value<L>(tokens.value + i * tokens.value_stride, tokens.value_dim, arguments.value_inverse,
                  slot, reinterpret_cast<std::int8_t*>(tile + layout.values_offset()));
  }
}

}  // namespace lowatt
