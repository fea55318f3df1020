// What softmax does to the scores of a tile between the products and the weights, where a call asks
// for it:
//
//   s = cap * tanh(s / cap),   then   s = s + bias - slope * |query - key|
//
// Scores are logarithms to base 2 here.
//
// Lives on     vector instructions: about thirty for sixteen capped scores, two for a bias. At
//              level amx such calls take the way of the levels below.
// Tails        biases are read for visible keys of a tile and those before them, never past the
//              last key that a row sees.
#pragma once

#include "../simd/exp2.hpp"
#include "arguments.hpp"

namespace lowatt {

// tanh: x + x^3 p(x^2) for |x| < 0.6 (coefficients by weighted least squares), else (1 - u) / (1 +
// u) with u = exp(-2 |x|) and the sign of x. (xsimd's own leaves functions behind that units of
// other levels would share.)
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Float softmax_tanh(typename Ops<L>::Float x) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr float log2_e = 0x1.715476p+0f;
  constexpr float coefficients[] = {0x1.54b2f2p-6f, -0x1.b897bep-5f, 0x1.1109a2p-3f,
                                    -0x1.55553ep-2f};
  const Float square = x * x, size = xsimd::abs(x), one(1.0f);
  Float polynomial(-0x1.8243fep-8f);
  LOWATT_UNROLL
  for (int i = 0; i < 4; ++i)
    polynomial = Op::multiply_add(polynomial, square, Float(coefficients[i]));
  const Float near = Op::multiply_add(x * square, polynomial, x);
  const Float u = exp2<L>(size * Float(-2 * log2_e));
  const Float far = (one - u) / (one + u);
  return xsimd::select(size < Float(0.6f), near, xsimd::select(x < Float(0.0f), -far, far));
}

template <class L>
LOWATT_ALWAYS_INLINE void softmax_cap_scores(float cap, float* scores) noexcept {
  using Float = typename Ops<L>::Float;
  for (Index j = 0; j < tile_keys; j += Ops<L>::lanes)
    (Float(cap) * softmax_tanh<L>(Float::load_unaligned(scores + j) / Float(cap)))
        .store_unaligned(scores + j);
}

// Scores of the block's rows with tile t, [rows][64].
template <class L>
void softmax_change_scores(const SoftmaxArguments& arguments, Index t, float* scores) noexcept {
  constexpr float log2_e = 0x1.715476p+0f;
  const BlockArguments& block = arguments.block;
  const ScoreTerms& terms = block.terms;
  for (Index r = 0; r < block.rows; ++r) {
    if (block.visible_word(r, t) == 0) continue;
    float* row = scores + r * tile_keys;
    if (arguments.cap > 0) softmax_cap_scores<L>(arguments.cap, row);
    const Index seen = block.visible[r].end - t * tile_keys;
    const Index count = seen < tile_keys ? seen : tile_keys;
    if (terms.bias != nullptr) {
      const float* bias = terms.bias + r * terms.bias_stride + t * tile_keys;
      for (Index j = 0; j < count; ++j) row[j] += log2_e * bias[j];
    }
    if (terms.slopes != nullptr) {
      const float slope = log2_e * terms.slopes[r * terms.head_step];
      const Index own = terms.position + (terms.head_step == 0 ? r : 0) - t * tile_keys;
      for (Index j = 0; j < count; ++j)
        row[j] -= slope * static_cast<float>(j < own ? own - j : j - own);
    }
  }
}

}  // namespace lowatt
