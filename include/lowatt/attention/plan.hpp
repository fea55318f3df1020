// One attention call cut into tasks, for engines that own memory and threads.
#pragma once

#include "../core/rows.hpp"
#include "cache.hpp"

LOWATT_API_BEGIN

// Made once per shape by try_plan(); validates, picks the kernels, allocates nothing. A task is a
// block of queries of one head; of grouped heads with one query each, where the mechanism's heads
// may share a block, a block of heads, which then read their keys and values once. Tasks may run in
// any order and at the same time, each with the workspace slice of its worker; results do not
// depend on it.
template <class M>
class Plan {
 public:
  Plan() noexcept = default;

  Level level() const noexcept { return table_->level; }
  Index tasks() const noexcept { return shape_.batch * shape_.kv_heads * tasks_per_kv_head(); }

  // Bytes of workspace, at 64-byte alignment, for this many workers. Known before the call; at most
  // 64 bytes per key and a constant, per worker.
  Index workspace_size(Index workers) const noexcept {
    Index bytes = 0;
    return __builtin_mul_overflow(workers, slice_, &bytes) ? PTRDIFF_MAX : bytes;
  }

  // Runs one task with the parameters that the cache was made with. Fails, before anything is read
  // or written, when q, out or cache differ from what was planned: in extents, in the workspace
  // that the cache's mechanism needs, or in the number of keys. `worker` must be less than the
  // number that the workspace was sized for. LATTE adds its surviving pairs to `kept`, when given.
  Status run(Index task, Index worker, View<const float> q, const KvCache<M>& cache,
             View<float> out, std::byte* workspace, std::int64_t* kept = nullptr) const noexcept {
    if (Status status = check_run(task, q, cache, out); !status.ok()) return status;
    const Index kv_task = task / tasks_per_kv_head(), part = task % tasks_per_kv_head();
    const Index kv_head = kv_task % shape_.kv_heads;
    // Rows are queries of one head, or heads with one query each.
    const bool by_heads = heads_ > 1;
    const Index first_head = by_heads ? part * heads_ : part / blocks_;  // in the group
    const Index first = by_heads ? 0 : part % blocks_ * rows_;
    const Index rows =
        by_heads ? lesser(heads_, group() - first_head) : lesser(rows_, shape_.queries - first);
    const HeadPosition head{kv_task / shape_.kv_heads, kv_head * group() + first_head, kv_head,
                            shape_.query_heads, shape_.kv_heads};
    const Index keys = cache.size(head.batch);
    VisibleRange visible[most_rows] = {};
    BlockArguments block{};
    block.query = q.row(head.batch, head.query_head, first);
    block.query_stride = by_heads ? q.head_stride : q.token_stride;
    block.out = out.row(head.batch, head.query_head, first);
    block.out_stride = by_heads ? out.head_stride : out.token_stride;
    block.rows = rows;
    block.head_dim = shape_.head_dim;
    block.value_dim = shape_.value_dim;
    block.tiles = cache.tiles(head.batch, head.kv_head);
    for (Index r = 0; r < block.rows; ++r) {
      visible[r] = mask_.range(head.batch, by_heads ? 0 : first + r, shape_.queries, keys);
      if (visible[r].count() == 0) continue;
      const Index begin = visible[r].begin / tile_keys;
      const Index end = tile_count(visible[r].end);
      block.tile_begin = block.tile_end == 0 || begin < block.tile_begin ? begin : block.tile_begin;
      block.tile_end = end > block.tile_end ? end : block.tile_end;
    }
    block.visible = visible;
    block.workspace = workspace + worker * slice_;
    if (mask_.has_booleans()) {
      auto* words = reinterpret_cast<std::uint64_t*>(block.workspace + kernel_slice_);
      block.visible_words_stride = tile_count(shape_.keys);
      for (Index r = 0; r < block.rows; ++r) {
        const std::uint8_t* booleans = mask_.booleans(
            head.batch, head.query_head + (by_heads ? r : 0), by_heads ? 0 : first + r);
        for (Index t = block.tile_begin; t < block.tile_end; ++t)
          words[r * block.visible_words_stride + t] =
              word_of_booleans(booleans + t * tile_keys, lesser(tile_keys, keys - t * tile_keys));
      }
      block.visible_words = words;
    }
    Adapter<M>::attend_block(*table_, cache.mechanism(), cache.calibration(), head, block,
                             cache.tables(), kept == nullptr ? nullptr : kept + head.query_entry());
    return {};
  }

  template <class Mechanism>
  friend Status try_plan(Plan<Mechanism>& plan, const Mechanism& mechanism, const Shape& shape,
                         const Options& options) noexcept;

 private:
  static constexpr Index most_rows = 64;
  // Grouped heads that read keys and values together: enough for arithmetic to take as long as
  // reading. More would leave less to share among threads.
  static constexpr Index most_heads = 8;

  static Index lesser(Index a, Index b) noexcept { return a < b ? a : b; }
  Index group() const noexcept {
    return shape_.kv_heads > 0 ? shape_.query_heads / shape_.kv_heads : 0;
  }
  Index tasks_per_kv_head() const noexcept {
    return heads_ > 1 ? (group() + heads_ - 1) / heads_ : group() * blocks_;
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
    return Adapter<M>::workspace_bytes(mechanism, block);
  }

  Status check_run(Index task, View<const float> q, const KvCache<M>& cache,
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
    if (task < 0 || task >= tasks())
      return failure(StatusCode::invalid_argument, "task is %td; the plan has %td", task, tasks());
    if (cache.size() < 1 || cache.size() > shape_.keys)
      return failure(StatusCode::invalid_shape,
                     "the cache holds %td keys; the plan is for at least 1 and at most %td",
                     cache.size(), shape_.keys);
    if (mask_.has_booleans() && cache.size() != mask_.visible.dim)
      return detail::check_equal("mask.dim", mask_.visible.dim, "the number of keys", cache.size());
    if (kernel_bytes(cache.mechanism()) != kernel_slice_ || block_rows(cache.mechanism()) != rows_)
      return failure(StatusCode::invalid_argument,
                     "the cache's mechanism needs another workspace than the planned one");
    return {};
  }

  const KernelTable* table_ = nullptr;
  Shape shape_{};
  Mask mask_{};
  Index rows_ = 1, blocks_ = 0;
  Index kernel_slice_ = 0, slice_ = 0;  // bytes per worker: of the kernel, and of all
  Index heads_ = 1;                     // per task
};

// Plans calls of `shape` (keys: the most that will be attended), from the masks and the level of
// `options`; the memory that masks refer to must outlive the plan. `plan` is set only on success.
template <class M>
Status try_plan(Plan<M>& plan, const M& mechanism, const Shape& shape,
                const Options& options = {}) noexcept {
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
  if (Status status = detail::check_mask(options.visibility(), shape); !status.ok()) return status;
  Plan<M> made;
  if (Status status = try_find_kernels(options.level, made.table_); !status.ok()) return status;
  made.shape_ = shape;
  made.mask_ = options.visibility();
  made.rows_ = made.block_rows(mechanism);
  made.blocks_ = (shape.queries + made.rows_ - 1) / made.rows_;
  made.kernel_slice_ = made.slice_ = made.kernel_bytes(mechanism);
  if (Adapter<M>::heads_share_blocks && shape.queries == 1)
    made.heads_ = made.group() < Plan<M>::most_heads ? made.group() : Plan<M>::most_heads;
  if (made.mask_.has_booleans()) {
    // Words of booleans, one per row and tile.
    const Index rows = made.heads_ > 1 ? made.heads_ : Plan<M>::lesser(made.rows_, shape.queries);
    const Index bytes = rows * tile_count(shape.keys) * static_cast<Index>(sizeof(std::uint64_t));
    made.slice_ += round_up(bytes, 64);
  }
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
