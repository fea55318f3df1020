// LATTE's first pass: scores of the high nibbles and their maximum. See kernel.hpp.
#pragma once

#include "workspace.hpp"

namespace lowatt {

// Scores of one width as registers.
template <class L, class Score>
struct LatteScores;
template <class L>
struct LatteScores<L, std::int16_t> {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  static constexpr Index count = Op::bytes / 2;
  static LOWATT_ALWAYS_INLINE Register fill(std::int16_t x) noexcept { return Op::fill_u16(x); }
  static LOWATT_ALWAYS_INLINE Register max(Register a, Register b) noexcept {
    return Op::max_s16(a, b);
  }
  static LOWATT_ALWAYS_INLINE std::int16_t reduce_max(Register a) noexcept {
    return Op::reduce_max_s16(a);
  }
  // Scores of 2 * Op::lanes keys in their own order, from those of the lanes that pack.hpp pairs.
  static LOWATT_ALWAYS_INLINE void store(std::int16_t* out, Register a, Register b) noexcept {
    Op::store(out, Op::pack_s16(a, b));
  }
};
template <class L>
struct LatteScores<L, std::int32_t> {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  static constexpr Index count = Op::lanes;
  static LOWATT_ALWAYS_INLINE Register fill(std::int32_t x) noexcept { return Op::fill_i32(x); }
  static LOWATT_ALWAYS_INLINE Register max(Register a, Register b) noexcept {
    return Op::max_i32(a, b);
  }
  static LOWATT_ALWAYS_INLINE std::int32_t reduce_max(Register a) noexcept {
    return Op::reduce_max_i32(a);
  }
  static LOWATT_ALWAYS_INLINE void store(std::int32_t* out, Register a, Register b) noexcept {
    alignas(64) std::int32_t both[2][Op::lanes];
    Op::store(both[0], a);
    Op::store(both[1], b);
    for (Index l = 0; l < Op::lanes; l += 4)
      for (Index half = 0; half < 2; ++half)
        __builtin_memcpy(out + 2 * l + 4 * half, both[half] + l, 16);
  }
};

// The best scores of a block's rows with the tiles so far, lane by lane until the end.
template <class L, class Score>
struct LatteBest {
  using S = LatteScores<L, Score>;
  alignas(64) Score lanes[latte_most_rows][S::count];

  LOWATT_ALWAYS_INLINE explicit LatteBest(Index rows) noexcept {
    for (Index r = 0; r < rows; ++r) Ops<L>::store(lanes[r], S::fill(latte_no_score<Score>));
  }
  // Takes in the 64 scores of row r, of which only some are visible: the others become the lowest.
  LOWATT_ALWAYS_INLINE void add(Index r, Score* scores, std::uint64_t visible) noexcept {
    hide(scores, visible, latte_no_score<Score>);
    auto best = Ops<L>::load(lanes[r]);
    for (Index j = 0; j < tile_keys; j += S::count) best = S::max(best, Ops<L>::load(scores + j));
    Ops<L>::store(lanes[r], best);
  }
  // Merges them into the rows' statistic.
  LOWATT_ALWAYS_INLINE void finish(Index rows, std::int32_t* best_low) const noexcept {
    for (Index r = 0; r < rows; ++r) {
      const Score best = S::reduce_max(Ops<L>::load(lanes[r]));
      if (best > latte_no_score<Score> && best > best_low[r]) best_low[r] = best;
    }
  }
};

// Scores of Rows queries with the 64 keys of a tile. The nibbles' offset of 8 adds the same to all
// scores of a row, so nothing that compares them sees it.
template <class L, class Score, int Rows>
void latte_low_scores(const std::int8_t* query_high, Index query_stride, Index head_dim,
                      const std::byte* nibbles, Score* low, Index low_stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int pairs = Op::block_vectors / 2;
  const Register low_half = Op::fill_u8(15);
  for (Index first = 0; first < tile_keys; first += pairs * 2 * Op::lanes) {
    Register sum[Rows][2 * pairs];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < 2 * pairs; ++v) sum[r][v] = Op::zero();
    }
    for (Index c = 0; c < head_dim; c += nibble_group) {
      Register front[2 * pairs], back[2 * pairs];  // the first and the last four of eight dims
      LOWATT_UNROLL
      for (int v = 0; v < 2 * pairs; ++v) {
        // The lanes of both registers of a pair hold keys from `key` on.
        const Index key = first + v / 2 * 2 * Op::lanes;
        const Index lane = nibble_position(key) + v % 2 * 16;
        const Register both = Op::load(nibbles + c / nibble_group * nibble_chunk + lane * 4);
        front[v] = Op::bit_and(both, low_half);
        back[v] = Op::shift_right_u8(both, 4);
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const std::int8_t* query = query_high + r * query_stride + c;
        const Register query_front = Op::broadcast4(query);
        const Register query_back = Op::broadcast4(query + nibble_group / 2);
        LOWATT_UNROLL
        for (int v = 0; v < 2 * pairs; ++v) {
          sum[r][v] = Op::dot4_narrow(sum[r][v], front[v], query_front);
          sum[r][v] = Op::dot4_narrow(sum[r][v], back[v], query_back);
        }
      }
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < pairs; ++v)
        LatteScores<L, Score>::store(low + r * low_stride + first + v * 2 * Op::lanes,
                                     sum[r][2 * v], sum[r][2 * v + 1]);
    }
  }
}

// Scores of the block's rows with the tile range, and their maxima.
template <class L, class Score>
void latte_score(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  LatteBest<L, Score> best(block.rows);
  TileRows rows(block);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    const std::byte* nibbles = block.tiles.tile(t);
    Score* low = workspace.low_row<Score>(0) + (t - block.tile_begin) * tile_keys;
    for_rows(
        block.rows, [&]<int Rows>(Index r) __attribute__((always_inline)) {
          latte_low_scores<L, Score, Rows>(workspace.query_high + r * workspace.query_stride,
                                           workspace.query_stride, block.head_dim, nibbles,
                                           low + r * workspace.low_stride, workspace.low_stride);
        });
    for (Index r = 0; r < block.rows; ++r)
      best.add(r, low + r * workspace.low_stride, rows.word(r));
  }
  best.finish(block.rows, workspace.best_low);
}

}  // namespace lowatt
