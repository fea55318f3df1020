// The Inhibitor, plainly: the oracle of the kernels' tests, and the mechanism on any Arithmetic.
#pragma once

#include "../core/arithmetic.hpp"
#include "../core/rows.hpp"
#include "../quant/calibration.hpp"
#include "../quant/quantized_tensor.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

template <Arithmetic A>
A l1_distance(const A* a, const A* b, Index n) {
  using arithmetic::abs;
  A sum = abs(a[0] - b[0]);
  for (Index k = 1; k < n; ++k) sum = sum + abs(a[k] - b[k]);
  return sum;
}

// What is left of `value` at `score` >= 0. Signed: both signs shrink towards 0; of the two
// differences at most one is not 0.
template <Arithmetic A>
A inhibited(const A& value, const A& score, bool is_signed) {
  using arithmetic::relu;
  if (!is_signed) return relu(value - score);
  return relu(relu(value) - score) - relu(relu(-value) - score);
}

// One row: out[k] = sum_j inhibited(v_jk, shifted(D_j)), D_j the distance between query and key j,
// less the row's mean where `center` says so. Keys are [keys][head_dim], values [keys][value_dim];
// at least one key is visible. The two functions of one number are the caller's, as members of
// `steps`:
//   mean(sum of distances)   shifted(distance)
// No two numbers are multiplied, which is what makes the mechanism cheap under encryption.
template <Arithmetic A, class Steps>
void inhibitor_row(const A* query, const A* keys, const A* values, Index head_dim, Index value_dim,
                   VisibleRange visible, bool is_signed, bool center, const Steps& steps, A* out) {
  using arithmetic::relu;
  const auto distance = [&](Index j) { return l1_distance(query, keys + j * head_dim, head_dim); };
  const auto add = [&](Index j, const A& score) {
    for (Index k = 0; k < value_dim; ++k) {
      const A rest = inhibited(values[j * value_dim + k], score, is_signed);
      out[k] = j == visible.begin ? rest : out[k] + rest;
    }
  };
  if (!center) {
    for (Index j = visible.begin; j < visible.end; ++j) add(j, steps.shifted(distance(j)));
    return;
  }
  A sum = distance(visible.begin);
  for (Index j = visible.begin + 1; j < visible.end; ++j) sum = sum + distance(j);
  const A mean = steps.mean(sum);
  for (Index j = visible.begin; j < visible.end; ++j)
    add(j, steps.shifted(relu(distance(j) - mean)));
}

// fp32's formulas. Centring comes before scaling here; scale > 0, so the two commute.
struct InhibitorRealSteps {
  double scale, alpha;
  Index keys;  // that the row sees

  template <Arithmetic A>
  A mean(const A& sum) const {
    using arithmetic::lookup;
    return lookup(sum, [this](double x) { return x / static_cast<double>(keys); });
  }
  template <Arithmetic A>
  A shifted(const A& distance) const {
    using arithmetic::relu;
    return relu(distance * scale + -alpha);
  }
};

// The integer mechanism's.
struct InhibitorIntegerSteps {
  InhibitorConstants constants;
  Index keys;  // that the row sees

  template <Arithmetic A>
  A mean(const A& sum) const {
    using arithmetic::lookup;
    return lookup(sum, [this](std::int64_t x) { return x / keys; });  // floor, since x >= 0
  }
  template <Arithmetic A>
  A shifted(const A& distance) const {
    using arithmetic::lookup;
    return lookup(distance, [this](std::int64_t x) { return inhibitor_score(constants, x); });
  }
};

// All rows of one query head, given as numbers of type A. make_steps(visible keys) returns the
// steps of a row, to_real(h) the output that a row's number stands for before normalisation.
template <class A, class MakeSteps, class ToReal, class Out>
Status inhibitor_head(const Inhibitor& mechanism, const Array<A>& queries, const Array<A>& keys,
                      const Array<A>& values, Index head_dim, bool causal, MakeSteps make_steps,
                      ToReal to_real, View<Out> out, Index b, Index h) noexcept {
  Array<A> row(out.dim);
  if (row.empty() || queries.empty() || keys.empty() || values.empty())
    return failure(StatusCode::out_of_memory, "no memory for the Inhibitor's reference");
  for (Index i = 0; i < out.tokens; ++i) {
    const VisibleRange visible = visible_keys(causal, i, out.tokens, keys.size() / head_dim);
    const Index count = visible.count();
    if (count > 0)
      inhibitor_row(queries.data() + i * head_dim, keys.data(), values.data(), head_dim, out.dim,
                    visible, mechanism.is_signed, mechanism.center, make_steps(count), row.data());
    for (Index c = 0; c < out.dim; ++c) {
      double result = count > 0 ? to_real(row[c]) : 0.0;
      if (mechanism.normalize && count > 0) result /= static_cast<double>(count);
      out.row(b, h, i)[c] = static_cast<Out>(result);
    }
  }
  return {};
}

// fp32's formulas in double.
template <class Out>
Status inhibitor_reference_real(const Inhibitor& mechanism, View<const float> q,
                                View<const float> k, View<const float> v, View<Out> out,
                                bool causal = false) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;
  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Status status = inhibitor_head(
          mechanism, contiguous_head<double>(q, b, h), contiguous_head<double>(k, b, h / group),
          contiguous_head<double>(v, b, h / group), q.dim, causal,
          [&](Index count) {
            return InhibitorRealSteps{scale, mechanism.alpha, count};
          },
          [&](double inhibition) { return inhibition * mechanism.beta; }, out, b, h);
      if (!status.ok()) return status;
    }
  return {};
}

// The integer mechanism, exactly, in 64 bits throughout: T is int8_t or int16_t; at 4 bits int8_t
// with a limit of 7. Largest absolute values come from `given` where it has them.
template <class T, class Out>
Status inhibitor_reference_integer(const Inhibitor& mechanism, View<const float> q,
                                   View<const float> k, View<const float> v, View<Out> out,
                                   bool causal = false, const Calibration* given = nullptr,
                                   int limit = QuantizedView<T>::limit) noexcept {
  using Integer = std::int64_t;
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;

  // Q and K of one KV head share a scale.
  Array<float> query_absmax =
      given_or(given, &Calibration::query_absmax, [&] { return absmax_per_head(q); });
  Array<float> key_absmax =
      given_or(given, &Calibration::key_absmax, [&] { return absmax_per_head(k); });
  const Array<float> value_absmax =
      given_or(given, &Calibration::value_absmax, [&] { return absmax_per_head(v); });
  if (query_absmax.empty() || key_absmax.empty())
    return failure(StatusCode::out_of_memory, "no memory for the Inhibitor's reference");
  for (Index g = 0; g < key_absmax.size(); ++g) {
    float* group_absmax = query_absmax.data() + g * group;
    key_absmax[g] = inhibitor_shared_absmax(group_absmax, group, key_absmax[g]);
    for (Index h = 0; h < group; ++h) group_absmax[h] = key_absmax[g];
  }
  QuantizedTensor<T> q8, k8, v8;
  Status status = q8.try_assign(q, ScalePer::head, query_absmax.data(), query_absmax.size(), limit);
  if (status.ok())
    status = k8.try_assign(k, ScalePer::head, key_absmax.data(), key_absmax.size(), limit);
  if (status.ok())
    status = v8.try_assign(v, ScalePer::head, value_absmax.data(), value_absmax.size(), limit);
  if (!status.ok()) return status;

  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Index g = h / group;
      const float s = k8.scale(b, g);
      const float sv = v8.scale(b, g);
      const InhibitorConstants constants =
          sizeof(T) == 1 ? inhibitor_constants(scale, s, sv, mechanism.alpha)
                         : inhibitor_constants_int16(scale, s, sv, mechanism.alpha);
      status = inhibitor_head(
          mechanism, contiguous_head<Integer>(q8.view().values, b, h),
          contiguous_head<Integer>(k8.view().values, b, g),
          contiguous_head<Integer>(v8.view().values, b, g), q.dim, causal,
          [&](Index count) {
            return InhibitorIntegerSteps{constants, count};
          },
          [&](Integer inhibition) {
            return static_cast<double>(inhibition) * static_cast<double>(sv) * mechanism.beta;
          },
          out, b, h);
      if (!status.ok()) return status;
    }
  return {};
}

// At the mechanism's own precision; out is float or double. Shapes must agree.
template <class Out>
Status inhibitor_reference(const Inhibitor& mechanism, View<const float> q, View<const float> k,
                           View<const float> v, View<Out> out, bool causal = false,
                           const Calibration* given = nullptr) noexcept {
  if (mechanism.precision == Precision::fp32)
    return inhibitor_reference_real(mechanism, q, k, v, out, causal);
  if (mechanism.precision == Precision::int16)
    return inhibitor_reference_integer<std::int16_t>(mechanism, q, k, v, out, causal, given);
  const int limit = mechanism.precision == Precision::int4 ? int4_limit : int8_limit;
  return inhibitor_reference_integer<std::int8_t>(mechanism, q, k, v, out, causal, given, limit);
}

LOWATT_API_END
