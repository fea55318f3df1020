// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit values; tests hold the two equal.
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
  product = xsimd::select(product == product, product, Float(0.0f));
  return Ops<L>::round_i32(xsimd::min(xsimd::max(product, Float(-limit)), Float(limit)));
}

// The same for Ops<L>::bytes numbers, one byte each.
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

// out[i] = clamp(round_half_even(x[i] * inverse), -limit, limit), as quantize() has it.
template <class L>
void quantize_row(const float* x, Index count, float inverse, std::int8_t* out,
                  int limit = 127) noexcept {
  constexpr Index step = Ops<L>::bytes;
  const auto bound = static_cast<float>(limit);
  Index i = 0;
  for (; i + step <= count; i += step) quantize_step<L>(x + i, inverse, bound, out + i);
  if (i == count) return;
  alignas(64) float rest[step] = {};
  alignas(64) std::int8_t steps[step];
  for (Index j = 0; i + j < count; ++j) rest[j] = x[i + j];
  quantize_step<L>(rest, inverse, bound, steps);
  for (Index j = 0; i + j < count; ++j) out[i + j] = steps[j];
}

}  // namespace lowatt
