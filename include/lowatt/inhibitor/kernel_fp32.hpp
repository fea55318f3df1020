// The Inhibitor at fp32 (arXiv 2310.02041):
//
//   H_ik = sum_j sign(v_jk) * max(|v_jk| - z_ij, 0)      or unsigned, sum_j max(v_jk - z_ij, 0)
//   z_ij = max(scale * sum_k |q_ik - k_jk| - alpha, 0)
//
// With centring the row's mean score is subtracted first and what is left cut off at 0.
//
// Lives on       float subtract, and, add (scores); minimum, maximum, subtract, add (inhibition):
//                two per cycle, no multiplication. What the signed form takes from a value is the
//                value limited to [-z, z]: exact, whereas sums of |v - z| would cancel.
// Layout         pack_fp32.hpp; the same for prefill and decode and at every level.
// Accuracy       relative L2 error 2e-5 against float64, any number of keys: see
//                simd/float_tile.hpp for the sums. The mean is taken in double over tiles.
// Tails          value_dim is padded with zeros when packed; hidden and absent keys get z =
//                infinity, which leaves exactly 0 of any finite value; rows come four at a time,
//                then one at a time.
#pragma once

#include "../simd/write_row.hpp"
#include "arguments.hpp"
#include "pack_fp32.hpp"

namespace lowatt {

inline constexpr Index inhibitor_fp32_query_block = 32;

struct InhibitorFp32Arguments {
  BlockArguments block;
  double scale = 1, alpha = 0, beta = 1;
  bool is_signed = true, center = false, normalize = false;
};

// What the phases of one block hand on to each other.
struct InhibitorFp32Workspace {
  WorkspaceCutter cutter;
  float* query = nullptr;          // [rows][head_dim]
  float* scores = nullptr;         // [rows][64] of one tile
  double* distance_sum = nullptr;  // [rows], the row statistic
  FloatSums inhibited;             // H

  LOWATT_ALWAYS_INLINE InhibitorFp32Workspace(std::byte* base, Index head_dim,
                                              Index value_dim) noexcept
      : cutter{base},
        query(cutter.take<float>(inhibitor_fp32_query_block * head_dim)),
        scores(cutter.take<float>(inhibitor_fp32_query_block * tile_keys)),
        distance_sum(cutter.take<double>(inhibitor_fp32_query_block)),
        inhibited(cutter, inhibitor_fp32_query_block,
                  FloatTileLayout(head_dim, value_dim).value_stride) {}
  LOWATT_ALWAYS_INLINE explicit InhibitorFp32Workspace(const BlockArguments& block) noexcept
      : InhibitorFp32Workspace(block.workspace, block.head_dim, block.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// A parameter as a float: 0 and infinity, which some parameters round to, would make NaN of
// infinite or vanishing scores.
LOWATT_ALWAYS_INLINE float finite_float(double x) noexcept {
  constexpr double largest = 0x1.fffffep127;
  return static_cast<float>(x > largest ? largest : x < -largest ? -largest : x);
}
LOWATT_ALWAYS_INLINE float positive_float(double x) noexcept {
  constexpr double smallest = 0x1p-126;
  return finite_float(x < smallest ? smallest : x);
}

// The steps of float_tile.hpp's sums. The processor's minimum and maximum return their second
// operand where one is NaN; the operands are in the order that lets a visible NaN reach the output.
template <class L>
struct DistanceStep {
  using Float = typename Ops<L>::Float;
  static LOWATT_ALWAYS_INLINE Float add(Float sum, Float query, Float key) noexcept {
    return sum + xsimd::abs(query - key);
  }
};
template <class L>
struct SignedInhibitionStep {
  using Float = typename Ops<L>::Float;
  static LOWATT_ALWAYS_INLINE Float add(Float sum, Float score, Float value) noexcept {
    return sum + (value - xsimd::max(xsimd::min(value, score), -score));
  }
};
template <class L>
struct UnsignedInhibitionStep {
  using Float = typename Ops<L>::Float;
  static LOWATT_ALWAYS_INLINE Float add(Float sum, Float score, Float value) noexcept {
    return sum + xsimd::max(Float(0.0f), value - score);
  }
};

// Copies the block's queries and clears its sums.
template <class L>
void inhibitor_fp32_prepare(const InhibitorFp32Arguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorFp32Workspace workspace(block);
  for (Index r = 0; r < block.rows; ++r) {
    const float* query = block.query + r * block.query_stride;
    for (Index c = 0; c < block.head_dim; ++c) workspace.query[r * block.head_dim + c] = query[c];
    workspace.distance_sum[r] = 0;
  }
  workspace.inhibited.clear(block.rows);
}

// The row statistic of centring: sum of distances, not scaled, over visible keys.
template <class L>
void inhibitor_fp32_statistic(const InhibitorFp32Arguments& arguments) noexcept {
  if (!arguments.center) return;
  using Float = typename Ops<L>::Float;
  const BlockArguments& block = arguments.block;
  const InhibitorFp32Workspace workspace(block);
  const FloatTileLayout layout(block.head_dim, block.value_dim);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const FloatTile tile(block.tiles.tile(t), layout);
    float_scores<L, DistanceStep<L>>({workspace.query, block.head_dim}, block.rows, block.head_dim,
                                     tile, workspace.scores);
    for (Index r = 0; r < block.rows; ++r) {
      float* distances = workspace.scores + r * tile_keys;
      hide(distances, block.visible_word(r, t), 0.0f);
      Float sum(0.0f);
      for (Index j = 0; j < tile_keys; j += Ops<L>::lanes)
        sum = sum + Float::load_unaligned(distances + j);
      sum.store_unaligned(distances);
      for (int lane = 0; lane < Ops<L>::lanes; ++lane)
        workspace.distance_sum[r] += static_cast<double>(distances[lane]);
    }
  }
}

// Adds the tiles [tile_begin, tile_end) to the block's H.
template <class L>
void inhibitor_fp32_accumulate(const InhibitorFp32Arguments& arguments) noexcept {
  using Float = typename Ops<L>::Float;
  const BlockArguments& block = arguments.block;
  const InhibitorFp32Workspace workspace(block);
  const FloatTileLayout layout(block.head_dim, block.value_dim);
  const Float scale(positive_float(arguments.scale)), alpha(finite_float(arguments.alpha));
  const Float zero(0.0f);

  float mean[inhibitor_fp32_query_block] = {};  // of scores
  if (arguments.center)
    for (Index r = 0; r < block.rows; ++r) {
      const Index count = block.visible_count(r);
      if (count > 0)
        mean[r] = static_cast<float>(arguments.scale * workspace.distance_sum[r] /
                                     static_cast<double>(count));
    }

  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const FloatTile tile(block.tiles.tile(t), layout);
    float_scores<L, DistanceStep<L>>({workspace.query, block.head_dim}, block.rows, block.head_dim,
                                     tile, workspace.scores);
    for (Index r = 0; r < block.rows; ++r) {
      float* scores = workspace.scores + r * tile_keys;
      for (Index j = 0; j < tile_keys; j += Ops<L>::lanes) {
        const Float score = Float::load_unaligned(scores + j) * scale;
        const Float centred = xsimd::max(zero, score - Float(mean[r]));
        xsimd::max(zero, centred - alpha).store_unaligned(scores + j);
      }
      hide(scores, block.visible_word(r, t), __builtin_inff());
    }
    if (arguments.is_signed)
      float_add_values<L, SignedInhibitionStep<L>>(block, t, tile, layout.value_stride,
                                                   workspace.scores, workspace.inhibited);
    else
      float_add_values<L, UnsignedInhibitionStep<L>>(block, t, tile, layout.value_stride,
                                                     workspace.scores, workspace.inhibited);
    workspace.inhibited.count_addition(block.rows);
  }
  workspace.inhibited.fold(block.rows);  // outputs are read from totals alone
}

// H, [rows][stride], times gain, over the number of visible keys where asked.
template <class L>
void inhibitor_fp32_write(const InhibitorFp32Arguments& arguments, const double* inhibited,
                          Index stride) noexcept {
  using Double = typename Ops<L>::Double;
  const BlockArguments& block = arguments.block;
  const Double beta(arguments.beta);
  for (Index r = 0; r < block.rows; ++r) {
    const Index count = block.visible_count(r);
    float* out = block.out + r * block.out_stride;
    if (count == 0) {
      write_zeros(block.value_dim, out);
      continue;
    }
    const Double divisor(arguments.normalize ? static_cast<double>(count) : 1.0);
    write_row<L>(
        inhibited + r * stride, block.value_dim,
        out, [=](Double sum) __attribute__((always_inline)) { return sum * beta / divisor; });
  }
}
template <class L>
void inhibitor_fp32_finish(const InhibitorFp32Arguments& arguments) noexcept {
  const InhibitorFp32Workspace workspace(arguments.block);
  inhibitor_fp32_write<L>(arguments, workspace.inhibited.total, workspace.inhibited.stride);
}

// See arguments.hpp.
template <class L>
void inhibitor_fp32_store_sums(const InhibitorFp32Arguments& arguments,
                               double* statistic) noexcept {
  const InhibitorFp32Workspace workspace(arguments.block);
  inhibitor_store_statistic<L>(arguments.block, workspace.distance_sum, statistic);
}
template <class L>
void inhibitor_fp32_load_sums(const InhibitorFp32Arguments& arguments,
                              const double* statistic) noexcept {
  const InhibitorFp32Workspace workspace(arguments.block);
  inhibitor_load_statistic<L>(arguments.block, statistic, workspace.distance_sum);
}
template <class L>
void inhibitor_fp32_store_part(const InhibitorFp32Arguments& arguments,
                               PartRows<double> part) noexcept {
  const FloatSums sums = InhibitorFp32Workspace(arguments.block).inhibited;
  inhibitor_store_rows<L>(arguments.block, sums.total, sums.stride, part);
}
template <class L>
void inhibitor_fp32_finish_part(const InhibitorFp32Arguments& arguments,
                                PartRows<const double> part) noexcept {
  inhibitor_fp32_write<L>(arguments, part.sums(0), part.stride());
}

}  // namespace lowatt
