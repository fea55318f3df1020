// Rows of floats as planes of bits: plane t holds one bit per channel, 1 where the value reaches
// the plane's threshold. Sign encoding is one plane with threshold 0; thermometer encoding spreads
// `planes` thresholds evenly over (-clip, clip), so that the Hamming distance between two codes is
// the L1 distance between their levels.
//
// A packed row is plane-major, plane_bytes(dim) bytes per plane:
//   byte:   | plane 0: ch 0..7 | plane 0: ch 8..15 | ... | plane 1: ch 0..7 | ...
//   channel k is bit k % 8 of byte k / 8; bits beyond the last channel are 0, so that they cancel
//   in the distance of two rows.
#pragma once

#include "../core/config.hpp"

namespace lowatt {

enum class BitEncoding {
  automatic,   // sign for one plane, else thermometer
  sign,        // one plane: x >= 0 (so -0 is 1 and NaN is 0)
  thermometer  // plane t: x >= its threshold
};

inline constexpr int max_planes = 64;

LOWATT_ALWAYS_INLINE constexpr Index plane_bytes(Index dim) noexcept {
  return (dim + 7) / 8;
}

// Threshold of plane t of `planes`, in float32 operations exactly as written.
LOWATT_ALWAYS_INLINE constexpr float thermometer_threshold(int t, int planes, float clip) noexcept {
  return clip * (static_cast<float>(2 * (t + 1) - (planes + 1)) / static_cast<float>(planes + 1));
}

// Distance between neighbouring thresholds: what one level of thermometer encoding stands for.
LOWATT_ALWAYS_INLINE constexpr float thermometer_step(int planes, float clip) noexcept {
  return clip * (2.0f / static_cast<float>(planes + 1));
}

LOWATT_ALWAYS_INLINE constexpr BitEncoding resolve(BitEncoding encoding, int planes) noexcept {
  if (encoding != BitEncoding::automatic) return encoding;
  return planes == 1 ? BitEncoding::sign : BitEncoding::thermometer;
}

// One threshold per plane. Sign encoding is threshold 0, so packing need not know the encoding.
struct BitThresholds {
  int planes = 0;
  float value[max_planes] = {};
};

LOWATT_ALWAYS_INLINE constexpr BitThresholds bit_thresholds(BitEncoding encoding, int planes,
                                                            float clip) noexcept {
  BitThresholds thresholds{};
  thresholds.planes = planes;
  if (resolve(encoding, planes) == BitEncoding::sign) return thresholds;
  for (int t = 0; t < planes; ++t) thresholds.value[t] = thermometer_threshold(t, planes, clip);
  return thresholds;
}

// The level of x: how many thresholds it reaches.
LOWATT_ALWAYS_INLINE int thermometer_level(float x, const BitThresholds& thresholds) noexcept {
  int level = 0;
  for (int t = 0; t < thresholds.planes; ++t) level += x >= thresholds.value[t] ? 1 : 0;
  return level;
}

// Bits of up to eight channels, the first in bit 0.
LOWATT_ALWAYS_INLINE std::uint8_t pack_byte(const float* x, Index channels,
                                            float threshold) noexcept {
  unsigned byte = 0;
  for (Index k = 0; k < channels; ++k) byte |= (x[k] >= threshold ? 1u : 0u) << k;
  return static_cast<std::uint8_t>(byte);
}

// Packs one row of `dim` floats into thresholds.planes * plane_bytes(dim) bytes.
LOWATT_ALWAYS_INLINE void pack_bit_planes(const float* x, Index dim,
                                          const BitThresholds& thresholds,
                                          std::uint8_t* packed) noexcept {
  for (int t = 0; t < thresholds.planes; ++t)
    for (Index k = 0; k < dim; k += 8)
      *packed++ = pack_byte(x + k, dim - k < 8 ? dim - k : 8, thresholds.value[t]);
}

// Number of bits that are set. Where there is no instruction for it, compilers call a function.
LOWATT_ALWAYS_INLINE constexpr int set_bits(std::uint64_t word) noexcept {
#if defined(__POPCNT__)
  return __builtin_popcountll(word);
#else
  word -= word >> 1 & 0x5555555555555555u;                                  // of two bits
  word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);  // of four
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;                        // of eight
  return static_cast<int>(word * 0x0101010101010101u >> 56);
#endif
}

// Number of bits in which two packed rows of `bytes` bytes differ.
LOWATT_ALWAYS_INLINE Index hamming_distance(const std::uint8_t* a, const std::uint8_t* b,
                                            Index bytes) noexcept {
  Index distance = 0;
  Index i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::uint64_t x = 0, y = 0;
    __builtin_memcpy(&x, a + i, 8);
    __builtin_memcpy(&y, b + i, 8);
    distance += set_bits(x ^ y);
  }
  for (; i < bytes; ++i) distance += set_bits(static_cast<unsigned>(a[i] ^ b[i]));
  return distance;
}

}  // namespace lowatt
