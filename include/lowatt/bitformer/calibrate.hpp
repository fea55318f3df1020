// Temperatures of Bitformer's query heads: given, derived from mean absolute values, or calibrated
// by regressing exact scores on bit scores.
//
// Calibration minimises, over all visible pairs of a head, the squared difference between
// temperature * S and L = scale * q . k (K after centring), each taken less its mean over the row,
// since softmax ignores what a row has in common:
//   temperature = sum (S - mean_i S)(L - mean_i L) / sum (S - mean_i S)^2
// Pairs whose L is not finite are left out of means and sums; a negative or undefined result is 0.
// Four rows of scores are held at a time.
#pragma once

#include "../core/mask.hpp"
#include "../core/status.hpp"
#include "../quant/calibration.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

// K of one KV head as Bitformer sees it: the values, centred in float32, and their packed planes.
struct BitformerKeys {
  Array<float> values;       // [tokens][head_dim]
  Array<std::uint8_t> bits;  // [tokens][packed row]
};

// `mean` may be null. The arrays are empty when memory runs out.
inline BitformerKeys bitformer_keys(View<const float> k, Index b, Index head, const float* mean,
                                    const BitThresholds& thresholds) noexcept {
  const Index row_bytes = thresholds.planes * plane_bytes(k.dim);
  BitformerKeys keys{Array<float>(k.tokens * k.dim), Array<std::uint8_t>(k.tokens * row_bytes)};
  if (keys.values.empty() || keys.bits.empty()) return {};
  for (Index j = 0; j < k.tokens; ++j) {
    const float* row = k.row(b, head, j);
    float* centered = keys.values.data() + j * k.dim;
    for (Index c = 0; c < k.dim; ++c) centered[c] = mean == nullptr ? row[c] : row[c] - mean[c];
    pack_bit_planes(centered, k.dim, thresholds, keys.bits.data() + j * row_bytes);
  }
  return keys;
}

// Both sums of the regression's quotient.
struct RegressionSums {
  double covariance = 0, variance = 0;

  // Adds one row of n pairs. Means are taken first: subtracting sums of products would cancel.
  void add_row(const double* bit_scores, const double* exact_scores, Index n) noexcept {
    double bit_sum = 0, exact_sum = 0;
    for (Index j = 0; j < n; ++j) {
      bit_sum += bit_scores[j];
      exact_sum += exact_scores[j];
    }
    const double bit_mean = bit_sum / static_cast<double>(n);
    const double exact_mean = exact_sum / static_cast<double>(n);
    double row_covariance = 0, row_variance = 0;
    for (Index j = 0; j < n; ++j) {
      const double difference = bit_scores[j] - bit_mean;
      row_covariance += difference * (exact_scores[j] - exact_mean);
      row_variance += difference * difference;
    }
    covariance += row_covariance;
    variance += row_variance;
  }

  double slope() const noexcept {
    const double quotient = covariance / variance;
    return quotient > 0 && quotient <= __DBL_MAX__ ? quotient : 0.0;
  }
};

// The calibrated temperature of one query head. `keys` as bitformer_keys() returns them for the
// head's KV head, with the same thresholds.
inline Status try_calibrate_temperature(View<const float> q, Index b, Index head,
                                        const BitformerKeys& keys, const BitThresholds& thresholds,
                                        double scale, const Mask& mask,
                                        double& temperature) noexcept {
  constexpr Index rows = 4;  // that share the conversion of a key
  const Index row_bytes = thresholds.planes * plane_bytes(q.dim);
  const Index key_count = keys.values.size() / q.dim;
  Array<double> values((rows + 1) * q.dim);  // of the queries, then of one key
  Array<std::uint8_t> query_bits(rows * row_bytes);
  Array<double> scores(rows * 2 * key_count);  // of each row its bit scores, then its exact ones
  if (key_count == 0 || values.empty() || query_bits.empty() || scores.empty())
    return failure(StatusCode::out_of_memory, "no memory to calibrate the temperature of head %td",
                   head);
  RegressionSums sums;
  double* key_values = values.data() + rows * q.dim;
  for (Index first = 0; first < q.tokens; first += rows) {
    const Index count = q.tokens - first < rows ? q.tokens - first : rows;
    VisibleRange visible[rows] = {};
    Index pairs[rows] = {}, begin = key_count, end = 0;
    for (Index r = 0; r < count; ++r) {
      const float* query = q.row(b, head, first + r);
      for (Index c = 0; c < q.dim; ++c) values[r * q.dim + c] = static_cast<double>(query[c]);
      pack_bit_planes(query, q.dim, thresholds, query_bits.data() + r * row_bytes);
      visible[r] = mask.range(b, first + r, q.tokens, key_count);
      begin = visible[r].begin < begin ? visible[r].begin : begin;
      end = visible[r].end > end ? visible[r].end : end;
    }
    for (Index j = begin; j < end; ++j) {
      for (Index c = 0; c < q.dim; ++c)
        key_values[c] = static_cast<double>(keys.values[j * q.dim + c]);
      for (Index r = 0; r < count; ++r) {
        if (j < visible[r].begin || j >= visible[r].end) continue;
        if (!mask.shows(b, head, first + r, j)) continue;
        const double* query_values = values.data() + r * q.dim;
        const double exact =
            scale * sum_in_lanes(q.dim, [=](Index c) { return query_values[c] * key_values[c]; });
        if (!(__builtin_fabs(exact) <= __DBL_MAX__)) continue;
        const Index distance = hamming_distance(query_bits.data() + r * row_bytes,
                                                keys.bits.data() + j * row_bytes, row_bytes);
        double* bit_scores = scores.data() + r * 2 * key_count;
        bit_scores[pairs[r]] = static_cast<double>(thresholds.planes * q.dim - 2 * distance);
        bit_scores[key_count + pairs[r]] = exact;
        ++pairs[r];
      }
    }
    for (Index r = 0; r < count; ++r) {
      const double* bit_scores = scores.data() + r * 2 * key_count;
      if (pairs[r] > 0) sums.add_row(bit_scores, bit_scores + key_count, pairs[r]);
    }
  }
  temperature = sums.slope();
  return {};
}

// Temperatures of all query heads, by whichever rule `mechanism` asks for: temperature[batch *
// query_heads]. key_mean is [batch * kv_heads * head_dim] or null for keys that are not centred;
// clip is [batch * kv_heads] and may be null for sign encoding.
inline Status try_temperatures(const Bitformer& mechanism, View<const float> q, View<const float> k,
                               const float* key_mean, const float* clip, const Mask& mask,
                               double* temperature) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index group = q.heads / k.heads;
  if (mechanism.temperature.given) {
    for (Index i = 0; i < q.batch * q.heads; ++i) temperature[i] = mechanism.temperature.value;
    return {};
  }
  for (Index b = 0; b < k.batch; ++b)
    for (Index g = 0; g < k.heads; ++g) {
      const Index kv = b * k.heads + g;
      const float* mean = key_mean == nullptr ? nullptr : key_mean + kv * k.dim;
      double* head_temperature = temperature + kv * group;
      if (!calibrates_temperature(mechanism)) {
        const double key_size = mean_abs(k, b, g, mean);
        for (Index h = 0; h < group; ++h)
          head_temperature[h] = scale * mean_abs(q, b, g * group + h) * key_size;
        continue;
      }
      const BitThresholds thresholds =
          bit_thresholds(mechanism.encoding, mechanism.planes, clip == nullptr ? 0.0f : clip[kv]);
      const BitformerKeys keys = bitformer_keys(k, b, g, mean, thresholds);
      for (Index h = 0; h < group; ++h) {
        const Status status = try_calibrate_temperature(q, b, g * group + h, keys, thresholds,
                                                        scale, mask, head_temperature[h]);
        if (!status.ok()) return status;
      }
    }
  return {};
}

LOWATT_API_END
