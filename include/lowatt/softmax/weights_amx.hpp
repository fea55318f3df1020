// Softmax at level amx, the part between the tile products: scores become weights, sixteen rows at
// a time. See tile_amx.hpp.
#pragma once

#include "workspace_amx.hpp"

#if LOWATT_HAS_TILES

#include "../simd/ops_amx.hpp"
#include "../simd/tiles_amx.hpp"

namespace lowatt {

// The first `count` of sixteen lanes, all when there are more.
LOWATT_ALWAYS_INLINE __mmask16 softmax_lanes(Index count) noexcept {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : count > 0 ? (1u << count) - 1u : 0u);
}

// How far, in powers of two, a score may lie above what is subtracted: as long as none does more,
// nothing that has been summed up needs scaling.
inline constexpr float softmax_headroom = 16;

// 2^(x - softmax_headroom) of sixteen numbers to 2^-13.7 of themselves: at most 1, so that sums of
// weighted values have the range that they have without headroom. As in simd/exp2.hpp it is 0 for x
// below -100: denormal results stall the processor, here to ten times the time of a whole call.
LOWATT_ALWAYS_INLINE __m512 softmax_exp2(__m512 x) noexcept {
  const __mmask16 is_normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-100.0f), _CMP_NLT_UQ);
  const __m512 f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 power = _mm512_set1_ps(0x1.3f96a4p-20f);
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(0x1.cefc4cp-19f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(0x1.64444cp-17f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(0x1.fff632p-17f));
  return _mm512_maskz_scalef_ps(is_normal, power, x);
}

// Scores as int32 or float32 behind one name.
template <bool is_int8>
struct SoftmaxScores;
template <>
struct SoftmaxScores<false> {
  using Register = __m512;
  static LOWATT_ALWAYS_INLINE Register load(const float* p) noexcept { return _mm512_loadu_ps(p); }
  static LOWATT_ALWAYS_INLINE void store(float* p, Register x) noexcept { _mm512_storeu_ps(p, x); }
  // The second one where the first is NaN.
  static LOWATT_ALWAYS_INLINE Register max(Register a, Register b) noexcept {
    return _mm512_max_ps(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register lowest() noexcept {
    return _mm512_set1_ps(-__builtin_inff());
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return _mm512_setzero_ps(); }
  // b where the mask is set, else a.
  static LOWATT_ALWAYS_INLINE Register select(__mmask16 mask, Register a, Register b) noexcept {
    return _mm512_mask_mov_ps(a, mask, b);
  }
  static LOWATT_ALWAYS_INLINE __m512 number(Register x) noexcept { return x; }
  static LOWATT_ALWAYS_INLINE __mmask16 above(Register a, Register b) noexcept {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  }
  static LOWATT_ALWAYS_INLINE __m512 minus(Register a, Register b) noexcept {
    return _mm512_sub_ps(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register same(float x) noexcept { return _mm512_set1_ps(x); }
};
template <>
struct SoftmaxScores<true> {
  using Register = __m512i;
  static LOWATT_ALWAYS_INLINE Register load(const float* p) noexcept {
    return _mm512_loadu_si512(p);
  }
  static LOWATT_ALWAYS_INLINE void store(float* p, Register x) noexcept {
    _mm512_storeu_si512(p, x);
  }
  static LOWATT_ALWAYS_INLINE Register max(Register a, Register b) noexcept {
    return _mm512_max_epi32(a, b);
  }
  static LOWATT_ALWAYS_INLINE Register lowest() noexcept {
    return _mm512_set1_epi32(-2147483647 - 1);
  }
  static LOWATT_ALWAYS_INLINE Register zero() noexcept { return _mm512_setzero_si512(); }
  static LOWATT_ALWAYS_INLINE Register select(__mmask16 mask, Register a, Register b) noexcept {
    return _mm512_mask_mov_epi32(a, mask, b);
  }
  static LOWATT_ALWAYS_INLINE __m512 number(Register x) noexcept { return _mm512_cvtepi32_ps(x); }
  static LOWATT_ALWAYS_INLINE __mmask16 above(Register a, Register b) noexcept {
    return _mm512_cmpgt_epi32_mask(a, b);
  }
  // Exact until it is rounded; hidden keys become infinitely far.
  static LOWATT_ALWAYS_INLINE __m512 minus(Register a, Register b) noexcept {
    const __mmask16 hidden = _mm512_cmpeq_epi32_mask(a, lowest());
    return _mm512_mask_mov_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(a, b)), hidden,
                              _mm512_set1_ps(-__builtin_inff()));
  }
  static LOWATT_ALWAYS_INLINE Register same(float x) noexcept {
    return _mm512_set1_epi32(__builtin_bit_cast(std::int32_t, x));
  }
};

// The maxima of sixteen registers, one in each lane: [16][16] numbers.
template <class S>
LOWATT_ALWAYS_INLINE typename S::Register softmax_maxima(const float* rows) noexcept {
  const auto load = [&](int i) __attribute__((always_inline)) {
    return _mm512_loadu_ps(rows + 16 * i);
  };
  const auto max = [](__m512 a, __m512 b) __attribute__((always_inline)) {
    return __builtin_bit_cast(__m512, S::max(__builtin_bit_cast(typename S::Register, a),
                                             __builtin_bit_cast(typename S::Register, b)));
  };
  // Rows side by side: first two, then four in 128 bits, then the four parts of 128 bits.
  __m512 four[4];
  LOWATT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const __m512 a = load(4 * i), b = load(4 * i + 1), c = load(4 * i + 2), d = load(4 * i + 3);
    const __m512 ab = max(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = max(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
    four[i] =
        max(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  const __m512 low = max(_mm512_shuffle_f32x4(four[0], four[1], 0x44),
                         _mm512_shuffle_f32x4(four[0], four[1], 0xee));
  const __m512 high = max(_mm512_shuffle_f32x4(four[2], four[3], 0x44),
                          _mm512_shuffle_f32x4(four[2], four[3], 0xee));
  return __builtin_bit_cast(typename S::Register, max(_mm512_shuffle_f32x4(low, high, 0x88),
                                                      _mm512_shuffle_f32x4(low, high, 0xdd)));
}

// The largest scores of sixteen rows from `first` on with tile t (or the maximum so far); before,
// keys that a row does not see get the lowest score.
template <class Storage>
LOWATT_ALWAYS_INLINE auto softmax_largest(const BlockArguments& block, Index t, bool is_full,
                                          Index first,
                                          const SoftmaxAmxWorkspace<Storage>& workspace) noexcept {
  using S = SoftmaxScores<std::is_same_v<Storage, SoftmaxInt8>>;
  using Register = typename S::Register;
  constexpr Index stride = SoftmaxAmxWorkspace<Storage>::score_stride;
  const Index count = block.rows - first < 16 ? block.rows - first : 16;
  float* scores = workspace.scores + first * stride;
  if (!is_full)
    for (Index r = 0; r < count; ++r) {
      const std::uint64_t hidden = ~block.visible_word(first + r, t);
      for (Index j = 0; j < tile_keys; j += 16)
        _mm512_mask_storeu_ps(scores + r * stride + j, static_cast<__mmask16>(hidden >> j),
                              __builtin_bit_cast(__m512, S::lowest()));
    }
  alignas(64) float largest[16][16];
  for (Index r = 0; r < 16; ++r) {
    const float* row = scores + (r < count ? r : 0) * stride;
    const Register a = S::max(S::load(row), S::load(row + 16));
    const Register b = S::max(S::load(row + 32), S::load(row + 48));
    S::store(largest[r], S::max(a, b));
  }
  return S::max(softmax_maxima<S>(largest[0]), S::load(workspace.sums.maximum + first));
}

// Rows whose maximum has to be raised to these scores, or has been the lowest so far.
template <class S>
LOWATT_ALWAYS_INLINE __mmask16 softmax_above(typename S::Register largest,
                                             typename S::Register maximum, __m512 factor) noexcept {
  const __m512 gap = _mm512_mul_ps(S::minus(largest, maximum), factor);
  const __mmask16 is_far = _mm512_cmp_ps_mask(gap, _mm512_set1_ps(softmax_headroom), _CMP_NLE_UQ);
  const __mmask16 is_first = _mm512_knot(S::above(maximum, S::lowest()));
  return _mm512_kand(S::above(largest, maximum), _mm512_kor(is_far, is_first));
}

// Raises the maxima of some of sixteen rows and scales down what has been summed up.
template <class L, class Storage>
void softmax_raise(Index first, __mmask16 raised,
                   typename SoftmaxScores<std::is_same_v<Storage, SoftmaxInt8>>::Register largest,
                   const SoftmaxAmxWorkspace<Storage>& workspace) noexcept {
  using S = SoftmaxScores<std::is_same_v<Storage, SoftmaxInt8>>;
  using Float = typename Ops<L>::Float;
  const FloatSums& sums = workspace.sums.sums;
  float* maximum = workspace.sums.maximum + first;
  const auto before = S::load(maximum);
  S::store(maximum, S::select(raised, before, largest));
  // As long as all scores are the lowest, all sums are 0.
  const __mmask16 scaled = _mm512_kand(raised, S::above(before, S::lowest()));
  if (scaled == 0) return;
  alignas(64) float keep[16];
  const __m512 factor = _mm512_loadu_ps(workspace.factor + first);
  exp2<L>(Float(_mm512_mul_ps(S::minus(before, largest), factor))).store_aligned(keep);
  for (unsigned left = scaled; left != 0; left &= left - 1) {
    const int r = __builtin_ctz(left);
    sums.multiply_row(first + r, keep[r]);
  }
}

// Weights 2^(score * factor - subtracted - softmax_headroom) of one row with 64 keys, as bf16: a
// row of two tiles. Returns their sum in 16 columns.
template <bool is_int8>
LOWATT_ALWAYS_INLINE __m512 softmax_row_weights(const float* scores, float factor, float subtracted,
                                                std::byte* weights) noexcept {
  const __m512 f = _mm512_set1_ps(factor), s = _mm512_set1_ps(subtracted);
  const auto weight = [&](const float* score) __attribute__((always_inline)) {
    const __m512 x =
        is_int8 ? _mm512_cvtepi32_ps(_mm512_loadu_si512(score)) : _mm512_loadu_ps(score);
    return softmax_exp2(_mm512_fmsub_ps(x, f, s));
  };
  const auto ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  const __m512bh low = _mm512_cvtne2ps_pbh(weight(scores + 16), weight(scores));
  const __m512bh high = _mm512_cvtne2ps_pbh(weight(scores + 48), weight(scores + 32));
  _mm512_storeu_si512(weights, (__m512i)low);
  _mm512_storeu_si512(weights + tiles::bytes, (__m512i)high);
  return _mm512_dpbf16_ps(_mm512_dpbf16_ps(_mm512_setzero_ps(), low, ones), high, ones);
}

// Turns the scores of sixteen rows from `first` on into weights, in place `slot` of waiting tiles.
template <class Storage>
LOWATT_ALWAYS_INLINE void softmax_amx_weigh(
    const BlockArguments& block, bool is_full, Index first, Index slot,
    const SoftmaxAmxWorkspace<Storage>& workspace) noexcept {
  using Workspace = SoftmaxAmxWorkspace<Storage>;
  constexpr bool is_int8 = std::is_same_v<Storage, SoftmaxInt8>;
  using S = SoftmaxScores<is_int8>;
  constexpr Index stride = Workspace::score_stride;
  const FloatSums& sums = workspace.sums.sums;
  const Index count = block.rows - first < 16 ? block.rows - first : 16;
  const auto rows = static_cast<__mmask16>((1u << count) - 1u);
  float* scores = workspace.scores + first * stride;

  // Any finite number does in the place of a maximum of -infinity.
  const auto maximum = S::load(workspace.sums.maximum + first);
  const __m512 number = _mm512_maskz_mov_ps(S::above(maximum, S::lowest()), S::number(maximum));
  const __m512 product = _mm512_mul_ps(number, _mm512_loadu_ps(workspace.factor + first));
  alignas(64) float subtracted[16], numbers[16];
  _mm512_store_ps(subtracted, product);
  // score * factor - subtracted is precise for products and int32 of some size. Otherwise, and
  // where int32 hides keys, scores are replaced by their distance from the maximum.
  constexpr float largest_number = is_int8 ? 0x1p23f : __builtin_inff();
  const __mmask16 is_near =
      _mm512_cmp_ps_mask(_mm512_abs_ps(product), _mm512_set1_ps(0x1p12f), _CMP_LT_OQ) &
      _mm512_cmp_ps_mask(_mm512_abs_ps(number), _mm512_set1_ps(largest_number), _CMP_LE_OQ);
  const bool replaced = (rows & ~is_near) != 0 || (is_int8 && !is_full);
  if (replaced) {
    const auto finite = S::select(S::above(maximum, S::lowest()), S::zero(), maximum);
    S::store(numbers, finite);
    _mm512_store_ps(subtracted, _mm512_setzero_ps());
    for (Index r = 0; r < count; ++r)
      for (Index j = 0; j < tile_keys; j += 16) {
        float* score = scores + r * stride + j;
        _mm512_storeu_ps(score, S::minus(S::load(score), S::same(numbers[r])));
      }
  }

  std::byte* weights =
      workspace.weights + first / 16 * Workspace::weight_bytes + slot * 2 * tiles::bytes;
  float* columns = sums.recent + first * sums.stride + workspace.sums.value_stride;
  const float* factor = workspace.factor + first;
  const auto weigh = [&]<bool is_integer>() __attribute__((always_inline)) {
    for (Index r = 0; r < count; ++r) {
      const __m512 sum = softmax_row_weights<is_integer>(scores + r * stride, factor[r],
                                                         subtracted[r], weights + r * 64);
      float* column = columns + r * sums.stride;
      _mm512_storeu_ps(column, _mm512_add_ps(sum, _mm512_loadu_ps(column)));
    }
  };
  if (replaced)
    weigh.template operator()<false>();
  else
    weigh.template operator()<is_int8>();
}

}  // namespace lowatt

#endif
