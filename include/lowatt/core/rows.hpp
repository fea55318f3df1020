// What all mechanisms share about the rows of a head: which keys a query sees, how scores are
// scaled unless somebody says otherwise, and, for plain code, contiguous copies and sums.
#pragma once

#include "array.hpp"
#include "tiles.hpp"
#include "view.hpp"

namespace lowatt {

// Causal order is aligned at the bottom right: the last query sees all keys, and where there are
// fewer keys than queries, the first queries see none.
LOWATT_ALWAYS_INLINE constexpr VisibleRange visible_keys(bool causal, Index query, Index queries,
                                                         Index keys) noexcept {
  if (!causal) return {0, keys};
  const Index end = query + keys - queries + 1;
  return {0, end < 0 ? 0 : end > keys ? keys : end};
}

LOWATT_ALWAYS_INLINE double default_scale(Index head_dim) noexcept {
  return 1.0 / __builtin_sqrt(static_cast<double>(head_dim));
}

}  // namespace lowatt

LOWATT_API_BEGIN

// One head as contiguous [tokens, dim] of another type. Empty when memory runs out.
template <class To, class From>
Array<To> contiguous_head(View<const From> x, Index b, Index head) noexcept {
  Array<To> rows(x.tokens * x.dim);
  if (rows.empty()) return rows;
  for (Index t = 0; t < x.tokens; ++t)
    for (Index k = 0; k < x.dim; ++k) rows[t * x.dim + k] = static_cast<To>(x.row(b, head, t)[k]);
  return rows;
}

// The sum of term(c) for c in [0, n), as eight sums side by side, which may be vectorised without
// reordering anything.
template <class Term>
double sum_in_lanes(Index n, Term term) noexcept {
  constexpr int lanes = 8;
  double sums[lanes] = {};
  Index c = 0;
  for (; c + lanes <= n; c += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += term(c + lane);
  for (; c < n; ++c) sums[0] += term(c);
  double sum = 0;
  for (const double lane_sum : sums) sum += lane_sum;
  return sum;
}

LOWATT_API_END
