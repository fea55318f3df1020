// Advanced SIMD of AArch64: 32 registers of 16 bytes, byte shuffle and popcount, multiply-add
// across pairs, fused multiply-add, half precision. Four-byte dot products only where the unit's
// flags allow the dot product extension (-march=armv8.2-a+dotprod).
#pragma once

#include <arm_neon.h>

#include "ops.hpp"

namespace lowatt {

template <>
struct Ops<arch::neon64> {
  using Register = uint8x16_t;
  using Float = xsimd::batch<float, xsimd::neon64>;
  using Double = xsimd::batch<double, xsimd::neon64>;
  static constexpr int bytes = 16;
  static constexpr int lanes = 4;
  static constexpr int block_vectors = 4;

  // The same bits as numbers of another width, and back.
  static LOWATT_ALWAYS_INLINE int8x16_t s8(Register a) noexcept { return vreinterpretq_s8_u8(a); }
  static LOWATT_ALWAYS_INLINE int16x8_t s16(Register a) noexcept { return vreinterpretq_s16_u8(a); }
  static LOWATT_ALWAYS_INLINE int32x4_t s32(Register a) noexcept { return vreinterpretq_s32_u8(a); }
  static LOWATT_ALWAYS_INLINE uint16x8_t u16(Register a) noexcept {
    return vreinterpretq_u16_u8(a);
  }
  static LOWATT_ALWAYS_INLINE uint32x4_t u32(Register a) noexcept {
    return vreinterpretq_u32_u8(a);
  }
  static LOWATT_ALWAYS_INLINE Register bits(int8x16_t a) noexcept { return vreinterpretq_u8_s8(a); }
  static LOWATT_ALWAYS_INLINE Register bits(int16x8_t a) noexcept {
    return vreinterpretq_u8_s16(a);
  }
  static LOWATT_ALWAYS_INLINE Register bits(int32x4_t a) noexcept {
    return vreinterpretq_u8_s32(a);
  }
  static LOWATT_ALWAYS_INLINE Register bits(uint16x8_t a) noexcept {
    return vreinterpretq_u8_u16(a);
  }
  static LOWATT_ALWAYS_INLINE Register bits(uint32x4_t a) noexcept {
    return vreinterpretq_u8_u32(a);
  }

  static LOWATT_ALWAYS_INLINE Register load(const void* p) noexcept {
    return vld1q_u8(static_cast<const std::uint8_t*>(p));
  }
  static LOWATT_ALWAYS_INLINE void store(void* p, Register a) noexcept {
    vst1q_u8(static_cast<std::uint8_t*>(p), a);
  }
  static LOWATT_ALWAYS_INLINE Register broadcast4(const void* p) noexcept {
    return fill_i32(load_i32(p));
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return vdupq_n_u8(0); }
  static LOWATT_ALWAYS_INLINE Register fill_u8(int value) noexcept {
    return vdupq_n_u8(static_cast<std::uint8_t>(value));
  }
  static LOWATT_ALWAYS_INLINE Register fill_u16(int value) noexcept {
    return bits(vdupq_n_u16(static_cast<std::uint16_t>(value)));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i32(std::int32_t value) noexcept {
    return bits(vdupq_n_s32(value));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i64(std::int64_t value) noexcept {
    return vreinterpretq_u8_s64(vdupq_n_s64(value));
  }

  // Bytes.
  static LOWATT_ALWAYS_INLINE Register min_u8(Register a, Register b) noexcept {
    return vminq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_u8(Register a, Register b) noexcept {
    return vmaxq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register min_s8(Register a, Register b) noexcept {
    return bits(vminq_s8(s8(a), s8(b)));
  }
  static LOWATT_ALWAYS_INLINE Register max_s8(Register a, Register b) noexcept {
    return bits(vmaxq_s8(s8(a), s8(b)));
  }
  static LOWATT_ALWAYS_INLINE Register add_u8(Register a, Register b) noexcept {
    return vaddq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_u8(Register a, Register b) noexcept {
    return vsubq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u8(Register a, Register b) noexcept {
    return vqaddq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u8(Register a, Register b) noexcept {
    return vqsubq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_and(Register a, Register b) noexcept {
    return vandq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_xor(Register a, Register b) noexcept {
    return veorq_u8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u8(Register a, int count) noexcept {
    return vshlq_u8(a, vdupq_n_s8(static_cast<std::int8_t>(-count)));
  }
  static LOWATT_ALWAYS_INLINE Register raise_nibbles(Register a) noexcept {
    return vshlq_n_u8(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s8(Register a) noexcept {
    return bits(vabsq_s8(s8(a)));
  }
  static LOWATT_ALWAYS_INLINE Register choose_negative(Register a, Register negative,
                                                       Register otherwise) noexcept {
    return vbslq_u8(vcltzq_s8(s8(a)), negative, otherwise);
  }
  static constexpr bool counts_by_nibbles = false, looks_up_64 = false;
  static constexpr bool fuses_multiply_add = true;
  static LOWATT_ALWAYS_INLINE Register popcount_u8(Register a) noexcept { return vcntq_u8(a); }
  // 64 entries per instruction, which yields zero for every index outside of them.
  static LOWATT_ALWAYS_INLINE Register lookup_u8(const std::uint8_t* table, int used,
                                                 Register index) noexcept {
    Register value = zero();
    for (int first = 0; first < used; first += 64)
      value = vorrq_u8(value,
                       vqtbl4q_u8(vld1q_u8_x4(table + first), subtract_u8(index, fill_u8(first))));
    return value;
  }
  static LOWATT_ALWAYS_INLINE void interleave4(Register a, Register b, Register c, Register d,
                                               Register* out) noexcept {
    const uint16x8_t ab_low = u16(vzip1q_u8(a, b)), ab_high = u16(vzip2q_u8(a, b));
    const uint16x8_t cd_low = u16(vzip1q_u8(c, d)), cd_high = u16(vzip2q_u8(c, d));
    out[0] = bits(vzip1q_u16(ab_low, cd_low));
    out[1] = bits(vzip2q_u16(ab_low, cd_low));
    out[2] = bits(vzip1q_u16(ab_high, cd_high));
    out[3] = bits(vzip2q_u16(ab_high, cd_high));
  }

  // 16 bits.
  static LOWATT_ALWAYS_INLINE Register min_u16(Register a, Register b) noexcept {
    return bits(vminq_u16(u16(a), u16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register min_s16(Register a, Register b) noexcept {
    return bits(vminq_s16(s16(a), s16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register max_s16(Register a, Register b) noexcept {
    return bits(vmaxq_s16(s16(a), s16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register add_i16(Register a, Register b) noexcept {
    return bits(vaddq_s16(s16(a), s16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u16(Register a, Register b) noexcept {
    return bits(vqaddq_u16(u16(a), u16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u16(Register a, Register b) noexcept {
    return bits(vqsubq_u16(u16(a), u16(b)));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_high_u16(Register a, Register b) noexcept {
    const uint32x4_t low = vmull_u16(vget_low_u16(u16(a)), vget_low_u16(u16(b)));
    const uint32x4_t high = vmull_high_u16(u16(a), u16(b));
    return bits(vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high)));
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u16(Register a, int count) noexcept {
    return bits(vshlq_u16(u16(a), vdupq_n_s16(static_cast<std::int16_t>(-count))));
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s16(Register a) noexcept {
    return bits(vabsq_s16(s16(a)));
  }
  static LOWATT_ALWAYS_INLINE Register negative_s16(Register a) noexcept {
    return bits(vshrq_n_s16(s16(a), 15));
  }
  static LOWATT_ALWAYS_INLINE Register dot2(Register acc, Register a, Register b) noexcept {
    const int32x4_t low = vmull_s16(vget_low_s16(s16(a)), vget_low_s16(s16(b)));
    const int32x4_t high = vmull_high_s16(s16(a), s16(b));
    return bits(vaddq_s32(s32(acc), vpaddq_s32(low, high)));
  }

  // Packing.
  static LOWATT_ALWAYS_INLINE Register pack_u16(Register a, Register b) noexcept {
    return bits(vqmovun_high_s32(vqmovun_s32(s32(a)), s32(b)));
  }
  static LOWATT_ALWAYS_INLINE Register pack_s16(Register a, Register b) noexcept {
    return bits(vqmovn_high_s32(vqmovn_s32(s32(a)), s32(b)));
  }
  static LOWATT_ALWAYS_INLINE Register pack_u8(Register a, Register b) noexcept {
    return vqmovun_high_s16(vqmovun_s16(s16(a)), s16(b));
  }
  static LOWATT_ALWAYS_INLINE Register restore_order(Register packed) noexcept { return packed; }
  static LOWATT_ALWAYS_INLINE Register narrow_u16(Register a, Register b) noexcept {
    return pack_u16(a, b);
  }

  // 32 bits, and 64.
  static LOWATT_ALWAYS_INLINE Register add_i32(Register a, Register b) noexcept {
    return bits(vaddq_s32(s32(a), s32(b)));
  }
  static LOWATT_ALWAYS_INLINE Register min_i32(Register a, Register b) noexcept {
    return bits(vminq_s32(s32(a), s32(b)));
  }
  static LOWATT_ALWAYS_INLINE Register max_i32(Register a, Register b) noexcept {
    return bits(vmaxq_s32(s32(a), s32(b)));
  }
  static LOWATT_ALWAYS_INLINE Register divide_by_16_i32(Register a) noexcept {
    return bits(vshrq_n_s32(s32(a), 4));
  }
  static LOWATT_ALWAYS_INLINE Register shift_left_i32(Register a, int count) noexcept {
    return bits(vshlq_s32(s32(a), vdupq_n_s32(count)));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_add_high(Register x, Register m,
                                                         Register c) noexcept {
    const uint64x2_t low_c = vdupq_laneq_u64(vreinterpretq_u64_u8(c), 0);
    const uint64x2_t high_c = vdupq_laneq_u64(vreinterpretq_u64_u8(c), 1);
    const uint64x2_t low = vmlal_u32(low_c, vget_low_u32(u32(x)), vget_low_u32(u32(m)));
    const uint64x2_t high = vmlal_high_u32(high_c, u32(x), u32(m));
    return bits(vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high)));
  }
  static LOWATT_ALWAYS_INLINE uint32x4_t below(Index count) noexcept {
    const int32x4_t numbers = {0, 1, 2, 3};
    return vcltq_s32(numbers, vdupq_n_s32(count < lanes ? static_cast<int>(count) : lanes));
  }
  static LOWATT_ALWAYS_INLINE Register first_lanes(Register a, Index count,
                                                   std::int32_t otherwise) noexcept {
    return vbslq_u8(bits(below(count)), a, fill_i32(otherwise));
  }

  // 4-byte dot.
#if defined(__ARM_FEATURE_DOTPROD)
  // The instruction wants two operands of one sign: u = (u - 128) + 64 + 64.
  static constexpr int dot4_parts = 3;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int part) noexcept {
    return part == 0 ? veorq_u8(u, fill_u8(128)) : fill_u8(64);
  }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int) noexcept {
    return s;
  }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return bits(vdotq_s32(s32(acc), s8(u), s8(s)));
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return dot4_part(dot4_part(dot4_part(acc, split_u8(u, 1), s), split_u8(u, 2), s),
                     split_u8(u, 0), s);
  }
  static constexpr int narrow_steps = 1 << 20;
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register total) noexcept {
    return total;
  }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    return dot4(acc, u, s);
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register, Register acc) noexcept {
    return acc;
  }
#else
  // Even and odd bytes are multiplied as 16-bit values, which their products fit.
  static constexpr int dot4_parts = 2;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int part) noexcept {
    return part == 0 ? bits(vandq_u16(u16(u), vdupq_n_u16(255))) : bits(vshrq_n_u16(u16(u), 8));
  }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int part) noexcept {
    return bits(vshrq_n_s16(part == 0 ? vshlq_n_s16(s16(s), 8) : s16(s), 8));
  }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return bits(vpadalq_s16(s32(acc), vmulq_s16(s16(u), s16(s))));
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return dot4_part(dot4_part(acc, split_u8(u, 0), split_s8(s, 0)), split_u8(u, 1),
                     split_s8(s, 1));
  }
  static constexpr int narrow_steps = 32;
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register) noexcept {
    return zero();
  }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    const int16x8_t even = vmlaq_s16(s16(acc), s16(split_u8(u, 0)), s16(split_s8(s, 0)));
    return bits(vmlaq_s16(even, s16(split_u8(u, 1)), s16(split_s8(s, 1))));
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register total, Register acc) noexcept {
    return bits(vpadalq_s16(s32(total), s16(acc)));
  }
#endif
  static constexpr int narrow_weight = 255;
  static LOWATT_ALWAYS_INLINE Register dot4_narrow(Register acc, Register u, Register s) noexcept {
    return dot4(acc, u, s);
  }

  // Reduction.
  static LOWATT_ALWAYS_INLINE void reduce4(Register a, Register b, Register c, Register d,
                                           std::int32_t* out) noexcept {
    store(out, add_across4(a, b, c, d));
  }
  static LOWATT_ALWAYS_INLINE Register add_across4(Register a, Register b, Register c,
                                                   Register d) noexcept {
    return bits(vpaddq_s32(vpaddq_s32(s32(a), s32(b)), vpaddq_s32(s32(c), s32(d))));
  }
  static LOWATT_ALWAYS_INLINE Register add_blocks(const Register* parts) noexcept {
    return parts[0];
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_add_i32(Register a) noexcept {
    return vaddvq_s32(s32(a));
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_max_i32(Register a) noexcept {
    return vmaxvq_s32(s32(a));
  }
  static LOWATT_ALWAYS_INLINE std::int16_t reduce_max_s16(Register a) noexcept {
    return vmaxvq_s16(s16(a));
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u8(Register a) noexcept {
    return vminvq_u8(a);
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u16(Register a) noexcept {
    return vminvq_u16(u16(a));
  }

  // Comparison. Bit j of the result is set where byte j of four registers is 255 rather than 0.
  static LOWATT_ALWAYS_INLINE std::uint64_t gather_bits(Register a, Register b, Register c,
                                                        Register d) noexcept {
    const Register place = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    const Register ab = vpaddq_u8(vandq_u8(a, place), vandq_u8(b, place));
    const Register cd = vpaddq_u8(vandq_u8(c, place), vandq_u8(d, place));
    const Register abcd = vpaddq_u8(ab, cd);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(abcd, abcd)), 0);
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int32_t* scores,
                                                           std::int32_t threshold) noexcept {
    const int32x4_t limit = vdupq_n_s32(threshold);
    const auto sixteen = [&](int j) __attribute__((always_inline)) {
      const auto eight = [&](int i) __attribute__((always_inline)) {
        return vuzp1q_u16(vreinterpretq_u16_u32(vcgeq_s32(vld1q_s32(scores + i), limit)),
                          vreinterpretq_u16_u32(vcgeq_s32(vld1q_s32(scores + i + 4), limit)));
      };
      return vuzp1q_u8(bits(eight(j)), bits(eight(j + 8)));
    };
    return gather_bits(sixteen(0), sixteen(16), sixteen(32), sixteen(48));
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const float* values,
                                                           float threshold) noexcept {
    const float32x4_t limit = vdupq_n_f32(threshold);
    const auto sixteen = [&](int j) __attribute__((always_inline)) {
      const auto eight = [&](int i) __attribute__((always_inline)) {
        return vuzp1q_u16(vreinterpretq_u16_u32(vcgeq_f32(vld1q_f32(values + i), limit)),
                          vreinterpretq_u16_u32(vcgeq_f32(vld1q_f32(values + i + 4), limit)));
      };
      return vuzp1q_u8(bits(eight(j)), bits(eight(j + 8)));
    };
    return gather_bits(sixteen(0), sixteen(16), sixteen(32), sixteen(48));
  }
  static LOWATT_ALWAYS_INLINE void count_not_below(const float* values, const float* thresholds,
                                                   int count, std::uint8_t* reached) noexcept {
    for (int j = 0; j < 64; j += bytes) {
      Register sum = zero();
      for (int t = 0; t < count; ++t) {
        const float32x4_t limit = vdupq_n_f32(thresholds[t]);
        const auto eight = [&](int i) __attribute__((always_inline)) {
          return vuzp1q_u16(vreinterpretq_u16_u32(vcgeq_f32(vld1q_f32(values + j + i), limit)),
                            vreinterpretq_u16_u32(vcgeq_f32(vld1q_f32(values + j + i + 4), limit)));
        };
        sum = subtract_u8(sum, vuzp1q_u8(bits(eight(0)), bits(eight(8))));
      }
      store(reached + j, sum);
    }
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int16_t* scores,
                                                           std::int16_t threshold) noexcept {
    const int16x8_t limit = vdupq_n_s16(threshold);
    const auto sixteen = [&](int j) __attribute__((always_inline)) {
      return vuzp1q_u8(bits(vcgeq_s16(vld1q_s16(scores + j), limit)),
                       bits(vcgeq_s16(vld1q_s16(scores + j + 8), limit)));
    };
    return gather_bits(sixteen(0), sixteen(16), sixteen(32), sixteen(48));
  }
  static LOWATT_ALWAYS_INLINE unsigned nonzero_lanes(Register a) noexcept {
    const uint32x4_t place = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vtstq_u32(u32(a), u32(a)), place));
  }
  static LOWATT_ALWAYS_INLINE Index store_addresses(std::uint64_t mask, const std::byte* base,
                                                    Index stride, const std::byte** out) noexcept {
    return store_set_bits(mask, base, stride, out);
  }

  // Float.
  static LOWATT_ALWAYS_INLINE Float multiply_add(Float a, Float b, Float c) noexcept {
    return vfmaq_f32(c, a, b);
  }
  static LOWATT_ALWAYS_INLINE Register round_i32(Float a) noexcept {
    return bits(vcvtnq_s32_f32(a));
  }
  static LOWATT_ALWAYS_INLINE Float to_float(Register a) noexcept {
    return vcvtq_f32_s32(s32(a));
  }
  static LOWATT_ALWAYS_INLINE Double to_double(const std::int32_t* p) noexcept {
    return vcvtq_f64_s64(vmovl_s32(vld1_s32(p)));
  }
  static LOWATT_ALWAYS_INLINE Double to_double(const float* p) noexcept {
    return vcvt_f64_f32(vld1_f32(p));
  }
  static LOWATT_ALWAYS_INLINE void store_as_float(float* p, Double a) noexcept {
    vst1_f32(p, vcvt_f32_f64(a));
  }
  static LOWATT_ALWAYS_INLINE Double quotient(Double a, Double divisor, Double inverse) noexcept {
    return fused_quotient(a, divisor, inverse,
                          [](Double x, Double y, Double z) { return Double(vfmaq_f64(z, x, y)); });
  }
  static LOWATT_ALWAYS_INLINE Float load_i8_as_float(const void* p) noexcept {
    const int8x8_t four = vreinterpret_s8_s32(vdup_n_s32(load_i32(p)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four))));
  }
  static LOWATT_ALWAYS_INLINE Float load_f16(const void* p) noexcept {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const std::uint16_t*>(p))));
  }
  static LOWATT_ALWAYS_INLINE void store_f16(void* p, Float a) noexcept {
    vst1_u16(static_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(a)));
  }
  static LOWATT_ALWAYS_INLINE Float load_lanes(const float* p, Index count) noexcept {
    alignas(16) float lane[lanes] = {};
    for (Index l = 0; l < count; ++l) lane[l] = p[l];
    return Float::load_aligned(lane);
  }
  static LOWATT_ALWAYS_INLINE void store_lanes(float* p, Float a, Index count) noexcept {
    alignas(16) float lane[lanes];
    a.store_aligned(lane);
    for (Index l = 0; l < count; ++l) p[l] = lane[l];
  }
  // a where the condition's bits are set, else 0.
  static LOWATT_ALWAYS_INLINE float32x4_t where(uint32x4_t condition, float32x4_t a) noexcept {
    return vreinterpretq_f32_u32(vandq_u32(condition, vreinterpretq_u32_f32(a)));
  }
  static LOWATT_ALWAYS_INLINE Float first_lanes(Float a, Index count) noexcept {
    return where(below(count), a);
  }
  static LOWATT_ALWAYS_INLINE Float add_above(Float sum, Float x, Float y, Float term) noexcept {
    return vaddq_f32(sum, where(vcgtq_f32(x, y), term));
  }
  static LOWATT_ALWAYS_INLINE Float add_not_below(Float sum, Float x, Float y,
                                                  Float term) noexcept {
    return vaddq_f32(sum, where(vcgeq_f32(x, y), term));
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add_above(Float sum, Float x, Float y, Float a,
                                                       Float b) noexcept {
    return vfmaq_f32(sum, where(vcgtq_f32(x, y), a), b);
  }
  static LOWATT_ALWAYS_INLINE Float sign(Float a) noexcept {
    const float32x4_t positive = where(vcgtzq_f32(a), vdupq_n_f32(1));
    return vbslq_f32(vcltzq_f32(a), vdupq_n_f32(-1), positive);
  }
  static LOWATT_ALWAYS_INLINE float reduce_add(Float a) noexcept {
    return vaddvq_f32(a);
  }
  static LOWATT_ALWAYS_INLINE float reduce_max(Float a) noexcept {
    return vmaxvq_f32(a);
  }
};

// u is added up as it is, and taken twice from the total at the end.
template <>
struct TwiceSubtracted<arch::neon64> {
  using Op = Ops<arch::neon64>;
  using Register = Op::Register;
  static LOWATT_ALWAYS_INLINE Register begin(Register) noexcept { return Op::zero(); }
#if defined(__ARM_FEATURE_DOTPROD)
  static LOWATT_ALWAYS_INLINE Register add(Register acc, Register u, Register) noexcept {
    return Op::bits(vdotq_u32(Op::u32(acc), u, vdupq_n_u8(1)));
  }
  static LOWATT_ALWAYS_INLINE Register end(Register total, Register acc) noexcept {
    return Op::bits(vmlsq_n_u32(Op::u32(total), Op::u32(acc), 2));
  }
#else
  static LOWATT_ALWAYS_INLINE Register add(Register acc, Register u, Register) noexcept {
    return Op::bits(vpadalq_u8(Op::u16(acc), u));
  }
  static LOWATT_ALWAYS_INLINE Register end(Register total, Register acc) noexcept {
    return Op::bits(vmlsq_n_u32(Op::u32(total), vpaddlq_u16(Op::u16(acc)), 2));
  }
#endif
};

}  // namespace lowatt
