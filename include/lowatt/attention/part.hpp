// Attention on shards: some of the keys here, the others elsewhere, in caches of their own. What is
// handed between them is plain arrays of doubles (core/part.hpp), which belong to the caller.
//
//   1  every shard finds the statistic of its keys    try_attend_statistic
//   2  they are merged                                merge_statistic (MPI_MAX or MPI_SUM)
//   3  every shard sums up its part, given them       try_attend_part
//   4  parts are merged                               merge_part (MPI_SUM if parts_are_sums)
//   5  outputs are written, by one or all             try_finish
//
// Shards need the same mechanism, Calibration and queries. Integers give the same bits as one cache
// of all keys would, however keys are spread and merged.
#pragma once

#include "attend.hpp"

LOWATT_API_BEGIN

// Numbers of a statistic, [batch, query_heads, queries][statistic_numbers]; 0 where the mechanism
// needs none, and then steps 1 and 2 do nothing.
template <class M>
Index statistic_size(const M& mechanism, View<const float> q) noexcept {
  return Adapter<M>::statistic_merge(mechanism) == StatisticMerge::none
             ? 0
             : q.batch * q.heads * q.tokens * statistic_numbers;
}
// Numbers of a part, [batch, query_heads, queries][PartRows::header + value_dim].
inline Index part_size(View<const float> q, Index value_dim) noexcept {
  return q.batch * q.heads * q.tokens * PartRows<double>{nullptr, value_dim}.stride();
}

// How statistics merge, and whether parts merge by addition alone.
template <class M>
StatisticMerge statistic_merge(const M& mechanism) noexcept {
  return Adapter<M>::statistic_merge(mechanism);
}
template <class M>
inline constexpr bool parts_are_sums = !Adapter<M>::has_log_sum_exp;

template <class M>
void merge_statistic(const M& mechanism, View<const float> q, double* into,
                     const double* from) noexcept {
  merge_statistic_rows(Adapter<M>::statistic_merge(mechanism), into, from,
                       q.batch * q.heads * q.tokens);
}
inline void merge_part(View<const float> q, Index value_dim, double* into,
                       const double* from) noexcept {
  merge_rows(PartRows<double>{into, value_dim}, PartRows<const double>{from, value_dim},
             q.batch * q.heads * q.tokens);
}

namespace detail {

// One call on a shard: what it is planned as, and in which memory.
template <class M>
class ShardCall {
 public:
  ShardCall(View<const float> q, const KvCache<M>& cache, const Shard& shard,
            const Options& options) noexcept
      : q_(q), cache_(cache), shard_(shard), options_(options) {}

  Status prepare() noexcept {
    const CacheShape& held = cache_.shape();
    if (shard_.total_keys < 0 || shard_.total_keys > largest_span)
      return failure(StatusCode::invalid_argument,
                     "shard.total_keys is %td; it must not be negative, and fit memory",
                     shard_.total_keys);
    for (Index b = 0; b < held.batch; ++b)
      if (cache_.size(b) != cache_.size())
        return failure(StatusCode::unsupported,
                       "sequence %td of the cache holds %td keys and another %td; of a shard all "
                       "must hold as many",
                       b, cache_.size(b), cache_.size());
    if (shard_.first_key < 0 || shard_.first_key > shard_.total_keys - cache_.size())
      return failure(StatusCode::invalid_argument,
                     "shard.first_key is %td and the cache holds %td keys; they must lie among "
                     "shard.total_keys = %td",
                     shard_.first_key, cache_.size(), shard_.total_keys);
    if (Status status = first_failure(
            check_view("q", q_), check_group(q_.heads, held.kv_heads),
            check_equal("q.batch", q_.batch, "k.batch", held.batch),
            check_equal("q.dim", q_.dim, "k.dim", held.head_dim),
            Adapter<M>::check_queries(cache_.mechanism(), cache_.calibration(), held, q_));
        !status.ok())
      return status;
    // An empty cache is a shard too.
    Shape shape{held.batch,        q_.heads,      held.kv_heads, q_.tokens,
                cache_.size() + 1, held.head_dim, held.value_dim};
    if (cache_.size() > 0) shape.keys = cache_.size();
    if (options_.mask_bits.data != nullptr && cache_.size() > 0 &&
        shard_.first_key % tile_keys != 0)
      return failure(StatusCode::unsupported,
                     "shard.first_key is %td; with mask_bits it must be a multiple of %td",
                     shard_.first_key, tile_keys);
    if (Status status =
            first_failure(check_mask(options_.visibility(), shape, shard_.total_keys),
                          check_score_terms<M>(options_.score_terms(), shape, shard_.total_keys),
                          Plan<M>::try_make(plan_, cache_.mechanism(), shape, options_));
        !status.ok())
      return status;
    const int workers = options_.executor.workers();
    if (Status status = check_workers(workers); !status.ok()) return status;
    workspace_bytes_ = plan_.workspace_size(workers);
    return take_workspace(options_, workspace_bytes_, workspace_);
  }

  // `step` is what the step at hand reads and writes of its own.
  Status check_memory(CallMemory step) const noexcept {
    return step.reads("q", q_)
        .uses(options_, q_)
        .writes("workspace", workspace_.data, workspace_bytes_)
        .check();
  }

  void find_statistic(double* statistic) const noexcept {
    const KeySplit& split = plan_.split_;
    const bool is_one = split.parts == 1;
    for_parts([&](auto& block, Index part) {
      detail::find_statistic(block, is_one ? statistic + block.row * statistic_numbers
                                           : split.statistic(workspace_.data, part, block.row));
    });
    if (!is_one) plan_.merge_statistic(workspace_.data, 0, split.rows, statistic);
  }

  void find_part(const double* statistic, double* part_data) const noexcept {
    const KeySplit& split = plan_.split_;
    const bool is_one = split.parts == 1;
    const PartRows<double> whole{part_data, split.value_dim};
    for_parts([&](auto& block, Index part) {
      const double* own =
          statistic == nullptr ? nullptr : statistic + block.row * statistic_numbers;
      detail::find_part(block, own,
                        is_one ? PartRows<double>{whole.row(block.row), whole.value_dim}
                               : split.sums(workspace_.data, part, block.row));
    });
    if (is_one) return;
    const PartRows<const double> merged = plan_.merge_sums(workspace_.data, 0, split.rows);
    std::memcpy(part_data, merged.data,
                static_cast<std::size_t>(split.rows * whole.stride()) * sizeof(double));
  }

  void finish(const double* part_data, View<float> out) const noexcept {
    const PartRows<const double> part{part_data, plan_.split_.value_dim};
    const RowOutputs outputs{options_.kept, options_.log_sum_exp};
    options_.executor.run(plan_.blocks(), [&](Index task, Index worker) {
      plan_.with_block(task, 0, 0, &shard_, q_, cache_, out, slice(worker), [&](auto& block) {
        finish_block(block, PartRows<const double>{part.row(block.row), part.value_dim}, outputs);
      });
    });
  }

 private:
  std::byte* slice(Index worker) const noexcept {
    return workspace_.data + plan_.split_.bytes() + worker * plan_.slice_;
  }
  // Calls f(block, part) for all parts of all blocks.
  template <class F>
  void for_parts(F f) const noexcept {
    const Index parts = plan_.split_.parts;
    options_.executor.run(plan_.blocks() * parts, [&](Index task, Index worker) {
      plan_.with_block(task / parts, task % parts, parts, &shard_, q_, cache_, {}, slice(worker),
                       [&](auto& block) { f(block, task % parts); });
    });
  }

  View<const float> q_;
  const KvCache<M>& cache_;
  Shard shard_;
  Options options_;
  Plan<M> plan_;
  Workspace workspace_{};
  Index workspace_bytes_ = 0;
};

inline Status check_numbers(const char* name, const double* numbers, Index count) noexcept {
  if (numbers == nullptr && count > 0)
    return failure(StatusCode::invalid_argument, "%s is null; %td numbers are needed", name, count);
  return {};
}

}  // namespace detail

// Step 1: writes statistic_size() numbers. Options as for attend, of the whole sequence: positions
// of masks are those among shard.total_keys keys. A cache without keys gives what changes nothing.
template <class M>
Status try_attend_statistic(View<const float> q, const KvCache<M>& cache, const Shard& shard,
                            double* statistic, const Options& options = {}) noexcept {
  detail::ShardCall<M> call(q, cache, shard, options);
  if (Status status = call.prepare(); !status.ok()) return status;
  const Index count = statistic_size(cache.mechanism(), q);
  if (Status status = detail::first_failure(
          detail::check_numbers("statistic", statistic, count),
          call.check_memory(detail::CallMemory().writes("statistic", statistic, count)));
      !status.ok())
    return status;
  if (count > 0) call.find_statistic(statistic);
  return {};
}

// Step 3: writes part_size() numbers, given the merged statistic, which may be null where the
// mechanism needs none. LATTE and Bitformer find their scores a second time.
template <class M>
Status try_attend_part(View<const float> q, const KvCache<M>& cache, const Shard& shard,
                       const double* statistic, double* part,
                       const Options& options = {}) noexcept {
  detail::ShardCall<M> call(q, cache, shard, options);
  if (Status status = call.prepare(); !status.ok()) return status;
  const Index count = statistic_size(cache.mechanism(), q);
  if (Status status = detail::first_failure(
          detail::check_numbers("statistic", statistic, count),
          detail::check_numbers("part", part, 1),
          call.check_memory(detail::CallMemory()
                                .reads("statistic", statistic, count)
                                .writes("part", part, part_size(q, cache.shape().value_dim))));
      !status.ok())
    return status;
  call.find_part(statistic, part);
  return {};
}

// Step 5: writes outputs, and what options.kept and options.log_sum_exp ask for, from the merged
// part. Of the cache only mechanism and calibration are read.
template <class M>
Status try_finish(View<const float> q, const KvCache<M>& cache, const double* part, View<float> out,
                  const Options& options = {}) noexcept {
  const CacheShape& held = cache.shape();
  if (Status status = detail::first_failure(
          detail::check_queries(q, out, held.batch, held.kv_heads, held.head_dim, held.value_dim),
          detail::check_numbers("part", part, 1), detail::check_row_outputs<M>(options));
      !status.ok())
    return status;
  Options plain = options;  // what rows see is in their parts
  plain.causal = false;
  plain.window_left = plain.window_right = -1;
  plain.key_lengths = nullptr;
  plain.mask = {};
  plain.mask_bits = {};
  plain.bias = {};
  plain.alibi_slopes = nullptr;
  detail::ShardCall<M> call(q, cache, {0, cache.size()}, plain);
  if (Status status = call.prepare(); !status.ok()) return status;
  if (Status status = call.check_memory(detail::CallMemory()
                                            .reads("part", part, part_size(q, held.value_dim))
                                            .writes("out", out));
      !status.ok())
    return status;
  if (options.kept != nullptr)
    for (Index i = 0; i < q.batch * q.heads; ++i) options.kept[i] = 0;
  call.finish(part, out);
  return {};
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
void attend_statistic(View<const float> q, const KvCache<M>& cache, const Shard& shard,
                      double* statistic, const Options& options = {}) {
  throw_if_failed(try_attend_statistic(q, cache, shard, statistic, options));
}
template <class M>
void attend_part(View<const float> q, const KvCache<M>& cache, const Shard& shard,
                 const double* statistic, double* part, const Options& options = {}) {
  throw_if_failed(try_attend_part(q, cache, shard, statistic, part, options));
}
template <class M>
void finish(View<const float> q, const KvCache<M>& cache, const double* part, View<float> out,
            const Options& options = {}) {
  throw_if_failed(try_finish(q, cache, part, out, options));
}
#endif

LOWATT_API_END
