// Bitformer (arXiv 2311.13502): Q and K become planes of bits, scores are Hamming distances:
//   ham_ij = bits in which query i and key j differ,  S = planes * head_dim - 2 * ham
//   out_i  = sum_j softmax_j(temperature * S_ij) * v_j, with probabilities of 8 bits.
// It replaces softmax attention rather than approximating it: a model is trained with it.
#pragma once

#include "../core/setting.hpp"
#include "../quant/bit_planes.hpp"
#include "../quant/scale.hpp"

LOWATT_API_BEGIN

struct Bitformer {
  Setting scale = {};  // multiplies dot products where a temperature is derived; finite, > 0.
                       // Default 1/sqrt(head_dim)
  int planes = 1;      // in [1, 64]; sign encoding has one
  BitEncoding encoding = BitEncoding::automatic;
  bool center_keys = false;  // subtract each channel's mean over tokens from K

  // Thermometer thresholds spread over (-clip, clip), in units of Q and K; rounded to float32 once;
  // finite, >= 0. Default: the mean of |K| of the KV head, after centring.
  Setting clip = {};

  // Logits are temperature * S; finite, >= 0. Default: scale * mean|Q| * mean|K| for sign encoding,
  // calibrated for thermometer encoding (see calibrate.hpp).
  Setting temperature = {};
  bool calibrate_temperature = false;  // calibrate for sign encoding too
};

LOWATT_API_END

namespace lowatt {

// Whether temperatures come from a regression against exact scores.
LOWATT_ALWAYS_INLINE constexpr bool calibrates_temperature(const Bitformer& mechanism) noexcept {
  if (mechanism.temperature.given) return false;
  return mechanism.calibrate_temperature ||
         resolve(mechanism.encoding, mechanism.planes) == BitEncoding::thermometer;
}

// Fills table[m] = round_half_even(255 * exp(-2 * temperature * m)) for m = 0 .. largest, the
// weight of a key whose distance exceeds the row's minimum by m. Returns how many leading entries
// are not 0. All levels share this one routine, so they share its rounding.
LOWATT_ALWAYS_INLINE Index bitformer_probabilities(double temperature, Index largest,
                                                   std::uint8_t* table) noexcept {
  table[0] = 255;  // whatever the temperature, even where the product below were infinity times 0
  Index m = 1;
  for (; m <= largest; ++m) {
    const double p = 255.0 * __builtin_exp(-2.0 * temperature * static_cast<double>(m));
    table[m] = static_cast<std::uint8_t>(round_half_even(p));
    if (table[m] == 0) break;
  }
  const Index nonzero = m;
  for (; m <= largest; ++m) table[m] = 0;
  return nonzero;
}

}  // namespace lowatt
