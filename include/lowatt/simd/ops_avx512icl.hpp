// AVX-512 with VNNI, VBMI, VBMI2, BITALG, VPOPCNTDQ (Ice Lake, Zen 4): what differs from avx512.
#pragma once

#include "ops_avx512.hpp"

namespace lowatt {

template <>
struct Ops<arch::avx512icl> : Ops<arch::avx512> {
  static LOWATT_ALWAYS_INLINE Register popcount_u8(Register a) noexcept {
    return _mm512_popcnt_epi8(a);
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
