// Scales of queries that are quantised each by itself.
#pragma once

#include "../core/tiles.hpp"
#include "scale.hpp"

namespace lowatt {

// The scale of each of a block's queries as int8, and before that its largest magnitude in the same
// place. Step by step for all rows: one row's steps wait for each other, those of several do not.
LOWATT_ALWAYS_INLINE void int8_query_scales(const BlockArguments& block,
                                            SymmetricScale* scales) noexcept {
  for (Index r = 0; r < block.rows; ++r)
    scales[r].scale = finite_absmax(block.query + r * block.query_stride, block.head_dim);
  for (Index r = 0; r < block.rows; ++r) scales[r] = symmetric_scale(scales[r].scale, int8_limit);
}

}  // namespace lowatt
