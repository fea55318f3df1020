// LATTE where a call adds to scores (core/score_terms.hpp): a key survives by what its weight will
// be, so what is added counts in the first pass too, as a whole number of steps of low scores.
//
//   low_ij  + step_ij,   step_ij = round_half_even(term_ij / (256 * sq_i * sk * scale)), limited
//   logit_ij + term_ij,  term_ij = bias_ij - slope * |query - key|, for survivors
//
// Lives on     beside what kernel.hpp lives on: per pair, in either pass, some ten vector
//              instructions on doubles for eight pairs; survivors are worked through by float32
//              weights, a row at a time. At level amx there is no dense way (dense.hpp).
// Exactness    term_ij is rounded once, in double, and so is its product with the steps of a logit;
//              steps are integers, and survivors the same at every level.
// Overflow     steps are limited to 2^29 up and down; with low scores of 32 bits, which lie within
//              2^23, neither sums nor their limit leave 32 bits.
// Accuracy     as kernel.hpp: logits are summed up in double, weights are float32.
// Tails        biases are read up to the last key that a row sees, never past it.
#pragma once

#include "survivors.hpp"

namespace lowatt {

// What is added to the logits of row r and the 64 keys of tile t.
template <class L>
void latte_terms(const BlockArguments& block, Index r, Index t, double* added) noexcept {
  const ScoreTerms& terms = block.terms;
  const Index seen = block.visible[r].end - t * tile_keys;
  const Index count = seen < tile_keys ? seen : tile_keys;
  const double slope =
      terms.slopes == nullptr ? 0 : static_cast<double>(terms.slopes[r * terms.head_step]);
  const auto own =
      static_cast<double>(terms.position + (terms.head_step == 0 ? r : 0) - t * tile_keys);
  for (int j = 0; j < tile_keys; ++j)
    added[j] = -slope * __builtin_fabs(own - static_cast<double>(j));
  if (terms.bias == nullptr) return;
  const float* bias = terms.bias + r * terms.bias_stride + t * tile_keys;
  for (Index j = 0; j < count; ++j) added[j] += static_cast<double>(bias[j]);
}

// Low scores of those keys with what is added; what belongs to hidden keys means nothing.
template <class L, class Score>
void latte_add_steps(const Score* low, const double* added, double steps_per_logit,
                     std::int32_t* scores) noexcept {
  // In two loops: as one, g++ 12 makes masks of the limits, which takes longer.
  alignas(64) double steps[tile_keys];
  for (Index j = 0; j < tile_keys; ++j) steps[j] = latte_limited_steps(added[j], steps_per_logit);
  for (Index j = 0; j < tile_keys; ++j)
    scores[j] = static_cast<std::int32_t>(static_cast<std::uint32_t>(low[j]) +
                                          static_cast<std::uint32_t>(latte_whole_steps(steps[j])));
}

// The row statistic: maxima of the scores that the first pass has left, with what is added.
template <class L, class Score>
void latte_find_best_with_terms(const BlockArguments& block) noexcept {
  const LatteWorkspace workspace(block);
  alignas(64) double added[tile_keys];
  alignas(64) std::int32_t scores[tile_keys];
  for (Index r = 0; r < block.rows; ++r) {
    std::int32_t& best = workspace.best_low[r];
    best = LatteWorkspace::no_key;
    const Score* low = workspace.low_row<Score>(r);
    for (Index t = block.tile_begin; t < block.tile_end; ++t, low += tile_keys) {
      const std::uint64_t visible = block.visible_word(r, t);
      if (visible == 0) continue;
      latte_terms<L>(block, r, t, added);
      latte_add_steps<L>(low, added, workspace.steps_per_logit[r], scores);
      hide(scores, visible, LatteWorkspace::no_key);
      for (const std::int32_t score : scores) best = score > best ? score : best;
    }
  }
}

// Adds survivors of row r to its sums: the first `count` of workspace.found, to whose logits
// workspace.logits is added.
template <class L>
void latte_add_batch_with_terms(const LatteWorkspace& workspace, const BlockArguments& block,
                                const LatteTileLayout& layout, Index r, Index count) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr double log2_e = 0x1.71547652b82fep+0;
  constexpr float infinity = __builtin_inff();
  // Up to whole registers the last survivor is repeated, to be given no weight.
  const std::byte** next = workspace.found + count;
  const std::byte* last = next[-1];
  for (Index i = 0; i < latte_batch_padding; ++i) next[i] = last;
  latte_dots<L>(workspace.query + r * workspace.query_stride, block.head_dim, workspace.found,
                count, workspace.dots);

  const std::int64_t offset = workspace.dot_offset(r, block.head_dim);
  const auto unit = static_cast<double>(workspace.unit[r]);
  double& maximum = workspace.maximum[r];
  const double previous = maximum;
  for (Index i = 0; i < count; ++i) {
    double& logit = workspace.logits[i];  // to base 2 from here on
    logit = static_cast<double>(workspace.dots[i] - offset) * unit + log2_e * logit;
    maximum = logit > maximum ? logit : maximum;
  }
  LatteSegment segment{};
  segment.row = r;
  segment.count = count;
  segment.is_first = workspace.best[r] == LatteWorkspace::no_key;
  segment.keep = previous == maximum ? 1.0f : exp2<L>(static_cast<float>(previous - maximum));
  workspace.best[r] = 0;

  // As long as all logits are -infinity, any finite number does in the maximum's place.
  const double subtracted = maximum > -__builtin_inf() ? maximum : 0;
  float* weights = workspace.weights;
  for (Index i = 0; i < count; ++i)
    weights[i] = static_cast<float>(workspace.logits[i] - subtracted);
  for (Index i = count; i < round_up(count, Op::lanes); ++i) weights[i] = -infinity;
  Float sum(0.0f);
  for (Index i = 0; i < count; i += Op::lanes) {
    const Float weight = exp2<L>(Float::load_unaligned(weights + i));
    weight.store_unaligned(weights + i);
    sum = sum + weight;
  }
  double& total = workspace.weight_sum[r];
  total = static_cast<double>(Op::reduce_add(sum)) +
          (segment.is_first ? 0.0 : total * static_cast<double>(segment.keep));
  workspace.kept[r] += count;
  if (layout.has_float_values)
    latte_add_segment<L, float, 0>(workspace, layout.value_offset, segment);
  else
    latte_add_segment<L, std::int8_t, 0>(workspace, layout.value_offset, segment);
}

// Adds the survivors of the tile range, given the statistic of all keys.
template <class L, class Score>
void latte_add_survivors_with_terms(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const LatteTileLayout layout(block.head_dim, block.value_dim, arguments.value_precision);
  alignas(64) double added[tile_keys];
  alignas(64) std::int32_t scores[tile_keys];
  for (Index r = 0; r < block.rows; ++r) {
    if (workspace.best_low[r] == LatteWorkspace::no_key) continue;
    const auto limit = latte_limit<std::int32_t>(workspace, r);
    const Score* low = workspace.low_row<Score>(r);
    Index count = 0;
    for (Index t = block.tile_begin; t < block.tile_end; ++t, low += tile_keys) {
      const std::uint64_t visible = block.visible_word(r, t);
      if (visible == 0) continue;
      latte_terms<L>(block, r, t, added);
      latte_add_steps<L>(low, added, workspace.steps_per_logit[r], scores);
      std::uint64_t survivors = visible & Ops<L>::mask_not_below(scores, limit);
      Ops<L>::store_addresses(survivors, block.tiles.tile(t) + layout.nibble_bytes,
                              layout.row_bytes, workspace.found + count);
      for (; survivors != 0; survivors &= survivors - 1)
        workspace.logits[count++] = added[__builtin_ctzll(survivors)];
      if (count < latte_batch) continue;
      latte_add_batch_with_terms<L>(workspace, block, layout, r, count);
      count = 0;
    }
    if (count > 0) latte_add_batch_with_terms<L>(workspace, block, layout, r, count);
  }
}

}  // namespace lowatt
