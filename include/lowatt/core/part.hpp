// What a part of the keys gives to a row, as plain doubles: what threads, and machines, hand to
// each other when keys are split. Integers are exact in doubles up to 2^53, and sums of them too.
//
//   statistic  two numbers per row, where a mechanism needs to know something of all keys first.
//              LATTE and Bitformer: the greatest of the low scores, of the distances times -1; 0.
//              Parts merge by the maximum, number by number.
//              Inhibitor with centring: the sum of distances; the number of visible keys. Parts
//              merge by the sum.
//   part       per row four numbers, then value_dim sums of values:
//                weight    sum of the weights that values were summed with (Inhibitor: 0)
//                maximum   log2 of what weights and sums have to be multiplied with: -infinity as
//                          long as there are none (Inhibitor and Bitformer: 0)
//                visible   keys that the row sees
//                kept      those that LATTE keeps
//              Parts merge by merge_rows(). Where every maximum is 0 that is a sum, number by
//              number.
#pragma once

#include "config.hpp"

namespace lowatt {

inline constexpr Index statistic_numbers = 2;

// How statistics merge.
enum class StatisticMerge { none, maximum, sum };

// Rows of parts in memory. With value_dim = 0 the sums are left out.
template <class T>
struct PartRows {
  static constexpr Index header = 4;
  T* data = nullptr;
  Index value_dim = 0;

  LOWATT_ALWAYS_INLINE Index stride() const noexcept { return header + value_dim; }
  LOWATT_ALWAYS_INLINE T* row(Index r) const noexcept { return data + r * stride(); }
  LOWATT_ALWAYS_INLINE T& weight(Index r) const noexcept { return row(r)[0]; }
  LOWATT_ALWAYS_INLINE T& maximum(Index r) const noexcept { return row(r)[1]; }
  LOWATT_ALWAYS_INLINE T& visible(Index r) const noexcept { return row(r)[2]; }
  LOWATT_ALWAYS_INLINE T& kept(Index r) const noexcept { return row(r)[3]; }
  LOWATT_ALWAYS_INLINE T* sums(Index r) const noexcept { return row(r) + header; }
};

// Merges the statistic of one part into another's, for `rows` rows.
LOWATT_ALWAYS_INLINE void merge_statistic_rows(StatisticMerge how, double* into, const double* from,
                                               Index rows) noexcept {
  const Index count = how == StatisticMerge::none ? 0 : rows * statistic_numbers;
  for (Index i = 0; i < count; ++i) {
    if (how == StatisticMerge::sum)
      into[i] += from[i];
    else
      into[i] = from[i] > into[i] ? from[i] : into[i];
  }
}

// Merges one part into another. As long as neither has any weight, both scale as they are: sums may
// hold NaN.
LOWATT_ALWAYS_INLINE void merge_rows(PartRows<double> into, PartRows<const double> from,
                                     Index rows) noexcept {
  for (Index r = 0; r < rows; ++r) {
    const double ours = into.maximum(r), theirs = from.maximum(r);
    const double maximum = theirs > ours ? theirs : ours;
    const double keep = ours == maximum ? 1.0 : __builtin_exp2(ours - maximum);
    const double add = theirs == maximum ? 1.0 : __builtin_exp2(theirs - maximum);
    into.weight(r) = into.weight(r) * keep + from.weight(r) * add;
    into.maximum(r) = maximum;
    into.visible(r) += from.visible(r);
    into.kept(r) += from.kept(r);
    double* sums = into.sums(r);
    const double* more = from.sums(r);
    for (Index c = 0; c < into.value_dim; ++c) sums[c] = sums[c] * keep + more[c] * add;
  }
}

}  // namespace lowatt
