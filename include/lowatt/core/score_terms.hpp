// What may be added to scores beside the product of query and key: a bias per query and key, a
// slope per head over the distance of query and key (ALiBi, arXiv 2108.12409), and a sink per head,
// a score that takes part in the sum of weights and has no value (arXiv 2309.17453).
#pragma once

#include "tiles.hpp"
#include "view.hpp"

namespace lowatt {

// Of one call, in the units of scores (natural logarithms of weights). What it refers to is not
// copied.
struct CallScoreTerms {
  View<const float> bias = {};    // [batch, query_heads, queries, keys]; batch and heads may be 1
  const float* slopes = nullptr;  // [query_heads], a score loses slope * |query - key|
  const float* sinks = nullptr;   // [query_heads]

  LOWATT_ALWAYS_INLINE constexpr bool add_to_scores() const noexcept {
    return bias.data != nullptr || slopes != nullptr;
  }
  LOWATT_ALWAYS_INLINE constexpr bool any() const noexcept {
    return add_to_scores() || sinks != nullptr;
  }

  // What bias and slope add to the score of query i and key j.
  LOWATT_ALWAYS_INLINE constexpr double of_pair(Index batch, Index head, Index i, Index j,
                                                Index queries, Index keys) const noexcept {
    double added = 0;
    if (bias.data != nullptr)
      added += static_cast<double>(
          bias.row(bias.batch > 1 ? batch : 0, bias.heads > 1 ? head : 0, i)[j]);
    if (slopes != nullptr)
      added -= static_cast<double>(slopes[head]) *
               __builtin_fabs(static_cast<double>(i + keys - queries - j));
    return added;
  }

  // Of a block whose rows are queries of one head from `query` on, or heads from `head` on with one
  // query each. Key 0 of the block's tiles is key first_key of total_keys.
  LOWATT_ALWAYS_INLINE constexpr ScoreTerms of_block(Index batch, Index head, bool by_heads,
                                                     Index query, Index queries, Index first_key,
                                                     Index total_keys) const noexcept {
    ScoreTerms terms{};
    if (bias.data != nullptr) {
      terms.bias =
          bias.row(bias.batch > 1 ? batch : 0, bias.heads > 1 ? head : 0, query) + first_key;
      terms.bias_stride = !by_heads ? bias.token_stride : bias.heads > 1 ? bias.head_stride : 0;
    }
    if (slopes != nullptr) terms.slopes = slopes + head;
    if (sinks != nullptr) terms.sinks = sinks + head;
    terms.head_step = by_heads ? 1 : 0;
    terms.position = query + total_keys - queries - first_key;
    return terms;
  }
};

}  // namespace lowatt
