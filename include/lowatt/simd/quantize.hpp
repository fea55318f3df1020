// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit or 16-bit values; tests hold the
// two equal.
#pragma once

#include "ops.hpp"

namespace lowatt {

// Dims of a row that packing quantises at once: bounds the stack, not the row.
inline constexpr Index quantize_chunk = 64;

// One register of clamp(round_half_even(x * inverse), -limit, limit); NaN gives 0. The product is
// converted directly, so there is no addition that a compiler could fuse it with.
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Register quantize_lanes(const float* x, float inverse,
                                                              float limit) noexcept {
  using Float = typename Ops<L>::Float;
  Float product = Float::load_unaligned(x) * Float(inverse);
  product = xsimd::select(xsimd::isnan(product), Float(0.0f), product);
  return Ops<L>::round_i32(xsimd::min(xsimd::max(product, Float(-limit)), Float(limit)));
}

// Numbers that quantize_step takes.
template <class L, class T>
inline constexpr Index quantize_width = sizeof(T) == 1 ? Ops<L>::bytes : Ops<L>::lanes;

template <class L>
LOWATT_ALWAYS_INLINE void quantize_step(const float* x, float inverse, float limit,
                                        std::int8_t* out) noexcept {
  using Op = Ops<L>;
  const auto part = [&](int i) __attribute__((always_inline)) {
    // Bytes are packed as unsigned ones.
    return Op::add_i32(quantize_lanes<L>(x + i * Op::lanes, inverse, limit), Op::fill_i32(128));
  };
  const auto bytes = Op::restore_order(
      Op::pack_u8(Op::pack_u16(part(0), part(1)), Op::pack_u16(part(2), part(3))));
  Op::store(out, Op::bit_xor(bytes, Op::fill_u8(0x80)));
}
template <class L>
LOWATT_ALWAYS_INLINE void quantize_step(const float* x, float inverse, float limit,
                                        std::int16_t* out) noexcept {
  alignas(64) std::int32_t lanes[Ops<L>::lanes];
  Ops<L>::store(lanes, quantize_lanes<L>(x, inverse, limit));
  for (Index j = 0; j < Ops<L>::lanes; ++j) out[j] = static_cast<std::int16_t>(lanes[j]);
}

// out[i] = clamp(round_half_even(x[i] * inverse), -limit, limit), as quantize() has it. T is int8_t
// or int16_t.
template <class L, class T>
void quantize_row(const float* x, Index count, float inverse, T* out,
                  int limit = sizeof(T) == 1 ? 127 : 32767) noexcept {
  constexpr Index step = quantize_width<L, T>;
  const auto bound = static_cast<float>(limit);
  Index i = 0;
  for (; i + step <= count; i += step) quantize_step<L>(x + i, inverse, bound, out + i);
  if (i == count) return;
  alignas(64) float rest[step] = {};
  alignas(64) T steps[step];
  for (Index j = 0; i + j < count; ++j) rest[j] = x[i + j];
  quantize_step<L>(rest, inverse, bound, steps);
  for (Index j = 0; i + j < count; ++j) out[i + j] = steps[j];
}

}  // namespace lowatt
