// What a careful user writes with Eigen: one head, Q K^T, softmax over rows, times V; it holds the
// whole score matrix. Compiled at -O3 for each level, as the kernels are.
#pragma once

#include <lowatt/arch/tags.hpp>
#include <lowatt/core/view.hpp>

namespace bench {

void eigen_softmax(lowatt::Level level, lowatt::View<const float> q, lowatt::View<const float> k,
                   lowatt::View<const float> v, lowatt::View<float> out);

}  // namespace bench
