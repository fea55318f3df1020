// Keys and values, packed once and appended to: what decoding reads.
#pragma once

#include "../core/array.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

// A cache of one mechanism, of fixed capacity, for a batch of sequences of equal length. What the
// encoding depends on is frozen when the cache is made: N tokens appended one by one, in chunks, or
// at once give the same bytes, so that prefill, chunked prefill and decode give the same results.
// Any number of threads may attend one cache at a time; append needs the caller's exclusion.
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
    tiles_ = static_cast<Array<std::byte>&&>(other.tiles_);
    sizes_ = static_cast<Array<Index>&&>(other.sizes_);
    other.shape_.capacity = 0;
    return *this;
  }

#if LOWATT_HAS_EXCEPTIONS
  KvCache(const CacheShape& shape, const Calibration& calibration, const M& mechanism = {},
          const LevelSetting& level = {}) {
    throw_if_failed(try_create(*this, shape, calibration, mechanism, level));
  }

  // k [batch, kv_heads, tokens, head_dim], v [batch, kv_heads, tokens, value_dim].
  void append(View<const float> k, View<const float> v) {
    throw_if_failed(try_append(k, v));
  }
#endif

  // Makes an empty cache in `cache`, which is left as it was on failure.
  static Status try_create(KvCache& cache, const CacheShape& shape, const Calibration& calibration,
                           const M& mechanism = {}, const LevelSetting& level = {}) noexcept {
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
    KvCache made;
    made.shape_ = shape;
    made.calibration_ = calibration;
    if (!same_sizes(made.calibration_, calibration))
      return failure(StatusCode::out_of_memory, "no memory for a copy of the calibration");
    made.mechanism_ = mechanism;
    const Shape planned{shape.batch,    0, shape.kv_heads, 0, shape.capacity, shape.head_dim,
                        shape.value_dim};
    if (Status status = try_find_kernels(level, made.table_); !status.ok()) return status;
    if (Status status = Adapter<M>::validate(mechanism, planned); !status.ok()) return status;
    if (Status status = Adapter<M>::check(mechanism, calibration, shape); !status.ok())
      return status;
    if (Status status = Adapter<M>::adopt(made.mechanism_, made.calibration_, shape, made.tables_);
        !status.ok())
      return status;
    Index bytes = 0;
    if (!made.measure(bytes))
      return failure(StatusCode::out_of_memory,
                     "a cache of %td tokens, %td KV heads and batch %td does not fit memory",
                     shape.capacity, shape.kv_heads, shape.batch);
    made.tiles_ = Array<std::byte>(bytes);
    made.sizes_ = Array<Index>(shape.batch);
    if (made.tiles_.size() != bytes || made.sizes_.size() != shape.batch)
      return failure(StatusCode::out_of_memory, "no memory for a cache of %td bytes", bytes);
    cache = static_cast<KvCache&&>(made);
    return {};
  }

  // Appends to all sequences. All or nothing: on failure the cache is as before.
  Status try_append(View<const float> k, View<const float> v) noexcept {
    if (Status status = check_tokens(k, v, shape_.batch, size()); !status.ok()) return status;
    for (Index b = 0; b < shape_.batch; ++b) pack(b, k, v, b);
    return {};
  }

  // Appends to one sequence; the batch of k and v is 1.
  Status try_append(Index sequence, View<const float> k, View<const float> v) noexcept {
    if (sequence < 0 || sequence >= shape_.batch)
      return failure(StatusCode::invalid_argument, "sequence is %td; the cache's batch is %td",
                     sequence, shape_.batch);
    if (Status status = check_tokens(k, v, 1, size(sequence)); !status.ok()) return status;
    pack(sequence, k, v, 0);
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

  // Bytes that one token takes per KV head.
  double bytes_per_token() const noexcept {
    return static_cast<double>(tile_bytes()) / static_cast<double>(tile_keys);
  }

  // Where the tiles of one sequence and KV head lie.
  TileSource tiles(Index batch, Index kv_head) const noexcept {
    return {tiles_.data() + head_offset(batch, kv_head), tile_bytes(), nullptr};
  }

 private:
  // Whether tokens can be appended to a sequence that holds `held`.
  Status check_tokens(View<const float> k, View<const float> v, Index batch,
                      Index held) const noexcept {
    if (Status status = detail::check_keys_values(k, v); !status.ok()) return status;
    if (Status status = detail::first_failure(
            detail::check_equal("k.batch", k.batch, "the cache's batch", batch),
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
      tokens.base = tiles_.data() + head_offset(sequence, g);
      tokens.stride = tile_bytes();
      Adapter<M>::pack(*table_, mechanism_, calibration_, sequence * shape_.kv_heads + g, tokens);
    }
    sizes_[sequence] += k.tokens;
  }

  Index tile_bytes() const noexcept {
    return Adapter<M>::tile_bytes(mechanism_, shape_.head_dim, shape_.value_dim);
  }
  Index tile_count() const noexcept {
    return lowatt::tile_count(shape_.capacity);
  }
  Index head_offset(Index batch, Index kv_head) const noexcept {
    return (batch * shape_.kv_heads + kv_head) * tile_count() * tile_bytes();
  }

  // Bytes of all tiles; false when extents overflow.
  bool measure(Index& bytes) const noexcept {
    const Index per_key = 16 * tile_keys;  // generous: no layout takes more per dim
    Index dims = 0, bound = 0;
    if (__builtin_add_overflow(shape_.head_dim, shape_.value_dim, &dims) ||
        __builtin_add_overflow(dims, Index{256}, &dims) ||
        __builtin_mul_overflow(dims, per_key, &bound) ||
        __builtin_mul_overflow(bound, shape_.capacity, &bound) ||
        __builtin_mul_overflow(bound, shape_.kv_heads, &bound) ||
        __builtin_mul_overflow(bound, shape_.batch, &bound))
      return false;
    bytes = shape_.batch * shape_.kv_heads * tile_count() * tile_bytes();
    return true;
  }

  M mechanism_{};
  CacheShape shape_{};
  Calibration calibration_{};
  Array<std::uint8_t> tables_;  // the adapter's
  const KernelTable* table_ = nullptr;
  Array<std::byte> tiles_;
  Array<Index> sizes_;  // [batch]
};

LOWATT_API_END
