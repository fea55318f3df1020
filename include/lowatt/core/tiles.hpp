// The kernel contract: keys come as tiles of 64, queries as blocks of rows with visible key ranges.
//
// A tile is full, partial (the last one of a cache: padded so that the padding is neutral) or
// absent (no row of the block sees any of its keys: never read). Causal order, windows, key lengths
// and boolean masks are all made from a visible range per row and an optional 64-bit word per (row,
// tile). Bit counting uses the compiler's builtins: <bit> would leave shared copies (see
// config.hpp).
#pragma once

#include "config.hpp"

namespace lowatt {

inline constexpr Index tile_keys = 64;

// Tiles that so many keys take.
LOWATT_ALWAYS_INLINE constexpr Index tile_count(Index keys) noexcept {
  return (keys + tile_keys - 1) / tile_keys;
}

// Where the tiles of one sequence and KV head lie: at equal strides, or wherever a page table says.
struct TileSource {
  const std::byte* base = nullptr;
  Index stride = 0;                         // bytes from tile to tile
  const std::byte* const* pages = nullptr;  // when set: one pointer per tile, base is unused

  LOWATT_ALWAYS_INLINE const std::byte* tile(Index t) const noexcept {
    return pages != nullptr ? pages[t] : base + t * stride;
  }
  // Bytes from tile a to tile b, which need not be parts of one array: for fetching ahead only.
  LOWATT_ALWAYS_INLINE Index distance(Index a, Index b) const noexcept {
    return static_cast<Index>(reinterpret_cast<std::uintptr_t>(tile(b)) -
                              reinterpret_cast<std::uintptr_t>(tile(a)));
  }
};

// Asks for the cache line so many bytes from `at`, which may lie outside of the array or be no
// address at all (an absent tile's): hence no pointer arithmetic.
LOWATT_ALWAYS_INLINE void fetch_ahead(const void* at, Index distance) noexcept {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(at) +
                                                   static_cast<std::uintptr_t>(distance)));
}

// Keys [begin, end) that one query sees.
struct VisibleRange {
  Index begin = 0, end = 0;
  LOWATT_ALWAYS_INLINE Index count() const noexcept { return end > begin ? end - begin : 0; }
  // The smallest range that holds this one and another.
  LOWATT_ALWAYS_INLINE VisibleRange joined(const VisibleRange& other) const noexcept {
    if (count() == 0) return other;
    if (other.count() == 0) return *this;
    return {begin < other.begin ? begin : other.begin, end > other.end ? end : other.end};
  }
};

// What is added to the scores of a block, where the call asks for it (core/score_terms.hpp); null
// where not. Row r is head r where head_step is 1, else query r of one head.
struct ScoreTerms {
  const float* bias = nullptr;  // of row r and key j of the tiles: bias[r * bias_stride + j]
  Index bias_stride = 0;
  const float* slopes = nullptr;  // of row r: slopes[r * head_step], likewise sinks
  const float* sinks = nullptr;
  Index head_step = 0;
  Index position = 0;  // where query 0 stands among the keys of the tiles

  LOWATT_ALWAYS_INLINE bool add_to_scores() const noexcept {
    return bias != nullptr || slopes != nullptr;
  }
  LOWATT_ALWAYS_INLINE bool any() const noexcept { return add_to_scores() || sinks != nullptr; }
  // What the sink of row r adds to weights that are relative to 2^maximum.
  LOWATT_ALWAYS_INLINE double sink_weight(Index r, double maximum) const noexcept {
    constexpr double log2_e = 0x1.71547652b82fep+0;
    if (sinks == nullptr) return 0;
    return __builtin_exp2(log2_e * static_cast<double>(sinks[r * head_step]) - maximum);
  }
};

// One block of queries of one head against a range of tiles. The part of a kernel's arguments that
// all mechanisms share; trivially copyable.
struct BlockArguments {
  const float* query = nullptr;  // rows x head_dim
  Index query_stride = 0;        // elements
  float* out = nullptr;          // rows x value_dim
  Index out_stride = 0;          // elements
  Index rows = 0;
  Index head_dim = 0, value_dim = 0;
  TileSource tiles;
  Index tile_begin = 0, tile_end = 0;
  const VisibleRange* visible = nullptr;         // one per row
  const std::uint64_t* visible_words = nullptr;  // optional: [rows][visible_words_stride], ANDed
  Index visible_words_stride = 0;
  ScoreTerms terms{};
  const Index* visible_counts = nullptr;  // optional: of each row, in place of counting
  std::byte* workspace = nullptr;         // at 64-byte alignment
  // Optional, where keys are split: the mechanism's scores of the tile range, which statistic
  // leaves for accumulate, lie here and not in the workspace; at 64-byte alignment.
  std::byte* scores = nullptr;

  // Which of tile t's keys row r sees, one bit each.
  LOWATT_ALWAYS_INLINE std::uint64_t visible_word(Index r, Index t) const noexcept {
    const Index first = visible[r].begin - t * tile_keys;
    const Index last = visible[r].end - t * tile_keys;
    if (last <= 0 || first >= tile_keys || last <= first) return 0;
    std::uint64_t word = ~std::uint64_t{0};
    if (first > 0) word &= ~std::uint64_t{0} << first;
    if (last < tile_keys) word &= ~std::uint64_t{0} >> (tile_keys - last);
    if (visible_words != nullptr) word &= visible_words[r * visible_words_stride + t];
    return word;
  }

  // Number of keys that row r sees in the whole sequence, not only in [tile_begin, tile_end).
  LOWATT_ALWAYS_INLINE Index visible_count(Index r) const noexcept {
    if (visible_counts != nullptr) return visible_counts[r];
    if (visible_words == nullptr) return visible[r].count();
    Index count = 0;
    for (Index t = visible[r].begin / tile_keys; t * tile_keys < visible[r].end; ++t)
      count += __builtin_popcountll(visible_word(r, t));
    return count;
  }

  // Number of keys that row r sees in [tile_begin, tile_end).
  LOWATT_ALWAYS_INLINE Index visible_count_in_tiles(Index r) const noexcept {
    Index count = 0;
    if (visible_words == nullptr) {
      const Index first = tile_begin * tile_keys, last = tile_end * tile_keys;
      const VisibleRange& seen = visible[r];
      return VisibleRange{seen.begin > first ? seen.begin : first,
                          seen.end < last ? seen.end : last}
          .count();
    }
    for (Index t = tile_begin; t < tile_end; ++t) count += __builtin_popcountll(visible_word(r, t));
    return count;
  }

  // Keys that every row sees, as far as ranges tell.
  LOWATT_ALWAYS_INLINE VisibleRange common_range() const noexcept {
    if (rows == 0) return {};
    VisibleRange common = visible[0];
    for (Index r = 1; r < rows; ++r) {
      common.begin = visible[r].begin > common.begin ? visible[r].begin : common.begin;
      common.end = visible[r].end < common.end ? visible[r].end : common.end;
    }
    return common;
  }

  // Whether every row sees all keys of tile t; `common` is common_range(), found once per block.
  LOWATT_ALWAYS_INLINE bool tile_is_whole(Index t, const VisibleRange& common) const noexcept {
    if (t * tile_keys < common.begin || (t + 1) * tile_keys > common.end) return false;
    if (visible_words == nullptr) return true;
    for (Index r = 0; r < rows; ++r)
      if (visible_words[r * visible_words_stride + t] != ~std::uint64_t{0}) return false;
    return true;
  }

  // Whether any row sees a key of tile t.
  LOWATT_ALWAYS_INLINE bool tile_is_visible(Index t) const noexcept {
    for (Index r = 0; r < rows; ++r)
      if (visible_word(r, t) != 0) return true;
    return false;
  }
};

// Which rows of a block see anything of the tile at hand. Most tiles are seen whole by all rows.
struct TileRows {
  static constexpr Index most = 64;
  Index count = 0;  // rows that see a key of the tile,
  Index row[most];  // ascending

  LOWATT_ALWAYS_INLINE explicit TileRows(const BlockArguments& block) noexcept
      : block_(block), common_(block.common_range()) {}

  // Goes to tile t; false where no row sees any of it.
  LOWATT_ALWAYS_INLINE bool see(Index t) noexcept {
    const bool is_whole = block_.tile_is_whole(t, common_);
    count = 0;
    for (Index r = 0; r < block_.rows; ++r) {
      word_[r] = is_whole ? ~std::uint64_t{0} : block_.visible_word(r, t);
      row[count] = r;
      count += word_[r] != 0 ? 1 : 0;
    }
    return count > 0;
  }

  // Which keys of the tile row r sees, one bit each.
  LOWATT_ALWAYS_INLINE std::uint64_t word(Index r) const noexcept { return word_[r]; }

 private:
  const BlockArguments& block_;
  VisibleRange common_;
  std::uint64_t word_[most];
};

// How many numbers were clamped when they were quantised, since they lie beyond what a calibration
// expected.
struct Saturated {
  std::int64_t keys = 0, values = 0;
};

// Tokens to be written into the tiles of one sequence and KV head, at positions [first, first +
// count). Tiles start zeroed: what packing does not write is padding.
struct PackArguments {
  const float* key = nullptr;    // count x head_dim
  Index key_stride = 0;          // elements
  const float* value = nullptr;  // count x value_dim
  Index value_stride = 0;        // elements
  Index first = 0, count = 0;
  Index head_dim = 0, value_dim = 0;
  std::byte* const* tiles = nullptr;  // one pointer per tile
  Saturated* saturated = nullptr;     // added to, when given

  LOWATT_ALWAYS_INLINE std::byte* tile(Index t) const noexcept { return tiles[t]; }
};

// What a tile holds for its tokens from `first` on becomes zero again, as it was before they were
// packed. Of an array [groups][64 tokens][bytes]:
LOWATT_ALWAYS_INLINE void erase_tokens(std::byte* array, Index groups, Index bytes,
                                       Index first) noexcept {
  for (Index g = 0; g < groups; ++g)
    __builtin_memset(array + (g * tile_keys + first) * bytes, 0,
                     static_cast<std::size_t>((tile_keys - first) * bytes));
}

// Of an array [groups][64 / together][width][together tokens][bytes]:
LOWATT_ALWAYS_INLINE void erase_tokens_together(std::byte* array, Index groups, Index together,
                                                Index width, Index bytes, Index first) noexcept {
  for (Index g = 0; g < groups; ++g)
    for (Index t = first; t < tile_keys; ++t)
      for (Index i = 0; i < width; ++i)
        __builtin_memset(array + ((g * tile_keys + t / together * together) * width + i * together +
                                  t % together) *
                                     bytes,
                         0, static_cast<std::size_t>(bytes));
}

// Of a word with one bit per token, less than 64 of which stay:
LOWATT_ALWAYS_INLINE void erase_bits(std::byte* place, Index first) noexcept {
  std::uint64_t word;
  __builtin_memcpy(&word, place, sizeof word);
  word &= (std::uint64_t{1} << first) - 1;
  __builtin_memcpy(place, &word, sizeof word);
}

// Cuts a workspace into arrays at 64-byte alignment. From a null base the pointers mean nothing,
// but size() tells how much is needed: one function describes a workspace and measures it.
struct WorkspaceCutter {
  std::byte* base = nullptr;
  Index used = 0;

  template <class T>
  LOWATT_ALWAYS_INLINE T* take(Index count) noexcept {
    T* pointer = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += (count * static_cast<Index>(sizeof(T)) + 63) / 64 * 64;
    return pointer;
  }
  LOWATT_ALWAYS_INLINE Index size() const noexcept { return used; }
};

LOWATT_ALWAYS_INLINE constexpr Index round_up(Index value, Index multiple) noexcept {
  return (value + multiple - 1) / multiple * multiple;
}

// Calls each.operator()<Width>(first) for all of `count`: as many at a time as the first of the
// widths says for as long as they fit, then the next one. The last is 1.
template <int... widths, class Each>
LOWATT_ALWAYS_INLINE void for_widths(Index count, Each&& each) noexcept {
  constexpr int all[] = {widths...};
  static_assert(all[sizeof...(widths) - 1] == 1);
  Index first = 0;
  const auto step = [&]<int Width>() __attribute__((always_inline)) {
    for (; first + Width <= count; first += Width) each.template operator()<Width>(first);
  };
  (step.template operator()<widths>(), ...);
}

// Calls each.operator()<Rows>(first row) for all rows, four at a time, then one at a time.
template <class Each>
LOWATT_ALWAYS_INLINE void for_rows(Index rows, Each&& each) noexcept {
  for_widths<4, 1>(rows, each);
}

// Overwrites the 64 scores of one row at the keys that `visible` leaves out.
template <class T>
LOWATT_ALWAYS_INLINE void hide(T* scores, std::uint64_t visible, T value) noexcept {
  for (std::uint64_t hidden = ~visible; hidden != 0; hidden &= hidden - 1)
    scores[__builtin_ctzll(hidden)] = value;
}

}  // namespace lowatt
