// Which keys a query sees.
#pragma once
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "rows.hpp"
#include "view.hpp"

namespace lowatt {

// All that is given holds at once. What it refers to is not copied.
struct Mask {
  bool causal = false;
  Index window_left = -1, window_right = -1;
  const Index* key_lengths = nullptr;
  View<const std::uint8_t> visible = {};
  View<const std::uint64_t> bits = {};  // instead of `visible`: key j is bit j % 64 of word j / 64

  LOWATT_ALWAYS_INLINE constexpr bool has_booleans() const noexcept {
    return visible.data != nullptr;
  }

  // Whether queries of a batch entry may see different ranges.
  LOWATT_ALWAYS_INLINE constexpr bool varies_by_query() const noexcept {
    return causal || window_left >= 0 || window_right >= 0;
  }

  // The keys that a query of batch entry b sees, but for those that booleans or bits hide.
  LOWATT_ALWAYS_INLINE constexpr VisibleRange range(Index b, Index query, Index queries,
                                                    Index keys) const noexcept {
    VisibleRange seen = visible_keys(causal, query, queries, keys);
    const Index own = query + keys - queries;  // where the query stands among the keys
    if (window_left >= 0 && window_left < own - seen.begin) seen.begin = own - window_left;
    if (window_right >= 0 && window_right < seen.end - own - 1) seen.end = own + window_right + 1;
    if (key_lengths != nullptr && seen.end > key_lengths[b]) seen.end = key_lengths[b];
    if (seen.end < seen.begin) seen.end = seen.begin;
    return seen;
  }

  // What is given per pair for one query; `of` is `visible` or `bits`, and given.
  template <class T>
  static LOWATT_ALWAYS_INLINE constexpr const T* row(const View<const T>& of, Index b, Index head,
                                                     Index query) noexcept {
    return of.row(of.batch > 1 ? b : 0, of.heads > 1 ? head : 0, query);
  }

  // Whether booleans or bits let a query see a key.
  LOWATT_ALWAYS_INLINE constexpr bool shows(Index b, Index head, Index query,
                                            Index key) const noexcept {
    if (has_booleans()) return row(visible, b, head, query)[key] != 0;
    return bits.data == nullptr || (row(bits, b, head, query)[key / 64] >> (key % 64) & 1) != 0;
  }

  // Writes the positions of all keys that a query sees, ascending; returns how many.
  LOWATT_ALWAYS_INLINE constexpr Index list(Index b, Index head, Index query, Index queries,
                                            Index keys, Index* positions) const noexcept {
    const VisibleRange seen = range(b, query, queries, keys);
    Index count = 0;
    for (Index j = seen.begin; j < seen.end; ++j)
      if (shows(b, head, query, j)) positions[count++] = j;
    return count;
  }
};

// Bit j of the result tells whether booleans[j] is not 0, for j < count <= 64.
LOWATT_ALWAYS_INLINE std::uint64_t word_of_booleans(const std::uint8_t* booleans,
                                                    Index count) noexcept {
  std::uint64_t word = 0;
  Index j = 0;
#if defined(__x86_64__)
  // Every x86-64 has this, and it takes a quarter of the time of what follows.
  for (; j + 16 <= count; j += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(booleans + j));
    const int hidden = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
    word |= static_cast<std::uint64_t>(~hidden & 0xffff) << j;
  }
#endif
  constexpr std::uint64_t low_bits = 0x7f7f7f7f7f7f7f7f;
  for (; j < count; j += 8) {
    std::uint64_t bytes = 0;
    __builtin_memcpy(&bytes, booleans + j, static_cast<std::size_t>(count - j < 8 ? count - j : 8));
    // The top bit of each byte that is not 0, then those eight bits side by side.
    const std::uint64_t tops = (((bytes & low_bits) + low_bits) | bytes) & ~low_bits;
    word |= ((tops >> 7) * 0x0102040810204080 >> 56) << j;
  }
  return word;
}

}  // namespace lowatt
