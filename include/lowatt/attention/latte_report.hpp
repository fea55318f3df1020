// What LATTE's thresholds do to sample tensors, per query head.
#pragma once

#include "latte.hpp"

LOWATT_API_BEGIN

// Fills reports[query_heads]; those of several heads may be added. Absolute maxima are the
// Calibration's, thetas the mechanism's where it gives them, else the Calibration's: what a cache
// made of the two would attend with. Shapes as for attend.
inline Status try_report(const Latte& mechanism, const Calibration& calibration,
                         View<const float> q, View<const float> k, View<const float> v,
                         LatteReport* reports, const Options& options = {}) noexcept {
  if (Status status = detail::check_samples(q, k, v); !status.ok()) return status;
  if (reports == nullptr)
    return failure(StatusCode::invalid_argument,
                   "reports is null; it needs an entry per query head");
  const Shape shape{k.batch, q.heads, k.heads, q.tokens, k.tokens, k.dim, v.dim};
  const CacheShape cache{k.batch, k.heads, k.dim, v.dim, k.tokens};
  if (Status status = detail::first_failure(Adapter<Latte>::validate(mechanism, shape),
                                            Adapter<Latte>::check(mechanism, calibration, cache));
      !status.ok())
    return status;
  if (Status status = detail::check_mask(options.visibility(), shape); !status.ok()) return status;
  if (mechanism.theta.given())
    return try_report_thetas(mechanism, q, k, v, options.visibility(), calibration, mechanism.theta,
                             reports);
  if (Status status = Adapter<Latte>::check_queries(mechanism, calibration, cache, q); !status.ok())
    return status;
  return try_report_thetas(mechanism, q, k, v, options.visibility(), calibration,
                           PerHead(calibration.theta), reports);
}

#if LOWATT_HAS_EXCEPTIONS
// The same, [query_heads].
inline Array<LatteReport> report(const Latte& mechanism, const Calibration& calibration,
                                 View<const float> q, View<const float> k, View<const float> v,
                                 const Options& options = {}) {
  Array<LatteReport> reports(q.heads);
  if (reports.empty() && q.heads > 0)
    throw Error(failure(StatusCode::out_of_memory, "no memory for reports on q.heads = %td heads",
                        q.heads));
  throw_if_failed(try_report(mechanism, calibration, q, k, v, reports.data(), options));
  return reports;
}
#endif

LOWATT_API_END
