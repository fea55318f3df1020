// What the phases of one block of LATTE hand on to each other, and what they are called with.
#pragma once

#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

inline constexpr Index latte_most_head_dim = 2147483647 / (255 * 127);
inline constexpr Index latte_most_keys = 4294967295;  // that calibrate.hpp ranks

// Up to this head_dim 16 bits hold every score of high nibbles, keys' offset included: they lie
// within [-120 * head_dim, 105 * head_dim]. The lowest number of 16 bits stays free.
inline constexpr Index latte_most_narrow_head_dim = 32767 / 120;

// As many rows as 64 bytes per key hold scores of.
inline constexpr Index latte_most_rows = 32;
LOWATT_ALWAYS_INLINE constexpr Index latte_query_block(Index head_dim) noexcept {
  return head_dim <= latte_most_narrow_head_dim ? latte_most_rows : latte_most_rows / 2;
}

struct LatteArguments {
  BlockArguments block;
  NibbleSplit split = NibbleSplit::round;
  double theta = 0;  // of this query head
  double scale = 1;
  float key_scale = 0, value_scale = 0;  // fp32 values have none: 1
  Precision value_precision = Precision::int8;
};

// Survivors are worked off in batches: when a row has so many, and at the end of a row when there
// are half as many. Where a row is cut depends on that row alone.
inline constexpr Index latte_batch = 256;
inline constexpr Index latte_batch_padding = 16;  // of each row's survivors: whole registers
inline constexpr Index latte_largest_batch =
    latte_batch / 2 + latte_batch + tile_keys + latte_batch_padding;

// The survivors of one row in a batch, and what is found out about them on the way.
struct LatteSegment {
  Index row = 0, begin = 0, count = 0;
  std::int32_t most = 0;  // of its row's dot products so far
  float keep = 0;         // what was summed so far shrinks by this much
  bool is_first = false;  // there is nothing summed so far
  int weight_bytes = 0;   // of weights as integers; 0 for float32
};

// Most bytes of a weight as an integer.
inline constexpr int latte_most_weight_bytes = 4;

// Of scores in the workspace: one cache line more, lest rows compete for the same places in the
// cache.
inline constexpr Index latte_score_padding = 32;
LOWATT_ALWAYS_INLINE constexpr Index latte_score_bytes(Index head_dim) noexcept {
  return head_dim <= latte_most_narrow_head_dim ? 2 : 4;
}

// A score below all others, of a key that a row does not see.
template <class Score>
inline constexpr Score latte_no_score = static_cast<Score>(sizeof(Score) == 2 ? -32768
                                                                              : -2147483647 - 1);

struct LatteWorkspace {
  static constexpr std::int32_t no_key = latte_no_score<std::int32_t>;

  std::int8_t* query = nullptr;       // [rows][query_stride], q8
  std::int8_t* query_high = nullptr;  // [rows][query_stride], high nibbles
  std::int32_t* threshold = nullptr;  // [rows], T
  float* unit = nullptr;              // [rows], what one step of a dot product adds to log2(weight)

  std::byte* low = nullptr;          // [rows][low_stride], scores of the tile range
  std::int32_t* best_low = nullptr;  // [rows], the row statistic: their maximum over visible keys

  // Accumulators: maximum of the exact dot products, and, with weight = exp(logit - the maximum's),
  std::int32_t* best = nullptr;  // [rows], no_key as long as there is nothing in the others
  double* weight_sum = nullptr;  // [rows], sum of weights
  float* weighted = nullptr;     // [rows][value_stride], sum of weight * v8
  std::int64_t* kept = nullptr;  // [rows], surviving keys

  // Where the call adds to scores: what a logit is in steps of low scores, and the maximum of
  // logits to base 2, in the place of that of the dot products.
  double* steps_per_logit = nullptr;  // [rows]
  double* maximum = nullptr;          // [rows]

  // One batch of survivors.
  LatteSegment* segments = nullptr;   // [rows]: one per row
  const std::byte** found = nullptr;  // where they lie
  std::int32_t* dots = nullptr;       // dot products
  float* weights = nullptr;
  double* logits = nullptr;              // where the call adds to scores
  std::uint8_t* weight_bytes = nullptr;  // [latte_most_weight_bytes][latte_largest_batch]

  // At level amx: the nibbles of one tile as bytes, [query_stride/4][64 keys][4], and its scores.
  static constexpr Index product_stride = tile_keys + 16;
  std::byte* expanded = nullptr;
  std::int32_t* products = nullptr;  // [rows][product_stride]

  Index query_stride = 0, value_stride = 0, low_stride = 0;
  Index bytes = 0;

  // For `tiles` tiles of keys: at most 64 bytes per key and a constant.
  LOWATT_ALWAYS_INLINE LatteWorkspace(std::byte* base, Index rows, Index head_dim, Index value_dim,
                                      Index tiles, std::byte* scores = nullptr) noexcept
      : query_stride(round_up(head_dim, latte_query_padding)),
        value_stride(round_up(value_dim, latte_row_padding)),
        low_stride(tiles * tile_keys + latte_score_padding) {
    WorkspaceCutter cutter{base};
    const Index batch = latte_largest_batch, score_bytes = latte_score_bytes(head_dim);
    const Index whole_rows = round_up(rows, 16);  // of tile registers
    query = cutter.take<std::int8_t>(rows * query_stride);
    query_high = cutter.take<std::int8_t>(whole_rows * query_stride);
    threshold = cutter.take<std::int32_t>(rows);
    unit = cutter.take<float>(rows);
    best_low = cutter.take<std::int32_t>(rows);
    best = cutter.take<std::int32_t>(rows);
    weight_sum = cutter.take<double>(rows);
    weighted = cutter.take<float>(rows * value_stride);
    kept = cutter.take<std::int64_t>(rows);
    steps_per_logit = cutter.take<double>(rows);
    maximum = cutter.take<double>(rows);
    segments = cutter.take<LatteSegment>(rows);
    found = cutter.take<const std::byte*>(batch + latte_batch_padding);
    dots = cutter.take<std::int32_t>(batch);
    weights = cutter.take<float>(batch);
    logits = cutter.take<double>(batch);
    weight_bytes = cutter.take<std::uint8_t>(latte_most_weight_bytes * batch);
    low = scores != nullptr ? scores : cutter.take<std::byte>(rows * low_stride * score_bytes);
    expanded = cutter.take<std::byte>(query_stride * tile_keys);
    products = cutter.take<std::int32_t>(whole_rows * product_stride);
    bytes = cutter.size();
  }
  LOWATT_ALWAYS_INLINE explicit LatteWorkspace(const BlockArguments& block) noexcept
      : LatteWorkspace(block.workspace, block.rows, block.head_dim, block.value_dim,
                       block.tile_end - block.tile_begin, block.scores) {}

  // What the keys' offset of 128 adds to the dot products of row r.
  LOWATT_ALWAYS_INLINE std::int64_t dot_offset(Index r, Index head_dim) const noexcept {
    std::int64_t sum = 0;
    for (Index c = 0; c < head_dim; ++c) sum += query[r * query_stride + c];
    return 128 * sum;
  }

  template <class Score>
  LOWATT_ALWAYS_INLINE Score* low_row(Index r) const noexcept {
    return reinterpret_cast<Score*>(low) + r * low_stride;
  }
};

// The lowest score with which a key survives in row r. Hidden keys stay below every limit, as do
// all keys of a row that sees none.
template <class Score>
LOWATT_ALWAYS_INLINE Score latte_limit(const LatteWorkspace& workspace, Index r) noexcept {
  constexpr Index lowest = latte_no_score<Score> + Index{1};
  const Index limit = Index{workspace.best_low[r]} - workspace.threshold[r];
  return static_cast<Score>(limit > lowest ? limit : lowest);
}

}  // namespace lowatt
