// How much each key counts for each query, for looking at what attention does. Outputs are linear
// in weights: kernels are run as they are, on values that are 1 at one key and 0 at the others.
// What comes out is what they weigh with, whatever the level, the masks and what is added to
// scores.
#pragma once

#include "attend.hpp"
#include "inhibitor.hpp"

LOWATT_API_BEGIN

namespace detail {

// Keys whose weights are found in one run.
inline constexpr Index weight_columns = 64;

// The mechanism whose outputs are weights, and the value of each KV head that stands for 1.
template <class M>
M mechanism_of_weights(const M& mechanism, const Array<float>&, Array<float>& ones) noexcept {
  for (float& one : ones) one = 1;
  return mechanism;
}
// The Inhibitor subtracts from values: what is left of the largest.
inline Inhibitor mechanism_of_weights(const Inhibitor& mechanism, const Array<float>& value_absmax,
                                      Array<float>& ones) noexcept {
  for (Index i = 0; i < ones.size(); ++i) ones[i] = value_absmax[i];
  Inhibitor changed = mechanism;
  changed.beta = 1;
  changed.normalize = false;
  return changed;
}

}  // namespace detail

// weights [batch, query_heads, queries, keys], with what a cache of k and v and this Calibration
// would attend with; tensors and options as for attend. Of softmax, LATTE and Bitformer a row sums
// up to 1, but for rounding and sinks, or is 0 where its query sees no key; keys that are hidden or
// filtered have 0. The Inhibitor has no weights: this is the share of its KV head's largest
// absolute value that a key's score leaves, max(0, 1 - Z' / absmax), before beta and normalize; 0
// where all values are. Packs all keys and attends once for every 64 keys, in its own cache. Unless
// memory runs out in between, nothing is written on failure.
template <class M>
Status try_attention_weights(const M& mechanism, const Calibration& calibration,
                             View<const float> q, View<const float> k, View<const float> v,
                             View<float> weights, const Options& options = {}) noexcept {
  if (Status status = detail::first_failure(detail::check_samples(q, k, v),
                                            detail::check_view("weights", weights));
      !status.ok())
    return status;
  if (Status status = detail::first_failure(
          detail::check_equal("weights.batch", weights.batch, "q.batch", q.batch),
          detail::check_equal("weights.heads", weights.heads, "q.heads", q.heads),
          detail::check_equal("weights.tokens", weights.tokens, "q.tokens", q.tokens),
          detail::check_equal("weights.dim", weights.dim, "k.tokens", k.tokens),
          detail::check_output_rows("weights", weights),
          detail::CallMemory()
              .reads("q", q)
              .reads("k", k)
              .reads("v", v)
              .writes("weights", weights)
              .uses(options, q)
              .writes("workspace", options.workspace, options.workspace_bytes)
              .check());
      !status.ok())
    return status;

  const Index heads = k.batch * k.heads, keys = k.tokens;
  const Index columns = keys < detail::weight_columns ? keys : detail::weight_columns;
  Calibration changed_calibration = calibration;
  Array<float>& value_absmax = changed_calibration.value_absmax;
  const Array<float> largest = value_absmax.size() == heads ? value_absmax : absmax_per_head(v);
  Array<float> ones(heads), memory(heads * keys * columns);
  if (largest.size() != heads || ones.size() != heads || memory.empty())
    return failure(StatusCode::out_of_memory, "no memory for weights over %td keys", keys);
  const M changed = detail::mechanism_of_weights(mechanism, largest, ones);
  if (value_absmax.size() == heads) value_absmax = ones;

  KvCache<M> cache;
  const CacheShape shape{k.batch, k.heads, k.dim, columns, keys};
  if (Status status =
          KvCache<M>::try_create(cache, shape, changed_calibration, changed, options.level);
      !status.ok())
    return status;
  const View<float> values(memory.data(), k.batch, k.heads, keys, columns);
  for (Index begin = 0; begin < keys; begin += columns) {
    // The last run takes as many keys as the others, some of them once more.
    const Index first = begin < keys - columns ? begin : keys - columns;
    const auto put = [&](bool is_one) {
      for (Index b = 0; b < k.batch; ++b)
        for (Index g = 0; g < k.heads; ++g)
          for (Index c = 0; c < columns; ++c)
            values.row(b, g, first + c)[c] = is_one ? ones[b * k.heads + g] : 0.0f;
    };
    put(true);
    cache.clear();
    if (Status status = cache.try_append(k, values); !status.ok()) return status;
    put(false);
    View<float> out = weights;
    out.data += first;
    out.dim = columns;
    if (Status status = try_attend(q, cache, out, options); !status.ok()) return status;
    for (Index b = 0; b < q.batch; ++b)
      for (Index h = 0; h < q.heads; ++h) {
        const float one = ones[b * k.heads + h / (q.heads / k.heads)];
        for (Index i = 0; i < q.tokens && one > 0; ++i)
          for (Index c = 0; c < columns; ++c) out.row(b, h, i)[c] /= one;
      }
  }
  return {};
}

// The same, calibrated on these tensors.
template <class M>
Status try_attention_weights(const M& mechanism, View<const float> q, View<const float> k,
                             View<const float> v, View<float> weights,
                             const Options& options = {}) noexcept {
  Calibration calibration;
  if (Status status = try_calibrate(calibration, mechanism, q, k, v, options); !status.ok())
    return status;
  return try_attention_weights(mechanism, calibration, q, k, v, weights, options);
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
void attention_weights(const M& mechanism, const Calibration& calibration, View<const float> q,
                       View<const float> k, View<const float> v, View<float> weights,
                       const Options& options = {}) {
  throw_if_failed(try_attention_weights(mechanism, calibration, q, k, v, weights, options));
}
template <class M>
void attention_weights(const M& mechanism, View<const float> q, View<const float> k,
                       View<const float> v, View<float> weights, const Options& options = {}) {
  throw_if_failed(try_attention_weights(mechanism, q, k, v, weights, options));
}
#endif

LOWATT_API_END
