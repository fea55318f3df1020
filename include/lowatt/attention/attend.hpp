// Attention in one call: on a cache, or floats in and floats out.
#pragma once

#include "call_memory.hpp"
#include "plan.hpp"
#include "workspace.hpp"

LOWATT_API_BEGIN

namespace detail {

// Whether the mechanism has what is asked for beside outputs.
template <class M>
Status check_row_outputs(const Options& options) noexcept {
  if (options.log_sum_exp != nullptr && !Adapter<M>::has_log_sum_exp)
    return failure(StatusCode::unsupported,
                   "options.log_sum_exp is given; only softmax and LATTE sum exponentials");
  return {};
}

}  // namespace detail

// out = attention of q on the cache. q [batch, query_heads, queries, head_dim], out [batch,
// query_heads, queries, value_dim]; query_heads a multiple of the cache's KV heads. Nothing is
// written on failure. Allocates a workspace unless options give one.
template <class M>
Status try_attend(View<const float> q, const KvCache<M>& cache, View<float> out,
                  const Options& options = {}) noexcept {
  const CacheShape& held = cache.shape();
  if (cache.size() == 0)
    return failure(StatusCode::invalid_shape, "the cache holds 0 keys; append some first");
  if (Status status =
          detail::check_queries(q, out, held.batch, held.kv_heads, held.head_dim, held.value_dim);
      !status.ok())
    return status;
  if (Status status = Adapter<M>::check_queries(cache.mechanism(), cache.calibration(), held, q);
      !status.ok())
    return status;

  Plan<M> plan;
  const Shape shape{held.batch,   q.heads,       held.kv_heads, q.tokens,
                    cache.size(), held.head_dim, held.value_dim};
  const int workers = options.executor.workers();
  if (Status status = detail::check_workers(workers); !status.ok()) return status;
  // Where it changes no bit, keys are not split for one worker alone.
  const bool splits = workers > 1 || !Adapter<M>::is_exact(cache.mechanism());
  if (Status status = detail::first_failure(
          Plan<M>::try_make(plan, cache.mechanism(), shape, options, splits),
          detail::check_mask(options.visibility(), shape, shape.keys),
          detail::check_score_terms<M>(options.score_terms(), shape, shape.keys));
      !status.ok())
    return status;
  const Index needed = plan.workspace_size(workers);
  detail::Workspace workspace{};
  if (Status status = detail::take_workspace(options, needed, workspace); !status.ok())
    return status;
  if (Status status = detail::first_failure(detail::check_row_outputs<M>(options),
                                            detail::CallMemory()
                                                .reads("q", q)
                                                .writes("out", out)
                                                .uses(options, q)
                                                .writes("workspace", workspace.data, needed)
                                                .check());
      !status.ok())
    return status;
  if (options.kept != nullptr)
    for (Index i = 0; i < q.batch * q.heads; ++i) options.kept[i] = 0;
  const RowOutputs outputs{options.kept, options.log_sum_exp};
  for (Index phase = 0; phase < plan.phases(); ++phase)
    options.executor.run(plan.tasks(phase), [&](Index task, Index worker) {
      // Extents and mechanism are the plan's own: this cannot fail.
      static_cast<void>(plan.run(phase, task, worker, q, cache, out, workspace.data, outputs));
    });
  return {};
}

// What a cache for these tensors would freeze: absolute maxima and, where the mechanism has them,
// key means, clips, temperatures and thresholds. Shapes as for attend.
template <class M>
Status try_calibrate(Calibration& calibration, const M& mechanism, View<const float> q,
                     View<const float> k, View<const float> v,
                     const Options& options = {}) noexcept {
  if (Status status = detail::check_samples(q, k, v); !status.ok()) return status;
  const Shape shape{k.batch, q.heads, k.heads, q.tokens, k.tokens, k.dim, v.dim};
  if (Status status = Adapter<M>::validate(mechanism, shape); !status.ok()) return status;
  if (Status status = detail::first_failure(
          detail::check_mask(options.visibility(), shape, shape.keys),
          detail::check_score_terms<M>(options.score_terms(), shape, shape.keys));
      !status.ok())
    return status;
  Calibration made;
  if (Status status = Adapter<M>::calibrate(mechanism, q, k, v, options.visibility(), made);
      !status.ok())
    return status;
  calibration = static_cast<Calibration&&>(made);
  return {};
}

// Floats in, floats out: calibrates, packs k [batch, kv_heads, keys, head_dim] and v [batch,
// kv_heads, keys, value_dim], attends. For repeated use keep a KvCache.
template <class M>
Status try_attend(const M& mechanism, View<const float> q, View<const float> k, View<const float> v,
                  View<float> out, const Options& options = {}) noexcept {
  if (Status status = detail::check_keys_values(k, v); !status.ok()) return status;
  if (Status status = detail::check_queries(q, out, k.batch, k.heads, k.dim, v.dim); !status.ok())
    return status;
  if (Status status =
          detail::first_failure(detail::check_apart(out, "k", k), detail::check_apart(out, "v", v));
      !status.ok())
    return status;
  Calibration calibration;
  if (Status status = try_calibrate(calibration, mechanism, q, k, v, options); !status.ok())
    return status;
  KvCache<M> cache;
  const CacheShape shape{k.batch, k.heads, k.dim, v.dim, k.tokens};
  if (Status status = KvCache<M>::try_create(cache, shape, calibration, mechanism, options.level);
      !status.ok())
    return status;
  if (Status status = cache.try_append(k, v); !status.ok()) return status;
  return try_attend(q, cache, out, options);
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
void attend(View<const float> q, const KvCache<M>& cache, View<float> out,
            const Options& options = {}) {
  throw_if_failed(try_attend(q, cache, out, options));
}

template <class M>
void attend(const M& mechanism, View<const float> q, View<const float> k, View<const float> v,
            View<float> out, const Options& options = {}) {
  throw_if_failed(try_attend(mechanism, q, k, v, out, options));
}

template <class M>
Calibration calibrate(const M& mechanism, View<const float> q, View<const float> k,
                      View<const float> v, const Options& options = {}) {
  Calibration calibration;
  throw_if_failed(try_calibrate(calibration, mechanism, q, k, v, options));
  return calibration;
}
#endif

LOWATT_API_END
