// Bitformer, plainly: the exact oracle of the kernels' tests, and of calibrated temperatures.
#pragma once

#include "../core/rows.hpp"
#include "../core/softmax_row.hpp"
#include "../quant/calibration.hpp"
#include "../quant/quantized_tensor.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

// One head of Q or K: values less the channels' means, in float32, and their packed planes.
struct BitformerHead {
  Array<float> values;       // [tokens][head_dim]
  Array<std::uint8_t> bits;  // [tokens][row_bytes]
  Index dim = 0, row_bytes = 0;

  // `mean` may be null. The arrays are empty when memory runs out.
  BitformerHead(View<const float> x, Index b, Index head, const float* mean,
                const BitThresholds& thresholds) noexcept
      : values(contiguous_head<float>(x, b, head)),
        bits(x.tokens * thresholds.planes * plane_bytes(x.dim)),
        dim(x.dim),
        row_bytes(thresholds.planes * plane_bytes(x.dim)) {
    if (empty()) return;
    for (Index t = 0; t < x.tokens; ++t) {
      float* row = values.data() + t * dim;
      for (Index c = 0; c < dim; ++c) row[c] = mean == nullptr ? row[c] : row[c] - mean[c];
      pack_bit_planes(row, dim, thresholds, bits.data() + t * row_bytes);
    }
  }

  bool empty() const noexcept { return values.empty() || bits.empty(); }

  Index distance(Index token, const BitformerHead& other, Index other_token) const noexcept {
    return hamming_distance(bits.data() + token * row_bytes,
                            other.bits.data() + other_token * row_bytes, row_bytes);
  }
  double dot(Index token, const BitformerHead& other, Index other_token) const noexcept {
    double sum = 0;
    for (Index c = 0; c < dim; ++c)
      sum += static_cast<double>(values[token * dim + c]) *
             static_cast<double>(other.values[other_token * dim + c]);
    return sum;
  }
};

// The calibrated temperature of one query head: the slope of L = scale * q . k over S, both less
// their row's mean, over visible pairs with finite L.
inline double bitformer_reference_temperature(const BitformerHead& queries,
                                              const BitformerHead& keys, Index score_bits,
                                              double scale, bool causal) noexcept {
  const Index query_count = queries.values.size() / queries.dim;
  const Index key_count = keys.values.size() / keys.dim;
  double covariance = 0, variance = 0;
  for (Index i = 0; i < query_count; ++i) {
    const VisibleRange visible = visible_keys(causal, i, query_count, key_count);
    const auto for_each_pair = [&](auto f) {
      for (Index j = visible.begin; j < visible.end; ++j) {
        const double exact = scale * queries.dot(i, keys, j);
        const double bit_score = static_cast<double>(score_bits - 2 * queries.distance(i, keys, j));
        if (__builtin_isfinite(exact)) f(bit_score, exact);
      }
    };
    double n = 0, bit_sum = 0, exact_sum = 0;
    for_each_pair([&](double bit_score, double exact) {
      n += 1;
      bit_sum += bit_score;
      exact_sum += exact;
    });
    for_each_pair([&](double bit_score, double exact) {
      covariance += (bit_score - bit_sum / n) * (exact - exact_sum / n);
      variance += (bit_score - bit_sum / n) * (bit_score - bit_sum / n);
    });
  }
  const double slope = covariance / variance;
  return slope > 0 && __builtin_isfinite(slope) ? slope : 0.0;
}

// out is float or double; shapes must agree. `temperature`, when not null, receives [batch *
// query_heads]. Means and V's largest absolute values come from `given` where it has them, and so
// do clips and temperatures that the mechanism does not give.
template <class Out>
Status bitformer_reference(const Bitformer& mechanism, View<const float> q, View<const float> k,
                           View<const float> v, View<Out> out, bool causal = false,
                           double* temperature = nullptr,
                           const Calibration* given = nullptr) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;
  const Index score_bits = mechanism.planes * q.dim;

  Array<float> means;
  if (mechanism.center_keys)
    means = given_or(given, &Calibration::key_mean, [&] { return channel_means(k); });
  const Array<float> clips =
      mechanism.clip.given
          ? Array<float>(k.batch * k.heads, static_cast<float>(mechanism.clip.value))
          : given_or(given, &Calibration::clip, [&] { return default_clips(k, means.data()); });
  const Array<float> value_absmax =
      given_or(given, &Calibration::value_absmax, [&] { return absmax_per_head(v); });
  QuantizedTensor<std::int8_t> v8;
  const Status status = v8.try_assign(v, ScalePer::head, value_absmax.data(), value_absmax.size());
  if (!status.ok()) return status;

  Array<std::int64_t> distances(k.tokens);
  Array<std::int64_t> weighted(v.dim);
  Array<std::uint8_t> table(score_bits + 1);
  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const Index g = h / group;
      const Index kv = b * k.heads + g;
      const float* mean = means.empty() ? nullptr : means.data() + kv * k.dim;
      const float clip = clips.empty() ? 0.0f : clips[kv];
      const BitThresholds thresholds = bit_thresholds(mechanism.encoding, mechanism.planes, clip);
      const BitformerHead queries(q, b, h, nullptr, thresholds);
      const BitformerHead keys(k, b, g, mean, thresholds);
      if (clips.empty() || distances.empty() || weighted.empty() || table.empty() ||
          queries.empty() || keys.empty())
        return failure(StatusCode::out_of_memory, "no memory for Bitformer's reference");

      double tau = 0;
      if (mechanism.temperature.given)
        tau = mechanism.temperature.value;
      else if (given != nullptr && !given->temperature.empty())
        tau = given->temperature[b * q.heads + h];
      else if (calibrates_temperature(mechanism))
        tau = bitformer_reference_temperature(queries, keys, score_bits, scale, causal);
      else
        tau = scale * mean_abs(q, b, h) * mean_abs(k, b, g, mean);
      if (temperature != nullptr) temperature[b * q.heads + h] = tau;
      bitformer_probabilities(tau, score_bits, table.data());

      for (Index i = 0; i < q.tokens; ++i) {
        const VisibleRange visible = visible_keys(causal, i, q.tokens, k.tokens);
        std::int64_t nearest = score_bits;
        for (Index j = visible.begin; j < visible.end; ++j) {
          distances[j] = queries.distance(i, keys, j);
          nearest = distances[j] < nearest ? distances[j] : nearest;
        }

        std::int64_t total = 0;
        for (std::int64_t& sum : weighted) sum = 0;
        for (Index j = visible.begin; j < visible.end; ++j) {
          const std::int64_t p = table[distances[j] - nearest];
          total += p;
          for (Index c = 0; c < v.dim; ++c) weighted[c] += p * v8.row(b, g, j)[c];
        }

        const double sv = static_cast<double>(v8.scale(b, g));
        for (Index c = 0; c < v.dim; ++c)
          out.row(b, h, i)[c] = total > 0 ? static_cast<Out>(sv * static_cast<double>(weighted[c]) /
                                                             static_cast<double>(total))
                                          : Out{0};
      }
    }
  return {};
}

// Rows of values as the bits of the training form, whose probabilities are not rounded: softmax of
// temperature times the products of bits (dot_product_attention_row). [tokens][planes][dim], -1 or
// 1. Empty when memory runs out.
inline Array<double> bitformer_signs(const Array<float>& values, Index dim,
                                     const BitThresholds& thresholds) noexcept {
  const Index bits = thresholds.planes * dim, tokens = values.size() / dim;
  Array<double> signs(tokens * bits);
  for (Index i = 0; i < signs.size(); ++i)
    signs[i] = values[i / bits * dim + i % dim] >= thresholds.value[i % bits / dim] ? 1.0 : -1.0;
  return signs;
}

LOWATT_API_END
