// Softmax at level amx, the second product: weights of up to softmax_most_waiting tiles of keys
// with their values. See tile_amx.hpp.
#pragma once

#include "workspace_amx.hpp"

#if LOWATT_HAS_TILES

#include "../simd/ops_amx.hpp"
#include "../simd/tiles_amx.hpp"

namespace lowatt {

// A tile of int8 values as bf16: [value_dim/16][32 pairs of keys][16 dims][2 keys], each times
// 2^24. A byte at the top of a word, converted to float32, is exact in its upper half.
template <class L>
void softmax_amx_expand(const std::byte* values, Index count, std::byte* out) noexcept {
  const __m512i top = _mm512_set1_epi32(static_cast<int>(0xff000000u));
  const __m512i second = _mm512_broadcast_i32x4(
      _mm_setr_epi8(-1, -1, -1, 1, -1, -1, -1, 5, -1, -1, -1, 9, -1, -1, -1, 13));
  const __m512i third = _mm512_broadcast_i32x4(
      _mm_setr_epi8(-1, -1, -1, 2, -1, -1, -1, 6, -1, -1, -1, 10, -1, -1, -1, 14));
  const auto number = [](__m512i word) __attribute__((always_inline)) {
    return (__m512i)_mm512_cvtepi32_ps(word);
  };
  const auto pair = [&](__m512i low, __m512i high) __attribute__((always_inline)) {
    return _mm512_or_si512(_mm512_srli_epi32(number(low), 16), number(high));
  };
  for (Index i = 0; i < count; i += 64) {
    const __m512i four = _mm512_loadu_si512(values + i);
    _mm512_storeu_si512(out + 2 * i,
                        pair(_mm512_slli_epi32(four, 24), _mm512_shuffle_epi8(four, second)));
    _mm512_storeu_si512(out + 2 * i + 64,
                        pair(_mm512_shuffle_epi8(four, third), _mm512_and_si512(four, top)));
  }
}

// Copies a tile's values with zeros for the keys in `nonfinite`.
template <class L>
void softmax_amx_clean(const std::byte* values, Index bytes, std::uint64_t nonfinite,
                       std::byte* out) noexcept {
  __builtin_memcpy(out, values, static_cast<std::size_t>(bytes));
  for (; nonfinite != 0; nonfinite &= nonfinite - 1) {
    const Index slot = __builtin_ctzll(nonfinite);
    for (Index i = slot / half_pair * 64; i < bytes; i += SoftmaxBf16Layout::value_block_bytes)
      for (Index c = 0; c < 16; ++c) __builtin_memset(out + i + c * 4 + slot % half_pair * 2, 0, 2);
  }
}

// Adds the waiting tiles to the rows from `first` on and the dims from column * 16 on.
template <class Block, class Storage>
LOWATT_ALWAYS_INLINE void softmax_amx_add_block(const SoftmaxWaiting& waiting, Index first,
                                                Index column, const std::byte* const* values,
                                                const SoftmaxAmxWorkspace<Storage>& workspace) {
  using Workspace = SoftmaxAmxWorkspace<Storage>;
  constexpr Index block_bytes = SoftmaxBf16Layout::value_block_bytes;
  const FloatSums& all = workspace.sums.sums;
  const tiles::Sums sums{
      reinterpret_cast<std::byte*>(all.recent + first * all.stride + column * 16), all.stride * 4,
      16 * all.stride * 4};
  if (all.state->recent == 0)
    tiles::clear();
  else
    Block::load(sums);
  const std::byte* weights = workspace.weights + first / 16 * Workspace::weight_bytes;
  for (Index t = 0; t < waiting.count; ++t)
    for (Index half = 0; half < 2; ++half, weights += tiles::bytes)
      Block::template multiply<false>(
          {weights, tiles::row_bytes, Workspace::weight_bytes},
          {values[t] + column * block_bytes + half * tiles::bytes, tiles::row_bytes, block_bytes});
  Block::store(sums);
}

// Adds what values with NaN or infinity give to the rows that see them.
template <class L>
void softmax_amx_add_nonfinite(const BlockArguments& block, const SoftmaxWaiting& waiting,
                               const SoftmaxAmxWorkspace<SoftmaxBf16>& workspace) noexcept {
  using Workspace = SoftmaxAmxWorkspace<SoftmaxBf16>;
  const FloatSums& sums = workspace.sums.sums;
  const auto number = [](const std::byte* at) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, at, sizeof bits);
    return float_from_bf16(bits);
  };
  for (Index t = 0; t < waiting.count; ++t) {
    const std::byte* tile = waiting.tile[t];
    if (nonfinite_word(tile) == 0) continue;
    for (Index r = 0; r < block.rows; ++r) {
      std::uint64_t word = nonfinite_word(tile) & block.visible_word(r, waiting.position[t]);
      for (; word != 0; word &= word - 1) {
        const Index slot = __builtin_ctzll(word), key = t * tile_keys + slot;
        const float weight = number(workspace.weights + r / 16 * Workspace::weight_bytes +
                                    key / 32 * tiles::bytes + r % 16 * 64 + key % 32 * 2);
        const std::byte* values =
            tile + workspace.layout.values_offset() + slot / half_pair * 64 + slot % half_pair * 2;
        for (Index c = 0; c < block.value_dim; ++c)
          sums.recent[r * sums.stride + c] +=
              weight * number(values + c / 16 * SoftmaxBf16Layout::value_block_bytes + c % 16 * 4);
      }
    }
  }
}

// Adds the waiting tiles to the block's sums.
template <class L, class Storage>
void softmax_amx_add(const BlockArguments& block, SoftmaxWaiting& waiting,
                     const SoftmaxAmxWorkspace<Storage>& workspace) noexcept {
  const auto& layout = workspace.layout;
  const FloatSums& sums = workspace.sums.sums;
  const std::byte* values[softmax_most_waiting];
  bool any_nonfinite = false;
  for (Index t = 0; t < waiting.count; ++t) {
    std::byte* own = workspace.values + t * workspace.value_bytes();
    values[t] = waiting.tile[t] + layout.values_offset();
    if constexpr (std::is_same_v<Storage, SoftmaxInt8>) {
      softmax_amx_expand<L>(values[t], workspace.value_bytes() / 2, own);
      values[t] = own;
    } else if (const std::uint64_t nonfinite = nonfinite_word(waiting.tile[t]); nonfinite != 0) {
      softmax_amx_clean<L>(values[t], workspace.value_bytes(), nonfinite, own);
      values[t] = own;
      any_nonfinite = true;
    }
  }

  tiles::memory_barrier();
  const Index blocks = layout.value_stride / 16, row_tiles = (block.rows + 15) / 16;
  const Index even = row_tiles / 2 * 2;
  Index column = 0;
  for (; column + 2 <= blocks; column += 2)
    for (Index r = 0; r < even; r += 2)
      softmax_amx_add_block<tiles::TwoByTwo>(waiting, r * 16, column, values, workspace);
  if (column < blocks)
    for (Index r = 0; r < even; r += 2)
      softmax_amx_add_block<tiles::TwoByOne>(waiting, r * 16, column, values, workspace);
  if (even < row_tiles) {
    for (column = 0; column + 4 <= blocks; column += 4)
      softmax_amx_add_block<tiles::OneByFour>(waiting, even * 16, column, values, workspace);
    for (; column < blocks; ++column)
      softmax_amx_add_block<tiles::OneByOne>(waiting, even * 16, column, values, workspace);
  }
  tiles::memory_barrier();
  if constexpr (std::is_same_v<Storage, SoftmaxBf16>)
    if (any_nonfinite) softmax_amx_add_nonfinite<L>(block, waiting, workspace);
  waiting.count = 0;

  sums.count_addition(block.rows);
}

}  // namespace lowatt

#endif
