// What the gradients of all mechanisms share. A kernel goes through the queries of one head in
// blocks of 16, and through the keys that a block sees in tiles of 64.
//
// What belongs to pairs is kept transposed, [key][16 queries]: queries are lanes, so that row
// statistics need no work across lanes, and every product reads the caller's keys, values, queries
// and gradients where they are:
//
//   pairs[j][i]  = sum_c K[j][c] * Qt[c][i]       transposed_queries, pair_sums
//   dQ[i][c]    += sum_j pairs[j][i] * K[j][c]    add_to_queries
//   dK[j][c]    += sum_i pairs[j][i] * Q[i][c]    add_to_keys
//
// and likewise with values and outputs. One float per key and query of the block may be kept, which
// is 64 bytes per key.
//
// Masks          a query and a key that it does not see are never multiplied: 0 * NaN is NaN.
//                Whatever their pair holds is not read by the two sums.
#pragma once

#include "../core/rows.hpp"
#include "float_product.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <arm_neon.h>
#endif

namespace lowatt {

inline constexpr Index gradient_rows = 16;

// One query head. Rows of queries, outputs and their gradients: `queries`; of keys, values and
// their gradients: `keys`. A kernel overwrites query_gradient and adds to the other two, since
// query heads that share keys come one after the other.
struct GradientArguments {
  ConstFloatRows query, key, value;
  FloatRows result;                  // outputs, where those are asked for
  ConstFloatRows out, out_gradient;  // where gradients are
  FloatRows query_gradient, key_gradient, value_gradient;
  Index queries = 0, keys = 0, head_dim = 0, value_dim = 0;
  bool causal = false;
  std::byte* workspace = nullptr;  // at 64-byte alignment
};

// Up to 16 queries of one head, and the keys that they see.
struct GradientBlock {
  Index first = 0, rows = 0;
  Index whole = 0;  // keys [0, whole) are seen by all rows,
  Index end = 0;    // [0, end) by some

  LOWATT_ALWAYS_INLINE GradientBlock(const GradientArguments& arguments, Index first_) noexcept
      : first(first_),
        rows(arguments.queries - first_ < gradient_rows ? arguments.queries - first_
                                                        : gradient_rows),
        whole(visible_keys(arguments.causal, first_, arguments.queries, arguments.keys).end),
        end(visible_keys(arguments.causal, first_ + rows - 1, arguments.queries, arguments.keys)
                .end),
        shift_(first_ + arguments.keys - arguments.queries) {}

  // Where the tile that begins at a key ends.
  LOWATT_ALWAYS_INLINE Index tile_end(Index begin) const noexcept {
    return begin + tile_keys < end ? begin + tile_keys : end;
  }
  // The keys [0, seen(r)) are seen by row r.
  LOWATT_ALWAYS_INLINE Index seen(Index r) const noexcept {
    if (whole == end) return end;
    const Index reached = shift_ + r + 1;
    return reached < 0 ? 0 : reached;
  }
  // Key j < end is seen by the rows from this one on.
  LOWATT_ALWAYS_INLINE Index first_row(Index j) const noexcept {
    return j < whole ? 0 : j - shift_;
  }

 private:
  Index shift_;  // in causal order row r's own key is shift + r
};

LOWATT_ALWAYS_INLINE void clear_rows(FloatRows rows, Index count, Index dim) noexcept {
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < dim; ++c) rows.row(r)[c] = 0;
}

// Four floats, which is enough for transposing at any level.
#if defined(__x86_64__)
using FourFloats = __m128;
LOWATT_ALWAYS_INLINE FourFloats fill_four(float x) noexcept {
  return _mm_set1_ps(x);
}
LOWATT_ALWAYS_INLINE FourFloats load_four(const float* p) noexcept {
  return _mm_loadu_ps(p);
}
LOWATT_ALWAYS_INLINE void store_four(float* p, FourFloats a) noexcept {
  _mm_storeu_ps(p, a);
}
LOWATT_ALWAYS_INLINE void transpose_four(FourFloats& a, FourFloats& b, FourFloats& c,
                                         FourFloats& d) noexcept {
  _MM_TRANSPOSE4_PS(a, b, c, d);
}
#else
using FourFloats = float32x4_t;
LOWATT_ALWAYS_INLINE FourFloats fill_four(float x) noexcept {
  return vdupq_n_f32(x);
}
LOWATT_ALWAYS_INLINE FourFloats load_four(const float* p) noexcept {
  return vld1q_f32(p);
}
LOWATT_ALWAYS_INLINE void store_four(float* p, FourFloats a) noexcept {
  vst1q_f32(p, a);
}
LOWATT_ALWAYS_INLINE void transpose_four(FourFloats& a, FourFloats& b, FourFloats& c,
                                         FourFloats& d) noexcept {
  const auto pairs = [](FourFloats x) __attribute__((always_inline)) {
    return vreinterpretq_f64_f32(x);
  };
  const auto ab_even = pairs(vtrn1q_f32(a, b)), ab_odd = pairs(vtrn2q_f32(a, b));
  const auto cd_even = pairs(vtrn1q_f32(c, d)), cd_odd = pairs(vtrn2q_f32(c, d));
  a = vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even));
  b = vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd));
  c = vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even));
  d = vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd));
}
#endif

// out[dim][16] = factor * rows, transposed; lanes beyond `count` are 0.
template <class L>
void transpose_rows(ConstFloatRows rows, Index count, Index dim, float factor,
                    float* out) noexcept {
  const FourFloats factors = fill_four(factor);
  Index i = 0;
  for (; i + 4 <= count; i += 4) {
    const auto row = [&](Index r, Index c) __attribute__((always_inline)) {
      return factors * load_four(rows.row(i + r) + c);
    };
    Index c = 0;
    for (; c + 4 <= dim; c += 4) {
      FourFloats a = row(0, c), b = row(1, c), d = row(2, c), e = row(3, c);
      transpose_four(a, b, d, e);
      float* const to = out + c * gradient_rows + i;
      store_four(to, a);
      store_four(to + gradient_rows, b);
      store_four(to + 2 * gradient_rows, d);
      store_four(to + 3 * gradient_rows, e);
    }
    for (; c < dim; ++c)
      for (Index r = i; r < i + 4; ++r) out[c * gradient_rows + r] = factor * rows.row(r)[c];
  }
  for (; i < count; ++i)
    for (Index c = 0; c < dim; ++c) out[c * gradient_rows + i] = factor * rows.row(i)[c];
  for (; i < gradient_rows; ++i)
    for (Index c = 0; c < dim; ++c) out[c * gradient_rows + i] = 0;
}

template <class L>
float dot_product(const float* a, const float* b, Index n) noexcept {
  using Op = Ops<L>;
  typename Op::Float sum(0.0f);
  Index c = 0;
  for (; c + Op::lanes <= n; c += Op::lanes)
    sum = Op::multiply_add(Op::Float::load_unaligned(a + c), Op::Float::load_unaligned(b + c), sum);
  if (c < n)
    sum = Op::multiply_add(Op::load_lanes(a + c, n - c), Op::load_lanes(b + c, n - c), sum);
  return Op::reduce_add(sum);
}

// pairs[count][16] = sum_c step(keys[j][c], transposed[c][i]).
template <class L, class Step>
LOWATT_ALWAYS_INLINE void pair_sums(ConstFloatRows keys, Index count, const float* transposed,
                                    Index dim, float* pairs) noexcept {
  float_combine<L, Step>(keys, count, {transposed, gradient_rows}, dim, gradient_rows,
                         {pairs, gradient_rows}, false);
}

// Overwrites the pairs of keys [begin, end) and rows that do not see them. pairs[0] is key begin's.
LOWATT_ALWAYS_INLINE void hide_pairs(const GradientBlock& block, Index begin, Index end,
                                     float* pairs, float value) noexcept {
  for (Index j = begin < block.whole ? block.whole : begin; j < end; ++j)
    for (Index r = 0; r < block.first_row(j); ++r) pairs[(j - begin) * gradient_rows + r] = value;
}

// of_queries[i] += sum_j pairs[j][i] * of_keys[j] for keys [begin, end) that row i of the block
// sees, or another step in the product's place. pairs[0] is key begin's, of_keys.row(0) key 0's,
// of_queries.row(0) row 0's.
template <class L, class Step>
void add_to_queries(const GradientBlock& block, Index begin, Index end, const float* pairs,
                    ConstFloatRows of_keys, Index dim, FloatRows of_queries) noexcept {
  const Index whole = block.whole < begin ? begin : block.whole > end ? end : block.whole;
  if (whole > begin)
    float_combine<L, Step>(ConstFloatColumns{pairs, gradient_rows}, block.rows, of_keys.from(begin),
                           whole - begin, dim, of_queries, true);
  for (Index r = 0; r < block.rows && whole < end; ++r) {
    const Index seen = block.seen(r) < end ? block.seen(r) : end;
    if (seen > whole)
      float_combine<L, Step>(
          ConstFloatColumns{pairs + (whole - begin) * gradient_rows + r, gradient_rows}, 1,
          of_keys.from(whole), seen - whole, dim, of_queries.from(r), true);
  }
}

// of_keys[j] += sum_i pairs[j][i] * of_queries[i], as above.
template <class L>
void add_to_keys(const GradientBlock& block, Index begin, Index end, const float* pairs,
                 ConstFloatRows of_queries, Index dim, FloatRows of_keys) noexcept {
  const Index whole = block.whole < begin ? begin : block.whole > end ? end : block.whole;
  float_combine<L, MultiplyStep<L>>(ConstFloatRows{pairs, gradient_rows}, whole - begin, of_queries,
                                    block.rows, dim, of_keys.from(begin), true);
  for (Index j = whole; j < end; ++j) {
    const Index row = block.first_row(j);
    float_combine<L, MultiplyStep<L>>(
        ConstFloatRows{pairs + (j - begin) * gradient_rows + row, gradient_rows}, 1,
        of_queries.from(row), block.rows - row, dim, of_keys.from(j), true);
  }
}

// What is the same for all keys of a block: one number per query, in registers.
template <class L>
struct QueryLanes {
  using Float = typename Ops<L>::Float;
  static constexpr int vectors = static_cast<int>(gradient_rows) / Ops<L>::lanes;
  alignas(64) float lane[gradient_rows];

  LOWATT_ALWAYS_INLINE void fill(float value) noexcept {
    for (float& x : lane) x = value;
  }
  LOWATT_ALWAYS_INLINE Float load(int v) const noexcept {
    return Float::load_aligned(lane + v * Ops<L>::lanes);
  }
  LOWATT_ALWAYS_INLINE void store(int v, Float x) noexcept {
    x.store_aligned(lane + v * Ops<L>::lanes);
  }
};

}  // namespace lowatt
