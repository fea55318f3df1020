// AVX-512 F, BW, VL, DQ, CD (Skylake server): 64-byte registers, mask registers.
#pragma once

#include <immintrin.h>

#include "ops_avx2.hpp"

namespace lowatt {

template <>
struct Ops<arch::avx512> {
  using Register = __m512i;
  using Float = xsimd::batch<float, xsimd::avx512bw>;
  using Double = xsimd::batch<double, xsimd::avx512bw>;
  static constexpr int bytes = 64;
  static constexpr int lanes = 16;
  static constexpr int block_vectors = 4;

  static LOWATT_ALWAYS_INLINE Register load(const void* p) noexcept {
    return _mm512_loadu_si512(p);
  }
  static LOWATT_ALWAYS_INLINE void store(void* p, Register a) noexcept {
    _mm512_storeu_si512(p, a);
  }
  static LOWATT_ALWAYS_INLINE Register broadcast4(const void* p) noexcept {
    return _mm512_set1_epi32(load_i32(p));
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return _mm512_setzero_si512(); }
  static LOWATT_ALWAYS_INLINE Register fill_u8(int value) noexcept {
    return _mm512_set1_epi8(static_cast<char>(value));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i32(std::int32_t value) noexcept {
    return _mm512_set1_epi32(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_u8(Register a, Register b) noexcept {
    return _mm512_min_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_u8(Register a, Register b) noexcept {
    return _mm512_max_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_u8(Register a, Register b) noexcept {
    return _mm512_add_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u8(Register a, Register b) noexcept {
    return _mm512_subs_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_and(Register a, Register b) noexcept {
    return _mm512_and_si512(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_xor(Register a, Register b) noexcept {
    return _mm512_xor_si512(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u8(Register a, int count) noexcept {
    return _mm512_and_si512(_mm512_srli_epi16(a, static_cast<unsigned>(count)),
                            fill_u8(255 >> count));
  }
  static LOWATT_ALWAYS_INLINE Register raise_nibbles(Register a) noexcept {
    return _mm512_slli_epi16(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register divide_by_16_i32(Register a) noexcept {
    return _mm512_srai_epi32(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u8(Register a, Register b) noexcept {
    return _mm512_adds_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s8(Register a) noexcept {
    return _mm512_abs_epi8(a);
  }
  static constexpr bool counts_by_nibbles = true, looks_up_64 = false;
  static constexpr bool fuses_multiply_add = true;
  static LOWATT_ALWAYS_INLINE Register broadcast16(const void* p) noexcept {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE Register shuffle16(Register table, Register index) noexcept {
    return _mm512_shuffle_epi8(table, index);
  }
  // Sixteen entries per shuffle, as in ops_avx2.hpp.
  static LOWATT_ALWAYS_INLINE Register lookup_u8(const std::uint8_t* table, int used,
                                                 Register index) noexcept {
    Register value = zero();
    for (int first = 0; first < used; first += 16) {
      const Register part =
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + first)));
      const Register inside = _mm512_adds_epu8(index, fill_u8(0x70));
      value = _mm512_or_si512(value, _mm512_shuffle_epi8(part, inside));
      index = _mm512_sub_epi8(index, fill_u8(16));
    }
    return value;
  }
  static LOWATT_ALWAYS_INLINE Register add_i32(Register a, Register b) noexcept {
    return _mm512_add_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_i32(Register a, Register b) noexcept {
    return _mm512_max_epi32(a, b);
  }
  // Even and odd bytes apart, as in ops_avx2.hpp.
  static constexpr int dot4_parts = 2;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int part) noexcept {
    return part == 0 ? _mm512_and_si512(u, _mm512_set1_epi16(255)) : _mm512_srli_epi16(u, 8);
  }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int part) noexcept {
    return _mm512_srai_epi16(part == 0 ? _mm512_slli_epi16(s, 8) : s, 8);
  }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(u, s));
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return dot4_part(dot4_part(acc, split_u8(u, 0), split_s8(s, 0)), split_u8(u, 1),
                     split_s8(s, 1));
  }
  static constexpr int narrow_weight = 127;
  static constexpr int narrow_pair = 32767 / 127;
  static LOWATT_ALWAYS_INLINE Register wide_pairs(Register u) noexcept {
    return _mm512_movm_epi16(_mm512_cmpgt_epi16_mask(_mm512_maddubs_epi16(u, _mm512_set1_epi8(1)),
                                                     _mm512_set1_epi16(narrow_pair)));
  }
  static LOWATT_ALWAYS_INLINE Register dot4_narrow(Register acc, Register u, Register s) noexcept {
    return _mm512_add_epi32(acc,
                            _mm512_madd_epi16(_mm512_maddubs_epi16(u, s), _mm512_set1_epi16(1)));
  }
  static LOWATT_ALWAYS_INLINE Register min_s8(Register a, Register b) noexcept {
    return _mm512_min_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s8(Register a, Register b) noexcept {
    return _mm512_max_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register choose_negative(Register a, Register negative,
                                                       Register otherwise) noexcept {
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(a), otherwise, negative);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_u8(Register a, Register b) noexcept {
    return _mm512_sub_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register fill_u16(int value) noexcept {
    return _mm512_set1_epi16(static_cast<short>(value));
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u16(Register a, Register b) noexcept {
    return _mm512_adds_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u16(Register a, Register b) noexcept {
    return _mm512_subs_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register min_u16(Register a, Register b) noexcept {
    return _mm512_min_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register multiply_high_u16(Register a, Register b) noexcept {
    return _mm512_mulhi_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u16(Register a, int count) noexcept {
    return _mm512_srl_epi16(a, _mm_cvtsi32_si128(count));
  }
  static LOWATT_ALWAYS_INLINE Register pack_u16(Register a, Register b) noexcept {
    return _mm512_packus_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register pack_u8(Register a, Register b) noexcept {
    return _mm512_packus_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register restore_order(Register packed) noexcept {
    const Register lane_of =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(lane_of, packed);
  }
  static LOWATT_ALWAYS_INLINE unsigned nonzero_lanes(Register a) noexcept {
    return _mm512_test_epi32_mask(a, a);
  }
  static constexpr int narrow_steps = 32;
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register) noexcept { return zero(); }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(u, s));
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register total, Register acc) noexcept {
    return _mm512_add_epi32(total, _mm512_madd_epi16(acc, _mm512_set1_epi16(1)));
  }
  static LOWATT_ALWAYS_INLINE void reduce4(Register a, Register b, Register c, Register d,
                                           std::int32_t* out) noexcept {
    const Register abcd = add_across4(a, b, c, d);
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out),
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
  }
  // Of two registers at a time, one shuffle brings halves together that a blend leaves where they
  // are: shuffles have one port.
  static LOWATT_ALWAYS_INLINE Register add_across4(Register a, Register b, Register c,
                                                   Register d) noexcept {
    const auto pair = [](Register x, Register y) __attribute__((always_inline)) {
      const __m512d xd = _mm512_castsi512_pd(x), yd = _mm512_castsi512_pd(y);
      return _mm512_add_epi32(_mm512_mask_blend_epi64(0xaa, x, y),
                              _mm512_castpd_si512(_mm512_shuffle_pd(xd, yd, 0x55)));
    };
    const Register ac = pair(a, c), bd = pair(b, d);
    const Register other =
        _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    return _mm512_add_epi32(_mm512_mask_blend_epi32(0xaaaa, ac, bd),
                            _mm512_permutex2var_epi32(ac, other, bd));
  }
  static LOWATT_ALWAYS_INLINE Register add_blocks(const Register* parts) noexcept {
    const auto pair = [](Register x, Register y) __attribute__((always_inline)) {
      return _mm512_add_epi32(_mm512_mask_blend_epi64(0xf0, x, y),
                              _mm512_shuffle_i64x2(x, y, 0x4e));
    };
    const Register ac = pair(parts[0], parts[2]), bd = pair(parts[1], parts[3]);
    const Register other = _mm512_setr_epi64(2, 3, 8, 9, 6, 7, 12, 13);
    return _mm512_add_epi32(_mm512_mask_blend_epi64(0xcc, ac, bd),
                            _mm512_permutex2var_epi64(ac, other, bd));
  }
  static LOWATT_ALWAYS_INLINE void interleave4(Register a, Register b, Register c, Register d,
                                               Register* out) noexcept {
    const Register ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const Register cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    out[0] = _mm512_unpacklo_epi16(ab_low, cd_low);
    out[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int32_t* scores,
                                                           std::int32_t threshold) noexcept {
    const Register limit = fill_i32(threshold);
    std::uint64_t mask = 0;
    for (int j = 0; j < 64; j += lanes)
      mask |= static_cast<std::uint64_t>(_mm512_cmpge_epi32_mask(load(scores + j), limit)) << j;
    return mask;
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const float* values,
                                                           float threshold) noexcept {
    const __m512 limit = _mm512_set1_ps(threshold);
    const auto reaches = [&](int j) __attribute__((always_inline)) {
      return _mm512_cmp_ps_mask(_mm512_loadu_ps(values + j), limit, _CMP_GE_OQ);
    };
    return _mm512_kunpackd(_mm512_kunpackw(reaches(48), reaches(32)),
                           _mm512_kunpackw(reaches(16), reaches(0)));
  }
  // Stored in halves: a processor may not hand parts of 64 bytes on to loads before they are in the
  // cache.
  static LOWATT_ALWAYS_INLINE void count_not_below(const float* values, const float* thresholds,
                                                   int count, std::uint8_t* reached) noexcept {
    Register sum = zero();
    for (int t = 0; t < count; ++t)
      sum = _mm512_mask_add_epi8(sum, mask_not_below(values, thresholds[t]), sum, fill_u8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reached), _mm512_castsi512_si256(sum));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reached + 32),
                        _mm512_extracti64x4_epi64(sum, 1));
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int16_t* scores,
                                                           std::int16_t threshold) noexcept {
    const Register limit = _mm512_set1_epi16(threshold);
    return _mm512_kunpackd(_mm512_cmpge_epi16_mask(load(scores + 32), limit),
                           _mm512_cmpge_epi16_mask(load(scores), limit));
  }
  static LOWATT_ALWAYS_INLINE Index store_addresses(std::uint64_t mask, const std::byte* base,
                                                    Index stride, const std::byte** out) noexcept {
    const Register eight = _mm512_set1_epi64(8 * stride);
    Register address = _mm512_add_epi64(
        _mm512_set1_epi64(reinterpret_cast<Index>(base)),
        _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(stride)));
    const std::byte** next = out;
    for (int j = 0; j < 64; j += 8) {
      const auto part = static_cast<__mmask8>(mask >> j);
      store(next, _mm512_maskz_compress_epi64(part, address));
      next += __builtin_popcount(part);
      address = _mm512_add_epi64(address, eight);
    }
    return next - out;
  }
  static LOWATT_ALWAYS_INLINE Register first_lanes(Register a, Index count,
                                                   std::int32_t otherwise) noexcept {
    const auto mask = static_cast<__mmask16>(count < lanes ? (1u << count) - 1u : 0xffffu);
    return _mm512_mask_mov_epi32(fill_i32(otherwise), mask, a);
  }
  static LOWATT_ALWAYS_INLINE Float first_lanes(Float a, Index count) noexcept {
    const auto mask = static_cast<__mmask16>(count < lanes ? (1u << count) - 1u : 0xffffu);
    return _mm512_maskz_mov_ps(mask, a);
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_add_i32(Register a) noexcept {
    return _mm512_reduce_add_epi32(a);
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_max_i32(Register a) noexcept {
    return _mm512_reduce_max_epi32(a);
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u8(Register a) noexcept {
    const __m256i half =
        _mm256_min_epu8(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m128i quarter =
        _mm_min_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i pairs = _mm_min_epu8(quarter, _mm_srli_epi16(quarter, 8));
    return _mm_cvtsi128_si32(_mm_minpos_epu16(pairs)) & 255;
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u16(Register a) noexcept {
    const __m256i half =
        _mm256_min_epu16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m128i quarter =
        _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return _mm_cvtsi128_si32(_mm_minpos_epu16(quarter)) & 65535;
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add(Float a, Float b, Float c) noexcept {
    return _mm512_fmadd_ps(a, b, c);
  }
  static LOWATT_ALWAYS_INLINE Register round_i32(Float a) noexcept { return _mm512_cvtps_epi32(a); }
  static LOWATT_ALWAYS_INLINE Float to_float(Register a) noexcept { return _mm512_cvtepi32_ps(a); }
  static LOWATT_ALWAYS_INLINE Double to_double(const std::int32_t* p) noexcept {
    return _mm512_cvtepi32_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE Double to_double(const float* p) noexcept {
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
  }
  static LOWATT_ALWAYS_INLINE void store_as_float(float* p, Double a) noexcept {
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(a));
  }
  static LOWATT_ALWAYS_INLINE Double quotient(Double a, Double divisor, Double inverse) noexcept {
    return fused_quotient(a, divisor, inverse, [](Double x, Double y, Double z) {
      return Double(_mm512_fmadd_pd(x, y, z));
    });
  }
  static LOWATT_ALWAYS_INLINE Float load_i8_as_float(const void* p) noexcept {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static LOWATT_ALWAYS_INLINE Float load_f16(const void* p) noexcept {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE void store_f16(void* p, Float a) noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
  }
  static LOWATT_ALWAYS_INLINE Float load_lanes(const float* p, Index count) noexcept {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p);
  }
  static LOWATT_ALWAYS_INLINE void store_lanes(float* p, Float a, Index count) noexcept {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), a);
  }
  static LOWATT_ALWAYS_INLINE Float add_above(Float sum, Float x, Float y, Float term) noexcept {
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), sum, term);
  }
  static LOWATT_ALWAYS_INLINE Float add_not_below(Float sum, Float x, Float y,
                                                  Float term) noexcept {
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), sum, term);
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add_above(Float sum, Float x, Float y, Float a,
                                                       Float b) noexcept {
    return _mm512_mask3_fmadd_ps(a, b, sum, _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ));
  }
  static LOWATT_ALWAYS_INLINE Float sign(Float a) noexcept {
    // By class, from the lowest four bits on: NaN (two kinds), 0, 1, infinities (negative first),
    // other numbers; 8, 9 and 10 stand for 0, -1 and 1.
    return _mm512_fixupimm_ps(a, a, _mm512_set1_epi32(static_cast<int>(0xa9a9a888u)), 0);
  }
  static LOWATT_ALWAYS_INLINE float reduce_add(Float a) noexcept { return _mm512_reduce_add_ps(a); }
  static LOWATT_ALWAYS_INLINE float reduce_max(Float a) noexcept { return _mm512_reduce_max_ps(a); }

  // 16 bits.
  static LOWATT_ALWAYS_INLINE Register min_s16(Register a, Register b) noexcept {
    return _mm512_min_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s16(Register a, Register b) noexcept {
    return _mm512_max_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE std::int16_t reduce_max_s16(Register a) noexcept {
    const __m256i half =
        _mm256_max_epi16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    return Ops<arch::avx2>::reduce_max_s16(half);
  }
  static LOWATT_ALWAYS_INLINE Register pack_s16(Register a, Register b) noexcept {
    return _mm512_packs_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_i16(Register a, Register b) noexcept {
    return _mm512_add_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s16(Register a) noexcept {
    return _mm512_abs_epi16(a);
  }
  static LOWATT_ALWAYS_INLINE Register negative_s16(Register a) noexcept {
    return _mm512_srai_epi16(a, 15);
  }
  static LOWATT_ALWAYS_INLINE Register dot2(Register acc, Register a, Register b) noexcept {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(a, b));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i64(std::int64_t value) noexcept {
    return _mm512_set1_epi64(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_i32(Register a, Register b) noexcept {
    return _mm512_min_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_left_i32(Register a, int count) noexcept {
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_add_high(Register x, Register m,
                                                         Register c) noexcept {
    const Register even = _mm512_add_epi64(_mm512_mul_epu32(x, m), c);
    const Register odd =
        _mm512_add_epi64(_mm512_mul_epu32(_mm512_shuffle_epi32(x, _MM_PERM_DDBB), m), c);
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }
  static LOWATT_ALWAYS_INLINE Register narrow_u16(Register a, Register b) noexcept {
    const Register order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order, pack_u16(a, b));
  }
};

}  // namespace lowatt
