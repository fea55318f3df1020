// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit or 16-bit values; tests hold the
// two equal.
#pragma once

#include "ops.hpp"

namespace lowatt {

inline constexpr Index quantize_step = 16;

// Dims of a row that packing quantises at once: bounds the stack, not the row.
inline constexpr Index quantize_chunk = 64;

// Sixteen numbers at once. T is int8_t or int16_t.
template <class L, class T>
LOWATT_ALWAYS_INLINE void quantize_sixteen(const float* x, float inverse, T* out) noexcept {
  using Float = typename Ops<L>::Float;
  constexpr float limit = sizeof(T) == 1 ? 127.0f : 32767.0f;
  const Float lowest(-limit), highest(limit), zero(0.0f);
  alignas(64) std::int32_t rounded[quantize_step];
  for (Index j = 0; j < quantize_step; j += Ops<L>::lanes) {
    Float product = Float::load_unaligned(x + j) * Float(inverse);
    product = xsimd::select(product == product, product, zero);
    product = xsimd::min(xsimd::max(product, lowest), highest);
    Ops<L>::store(rounded + j, Ops<L>::round_i32(product));
  }
  for (Index j = 0; j < quantize_step; ++j) out[j] = static_cast<T>(rounded[j]);
}

// out[i] = clamp(round_half_even(x[i] * inverse), -limit, limit), limit T's largest number; NaN
// gives 0. The product is converted directly, so there is no addition that a compiler could fuse it
// with.
template <class L, class T>
void quantize_row(const float* x, Index count, float inverse, T* out) noexcept {
  Index i = 0;
  for (; i + quantize_step <= count; i += quantize_step)
    quantize_sixteen<L>(x + i, inverse, out + i);
  if (i == count) return;
  alignas(64) float rest[quantize_step] = {};
  alignas(64) T steps[quantize_step];
  for (Index j = 0; i + j < count; ++j) rest[j] = x[i + j];
  quantize_sixteen<L>(rest, inverse, steps);
  for (Index j = 0; i + j < count; ++j) out[i + j] = steps[j];
}

}  // namespace lowatt
