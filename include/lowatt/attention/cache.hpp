// Keys and values, packed once, appended to and rewound: what decoding reads.
#pragma once

#include "../core/array.hpp"
#include "adapter.hpp"
#include "pages.hpp"

LOWATT_API_BEGIN

namespace detail {
template <class M>
struct SavedCache;
}

// Where a cache's memory comes from, and in what pieces.
struct PageSetting {
  // Tokens in a page, a multiple of 64: memory is taken page by page as tokens come, and given back
  // when they go. 0: all of it at once, so that appending takes none; tiles lie one after the
  // other.
  Index tokens = 0;
  PageAllocatorRef allocator = {};  // default: the heap
};

// A cache of one mechanism, for a batch of sequences. What the encoding depends on is frozen when
// the cache is made: N tokens appended one by one, in chunks, or at once, also after others were
// taken back, give the same bytes, so that prefill, chunked prefill and decode give the same
// results.
//
// Any number of threads may attend, fork or save one cache at a time; append, truncate, clear and
// reserve need the caller's exclusion. Forks share memory, but need none against each other.
//
//   lowatt::KvCache<lowatt::Latte> cache({.kv_heads = 8, .head_dim = 128, .value_dim = 128,
//                                         .capacity = 32768}, calibration, {.theta = 4.0});
//   cache.append(k, v);
template <class M>
class KvCache {
 public:
  using Mechanism = M;

  KvCache() noexcept = default;
  // Moves only: a copy could run out of memory without a way to say so.
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  KvCache(KvCache&& other) noexcept { *this = static_cast<KvCache&&>(other); }
  KvCache& operator=(KvCache&& other) noexcept {
    mechanism_ = other.mechanism_;
    shape_ = other.shape_;
    calibration_ = static_cast<Calibration&&>(other.calibration_);
    tables_ = static_cast<Array<std::uint8_t>&&>(other.tables_);
    table_ = other.table_;
    pages_ = static_cast<PageTables&&>(other.pages_);
    is_paged_ = other.is_paged_;
    sizes_ = static_cast<Array<Index>&&>(other.sizes_);
    saturated_ = static_cast<Array<Saturated>&&>(other.saturated_);
    other.shape_ = {.batch = 0};
    other.is_paged_ = false;
    return *this;
  }

#if LOWATT_HAS_EXCEPTIONS
  KvCache(const CacheShape& shape, const Calibration& calibration, const M& mechanism = {},
          const LevelSetting& level = {}, const PageSetting& pages = {}) {
    throw_if_failed(try_create(*this, shape, calibration, mechanism, level, pages));
  }

  // k [batch, kv_heads, tokens, head_dim], v [batch, kv_heads, tokens, value_dim].
  void append(View<const float> k, View<const float> v) {
    throw_if_failed(try_append(k, v));
  }
  void append(Index sequence, View<const float> k, View<const float> v) {
    throw_if_failed(try_append(sequence, k, v));
  }
  void truncate(Index tokens) {
    throw_if_failed(try_truncate(tokens));
  }
  void truncate(Index sequence, Index tokens) {
    throw_if_failed(try_truncate(sequence, tokens));
  }
  void reserve(Index capacity) {
    throw_if_failed(try_reserve(capacity));
  }
  KvCache fork() const {
    KvCache other;
    throw_if_failed(try_fork(other));
    return other;
  }
#endif

  // Makes an empty cache in `cache`, which is left as it was on failure.
  static Status try_create(KvCache& cache, const CacheShape& shape, const Calibration& calibration,
                           const M& mechanism = {}, const LevelSetting& level = {},
                           const PageSetting& pages = {}) noexcept {
    KvCache made;
    if (Status status = made.set_up(shape, calibration, mechanism, level, pages); !status.ok())
      return status;
    if (!made.is_paged_)
      for (Index b = 0; b < shape.batch; ++b)
        if (!made.pages_.try_open(b, 0, 1, 0)) return made.no_page();
    cache = static_cast<KvCache&&>(made);
    return {};
  }

  // Appends to all sequences. All or nothing: on failure the cache is as before.
  Status try_append(View<const float> k, View<const float> v) noexcept {
    if (Status status = check_tokens(k, v, shape_.batch, size()); !status.ok()) return status;
    for (Index b = 0; b < shape_.batch; ++b)
      if (Status status = open(b, k.tokens); !status.ok()) return status;
    for (Index b = 0; b < shape_.batch; ++b) pack(b, k, v, b);
    return {};
  }

  // Appends to one sequence; the batch of k and v is 1.
  Status try_append(Index sequence, View<const float> k, View<const float> v) noexcept {
    if (Status status = check_sequence(sequence); !status.ok()) return status;
    if (Status status = check_tokens(k, v, 1, size(sequence)); !status.ok()) return status;
    if (Status status = open(sequence, k.tokens); !status.ok()) return status;
    pack(sequence, k, v, 0);
    return {};
  }

  // Takes back all tokens but the first `tokens` of each sequence, as if they had never been
  // appended; shorter sequences stay. Fails only where memory that a fork shares must be copied,
  // and then changes nothing.
  Status try_truncate(Index tokens) noexcept {
    if (Status status = check_kept(tokens); !status.ok()) return status;
    for (Index b = 0; b < shape_.batch; ++b)
      if (!open_to_truncate(b, tokens)) return no_page();
    for (Index b = 0; b < shape_.batch; ++b) drop_tokens(b, tokens);
    return {};
  }
  Status try_truncate(Index sequence, Index tokens) noexcept {
    if (Status status = check_sequence(sequence); !status.ok()) return status;
    if (Status status = check_kept(tokens); !status.ok()) return status;
    if (!open_to_truncate(sequence, tokens)) return no_page();
    drop_tokens(sequence, tokens);
    return {};
  }

  // Takes back all tokens and forgets what was saturated.
  void clear() noexcept {
    for (Index b = 0; b < shape_.batch; ++b) clear(b);
  }
  void clear(Index sequence) noexcept {
    drop_tokens(sequence, 0);
    for (Index g = 0; g < shape_.kv_heads; ++g) saturated_[kv_entry(sequence, g)] = {};
  }

  // Makes room for `capacity` tokens in each sequence; contents stay. A cache in one piece moves to
  // a larger one, one of pages only widens its tables.
  Status try_reserve(Index capacity) noexcept {
    if (capacity <= shape_.capacity) return {};
    KvCache wider;
    wider.shape_ = shape_;
    wider.shape_.capacity = capacity;
    wider.mechanism_ = mechanism_;
    const Shape planned = wider.planned_shape();
    if (Status status = Adapter<M>::validate(mechanism_, planned); !status.ok()) return status;
    if (!wider.fits_memory(capacity)) return wider.too_large();
    if (is_paged_) {
      if (!pages_.try_widen(tile_count(capacity))) return no_page();
    } else {
      PageExtents extents = pages_.extents();
      extents.page_tiles = tile_count(capacity);
      PageTables moved(extents, pages_.allocator());
      if (!moved.try_widen(extents.page_tiles)) return no_page();
      for (Index b = 0; b < shape_.batch; ++b) {
        if (!moved.try_open(b, 0, 1, 0)) return no_page();
        for (Index g = 0; g < shape_.kv_heads; ++g)
          for (Index t = 0; t < tile_count(size(b)); ++t)
            std::memcpy(moved.tiles(b, g)[t], pages_.tiles(b, g)[t],
                        static_cast<std::size_t>(extents.tile_bytes));
      }
      pages_ = static_cast<PageTables&&>(moved);
    }
    shape_.capacity = capacity;
    return {};
  }

  // Makes `fork` a cache with the same tokens. Both share their pages until one of them writes to
  // a page, which it then takes a copy of: a prefix of whole pages is there once. (A cache in one
  // piece has one page, which the first that writes copies as a whole.)
  Status try_fork(KvCache& fork) const noexcept {
    KvCache made;
    made.mechanism_ = mechanism_;
    made.shape_ = shape_;
    made.calibration_ = calibration_;
    made.tables_ = tables_;
    made.table_ = table_;
    made.is_paged_ = is_paged_;
    made.sizes_ = sizes_;
    made.saturated_ = saturated_;
    if (!same_sizes(made.calibration_, calibration_) || made.tables_.size() != tables_.size() ||
        made.sizes_.size() != sizes_.size() || made.saturated_.size() != saturated_.size() ||
        !pages_.try_share(made.pages_))
      return failure(StatusCode::out_of_memory, "no memory for the tables of a fork");
    fork = static_cast<KvCache&&>(made);
    return {};
  }

  // Tokens of one sequence.
  Index size(Index sequence) const noexcept {
    return sizes_[sequence];
  }
  // Tokens of the longest sequence: of all, where they are of equal length.
  Index size() const noexcept {
    Index longest = 0;
    for (const Index size : sizes_) longest = size > longest ? size : longest;
    return longest;
  }
  const CacheShape& shape() const noexcept {
    return shape_;
  }
  const M& mechanism() const noexcept {
    return mechanism_;
  }
  const Calibration& calibration() const noexcept {
    return calibration_;
  }
  const Array<std::uint8_t>& tables() const noexcept {
    return tables_;
  }

  // How many numbers of one sequence and KV head were clamped, since they lie beyond what the
  // calibration expected: of all tokens ever appended, or since clear().
  const Saturated& saturated(Index sequence, Index kv_head) const noexcept {
    return saturated_[kv_entry(sequence, kv_head)];
  }

  // Bytes that one token takes per KV head.
  double bytes_per_token() const noexcept {
    return static_cast<double>(tile_bytes()) / static_cast<double>(tile_keys);
  }
  // Bytes that the allocator is asked for at a time.
  Index page_bytes() const noexcept {
    return pages_.page_bytes();
  }

  // Where the tiles of one sequence and KV head lie.
  TileSource tiles(Index sequence, Index kv_head) const noexcept {
    std::byte* const* const tiles = pages_.tiles(sequence, kv_head);
    return {tiles[0], tile_bytes(), pages_.is_one_piece() ? nullptr : tiles};
  }

 private:
  friend struct detail::SavedCache<M>;

  // An empty cache without pages.
  Status set_up(const CacheShape& shape, const Calibration& calibration, const M& mechanism,
                const LevelSetting& level, const PageSetting& pages) noexcept {
    const struct {
      const char* name;
      Index value;
    } extents[] = {{"batch", shape.batch},
                   {"kv_heads", shape.kv_heads},
                   {"head_dim", shape.head_dim},
                   {"value_dim", shape.value_dim},
                   {"capacity", shape.capacity}};
    for (const auto& extent : extents)
      if (extent.value < 1)
        return failure(StatusCode::invalid_shape, "cache %s is %td; it must be at least 1",
                       extent.name, extent.value);
    if (pages.tokens < 0 || pages.tokens % tile_keys != 0)
      return failure(StatusCode::invalid_argument,
                     "pages.tokens is %td; it must be a multiple of %td, or 0 for one piece",
                     pages.tokens, tile_keys);
    mechanism_ = mechanism;
    shape_ = shape;
    calibration_ = calibration;
    is_paged_ = pages.tokens > 0;
    if (!same_sizes(calibration_, calibration))
      return failure(StatusCode::out_of_memory, "no memory for a copy of the calibration");
    if (Status status = try_find_kernels(level, table_); !status.ok()) return status;
    if (Status status = Adapter<M>::validate(mechanism, planned_shape()); !status.ok())
      return status;
    const Index most = shape.capacity > pages.tokens ? shape.capacity : pages.tokens;
    if (!fits_memory(most)) return too_large();
    if (Status status = Adapter<M>::check(mechanism, calibration, shape); !status.ok())
      return status;
    if (Status status = Adapter<M>::adopt(mechanism_, calibration_, shape, tables_); !status.ok())
      return status;
    const Index tiles = tile_count(shape.capacity);
    pages_ = PageTables(
        {shape.batch, shape.kv_heads, tile_bytes(), is_paged_ ? pages.tokens / tile_keys : tiles},
        pages.allocator);
    sizes_ = Array<Index>(shape.batch);
    saturated_ = Array<Saturated>(shape.batch * shape.kv_heads);
    if (!pages_.try_widen(tiles) || sizes_.empty() || saturated_.empty())
      return failure(StatusCode::out_of_memory, "no memory for the tables of a cache");
    return {};
  }

  Shape planned_shape() const noexcept {
    return {shape_.batch,    0, shape_.kv_heads, 0, shape_.capacity, shape_.head_dim,
            shape_.value_dim};
  }
  Status too_large() const noexcept {
    return failure(StatusCode::out_of_memory,
                   "a cache of %td tokens, %td KV heads and batch %td does not fit memory",
                   shape_.capacity, shape_.kv_heads, shape_.batch);
  }
  Status no_page() const noexcept {
    return failure(StatusCode::out_of_memory, "no memory for a page of %td bytes", page_bytes());
  }
  Status check_sequence(Index sequence) const noexcept {
    if (sequence < 0 || sequence >= shape_.batch)
      return failure(StatusCode::invalid_argument, "sequence is %td; the cache's batch is %td",
                     sequence, shape_.batch);
    return {};
  }
  Status check_kept(Index tokens) const noexcept {
    if (tokens < 0)
      return failure(StatusCode::invalid_argument, "tokens is %td; it must not be negative",
                     tokens);
    return {};
  }

  // Whether tokens can be appended to a sequence that holds `held`.
  Status check_tokens(View<const float> k, View<const float> v, Index batch,
                      Index held) const noexcept {
    if (Status status = detail::check_keys_values(k, v); !status.ok()) return status;
    if (Status status = detail::first_failure(
            detail::check_equal(
                "k.batch", k.batch,
                batch == 1 && shape_.batch > 1 ? "that of one sequence" : "the cache's batch",
                batch),
            detail::check_equal("k.heads", k.heads, "the cache's kv_heads", shape_.kv_heads),
            detail::check_equal("k.dim", k.dim, "the cache's head_dim", shape_.head_dim),
            detail::check_equal("v.dim", v.dim, "the cache's value_dim", shape_.value_dim));
        !status.ok())
      return status;
    if (k.tokens > shape_.capacity - held)
      return failure(StatusCode::out_of_capacity,
                     "k.tokens is %td but the cache has room for %td of its %td", k.tokens,
                     shape_.capacity - held, shape_.capacity);
    return {};
  }

  // Takes the pages that appending so many tokens writes to.
  Status open(Index sequence, Index tokens) noexcept {
    const Index held = sizes_[sequence];
    if (!pages_.try_open(sequence, held / tile_keys, tile_count(held + tokens), tile_count(held)))
      return no_page();
    return {};
  }

  // Appends tokens of batch entry b to a sequence.
  void pack(Index sequence, View<const float> k, View<const float> v, Index b) noexcept {
    for (Index g = 0; g < shape_.kv_heads; ++g) {
      PackArguments tokens{};
      tokens.key = k.row(b, g, 0);
      tokens.key_stride = k.token_stride;
      tokens.value = v.row(b, g, 0);
      tokens.value_stride = v.token_stride;
      tokens.first = sizes_[sequence];
      tokens.count = k.tokens;
      tokens.head_dim = shape_.head_dim;
      tokens.value_dim = shape_.value_dim;
      tokens.tiles = pages_.tiles(sequence, g);
      tokens.saturated = &saturated_[kv_entry(sequence, g)];
      Adapter<M>::pack(*table_, mechanism_, calibration_, kv_entry(sequence, g), tokens);
    }
    sizes_[sequence] += k.tokens;
  }

  // Takes a copy of the page in which tokens both stay and go, where a fork shares it.
  bool open_to_truncate(Index sequence, Index tokens) noexcept {
    const Index held = sizes_[sequence], page_tokens = pages_.extents().page_tiles * tile_keys;
    if (tokens >= held || tokens % page_tokens == 0) return true;
    const Index last = tile_count(tokens) - 1;
    return pages_.try_open(sequence, last, last + 1, tile_count(held));
  }

  // After open_to_truncate().
  void drop_tokens(Index sequence, Index tokens) noexcept {
    const Index held = sizes_[sequence], page_tiles = pages_.extents().page_tiles;
    if (tokens >= held) return;
    const Index kept = tile_count(tokens), pages = (kept + page_tiles - 1) / page_tiles;
    const bool keeps_memory = pages == 0 && !is_paged_ && pages_.is_own(sequence, 0);
    const Index zeroed = keeps_memory ? page_tiles : pages * page_tiles;
    const Index end = tile_count(held);
    pages_.clear(sequence, kept, end < zeroed ? end : zeroed);
    pages_.release(sequence, keeps_memory ? 1 : pages);
    sizes_[sequence] = tokens;
    if (tokens % tile_keys == 0) return;
    for (Index g = 0; g < shape_.kv_heads; ++g)
      Adapter<M>::erase(mechanism_, shape_.head_dim, shape_.value_dim,
                        pages_.tiles(sequence, g)[kept - 1], tokens % tile_keys);
  }

  Index kv_entry(Index sequence, Index kv_head) const noexcept {
    return sequence * shape_.kv_heads + kv_head;
  }
  Index tile_bytes() const noexcept {
    return Adapter<M>::tile_bytes(mechanism_, shape_.head_dim, shape_.value_dim);
  }

  // Whether the bytes of the tiles of so many tokens can be counted.
  bool fits_memory(Index tokens) const noexcept {
    const Index per_key = 16 * tile_keys;  // generous: no layout takes more per dim
    Index dims = 0, bound = 0;
    return !(__builtin_add_overflow(shape_.head_dim, shape_.value_dim, &dims) ||
             __builtin_add_overflow(dims, Index{256}, &dims) ||
             __builtin_mul_overflow(dims, per_key, &bound) ||
             __builtin_mul_overflow(bound, tokens, &bound) ||
             __builtin_mul_overflow(bound, shape_.kv_heads, &bound) ||
             __builtin_mul_overflow(bound, shape_.batch, &bound));
  }

  M mechanism_{};
  CacheShape shape_{.batch = 0};
  Calibration calibration_{};
  Array<std::uint8_t> tables_;  // the adapter's
  const KernelTable* table_ = nullptr;
  PageTables pages_{};
  bool is_paged_ = false;
  Array<Index> sizes_;          // [batch]
  Array<Saturated> saturated_;  // [batch * kv_heads]
};

LOWATT_API_END
