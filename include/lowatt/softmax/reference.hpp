// Softmax attention, plainly: the oracle of the kernels' tests, and plain dot-product attention on
// any ArithmeticWithProduct.
#pragma once

#include "../core/arithmetic.hpp"
#include "../core/rows.hpp"
#include "../core/status.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

template <ArithmeticWithProduct A>
A dot_product(const A* a, const A* b, Index n) {
  A sum = a[0] * b[0];
  for (Index k = 1; k < n; ++k) sum = sum + a[k] * b[k];
  return sum;
}

// One row: out[k] = inverse(sum_j w_j) * sum_j w_j v_jk, w_j = weight(s_j - max s), s_j = scaled(q
// . k_j). Keys are [keys][head_dim], values [keys][value_dim]; at least one key is visible. The
// three functions of one number are the caller's, as members of `steps`, since fixed-point and
// encrypted numbers have their own.
template <ArithmeticWithProduct A, class Steps>
void dot_product_attention_row(const A* query, const A* keys, const A* values, Index head_dim,
                               Index value_dim, VisibleRange visible, const Steps& steps, A* out) {
  using arithmetic::max;
  const auto score = [&](Index j) {
    return steps.scaled(dot_product(query, keys + j * head_dim, head_dim));
  };
  A maximum = score(visible.begin);
  for (Index j = visible.begin + 1; j < visible.end; ++j) maximum = max(maximum, score(j));

  A total = steps.weight(score(visible.begin) - maximum);
  for (Index k = 0; k < value_dim; ++k) out[k] = total * values[visible.begin * value_dim + k];
  for (Index j = visible.begin + 1; j < visible.end; ++j) {
    const A weight = steps.weight(score(j) - maximum);
    total = total + weight;
    for (Index k = 0; k < value_dim; ++k) out[k] = out[k] + weight * values[j * value_dim + k];
  }
  const A inverse = steps.inverse(total);
  for (Index k = 0; k < value_dim; ++k) out[k] = out[k] * inverse;
}

// Softmax over real numbers.
struct SoftmaxSteps {
  double scale;

  template <ArithmeticWithProduct A>
  A scaled(const A& dot) const {
    return dot * scale;
  }
  template <ArithmeticWithProduct A>
  A weight(const A& difference) const {
    using arithmetic::lookup;
    return lookup(difference, [](double x) { return __builtin_exp(x); });
  }
  template <ArithmeticWithProduct A>
  A inverse(const A& sum_of_weights) const {
    using arithmetic::lookup;
    return lookup(sum_of_weights, [](double x) { return 1 / x; });
  }
};

// In double; out is float or double. Shapes must agree.
template <class Out>
Status softmax_reference(const Softmax& mechanism, View<const float> q, View<const float> k,
                         View<const float> v, View<Out> out, bool causal = false) noexcept {
  const SoftmaxSteps steps{mechanism.scale.or_else(default_scale(q.dim))};
  const Index group = q.heads / k.heads;
  Array<double> row(v.dim);
  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Array<double> queries = contiguous_head<double>(q, b, h);
      const Array<double> keys = contiguous_head<double>(k, b, h / group);
      const Array<double> values = contiguous_head<double>(v, b, h / group);
      if (row.empty() || queries.empty() || keys.empty() || values.empty())
        return failure(StatusCode::out_of_memory, "no memory for the softmax reference");
      for (Index i = 0; i < q.tokens; ++i) {
        const VisibleRange visible = visible_keys(causal, i, q.tokens, k.tokens);
        const bool any = visible.count() > 0;
        if (any)
          dot_product_attention_row(queries.data() + i * q.dim, keys.data(), values.data(), q.dim,
                                    v.dim, visible, steps, row.data());
        for (Index c = 0; c < v.dim; ++c)
          out.row(b, h, i)[c] = any ? static_cast<Out>(row[c]) : Out{0};
      }
    }
  return {};
}

LOWATT_API_END
