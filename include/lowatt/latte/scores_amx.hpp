// LATTE's first pass on the tile products of AMX: sixteen queries with sixteen keys at a time.
//
// The nibbles of a tile become bytes once for all rows of a block, in the layout that a right
// operand has anyway; products of 32 bits are packed to scores of 16 in the keys' own order
// (nibble_position()). Per 256 pairs and 64 dims a product takes 16 cycles, and storing it 16.
#pragma once

#include "kernel.hpp"

#if LOWATT_HAS_TILES

#include "../simd/ops_amx.hpp"
#include "../simd/tiles_amx.hpp"

namespace lowatt {

// One or two queries do not repay tile products.
inline constexpr Index latte_few_rows = 2;

// A tile's nibbles as bytes: [head_dim/4][64 keys][4]. What is missing to whole steps of 64 dims
// must be zero, or anything where queries are zero.
template <class L>
LOWATT_ALWAYS_INLINE void latte_expand(const std::byte* nibbles, Index head_dim,
                                       std::byte* out) noexcept {
  using Op = Ops<L>;
  const auto low_half = Op::fill_u8(15);
  for (Index c = 0; c < head_dim; c += nibble_group) {
    LOWATT_UNROLL
    for (Index j = 0; j < nibble_chunk; j += Op::bytes) {
      const auto both = Op::load(nibbles + j);
      Op::store(out + j, Op::bit_and(both, low_half));
      Op::store(out + nibble_chunk + j, Op::shift_right_u8(both, 4));
    }
    nibbles += nibble_chunk;
    out += 2 * nibble_chunk;
  }
}

LOWATT_ALWAYS_INLINE tiles::Operand latte_query_tiles(const LatteWorkspace& workspace) noexcept {
  return {reinterpret_cast<const std::byte*>(workspace.query_high), workspace.query_stride,
          16 * workspace.query_stride};
}
// Whether a block's queries stay in tile registers from one tile of keys to the next.
LOWATT_ALWAYS_INLINE bool latte_holds_queries(const LatteWorkspace& workspace,
                                              Index rows) noexcept {
  return rows > 16 && workspace.query_stride <= 2 * 64;
}

// Scores of the block's rows with the expanded tile, 32 bits.
LOWATT_ALWAYS_INLINE void latte_tile_scores(const LatteWorkspace& workspace, Index rows) noexcept {
  constexpr Index stride = LatteWorkspace::product_stride * 4;
  const Index steps = workspace.query_stride / 64, key_stride = tile_keys * 4;
  const tiles::Operand query = latte_query_tiles(workspace);
  const auto keys = [&](Index column) __attribute__((always_inline)) {
    return tiles::Operand{workspace.expanded + column * tiles::row_bytes, key_stride,
                          16 * key_stride};
  };
  const auto sums = [&](Index column) __attribute__((always_inline)) {
    return tiles::Sums{reinterpret_cast<std::byte*>(workspace.products) + column * tiles::row_bytes,
                       stride, 16 * stride};
  };
  const auto run = [&]<class Rows>(Rows) __attribute__((always_inline)) {
    constexpr Index next = Rows::columns;
    for (Index c = 0; c < 4; c += 2 * next) {
      Rows::template multiply<true, 0>(query, 64, keys(c), steps);
      if (c > 0) Rows::template store<1>(sums(c - next));
      Rows::template multiply<true, 1>(query, 64, keys(c + next), steps);
      Rows::template store<0>(sums(c));
    }
    Rows::template store<1>(sums(4 - next));
  };
  if (latte_holds_queries(workspace, rows)) {
    for (Index c = 0; c < 4; ++c) {
      tiles::TwoRowsHeld::multiply<true>(keys(c), steps);
      tiles::TwoRowsHeld::store(sums(c));
    }
  } else if (rows > 16)
    run(tiles::TwoRows{});
  else
    run(tiles::OneRow{});
}

template <class L>
void latte_tile_statistic(const LatteArguments& arguments) noexcept {
  using Op = Ops<L>;
  using S = LatteScores<L, std::int16_t>;
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  LatteBest<L, std::int16_t> best(block.rows);
  TileRows rows(block);
  const Index padded_dim = round_up(block.head_dim, nibble_group);
  for (Index c = padded_dim * tile_keys; c < workspace.query_stride * tile_keys; c += Op::bytes)
    Op::store(workspace.expanded + c, Op::zero());
  tiles::configure(block.rows < 16 ? block.rows : 16, 64);
  tiles::memory_barrier();
  if (latte_holds_queries(workspace, block.rows))
    tiles::TwoRowsHeld::load_left(latte_query_tiles(workspace), 64, workspace.query_stride / 64);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    latte_expand<L>(block.tiles.tile(t), block.head_dim, workspace.expanded);
    // Scores of a block lie in the second cache: lines of them that were fetched only as they were
    // written took a third of the pass.
    std::int16_t* low = workspace.low_row<std::int16_t>(0) + (t - block.tile_begin) * tile_keys;
    for (Index r = 0; r < block.rows; ++r)
      for (Index j = 0; j < tile_keys; j += 32)
        __builtin_prefetch(low + r * workspace.low_stride + j, 1);
    tiles::memory_barrier();
    latte_tile_scores(workspace, block.rows);
    tiles::memory_barrier();
    for (Index r = 0; r < block.rows; ++r, low += workspace.low_stride) {
      const std::int32_t* products = workspace.products + r * LatteWorkspace::product_stride;
      const auto first = Op::pack_s16(Op::load(products), Op::load(products + 16));
      const auto last = Op::pack_s16(Op::load(products + 32), Op::load(products + 48));
      Op::store(low, first);
      Op::store(low + 32, last);
      if (rows.word(r) == ~std::uint64_t{0})
        Op::store(best.lanes[r], S::max(Op::load(best.lanes[r]), S::max(first, last)));
      else
        best.add(r, low, rows.word(r));
    }
  }
  tiles::release();
  best.finish(block.rows, workspace.best_low);
}

template <>
inline void latte_first_pass<arch::amx>(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  if (block.head_dim > latte_most_narrow_head_dim)
    latte_score<arch::amx, std::int32_t>(arguments);
  else if (block.rows <= latte_few_rows)
    latte_score<arch::amx, std::int16_t>(arguments);
  else
    latte_tile_statistic<arch::amx>(arguments);
}

}  // namespace lowatt

#endif
