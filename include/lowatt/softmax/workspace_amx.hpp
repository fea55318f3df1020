// What softmax keeps between its phases at level amx (tile_amx.hpp), and how much memory a block of
// queries needs at any level. No instructions of AMX: the attention layer measures workspaces with
// it.
#pragma once

#include "kernel.hpp"

namespace lowatt {

// Tiles of keys whose weights wait to be multiplied with their values together.
inline constexpr Index softmax_most_waiting = 4;

// What the phases of one block hand on to each other. It takes the place of SoftmaxWorkspace.
template <class Storage>
struct SoftmaxAmxWorkspace {
  static constexpr Index rows = Storage::query_block;
  // One cache line more than the scores, lest rows compete for the same places in the cache.
  static constexpr Index score_stride = tile_keys + 16;
  static constexpr Index weight_bytes = softmax_most_waiting * tile_keys * 16 * 2;  // of 16 rows

  typename Storage::Layout layout;
  WorkspaceCutter cutter;
  std::byte* query = nullptr;    // [rows/16][steps] tiles
  float* factor = nullptr;       // [rows], what scores are multiplied with
  SoftmaxSums sums;              // at int8 the maxima are bits of int32
  float* scores = nullptr;       // [rows][score_stride], float32 or int32
  std::byte* weights = nullptr;  // [rows/16][waiting][2] tiles of bf16
  std::byte* values = nullptr;   // of waiting tiles, as bf16: of int8, or without NaN and infinity

  LOWATT_ALWAYS_INLINE SoftmaxAmxWorkspace(std::byte* base, Index head_dim,
                                           Index value_dim) noexcept
      : layout(head_dim, value_dim),
        cutter{base},
        query(cutter.take<std::byte>(rows * layout.steps * 64)),
        factor(cutter.take<float>(rows)),
        sums(cutter, rows, layout.value_stride),
        scores(cutter.take<float>(rows * score_stride)),
        weights(cutter.take<std::byte>(rows / 16 * weight_bytes)),
        values(cutter.take<std::byte>(softmax_most_waiting * value_bytes())) {}
  LOWATT_ALWAYS_INLINE explicit SoftmaxAmxWorkspace(const BlockArguments& block) noexcept
      : SoftmaxAmxWorkspace(block.workspace, block.head_dim, block.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
  // Of one tile's values as bf16.
  LOWATT_ALWAYS_INLINE Index value_bytes() const noexcept {
    return layout.value_stride * tile_keys * 2;
  }
};

// Bytes that a block of queries needs, at any level.
template <class Storage>
LOWATT_ALWAYS_INLINE Index softmax_workspace_bytes(Index head_dim, Index value_dim) noexcept {
  const Index bytes = SoftmaxWorkspace<Storage>(nullptr, head_dim, value_dim).bytes();
  if constexpr (Storage::has_tile_products) {
    const Index amx_bytes = SoftmaxAmxWorkspace<Storage>(nullptr, head_dim, value_dim).bytes();
    return bytes > amx_bytes ? bytes : amx_bytes;
  }
  return bytes;
}

// Tiles of keys whose weights are known and whose values have not been added yet.
struct SoftmaxWaiting {
  Index count = 0;
  Index position[softmax_most_waiting] = {};
  const std::byte* tile[softmax_most_waiting] = {};
};

}  // namespace lowatt
