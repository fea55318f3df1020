// How 64 tokens of float32 keys and values lie in memory, and what is computed from them.
// Per tile of 64 keys:
//
//   nonfinite  u64, padded to 64 bytes     bit j: the value of key j holds NaN or infinity
//   keys       [head_dim][64 keys]         one register: keys of one dim
//   values     [64 keys][value_dim]        one register: dims of one key; rows padded to 16 dims
//
// Unused slots are zero. The scores of a block of queries with a tile, and what the tile adds to
// their outputs, are both a matrix product whose right side lies as registers need it:
//
//   scores[row][key]  = sum over dims of step(query[row][dim], keys[dim][key])
//   output[row][dim] += sum over keys of step(weight[row][key], values[key][dim])
//
// The step is a product for softmax; for the Inhibitor it is a distance, then an inhibition.
//
// Accuracy       scores are summed 32 dims at a time, then over those groups; outputs a tile at a
//                time, over 16 tiles, and beyond those in double. So rounding errors do not grow
//                with the number of keys.
#pragma once

#include "../core/tiles.hpp"
#include "float_product.hpp"

namespace lowatt {

struct FloatTileLayout {
  static constexpr Index keys_offset = 64;
  Index head_dim = 0, value_stride = 0;  // value_stride in elements

  LOWATT_ALWAYS_INLINE FloatTileLayout(Index head_dim_, Index value_dim) noexcept
      : head_dim(head_dim_), value_stride(round_up(value_dim, 16)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept {
    return keys_offset + head_dim * tile_keys * Index{sizeof(float)};
  }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    return values_offset() + tile_keys * value_stride * Index{sizeof(float)};
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    erase_bits(tile, first);
    erase_tokens(tile + keys_offset, head_dim, Index{sizeof(float)}, first);
    erase_tokens(tile + values_offset(), 1, value_stride * Index{sizeof(float)}, first);
  }
};

// One tile, to read.
struct FloatTile {
  const float* keys = nullptr;    // [head_dim][64]
  const float* values = nullptr;  // [64][value_stride]
  std::uint64_t nonfinite = 0;

  LOWATT_ALWAYS_INLINE FloatTile(const std::byte* tile, const FloatTileLayout& layout) noexcept
      : keys(reinterpret_cast<const float*>(tile + FloatTileLayout::keys_offset)),
        values(reinterpret_cast<const float*>(tile + layout.values_offset())) {
    __builtin_memcpy(&nonfinite, tile, sizeof nonfinite);
  }
  // Of a tile that is stored in some other way.
  LOWATT_ALWAYS_INLINE FloatTile(const float* keys_, const float* values_,
                                 std::uint64_t nonfinite_) noexcept
      : keys(keys_), values(values_), nonfinite(nonfinite_) {}
};

template <class L>
void float_pack(const PackArguments& tokens) noexcept {
  constexpr std::uint32_t exponent = 0x7f800000u;  // all ones in NaN and infinity alone
  const FloatTileLayout layout(tokens.head_dim, tokens.value_dim);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    auto* keys = reinterpret_cast<float*>(tile + FloatTileLayout::keys_offset) + slot;
    const float* key = tokens.key + i * tokens.key_stride;
    for (Index c = 0; c < tokens.head_dim; ++c) keys[c * tile_keys] = key[c];

    float* values =
        reinterpret_cast<float*>(tile + layout.values_offset()) + slot * layout.value_stride;
    const float* value = tokens.value + i * tokens.value_stride;
    std::uint32_t largest = 0;
    for (Index c = 0; c < tokens.value_dim; ++c) {
      const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, value[c]) & exponent;
      largest = largest > bits ? largest : bits;
      values[c] = value[c];
    }
    std::uint64_t nonfinite;
    __builtin_memcpy(&nonfinite, tile, sizeof nonfinite);
    nonfinite &= ~(std::uint64_t{1} << slot);
    if (largest == exponent) nonfinite |= std::uint64_t{1} << slot;
    __builtin_memcpy(tile, &nonfinite, sizeof nonfinite);
  }
}

// scores[rows][64] of a block of queries with the keys of a tile.
template <class L, class Step>
void float_scores(ConstFloatRows query, Index rows, Index head_dim, const FloatTile& tile,
                  float* scores) noexcept {
  constexpr Index together = 32;
  for (Index c = 0; c < head_dim; c += together) {
    const Index depth = head_dim - c < together ? head_dim - c : together;
    float_combine<L, Step>(ConstFloatRows{query.data + c, query.stride}, rows,
                           {tile.keys + c * tile_keys, tile_keys}, depth, tile_keys,
                           {scores, tile_keys}, c > 0);
  }
}

// Outputs of a block of queries while they are summed up, `stride` numbers per row: `recent` for
// some tiles, `total` for all before them, where there are any: without, it holds anything.
struct FloatSums {
  static constexpr Index most_recent = 16;
  struct State {
    Index recent = 0;  // how often was added to `recent`, a tile or a few at a time
    bool has_total = false;
  };
  State* state = nullptr;
  float* recent = nullptr;
  double* total = nullptr;
  Index stride = 0;

  LOWATT_ALWAYS_INLINE FloatSums(WorkspaceCutter& cutter, Index rows, Index stride_) noexcept
      : state(cutter.take<State>(1)),
        recent(cutter.take<float>(rows * stride_)),
        total(cutter.take<double>(rows * stride_)),
        stride(stride_) {}

  // sum(i) for the numbers i of a row.
  LOWATT_ALWAYS_INLINE auto row(Index r) const noexcept {
    const bool adds = state->has_total;
    return [ adds, recent = recent + r * stride, total = total + r * stride ](Index i)
        __attribute__((always_inline)) {
      return (adds ? total[i] : 0.0) + static_cast<double>(recent[i]);
    };
  }
  LOWATT_ALWAYS_INLINE void clear(Index rows) const noexcept {
    for (Index i = 0; i < rows * stride; ++i) recent[i] = 0;
    *state = {};
  }
  LOWATT_ALWAYS_INLINE void fold(Index rows) const noexcept {
    const bool adds = state->has_total;
    for (Index i = 0; i < rows * stride; ++i) {
      total[i] = (adds ? total[i] : 0.0) + static_cast<double>(recent[i]);
      recent[i] = 0;
    }
    *state = {0, true};
  }
  // To be called whenever something was added.
  LOWATT_ALWAYS_INLINE void count_addition(Index rows) const noexcept {
    if (++state->recent == most_recent) fold(rows);
  }
  LOWATT_ALWAYS_INLINE void multiply_row(Index row, float factor) const noexcept {
    for (Index i = row * stride; i < (row + 1) * stride; ++i) recent[i] *= factor;
    if (!state->has_total) return;
    for (Index i = row * stride; i < (row + 1) * stride; ++i)
      total[i] *= static_cast<double>(factor);
  }
};

// Adds tile t to the outputs, given the weights [rows][64]. A hidden key's weight makes a finite
// value vanish, but not NaN (0 * NaN is NaN): where a row hides such a value, only visible keys are
// touched, one at a time.
template <class L, class Step>
void float_add_values(const BlockArguments& block, Index t, const FloatTile& tile,
                      Index value_stride, const float* weights, const FloatSums& sums) noexcept {
  bool hides_nonfinite = false;
  if (tile.nonfinite != 0)
    for (Index r = 0; r < block.rows; ++r)
      hides_nonfinite |= (tile.nonfinite & ~block.visible_word(r, t)) != 0;
  if (!hides_nonfinite) {
    float_combine<L, Step>(ConstFloatRows{weights, tile_keys}, block.rows,
                           {tile.values, value_stride}, tile_keys, value_stride,
                           {sums.recent, sums.stride}, true);
    return;
  }
  for (Index r = 0; r < block.rows; ++r)
    for (std::uint64_t word = block.visible_word(r, t); word != 0; word &= word - 1) {
      const Index j = __builtin_ctzll(word);
      float_combine<L, Step>(ConstFloatRows{weights + r * tile_keys + j, tile_keys}, 1,
                             {tile.values + j * value_stride, value_stride}, 1, value_stride,
                             {sums.recent + r * sums.stride, sums.stride}, true);
    }
}

}  // namespace lowatt
