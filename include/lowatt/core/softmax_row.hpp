// One row of dot-product attention on any ArithmeticWithProduct, with softmax (what the plain
// references share) and without.
#pragma once

#include "arithmetic.hpp"
#include "tiles.hpp"

LOWATT_API_BEGIN

template <ArithmeticWithProduct A>
A dot_product(const A* a, const A* b, Index n) {
  A sum = a[0] * b[0];
  for (Index k = 1; k < n; ++k) sum = sum + a[k] * b[k];
  return sum;
}

// What a row asks of one number, for real numbers.
struct SoftmaxSteps {
  double scale;

  template <ArithmeticWithProduct A>
  A scaled(const A& dot) const {
    return dot * scale;
  }
  template <ArithmeticWithProduct A>
  A weight(const A& difference) const {
    return arithmetic::exponential(difference);
  }
  template <ArithmeticWithProduct A>
  A inverse(const A& sum_of_weights) const {
    return arithmetic::reciprocal(sum_of_weights);
  }
};

// out[k] = inverse(sum_j w_j) * sum_j w_j v_jk, w_j = weight(logit(j) - max logit). Values are
// [keys][value_dim]; at least one key is visible. The functions of one number are the caller's, as
// members of `steps`, since fixed-point and encrypted numbers have their own. logit(j) is asked for
// twice: where it is dear, give a function that remembers.
template <ArithmeticWithProduct A, class Logit, class Steps>
void softmax_row(const Logit& logit, const A* values, Index value_dim, VisibleRange visible,
                 const Steps& steps, A* out) {
  using arithmetic::max;
  A maximum = logit(visible.begin);
  for (Index j = visible.begin + 1; j < visible.end; ++j) maximum = max(maximum, logit(j));

  A total = steps.weight(logit(visible.begin) - maximum);
  for (Index k = 0; k < value_dim; ++k) out[k] = total * values[visible.begin * value_dim + k];
  for (Index j = visible.begin + 1; j < visible.end; ++j) {
    const A weight = steps.weight(logit(j) - maximum);
    total = total + weight;
    for (Index k = 0; k < value_dim; ++k) out[k] = out[k] + weight * values[j * value_dim + k];
  }
  const A inverse = steps.inverse(total);
  for (Index k = 0; k < value_dim; ++k) out[k] = out[k] * inverse;
}

// The same with logits scaled(q . k_j). Keys are [keys][head_dim].
template <ArithmeticWithProduct A, class Steps>
void dot_product_attention_row(const A* query, const A* keys, const A* values, Index head_dim,
                               Index value_dim, VisibleRange visible, const Steps& steps, A* out) {
  const auto logit = [&](Index j) {
    return steps.scaled(dot_product(query, keys + j * head_dim, head_dim));
  };
  softmax_row(logit, values, value_dim, visible, steps, out);
}

// Without softmax: out[k] = sum_j scaled(q . k_j) * v_jk. Scores weigh values as they are, with
// either sign; of `steps` only scaled() is asked for.
template <ArithmeticWithProduct A, class Steps>
void scaled_product_attention_row(const A* query, const A* keys, const A* values, Index head_dim,
                                  Index value_dim, VisibleRange visible, const Steps& steps,
                                  A* out) {
  for (Index j = visible.begin; j < visible.end; ++j) {
    const A score = steps.scaled(dot_product(query, keys + j * head_dim, head_dim));
    for (Index k = 0; k < value_dim; ++k) {
      const A weighted = score * values[j * value_dim + k];
      out[k] = j == visible.begin ? weighted : out[k] + weighted;
    }
  }
}

LOWATT_API_END
