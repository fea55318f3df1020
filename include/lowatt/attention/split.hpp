// How the keys of one call are cut into parts, and where in a workspace lies what parts hand on.
#pragma once

#include "../core/part.hpp"
#include "../core/tiles.hpp"
#include "options.hpp"

LOWATT_API_BEGIN

// Where the keys of a cache stand among all keys of a sequence, the others of which are elsewhere.
struct Shard {
  Index first_key = 0, total_keys = 0;

  // Of the keys that a query sees, those of `keys` keys in the cache.
  VisibleRange own(const VisibleRange& seen, Index keys) const noexcept {
    const auto position = [&](Index key) {
      return key < first_key ? 0 : key - first_key < keys ? key - first_key : keys;
    };
    return {position(seen.begin), position(seen.end)};
  }
};

// A function of shape and mechanism alone, never of the number of threads: so that results are not
// either, where they are floats. Parts are as long for any number of keys.
struct KeySplit {
  // 4096 keys. Half as many took one thread 3 to 13% longer, for the fastest kernels, than no cut.
  static constexpr Index part_tiles = 64;
  // Calls of at least so many blocks are not cut: blocks are enough for as many threads.
  static constexpr Index most_blocks = 64;
  // What parts hand on takes at most so many bytes per key; as many are left for each worker's own.
  static constexpr Index most_bytes_per_key = 32;

  Index parts = 1;  // 1: not cut, and nothing in the workspace
  Index rows = 0;   // [batch, query_heads, queries], of all blocks
  Index value_dim = 0;
  Index score_bytes = 0;  // per row and part
  StatisticMerge merge = StatisticMerge::none;

  // Of a call of `shape` that has so many blocks; score_bytes are those of one row and key.
  static KeySplit of(const Shape& shape, Index blocks, Index score_bytes,
                     StatisticMerge merge) noexcept {
    KeySplit split{};
    split.rows = shape.batch * shape.query_heads * shape.queries;
    split.value_dim = shape.value_dim;
    split.merge = merge;
    // Room for a kernel's padding beside the scores.
    constexpr Index keys = part_tiles * tile_keys, padding = 32;
    split.score_bytes = round_up(score_bytes * (keys + padding), 64);
    if (blocks < 1 || blocks >= most_blocks) return split;
    const Index parts = (shape.keys + keys - 1) / keys;
    if (split.bytes_per_part() <= keys * most_bytes_per_key) split.parts = parts;
    return split;
  }

  Index bytes() const noexcept { return parts == 1 ? 0 : parts * bytes_per_part(); }

  double* statistic(std::byte* memory, Index part, Index row) const noexcept {
    return reinterpret_cast<double*>(memory + part * bytes_per_part()) + row * statistic_numbers;
  }
  PartRows<double> sums(std::byte* memory, Index part, Index row) const noexcept {
    const PartRows<double> first{statistic(memory, part, rows), value_dim};
    return {first.row(row), value_dim};
  }
  std::byte* scores(std::byte* memory, Index part, Index row) const noexcept {
    return memory + part * bytes_per_part() + number_bytes() + row * score_bytes;
  }

 private:
  Index number_bytes() const noexcept {
    const Index numbers = statistic_numbers + PartRows<double>{nullptr, value_dim}.stride();
    return round_up(rows * numbers * Index{sizeof(double)}, 64);
  }
  Index bytes_per_part() const noexcept { return number_bytes() + rows * score_bytes; }
};

LOWATT_API_END
