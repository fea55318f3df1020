// One attention call cut into tasks, for engines that own memory and threads.
#pragma once

#include "../core/rows.hpp"
#include "block.hpp"
#include "cache.hpp"
#include "split.hpp"

LOWATT_API_BEGIN

namespace detail {
template <class M>
class ShardCall;
}

// Made once per shape by try_plan(); validates, picks the kernels, allocates nothing. Work comes in
// phases, one after the other:
//
//   for (Index phase = 0; phase < plan.phases(); ++phase)
//     your_threads.run(plan.tasks(phase), [&](Index task, Index worker) {
//       plan.run(phase, task, worker, q, cache, out, workspace);
//     });
//
// Tasks of a phase may run in any order and at the same time, each with its worker's slice of the
// workspace; all must be done before the next phase begins. A task is a block of queries of one
// head; of grouped heads with one query each, where the mechanism's heads may share a block, a
// block of heads, which then read their keys and values once. Mostly there is one phase; where
// blocks are few and keys many, a task is a block and a part of its keys (see KeySplit): one phase
// finds what rows need to know of all their keys, where they need anything, one sums up, and one
// merges the sums of each block. Results do not depend on order or number of workers.
template <class M>
class Plan {
 public:
  Plan() noexcept = default;

  Level level() const noexcept { return table_->level; }
  Index phases() const noexcept {
    if (split_.parts == 1) return 1;
    return split_.merge == StatisticMerge::none ? 2 : 3;
  }
  Index tasks(Index phase) const noexcept {
    return split_.parts == 1 || phase == phases() - 1 ? blocks() : blocks() * split_.parts;
  }

  // Bytes of workspace, at 64-byte alignment, for this many workers. Known before the call; at most
  // 64 bytes per key and a constant, per worker.
  Index workspace_size(Index workers) const noexcept {
    Index bytes = 0;
    return __builtin_mul_overflow(workers, slice_, &bytes) ||
                   __builtin_add_overflow(bytes, split_.bytes(), &bytes)
               ? PTRDIFF_MAX
               : bytes;
  }

  // Runs one task with the parameters that the cache was made with. Fails, before anything is read
  // or written, when q, out or cache differ from what was planned: in extents, in the workspace
  // that the cache's mechanism needs, or in the number of keys. `worker` must be less than the
  // number that the workspace was sized for.
  Status run(Index phase, Index task, Index worker, View<const float> q, const KvCache<M>& cache,
             View<float> out, std::byte* workspace, const RowOutputs& outputs = {}) const noexcept {
    if (Status status = check_run(phase, task, q, cache, out); !status.ok()) return status;
    const auto with_block = [&](Index index, Index part, Index parts, auto f) {
      this->with_block(index, part, parts, nullptr, q, cache, out,
                       workspace + split_.bytes() + worker * slice_, f);
    };
    if (split_.parts == 1) {
      with_block(task, 0, 1, [&](auto& block) { detail::attend_block(block, outputs); });
      return {};
    }
    const Index part = task % split_.parts;
    switch (phases() - phase) {
      case 3:
        with_block(task / split_.parts, part, split_.parts, [&](auto& block) {
          block.arguments.scores = scores(workspace, part, block.row);
          detail::find_statistic(block, split_.statistic(workspace, part, block.row));
        });
        break;
      case 2:
        with_block(task / split_.parts, part, split_.parts, [&](auto& block) {
          block.arguments.scores = scores(workspace, part, block.row);
          double statistic[detail::most_block_rows * statistic_numbers];
          merge_statistic(workspace, block.row, block.arguments.rows, statistic);
          detail::find_part(block, statistic, split_.sums(workspace, part, block.row));
        });
        break;
      default:
        with_block(task, 0, 0, [&](auto& block) {
          const Index rows = block.arguments.rows;
          detail::finish_block(block, merge_sums(workspace, block.row, rows), outputs);
        });
    }
    return {};
  }

  friend class detail::ShardCall<M>;
  template <class Mechanism>
  friend Status try_attend(View<const float> q, const KvCache<Mechanism>& cache, View<float> out,
                           const Options& options) noexcept;
  template <class Mechanism>
  friend Status try_plan(Plan<Mechanism>& plan, const Mechanism& mechanism, const Shape& shape,
                         const Options& options) noexcept;

 private:
  // Without a look at what masks refer to.
  static Status try_make(Plan& plan, const M& mechanism, const Shape& shape, const Options& options,
                         bool may_split = true) noexcept;

  // Grouped heads that read keys and values together: enough for arithmetic to take as long as
  // reading. More would leave less to share among threads.
  static constexpr Index most_heads = 8;

  static Index lesser(Index a, Index b) noexcept { return a < b ? a : b; }
  Index group() const noexcept {
    return shape_.kv_heads > 0 ? shape_.query_heads / shape_.kv_heads : 0;
  }
  Index blocks_per_kv_head() const noexcept {
    return heads_ > 1 ? (group() + heads_ - 1) / heads_ : group() * blocks_;
  }
  Index blocks() const noexcept { return shape_.batch * shape_.kv_heads * blocks_per_kv_head(); }

  // Calls f(block) with one of `parts` parts of its keys; with no part, with none of its keys. Of
  // more keys than the cache's where it is a shard of them.
  template <class F>
  void with_block(Index index, Index part, Index parts, const Shard* of_more, View<const float> q,
                  const KvCache<M>& cache, View<float> out, std::byte* workspace,
                  F f) const noexcept {
    const Index kv_block = index / blocks_per_kv_head(), rest = index % blocks_per_kv_head();
    const Index kv_head = kv_block % shape_.kv_heads;
    // Rows are queries of one head, or heads with one query each.
    const bool by_heads = heads_ > 1;
    const Index first_head = by_heads ? rest * heads_ : rest / blocks_;  // in the group
    const Index first = by_heads ? 0 : rest % blocks_ * rows_;
    const Index rows =
        by_heads ? lesser(heads_, group() - first_head) : lesser(rows_, shape_.queries - first);
    const HeadPosition head{kv_block / shape_.kv_heads, kv_head * group() + first_head, kv_head,
                            shape_.query_heads, shape_.kv_heads};
    const Index keys = cache.size(head.batch);
    const Shard shard = of_more != nullptr ? *of_more : Shard{0, keys};
    VisibleRange visible[detail::most_block_rows] = {};
    detail::Block<M> made{*table_,
                          cache.mechanism(),
                          cache.calibration(),
                          cache.tables(),
                          head,
                          shape_.queries,
                          head.query_entry() * shape_.queries + first,
                          {}};
    BlockArguments& block = made.arguments;
    block.query = q.row(head.batch, head.query_head, first);
    block.query_stride = by_heads ? q.head_stride : q.token_stride;
    if (out.data != nullptr) block.out = out.row(head.batch, head.query_head, first);
    block.out_stride = by_heads ? out.head_stride : out.token_stride;
    block.rows = rows;
    block.head_dim = shape_.head_dim;
    block.value_dim = shape_.value_dim;
    block.tiles = cache.tiles(head.batch, head.kv_head);
    const auto range_of = [&](Index query) {
      return shard.own(mask_.range(head.batch, query, shape_.queries, shard.total_keys), keys);
    };
    VisibleRange any = range_of(first);
    if (by_heads || !mask_.varies_by_query()) {
      for (Index r = 0; r < block.rows; ++r) visible[r] = any;
    } else {
      for (Index r = 0; r < block.rows; ++r) {
        visible[r] = range_of(first + r);
        any = any.joined(visible[r]);
      }
    }
    if (any.count() > 0) {
      block.tile_begin = any.begin / tile_keys;
      block.tile_end = tile_count(any.end);
    }
    if (parts != 1) {
      const Index begin = part * KeySplit::part_tiles;
      const Index end = parts == 0 ? begin : begin + KeySplit::part_tiles;
      block.tile_begin = begin > block.tile_begin ? begin : block.tile_begin;
      block.tile_end = lesser(block.tile_end, end);
      if (block.tile_begin >= block.tile_end) block.tile_begin = block.tile_end = begin;
    }
    block.visible = visible;
    block.terms = score_terms_.of_block(head.batch, head.query_head, by_heads, first,
                                        shape_.queries, shard.first_key, shard.total_keys);
    block.workspace = workspace;
    if (mask_.has_booleans()) {
      auto* words = reinterpret_cast<std::uint64_t*>(block.workspace + kernel_slice_);
      block.visible_words_stride = tile_count(shape_.keys);
      for (Index r = 0; r < block.rows; ++r) {
        const std::uint8_t* booleans =
            Mask::row(mask_.visible, head.batch, head.query_head + (by_heads ? r : 0),
                      by_heads ? 0 : first + r) +
            shard.first_key;
        for (Index t = block.tile_begin; t < block.tile_end; ++t)
          words[r * block.visible_words_stride + t] =
              word_of_booleans(booleans + t * tile_keys, lesser(tile_keys, keys - t * tile_keys));
      }
      block.visible_words = words;
    }
    if (const View<const std::uint64_t>& bits = mask_.bits; bits.data != nullptr) {
      block.visible_words =
          Mask::row(bits, head.batch, head.query_head, first) + shard.first_key / tile_keys;
      block.visible_words_stride = !by_heads        ? bits.token_stride
                                   : bits.heads > 1 ? bits.head_stride
                                                    : 0;
    }
    f(made);
  }

  // Where scores of a part's rows lie, for mechanisms that keep any.
  std::byte* scores(std::byte* workspace, Index part, Index row) const noexcept {
    return split_.score_bytes == 0 ? nullptr : split_.scores(workspace, part, row);
  }
  // The statistic of all parts.
  void merge_statistic(std::byte* workspace, Index row, Index rows,
                       double* statistic) const noexcept {
    if (split_.merge == StatisticMerge::none) return;
    const Index bytes = rows * statistic_numbers * Index{sizeof(double)};
    __builtin_memcpy(statistic, split_.statistic(workspace, 0, row),
                     static_cast<std::size_t>(bytes));
    for (Index part = 1; part < split_.parts; ++part)
      merge_statistic_rows(split_.merge, statistic, split_.statistic(workspace, part, row), rows);
  }
  // The sums of all parts, in the place of those of the first.
  PartRows<const double> merge_sums(std::byte* workspace, Index row, Index rows) const noexcept {
    const PartRows<double> first = split_.sums(workspace, 0, row);
    for (Index part = 1; part < split_.parts; ++part) {
      const PartRows<double> more = split_.sums(workspace, part, row);
      merge_rows(first, {more.data, more.value_dim}, rows);
    }
    return {first.data, first.value_dim};
  }

  // Rows of a block. Words of booleans take the room of one row in eight: a kernel may keep 64
  // bytes per key for all of its rows, and a word per tile and row is an eighth of a byte for each.
  Index block_rows(const M& mechanism) const noexcept {
    const Index most = Adapter<M>::query_block(mechanism, shape_);
    return mask_.has_booleans() ? most - most / 8 : most;
  }
  // Workspace of the kernel for blocks of so many rows.
  Index kernel_bytes(const M& mechanism) const noexcept {
    Shape block = shape_;
    block.queries = lesser(block.queries, block_rows(mechanism));
    if (split_.parts > 1) block.keys = KeySplit::part_tiles * tile_keys;
    return Adapter<M>::workspace_bytes(mechanism, block);
  }

  Status check_run(Index phase, Index task, View<const float> q, const KvCache<M>& cache,
                   View<float> out) const noexcept {
    const CacheShape& held = cache.shape();
    const bool extents_differ =
        q.batch != shape_.batch || q.heads != shape_.query_heads || q.tokens != shape_.queries ||
        q.dim != shape_.head_dim || out.batch != shape_.batch || out.heads != shape_.query_heads ||
        out.tokens != shape_.queries || out.dim != shape_.value_dim || held.batch != shape_.batch ||
        held.kv_heads != shape_.kv_heads || held.head_dim != shape_.head_dim ||
        held.value_dim != shape_.value_dim;
    if (extents_differ)
      return failure(StatusCode::invalid_shape, "q, out or cache has other extents than planned");
    if (phase < 0 || phase >= phases())
      return failure(StatusCode::invalid_argument, "phase is %td; the plan has %td", phase,
                     phases());
    if (task < 0 || task >= tasks(phase))
      return failure(StatusCode::invalid_argument, "task is %td; the phase has %td", task,
                     tasks(phase));
    if (cache.size() < 1 || cache.size() > shape_.keys)
      return failure(StatusCode::invalid_shape,
                     "the cache holds %td keys; the plan is for at least 1 and at most %td",
                     cache.size(), shape_.keys);
    if (mask_.has_booleans() && cache.size() != mask_.visible.dim)
      return detail::check_equal("mask.dim", mask_.visible.dim, "the number of keys", cache.size());
    if (mask_.bits.data != nullptr && tile_count(cache.size()) != mask_.bits.dim)
      return detail::check_equal("mask_bits.dim", mask_.bits.dim, "the keys' number of words",
                                 tile_count(cache.size()));
    const View<const float>& bias = score_terms_.bias;
    if (bias.data != nullptr && cache.size() != bias.dim)
      return detail::check_equal("bias.dim", bias.dim, "the number of keys", cache.size());
    if (kernel_bytes(cache.mechanism()) != kernel_slice_ ||
        block_rows(cache.mechanism()) != rows_ ||
        (split_.parts > 1 && Adapter<M>::statistic_merge(cache.mechanism()) != split_.merge) ||
        Adapter<M>::score_bytes(cache.mechanism(), shape_.head_dim) != score_bytes_)
      return failure(StatusCode::invalid_argument,
                     "the cache's mechanism needs another workspace than the planned one");
    return {};
  }

  const KernelTable* table_ = nullptr;
  Shape shape_{};
  Mask mask_{};
  CallScoreTerms score_terms_{};
  Index rows_ = 1, blocks_ = 0;
  Index kernel_slice_ = 0, slice_ = 0;  // bytes per worker: of the kernel, and of all
  Index heads_ = 1;                     // per task
  Index score_bytes_ = 0;               // per row and key
  KeySplit split_{};
};

template <class M>
Status Plan<M>::try_make(Plan& plan, const M& mechanism, const Shape& shape, const Options& options,
                         bool may_split) noexcept {
  const struct {
    const char* name;
    Index value;
  } extents[] = {{"batch", shape.batch},        {"query_heads", shape.query_heads},
                 {"kv_heads", shape.kv_heads},  {"queries", shape.queries},
                 {"keys", shape.keys},          {"head_dim", shape.head_dim},
                 {"value_dim", shape.value_dim}};
  for (const auto& extent : extents)
    if (extent.value < 1 || extent.value > detail::largest_span)
      return failure(StatusCode::invalid_shape, "%s is %td; it must be at least 1%s", extent.name,
                     extent.value, extent.value > 1 ? " and fit memory" : "");
  constexpr Index per_dim = 1 << 20, per_key = 64;  // no workspace takes more bytes
  const Index dims = shape.head_dim + shape.value_dim;
  if (!detail::fits_memory(shape.batch, shape.query_heads, shape.queries, dims) ||
      !detail::fits_memory(shape.batch, shape.kv_heads, shape.keys, dims) ||
      !detail::fits_memory(dims, per_dim) || !detail::fits_memory(shape.keys, per_key))
    return failure(
        StatusCode::invalid_shape,
        "batch %td, heads %td and %td, tokens %td and %td, dims %td and %td are more than "
        "memory can hold",
        shape.batch, shape.query_heads, shape.kv_heads, shape.queries, shape.keys, shape.head_dim,
        shape.value_dim);
  if (Status status = detail::check_group(shape.query_heads, shape.kv_heads); !status.ok())
    return status;
  if (Status status = Adapter<M>::validate(mechanism, shape); !status.ok()) return status;
  Plan made;
  if (Status status = try_find_kernels(options.level, made.table_); !status.ok()) return status;
  made.shape_ = shape;
  made.mask_ = options.visibility();
  made.score_terms_ = options.score_terms();
  made.rows_ = made.block_rows(mechanism);
  made.blocks_ = (shape.queries + made.rows_ - 1) / made.rows_;
  if (Adapter<M>::heads_share_blocks && shape.queries == 1)
    made.heads_ = lesser(made.group(), most_heads);
  made.score_bytes_ = Adapter<M>::score_bytes(mechanism, shape.head_dim);
  if (may_split)
    made.split_ = KeySplit::of(shape, made.blocks(), made.score_bytes_,
                               Adapter<M>::statistic_merge(mechanism));
  made.kernel_slice_ = made.slice_ = made.kernel_bytes(mechanism);
  if (made.mask_.has_booleans()) {
    // Words of booleans, one per row and tile.
    const Index rows = made.heads_ > 1 ? made.heads_ : lesser(made.rows_, shape.queries);
    const Index bytes = rows * tile_count(shape.keys) * static_cast<Index>(sizeof(std::uint64_t));
    made.slice_ += round_up(bytes, 64);
  }
  plan = made;
  return {};
}

// Plans calls of `shape` (keys: the most that will be attended), from the masks, score terms and
// level of `options`; the memory that these refer to must outlive the plan. `plan` is set only on
// success.
template <class M>
Status try_plan(Plan<M>& plan, const M& mechanism, const Shape& shape,
                const Options& options = {}) noexcept {
  Plan<M> made;
  if (Status status = Plan<M>::try_make(made, mechanism, shape, options); !status.ok())
    return status;
  if (Status status = detail::first_failure(
          detail::check_mask(options.visibility(), shape, shape.keys),
          detail::check_score_terms<M>(options.score_terms(), shape, shape.keys));
      !status.ok())
    return status;
  plan = made;
  return {};
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
Plan<M> plan(const M& mechanism, const Shape& shape, const Options& options = {}) {
  Plan<M> made;
  throw_if_failed(try_plan(made, mechanism, shape, options));
  return made;
}
#endif

LOWATT_API_END
