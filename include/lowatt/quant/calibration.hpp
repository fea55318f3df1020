// What an encoding depends on: properties of whole tensors, computed here or frozen in a
// Calibration.
//
// A property is taken over all tokens, masked or not. Values that are not finite count neither in a
// sum nor in the number divided by, and a mean of nothing is 0. Sums are taken in double in storage
// order (token, then channel), so that no level or thread count changes a bit.
#pragma once

#include "../core/array.hpp"
#include "../core/view.hpp"
#include "scale.hpp"

LOWATT_API_BEGIN

// Everything that a cache freezes before its first token. Arrays that a mechanism does not use may
// stay empty.
struct Calibration {
  Array<float> query_absmax;  // [batch * query_heads]
  Array<float> key_absmax;    // [batch * kv_heads]
  Array<float> value_absmax;  // [batch * kv_heads]
  Array<float> key_mean;      // [batch * kv_heads * head_dim]
  Array<float> clip;          // [batch * kv_heads], thermometer clip of Q and K
  Array<double> temperature;  // [batch * query_heads]
  Array<double> theta;        // [query_heads]
};

// One array of a Calibration where there is one, else what compute() returns.
template <class T, class F>
Array<T> given_or(const Calibration* given, Array<T> Calibration::*member, F compute) noexcept {
  if (given != nullptr && !(given->*member).empty()) return given->*member;
  return compute();
}

// Whether a copy is whole: one that ran out of memory has empty arrays.
inline bool same_sizes(const Calibration& a, const Calibration& b) noexcept {
  return a.query_absmax.size() == b.query_absmax.size() &&
         a.key_absmax.size() == b.key_absmax.size() &&
         a.value_absmax.size() == b.value_absmax.size() && a.key_mean.size() == b.key_mean.size() &&
         a.clip.size() == b.clip.size() && a.temperature.size() == b.temperature.size() &&
         a.theta.size() == b.theta.size();
}

// The largest absolute finite value of one head.
inline float head_absmax(View<const float> x, Index b, Index head) noexcept {
  float largest = 0;
  for (Index t = 0; t < x.tokens; ++t) largest = finite_absmax(x.row(b, head, t), x.dim, largest);
  return largest;
}

// head_absmax of every head: [batch * heads]. Empty when memory runs out.
inline Array<float> absmax_per_head(View<const float> x) noexcept {
  Array<float> absmax(x.batch * x.heads);
  for (Index i = 0; i < absmax.size(); ++i) absmax[i] = head_absmax(x, i / x.heads, i % x.heads);
  return absmax;
}

// The largest absolute finite value of each KV head's keys and of the queries that use it: [batch *
// kv_heads]. Empty when memory runs out.
inline Array<float> shared_absmax_per_head(View<const float> q, View<const float> k) noexcept {
  const Index group = q.heads / k.heads;
  Array<float> absmax = absmax_per_head(k);
  for (Index i = 0; i < absmax.size(); ++i)
    for (Index h = 0; h < group; ++h) {
      const float of_query = head_absmax(q, i / k.heads, i % k.heads * group + h);
      absmax[i] = of_query > absmax[i] ? of_query : absmax[i];
    }
  return absmax;
}

// Mean of each channel over the tokens of one head, in double, rounded to float32: mean[dim].
inline void channel_means(View<const float> x, Index b, Index head, float* mean) noexcept {
  constexpr Index block = 64;  // channels summed side by side: rows are read in order
  for (Index first = 0; first < x.dim; first += block) {
    const Index channels = x.dim - first < block ? x.dim - first : block;
    double sum[block] = {};
    std::int64_t count[block] = {};
    for (Index t = 0; t < x.tokens; ++t) {
      const float* row = x.row(b, head, t) + first;
      for (Index k = 0; k < channels; ++k) {
        const bool counts = is_finite(row[k]);
        sum[k] += static_cast<double>(counts ? row[k] : 0.0f);
        count[k] += counts ? 1 : 0;
      }
    }
    for (Index k = 0; k < channels; ++k)
      mean[first + k] =
          count[k] == 0 ? 0.0f : static_cast<float>(sum[k] / static_cast<double>(count[k]));
  }
}

// channel_means of every head: [batch * heads * dim]. Empty when memory runs out.
inline Array<float> channel_means(View<const float> x) noexcept {
  Array<float> means(x.batch * x.heads * x.dim);
  for (Index i = 0; i * x.dim < means.size(); ++i)
    channel_means(x, i / x.heads, i % x.heads, means.data() + i * x.dim);
  return means;
}

// Mean of |x| over one head, in double; with `mean` (of each channel, may be null) subtracted
// first, in float32.
inline double mean_abs(View<const float> x, Index b, Index head,
                       const float* mean = nullptr) noexcept {
  double sum = 0;
  std::int64_t count = 0;
  for (Index t = 0; t < x.tokens; ++t) {
    const float* row = x.row(b, head, t);
    for (Index k = 0; k < x.dim; ++k) {
      const float value = mean == nullptr ? row[k] : row[k] - mean[k];
      const bool counts = is_finite(value);
      sum += static_cast<double>(counts ? __builtin_fabsf(value) : 0.0f);
      count += counts ? 1 : 0;
    }
  }
  return count == 0 ? 0.0 : sum / static_cast<double>(count);
}

// Clip of thermometer encoding where none is given, of every KV head: [batch * heads]. `key_mean`
// as channel_means() returns it, or null for keys that are not centred. Empty when memory runs out.
inline Array<float> default_clips(View<const float> k, const float* key_mean = nullptr) noexcept {
  Array<float> clips(k.batch * k.heads);
  for (Index i = 0; i < clips.size(); ++i)
    clips[i] = static_cast<float>(mean_abs(k, i / k.heads, i % k.heads,
                                           key_mean == nullptr ? nullptr : key_mean + i * k.dim));
  return clips;
}

LOWATT_API_END
