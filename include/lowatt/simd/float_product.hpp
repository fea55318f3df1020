// Dense products of float32 matrices, and sums like them, in registers:
//
//   out[r][c] (+)= sum_k step(left[r][k], right[k][c])
//
// The left side is read one number at a time, so that it may lie in memory in any way, transposed
// too; the right side and the output are read by registers of columns.
//
// Lives on       for products, fused multiply-add: two per cycle. A block of 4 rows by 4 registers
//                (8 rows where there are fewer columns) has enough sums to hide its latency, and
//                needs half a load per operation; 8 rows by one register need more than one.
// Accuracy       sums run over k in order, one rounding per term (two where
//                a level has no fused multiply-add).
// Tails          columns beyond the last whole register are loaded and stored alone; rows beyond
//                the last whole block come one at a time.
#pragma once

#include "ops.hpp"

namespace lowatt {

// Rows of floats at a stride in elements.
struct ConstFloatRows {
  const float* data = nullptr;
  Index stride = 0;

  LOWATT_ALWAYS_INLINE const float* row(Index r) const noexcept { return data + r * stride; }
  LOWATT_ALWAYS_INLINE ConstFloatRows from(Index r) const noexcept { return {row(r), stride}; }
  LOWATT_ALWAYS_INLINE float at(Index r, Index k) const noexcept { return data[r * stride + k]; }
};
// The same matrix transposed: row r is what lies at r, r + stride, r + 2 * stride ...
struct ConstFloatColumns {
  const float* data = nullptr;
  Index stride = 0;

  LOWATT_ALWAYS_INLINE ConstFloatColumns from(Index r) const noexcept { return {data + r, stride}; }
  LOWATT_ALWAYS_INLINE float at(Index r, Index k) const noexcept { return data[k * stride + r]; }
};
struct FloatRows {
  float* data = nullptr;
  Index stride = 0;

  LOWATT_ALWAYS_INLINE float* row(Index r) const noexcept { return data + r * stride; }
  LOWATT_ALWAYS_INLINE FloatRows from(Index r) const noexcept { return {row(r), stride}; }
};

// The step of a product. A step adds one term to a sum, a register at a time; `left` is the same
// number in every lane.
template <class L>
struct MultiplyStep {
  using Float = typename Ops<L>::Float;
  static LOWATT_ALWAYS_INLINE Float add(Float sum, Float left, Float right) noexcept {
    return Ops<L>::multiply_add(left, right, sum);
  }
};

// Rows rows and Vectors registers of columns, all sums in registers. Of the last register only
// `last` columns exist where IsPartial.
template <class L, class Step, int Rows, int Vectors, bool IsPartial = false, class Left>
void float_block(Left left, ConstFloatRows right, Index depth, FloatRows out, bool add,
                 Index last = 0) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr int lanes = Op::lanes;
  const auto load = [&](const float* p, int v) __attribute__((always_inline)) {
    if constexpr (IsPartial)
      return v == Vectors - 1 ? Op::load_lanes(p, last) : Float::load_unaligned(p);
    else
      return Float::load_unaligned(p);
  };
  Float sum[Rows][Vectors];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[r][v] = Float(0.0f);
  }
  for (Index k = 0; k < depth; ++k) {
    Float vector[Vectors];
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      vector[v] = load(right.data + k * right.stride + v * lanes, v);
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const Float scalar(left.at(r, k));
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Step::add(sum[r][v], scalar, vector[v]);
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* target = out.data + r * out.stride + v * lanes;
      if (add) sum[r][v] = sum[r][v] + load(target, v);
      if (IsPartial && v == Vectors - 1)
        Op::store_lanes(target, sum[r][v], last);
      else
        sum[r][v].store_unaligned(target);
    }
  }
}

// Any number of rows and columns; Left is ConstFloatRows or ConstFloatColumns. The right side is
// read in slices of a few registers of columns, which stay in the first-level cache while all rows
// pass.
template <class L, class Step, class Left>
void float_combine(Left left, Index rows, ConstFloatRows right, Index depth, Index columns,
                   FloatRows out, bool add) noexcept {
  constexpr int lanes = Ops<L>::lanes, widest = Ops<L>::block_vectors;
  const auto slice = [&]<int Vectors, bool IsPartial>(Index c, Index last) {
    constexpr int together = Vectors == widest ? 4 : 8;
    const ConstFloatRows vector{right.data + c, right.stride};
    const auto block = [&]<int Rows>(Index r) {
      float_block<L, Step, Rows, Vectors, IsPartial>(
          left.from(r), vector, depth, {out.data + r * out.stride + c, out.stride}, add, last);
    };
    Index r = 0;
    for (; r + together <= rows; r += together) block.template operator()<together>(r);
    for (; r < rows; ++r) block.template operator()<1>(r);
  };
  Index c = 0;
  for (; c + widest * lanes <= columns; c += widest * lanes)
    slice.template operator()<widest, false>(c, 0);
  if constexpr (widest > 2)
    for (; c + 2 * lanes <= columns; c += 2 * lanes) slice.template operator()<2, false>(c, 0);
  for (; c + lanes <= columns; c += lanes) slice.template operator()<1, false>(c, 0);
  if (c < columns) slice.template operator()<1, true>(c, columns - c);
}

}  // namespace lowatt
