// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit or 16-bit values; tests hold the
// two equal.
#pragma once

#include "../core/tiles.hpp"
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

// How many of the products of x and inverse round to more than the limit. Limits are odd, so that
// half a step beyond one rounds up. NaN is not counted.
LOWATT_ALWAYS_INLINE std::int64_t count_clamped(const float* x, Index count, float inverse,
                                                float bound) noexcept {
  std::int64_t clamped = 0;
  for (Index i = 0; i < count; ++i) clamped += __builtin_fabsf(x[i] * inverse) >= bound ? 1 : 0;
  return clamped;
}

// The same over rows. Clamping is rare, so most rows are only searched for their largest magnitude.
// (A maximum takes its second operand where the first one is NaN.)
template <class L>
std::int64_t count_clamped_rows(const float* x, Index stride, Index rows, Index count,
                                float inverse, int limit) noexcept {
  using Float = typename Ops<L>::Float;
  constexpr int chains = 4;  // a maximum takes as many cycles
  const float bound = static_cast<float>(limit) + 0.5f;
  const auto larger = [](const float* from, Float other) __attribute__((always_inline)) {
    return xsimd::max(xsimd::abs(Float::load_unaligned(from)), other);
  };
  Float largest[chains] = {Float(0.0f), Float(0.0f), Float(0.0f), Float(0.0f)};
  float rest = 0;
  for (Index r = 0; r < rows; ++r) {
    const float* row = x + r * stride;
    Index i = 0;
    for (; i + chains * Ops<L>::lanes <= count; i += chains * Ops<L>::lanes) {
      LOWATT_UNROLL
      for (int c = 0; c < chains; ++c) largest[c] = larger(row + i + c * Ops<L>::lanes, largest[c]);
    }
    for (; i + Ops<L>::lanes <= count; i += Ops<L>::lanes) largest[0] = larger(row + i, largest[0]);
    for (; i < count; ++i) rest = __builtin_fabsf(row[i]) > rest ? __builtin_fabsf(row[i]) : rest;
  }
  const float of_lanes = Ops<L>::reduce_max(
      xsimd::max(xsimd::max(largest[0], largest[1]), xsimd::max(largest[2], largest[3])));
  if (of_lanes * inverse < bound && rest * inverse < bound) return 0;
  std::int64_t clamped = 0;
  for (Index r = 0; r < rows; ++r) clamped += count_clamped(x + r * stride, count, inverse, bound);
  return clamped;
}

// Called for every token i in turn, counts what quantising them clamps. An inverse of 0 stands for
// what is not quantised so.
template <class L>
LOWATT_ALWAYS_INLINE void count_saturated(const PackArguments& tokens, Index i, float key_inverse,
                                          float value_inverse, int limit) noexcept {
  constexpr Index together = 16;  // tokens whose rows stay in the cache until they are packed
  if (i % together != 0 || tokens.saturated == nullptr) return;
  const Index rows = tokens.count - i < together ? tokens.count - i : together;
  if (key_inverse != 0)
    tokens.saturated->keys +=
        count_clamped_rows<L>(tokens.key + i * tokens.key_stride, tokens.key_stride, rows,
                              tokens.head_dim, key_inverse, limit);
  if (value_inverse != 0)
    tokens.saturated->values +=
        count_clamped_rows<L>(tokens.value + i * tokens.value_stride, tokens.value_stride, rows,
                              tokens.value_dim, value_inverse, limit);
}

}  // namespace lowatt
