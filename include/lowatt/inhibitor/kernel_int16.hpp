// The Inhibitor at 16 bits, the plaintext type of arXiv 2310.02041 (signed form as in kernel.hpp).
//
//   H_ik = sum_j sign(v_jk) * max(|v_jk| - z'_ij, 0),   z' = shifted, rescaled  sum_k |q_ik - k_jk|
//
// Lives on   vpminsw + vpdpwssd (scores, |q - k| = q + k - 2 min(q, k)) and vpsubusw + vpdpwssd
//            (inhibition): two instructions for 2 dims of 16 pairs each. Minimum and saturating
//            difference issue once per cycle at 512 bits, on one of the two ports that the dot
//            products use: d/16 cycles per pair at best. Below avx512icl the dot product is
//            pmaddwd + paddd.
// Layout     pack_int16.hpp; the same for prefill and decode and at every level.
// Overflow   a distance is at most 65534 * head_dim < 2^30, which bounds head_dim; with R <= 2^30
//            and the shift of InhibitorInt16Steps it stays within 32 bits. H gains at most 32767
//            per key: it is summed in 32 bits over 1024 tiles and in 64 bits from there on.
// Tails      head_dim and value_dim are padded with zeros when packed; hidden and absent keys get
//            z' = 32767, which no magnitude exceeds; rows come four at a time, then one at a time.
#pragma once

#include "arguments.hpp"
#include "pack_int16.hpp"

namespace lowatt {

inline constexpr Index inhibitor_int16_query_block = 32;
inline constexpr Index inhibitor_int16_most_head_dim = ((1 << 30) - 1) / 65534;
inline constexpr Index inhibitor_int16_kept_dims = 64;  // at least block_vectors * lanes
inline constexpr Index inhibitor_int16_recent_tiles = 2147483647 / 32767 / tile_keys;

// What the phases of one block hand on to each other.
struct InhibitorInt16Workspace {
  std::int16_t* query = nullptr;         // [rows][padded head_dim]
  std::int32_t* query_sum = nullptr;     // [rows]
  std::int64_t* distance_sum = nullptr;  // [rows], the row statistic
  std::int32_t* recent = nullptr;        // [rows][padded value_dim], H of the latest tiles
  std::int64_t* inhibited = nullptr;     // [rows][padded value_dim], H of those before
  std::uint16_t* shifted = nullptr;      // [rows][64], z' of one tile
  std::byte* kept = nullptr;             // magnitudes and directions of a tile, up to 64 dims
  Index stride = 0;                      // padded value_dim
  Index bytes = 0;

  LOWATT_ALWAYS_INLINE InhibitorInt16Workspace(std::byte* base, Index head_dim,
                                               Index value_dim) noexcept
      : stride(round_up(value_dim, value_pair_block)) {
    WorkspaceCutter cutter{base};
    const Index rows = inhibitor_int16_query_block;
    query = cutter.take<std::int16_t>(rows * round_up(head_dim, key_pair));
    query_sum = cutter.take<std::int32_t>(rows);
    distance_sum = cutter.take<std::int64_t>(rows);
    recent = cutter.take<std::int32_t>(rows * stride);
    inhibited = cutter.take<std::int64_t>(rows * stride);
    shifted = cutter.take<std::uint16_t>(rows * tile_keys);
    kept = cutter.take<std::byte>(2 * inhibitor_int16_kept_dims * tile_keys *
                                  Index{sizeof(std::int16_t)});
    bytes = cutter.size();
  }
  LOWATT_ALWAYS_INLINE explicit InhibitorInt16Workspace(const BlockArguments& block) noexcept
      : InhibitorInt16Workspace(block.workspace, block.head_dim, block.value_dim) {}

  LOWATT_ALWAYS_INLINE void clear(Index rows) const noexcept {
    const Index count = rows * stride;
    __builtin_memset(recent, 0, static_cast<std::size_t>(count) * sizeof *recent);
    __builtin_memset(inhibited, 0, static_cast<std::size_t>(count) * sizeof *inhibited);
  }
  LOWATT_ALWAYS_INLINE void fold(Index rows) const noexcept {
    const Index count = rows * stride;
    for (Index i = 0; i < count; ++i) inhibited[i] += recent[i];
    __builtin_memset(recent, 0, static_cast<std::size_t>(count) * sizeof *recent);
  }
};

// A recentred distance D to z' = floor((D + R) * M / 2^F) - A, in 32-bit lanes and one 64-bit
// product:
//
//   x = clamp(D - offset, lowest, highest)     z' = upper half of (x << up) * multiplier + addend
//
// Subtracting the offset, about what A is worth in steps of D, before the product leaves nothing to
// overflow, however large A is. z' below 0 becomes 0 and above 65535 becomes 65535 when it is
// narrowed; from 32767 on nothing passes. `highest` and `up` serve ratios M / 2^F >= 1 (F < 16).
struct InhibitorInt16Steps {
  std::int32_t offset = 0, lowest = 0, highest = 0;
  int up = 0;
  std::uint32_t multiplier = 0;
  std::int64_t addend = 0;

  LOWATT_ALWAYS_INLINE explicit InhibitorInt16Steps(const InhibitorConstants& constants) noexcept {
    const std::int64_t m = constants.multiplier, alpha = constants.alpha;
    const int shift = constants.shift;
    // No score exceeds alpha: z' = 0 throughout. Otherwise alpha << shift fits 47 bits and the
    // offset stays within 2^30.
    constexpr std::int64_t distance_limit = 1 << 30;
    if (alpha > 0 && alpha >= ((distance_limit + constants.rounding) * m) >> shift) return;
    const std::int64_t reach = alpha > 0 ? (alpha << shift) / m : 0;
    offset = static_cast<std::int32_t>(reach - constants.rounding);
    lowest = offset < 0 ? -offset : 0;
    addend = (reach * m - alpha * (std::int64_t{1} << shift)) * (std::int64_t{1} << (32 - shift));
    up = shift < 16 ? 16 - shift : 0;
    multiplier = static_cast<std::uint32_t>(m << (32 - shift - up));
    // With up > 0, M is at least 2^15, so that this x reaches 32767.
    highest = up > 0 ? (1 << shift) + 1 : 2147483647;
  }
};

// |q - k| sums of Rows queries with the keys of a tile, each plus its row's `base`: use(first,
// distances) for registers of keys from `first` on.
template <class L, int Rows, class Use>
LOWATT_ALWAYS_INLINE void inhibitor_int16_distances(const std::int16_t* query, Index padded_dim,
                                                    const std::int32_t* base, const std::byte* keys,
                                                    const std::int32_t* key_sum,
                                                    const Use& use) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int vectors = Op::block_vectors;
  const Register minus_two = Op::fill_u16(-2);
  for (Index first = 0; first < tile_keys; first += vectors * Op::lanes) {
    Register distance[Rows][vectors];
    LOWATT_UNROLL for (int v = 0; v < vectors; ++v) {
      const Register sum = Op::load(key_sum + first + v * Op::lanes);
      LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
        distance[r][v] = Op::add_i32(sum, Op::fill_i32(base[r]));
      }
    }
    const std::byte* key_at = keys + first * key_pair * Index{sizeof(std::int16_t)};
    for (Index c = 0; c < padded_dim; c += key_pair) {
      Register key[vectors];
      LOWATT_UNROLL for (int v = 0; v < vectors; ++v) {
        key[v] = Op::load(key_at + v * Op::bytes);
      }
      LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
        const Register q = Op::broadcast4(query + r * padded_dim + c);
        LOWATT_UNROLL for (int v = 0; v < vectors; ++v) {
          distance[r][v] = Op::dot2(distance[r][v], Op::min_s16(q, key[v]), minus_two);
        }
      }
      key_at += tile_keys * key_pair * Index{sizeof(std::int16_t)};
    }
    use(first, distance);
  }
}

// z' of Rows queries with the keys of a tile. `base` holds query sum - centre - steps.offset.
template <class L, int Rows, bool Steep>
void inhibitor_int16_shift_scores(const std::int16_t* query, Index padded_dim,
                                  const std::int32_t* base, const std::byte* keys,
                                  const std::int32_t* key_sum, const InhibitorInt16Steps& steps,
                                  std::uint16_t* shifted) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int vectors = Op::block_vectors;
  const Register lowest = Op::fill_i32(steps.lowest), highest = Op::fill_i32(steps.highest);
  const Register multiplier = Op::fill_i32(static_cast<std::int32_t>(steps.multiplier));
  const Register addend = Op::fill_i64(steps.addend);
  const auto score = [&](Register distance) __attribute__((always_inline)) {
    Register x = Op::max_i32(distance, lowest);
    if constexpr (Steep) x = Op::shift_left_i32(Op::min_i32(x, highest), steps.up);
    return Op::multiply_add_high(x, multiplier, addend);
  };
  inhibitor_int16_distances<L, Rows>(
      query, padded_dim, base, keys, key_sum,
      [&](Index first, const Register(&distance)[Rows][vectors]) __attribute__((always_inline)) {
        LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
          LOWATT_UNROLL for (int v = 0; v < vectors; v += 2) {
            Op::store(shifted + r * tile_keys + first + v * Op::lanes,
                      Op::narrow_u16(score(distance[r][v]), score(distance[r][v + 1])));
          }
        }
      });
}

// Registers of values as inhibition needs them: magnitudes, and the direction of what is left of
// them (-1 or 1; unsigned, 0 or 1). Keeps them for later readers where there will be any.
template <class L, bool Keep>
struct InhibitorInt16Values {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const std::int16_t* values;
  bool is_signed;
  std::byte* kept;
  Register one = Op::fill_u16(1), flip = Op::fill_u16(is_signed ? -2 : -1);

  // Register number `number` of those that are kept, at values + at.
  LOWATT_ALWAYS_INLINE void load(Index at, Index number, Register& magnitude,
                                 Register& direction) const noexcept {
    const Register value = Op::load(values + at);
    magnitude = Op::absolute_s16(value);
    direction = Op::add_i16(one, Op::bit_and(Op::negative_s16(value), flip));
    if constexpr (Keep) {
      Op::store(kept + number * 2 * Op::bytes, magnitude);
      Op::store(kept + number * 2 * Op::bytes + Op::bytes, direction);
    }
  }
};
template <class L>
struct InhibitorInt16KeptValues {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const std::byte* kept;

  LOWATT_ALWAYS_INLINE void load(Index, Index number, Register& magnitude,
                                 Register& direction) const noexcept {
    magnitude = Op::load(kept + number * 2 * Op::bytes);
    direction = Op::load(kept + number * 2 * Op::bytes + Op::bytes);
  }
};

// Adds one tile's inhibited values of Rows queries, `Vectors` registers of dims from `vector` on.
template <class L, int Rows, int Vectors, class Values>
void inhibitor_int16_inhibit(const std::uint16_t* shifted, const Values& values, Index vector,
                             std::int32_t* recent, Index stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register sum[Rows][Vectors];
  Index at[Vectors];
  LOWATT_UNROLL for (int v = 0; v < Vectors; ++v) {
    at[v] = value_pair_offset<L>(vector + v);
    LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
      sum[r][v] = Op::load(recent + r * stride + (vector + v) * Op::lanes);
    }
  }
  for (Index pair = 0; pair < tile_keys / value_pair; ++pair) {
    Register score[Rows];
    LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
      score[r] = Op::broadcast4(shifted + r * tile_keys + pair * value_pair);
    }
    LOWATT_UNROLL for (int v = 0; v < Vectors; ++v) {
      Register magnitude, direction;
      values.load(at[v] + pair * value_pair_stride, pair * Vectors + v, magnitude, direction);
      LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
        sum[r][v] = Op::dot2(sum[r][v], Op::subtract_saturate_u16(magnitude, score[r]), direction);
      }
    }
  }
  LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL for (int v = 0; v < Vectors; ++v) {
      Op::store(recent + r * stride + (vector + v) * Op::lanes, sum[r][v]);
    }
  }
}

// The same for all rows of a block: the first ones read the tile, later ones what those have kept.
template <class L, int Vectors>
void inhibitor_int16_inhibit_rows(Index rows, const InhibitorInt16Workspace& workspace,
                                  const std::int16_t* values, bool is_signed,
                                  Index vector) noexcept {
  const InhibitorInt16Values<L, false> once{values, is_signed, nullptr};
  const InhibitorInt16Values<L, true> first{values, is_signed, workspace.kept};
  const InhibitorInt16KeptValues<L> later{workspace.kept};
  const auto inhibit = [&]<int Rows>(Index r, const auto& from) {
    inhibitor_int16_inhibit<L, Rows, Vectors>(workspace.shifted + r * tile_keys, from, vector,
                                              workspace.recent + r * workspace.stride,
                                              workspace.stride);
  };
  Index r = rows < 4 ? 1 : 4;
  if (rows == 1)
    inhibit.template operator()<1>(0, once);
  else if (rows < 4)
    inhibit.template operator()<1>(0, first);
  else
    inhibit.template operator()<4>(0, first);
  for (; r + 4 <= rows; r += 4) inhibit.template operator()<4>(r, later);
  for (; r < rows; ++r) inhibit.template operator()<1>(r, later);
}

// Encodes the block's queries and clears its accumulators.
template <class L>
void inhibitor_int16_prepare(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorInt16Workspace workspace(block);
  const Index padded_dim = round_up(block.head_dim, key_pair);
  for (Index r = 0; r < block.rows; ++r) {
    std::int16_t* query = workspace.query + r * padded_dim;
    query[padded_dim - 1] = 0;
    quantize_row<L>(block.query + r * block.query_stride, block.head_dim, arguments.query_inverse,
                    query);
    std::int32_t sum = 0;
    for (Index c = 0; c < block.head_dim; ++c) sum += query[c];
    workspace.query_sum[r] = sum;
    workspace.distance_sum[r] = 0;
  }
  workspace.clear(block.rows);
}

// The row statistic of centring: sum of distances over visible keys.
template <class L>
void inhibitor_int16_statistic(const InhibitorArguments& arguments) noexcept {
  if (!arguments.center) return;
  using Op = Ops<L>;
  const BlockArguments& block = arguments.block;
  const InhibitorInt16Workspace workspace(block);
  const InhibitorInt16TileLayout layout(block.head_dim, block.value_dim);
  const Index padded_dim = round_up(block.head_dim, key_pair);
  TileRows rows(block);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    const std::byte* tile = block.tiles.tile(t);
    const auto* key_sum = reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset());
    const auto add = [&]<int Rows>(Index row) {
      alignas(64) std::int32_t sums[Rows][tile_keys];
      inhibitor_int16_distances<L, Rows>(
          workspace.query + row * padded_dim, padded_dim, workspace.query_sum + row, tile, key_sum,
          [&](Index first, const auto& distance) {
            LOWATT_UNROLL for (int r = 0; r < Rows; ++r) {
              LOWATT_UNROLL for (int v = 0; v < Op::block_vectors; ++v) {
                Op::store(sums[r] + first + v * Op::lanes, distance[r][v]);
              }
            }
          });
      for (Index r = 0; r < Rows; ++r) {
        hide(sums[r], rows.word(row + r), 0);
        std::int64_t sum = 0;
        for (Index j = 0; j < tile_keys; ++j) sum += sums[r][j];
        workspace.distance_sum[row + r] += sum;
      }
    };
    for_rows(block.rows, add);
  }
}

// Adds the tiles [tile_begin, tile_end) to the block's H.
template <class L>
void inhibitor_int16_accumulate(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorInt16Workspace workspace(block);
  const InhibitorInt16TileLayout layout(block.head_dim, block.value_dim);
  const InhibitorInt16Steps steps(arguments.constants);
  const Index padded_dim = round_up(block.head_dim, key_pair);

  std::int32_t base[inhibitor_int16_query_block];
  for (Index r = 0; r < block.rows; ++r) {
    const Index count = arguments.center ? block.visible_count(r) : 0;
    const std::int64_t centre = count > 0 ? workspace.distance_sum[r] / count : 0;
    // May wrap; the sum with the key's does not.
    base[r] = static_cast<std::int32_t>(workspace.query_sum[r] - centre - steps.offset);
  }

  TileRows rows(block);
  Index recent_tiles = 0;
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    const std::byte* tile = block.tiles.tile(t);
    const auto* key_sum = reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset());
    const auto shift_scores = [&]<int Rows>(Index r) {
      const std::int16_t* query = workspace.query + r * padded_dim;
      std::uint16_t* shifted = workspace.shifted + r * tile_keys;
      if (steps.up == 0)
        inhibitor_int16_shift_scores<L, Rows, false>(query, padded_dim, base + r, tile, key_sum,
                                                     steps, shifted);
      else
        inhibitor_int16_shift_scores<L, Rows, true>(query, padded_dim, base + r, tile, key_sum,
                                                    steps, shifted);
    };
    for_rows(block.rows, shift_scores);
    for (Index r = 0; r < block.rows; ++r)
      hide(workspace.shifted + r * tile_keys, rows.word(r), std::uint16_t{32767});

    const auto* values = reinterpret_cast<const std::int16_t*>(tile + layout.values_offset());
    const Index vectors = workspace.stride / Ops<L>::lanes;
    for_widths<Ops<L>::block_vectors, 1>(
        vectors, [&]<int Vectors>(Index v) __attribute__((always_inline)) {
          inhibitor_int16_inhibit_rows<L, Vectors>(block.rows, workspace, values,
                                                   arguments.is_signed, v);
        });
    if (++recent_tiles % inhibitor_int16_recent_tiles == 0) workspace.fold(block.rows);
  }
  workspace.fold(block.rows);
}

template <class L>
void inhibitor_int16_finish(const InhibitorArguments& arguments) noexcept {
  const InhibitorInt16Workspace workspace(arguments.block);
  inhibitor_write<L>(arguments, workspace.inhibited, workspace.stride);
}

// See arguments.hpp.
template <class L>
void inhibitor_int16_store_sums(const InhibitorArguments& arguments, double* statistic) noexcept {
  const InhibitorInt16Workspace workspace(arguments.block);
  inhibitor_store_statistic<L>(arguments.block, workspace.distance_sum, statistic);
}
template <class L>
void inhibitor_int16_load_sums(const InhibitorArguments& arguments,
                               const double* statistic) noexcept {
  const InhibitorInt16Workspace workspace(arguments.block);
  inhibitor_load_statistic<L>(arguments.block, statistic, workspace.distance_sum);
}
template <class L>
void inhibitor_int16_store_part(const InhibitorArguments& arguments,
                                PartRows<double> part) noexcept {
  const InhibitorInt16Workspace workspace(arguments.block);
  inhibitor_store_rows<L>(arguments.block, workspace.inhibited, workspace.stride, part);
}

}  // namespace lowatt
