// The Inhibitor, plainly: the oracle of the kernels' tests, and the mechanism on any Arithmetic.
#pragma once

#include "../core/arithmetic.hpp"
#include "../core/rows.hpp"
#include "../quant/bit_planes.hpp"
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

// What is left of `value` at `score` >= 0. Signed: both signs shrink towards 0. Of the two terms at
// most one is not 0: since score >= 0, a value of the other sign is below it.
template <Arithmetic A>
A inhibited(const A& value, const A& score, bool is_signed) {
  using arithmetic::relu;
  if (!is_signed) return relu(value - score);
  return relu(value - score) - relu(-value - score);
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

// All heads of the integer mechanism, exactly, in 64 bits throughout. queries(b, h) and keys(b, g)
// return the steps of one head, constants(b, g) what turns their distances into scores.
template <class T, class Queries, class Keys, class Constants, class Out>
Status inhibitor_integer_heads(const Inhibitor& mechanism, const Queries& queries, const Keys& keys,
                               const QuantizedTensor<T>& values, const Constants& constants,
                               Index head_dim, bool causal, View<Out> out) noexcept {
  const QuantizedView<T> v8 = values.view();
  const Index group = out.heads / v8.values.heads;
  for (Index b = 0; b < out.batch; ++b)
    for (Index h = 0; h < out.heads; ++h) {
      const Index g = h / group;
      const auto sv = static_cast<double>(values.scale(b, g));
      const InhibitorConstants of_head = constants(b, g);
      const Status status = inhibitor_head(
          mechanism, queries(b, h), keys(b, g), contiguous_head<std::int64_t>(v8.values, b, g),
          head_dim, causal,
          [&](Index count) {
            return InhibitorIntegerSteps{of_head, count};
          },
          [&](std::int64_t inhibition) {
            return static_cast<double>(inhibition) * sv * mechanism.beta;
          },
          out, b, h);
      if (!status.ok()) return status;
    }
  return {};
}

// T is int8_t or int16_t; at 4 bits int8_t with a limit of 7. Largest absolute values come from
// `given` where it has them.
template <class T, class Out>
Status inhibitor_reference_integer(const Inhibitor& mechanism, View<const float> q,
                                   View<const float> k, View<const float> v, View<Out> out,
                                   bool causal = false, const Calibration* given = nullptr,
                                   int limit = QuantizedView<T>::limit) noexcept {
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
  const auto steps_of = [](const QuantizedTensor<T>& x) {
    return [view = x.view().values](Index b, Index head) {
      return contiguous_head<std::int64_t>(view, b, head);
    };
  };
  return inhibitor_integer_heads(
      mechanism, steps_of(q8), steps_of(k8), v8,
      [&](Index b, Index g) {
        const float s = k8.scale(b, g), sv = v8.scale(b, g);
        return sizeof(T) == 1 ? inhibitor_constants(scale, s, sv, mechanism.alpha)
                              : inhibitor_constants_int16(scale, s, sv, mechanism.alpha);
      },
      q.dim, causal, out);
}

// One head as levels of thermometer encoding. Empty when memory runs out.
inline Array<std::int64_t> thermometer_levels(View<const float> x, Index b, Index head,
                                              const BitThresholds& thresholds) noexcept {
  Array<std::int64_t> levels(x.tokens * x.dim);
  for (Index i = 0; i < levels.size(); ++i)
    levels[i] = thermometer_level(x.row(b, head, i / x.dim)[i % x.dim], thresholds);
  return levels;
}

// Queries and keys as levels of thermometer encoding, values at 8 bits. A distance is the L1
// distance of levels, which kernels find as the Hamming distance of codes. Largest absolute values
// come from `given` where it has them, and so do clips that the mechanism does not give.
template <class Out>
Status inhibitor_reference_levels(const Inhibitor& mechanism, View<const float> q,
                                  View<const float> k, View<const float> v, View<Out> out,
                                  bool causal = false,
                                  const Calibration* given = nullptr) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;
  const Array<float> clips =
      mechanism.clip.given
          ? Array<float>(k.batch * k.heads, static_cast<float>(mechanism.clip.value))
          : given_or(given, &Calibration::clip, [&] { return shared_absmax_per_head(q, k); });
  const Array<float> value_absmax =
      given_or(given, &Calibration::value_absmax, [&] { return absmax_per_head(v); });
  if (clips.empty())
    return failure(StatusCode::out_of_memory, "no memory for the Inhibitor's reference");
  QuantizedTensor<std::int8_t> v8;
  const Status status = v8.try_assign(v, ScalePer::head, value_absmax.data(), value_absmax.size());
  if (!status.ok()) return status;
  const auto clip = [&](Index b, Index g) { return clips[b * k.heads + g]; };
  const auto levels = [&](View<const float> x, Index b, Index head, Index g) {
    return thermometer_levels(
        x, b, head, bit_thresholds(BitEncoding::thermometer, mechanism.planes, clip(b, g)));
  };
  return inhibitor_integer_heads(
      mechanism, [&](Index b, Index h) { return levels(q, b, h, h / group); },
      [&](Index b, Index g) { return levels(k, b, g, g); }, v8,
      [&](Index b, Index g) {
        return inhibitor_constants(scale, thermometer_step(mechanism.planes, clip(b, g)),
                                   v8.scale(b, g), mechanism.alpha);
      },
      q.dim, causal, out);
}

// At the mechanism's own precision; out is float or double. Shapes must agree.
template <class Out>
Status inhibitor_reference(const Inhibitor& mechanism, View<const float> q, View<const float> k,
                           View<const float> v, View<Out> out, bool causal = false,
                           const Calibration* given = nullptr) noexcept {
  if (mechanism.planes > 0)
    return inhibitor_reference_levels(mechanism, q, k, v, out, causal, given);
  if (mechanism.precision == Precision::fp32)
    return inhibitor_reference_real(mechanism, q, k, v, out, causal);
  if (mechanism.precision == Precision::int16)
    return inhibitor_reference_integer<std::int16_t>(mechanism, q, k, v, out, causal, given);
  const int limit = mechanism.precision == Precision::int4 ? int4_limit : int8_limit;
  return inhibitor_reference_integer<std::int8_t>(mechanism, q, k, v, out, causal, given, limit);
}

LOWATT_API_END
