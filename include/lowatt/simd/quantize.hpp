// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit values; tests hold the two equal.
#pragma once

#include "ops.hpp"

namespace lowatt {

// Dims of a row that packing quantises at once: bounds the stack, not the row.
inline constexpr Index quantize_chunk = 64;

// A register of clamp(round_half_even(x * inverse), -127, 127), one byte each; NaN gives 0. The
// product is converted directly, so there is no addition that a compiler could fuse it with.
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Register quantize_register(const float* x,
                                                                 float inverse) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const Float lowest(-127.0f), highest(127.0f), zero(0.0f);
  typename Op::Register part[4];
  LOWATT_UNROLL
  for (int i = 0; i < 4; ++i) {
    Float product = Float::load_unaligned(x + i * Op::lanes) * Float(inverse);
    product = xsimd::select(product == product, product, zero);
    product = xsimd::min(xsimd::max(product, lowest), highest);
    // Bytes are packed as unsigned ones.
    part[i] = Op::add_i32(Op::round_i32(product), Op::fill_i32(128));
  }
  const auto bytes = Op::restore_order(
      Op::pack_u8(Op::pack_u16(part[0], part[1]), Op::pack_u16(part[2], part[3])));
  return Op::bit_xor(bytes, Op::fill_u8(0x80));
}

// out[i] = clamp(round_half_even(x[i] * inverse), -127, 127); NaN gives 0.
template <class L>
void quantize_row(const float* x, Index count, float inverse, std::int8_t* out) noexcept {
  constexpr Index step = Ops<L>::bytes;
  Index i = 0;
  for (; i + step <= count; i += step) Ops<L>::store(out + i, quantize_register<L>(x + i, inverse));
  if (i == count) return;
  alignas(64) float rest[step] = {};
  alignas(64) std::int8_t bytes[step];
  for (Index j = 0; i + j < count; ++j) rest[j] = x[i + j];
  Ops<L>::store(bytes, quantize_register<L>(rest, inverse));
  for (Index j = 0; i + j < count; ++j) out[i + j] = bytes[j];
}

}  // namespace lowatt
