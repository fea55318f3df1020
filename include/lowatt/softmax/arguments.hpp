// What a softmax kernel is told about its block.
#pragma once

#include "../core/tiles.hpp"

namespace lowatt {

struct SoftmaxArguments {
  BlockArguments block;
  double scale = 1;
  float key_scale = 0, value_scale = 0;  // int8
  float cap = 0;                         // > 0: of scores, in logarithms to base 2

  LOWATT_ALWAYS_INLINE bool changes_scores() const noexcept {
    return cap > 0 || block.terms.bias != nullptr || block.terms.slopes != nullptr;
  }
};

}  // namespace lowatt
