// Bitformer (arXiv 2311.13502): attention from Hamming distances between bit planes.
//
//   ham_ij = bits in which query i and key j differ
//   P_ij   = table[ham_ij - min_j ham_ij]
//   out_ik = sv * sum_j P_ij v_jk / sum_j P_ij    over visible keys; integers until the division
//
// Lives on   vpxor + vpopcntb + vpaddb: eight bits of 64 pairs in three instructions, distances as
//            bytes; a table lookup in registers (vpermi2b; vpshufb below avx512icl), then vpdpbusd:
//            4 keys x 16 dims. Below avx512icl bits are counted by vpshufb, at sse2 by shifts and
//            sums, and the dot product is two multiply-adds of 16-bit values.
// Layout     pack.hpp; the same for prefill and decode and at every level.
// Overflow   distances are at most planes * head_dim: up to 255 they are kept in 8 bits, up to
//            65535 in 16, beyond in 32 (simd/bit_tile.hpp).
//            sum P v gains at most 255 * 127 per key: 32 bits hold 66311 keys, so after every 1024
//            tiles (65536 keys) sums move to 64 bits.
// Tails      head_dim and value_dim are padded with zeros when packed; hidden and absent keys get
//            P = 0; rows come four at a time, then one at a time.
// Memory     distances of a query block stay in the workspace between the two passes, 32 or 64
//            bytes per key: accumulate reads what statistic left there for the same tiles.
#pragma once

#include "pack.hpp"

namespace lowatt {

// Most bits of a query or key: what distances of 32 bits hold.
inline constexpr Index bitformer_most_bits = 4294967295;

inline constexpr Index bitformer_most_rows = 32;
LOWATT_ALWAYS_INLINE constexpr Index bitformer_query_block(int planes, Index head_dim) noexcept {
  return bit_distance_bytes(planes, head_dim) == 4 ? 16 : bitformer_most_rows;
}
// Bytes of a probability table: one per difference of distances, and all that a byte can index.
LOWATT_ALWAYS_INLINE constexpr Index bitformer_table_bytes(int planes, Index head_dim) noexcept {
  const Index entries = planes * head_dim + 1;
  return entries < 256 ? 256 : entries;
}

struct BitformerArguments {
  BlockArguments block;
  int planes = 1;
  const float* thresholds = nullptr;    // one per plane
  const std::uint8_t* table = nullptr;  // bitformer_table_bytes(), zeros from table_entries on
  Index table_entries = 0;
  double value_scale = 0;
};

// What the phases of one block hand on to each other.
struct BitformerWorkspace {
  std::uint8_t* query = nullptr;      // [rows][planes * head_dim/8][4], each byte four times
  std::uint32_t* minimum = nullptr;   // [rows], the row statistic: the smallest visible distance
  std::int32_t* sums = nullptr;       // [rows][sums_stride]: sum P v of each dim, parts of sum P
  std::int64_t* wide_sums = nullptr;  // the same of earlier tiles, once there are too many
  Index* tiles_added = nullptr;       // [1], tiles in sums and wide_sums
  std::uint8_t* weights = nullptr;    // [rows][2][64], P of one tile, split for dot4_part
  std::byte* distances = nullptr;     // [tiles][rows][64], u8, u16 or u32
  Index bytes = 0;

  LOWATT_ALWAYS_INLINE BitformerWorkspace(std::byte* base, int planes, Index head_dim,
                                          Index value_dim, Index keys) noexcept {
    WorkspaceCutter cutter{base};
    const Index rows = bitformer_query_block(planes, head_dim);
    query = cutter.take<std::uint8_t>(rows * query_stride(planes, head_dim));
    minimum = cutter.take<std::uint32_t>(rows);
    sums = cutter.take<std::int32_t>(rows * sums_stride(value_dim));
    wide_sums = cutter.take<std::int64_t>(rows * sums_stride(value_dim));
    tiles_added = cutter.take<Index>(1);
    weights = cutter.take<std::uint8_t>(rows * weights_stride);
    distances = cutter.take<std::byte>(rows * round_up(keys, tile_keys) *
                                       bit_distance_bytes(planes, head_dim));
    bytes = cutter.size();
  }
  // The distances come last: where they begin does not depend on the number of keys.
  LOWATT_ALWAYS_INLINE explicit BitformerWorkspace(const BitformerArguments& arguments) noexcept
      : BitformerWorkspace(arguments.block.workspace, arguments.planes, arguments.block.head_dim,
                           arguments.block.value_dim, 0) {}

  static constexpr Index weights_stride = 2 * tile_keys;
  static LOWATT_ALWAYS_INLINE constexpr Index query_stride(int planes, Index head_dim) noexcept {
    return bit_row_bytes(planes, head_dim) * bit_row_copies;
  }
  // After the dims there is room for any level's register of partial sums of P.
  static LOWATT_ALWAYS_INLINE constexpr Index sums_stride(Index value_dim) noexcept {
    return round_up(value_dim, value_block) + 16;
  }
  // Distances of `rows` rows with the keys of tile t.
  template <class T>
  LOWATT_ALWAYS_INLINE T* tile_distances(Index rows, Index t) const noexcept {
    return reinterpret_cast<T*>(distances) + t * rows * tile_keys;
  }
};

// The tiles of which every row sees every key: hidden keys need no care there.
LOWATT_ALWAYS_INLINE VisibleRange bitformer_full_tiles(const BlockArguments& block) noexcept {
  if (block.visible_words != nullptr) return {};
  VisibleRange common = block.visible[0];
  for (Index r = 1; r < block.rows; ++r) {
    const VisibleRange& row = block.visible[r];
    common.begin = row.begin > common.begin ? row.begin : common.begin;
    common.end = row.end < common.end ? row.end : common.end;
  }
  return {(common.begin + tile_keys - 1) / tile_keys, common.end / tile_keys};
}

// Encodes the block's queries and clears its statistic and accumulators.
template <class L>
void bitformer_prepare(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const Index query_stride = workspace.query_stride(arguments.planes, block.head_dim);
  for (Index r = 0; r < block.rows; ++r) {
    encode_bit_row<L>(block.query + r * block.query_stride, block.head_dim, arguments.planes,
                      arguments.thresholds, workspace.query + r * query_stride);
    workspace.minimum[r] = UINT32_MAX;
  }
  const Index sums = block.rows * workspace.sums_stride(block.value_dim);
  for (Index i = 0; i < sums; ++i) workspace.sums[i] = 0;
  *workspace.tiles_added = 0;
}

template <class L, class Distance>
void bitformer_statistic_of(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const Index steps = bit_row_bytes(arguments.planes, block.head_dim);
  const VisibleRange full_tiles = bitformer_full_tiles(block);
  constexpr auto farthest = static_cast<Distance>(~Distance{0});

  // Slot by slot: minima over the keys of one slot of all tiles.
  alignas(64) Distance minimum[bitformer_most_rows][tile_keys];
  for (Index r = 0; r < block.rows; ++r)
    for (Index j = 0; j < tile_keys; ++j) minimum[r][j] = farthest;

  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    const bool full = t >= full_tiles.begin && t < full_tiles.end;
    if (!full && !block.tile_is_visible(t)) continue;
    const std::byte* bits = block.tiles.tile(t);
    auto* distances = workspace.tile_distances<Distance>(block.rows, t);
    for_rows(block.rows, [&]<int Rows>(Index r) noexcept {
      bit_distances<L, Rows>(workspace.query + r * steps * bit_row_copies, bits, steps,
                             distances + r * tile_keys);
    });
    for (Index r = 0; r < block.rows; ++r) {
      Distance* row = distances + r * tile_keys;
      if (!full) hide(row, block.visible_word(r, t), farthest);
      for (Index j = 0; j < tile_keys; ++j)
        minimum[r][j] = row[j] < minimum[r][j] ? row[j] : minimum[r][j];
    }
  }

  for (Index r = 0; r < block.rows; ++r) {
    Distance least = farthest;
    for (Index j = 0; j < tile_keys; ++j) least = minimum[r][j] < least ? minimum[r][j] : least;
    if (least < workspace.minimum[r]) workspace.minimum[r] = least;
  }
}

// The row statistic: distances with all visible tiles, kept, and their minimum over visible keys.
template <class L>
void bitformer_statistic(const BitformerArguments& arguments) noexcept {
  switch (bit_distance_bytes(arguments.planes, arguments.block.head_dim)) {
    case 1:
      return bitformer_statistic_of<L, std::uint8_t>(arguments);
    case 2:
      return bitformer_statistic_of<L, std::uint16_t>(arguments);
    default:
      return bitformer_statistic_of<L, std::uint32_t>(arguments);
  }
}

// P of one row with the 64 keys of a tile; of hidden keys it means nothing.
template <class L, class Distance>
void bitformer_weigh(const BitformerArguments& arguments, const Distance* distances,
                     Distance minimum, std::uint8_t* p) noexcept {
  using Op = Ops<L>;
  if (sizeof(Distance) == 1 || arguments.table_entries <= 255) {
    // Entry 255 is 0 wherever differences can be larger: saturating there changes nothing.
    alignas(64) std::uint8_t excess[tile_keys];
    for (Index j = 0; j < tile_keys; ++j) {
      const auto difference = static_cast<Distance>(distances[j] - minimum);
      excess[j] = static_cast<std::uint8_t>(difference < 255 ? difference : 255);
    }
    for (Index j = 0; j < tile_keys; j += Op::bytes)
      Op::store(p + j, Op::lookup_u8(arguments.table, static_cast<int>(arguments.table_entries),
                                     Op::load(excess + j)));
    return;
  }
  for (Index j = 0; j < tile_keys; ++j) {
    const auto difference = static_cast<Distance>(distances[j] - minimum);
    p[j] = difference < arguments.table_entries ? arguments.table[difference] : std::uint8_t{0};
  }
}

// Adds one tile's weighted values of Rows queries, Vectors registers of dims from `vector` on.
template <class L, int Rows, int Vectors>
void bitformer_add_values(const std::uint8_t* weights, const std::int8_t* values, Index vector,
                          std::int32_t* sums, Index stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int parts = Op::dot4_parts;
  Register sum[Rows][Vectors];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = Op::load(sums + r * stride + (vector + v) * Op::lanes);
  }
  for (Index j = 0; j < tile_keys; j += value_group) {
    Register value[Vectors][parts];
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Register bytes = Op::load(values + value_vector_offset<L>(vector + v) +
                                      j / value_group * value_group_stride);
      LOWATT_UNROLL
      for (int part = 0; part < parts; ++part) value[v][part] = Op::split_s8(bytes, part);
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int part = 0; part < parts; ++part) {
        const Register weight =
            Op::broadcast4(weights + r * BitformerWorkspace::weights_stride + part * tile_keys + j);
        LOWATT_UNROLL
        for (int v = 0; v < Vectors; ++v)
          sum[r][v] = Op::dot4_part(sum[r][v], weight, value[v][part]);
      }
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      Op::store(sums + r * stride + (vector + v) * Op::lanes, sum[r][v]);
  }
}

// Tiles after which 32-bit sums are moved to 64 bits, before they could overflow.
inline constexpr Index bitformer_tiles_in_sums = 1024;

template <class L>
void bitformer_widen_sums(const BitformerWorkspace& workspace, Index count, bool first) noexcept {
  for (Index i = 0; i < count; ++i) {
    workspace.wide_sums[i] = (first ? 0 : workspace.wide_sums[i]) + workspace.sums[i];
    workspace.sums[i] = 0;
  }
}

// Takes one row's P of a tile: adds them to the row's partial sums of P, one lane each, and splits
// them as bitformer_add_values wants them.
template <class L>
LOWATT_ALWAYS_INLINE void bitformer_take_weights(const std::uint8_t* p, std::int32_t* sums,
                                                 std::uint8_t* weights) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register sum = Op::load(sums);
  for (Index j = 0; j < tile_keys; j += Op::bytes) {
    const Register bytes = Op::load(p + j);
    sum = Op::dot4_narrow(sum, bytes, Op::fill_u8(1));
    for (int part = 0; part < Op::dot4_parts; ++part)
      Op::store(weights + part * tile_keys + j, Op::split_u8(bytes, part));
  }
  Op::store(sums, sum);
}

template <class L, class Distance>
void bitformer_accumulate_of(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const BitformerTileLayout layout(arguments.planes, block.head_dim, block.value_dim);
  const Index padded_value_dim = round_up(block.value_dim, value_block);
  const Index stride = workspace.sums_stride(block.value_dim);
  const Index vectors = padded_value_dim / Ops<L>::lanes;
  const VisibleRange full_tiles = bitformer_full_tiles(block);
  Index tiles_added = *workspace.tiles_added;

  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    const bool full = t >= full_tiles.begin && t < full_tiles.end;
    if (!full && !block.tile_is_visible(t)) continue;
    if (tiles_added > 0 && tiles_added % bitformer_tiles_in_sums == 0)
      bitformer_widen_sums<L>(workspace, block.rows * stride,
                              tiles_added == bitformer_tiles_in_sums);
    ++tiles_added;

    const auto* distances = workspace.tile_distances<Distance>(block.rows, t);
    for (Index r = 0; r < block.rows; ++r) {
      alignas(64) std::uint8_t p[tile_keys];
      bitformer_weigh<L>(arguments, distances + r * tile_keys,
                         static_cast<Distance>(workspace.minimum[r]), p);
      if (!full) hide(p, block.visible_word(r, t), std::uint8_t{0});
      bitformer_take_weights<L>(p, workspace.sums + r * stride + padded_value_dim,
                                workspace.weights + r * workspace.weights_stride);
    }
    const auto* values =
        reinterpret_cast<const std::int8_t*>(block.tiles.tile(t) + layout.values_offset());
    for_rows(block.rows, [&]<int Rows>(Index r) noexcept {
      const std::uint8_t* weights = workspace.weights + r * workspace.weights_stride;
      std::int32_t* sums = workspace.sums + r * stride;
      constexpr int together = Ops<L>::block_vectors;
      Index v = 0;
      for (; v + together <= vectors; v += together)
        bitformer_add_values<L, Rows, together>(weights, values, v, sums, stride);
      for (; v < vectors; ++v) bitformer_add_values<L, Rows, 1>(weights, values, v, sums, stride);
    });
  }
  *workspace.tiles_added = tiles_added;
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L>
void bitformer_accumulate(const BitformerArguments& arguments) noexcept {
  switch (bit_distance_bytes(arguments.planes, arguments.block.head_dim)) {
    case 1:
      return bitformer_accumulate_of<L, std::uint8_t>(arguments);
    case 2:
      return bitformer_accumulate_of<L, std::uint16_t>(arguments);
    default:
      return bitformer_accumulate_of<L, std::uint32_t>(arguments);
  }
}

// Weighted means to float: in double, left to right, rounded once.
template <class L>
void bitformer_finish(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const Index padded_value_dim = round_up(block.value_dim, value_block);
  const Index stride = workspace.sums_stride(block.value_dim);
  const bool wide = *workspace.tiles_added > bitformer_tiles_in_sums;
  for (Index r = 0; r < block.rows; ++r) {
    float* out = block.out + r * block.out_stride;
    const std::int32_t* sums = workspace.sums + r * stride;
    const std::int64_t* wide_sums = workspace.wide_sums + r * stride;
    std::int64_t weight = 0;
    for (Index i = padded_value_dim; i < padded_value_dim + Ops<L>::lanes; ++i)
      weight += wide ? wide_sums[i] + sums[i] : sums[i];
    // A row without visible keys has only zero sums.
    const double divisor = weight > 0 ? static_cast<double>(weight) : 1.0;
    if (wide) {
      for (Index c = 0; c < block.value_dim; ++c)
        out[c] = static_cast<float>(arguments.value_scale *
                                    static_cast<double>(wide_sums[c] + sums[c]) / divisor);
    } else {
      for (Index c = 0; c < block.value_dim; ++c)
        out[c] = static_cast<float>(arguments.value_scale * static_cast<double>(sums[c]) / divisor);
    }
  }
}

}  // namespace lowatt
