// Attention in one call: on a cache, or floats in and floats out.
#pragma once

#include "plan.hpp"
#include "workspace.hpp"

LOWATT_API_BEGIN

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
  if (Status status = try_plan(plan, cache.mechanism(), shape, options); !status.ok())
    return status;
  const int workers = options.executor.workers();
  if (Status status = detail::check_workers(workers); !status.ok()) return status;
  const Index needed = plan.workspace_size(workers);
  detail::Workspace workspace{};
  if (Status status = detail::take_workspace(options, needed, workspace); !status.ok())
    return status;
  const detail::ByteRange<std::byte> scratch{workspace.data, workspace.data + needed};
  if (Status status = detail::first_failure(
          detail::check_apart("out", detail::bytes_of(out), "mask", detail::bytes_of(options.mask)),
          detail::check_apart("workspace", scratch, "q", detail::bytes_of(q)),
          detail::check_apart("workspace", scratch, "out", detail::bytes_of(out)),
          detail::check_apart("workspace", scratch, "mask", detail::bytes_of(options.mask)));
      !status.ok())
    return status;
  if (options.kept != nullptr) {
    const Index heads = q.batch * q.heads;
    const detail::ByteRange<std::int64_t> counts{options.kept, options.kept + heads};
    if (Status status = detail::first_failure(
            detail::check_apart("kept", counts, "q", detail::bytes_of(q)),
            detail::check_apart("kept", counts, "out", detail::bytes_of(out)));
        !status.ok())
      return status;
    for (Index i = 0; i < heads; ++i) options.kept[i] = 0;
  }
  options.executor.run(plan.tasks(), [&](Index task, Index worker) {
    // Extents and mechanism are the plan's own: this cannot fail.
    static_cast<void>(plan.run(task, worker, q, cache, out, workspace.data, options.kept));
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
  if (Status status = detail::check_mask(options.visibility(), shape); !status.ok()) return status;
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
