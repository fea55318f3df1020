// AVX2 with FMA (Haswell, Zen 1): byte shuffle, maddubs, fused multiply-add.
#pragma once

#include <immintrin.h>

#include "ops.hpp"

namespace lowatt {

template <>
struct Ops<arch::avx2> {
  using Register = __m256i;
  using Float = xsimd::batch<float, xsimd::avx2>;
  using Double = xsimd::batch<double, xsimd::avx2>;
  static constexpr int bytes = 32;
  static constexpr int lanes = 8;
  static constexpr int block_vectors = 2;

  static LOWATT_ALWAYS_INLINE Register load(const void* p) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static LOWATT_ALWAYS_INLINE void store(void* p, Register a) noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(p), a);
  }
  static LOWATT_ALWAYS_INLINE Register broadcast4(const void* p) noexcept {
    return _mm256_set1_epi32(load_i32(p));
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return _mm256_setzero_si256(); }
  static LOWATT_ALWAYS_INLINE Register fill_u8(int value) noexcept {
    return _mm256_set1_epi8(static_cast<char>(value));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i32(std::int32_t value) noexcept {
    return _mm256_set1_epi32(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_u8(Register a, Register b) noexcept {
    return _mm256_min_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_u8(Register a, Register b) noexcept {
    return _mm256_max_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_u8(Register a, Register b) noexcept {
    return _mm256_add_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u8(Register a, Register b) noexcept {
    return _mm256_subs_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_and(Register a, Register b) noexcept {
    return _mm256_and_si256(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register bit_xor(Register a, Register b) noexcept {
    return _mm256_xor_si256(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u8(Register a, int count) noexcept {
    return _mm256_and_si256(_mm256_srli_epi16(a, count), fill_u8(255 >> count));
  }
  static LOWATT_ALWAYS_INLINE Register raise_nibbles(Register a) noexcept {
    return _mm256_slli_epi16(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register divide_by_16_i32(Register a) noexcept {
    return _mm256_srai_epi32(a, 4);
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u8(Register a, Register b) noexcept {
    return _mm256_adds_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s8(Register a) noexcept {
    return _mm256_abs_epi8(a);
  }
  static constexpr bool counts_by_nibbles = true, looks_up_64 = false;
  static constexpr bool fuses_multiply_add = true;
  static LOWATT_ALWAYS_INLINE Register broadcast16(const void* p) noexcept {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE Register shuffle16(Register table, Register index) noexcept {
    return _mm256_shuffle_epi8(table, index);
  }
  // Sixteen entries per shuffle, each time of an index that is 16 less. Adding 0x70 with saturation
  // sets the top bit of every index outside the sixteen, for which the shuffle yields zero. An
  // index that has passed below 0 stays outside: it goes down by at most 240.
  static LOWATT_ALWAYS_INLINE Register lookup_u8(const std::uint8_t* table, int used,
                                                 Register index) noexcept {
    Register value = zero();
    for (int first = 0; first < used; first += 16) {
      const Register part = _mm256_broadcastsi128_si256(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + first)));
      const Register inside = _mm256_adds_epu8(index, fill_u8(0x70));
      value = _mm256_or_si256(value, _mm256_shuffle_epi8(part, inside));
      index = _mm256_sub_epi8(index, fill_u8(16));
    }
    return value;
  }
  static LOWATT_ALWAYS_INLINE Register add_i32(Register a, Register b) noexcept {
    return _mm256_add_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_i32(Register a, Register b) noexcept {
    return _mm256_max_epi32(a, b);
  }
  // maddubs would saturate at 255 * 127 * 2: even and odd bytes are multiplied as 16-bit values.
  static constexpr int dot4_parts = 2;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int part) noexcept {
    return part == 0 ? _mm256_and_si256(u, _mm256_set1_epi16(255)) : _mm256_srli_epi16(u, 8);
  }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int part) noexcept {
    return _mm256_srai_epi16(part == 0 ? _mm256_slli_epi16(s, 8) : s, 8);
  }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(u, s));
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return dot4_part(dot4_part(acc, split_u8(u, 0), split_s8(s, 0)), split_u8(u, 1),
                     split_s8(s, 1));
  }
  static constexpr int narrow_weight = 127;
  static constexpr int narrow_pair = 32767 / 127;
  static LOWATT_ALWAYS_INLINE Register wide_pairs(Register u) noexcept {
    return _mm256_cmpgt_epi16(_mm256_maddubs_epi16(u, _mm256_set1_epi8(1)),
                              _mm256_set1_epi16(narrow_pair));
  }
  static LOWATT_ALWAYS_INLINE Register dot4_narrow(Register acc, Register u, Register s) noexcept {
    return _mm256_add_epi32(acc,
                            _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
  }
  static LOWATT_ALWAYS_INLINE Register min_s8(Register a, Register b) noexcept {
    return _mm256_min_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s8(Register a, Register b) noexcept {
    return _mm256_max_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register choose_negative(Register a, Register negative,
                                                       Register otherwise) noexcept {
    return _mm256_blendv_epi8(otherwise, negative, a);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_u8(Register a, Register b) noexcept {
    return _mm256_sub_epi8(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register fill_u16(int value) noexcept {
    return _mm256_set1_epi16(static_cast<short>(value));
  }
  static LOWATT_ALWAYS_INLINE Register add_saturate_u16(Register a, Register b) noexcept {
    return _mm256_adds_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register subtract_saturate_u16(Register a, Register b) noexcept {
    return _mm256_subs_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register min_u16(Register a, Register b) noexcept {
    return _mm256_min_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register multiply_high_u16(Register a, Register b) noexcept {
    return _mm256_mulhi_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_right_u16(Register a, int count) noexcept {
    return _mm256_srl_epi16(a, _mm_cvtsi32_si128(count));
  }
  static LOWATT_ALWAYS_INLINE Register pack_u16(Register a, Register b) noexcept {
    return _mm256_packus_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register pack_u8(Register a, Register b) noexcept {
    return _mm256_packus_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register restore_order(Register packed) noexcept {
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static LOWATT_ALWAYS_INLINE unsigned nonzero_lanes(Register a) noexcept {
    const __m256 is_zero = _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, zero()));
    return ~static_cast<unsigned>(_mm256_movemask_ps(is_zero)) & 0xffu;
  }
  static constexpr int narrow_steps = 32;
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register) noexcept { return zero(); }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    return _mm256_add_epi16(acc, _mm256_maddubs_epi16(u, s));
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register total, Register acc) noexcept {
    return _mm256_add_epi32(total, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
  }
  static LOWATT_ALWAYS_INLINE void reduce4(Register a, Register b, Register c, Register d,
                                           std::int32_t* out) noexcept {
    const Register abcd = add_across4(a, b, c, d);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out),
        _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1)));
  }
  static LOWATT_ALWAYS_INLINE Register add_across4(Register a, Register b, Register c,
                                                   Register d) noexcept {
    const Register ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const Register cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }
  static LOWATT_ALWAYS_INLINE Register add_blocks(const Register* parts) noexcept {
    return _mm256_add_epi32(_mm256_permute2x128_si256(parts[0], parts[1], 0x20),
                            _mm256_permute2x128_si256(parts[0], parts[1], 0x31));
  }
  static LOWATT_ALWAYS_INLINE void interleave4(Register a, Register b, Register c, Register d,
                                               Register* out) noexcept {
    const Register ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    const Register cd_low = _mm256_unpacklo_epi8(c, d), cd_high = _mm256_unpackhi_epi8(c, d);
    out[0] = _mm256_unpacklo_epi16(ab_low, cd_low);
    out[1] = _mm256_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm256_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm256_unpackhi_epi16(ab_high, cd_high);
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int32_t* scores,
                                                           std::int32_t threshold) noexcept {
    const Register limit = fill_i32(threshold);
    std::uint64_t below = 0;
    for (int j = 0; j < 64; j += lanes) {
      const Register lower = _mm256_cmpgt_epi32(limit, load(scores + j));
      const unsigned bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(lower)));
      below |= static_cast<std::uint64_t>(bits) << j;
    }
    return ~below;
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const float* values,
                                                           float threshold) noexcept {
    const __m256 limit = _mm256_set1_ps(threshold);
    std::uint64_t mask = 0;
    for (int j = 0; j < 64; j += lanes) {
      const __m256 reaches = _mm256_cmp_ps(_mm256_loadu_ps(values + j), limit, _CMP_GE_OQ);
      mask |= static_cast<std::uint64_t>(_mm256_movemask_ps(reaches)) << j;
    }
    return mask;
  }
  static LOWATT_ALWAYS_INLINE void count_not_below(const float* values, const float* thresholds,
                                                   int count, std::uint8_t* reached) noexcept {
    for (int j = 0; j < 64; j += bytes) {
      const __m256 value[4] = {_mm256_loadu_ps(values + j), _mm256_loadu_ps(values + j + 8),
                               _mm256_loadu_ps(values + j + 16), _mm256_loadu_ps(values + j + 24)};
      Register sum = zero();
      for (int t = 0; t < count; ++t) {
        const __m256 limit = _mm256_set1_ps(thresholds[t]);
        const auto reaches = [&](int i) __attribute__((always_inline)) {
          return _mm256_castps_si256(_mm256_cmp_ps(value[i], limit, _CMP_GE_OQ));
        };
        sum = subtract_u8(sum, _mm256_packs_epi16(_mm256_packs_epi32(reaches(0), reaches(1)),
                                                  _mm256_packs_epi32(reaches(2), reaches(3))));
      }
      store(reached + j, restore_order(sum));
    }
  }
  static LOWATT_ALWAYS_INLINE std::uint64_t mask_not_below(const std::int16_t* scores,
                                                           std::int16_t threshold) noexcept {
    const Register limit = _mm256_set1_epi16(threshold);
    std::uint64_t below = 0;
    for (int j = 0; j < 64; j += bytes) {
      const Register lower = _mm256_permute4x64_epi64(
          _mm256_packs_epi16(_mm256_cmpgt_epi16(limit, load(scores + j)),
                             _mm256_cmpgt_epi16(limit, load(scores + j + 16))),
          0xd8);
      below |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_epi8(lower))) << j;
    }
    return ~below;
  }
  static LOWATT_ALWAYS_INLINE Index store_addresses(std::uint64_t mask, const std::byte* base,
                                                    Index stride, const std::byte** out) noexcept {
    return store_set_bits(mask, base, stride, out);
  }
  static LOWATT_ALWAYS_INLINE Register first_lanes(Register a, Index count,
                                                   std::int32_t otherwise) noexcept {
    const Register numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int limit = count < lanes ? static_cast<int>(count) : lanes;
    return _mm256_blendv_epi8(fill_i32(otherwise), a,
                              _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), numbers));
  }
  static LOWATT_ALWAYS_INLINE Float first_lanes(Float a, Index count) noexcept {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int limit = count < lanes ? static_cast<int>(count) : lanes;
    const __m256i own = _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), numbers);
    return _mm256_and_ps(a, _mm256_castsi256_ps(own));
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_add_i32(Register a) noexcept {
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i pairs = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_max_i32(Register a) noexcept {
    const __m128i half = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i pairs = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u8(Register a) noexcept {
    const __m128i half = _mm_min_epu8(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i pairs = _mm_min_epu8(half, _mm_srli_epi16(half, 8));
    return _mm_cvtsi128_si32(_mm_minpos_epu16(pairs)) & 255;
  }
  static LOWATT_ALWAYS_INLINE int reduce_min_u16(Register a) noexcept {
    const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return _mm_cvtsi128_si32(_mm_minpos_epu16(half)) & 65535;
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add(Float a, Float b, Float c) noexcept {
    return _mm256_fmadd_ps(a, b, c);
  }
  static LOWATT_ALWAYS_INLINE Register round_i32(Float a) noexcept { return _mm256_cvtps_epi32(a); }
  static LOWATT_ALWAYS_INLINE Float to_float(Register a) noexcept { return _mm256_cvtepi32_ps(a); }
  static LOWATT_ALWAYS_INLINE Double to_double(const std::int32_t* p) noexcept {
    return _mm256_cvtepi32_pd(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE Double to_double(const float* p) noexcept {
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
  }
  static LOWATT_ALWAYS_INLINE void store_as_float(float* p, Double a) noexcept {
    _mm_storeu_ps(p, _mm256_cvtpd_ps(a));
  }
  static LOWATT_ALWAYS_INLINE Double quotient(Double a, Double divisor, Double inverse) noexcept {
    return fused_quotient(a, divisor, inverse, [](Double x, Double y, Double z) {
      return Double(_mm256_fmadd_pd(x, y, z));
    });
  }
  static LOWATT_ALWAYS_INLINE Float load_i8_as_float(const void* p) noexcept {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  static LOWATT_ALWAYS_INLINE Float load_f16(const void* p) noexcept {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static LOWATT_ALWAYS_INLINE void store_f16(void* p, Float a) noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
  }
  static LOWATT_ALWAYS_INLINE __m256i lane_mask(Index count) noexcept {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static LOWATT_ALWAYS_INLINE Float load_lanes(const float* p, Index count) noexcept {
    return _mm256_maskload_ps(p, lane_mask(count));
  }
  static LOWATT_ALWAYS_INLINE void store_lanes(float* p, Float a, Index count) noexcept {
    _mm256_maskstore_ps(p, lane_mask(count), a);
  }
  static LOWATT_ALWAYS_INLINE Float add_above(Float sum, Float x, Float y, Float term) noexcept {
    return _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ), term));
  }
  static LOWATT_ALWAYS_INLINE Float add_not_below(Float sum, Float x, Float y,
                                                  Float term) noexcept {
    return _mm256_add_ps(sum, _mm256_and_ps(_mm256_cmp_ps(x, y, _CMP_GE_OQ), term));
  }
  static LOWATT_ALWAYS_INLINE Float multiply_add_above(Float sum, Float x, Float y, Float a,
                                                       Float b) noexcept {
    return _mm256_fmadd_ps(_mm256_and_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ), a), b, sum);
  }
  static LOWATT_ALWAYS_INLINE Float sign(Float a) noexcept {
    const __m256 one = _mm256_or_ps(_mm256_and_ps(a, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(1.0f));
    return _mm256_and_ps(one, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_OQ));
  }
  static LOWATT_ALWAYS_INLINE float reduce_add(Float a) noexcept {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 pairs = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
  }
  static LOWATT_ALWAYS_INLINE float reduce_max(Float a) noexcept {
    const __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 pairs = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
  }

  // 16 bits.
  static LOWATT_ALWAYS_INLINE Register min_s16(Register a, Register b) noexcept {
    return _mm256_min_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register max_s16(Register a, Register b) noexcept {
    return _mm256_max_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE std::int16_t reduce_max_s16(Register a) noexcept {
    const __m128i half = _mm_max_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    // The one instruction that finds an extreme: the smallest of unsigned numbers.
    const __m128i top = _mm_set1_epi16(32767);
    const int least = _mm_extract_epi16(_mm_minpos_epu16(_mm_sub_epi16(top, half)), 0);
    return static_cast<std::int16_t>(32767 - least);
  }
  static LOWATT_ALWAYS_INLINE Register pack_s16(Register a, Register b) noexcept {
    return _mm256_packs_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register add_i16(Register a, Register b) noexcept {
    return _mm256_add_epi16(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register absolute_s16(Register a) noexcept {
    return _mm256_abs_epi16(a);
  }
  static LOWATT_ALWAYS_INLINE Register negative_s16(Register a) noexcept {
    return _mm256_srai_epi16(a, 15);
  }
  static LOWATT_ALWAYS_INLINE Register dot2(Register acc, Register a, Register b) noexcept {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
  }
  static LOWATT_ALWAYS_INLINE Register fill_i64(std::int64_t value) noexcept {
    return _mm256_set1_epi64x(value);
  }
  static LOWATT_ALWAYS_INLINE Register min_i32(Register a, Register b) noexcept {
    return _mm256_min_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register shift_left_i32(Register a, int count) noexcept {
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count));
  }
  static LOWATT_ALWAYS_INLINE Register multiply_add_high(Register x, Register m,
                                                         Register c) noexcept {
    const Register even = _mm256_add_epi64(_mm256_mul_epu32(x, m), c);
    const Register odd = _mm256_add_epi64(_mm256_mul_epu32(_mm256_shuffle_epi32(x, 0xf5), m), c);
    return _mm256_blend_epi32(_mm256_shuffle_epi32(even, 0xf5), odd, 0xaa);
  }
  static LOWATT_ALWAYS_INLINE Register narrow_u16(Register a, Register b) noexcept {
    return _mm256_permute4x64_epi64(pack_u16(a, b), 0xd8);
  }
};

}  // namespace lowatt
