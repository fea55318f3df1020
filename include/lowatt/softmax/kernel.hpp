// Softmax attention at fp32, one tile of keys at a time with a running maximum:
//
//   out_i = sum_j p_ij v_j / sum_j p_ij,   p_ij = exp(scale * q_i . k_j - m_i)
//
// m_i is the largest score so far; when a tile raises it, what row i has summed up is multiplied
// with exp(old m_i - new m_i). No row statistic is needed beforehand.
//
// Lives on       fused multiply-add, two per cycle: 2 * head_dim + 2 * value_dim flops per pair.
//                exp is a polynomial (simd/exp2.hpp).
// Layout         pack.hpp; the same for prefill and decode and at every level.
// Accuracy       relative L2 error 2e-5 against float64 for scores up to 100, any number of keys:
//                see simd/float_tile.hpp for the sums. Queries are scaled beforehand.
// Tails          value_dim is padded with zeros when packed; hidden and absent keys get the score
//                -infinity, and so p = 0; rows come four at a time, then one at a time.
#pragma once

#include "../simd/exp2.hpp"
#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

inline constexpr Index softmax_query_block = 32;

struct SoftmaxArguments {
  BlockArguments block;
  double scale = 1;
};

// What the phases of one block hand on to each other. Beside its weighted values a row sums up its
// weights, in the 16 columns after value_stride (any of them: their sum counts).
struct SoftmaxWorkspace {
  static constexpr Index weight_columns = 16;
  Index value_stride = 0;
  WorkspaceCutter cutter;
  float* query = nullptr;    // [rows][head_dim], scaled
  float* scores = nullptr;   // [rows][64], scores and then weights of one tile
  float* maximum = nullptr;  // [rows], the largest score so far
  FloatSums sums;

  LOWATT_ALWAYS_INLINE SoftmaxWorkspace(std::byte* base, Index head_dim, Index value_dim) noexcept
      : value_stride(FloatTileLayout(head_dim, value_dim).value_stride),
        cutter{base},
        query(cutter.take<float>(softmax_query_block * head_dim)),
        scores(cutter.take<float>(softmax_query_block * tile_keys)),
        maximum(cutter.take<float>(softmax_query_block)),
        sums(cutter, softmax_query_block, value_stride + weight_columns) {}
  LOWATT_ALWAYS_INLINE explicit SoftmaxWorkspace(const BlockArguments& block) noexcept
      : SoftmaxWorkspace(block.workspace, block.head_dim, block.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// Scales the block's queries, so that exp(scale * product) becomes 2^product, and clears its sums.
// A scale beyond 2^100 would overflow; there, as far below, all weight is on the largest score.
template <class L>
void softmax_prepare(const SoftmaxArguments& arguments) noexcept {
  constexpr double log2_e = 0x1.71547652b82fep+0, largest = 0x1p100;
  const BlockArguments& block = arguments.block;
  const SoftmaxWorkspace workspace(block);
  const double wanted = arguments.scale * log2_e;
  const auto factor = static_cast<float>(wanted < largest ? wanted : largest);
  for (Index r = 0; r < block.rows; ++r) {
    const float* query = block.query + r * block.query_stride;
    for (Index c = 0; c < block.head_dim; ++c)
      workspace.query[r * block.head_dim + c] = factor * query[c];
    workspace.maximum[r] = -__builtin_inff();
  }
  workspace.sums.clear(block.rows);
}

// Turns the scores of row r with 64 keys into weights 2^(score - maximum). Nothing but the
// subtraction is done to a score here, so that the weight of the largest is exactly 1.
template <class L>
void softmax_weigh(float* scores, std::uint64_t visible, Index r,
                   const SoftmaxWorkspace& workspace) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  if (visible == 0) {
    for (Index j = 0; j < tile_keys; ++j) scores[j] = 0;
    return;
  }
  hide(scores, visible, -__builtin_inff());

  Float largest = Float::load_unaligned(scores);
  for (Index j = Op::lanes; j < tile_keys; j += Op::lanes)
    largest = xsimd::max(largest, Float::load_unaligned(scores + j));
  const float highest = Op::reduce_max(largest);
  float& maximum = workspace.maximum[r];
  if (highest > maximum) {
    if (maximum > -__builtin_inff()) workspace.sums.multiply_row(r, exp2<L>(maximum - highest));
    maximum = highest;
  }

  // As long as all scores are -infinity, any finite number does in the maximum's place.
  const Float subtracted(maximum > -__builtin_inff() ? maximum : 0.0f);
  Float sum(0.0f);
  for (Index j = 0; j < tile_keys; j += Op::lanes) {
    const Float weight = exp2<L>(Float::load_unaligned(scores + j) - subtracted);
    weight.store_unaligned(scores + j);
    sum = sum + weight;
  }
  float* weights = workspace.sums.recent + r * workspace.sums.stride + workspace.value_stride;
  (Float::load_unaligned(weights) + sum).store_unaligned(weights);
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L>
void softmax_accumulate(const SoftmaxArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const SoftmaxWorkspace workspace(block);
  const FloatTileLayout layout(block.head_dim, block.value_dim);
  Index recent = 0;
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const FloatTile tile(block.tiles.tile(t), layout);
    float_scores<L, MultiplyStep<L>>({workspace.query, block.head_dim}, block.rows, block.head_dim,
                                     tile, workspace.scores);
    for (Index r = 0; r < block.rows; ++r)
      softmax_weigh<L>(workspace.scores + r * tile_keys, block.visible_word(r, t), r, workspace);
    float_add_values<L, MultiplyStep<L>>(block, t, tile, layout.value_stride, workspace.scores,
                                         workspace.sums);
    if (++recent % FloatSums::most_recent == 0) workspace.sums.fold(block.rows);
  }
  workspace.sums.fold(block.rows);
}

// Weighted values over weights.
template <class L>
void softmax_finish(const SoftmaxArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const SoftmaxWorkspace workspace(block);
  for (Index r = 0; r < block.rows; ++r) {
    const double* total = workspace.sums.total + r * workspace.sums.stride;
    double weights = 0;
    for (Index i = 0; i < SoftmaxWorkspace::weight_columns; ++i)
      weights += total[workspace.value_stride + i];
    const double inverse = 1 / weights;
    const bool any = block.visible_count(r) > 0;
    float* out = block.out + r * block.out_stride;
    for (Index c = 0; c < block.value_dim; ++c)
      out[c] = any ? static_cast<float>(total[c] * inverse) : 0.0f;
  }
}

}  // namespace lowatt
