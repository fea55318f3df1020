// The SIMD contract: what every level offers to the kernels. Ops<L> is specialised in
// ops_<level>.hpp; integer primitives are intrinsics there, floating point is xsimd
// (Ops<L>::Float).
//
// A Register is the level's integer vector, used as `bytes` unsigned or signed 8-bit values or as
// `lanes` 32-bit values. Lane l of a 32-bit operation covers bytes 4l .. 4l+3. Loads and stores
// need no alignment. All functions are static and always inlined; kernels see no intrinsics.
//
//   constants      bytes, lanes (= bytes/4), block_vectors (accumulators per row that fit, 4 rows
//                  deep)
//   memory         load, store, broadcast4 (the same four bytes in every lane)
//   fills          zero, fill_u8, fill_i32
//   bytes          min_u8, max_u8, min_s8, max_s8, add_u8, subtract_u8, add_saturate_u8,
//                  subtract_saturate_u8, bit_and, bit_xor, shift_right_u8, raise_nibbles (0..15
//                  times 16), absolute_s8; choose_negative(a, negative, otherwise): of the two, by
//                  the sign of each byte of a; lookup_u8(table, used, index): 256 bytes of table
//                  are read, those from `used` on are zero; interleave4(a, b, c, d, out): lane l of
//                  out[v] holds byte interleaved(v, l) of each of the four
//   counting bits  popcount_u8 or, where counts_by_nibbles, broadcast16 (the same sixteen bytes in
//                  every 16) and shuffle16(table, index): of such a table, index 0..15; where
//                  looks_up_64, lookup_64(table, index): of a register of 64 bytes, index 0..63
//   16 bits        fill_u16, min_u16, min_s16, max_s16, reduce_max_s16, add_i16, add_saturate_u16,
//                  subtract_saturate_u16, multiply_high_u16, shift_right_u16, absolute_s16;
//                  negative_s16: -1 where negative, else 0; dot2(acc, a, b): acc + the sum of a*b
//                  over the lane's two signed values; narrow_u16(a, b): the lanes of a, then those
//                  of b, limited to 0..65535
//   packing        pack_u16(a, b) and pack_s16(a, b) from signed 32 bits, pack_u8(a, b) from signed
//                  16 bits, all saturating, each 16 bytes of a before those of b; restore_order
//                  brings the bytes of four registers packed twice into the order of the four
//   32 bits        add_i32, max_i32, divide_by_16_i32 (of multiples); first_lanes(a, count,
//                  otherwise): a in its first `count` > 0 lanes, or of Float, else 0
//   4-byte dot     dot4(acc, u, s): acc + sum of u*s over the lane's four bytes, u unsigned,
//                  s signed, exact for all values; dot4_narrow: the same, faster below avx512icl,
//                  where the caller knows that u0*s0 + u1*s1 and u2*s2 + u3*s3 fit 16 bits, as they
//                  do for any s above -128 and u up to narrow_weight, 127 or 255; where it is 127,
//                  wide_pairs(u): ones in the bytes of pairs u0, u1 and u2, u3 for which they may
//                  not, that is, whose sum is above 258
//                  dot4 in parts, for operands that are used often: the sum of
//                  dot4_part(acc, split_u8(u, p), split_s8(s, p)) over p < dot4_parts is dot4
//                  narrow sums, the fastest where pairs of products, and their sums over
//                  narrow_steps steps, fit 16 bits: acc = narrow_begin(total), then acc =
//                  narrow_add(acc, u, s), then total = narrow_end(total, acc)
//   reduction      reduce4(a, b, c, d, out): the four sums of all lanes; the same for as many
//                  registers as there are lanes: add_across4(a, b, c, d), for four of them, has in
//                  each 16 bytes their four sums over these bytes, add_blocks(parts) the sums of
//                  those parts in order; reduce_add_i32, reduce_max_i32, reduce_min_u8,
//                  reduce_min_u16; of Float reduce_max, reduce_add
//   and 64         fill_i64, min_i32, shift_left_i32; multiply_add_high(x, m, c): the upper 32 bits
//                  of x*m + c, x and m unsigned, c 64 bits in either half of every pair of lanes
//   comparison     mask_not_below(scores, threshold): 64 scores, int32, int16 or float, bit j set
//                  where scores[j] >= threshold; count_not_below(values, thresholds, count,
//                  reached): of each of 64 floats, how many of these thresholds it is not below, up
//                  to 255; store_addresses(mask, base, stride, out): base + j * stride for each set
//                  bit j, ascending; returns their number, may write 16 elements past them;
//                  nonzero_lanes(a): bit l set where lane l is not 0
//   float          multiply_add(a, b, c) = a*b + c, of one rounding where fuses_multiply_add;
//                  round_i32 half to even; to_float (of 32-bit lanes); load_i8_as_float (`lanes`
//                  signed bytes); load_f16, store_f16 (`lanes` numbers of half precision, as
//                  core/half.hpp); add_above(sum, x, y, term): sum, and term added where x > y;
//                  add_not_below: the same where x >= y; multiply_add_above(sum, x, y, a, b): the
//                  same with a*b; sign: -1, 0 or 1, of NaN 0; load_lanes, store_lanes: the first
//                  `count` < lanes floats alone; others load as 0
//   double         Double: half as many; to_double of as many int32 or float, store_as_float;
//                  quotient(a, divisor, inverse): a / divisor, for integer divisors below 2^49 of
//                  which inverse is the reciprocal
//   where dot4_parts is 1 (from avx512icl on): store_bytes(p, a, shift): the lowest byte of every
//                  lane after a shift to the right; separate4(a): four registers in the order that
//                  interleave4 leaves, back in the order of dims
#pragma once

#include "../arch/tags.hpp"
#include "../core/half.hpp"

// Units with kernels rename xsimd per level (dispatch/instantiate.hpp), so that its functions,
// which carry no level in their names at -O0, are not shared between levels.
#include <xsimd/xsimd.hpp>

// Before a loop over an array of registers: unless every such loop of a function is unrolled, g++
// keeps the array in memory.
#define LOWATT_UNROLL _Pragma("GCC unroll 8")

namespace lowatt {

template <class L>
struct Ops;

// What broadcast4 reads.
inline constexpr Index broadcast_bytes = 4;

// Narrow sums with s = -2 throughout, which is what distances take: a level may have something
// faster. total - 2u is end(total, add(begin(total), u, fill_u8(-2))).
template <class L>
struct TwiceSubtracted {
  using Register = typename Ops<L>::Register;
  static LOWATT_ALWAYS_INLINE Register begin(Register total) noexcept {
    return Ops<L>::narrow_begin(total);
  }
  static LOWATT_ALWAYS_INLINE Register add(Register acc, Register u, Register minus_twos) noexcept {
    return Ops<L>::narrow_add(acc, u, minus_twos);
  }
  static LOWATT_ALWAYS_INLINE Register end(Register total, Register acc) noexcept {
    return Ops<L>::narrow_end(total, acc);
  }
};

// a / divisor, rounded as the division is, where inverse is 1 / divisor, rounded; divisor an
// integer in [1, 2^49), the quotient normal or +0 (among subnormal numbers there are exact ties).
// The first product is within 2 ulp, so that the remainder, an integer of at most 53 bits times a
// power of two, is exact. Adding remainder * inverse, of relative error 2^-53, leaves an error
// below 2^-51 ulp. But a / divisor lies at least 1/(4 divisor) ulp from any number half-way between
// two doubles: such a number has 54 significant bits, its product with divisor as many or more, and
// a has 53. `fused` is a multiply_add of one rounding.
template <class Double, class Fused>
LOWATT_ALWAYS_INLINE Double fused_quotient(Double a, Double divisor, Double inverse,
                                           Fused&& fused) noexcept {
  const Double near = a * inverse;
  return fused(fused(near, -divisor, a), inverse, near);
}

LOWATT_ALWAYS_INLINE std::int32_t load_i32(const void* four_bytes) noexcept {
  std::int32_t value;
  __builtin_memcpy(&value, four_bytes, sizeof value);
  return value;
}

// Which bytes interleave4 brings together in lane l of its register v.
LOWATT_ALWAYS_INLINE constexpr Index interleaved(Index v, Index l) noexcept {
  return l / 4 * 16 + v * 4 + l % 4;
}

// store_addresses without a compress instruction.
LOWATT_ALWAYS_INLINE Index store_set_bits(std::uint64_t mask, const std::byte* base, Index stride,
                                          const std::byte** out) noexcept {
  const Index count = __builtin_popcountll(mask);
  for (; mask != 0; mask &= mask - 1) *out++ = base + __builtin_ctzll(mask) * stride;
  return count;
}

}  // namespace lowatt
