// SSE2: the baseline of x86-64. No byte shuffle, no byte multiply-add, no fused multiply-add.
#pragma once

#include <emmintrin.h>

#include "ops.hpp"

namespace lowatt {

template <>
struct Ops<arch::sse2> {
  using Register = __m128i;
  using Float = xsimd::batch<float, xsimd::sse2>;
  using Double = xsimd::batch<double, xsimd::sse2>;
  static constexpr int bytes = 16;
  static constexpr int lanes = 4;
  static constexpr int block_vectors = 2;

  static LOWATT_ALWAYS_INLINE Register load(const void* p) noexcept {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
  static LOWATT_ALWAYS_INLINE void store(void* p, Register a) noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p), a);
  }
  static LOWATT_ALWAYS_INLINE Register broadcast4(const void* p) noexcept {
    return _mm_set1_epi32(load_i32(p));
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return _mm_setzero_si128(); }
  static LOWATT_ALWAYS_INLINE Register fill_u8(int value) noexcept {
    return _mm_set1_epi8(static_cast<char>(value));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i32(std::int32_t value) noexcept {
    return _mm_set1_epi32(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_u8(Register a, Register b) noexcept {
    return _mm_min_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_u8(Register a, Register b) noexcept {
    return _mm_max_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_u8(Register a, Register b) noexcept {
    return _mm_add_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u8(Register a, Register b) noexcept {
    return _mm_subs_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_and(Register a, Register b) noexcept {
    return _mm_and_si128(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_xor(Register a, Register b) noexcept {
    return _mm_xor_si128(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u8(Register a, int count) noexcept {
    return _mm_and_si128(_mm_srli_epi16(a, count), fill_u8(255 >> count));
  }
  static LOWATT_ALWAYS_INLINE Register raise_nibbles(Register a) noexcept {
    return _mm_slli_epi16(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register divide_by_16_i32(Register a) noexcept {
    return _mm_srai_epi32(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u8(Register a, Register b) noexcept {
    return _mm_adds_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s8(Register a) noexcept {
    const Register negative = _mm_cmplt_epi8(a, zero());
    return _mm_sub_epi8(_mm_xor_si128(a, negative), negative);
  }
  static constexpr bool counts_by_nibbles = false, looks_up_64 = false;
  static constexpr bool fuses_multiply_add = false;
  static LOWATT_ALWAYS_INLINE Register popcount_u8(Register a) noexcept {
    // Pairs, then nibbles, then bytes: SSE2 has no byte shuffle to look counts up with.
    a = _mm_sub_epi8(a, _mm_and_si128(_mm_srli_epi16(a, 1), fill_u8(0x55)));
    a = _mm_add_epi8(_mm_and_si128(a, fill_u8(0x33)),
                     _mm_and_si128(_mm_srli_epi16(a, 2), fill_u8(0x33)));
    return _mm_and_si128(_mm_add_epi8(a, _mm_srli_epi16(a, 4)), fill_u8(15));
  }
  // table[index] for each byte; `table` has 256 bytes, those from `used` on are zero.
  static LOWATT_ALWAYS_INLINE Register lookup_u8(const std::uint8_t* table, int used,
                                                 Register index) noexcept {
    static_cast<void>(used);
    alignas(16) std::uint8_t value[bytes];
    store(value, index);
    for (std::uint8_t& v : value) v = table[v];
    return load(value);
  }
  static LOWATT_ALWAYS_INLINE Register add_i32(Register a, Register b) noexcept {
    return _mm_add_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_i32(Register a, Register b) noexcept {
    return choose(_mm_cmpgt_epi32(a, b), a, b);
  }
  // Even and odd bytes are multiplied as 16-bit values.
  static constexpr int dot4_parts = 2;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int part) noexcept {
    return part == 0 ? _mm_and_si128(u, _mm_set1_epi16(255)) : _mm_srli_epi16(u, 8);
  }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int part) noexcept {
    return _mm_srai_epi16(part == 0 ? _mm_slli_epi16(s, 8) : s, 8);
  }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return _mm_add_epi32(acc, _mm_madd_epi16(u, s));
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return dot4_part(dot4_part(acc, split_u8(u, 0), split_s8(s, 0)), split_u8(u, 1),
                     split_s8(s, 1));
  }
  static constexpr int narrow_weight = 255;
  static LOWATT_ALWAYS_INLINE Register dot4_narrow(Register acc, Register u, Register s) noexcept {
    return dot4(acc, u, s);
  }
  static LOWATT_ALWAYS_INLINE Register choose(Register condition, Register a, Register b) noexcept {
    return _mm_or_si128(_mm_and_si128(condition, a), _mm_andnot_si128(condition, b));
  }
  static LOWATT_ALWAYS_INLINE Register min_s8(Register a, Register b) noexcept {
    return choose(_mm_cmplt_epi8(a, b), a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s8(Register a, Register b) noexcept {
    return choose(_mm_cmpgt_epi8(a, b), a, b);
  }
  static LOWATT_ALWAYS_INLINE Register choose_negative(Register a, Register negative,
                                                       Register otherwise) noexcept {
    return choose(_mm_cmplt_epi8(a, zero()), negative, otherwise);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_u8(Register a, Register b) noexcept {
    return _mm_sub_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register fill_u16(int value) noexcept {
    return _mm_set1_epi16(static_cast<short>(value));
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u16(Register a, Register b) noexcept {
    return _mm_adds_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u16(Register a, Register b) noexcept {
    return _mm_subs_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register min_u16(Register a, Register b) noexcept {
    return _mm_sub_epi16(a, _mm_subs_epu16(a, b));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_high_u16(Register a, Register b) noexcept {
    return _mm_mulhi_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u16(Register a, int count) noexcept {
    return _mm_srl_epi16(a, _mm_cvtsi32_si128(count));
  }
  // SSE2 packs with signed saturation alone: the range is moved there and back.
  static LOWATT_ALWAYS_INLINE Register pack_u16(Register a, Register b) noexcept {
    const Register half = fill_i32(32768);
    return _mm_xor_si128(_mm_packs_epi32(_mm_sub_epi32(a, half), _mm_sub_epi32(b, half)),
                         fill_u16(32768));
  }
  static LOWATT_ALWAYS_INLINE Register pack_u8(Register a, Register b) noexcept {
    return _mm_packus_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register restore_order(Register packed) noexcept { return packed; }
  static LOWATT_ALWAYS_INLINE unsigned nonzero_lanes(Register a) noexcept {
    const __m128 is_zero = _mm_castsi128_ps(_mm_cmpeq_epi32(a, zero()));
    return ~static_cast<unsigned>(_mm_movemask_ps(is_zero)) & 0xfu;
  }
  static constexpr int narrow_steps = 32;
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register) noexcept { return zero(); }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    const Register even = _mm_mullo_epi16(split_u8(u, 0), split_s8(s, 0));
    const Register odd = _mm_mullo_epi16(split_u8(u, 1), split_s8(s, 1));
    return _mm_add_epi16(acc, _mm_add_epi16(even, odd));
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register total, Register acc) noexcept {
    return _mm_add_epi32(total, _mm_madd_epi16(acc, _mm_set1_epi16(1)));
  }
  static LOWATT_ALWAYS_INLINE void reduce4(Register a, Register b, Register c, Register d,
                                           std::int32_t* out) noexcept {
    store(out, add_across4(a, b, c, d));
  }
  static LOWATT_ALWAYS_INLINE Register add_across4(Register a, Register b, Register c,
                                                   Register d) noexcept {
    const Register ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    const Register cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
    return _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
  }
  static LOWATT_ALWAYS_INLINE Register add_blocks(const Register* parts) noexcept {
    return parts[0];
  }
  static LOWATT_ALWAYS_INLINE void interleave4(Register a, Register b, Register c, Register d,
                                               Register* out) noexcept {
    const Register ab_low = _mm_unpacklo_epi8(a, b), ab_high = _mm_unpackhi_epi8(a, b);
    const Register cd_low = _mm_unpacklo_epi8(c, d), cd_high = _mm_unpackhi_epi8(c, d);
    out[0] = _mm_unpacklo_epi16(ab_low, cd_low);
    out[1] = _mm_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm_unpackhi_epi16(ab_high, cd_high);
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int32_t* scores,
                                                           std::int32_t threshold) noexcept {
    const Register limit = fill_i32(threshold);
    std::uint64_t below = 0;
    for (int j = 0; j < 64; j += lanes) {
      const Register lower = _mm_cmplt_epi32(load(scores + j), limit);
      below |= static_cast<std::uint64_t>(_mm_movemask_ps(_mm_castsi128_ps(lower))) << j;
    }
    return ~below;
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const float* values,
                                                           float threshold) noexcept {
    const __m128 limit = _mm_set1_ps(threshold);
    std::uint64_t mask = 0;
    for (int j = 0; j < 64; j += lanes)
      mask |=
          static_cast<std::uint64_t>(_mm_movemask_ps(_mm_cmpge_ps(_mm_loadu_ps(values + j), limit)))
          << j;
    return mask;
  }
  static LOWATT_ALWAYS_INLINE void count_not_below(const float* values, const float* thresholds,
                                                   int count, std::uint8_t* reached) noexcept {
    for (int j = 0; j < 64; j += bytes) {
      const __m128 value[4] = {_mm_loadu_ps(values + j), _mm_loadu_ps(values + j + 4),
                               _mm_loadu_ps(values + j + 8), _mm_loadu_ps(values + j + 12)};
      Register sum = zero();
      for (int t = 0; t < count; ++t) {
        const __m128 limit = _mm_set1_ps(thresholds[t]);
        const auto reaches = [&](int i) __attribute__((always_inline)) {
          return _mm_castps_si128(_mm_cmpge_ps(value[i], limit));
        };
        sum = subtract_u8(sum, _mm_packs_epi16(_mm_packs_epi32(reaches(0), reaches(1)),
                                               _mm_packs_epi32(reaches(2), reaches(3))));
      }
      store(reached + j, sum);
    }
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int16_t* scores,
                                                           std::int16_t threshold) noexcept {
    const Register limit = _mm_set1_epi16(threshold);
    std::uint64_t below = 0;
    for (int j = 0; j < 64; j += bytes) {
      const Register lower = _mm_packs_epi16(_mm_cmplt_epi16(load(scores + j), limit),
                                             _mm_cmplt_epi16(load(scores + j + 8), limit));
      below |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(lower))) << j;
    }
    return ~below;
  }
  static LOWATT_ALWAYS_INLINE Index store_addresses(std::uint64_t mask, const std::byte* base,
                                                    Index stride, const std::byte** out) noexcept {
    return store_set_bits(mask, base, stride, out);
  }
  static LOWATT_ALWAYS_INLINE Register first_lanes(Register a, Index count,
                                                   std::int32_t otherwise) noexcept {
    alignas(16) std::int32_t lane[lanes];
    store(lane, a);
    for (Index l = count < 0 ? 0 : count; l < lanes; ++l) lane[l] = otherwise;
    return load(lane);
  }
  static LOWATT_ALWAYS_INLINE Float first_lanes(Float a, Index count) noexcept {
    alignas(16) float lane[lanes];
    a.store_aligned(lane);
    for (Index l = count; l < lanes; ++l) lane[l] = 0;
    return Float::load_aligned(lane);
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_add_i32(Register a) noexcept {
    const Register pairs = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_max_i32(Register a) noexcept {
    const Register pairs = max_i32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(max_i32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u8(Register a) noexcept {
    a = _mm_min_epu8(a, _mm_srli_si128(a, 8));
    a = _mm_min_epu8(a, _mm_srli_si128(a, 4));
    a = _mm_min_epu8(a, _mm_srli_si128(a, 2));
    return _mm_cvtsi128_si32(_mm_min_epu8(a, _mm_srli_si128(a, 1))) & 255;
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u16(Register a) noexcept {
    a = min_u16(a, _mm_srli_si128(a, 8));
    a = min_u16(a, _mm_srli_si128(a, 4));
    return _mm_cvtsi128_si32(min_u16(a, _mm_srli_si128(a, 2))) & 65535;
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add(Float a, Float b, Float c) noexcept {
    return a * b + c;
  }
  static LOWATT_ALWAYS_INLINE Register round_i32(Float a) noexcept { return _mm_cvtps_epi32(a); }
  static LOWATT_ALWAYS_INLINE Float to_float(Register a) noexcept { return _mm_cvtepi32_ps(a); }
  static LOWATT_ALWAYS_INLINE Double to_double(const std::int32_t* p) noexcept {
    return _mm_cvtepi32_pd(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE Double to_double(const float* p) noexcept {
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static LOWATT_ALWAYS_INLINE void store_as_float(float* p, Double a) noexcept {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), _mm_cvtpd_ps(a));
  }
  static LOWATT_ALWAYS_INLINE Double quotient(Double a, Double divisor, Double) noexcept {
    return a / divisor;
  }
  static LOWATT_ALWAYS_INLINE Float load_i8_as_float(const void* p) noexcept {
    const Register four = _mm_cvtsi32_si128(load_i32(p));
    const Register words = _mm_unpacklo_epi8(four, four);
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(words, words), 24));
  }
  static LOWATT_ALWAYS_INLINE Float load_f16(const void* p) noexcept {
    std::uint16_t half[lanes];
    __builtin_memcpy(half, p, sizeof half);
    return _mm_setr_ps(float_from_f16(half[0]), float_from_f16(half[1]), float_from_f16(half[2]),
                       float_from_f16(half[3]));
  }
  static LOWATT_ALWAYS_INLINE void store_f16(void* p, Float a) noexcept {
    alignas(16) float number[lanes];
    a.store_aligned(number);
    std::uint16_t half[lanes];
    for (int l = 0; l < lanes; ++l) half[l] = f16_from_float(number[l]);
    __builtin_memcpy(p, half, sizeof half);
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
  static LOWATT_ALWAYS_INLINE Float add_above(Float sum, Float x, Float y, Float term) noexcept {
    return _mm_add_ps(sum, _mm_and_ps(_mm_cmpgt_ps(x, y), term));
  }
  static LOWATT_ALWAYS_INLINE Float add_not_below(Float sum, Float x, Float y,
                                                  Float term) noexcept {
    return _mm_add_ps(sum, _mm_and_ps(_mm_cmpge_ps(x, y), term));
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add_above(Float sum, Float x, Float y, Float a,
                                                       Float b) noexcept {
    return _mm_add_ps(_mm_mul_ps(_mm_and_ps(_mm_cmpgt_ps(x, y), a), b), sum);
  }
  static LOWATT_ALWAYS_INLINE Float sign(Float a) noexcept {
    const __m128 positive = _mm_and_ps(_mm_cmpgt_ps(a, _mm_setzero_ps()), _mm_set1_ps(1.0f));
    return _mm_or_ps(positive, _mm_and_ps(_mm_cmplt_ps(a, _mm_setzero_ps()), _mm_set1_ps(-1.0f)));
  }
  static LOWATT_ALWAYS_INLINE float reduce_add(Float a) noexcept {
    const __m128 pairs = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
  }
  static LOWATT_ALWAYS_INLINE float reduce_max(Float a) noexcept {
    const __m128 pairs = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
  }

  // 16 bits.
  static LOWATT_ALWAYS_INLINE Register min_s16(Register a, Register b) noexcept {
    return _mm_min_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s16(Register a, Register b) noexcept {
    return _mm_max_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE std::int16_t reduce_max_s16(Register a) noexcept {
    a = _mm_max_epi16(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi16(a, _mm_shuffle_epi32(a, 0xb1));
    a = _mm_max_epi16(a, _mm_srli_epi32(a, 16));
    return static_cast<std::int16_t>(_mm_extract_epi16(a, 0));
  }
  static LOWATT_ALWAYS_INLINE Register pack_s16(Register a, Register b) noexcept {
    return _mm_packs_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_i16(Register a, Register b) noexcept {
    return _mm_add_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s16(Register a) noexcept {
    return _mm_max_epi16(a, _mm_sub_epi16(zero(), a));
  }
  static LOWATT_ALWAYS_INLINE Register negative_s16(Register a) noexcept {
    return _mm_srai_epi16(a, 15);
  }
  static LOWATT_ALWAYS_INLINE Register dot2(Register acc, Register a, Register b) noexcept {
    return _mm_add_epi32(acc, _mm_madd_epi16(a, b));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i64(std::int64_t value) noexcept {
    return _mm_set1_epi64x(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_i32(Register a, Register b) noexcept {
    return choose(_mm_cmplt_epi32(a, b), a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_left_i32(Register a, int count) noexcept {
    return _mm_sll_epi32(a, _mm_cvtsi32_si128(count));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_add_high(Register x, Register m,
                                                         Register c) noexcept {
    const Register even = _mm_add_epi64(_mm_mul_epu32(x, m), c);
    const Register odd = _mm_add_epi64(_mm_mul_epu32(_mm_srli_epi64(x, 32), m), c);
    return _mm_or_si128(_mm_srli_epi64(even, 32), _mm_and_si128(odd, _mm_set1_epi64x(-1LL << 32)));
  }
  static LOWATT_ALWAYS_INLINE Register narrow_u16(Register a, Register b) noexcept {
    // pack_u16 would wrap far below zero.
    const auto at_least_0 = [](Register x) __attribute__((always_inline)) {
      return _mm_andnot_si128(_mm_srai_epi32(x, 31), x);
    };
    return pack_u16(at_least_0(a), at_least_0(b));
  }
};

}  // namespace lowatt
