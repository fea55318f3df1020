// LATTE on int8 values (arXiv 2404.07519): softmax over the keys whose low-precision score comes
// close to the row's best.
//
//   low_ij = q_high_i . k_high_j           every visible key, on the high nibbles alone
//   survivors of row i: max_j low_ij - low_ij <= T_i
//   out_i = sum_j p_ij v_j,  p_ij = softmax over survivors of sq_i * sk * scale * (q8_i . k8_j)
//
// In files: workspace.hpp what the phases hand on, scores.hpp the first pass (scores_amx.hpp on
// tile products), survivors.hpp the second, dense.hpp what takes its place where many survive,
// score_terms.hpp both where a call adds to scores.
//
// Lives on    vpdpbusd: one for 4 dims of 16 pairs in the first pass. Of a survivor, 64 dims of the
//             key take a load, a vpdpbusd and three instructions of a transposing sum, one of them
//             a shuffle; 64 dims of the value two unpacks and two vpdpbusd (three or four with
//             weights of 24 or 32 bits). Below avx512icl dot products are maddubs + madd (nibbles)
//             and two madd (bytes), and values take a conversion and a multiply-add per register.
// Layout      pack.hpp; the same for prefill and decode and at every level.
// Exactness   scores, maximum and survivors are integers, the same on every level.
// Accuracy    relative L2 error 2e-3 against double on the same integers and survivors, and more
//             where values of blocks that dense.hpp takes all but cancel. Weights are float32,
//             or integers of 16, 24 or 32 bits where those of a row's survivors in a batch are all
//             so large that rounding changes none by more than 2^-10 of itself: small weights never
//             vanish, however many there are. In dense.hpp they are bf16.
// Overflow    scores have 16 bits up to latte_most_narrow_head_dim, else 32; the largest exact sum
//             is that of 255 * 127 over head_dim: 32 bits hold latte_most_head_dim. Sums of each
//             byte of integer weights times values are those of one batch: 32 bits hold them. Sums
//             of weights are double across batches.
// Tails       queries are padded with zeros, values are when packed; hidden keys have the lowest
//             score, below every limit.
#pragma once

#include "../core/part.hpp"
#include "../quant/query_scales.hpp"
#include "../simd/write_row.hpp"
#include "score_terms.hpp"
#include "scores.hpp"
#include "survivors.hpp"

namespace lowatt {

// Encodes the block's queries and clears its statistic and accumulators.
template <class L>
void latte_prepare(const LatteArguments& arguments) noexcept {
  using Op = Ops<L>;
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const Index stride = workspace.query_stride;
  // With an offset of 128 quantised values are unsigned, and so are their high nibbles with one of
  // 8: rounding is an addition, and its limit is saturation.
  const auto offset = Op::fill_u8(128), high_offset = Op::fill_u8(8);
  const auto rounding = Op::fill_u8(arguments.split == NibbleSplit::round ? 8 : 0);
  SymmetricScale scales[latte_most_rows];
  int8_query_scales(block, scales);
  for (Index r = 0; r < block.rows; ++r) {
    std::int8_t* bytes = workspace.query + r * stride;
    quantize_row<L>(block.query + r * block.query_stride, block.head_dim, scales[r].inverse, bytes);
    for (Index c = block.head_dim; c < stride; ++c) bytes[c] = 0;
    for (Index c = 0; c < stride; c += Op::bytes) {
      const auto biased = Op::bit_xor(Op::load(bytes + c), offset);
      const auto high = Op::shift_right_u8(Op::add_saturate_u8(biased, rounding), 4);
      Op::store(workspace.query_high + r * stride + c, Op::subtract_u8(high, high_offset));
    }
  }
  const bool has_terms = block.terms.add_to_scores();
  for (Index r = 0; r < block.rows; ++r) {
    const float query_scale = scales[r].scale;
    workspace.threshold[r] = static_cast<std::int32_t>(
        latte_threshold(arguments.theta, query_scale, arguments.key_scale, arguments.scale,
                        block.head_dim, has_terms ? latte_largest_step : 0));
    if (has_terms)
      workspace.steps_per_logit[r] =
          latte_steps_per_logit(query_scale, arguments.key_scale, arguments.scale);
    workspace.maximum[r] = -__builtin_inf();
    // Differences of dot products are integers: from 1e25 on only the maximum has weight, and no
    // product below leaves the range of float.
    constexpr double log2_e = 1.4426950408889634;
    const double unit = static_cast<double>(query_scale) *
                        static_cast<double>(arguments.key_scale) * arguments.scale * log2_e;
    workspace.unit[r] = unit < 1e25 ? static_cast<float>(unit) : 1e25f;
    workspace.best_low[r] = LatteWorkspace::no_key;
    workspace.best[r] = LatteWorkspace::no_key;
    workspace.kept[r] = 0;
  }
}

// The row statistic: scores of the tile range, kept for latte_accumulate, and their maximum.
template <class L>
void latte_first_pass(const LatteArguments& arguments) noexcept {
  if (arguments.block.head_dim <= latte_most_narrow_head_dim)
    latte_score<L, std::int16_t>(arguments);
  else
    latte_score<L, std::int32_t>(arguments);
}
template <class L>
void latte_statistic(const LatteArguments& arguments) noexcept {
  latte_first_pass<L>(arguments);
  if (!arguments.block.terms.add_to_scores()) return;
  if (arguments.block.head_dim <= latte_most_narrow_head_dim)
    latte_find_best_with_terms<L, std::int16_t>(arguments.block);
  else
    latte_find_best_with_terms<L, std::int32_t>(arguments.block);
}

// Adds the survivors of the tile range, whose scores the statistic left in this workspace.
template <class L, class Score>
void latte_add_survivors(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const LatteTileLayout layout(block.head_dim, block.value_dim, arguments.value_precision);
  LatteGatherer<L> survivors(workspace, block, layout);
  for (Index r = 0; r < block.rows; ++r) {
    if (workspace.best_low[r] == LatteWorkspace::no_key) continue;
    const auto limit = latte_limit<Score>(workspace, r);
    const VisibleRange& visible = block.visible[r];
    const Index seen_begin = visible.begin / tile_keys;
    const Index seen_end = tile_count(visible.end);
    const Index begin = seen_begin > block.tile_begin ? seen_begin : block.tile_begin;
    const Index end = seen_end < block.tile_end ? seen_end : block.tile_end;
    const Score* low = workspace.low_row<Score>(r) - block.tile_begin * tile_keys;
    for (Index t = begin; t < end; ++t) {
      if (block.visible_words != nullptr && block.visible_word(r, t) == 0) continue;
      survivors.add(r, t, Ops<L>::mask_not_below(low + t * tile_keys, limit));
    }
    survivors.end_row(r);
  }
  survivors.work_off();
}
template <class L>
void latte_accumulate(const LatteArguments& arguments) noexcept {
  const bool has_terms = arguments.block.terms.add_to_scores();
  if (arguments.block.head_dim <= latte_most_narrow_head_dim)
    has_terms ? latte_add_survivors_with_terms<L, std::int16_t>(arguments)
              : latte_add_survivors<L, std::int16_t>(arguments);
  else
    has_terms ? latte_add_survivors_with_terms<L, std::int32_t>(arguments)
              : latte_add_survivors<L, std::int32_t>(arguments);
}

// log2 of what the weights of row r are relative to, where it has survivors.
template <class L>
LOWATT_ALWAYS_INLINE double latte_reference(const BlockArguments& block,
                                            const LatteWorkspace& workspace, Index r) noexcept {
  if (block.terms.add_to_scores()) return workspace.maximum[r];
  return static_cast<double>(workspace.best[r] - workspace.dot_offset(r, block.head_dim)) *
         static_cast<double>(workspace.unit[r]);
}

// Weighted values over weights.
template <class L>
void latte_finish(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  for (Index r = 0; r < block.rows; ++r) {
    const float* sums = workspace.weighted + r * workspace.value_stride;
    const bool any = workspace.best[r] != LatteWorkspace::no_key;
    double total = workspace.weight_sum[r];
    float* out = block.out + r * block.out_stride;
    if (block.terms.sinks != nullptr) {
      if (any) total += block.terms.sink_weight(r, latte_reference<L>(block, workspace, r));
      // A sink may leave shares that only double holds.
      const double inverse = static_cast<double>(arguments.value_scale) / total;
      if (any)
        write_scaled<L>(sums, block.value_dim, inverse, out);
      else
        write_zeros(block.value_dim, out);
      continue;
    }
    const float inverse = any ? static_cast<float>(1 / total) : 0.0f;
    // Weights first: the scale alone over many weights could be denormal.
    for (Index c = 0; c < block.value_dim; ++c)
      out[c] = any ? sums[c] * inverse * arguments.value_scale : 0.0f;
  }
}

// Between parts of the keys (core/part.hpp) go the rows' best scores, and what the survivors of
// each part sum up to.
template <class L>
void latte_store_statistic(const LatteArguments& arguments, double* statistic) noexcept {
  const LatteWorkspace workspace(arguments.block);
  for (Index r = 0; r < arguments.block.rows; ++r)
    statistic[r * statistic_numbers] = static_cast<double>(workspace.best_low[r]);
}
template <class L>
void latte_load_statistic(const LatteArguments& arguments, const double* statistic) noexcept {
  const LatteWorkspace workspace(arguments.block);
  for (Index r = 0; r < arguments.block.rows; ++r)
    workspace.best_low[r] = static_cast<std::int32_t>(statistic[r * statistic_numbers]);
}
template <class L>
void latte_store_part(const LatteArguments& arguments, PartRows<double> part) noexcept {
  const LatteWorkspace workspace(arguments.block);
  for (Index r = 0; r < arguments.block.rows; ++r) {
    part.kept(r) = static_cast<double>(workspace.kept[r]);
    const bool any = workspace.best[r] != LatteWorkspace::no_key;
    part.weight(r) = any ? workspace.weight_sum[r] : 0.0;
    part.maximum(r) = -__builtin_inf();
    if (any) part.maximum(r) = latte_reference<L>(arguments.block, workspace, r);
    const float* sums = workspace.weighted + r * workspace.value_stride;
    for (Index c = 0; c < part.value_dim; ++c)
      part.sums(r)[c] = any ? static_cast<double>(sums[c]) : 0.0;
  }
}
template <class L>
void latte_finish_part(const LatteArguments& arguments, PartRows<const double> part) noexcept {
  const BlockArguments& block = arguments.block;
  for (Index r = 0; r < block.rows; ++r) {
    const bool any = block.visible_count(r) > 0;
    const double sink = block.terms.sink_weight(r, part.maximum(r));
    const double inverse = static_cast<double>(arguments.value_scale) / (part.weight(r) + sink);
    float* out = block.out + r * block.out_stride;
    if (any)
      write_scaled<L>(part.sums(r), block.value_dim, inverse, out);
    else
      write_zeros(block.value_dim, out);
  }
}

}  // namespace lowatt
