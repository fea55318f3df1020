// Softmax attention, plainly: the oracle of the kernels' tests.
#pragma once

#include "../core/half.hpp"
#include "../core/rows.hpp"
#include "../core/score_terms.hpp"
#include "../core/softmax_row.hpp"
#include "../core/status.hpp"
#include "../quant/calibration.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

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
// come from `given` where it has them; `terms` are those of the call.
template <class Out>
Status softmax_reference(const Softmax& mechanism, View<const float> q, View<const float> k,
                         View<const float> v, View<Out> out, bool causal = false,
                         const Calibration* given = nullptr,
                         const CallScoreTerms& terms = {}) noexcept {
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
        const auto logit = [&](Index j) {
          const Setting& cap = mechanism.soft_cap;
          double score =
              steps.scaled(dot_product(queries.data() + i * q.dim, keys.data() + j * q.dim, q.dim));
          if (cap.given) score = cap.value * __builtin_tanh(score / cap.value);
          return score + terms.of_pair(b, h, i, j, q.tokens, k.tokens);
        };
        if (any) softmax_row(logit, values.data(), v.dim, visible, steps, row.data());
        if (any && terms.sinks != nullptr) {
          double maximum = -__builtin_inf(), sum = 0;
          bool has_weight = false;  // else biases of -infinity leave all weight to the sink
          for (Index j = visible.begin; j < visible.end; ++j) {
            maximum = logit(j) > maximum ? logit(j) : maximum;
            has_weight = has_weight || logit(j) != -__builtin_inf();
          }
          for (Index j = visible.begin; j < visible.end; ++j)
            sum += __builtin_exp(logit(j) - maximum);
          const double sink = __builtin_exp(static_cast<double>(terms.sinks[h]) - maximum);
          for (double& x : row) x = has_weight ? x * (sum / (sum + sink)) : 0;
        }
        for (Index c = 0; c < v.dim; ++c)
          out.row(b, h, i)[c] = any ? static_cast<Out>(row[c]) : Out{0};
      }
    }
  return {};
}

LOWATT_API_END
