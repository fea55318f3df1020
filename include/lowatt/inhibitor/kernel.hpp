// The Inhibitor at 8 bits, at 4 bits, and over thermometer codes (arXiv 2310.02041, signed form of
// the paper's section on signed values).
//
//   H_ik = sum_j sign(v_jk) * max(|v_jk| - z'_ij, 0),   z' = shifted, rescaled  sum_k |q_ik - k_jk|
//
// Lives on   vpminub + vpdpbusd (scores) and vpsubusb + vpdpbusd (inhibition): two instructions for
//            4 dims of 16 pairs each, bound by the byte unit's one per cycle at 512 bits. Below
//            avx512icl the dot product is maddubs and a 16-bit sum, at sse2 two pmullw.
//            Distances of thermometer codes are counted bits or sums over levels
//            (simd/thermometer_tile.hpp).
// Layout     pack.hpp; the same for prefill and decode and at every level. A tile of 4 bits is
//            unpacked once per block of queries, and then one of 8.
// Overflow   a distance is at most 254 * head_dim, of codes planes * head_dim; where that and R
//            exceed 65535, or the shift F is below 17, scores are taken in 32 bits instead of 16,
//            and in 64 where its product with M needs them. H gains at most 127
//            per key: 32 bits hold 16.9 million keys. More are refused, as are head_dims whose
//            sums and R would leave 32 bits.
// Tails      head_dim and value_dim are padded with zeros when packed; hidden and absent keys get
//            z' = 127, which no number that packing writes exceeds; rows come four at a time, then
//            one at a time.
// Skipping   keys and tiles that cannot add to a row are left out (tile.hpp): no bit changes.
#pragma once

#include "arguments.hpp"
#include "tile.hpp"

namespace lowatt {

inline constexpr Index inhibitor_query_block = 32;
// Dims whose values are split at a time: few enough to stay in the nearest cache beside H.
inline constexpr Index inhibitor_split_dims = 64;
inline constexpr Index inhibitor_most_keys = 2147483647 / 127;
// R is at most 2^30, sums of q + k at most 510 * head_dim.
inline constexpr Index inhibitor_most_head_dim = (2147483647 - (1 << 30)) / 510;

// What the phases of one block hand on to each other.
struct InhibitorWorkspace {
  Index query_stride = 0, value_stride = 0;
  std::uint8_t* query = nullptr;         // [rows][query_stride], q8 + 128 or q4 + 8
  std::int32_t* query_sum = nullptr;     // [rows], sum of the query's bytes
  std::int64_t* distance_sum = nullptr;  // [rows], the row statistic
  std::int32_t* inhibited = nullptr;     // [rows][value_stride], H
  std::uint8_t* shifted = nullptr;       // [rows][64], z' of one tile
  std::int32_t* distances = nullptr;     // [rows][64] of one tile, less the centre
  std::uint8_t* magnitude = nullptr;     // of inhibitor_split_dims dims of a tile: |v8|
  std::int8_t* direction = nullptr;      // -1, 0, 1
  std::uint8_t* keys = nullptr;          // at 4 bits, one tile as it would be at 8
  std::int8_t* values = nullptr;
  Index bytes = 0;

  LOWATT_ALWAYS_INLINE InhibitorWorkspace(std::byte* base, Index head_dim, Index value_dim,
                                          InhibitorWidth width) noexcept
      : query_stride(width.planes > 0 ? thermometer_query_bytes(width.planes, head_dim)
                                      : round_up(head_dim, inhibitor_box_step)),
        value_stride(round_up(value_dim, value_block)) {
    WorkspaceCutter cutter{base};
    const Index rows = inhibitor_query_block;
    query = cutter.take<std::uint8_t>(rows * query_stride);
    query_sum = cutter.take<std::int32_t>(rows);
    distance_sum = cutter.take<std::int64_t>(rows);
    inhibited = cutter.take<std::int32_t>(rows * value_stride);
    shifted = cutter.take<std::uint8_t>(rows * tile_keys);
    distances = cutter.take<std::int32_t>(rows * tile_keys);
    magnitude = cutter.take<std::uint8_t>(inhibitor_split_dims * tile_keys);
    direction = cutter.take<std::int8_t>(inhibitor_split_dims * tile_keys);
    if (width.is_half) {
      keys = cutter.take<std::uint8_t>(key_tile_bytes(round_up(head_dim, width.dim_step())));
      values = cutter.take<std::int8_t>(value_tile_bytes(value_dim));
    }
    bytes = cutter.size();
  }
  LOWATT_ALWAYS_INLINE explicit InhibitorWorkspace(const InhibitorArguments& arguments) noexcept
      : InhibitorWorkspace(arguments.block.workspace, arguments.block.head_dim,
                           arguments.block.value_dim, arguments.width) {}
};

// Quantises one query and returns the sum of its bytes.
template <class L>
std::int32_t inhibitor_prepare_query(const InhibitorArguments& arguments, const float* row,
                                     Index stride, std::uint8_t* query) noexcept {
  using Op = Ops<L>;
  const Index head_dim = arguments.block.head_dim;
  quantize_row<L>(row, head_dim, arguments.query_inverse, reinterpret_cast<std::int8_t*>(query),
                  arguments.width.limit());
  for (Index c = 0; c < head_dim; c += Op::bytes)
    Op::store(query + c, Op::add_u8(Op::load(query + c), Op::fill_u8(arguments.width.bias())));
  for (Index c = head_dim; c < stride; ++c) query[c] = 0;
  auto sum = Op::zero();
  for (Index c = 0; c < stride; c += Op::bytes)
    sum = Op::dot4_narrow(sum, Op::load(query + c), Op::fill_u8(1));
  return Op::reduce_add_i32(sum);
}

// Encodes the block's queries and clears its accumulators.
template <class L>
void inhibitor_prepare(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(arguments);
  for (Index r = 0; r < block.rows; ++r) {
    const float* row = block.query + r * block.query_stride;
    std::uint8_t* query = workspace.query + r * workspace.query_stride;
    workspace.query_sum[r] = 0;
    if (arguments.width.planes > 0)
      encode_thermometer_row<L>(row, block.head_dim, arguments.width.planes, arguments.thresholds,
                                query);
    else
      workspace.query_sum[r] =
          inhibitor_prepare_query<L>(arguments, row, workspace.query_stride, query);
    workspace.distance_sum[r] = 0;
  }
  for (Index i = 0; i < block.rows * workspace.value_stride; ++i) workspace.inhibited[i] = 0;
}

// Distances of all rows' codes with the tile's keys, and what base[r] adds to them.
template <class L, class Distance>
void inhibitor_code_distances(const InhibitorArguments& arguments,
                              const InhibitorWorkspace& workspace, const std::int32_t* base,
                              const std::byte* keys) noexcept {
  const Index steps = thermometer_row_bytes(arguments.width.planes, arguments.block.head_dim);
  alignas(64) Distance code_distances[4 * tile_keys];
  for_rows(arguments.block.rows, [&]<int Rows>(Index first) noexcept {
    thermometer_distances<L, Rows>(arguments.width.planes,
                                   workspace.query + first * workspace.query_stride,
                                   workspace.query_stride, keys, steps, code_distances);
    for (int i = 0; i < Rows; ++i) {
      std::int32_t* distances = workspace.distances + (first + i) * tile_keys;
      for (Index j = 0; j < tile_keys; ++j)
        distances[j] =
            base[first + i] + static_cast<std::int32_t>(code_distances[i * tile_keys + j]);
    }
  });
}

// workspace.distances[r] = distances of the tile's keys, for each of `rows`. base[r] is the sum of
// the query's bytes, less what the caller wants taken from its distances.
template <class L>
void inhibitor_find_distances(const InhibitorArguments& arguments,
                              const InhibitorWorkspace& workspace, const std::int32_t* base,
                              const InhibitorTile& tile, const InhibitorTileLayout& layout,
                              const TileRows& rows) noexcept {
  const Index head_dim = arguments.block.head_dim, padded_dim = round_up(head_dim, key_group);
  if (arguments.width.planes > 0) {
    const auto* codes = reinterpret_cast<const std::byte*>(tile.keys);
    switch (thermometer_distance_bytes(arguments.width.planes, head_dim)) {
      case 1:
        return inhibitor_code_distances<L, std::uint8_t>(arguments, workspace, base, codes);
      case 2:
        return inhibitor_code_distances<L, std::uint16_t>(arguments, workspace, base, codes);
      default:
        return inhibitor_code_distances<L, std::uint32_t>(arguments, workspace, base, codes);
    }
  }
  if (arguments.width.is_half && rows.count == 1) {
    const Index r = rows.row[0];
    inhibitor_half_distances<L>(workspace.query + r * workspace.query_stride, base + r,
                                layout.key_bytes, tile, workspace.distances + r * tile_keys);
    return;
  }
  InhibitorTile unpacked = tile;
  if (arguments.width.is_half) {
    inhibitor_unpack_keys<L>(tile.keys, layout.key_bytes, workspace.keys);
    unpacked.keys = workspace.keys;
    unpacked.next = 0;
  }
  const auto find = [&]<int Rows>(Index first) __attribute__((always_inline)) {
    const std::uint8_t* query[Rows];
    const std::int32_t* row_base[Rows];
    std::int32_t* distances[Rows];
    for (int i = 0; i < Rows; ++i) {
      const Index r = rows.row[first + i];
      query[i] = workspace.query + r * workspace.query_stride;
      row_base[i] = base + r;
      distances[i] = workspace.distances + r * tile_keys;
    }
    inhibitor_distances<L, Rows>(query, row_base, padded_dim, unpacked, distances);
  };
  for_rows(rows.count, find);
}

// The row statistic of centring: sum of distances over visible keys.
template <class L>
void inhibitor_statistic(const InhibitorArguments& arguments) noexcept {
  if (!arguments.center) return;
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(arguments);
  const InhibitorTileLayout layout(block.head_dim, block.value_dim, arguments.width);
  TileRows rows(block);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    const InhibitorTile tile(block.tiles.tile(t), layout);
    inhibitor_find_distances<L>(arguments, workspace, workspace.query_sum, tile, layout, rows);
    for (Index i = 0; i < rows.count; ++i) {
      const Index r = rows.row[i];
      std::int32_t* distances = workspace.distances + r * tile_keys;
      hide(distances, rows.word(r), 0);
      std::int64_t sum = 0;
      for (Index j = 0; j < tile_keys; ++j) sum += distances[j];
      workspace.distance_sum[r] += sum;
    }
  }
}

// Takes from `rows` those that no key of the tile can add to. Tries every tile while that pays, one
// in sixteen while it does not, and none where there are too few tiles to find out.
template <class L>
struct InhibitorTileSkipper {
  Index patience = 0;  // tiles until the next try

  LOWATT_ALWAYS_INLINE void skip(const InhibitorArguments& arguments,
                                 const InhibitorWorkspace& workspace, const std::int32_t* centre,
                                 const InhibitorTile& tile, TileRows& rows) noexcept {
    if (patience-- > 0) return;
    std::uint8_t greatest = 0;
    for (Index j = 0; j < tile_keys; ++j)
      greatest = tile.greatest[j] > greatest ? tile.greatest[j] : greatest;
    const std::int64_t closing = inhibitor_closing_distance(arguments.constants, greatest);
    const std::int64_t limit = closing > 0 ? closing : INT64_MIN;  // no distance is too small
    std::int32_t distances[inhibitor_query_block];
    const Index last = rows.count - 1;
    for (Index i = 0; i < rows.count; i += 4) {
      const std::uint8_t* query[4];
      for (Index k = 0; k < 4; ++k)
        query[k] = workspace.query + rows.row[i + k < last ? i + k : last] * workspace.query_stride;
      inhibitor_box_distances<L>(query, tile, workspace.query_stride, distances + i);
    }
    Index kept = 0;
    for (Index i = 0; i < rows.count; ++i) {
      const Index r = rows.row[i];
      rows.row[kept] = r;
      kept += distances[i] - centre[r] < limit ? 1 : 0;
    }
    if (8 * (rows.count - kept) < rows.count) patience = 15;
    rows.count = kept;
  }
};

// Adds the inhibited values of Rows rows to H, for `dims` dims from `dim` on, which are split.
template <class L, int Rows, class Groups>
void inhibitor_inhibit_rows(const InhibitorWorkspace& workspace, const Index* row, Index dim,
                            Index dims, Groups groups) noexcept {
  const Index vectors = dims / Ops<L>::lanes;
  const std::uint8_t* shifted[Rows];
  std::int32_t* inhibited[Rows];
  for (int i = 0; i < Rows; ++i) {
    shifted[i] = workspace.shifted + row[i] * tile_keys;
    inhibited[i] = workspace.inhibited + row[i] * workspace.value_stride + dim;
  }
  for_widths<Ops<L>::block_vectors, 1>(
      vectors, [&]<int Vectors>(Index v) __attribute__((always_inline)) {
        inhibitor_inhibit<L, Rows, Vectors>(shifted, inhibited, workspace.magnitude,
                                            workspace.direction, v, groups);
      });
}

// The same for one row and all dims, without splitting the tile.
template <class L>
void inhibitor_walk_one(const InhibitorArguments& arguments, const InhibitorWorkspace& workspace,
                        const InhibitorTile& tile, Index row, unsigned open) noexcept {
  const Index vectors = workspace.value_stride / Ops<L>::lanes;
  const std::uint8_t* shifted = workspace.shifted + row * tile_keys;
  std::int32_t* inhibited = workspace.inhibited + row * workspace.value_stride;
  const auto walk = [&]<int Vectors>(Index v) __attribute__((always_inline)) {
    if (arguments.width.is_half)
      inhibitor_inhibit_half<L, Vectors>(shifted, inhibited, tile.values, tile.next,
                                         arguments.is_signed, v,
                                         OpenGroups{(open | open >> 8) & 0xffu});
    else
      inhibitor_inhibit_one<L, Vectors>(shifted, inhibited, tile.values, tile.next,
                                        arguments.is_signed, v, OpenGroups{open});
  };
  for_widths<Ops<L>::block_vectors, 1>(vectors, walk);
}

// Adds the tiles [tile_begin, tile_end) to the block's H.
template <class L>
void inhibitor_accumulate(const InhibitorArguments& arguments) noexcept {
  constexpr Index few_rows = 4;  // so few that splitting a tile's values does not pay
  constexpr int few_groups = 8;  // of 16: so few that walking them one row at a time pays
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(arguments);
  const InhibitorTileLayout layout(block.head_dim, block.value_dim, arguments.width);
  const InhibitorConstants& constants = arguments.constants;
  const Index greatest = arguments.width.greatest_distance(block.head_dim);
  const bool narrow = InhibitorNarrowShift<L>::fits(constants, greatest);
  const bool in_32_bits = inhibitor_shift_fits_32_bits(constants, greatest);
  const InhibitorNarrowShift<L> shift_narrow(constants);

  std::int32_t centre[inhibitor_query_block] = {}, base[inhibitor_query_block];
  for (Index r = 0; r < block.rows; ++r) base[r] = workspace.query_sum[r];
  if (arguments.center)
    for (Index r = 0; r < block.rows; ++r) {
      const Index count = block.visible_count(r);
      if (count > 0) centre[r] = static_cast<std::int32_t>(workspace.distance_sum[r] / count);
      base[r] -= centre[r];
    }

  TileRows rows(block);
  const bool has_box = layout.box_dims > 0 && block.tile_end - block.tile_begin >= 8;
  InhibitorTileSkipper<L> skipper{has_box ? 0 : block.tile_end};
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!rows.see(t)) continue;
    InhibitorTile tile(block.tiles.tile(t), layout);
    if (t + 1 < block.tile_end) tile.next = block.tiles.distance(t, t + 1);
    if (block.rows == 1) tile.fetch_next_scalars();
    skipper.skip(arguments, workspace, centre, tile, rows);
    if (rows.count == 0) continue;

    // All rows take each step before any takes the next: a row's own steps wait for each other.
    inhibitor_find_distances<L>(arguments, workspace, base, tile, layout, rows);
    Index open_rows[inhibitor_query_block], open_count = 0;
    unsigned open_groups[inhibitor_query_block];
    for (Index i = 0; i < rows.count; ++i) {
      const Index r = rows.row[i];
      const std::int32_t* distances = workspace.distances + r * tile_keys;
      std::uint8_t* shifted = workspace.shifted + r * tile_keys;
      if (narrow)
        shift_narrow(distances, shifted);
      else if (in_32_bits)
        inhibitor_shift_wide<L, std::uint32_t>(distances, constants, shifted);
      else
        inhibitor_shift_wide<L, std::uint64_t>(distances, constants, shifted);
      hide(shifted, rows.word(r), std::uint8_t{inhibitor_out_of_reach});
      open_groups[open_count] = inhibitor_open_groups<L>(shifted, tile.greatest);
      open_rows[open_count] = r;
      open_count += open_groups[open_count] != 0 ? 1 : 0;
    }

    if (open_count <= few_rows) {
      for (Index i = 0; i < open_count; ++i)
        inhibitor_walk_one<L>(arguments, workspace, tile, open_rows[i], open_groups[i]);
      continue;
    }
    if (arguments.width.is_half) {
      inhibitor_unpack_values<L>(tile.values, layout.value_bytes, workspace.values);
      tile.values = workspace.values;
    }
    // Rows with few open groups walk them alone; the others go four at a time.
    Index full[inhibitor_query_block], full_count = 0, sparse_count = 0;
    unsigned full_open = 0;
    for (Index i = 0; i < open_count; ++i) {
      if (__builtin_popcount(open_groups[i]) > few_groups) {
        full[full_count++] = open_rows[i];
        full_open |= open_groups[i];
      } else {
        open_rows[sparse_count] = open_rows[i];
        open_groups[sparse_count++] = open_groups[i];
      }
    }
    for (Index dim = 0; dim < workspace.value_stride; dim += inhibitor_split_dims) {
      const Index left = workspace.value_stride - dim;
      const Index dims = left < inhibitor_split_dims ? left : inhibitor_split_dims;
      inhibitor_split_values<L>(tile.values + dim * tile_keys, dims * tile_keys,
                                arguments.is_signed, workspace.magnitude, workspace.direction);
      for (Index i = 0; i < sparse_count; ++i)
        inhibitor_inhibit_rows<L, 1>(workspace, open_rows + i, dim, dims,
                                     OpenGroups{open_groups[i]});
      if (full_count == 0) continue;
      const GroupsToLast groups(full_open);
      for_rows(
          full_count, [&]<int Rows>(Index i) __attribute__((always_inline)) {
            inhibitor_inhibit_rows<L, Rows>(workspace, full + i, dim, dims, groups);
          });
    }
  }
}

template <class L>
void inhibitor_finish(const InhibitorArguments& arguments) noexcept {
  const InhibitorWorkspace workspace(arguments);
  inhibitor_write<L>(arguments, workspace.inhibited, workspace.value_stride);
}

// See arguments.hpp.
template <class L>
void inhibitor_store_sums(const InhibitorArguments& arguments, double* statistic) noexcept {
  const InhibitorWorkspace workspace(arguments);
  inhibitor_store_statistic<L>(arguments.block, workspace.distance_sum, statistic);
}
template <class L>
void inhibitor_load_sums(const InhibitorArguments& arguments, const double* statistic) noexcept {
  const InhibitorWorkspace workspace(arguments);
  inhibitor_load_statistic<L>(arguments.block, statistic, workspace.distance_sum);
}
template <class L>
void inhibitor_store_part(const InhibitorArguments& arguments, PartRows<double> part) noexcept {
  const InhibitorWorkspace workspace(arguments);
  inhibitor_store_rows<L>(arguments.block, workspace.inhibited, workspace.value_stride, part);
}

}  // namespace lowatt
