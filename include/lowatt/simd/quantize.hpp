// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit values; tests hold the two equal.
#pragma once

#include "ops.hpp"

namespace lowatt {

inline constexpr Index quantize_step = 16;

// Dims of a row that packing quantises at once: bounds the stack, not the row.
inline constexpr Index quantize_chunk = 64;

// Sixteen numbers at once.
template <class L>
LOWATT_ALWAYS_INLINE void quantize_sixteen(const float* x, float inverse,
                                           std::int8_t* out) noexcept {
  using Float = typename Ops<L>::Float;
  const Float lowest(-127.0f), highest(127.0f), zero(0.0f);
  alignas(64) std::int32_t rounded[quantize_step];
  for (Index j = 0; j < quantize_step; j += Ops<L>::lanes) {
    Float product = Float::load_unaligned(x + j) * Float(inverse);
    product = xsimd::select(product == product, product, zero);
    product = xsimd::min(xsimd::max(product, lowest), highest);
    Ops<L>::store(rounded + j, Ops<L>::round_i32(product));
  }
  for (Index j = 0; j < quantize_step; ++j) out[j] = static_cast<std::int8_t>(rounded[j]);
}

// out[i] = clamp(round_half_even(x[i] * inverse), -127, 127); NaN gives 0. The product is converted
// directly, so there is no addition that a compiler could fuse it with.
template <class L>
void quantize_row(const float* x, Index count, float inverse, std::int8_t* out) noexcept {
  Index i = 0;
  for (; i + quantize_step <= count; i += quantize_step)
    quantize_sixteen<L>(x + i, inverse, out + i);
  if (i == count) return;
  alignas(64) float rest[quantize_step] = {};
  alignas(64) std::int8_t bytes[quantize_step];
  for (Index j = 0; i + j < count; ++j) rest[j] = x[i + j];
  quantize_sixteen<L>(rest, inverse, bytes);
  for (Index j = 0; i + j < count; ++j) out[i + j] = bytes[j];
}

}  // namespace lowatt
