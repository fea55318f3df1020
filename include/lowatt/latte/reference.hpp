// LATTE, plainly: the oracle of the kernels' tests. Survivors are exact, their softmax is in
// double.
#pragma once

#include "../core/rows.hpp"
#include "../core/score_terms.hpp"
#include "../core/softmax_row.hpp"
#include "../quant/calibration.hpp"
#include "../quant/quantized_tensor.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

// Query-key pairs of one query head.
struct LatteCounts {
  Index kept = 0, visible = 0;
};

// Integer dot products of two rows: of all bits, and of the high nibbles alone.
inline std::int64_t latte_dot(const std::int8_t* query, const std::int8_t* key,
                              Index head_dim) noexcept {
  std::int64_t sum = 0;
  for (Index c = 0; c < head_dim; ++c) sum += query[c] * key[c];
  return sum;
}
inline std::int64_t latte_low_dot(const std::int8_t* query, const std::int8_t* key, Index head_dim,
                                  NibbleSplit split) noexcept {
  std::int64_t sum = 0;
  for (Index c = 0; c < head_dim; ++c)
    sum += high_nibble(query[c], split) * high_nibble(key[c], split);
  return sum;
}

// out is float or double; shapes must agree. `counts`, when not null, receives [batch *
// query_heads]. Largest absolute values of K and V come from `given` where it has them; `terms` are
// those of the call.
template <class Out>
Status latte_reference(const Latte& mechanism, View<const float> q, View<const float> k,
                       View<const float> v, View<Out> out, bool causal = false,
                       LatteCounts* counts = nullptr, const Calibration* given = nullptr,
                       const CallScoreTerms& terms = {}) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;
  const Array<float> key_absmax =
      given_or(given, &Calibration::key_absmax, [&] { return absmax_per_head(k); });
  const Array<float> value_absmax =
      given_or(given, &Calibration::value_absmax, [&] { return absmax_per_head(v); });
  const bool has_float_values = mechanism.value_precision == Precision::fp32;
  QuantizedTensor<std::int8_t> q8, k8, v8;
  Status status = q8.try_assign(q, ScalePer::token);
  if (status.ok()) status = k8.try_assign(k, ScalePer::head, key_absmax.data(), key_absmax.size());
  if (status.ok())
    status = v8.try_assign(v, ScalePer::head, value_absmax.data(), value_absmax.size());
  if (!status.ok()) return status;

  Array<std::int64_t> low(k.tokens);
  Array<double> logits(k.tokens);
  Array<double> row(v.dim);
  if (low.empty() || logits.empty() || row.empty())
    return failure(StatusCode::out_of_memory, "no memory for LATTE's reference");

  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Index g = h / group;
      const float sk = k8.scale(b, g);
      const double sv = has_float_values ? 1.0 : static_cast<double>(v8.scale(b, g));
      LatteCounts pairs{};
      for (Index i = 0; i < q.tokens; ++i) {
        const std::int8_t* query = q8.row(b, h, i);
        const float sq = q8.scale(b, h, i);
        const VisibleRange visible = visible_keys(causal, i, q.tokens, k.tokens);
        pairs.visible += visible.count();

        const auto added = [&](Index j) { return terms.of_pair(b, h, i, j, q.tokens, k.tokens); };

        // 1. Scores of the high nibbles, and the best of them.
        const double steps_per_logit = latte_steps_per_logit(sq, sk, scale);
        std::int64_t best_low = INT64_MIN;
        for (Index j = visible.begin; j < visible.end; ++j) {
          low[j] = latte_low_dot(query, k8.row(b, g, j), q.dim, mechanism.split) +
                   latte_step(added(j), steps_per_logit);
          best_low = low[j] > best_low ? low[j] : best_low;
        }

        // 2. The keys that come close to it; 3. their exact logits.
        const Index threshold = latte_threshold(mechanism.theta[h], sq, sk, scale, q.dim,
                                                terms.add_to_scores() ? latte_largest_step : 0);
        const auto survives = [&](Index j) { return best_low - low[j] <= threshold; };
        double best_logit = -__builtin_inf();
        for (Index j = visible.begin; j < visible.end; ++j) {
          if (!survives(j)) continue;
          ++pairs.kept;
          const std::int64_t dot = latte_dot(query, k8.row(b, g, j), q.dim);
          logits[j] =
              static_cast<double>(sq) * static_cast<double>(sk) * scale * static_cast<double>(dot) +
              added(j);
          best_logit = logits[j] > best_logit ? logits[j] : best_logit;
        }

        // Softmax over the survivors, and the sink. As long as all logits are -infinity, any finite
        // number does in the maximum's place.
        const double subtracted = best_logit > -__builtin_inf() ? best_logit : 0;
        const bool any = visible.count() > 0;
        double total = 0;
        if (terms.sinks != nullptr)
          total = __builtin_exp(static_cast<double>(terms.sinks[h]) - best_logit);
        for (double& sum : row) sum = 0;
        for (Index j = visible.begin; j < visible.end; ++j) {
          if (!survives(j)) continue;
          const double weight = __builtin_exp(logits[j] - subtracted);
          total += weight;
          for (Index c = 0; c < v.dim; ++c)
            row[c] += weight * (has_float_values ? static_cast<double>(v.row(b, g, j)[c])
                                                 : static_cast<double>(v8.row(b, g, j)[c]));
        }
        for (Index c = 0; c < v.dim; ++c)
          out.row(b, h, i)[c] = any ? static_cast<Out>(row[c] / total * sv) : Out{0};
      }
      if (counts != nullptr) counts[b * q.heads + h] = pairs;
    }
  return {};
}

// Functions of one number that the training form is made of, for real numbers. `gap` is a low score
// less the row's maximum.
struct SoftLatteSteps {
  SoftmaxSteps softmax;
  double theta, softness;

  template <ArithmeticWithProduct A>
  A mask(const A& gap) const {
    using arithmetic::lookup;
    return lookup(gap,
                  [this](double g) { return 1 / (1 + __builtin_exp(-(g + theta) / softness)); });
  }
  template <ArithmeticWithProduct A>
  A log_mask(const A& gap) const {
    using arithmetic::lookup;
    return lookup(gap, [this](double g) {
      const double x = (g + theta) / softness;
      return (x < 0 ? x : 0) - __builtin_log1p(__builtin_exp(-__builtin_fabs(x)));
    });
  }
};

// What a row of the training form reads: rows of head_dim numbers, values of value_dim. Low scores
// are products of low_query and low_keys, which are query and keys themselves where low scores are
// exact.
template <class A>
struct SoftLatteRow {
  const A *query, *low_query;
  const A *keys, *low_keys, *values;
  Index head_dim, value_dim;
  VisibleRange visible;  // of at least one key
};

// One row of the training form. Returns the sum of its mask.
template <ArithmeticWithProduct A, class Steps>
A soft_latte_row(const SoftLatteRow<A>& row, const Steps& steps, A* out) {
  using arithmetic::max;
  const auto score = [&](const A* query, const A* keys, Index j) {
    return steps.softmax.scaled(dot_product(query, keys + j * row.head_dim, row.head_dim));
  };
  const auto low = [&](Index j) { return score(row.low_query, row.low_keys, j); };
  const Index first = row.visible.begin;
  A best_low = low(first);
  for (Index j = first + 1; j < row.visible.end; ++j) best_low = max(best_low, low(j));

  const auto logit = [&](Index j) {
    return score(row.query, row.keys, j) + steps.log_mask(low(j) - best_low);
  };
  softmax_row(logit, row.values, row.value_dim, row.visible, steps.softmax, out);

  A masks = steps.mask(low(first) - best_low);
  for (Index j = first + 1; j < row.visible.end; ++j) masks = masks + steps.mask(low(j) - best_low);
  return masks;
}

// One head as low scores see it: what the high nibbles stand for. `absmax` of a whole head of keys;
// null for queries, which have one per token. Empty when memory runs out.
inline Array<double> latte_low_head(View<const float> x, Index b, Index head, NibbleSplit split,
                                    const float* absmax) noexcept {
  Array<double> rows(x.tokens * x.dim);
  for (Index t = 0; t * x.dim < rows.size(); ++t) {
    const float* row = x.row(b, head, t);
    const SymmetricScale scale =
        symmetric_scale(absmax != nullptr ? *absmax : finite_absmax(row, x.dim), int8_limit);
    for (Index c = 0; c < x.dim; ++c)
      rows[t * x.dim + c] = 16.0 * static_cast<double>(scale.scale) *
                            high_nibble(quantize(row[c], scale.inverse, int8_limit), split);
  }
  return rows;
}

LOWATT_API_END
