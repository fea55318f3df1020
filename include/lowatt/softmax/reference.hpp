// Softmax attention, plainly: the oracle of the kernels' tests, and plain dot-product attention on
// any ArithmeticWithProduct.
#pragma once

#include "../core/arithmetic.hpp"
#include "../core/half.hpp"
#include "../core/rows.hpp"
#include "../core/status.hpp"
#include "../quant/calibration.hpp"
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
    return arithmetic::exponential(difference);
  }
  template <ArithmeticWithProduct A>
  A inverse(const A& sum_of_weights) const {
    return arithmetic::reciprocal(sum_of_weights);
  }
};

// One head as float64 [tokens, dim], as a precision has it. int8: with one scale for the head if
// its largest absolute value is given, else with one per token.
inline Array<double> softmax_inputs(Precision precision, View<const float> x, Index b, Index head,
                                    const float* absmax) noexcept {
  Array<double> rows(x.tokens * x.dim);
  for (Index t = 0; t * x.dim < rows.size(); ++t) {
    const float* row = x.row(b, head, t);
    const SymmetricScale scale =
        symmetric_scale(absmax != nullptr ? *absmax : finite_absmax(row, x.dim), int8_limit);
    for (Index c = 0; c < x.dim; ++c) {
      double& number = rows[t * x.dim + c];
      if (precision == Precision::bf16)
        number = static_cast<double>(float_from_bf16(bf16_from_float(row[c])));
      else if (precision == Precision::f16)
        number = static_cast<double>(float_from_f16(f16_from_float(row[c])));
      else if (precision == Precision::int8)
        number = static_cast<double>(scale.scale) * quantize(row[c], scale.inverse, int8_limit);
      else
        number = static_cast<double>(row[c]);
    }
  }
  return rows;
}

// In double, on inputs as the mechanism's precision has them: rounded to bf16 or (K and V) to half
// precision, or quantised to int8 with scales per query token and per KV head. out is float or
// double. Shapes must agree; precision is one that softmax has. Largest absolute values of K and V
// come from `given` where it has them.
template <class Out>
Status softmax_reference(const Softmax& mechanism, View<const float> q, View<const float> k,
                         View<const float> v, View<Out> out, bool causal = false,
                         const Calibration* given = nullptr) noexcept {
  const SoftmaxSteps steps{mechanism.scale.or_else(default_scale(q.dim))};
  const Index group = q.heads / k.heads;
  const Array<float> key_absmax =
      given_or(given, &Calibration::key_absmax, [&] { return absmax_per_head(k); });
  const Array<float> value_absmax =
      given_or(given, &Calibration::value_absmax, [&] { return absmax_per_head(v); });
  if (key_absmax.empty() || value_absmax.empty())
    return failure(StatusCode::out_of_memory, "no memory for the softmax reference");
  const Precision precision = mechanism.precision;
  Array<double> row(v.dim);
  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Index g = h / group, entry = b * k.heads + g;
      // Queries stay float32 beside keys of half precision.
      const Array<double> queries = softmax_inputs(
          precision == Precision::f16 ? Precision::fp32 : precision, q, b, h, nullptr);
      const Array<double> keys = softmax_inputs(precision, k, b, g, &key_absmax[entry]);
      const Array<double> values = softmax_inputs(precision, v, b, g, &value_absmax[entry]);
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
