// AVX-512 with VNNI, VBMI, VBMI2, BITALG, VPOPCNTDQ (Ice Lake, Zen 4): what differs from avx512.
#pragma once

#include "ops_avx512.hpp"

namespace lowatt {

template <>
struct Ops<arch::avx512icl> : Ops<arch::avx512> {
  static constexpr bool counts_by_nibbles = false, looks_up_64 = true;
  static LOWATT_ALWAYS_INLINE Register popcount_u8(Register a) noexcept {
    return _mm512_popcnt_epi8(a);
  }
  static LOWATT_ALWAYS_INLINE Register lookup_64(Register table, Register index) noexcept {
    return _mm512_permutexvar_epi8(index, table);
  }
  // 64 or 128 entries per permutation; indices wrap, so those outside take a zero entry or are
  // masked to zero.
  static LOWATT_ALWAYS_INLINE Register lookup_u8(const std::uint8_t* table, int used,
                                                 Register index) noexcept {
    if (used < 64) return _mm512_permutexvar_epi8(min_u8(index, fill_u8(63)), load(table));
    const __mmask64 upper = _mm512_movepi8_mask(index);
    const Register value =
        _mm512_maskz_permutex2var_epi8(~upper, load(table), index, load(table + 64));
    if (used <= 128) return value;
    return _mm512_or_si512(
        value, _mm512_maskz_permutex2var_epi8(upper, load(table + 128), index, load(table + 192)));
  }
  // Eight addresses at a time. The first sixteen are written whatever the mask: most words of 64
  // keys have some, and a branch would be guessed wrong often.
  static LOWATT_ALWAYS_INLINE Index store_addresses(std::uint64_t mask, const std::byte* base,
                                                    Index stride, const std::byte** out) noexcept {
    const Register numbers = _mm512_set_epi8(
        63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41,
        40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18,
        17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const Register slots = _mm512_maskz_compress_epi8(mask, numbers);
    const Register first = _mm512_set1_epi64(reinterpret_cast<Index>(base));
    const Register step = _mm512_set1_epi64(stride);
    Register eight = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const auto store_eight = [&](Index i) __attribute__((always_inline)) {
      // The lowest byte of each of eight words.
      const Register slot = _mm512_maskz_permutexvar_epi8(0x0101010101010101, eight, slots);
      store(out + i, _mm512_add_epi64(_mm512_mul_epu32(slot, step), first));
      eight = _mm512_add_epi64(eight, _mm512_set1_epi64(8));
    };
    const Index count = __builtin_popcountll(mask);
    store_eight(0);
    store_eight(8);
    for (Index i = 16; i < count; i += 8) store_eight(i);
    return count;
  }
  // The lowest byte of every lane, after a shift by `shift` bits.
  static LOWATT_ALWAYS_INLINE void store_bytes(void* p, Register a, int shift) noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm512_cvtepi32_epi8(_mm512_srl_epi32(a, _mm_cvtsi32_si128(shift))));
  }
  // Of what interleave4 brought together, or sums over it: the order of dims again.
  static LOWATT_ALWAYS_INLINE void separate4(Register* a) noexcept {
    const Register low = _mm512_shuffle_i32x4(a[0], a[1], 0x44);    // a0 a1 b0 b1
    const Register high = _mm512_shuffle_i32x4(a[0], a[1], 0xee);   // a2 a3 b2 b3
    const Register low2 = _mm512_shuffle_i32x4(a[2], a[3], 0x44);   // c0 c1 d0 d1
    const Register high2 = _mm512_shuffle_i32x4(a[2], a[3], 0xee);  // c2 c3 d2 d3
    a[0] = _mm512_shuffle_i32x4(low, low2, 0x88);
    a[1] = _mm512_shuffle_i32x4(low, low2, 0xdd);
    a[2] = _mm512_shuffle_i32x4(high, high2, 0x88);
    a[3] = _mm512_shuffle_i32x4(high, high2, 0xdd);
  }
  static LOWATT_ALWAYS_INLINE void separate4(Float* a) noexcept {
    Register r[4];
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) r[v] = _mm512_castps_si512(a[v]);
    separate4(r);
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) a[v] = _mm512_castsi512_ps(r[v]);
  }
  static constexpr int dot4_parts = 1;
  static LOWATT_ALWAYS_INLINE Register split_u8(Register u, int) noexcept { return u; }
  static LOWATT_ALWAYS_INLINE Register split_s8(Register s, int) noexcept { return s; }
  static LOWATT_ALWAYS_INLINE Register dot4_part(Register acc, Register u, Register s) noexcept {
    return _mm512_dpbusd_epi32(acc, u, s);
  }
  static LOWATT_ALWAYS_INLINE Register dot4(Register acc, Register u, Register s) noexcept {
    return _mm512_dpbusd_epi32(acc, u, s);
  }
  static constexpr int narrow_weight = 255;
  static LOWATT_ALWAYS_INLINE Register dot4_narrow(Register acc, Register u, Register s) noexcept {
    return _mm512_dpbusd_epi32(acc, u, s);
  }
  static LOWATT_ALWAYS_INLINE Register narrow_begin(Register total) noexcept { return total; }
  static LOWATT_ALWAYS_INLINE Register narrow_add(Register acc, Register u, Register s) noexcept {
    return _mm512_dpbusd_epi32(acc, u, s);
  }
  static LOWATT_ALWAYS_INLINE Register narrow_end(Register, Register acc) noexcept { return acc; }

  // 16 bits.
  static LOWATT_ALWAYS_INLINE Register dot2(Register acc, Register a, Register b) noexcept {
    return _mm512_dpwssd_epi32(acc, a, b);
  }
};

}  // namespace lowatt
