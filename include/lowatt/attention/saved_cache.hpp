// A cache as bytes, to keep a prefix or to hand it to another process: the same bytes at every
// level.
//
//   magic      "LOWATTKV"
//   version    u64, 1
//   bytes      u64, of all
//   checksum   u64, of all that follows
//   mechanism  16 characters, layout 32 characters (attention/adapter.hpp)
//   header     parameters, extents, calibration, lengths, counts of clamped numbers; 8 bytes each
//              but for the numbers of arrays; then zeros to a multiple of 64
//   tiles      [sequence][KV head][tiles that hold tokens]
//
// Numbers are little-endian. A checksum tells damage, not malice: bytes that were forged to match
// theirs may hold other numbers than packing leaves, and give other outputs, but lead no kernel out
// of its memory.
#pragma once

#include "cache.hpp"

LOWATT_API_BEGIN

namespace detail {

// FNV-1a over 64-bit words.
inline std::uint64_t checksum_of(const std::byte* data, Index bytes) noexcept {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (Index i = 0; i < bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, data + i, static_cast<std::size_t>(bytes - i < 8 ? bytes - i : 8));
    sum = (sum ^ word) * 0x100000001b3u;
  }
  return sum;
}

struct SavedPrefix {
  char magic[8] = {'L', 'O', 'W', 'A', 'T', 'T', 'K', 'V'};
  std::uint64_t version = 1;
  std::uint64_t bytes = 0;
  std::uint64_t checksum = 0;
  char mechanism[16] = {};
  char layout[32] = {};
};
inline constexpr Index summed_from = 32;  // what the checksum is of

// Enumerations are saved as numbers; the last one of each.
constexpr int last_of(Precision) noexcept {
  return static_cast<int>(Precision::int4);
}
constexpr int last_of(NibbleSplit) noexcept {
  return static_cast<int>(NibbleSplit::truncate);
}
constexpr int last_of(BitEncoding) noexcept {
  return static_cast<int>(BitEncoding::thermometer);
}

// Writes to memory, or from a null pointer on only counts.
struct SavedWriter {
  std::byte* data = nullptr;
  Index used = 0;

  void bytes(const void* from, Index count) noexcept {
    if (data != nullptr && count > 0)
      std::memcpy(data + used, from, static_cast<std::size_t>(count));
    used += count;
  }
  void pad() noexcept {
    for (; used % 64 != 0; ++used)
      if (data != nullptr) data[used] = std::byte{0};
  }
  void number(const std::int64_t& x) noexcept { bytes(&x, sizeof x); }
  void number(const double& x) noexcept { bytes(&x, sizeof x); }
  template <class T>
  void small(const T& x) noexcept {
    number(static_cast<std::int64_t>(x));
  }
  template <class T>
  void array(const Array<T>& x) noexcept {
    number(x.size());
    bytes(x.data(), x.size() * static_cast<Index>(sizeof(T)));
  }
};

// Reads what SavedWriter wrote; once something does not fit, all that follows is 0.
struct SavedReader {
  const std::byte* data = nullptr;
  Index size = 0, used = 0;
  bool fits = true, has_memory = true;

  bool bytes(void* to, Index count) noexcept {
    fits = fits && count <= size - used;
    if (!fits) return false;
    if (count > 0) std::memcpy(to, data + used, static_cast<std::size_t>(count));
    used += count;
    return true;
  }
  void pad() noexcept {
    const Index padding = round_up(used, 64) - used;
    fits = fits && padding <= size - used;
    if (fits) used += padding;
  }
  void number(std::int64_t& x) noexcept {
    if (!bytes(&x, sizeof x)) x = 0;
  }
  void number(double& x) noexcept {
    if (!bytes(&x, sizeof x)) x = 0;
  }
  template <class T>
  void small(T& x) noexcept {
    std::int64_t wide = 0;
    number(wide);
    if constexpr (std::is_enum_v<T>) {
      fits = fits && wide >= 0 && wide <= last_of(T{});
    } else {
      fits = fits && wide == static_cast<std::int64_t>(static_cast<T>(wide));
    }
    x = fits ? static_cast<T>(wide) : T{};
  }
  template <class T>
  void array(Array<T>& x) noexcept {
    std::int64_t count = 0;
    number(count);
    fits = fits && count >= 0 && count <= (size - used) / static_cast<Index>(sizeof(T));
    if (!fits) return;
    x = Array<T>(count);
    has_memory = has_memory && x.size() == count;
    if (has_memory) bytes(x.data(), count * static_cast<Index>(sizeof(T)));
  }
};

// One description of the header for both directions.
template <class Cursor, class M>
void transfer_parameters(Cursor& cursor, M& mechanism) noexcept {
  Adapter<M>::each_parameter(mechanism, [&](auto& parameter) {
    using T = std::remove_reference_t<decltype(parameter)>;
    if constexpr (std::is_same_v<T, Setting>) {
      cursor.number(parameter.value);
      cursor.small(parameter.given);
    } else if constexpr (std::is_same_v<T, PerHead>) {  // of a cache: one number or none
      cursor.number(parameter.single);
      bool given = parameter.count > 0;
      cursor.small(given);
      parameter.count = given ? 1 : 0;
    } else if constexpr (std::is_same_v<T, double>) {
      cursor.number(parameter);
    } else {
      cursor.small(parameter);
    }
  });
}
template <class Cursor, class Extents, class CalibrationOf, class Sizes, class Counts>
void transfer_contents(Cursor& cursor, Extents& shape, CalibrationOf& calibration, Sizes& sizes,
                       Counts& saturated) noexcept {
  cursor.number(shape.batch);
  cursor.number(shape.kv_heads);
  cursor.number(shape.head_dim);
  cursor.number(shape.value_dim);
  cursor.array(calibration.query_absmax);
  cursor.array(calibration.key_absmax);
  cursor.array(calibration.value_absmax);
  cursor.array(calibration.key_mean);
  cursor.array(calibration.clip);
  cursor.array(calibration.temperature);
  cursor.array(calibration.theta);
  cursor.array(sizes);
  cursor.array(saturated);
  cursor.pad();
}

template <class M>
struct SavedCache {
  using Cache = KvCache<M>;

  // Returns how many bytes there are; from a null pointer on only counts.
  static Index write(const Cache& cache, std::byte* data) noexcept {
    SavedPrefix prefix{};
    copy_name(prefix.mechanism, Adapter<M>::mechanism_name);
    copy_name(prefix.layout, Adapter<M>::layout(cache.mechanism_));
    SavedWriter writer{data};
    writer.bytes(&prefix, sizeof prefix);
    M mechanism = cache.mechanism_;
    transfer_parameters(writer, mechanism);
    transfer_contents(writer, cache.shape_, cache.calibration_, cache.sizes_, cache.saturated_);
    for (Index s = 0; s < cache.shape_.batch; ++s)
      for (Index g = 0; g < cache.shape_.kv_heads; ++g)
        for (Index t = 0; t < tile_count(cache.size(s)); ++t)
          writer.bytes(cache.pages_.tiles(s, g)[t], cache.tile_bytes());
    if (data != nullptr) {
      prefix.bytes = static_cast<std::uint64_t>(writer.used);
      std::memcpy(data, &prefix, sizeof prefix);
      prefix.checksum = checksum_of(data + summed_from, writer.used - summed_from);
      std::memcpy(data, &prefix, sizeof prefix);
    }
    return writer.used;
  }

  static Status read(Cache& cache, const std::byte* data, Index bytes, Index capacity,
                     const LevelSetting& level, const PageSetting& pages) noexcept {
    if (Status status = check_prefix(data, bytes); !status.ok()) return status;
    SavedReader reader{data, bytes, sizeof(SavedPrefix)};
    M mechanism{};
    CacheShape shape{};
    Calibration calibration;
    Array<Index> sizes;
    Array<Saturated> saturated;
    transfer_parameters(reader, mechanism);
    transfer_contents(reader, shape, calibration, sizes, saturated);
    if (!reader.has_memory)
      return failure(StatusCode::out_of_memory, "no memory for the header of a saved cache");
    if (!reader.fits || !sizes_agree(shape, sizes, saturated, bytes)) return damaged("header");
    SavedPrefix prefix{};
    std::memcpy(&prefix, data, sizeof prefix);
    if (!is_name(prefix.layout, Adapter<M>::layout(mechanism)))
      return failure(StatusCode::unsupported,
                     "the saved cache has layout '%.32s', this library reads '%s'", prefix.layout,
                     Adapter<M>::layout(mechanism));
    shape.capacity = capacity > 1 ? capacity : 1;
    for (const Index size : sizes) shape.capacity = size > shape.capacity ? size : shape.capacity;
    Cache made;
    if (Status status = made.set_up(shape, calibration, mechanism, level, pages); !status.ok())
      return status;
    if (!tiles_fit(made, sizes, bytes - reader.used)) return damaged("length");
    if (Status status = fill(made, sizes, data + reader.used); !status.ok()) return status;
    made.sizes_ = static_cast<Array<Index>&&>(sizes);
    made.saturated_ = static_cast<Array<Saturated>&&>(saturated);
    cache = static_cast<Cache&&>(made);
    return {};
  }

 private:
  // What a tile takes per dim at least; and dims of a cache that has no tile to tell.
  static constexpr Index least_per_dim = 8, most_empty_dims = 1 << 16;

  template <std::size_t n>
  static void copy_name(char (&to)[n], const char* from) noexcept {
    for (std::size_t i = 0; i + 1 < n && from[i] != '\0'; ++i) to[i] = from[i];
  }
  template <std::size_t n>
  static bool is_name(const char (&saved)[n], const char* name) noexcept {
    char padded[n] = {};
    copy_name(padded, name);
    return std::memcmp(saved, padded, n) == 0;
  }
  static Status damaged(const char* what) noexcept {
    return failure(StatusCode::invalid_argument, "the saved cache is damaged: its %s is not right",
                   what);
  }

  static Status check_prefix(const std::byte* data, Index bytes) noexcept {
    SavedPrefix prefix{}, expected{};
    if (data == nullptr || bytes < static_cast<Index>(sizeof prefix))
      return failure(StatusCode::invalid_argument,
                     "a saved cache has at least %zu bytes; %td were given", sizeof prefix,
                     data == nullptr ? Index{0} : bytes);
    std::memcpy(&prefix, data, sizeof prefix);
    if (std::memcmp(prefix.magic, expected.magic, sizeof prefix.magic) != 0)
      return failure(StatusCode::invalid_argument, "these bytes are not a saved cache");
    if (prefix.version != expected.version)
      return failure(StatusCode::unsupported,
                     "the saved cache is of version %llu; this library reads version %llu",
                     static_cast<unsigned long long>(prefix.version),
                     static_cast<unsigned long long>(expected.version));
    if (prefix.bytes != static_cast<std::uint64_t>(bytes))
      return failure(StatusCode::invalid_argument, "the saved cache has %llu bytes; %td were given",
                     static_cast<unsigned long long>(prefix.bytes), bytes);
    if (prefix.checksum != checksum_of(data + summed_from, bytes - summed_from))
      return damaged("checksum");
    if (!is_name(prefix.mechanism, Adapter<M>::mechanism_name))
      return failure(StatusCode::unsupported, "the saved cache is of '%.16s', not of '%s'",
                     prefix.mechanism, Adapter<M>::mechanism_name);
    return {};
  }

  // Bounds what is made from a header by the bytes that there are.
  static bool sizes_agree(const CacheShape& shape, const Array<Index>& sizes,
                          const Array<Saturated>& saturated, Index bytes) noexcept {
    Index entries = 0, dims = 0, total = 0;
    if (shape.batch < 1 || shape.kv_heads < 1 || shape.head_dim < 1 || shape.value_dim < 1 ||
        __builtin_mul_overflow(shape.batch, shape.kv_heads, &entries) ||
        __builtin_add_overflow(shape.head_dim, shape.value_dim, &dims) ||
        sizes.size() != shape.batch || saturated.size() != entries)
      return false;
    for (const Index size : sizes) {
      // No token takes less than a byte of each head.
      if (size < 0 || size > bytes / shape.kv_heads || (total += size) > bytes) return false;
    }
    for (const Saturated& count : saturated)
      if (count.keys < 0 || count.values < 0) return false;
    return dims <= (total > 0 ? bytes / least_per_dim : most_empty_dims);
  }
  // Whether the tiles of so many tokens are what is left.
  static bool tiles_fit(const Cache& cache, const Array<Index>& sizes, Index left) noexcept {
    Index tiles = 0, bytes = 0;
    for (const Index size : sizes) tiles += tile_count(size);
    return !__builtin_mul_overflow(tiles * cache.shape_.kv_heads, cache.tile_bytes(), &bytes) &&
           bytes == left;
  }
  static Status fill(Cache& cache, const Array<Index>& sizes, const std::byte* tiles) noexcept {
    const Index tile_bytes = cache.tile_bytes();
    for (Index s = 0; s < sizes.size(); ++s) {
      // A cache in one piece has its memory from the start.
      const Index end = cache.is_paged_ ? tile_count(sizes[s]) : 1;
      if (!cache.pages_.try_open(s, 0, end, 0)) return cache.no_page();
      for (Index g = 0; g < cache.shape_.kv_heads; ++g)
        for (Index t = 0; t < tile_count(sizes[s]); ++t, tiles += tile_bytes) {
          std::byte* const tile = cache.pages_.tiles(s, g)[t];
          std::memcpy(tile, tiles, static_cast<std::size_t>(tile_bytes));
          if constexpr (requires { Adapter<M>::limit_codes(cache.mechanism_, 0, tile); })
            Adapter<M>::limit_codes(cache.mechanism_, cache.shape_.head_dim, tile);
        }
    }
    return {};
  }
};

}  // namespace detail

// Bytes that saving a cache takes.
template <class M>
Index saved_bytes(const KvCache<M>& cache) noexcept {
  return detail::SavedCache<M>::write(cache, nullptr);
}

// Writes saved_bytes() bytes.
template <class M>
Status try_save(const KvCache<M>& cache, std::byte* data, Index bytes) noexcept {
  const Index needed = saved_bytes(cache);
  if (data == nullptr || bytes < needed)
    return failure(StatusCode::invalid_argument, "bytes is %td; this cache needs %td",
                   data == nullptr ? Index{0} : bytes, needed);
  detail::SavedCache<M>::write(cache, data);
  return {};
}

// Makes `cache` the one that was saved, with room for `capacity` tokens or for what it holds. On
// failure it is as it was.
template <class M>
Status try_load(KvCache<M>& cache, const std::byte* data, Index bytes, Index capacity = 0,
                const LevelSetting& level = {}, const PageSetting& pages = {}) noexcept {
  return detail::SavedCache<M>::read(cache, data, bytes, capacity, level, pages);
}

#if LOWATT_HAS_EXCEPTIONS
template <class M>
Array<std::byte> save(const KvCache<M>& cache) {
  Array<std::byte> saved(saved_bytes(cache));
  throw_if_failed(try_save(cache, saved.data(), saved.size()));
  return saved;
}

template <class M>
KvCache<M> load(const std::byte* data, Index bytes, Index capacity = 0,
                const LevelSetting& level = {}, const PageSetting& pages = {}) {
  KvCache<M> cache;
  throw_if_failed(try_load(cache, data, bytes, capacity, level, pages));
  return cache;
}
#endif

LOWATT_API_END
