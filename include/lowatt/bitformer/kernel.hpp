// Bitformer (arXiv 2311.13502): attention from Hamming distances between bit planes.
//
//   ham_ij = bits in which query i and key j differ
//   P_ij   = table[ham_ij - min_j ham_ij]
//   out_ik = sv * sum_j P_ij v_jk / sum_j P_ij    over visible keys; integers until the division
//
// Lives on   vpxor + vpopcntb + vpaddusb: eight bits of 64 pairs in three instructions, distances
//            as bytes; from four planes on vpermb + vpaddusb: two channels of 64 pairs, or one, in
//            two (simd/thermometer_tile.hpp); a table lookup in registers (vpermb, vpermi2b;
//            vpshufb below avx512icl), then vpdpbusd: 4 keys x 16 dims. Below avx512icl bits are
//            counted by vpshufb, at sse2 by shifts and sums, and vpmaddubsw + vpmaddwd stand for
//            vpdpbusd: P above 127, which they cannot take together with a neighbour above 258 - P,
//            is added in two parts. At sse2 the dot product is two multiply-adds of 16-bit values.
//            Level amx adds values on tile registers (tile_amx.hpp).
// Layout     pack.hpp; the same for prefill and decode and at every level.
// Overflow   distances are at most planes * head_dim: up to 256 they are kept in 8 bits, cut at
//            255; where a distance of 255 may weigh something it is counted once more as values
//            are added. Up to 65535 they are kept in 16 bits, beyond in 32
//            (simd/thermometer_tile.hpp). sum P v gains at most 255 * 127 per key: 32 bits hold
//            66311 keys, so after every 1024 tiles (65536 keys) sums move to 64 bits.
// Tails      head_dim and value_dim are padded with zeros when packed; hidden and absent keys get
//            P = 0; rows come four at a time, then one at a time.
// Memory     distances of a query block stay in the workspace between the two passes, 64 bytes per
//            key: accumulate reads what statistic left there for the same tiles.
#pragma once

#include "../core/part.hpp"
#include "../simd/write_row.hpp"
#include "pack.hpp"

namespace lowatt {

// Most bits of a query or key: what distances of 32 bits hold.
inline constexpr Index bitformer_most_bits = 4294967295;

// Bytes of a distance between the two passes. 256 bits, those of 64 dims in four planes, hardly
// ever all differ.
LOWATT_ALWAYS_INLINE constexpr Index bitformer_kept_bytes(int planes, Index head_dim) noexcept {
  return planes * head_dim <= 256 ? 1 : thermometer_distance_bytes(planes, head_dim);
}

// As many as 64 bytes of distances per key allow.
inline constexpr Index bitformer_most_rows = 64;
LOWATT_ALWAYS_INLINE constexpr Index bitformer_query_block(int planes, Index head_dim) noexcept {
  return bitformer_most_rows / bitformer_kept_bytes(planes, head_dim);
}
// Bytes of a probability table: one per difference of distances, in lines of all that a byte can
// index.
LOWATT_ALWAYS_INLINE constexpr Index bitformer_table_bytes(int planes, Index head_dim) noexcept {
  return round_up(planes * head_dim + 1, 256);
}

struct BitformerArguments {
  BlockArguments block;
  int planes = 1;
  const float* thresholds = nullptr;    // one per plane
  const std::uint8_t* table = nullptr;  // bitformer_table_bytes(), zeros from table_entries on
  Index table_entries = 0;
  double value_scale = 0;

  // Whether distances are kept in less than they may need.
  LOWATT_ALWAYS_INLINE bool cuts_distances() const noexcept {
    return bitformer_kept_bytes(planes, block.head_dim) <
           thermometer_distance_bytes(planes, block.head_dim);
  }
  // Whether a distance of 255 may weigh something in a row of this minimum.
  LOWATT_ALWAYS_INLINE bool weighs_cut(std::uint32_t minimum) const noexcept {
    return minimum != UINT32_MAX && minimum + table_entries > 255;
  }
};

// Tiles that are worked on together: tables of rows serve two, sums of values stay in registers for
// four.
struct BitformerBatch {
  static constexpr Index most = 4;
  Index count = 0;
  Index position[most] = {};
  bool is_full[most] = {};           // every row sees every key
  const std::byte* data[most] = {};  // codes or values of each
};

// Statistic and sums of a block's rows.
struct BitformerSums {
  // Tiles that 32-bit sums hold before they are moved to 64 bits.
  static constexpr Index most_tiles = 1024;
  struct State {
    Index tiles = 0;       // in sums
    bool is_wide = false;  // earlier ones are in wide_sums
  };

  State* state = nullptr;
  std::uint32_t* minimum = nullptr;   // [rows], the row statistic: the smallest visible distance
  std::int32_t* sums = nullptr;       // [rows][stride]: sum P v of each dim, then parts of sum P
  std::int64_t* wide_sums = nullptr;  // the same of earlier tiles
  Index dims = 0, stride = 0;

  LOWATT_ALWAYS_INLINE BitformerSums(WorkspaceCutter& cutter, Index rows, Index value_dim) noexcept
      : state(cutter.take<State>(1)),
        minimum(cutter.take<std::uint32_t>(rows)),
        dims(round_up(value_dim, value_block)),
        stride(dims + 16) {  // room for any level's register
    sums = cutter.take<std::int32_t>(rows * stride);
    wide_sums = cutter.take<std::int64_t>(rows * stride);
  }

  // Before `tiles` more tiles are added to `rows` rows. Returns whether they are the first: sums of
  // dims then hold anything, which counts as 0. Parts of sum P always hold numbers.
  LOWATT_ALWAYS_INLINE bool make_room(Index rows, Index tiles) const noexcept {
    if (state->tiles + tiles > most_tiles) {
      for (Index i = 0; i < rows * stride; ++i)
        wide_sums[i] = (state->is_wide ? wide_sums[i] : 0) + sums[i];
      clear(rows);
      *state = {0, true};
    }
    state->tiles += tiles;
    return state->tiles == tiles;
  }
  LOWATT_ALWAYS_INLINE void clear(Index rows) const noexcept {
    for (Index r = 0; r < rows; ++r)
      for (Index i = dims; i < stride; ++i) sums[r * stride + i] = 0;
  }
  // Sum P of row r. In 32 bits it is at most 255 * 64 * most_tiles.
  template <class L>
  LOWATT_ALWAYS_INLINE std::int64_t weight(Index r) const noexcept {
    const Index at = r * stride + dims;
    std::int64_t sum = Ops<L>::reduce_add_i32(Ops<L>::load(sums + at));
    if (state->is_wide)
      for (Index i = 0; i < Ops<L>::lanes; ++i) sum += wide_sums[at + i];
    return sum;
  }
};

// What the phases of one block hand on to each other.
struct BitformerWorkspace {
  WorkspaceCutter cutter;
  BitformerSums sums;
  Index query_stride = 0;
  std::uint8_t* query = nullptr;  // [rows][query_stride], for thermometer_distances()
  Index first_tile = 0;
  // The last: [tiles from first_tile on][rows][64], bitformer_kept_bytes() each.
  std::byte* distances = nullptr;

  LOWATT_ALWAYS_INLINE BitformerWorkspace(std::byte* base, int planes, Index head_dim,
                                          Index value_dim) noexcept
      : cutter{base},
        sums(cutter, bitformer_query_block(planes, head_dim), value_dim),
        query_stride(thermometer_query_bytes(planes, head_dim)),
        query(cutter.take<std::uint8_t>(bitformer_query_block(planes, head_dim) * query_stride)),
        distances(cutter.take<std::byte>(0)) {}
  LOWATT_ALWAYS_INLINE explicit BitformerWorkspace(const BitformerArguments& arguments) noexcept
      : BitformerWorkspace(arguments.block.workspace, arguments.planes, arguments.block.head_dim,
                           arguments.block.value_dim) {
    first_tile = arguments.block.tile_begin;
    if (arguments.block.scores != nullptr) distances = arguments.block.scores;
  }

  // Without distances.
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
  // Distances of `rows` rows with the keys of tile t.
  template <class T>
  LOWATT_ALWAYS_INLINE T* tile_distances(Index rows, Index t) const noexcept {
    return reinterpret_cast<T*>(distances) + (t - first_tile) * rows * tile_keys;
  }
};

// Bytes of workspace for blocks of a head's queries against so many keys. Distances need as many
// rows as a block can have.
LOWATT_ALWAYS_INLINE Index bitformer_workspace_bytes(int planes, Index head_dim, Index value_dim,
                                                     Index queries, Index keys) noexcept {
  const Index block = bitformer_query_block(planes, head_dim);
  const Index rows = queries < block ? queries : block;
  return BitformerWorkspace(nullptr, planes, head_dim, value_dim).bytes() +
         rows * round_up(keys, tile_keys) * bitformer_kept_bytes(planes, head_dim);
}

// Calls each(t, whether every row sees every key) for the tiles of which any row sees anything.
template <class Each>
LOWATT_ALWAYS_INLINE void for_visible_tiles(const BlockArguments& block, Each&& each) noexcept {
  const VisibleRange common = block.common_range();
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    const bool is_full = block.tile_is_whole(t, common);
    if (is_full || block.tile_is_visible(t)) each(t, is_full);
  }
}

// The same for up to `most` of them at a time: calls each(batch). Data begins `offset` bytes into a
// tile.
template <Index most, class Each>
requires(most <= BitformerBatch::most) LOWATT_ALWAYS_INLINE
    void for_visible_batches(const BlockArguments& block, Index offset, Each&& each) noexcept {
  BitformerBatch batch{};
  for_visible_tiles(block, [&](Index t, bool is_full) noexcept {
    batch.position[batch.count] = t;
    batch.is_full[batch.count] = is_full;
    batch.data[batch.count] = block.tiles.tile(t) + offset;
    if (++batch.count < most) return;
    each(batch);
    batch.count = 0;
  });
  if (batch.count > 0) each(batch);
}

// Encodes the block's queries and clears its statistic and sums.
template <class L>
void bitformer_prepare(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const BitformerSums& sums = workspace.sums;
  for (Index r = 0; r < block.rows; ++r) {
    encode_thermometer_row<L>(block.query + r * block.query_stride, block.head_dim,
                              arguments.planes, arguments.thresholds,
                              workspace.query + r * workspace.query_stride);
    sums.minimum[r] = UINT32_MAX;
  }
  sums.clear(block.rows);
  *sums.state = {};
}

// The distances of row r with all keys of tile t, where bytes cut them.
template <class L>
void bitformer_count_again(const BitformerArguments& arguments, const BitformerWorkspace& workspace,
                           Index r, Index t, std::uint16_t* distances) noexcept {
  thermometer_distances<L, 1>(arguments.planes, workspace.query + r * workspace.query_stride,
                              workspace.query_stride, arguments.block.tiles.tile(t),
                              thermometer_row_bytes(arguments.planes, arguments.block.head_dim),
                              distances);
}

// Whether any of 64 kept distances may have been cut.
template <class L>
LOWATT_ALWAYS_INLINE bool has_cut_distance(const std::uint8_t* distances) noexcept {
  using Op = Ops<L>;
  std::uint32_t cut = 0;
  for (Index j = 0; j < tile_keys; j += Op::bytes)
    cut |= Op::nonzero_lanes(Op::subtract_saturate_u8(Op::load(distances + j), Op::fill_u8(254)));
  return cut != 0;
}

// The least distance of row r to keys that it sees, counted again; UINT32_MAX without any.
template <class L>
[[gnu::noinline, gnu::cold]] std::uint32_t bitformer_least_again(
    const BitformerArguments& arguments, const BitformerWorkspace& workspace, Index r) noexcept {
  std::uint32_t least = UINT32_MAX;
  for_visible_tiles(arguments.block, [&](Index t, bool is_full) noexcept {
    const std::uint64_t visible = is_full ? ~std::uint64_t{0} : arguments.block.visible_word(r, t);
    if (visible == 0) return;
    alignas(64) std::uint16_t distances[tile_keys];
    bitformer_count_again<L>(arguments, workspace, r, t, distances);
    hide(distances, visible, std::uint16_t{UINT16_MAX});
    const std::uint32_t here = least_distance<L>(distances);
    least = here < least ? here : least;
  });
  return least;
}

// Lowers each row's minima, those of each slot of all tiles, to its distances with tile t.
template <class Distance>
LOWATT_ALWAYS_INLINE void lower_minima(const BlockArguments& block, Index t, bool is_full,
                                       const Distance* distances,
                                       Distance (*minimum)[tile_keys]) noexcept {
  const Index rows = block.rows;
  if (is_full) {
    for (Index r = 0; r < rows; ++r) lower_distances(minimum[r], distances + r * tile_keys);
    return;
  }
  for (Index r = 0; r < rows; ++r) {
    // Not in its place: what is hidden would look as if it had been cut.
    alignas(64) Distance seen[tile_keys];
    __builtin_memcpy(seen, distances + r * tile_keys, sizeof seen);
    hide(seen, block.visible_word(r, t), static_cast<Distance>(~Distance{0}));
    lower_distances(minimum[r], seen);
  }
}

template <class L, class Distance>
void bitformer_statistic_of(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerWorkspace workspace(arguments);
  const Index steps = thermometer_row_bytes(arguments.planes, block.head_dim);
  constexpr auto farthest = static_cast<Distance>(~Distance{0});

  // Slot by slot: minima over the keys of one slot of all tiles.
  alignas(64) Distance minimum[bitformer_most_rows / sizeof(Distance)][tile_keys];
  for (Index r = 0; r < block.rows; ++r)
    for (Index j = 0; j < tile_keys; ++j) minimum[r][j] = farthest;

  const int planes = arguments.planes;
  const std::uint8_t* const query = workspace.query;
  const Index query_stride = workspace.query_stride;
  const auto find = [&](Index t, bool is_full) __attribute__((always_inline)) {
    const std::byte* codes = block.tiles.tile(t);
    auto* distances = workspace.tile_distances<Distance>(block.rows, t);
    for_rows(
        block.rows, [&]<int Rows>(Index r) __attribute__((always_inline)) {
          thermometer_distances<L, Rows>(planes, query + r * query_stride, query_stride, codes,
                                         steps, distances + r * tile_keys);
        });
    lower_minima(block, t, is_full, distances, minimum);
  };
  const bool by_two = looks_up_two_tiles<L>(planes);
  if (!by_two) for_visible_tiles(block, find);
  if constexpr (Ops<L>::looks_up_64) {
    if (by_two)
      for_visible_batches<2>(block, 0, [&](const BitformerBatch& batch) noexcept {
        if (batch.count == 1) return find(batch.position[0], batch.is_full[0]);
        Distance* distances[2];
        for (Index i = 0; i < 2; ++i)
          distances[i] = workspace.tile_distances<Distance>(block.rows, batch.position[i]);
        for_rows(block.rows, [&]<int Rows>(Index r) noexcept {
          Distance* of_rows[2] = {distances[0] + r * tile_keys, distances[1] + r * tile_keys};
          look_up_two_tiles<L, Rows>(planes, query + r * query_stride, query_stride, batch.data,
                                     steps, of_rows);
        });
        for (Index i = 0; i < 2; ++i)
          lower_minima(block, batch.position[i], batch.is_full[i], distances[i], minimum);
      });
  }

  for (Index r = 0; r < block.rows; ++r) {
    std::uint32_t least = least_distance<L>(minimum[r]);
    if (least == farthest && arguments.cuts_distances())
      least = bitformer_least_again<L>(arguments, workspace, r);
    if (least < workspace.sums.minimum[r]) workspace.sums.minimum[r] = least;
  }
}

// Calls f.operator()<Distance>() with the type that a block's distances are kept in.
template <class F>
LOWATT_ALWAYS_INLINE void with_bitformer_distance(const BitformerArguments& arguments,
                                                  F&& f) noexcept {
  switch (bitformer_kept_bytes(arguments.planes, arguments.block.head_dim)) {
    case 1:
      return f.template operator()<std::uint8_t>();
    case 2:
      return f.template operator()<std::uint16_t>();
    default:
      return f.template operator()<std::uint32_t>();
  }
}

// P of one row with the 64 keys of a tile; of hidden keys it means nothing.
template <class L, class Distance>
LOWATT_ALWAYS_INLINE void bitformer_weigh(const BitformerArguments& arguments,
                                          const Distance* distances, Distance minimum,
                                          std::uint8_t* p) noexcept {
  using Op = Ops<L>;
  if (sizeof(Distance) == 1 || arguments.table_entries <= 255) {
    // Entry 255 is 0 wherever differences can be larger: saturating there changes nothing.
    alignas(64) std::uint8_t excess[tile_keys];
    for (Index j = 0; j < tile_keys; ++j) {
      const auto difference = static_cast<Distance>(distances[j] - minimum);
      excess[j] = static_cast<std::uint8_t>(difference < 255 ? difference : 255);
    }
    const auto entries =
        static_cast<int>(arguments.table_entries < 256 ? arguments.table_entries : 256);
    for (Index j = 0; j < tile_keys; j += Op::bytes)
      Op::store(p + j, Op::lookup_u8(arguments.table, entries, Op::load(excess + j)));
    return;
  }
  for (Index j = 0; j < tile_keys; ++j) {
    const auto difference = static_cast<Distance>(distances[j] - minimum);
    p[j] = difference < arguments.table_entries ? arguments.table[difference] : std::uint8_t{0};
  }
}

// The same of row r with tile t, from distances counted again.
template <class L>
[[gnu::noinline, gnu::cold]] void bitformer_weigh_again(const BitformerArguments& arguments,
                                                        const BitformerWorkspace& workspace,
                                                        Index r, Index t,
                                                        std::uint8_t* p) noexcept {
  alignas(64) std::uint16_t counted[tile_keys];
  bitformer_count_again<L>(arguments, workspace, r, t, counted);
  bitformer_weigh<L>(arguments, counted, static_cast<std::uint16_t>(workspace.sums.minimum[r]), p);
}

// Key groups of a tile.
inline constexpr Index tile_value_groups = tile_keys / value_group;

// P of Rows rows with the tiles of a batch, in two parts that dot4_narrow can take. The second one
// is 0 but for neighbours of which one has half the largest weight or more and both together more
// than the largest.
template <class L, int Rows>
struct BitformerWeights {
  static constexpr bool has_rest = Ops<L>::narrow_weight < 255;
  using Bytes = std::uint8_t[Rows][BitformerBatch::most][tile_keys];
  alignas(64) Bytes bytes, rest;
  // Key groups of each row that have a rest: bit 16 t + g is group g of tile t. One word for all
  // tiles, since every loop over bits ends where the processor does not expect it.
  static_assert(BitformerBatch::most * tile_value_groups <= 64);
  std::uint64_t rest_groups[Rows];
};

// Finds P of Rows rows from `first` on and adds it to their partial sums of P, one lane each.
// Returns how many key groups have a rest. Cuts: distances may have been cut; the check takes 5% of
// the time where they cannot.
template <class L, class Distance, int Rows, bool Cuts>
Index bitformer_weigh_batch(const BitformerArguments& arguments,
                            const BitformerWorkspace& workspace, const BitformerBatch& batch,
                            Index first, BitformerWeights<L, Rows>& weights) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const BlockArguments& block = arguments.block;
  const BitformerSums& sums = workspace.sums;
  Index rests = 0;
  for (int r = 0; r < Rows; ++r) {
    const std::uint32_t minimum = sums.minimum[first + r];
    const bool weighs_cut = Cuts && arguments.weighs_cut(minimum);
    std::int32_t* total = sums.sums + (first + r) * sums.stride + sums.dims;
    Register sum = Op::load(total);
    std::uint64_t groups = 0;
    for (Index t = 0; t < batch.count; ++t) {
      std::uint8_t* p = weights.bytes[r][t];
      const Index position = batch.position[t];
      const Distance* distances =
          workspace.tile_distances<Distance>(block.rows, position) + (first + r) * tile_keys;
      bitformer_weigh<L>(arguments, distances, static_cast<Distance>(minimum), p);
      if constexpr (Cuts)
        if (weighs_cut && has_cut_distance<L>(distances))
          bitformer_weigh_again<L>(arguments, workspace, first + r, position, p);
      if (!batch.is_full[t]) hide(p, block.visible_word(first + r, position), std::uint8_t{0});
      for (Index j = 0; j < tile_keys; j += Op::bytes) {
        const Register whole = Op::load(p + j);
        sum = Op::dot4_narrow(sum, whole, Op::fill_u8(1));
        if constexpr (BitformerWeights<L, Rows>::has_rest) {
          const Register above = Op::subtract_saturate_u8(whole, Op::fill_u8(Op::narrow_weight));
          const Register rest = Op::bit_and(above, Op::wide_pairs(whole));
          Op::store(p + j, Op::subtract_u8(whole, rest));
          Op::store(weights.rest[r][t] + j, rest);
          groups |= std::uint64_t{Op::nonzero_lanes(rest)} << (t * tile_keys + j) / value_group;
        }
      }
    }
    if constexpr (BitformerWeights<L, Rows>::has_rest) {
      weights.rest_groups[r] = groups;
      rests += __builtin_popcountll(groups);
    }
    Op::store(total, sum);
  }
  return rests;
}

// Adds a batch's values, weighted by `weights`, for Rows queries, Vectors registers of dims from
// `vector` on.
template <class L, int Rows, int Vectors>
void bitformer_add_values(const BitformerBatch& batch,
                          const typename BitformerWeights<L, Rows>::Bytes& weights, Index vector,
                          bool is_first, std::int32_t* sums, Index stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register sum[Rows][Vectors];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = is_first ? Op::zero() : Op::load(sums + r * stride + (vector + v) * Op::lanes);
  }
  for (Index t = 0; t < batch.count; ++t) {
    const std::byte* values = batch.data[t];
    for (Index j = 0; j < tile_keys; j += value_group, values += value_group_stride) {
      Register value[Vectors];
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        value[v] = Op::load(values + value_vector_offset<L>(vector + v));
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const Register weight = Op::broadcast4(weights[r][t] + j);
        LOWATT_UNROLL
        for (int v = 0; v < Vectors; ++v) sum[r][v] = Op::dot4_narrow(sum[r][v], weight, value[v]);
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

// Adds a batch's values of all `vectors` registers of dims.
template <class L, int Rows>
LOWATT_ALWAYS_INLINE void bitformer_add_rows(
    const BitformerBatch& batch, const typename BitformerWeights<L, Rows>::Bytes& weights,
    Index vectors, bool is_first, std::int32_t* sums, Index stride) noexcept {
  for_widths<Ops<L>::block_vectors, 1>(
      vectors, [&]<int Vectors>(Index v) __attribute__((always_inline)) {
        bitformer_add_values<L, Rows, Vectors>(batch, weights, v, is_first, sums, stride);
      });
}

// Adds what the rests of a row's P weigh, key group by key group, to Vectors registers of dims from
// `vector` on.
template <class L, int Vectors>
LOWATT_ALWAYS_INLINE void bitformer_add_rests(const BitformerBatch& batch, std::uint64_t groups,
                                              const std::uint8_t (*rest)[tile_keys], Index vector,
                                              std::int32_t* sums) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  std::int32_t* at = sums + vector * Op::lanes;
  Register sum[Vectors];
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) sum[v] = Op::load(at + v * Op::lanes);
  for (; groups != 0; groups &= groups - 1) {
    const Index group = __builtin_ctzll(groups), t = group / tile_value_groups,
                in_tile = group % tile_value_groups;
    const Register weight = Op::broadcast4(rest[t] + in_tile * value_group);
    const std::byte* values = batch.data[t] + in_tile * value_group_stride;
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[v] =
          Op::dot4_narrow(sum[v], weight, Op::load(values + value_vector_offset<L>(vector + v)));
  }
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) Op::store(at + v * Op::lanes, sum[v]);
}

// The same for all rows and all `vectors` registers.
template <class L, int Rows>
void bitformer_add_few_rests(const BitformerBatch& batch, const BitformerWeights<L, Rows>& weights,
                             Index vectors, std::int32_t* sums, Index stride) noexcept {
  for (int r = 0; r < Rows; ++r) {
    const std::uint64_t groups = weights.rest_groups[r];
    if (groups == 0) continue;
    for_widths<8, 4, 1>(
        vectors, [&]<int Vectors>(Index v) __attribute__((always_inline)) {
          bitformer_add_rests<L, Vectors>(batch, groups, weights.rest[r], v, sums + r * stride);
        });
  }
}

// Calls add(batch, whether it is the first in sums) for the block's tiles that are seen.
template <class Add>
LOWATT_ALWAYS_INLINE void for_bitformer_batches(const BitformerArguments& arguments,
                                                const BitformerSums& sums, Add&& add) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerTileLayout layout(arguments.planes, block.head_dim, block.value_dim);
  for_visible_batches<BitformerBatch::most>(
      block, layout.values_offset(), [&](const BitformerBatch& batch) noexcept {
        const bool is_first = sums.make_room(block.rows, batch.count);
        add(batch, is_first);
      });
}

template <class L, class Distance>
void bitformer_accumulate_of(const BitformerArguments& arguments) noexcept {
  const BitformerWorkspace workspace(arguments);
  const BitformerSums& sums = workspace.sums;
  const Index vectors = sums.dims / Ops<L>::lanes;
  const bool cuts_distances = arguments.cuts_distances();
  for_bitformer_batches(arguments, sums, [&](const BitformerBatch& batch, bool is_first) noexcept {
    for_rows(arguments.block.rows, [&]<int Rows>(Index r) noexcept {
      BitformerWeights<L, Rows> weights;
      const auto weigh = [&]<bool Cuts>() noexcept {
        return bitformer_weigh_batch<L, Distance, Rows, Cuts>(arguments, workspace, batch, r,
                                                              weights);
      };
      Index rests = 0;
      if (sizeof(Distance) == 1 && cuts_distances)
        rests = weigh.template operator()<sizeof(Distance) == 1>();
      else
        rests = weigh.template operator()<false>();
      std::int32_t* row_sums = sums.sums + r * sums.stride;
      bitformer_add_rows<L, Rows>(batch, weights.bytes, vectors, is_first, row_sums, sums.stride);
      // Many rests are better added like the first parts.
      constexpr Index groups = Rows * tile_value_groups;
      if (rests > groups * batch.count / 2) {
        bitformer_add_rows<L, Rows>(batch, weights.rest, vectors, false, row_sums, sums.stride);
      } else if (rests > 0) {
        bitformer_add_few_rests<L, Rows>(batch, weights, vectors, row_sums, sums.stride);
      }
    });
  });
}

template <class L>
LOWATT_ALWAYS_INLINE void bitformer_accumulate_rows(const BitformerArguments& arguments) noexcept {
  with_bitformer_distance(arguments, [&]<class Distance>() noexcept {
    bitformer_accumulate_of<L, Distance>(arguments);
  });
}

// The row statistic: distances with all visible tiles, kept, and their minimum over visible keys.
template <class L>
void bitformer_statistic(const BitformerArguments& arguments) noexcept {
  with_bitformer_distance(arguments, [&]<class Distance>() noexcept {
    bitformer_statistic_of<L, Distance>(arguments);
  });
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L>
void bitformer_accumulate(const BitformerArguments& arguments) noexcept {
  bitformer_accumulate_rows<L>(arguments);
}

// Weighted means of one row to float: in double, left to right, rounded once.
template <class L, class Sum>
LOWATT_ALWAYS_INLINE void bitformer_means(double scale, double divisor, const Sum* sums, Index dims,
                                          float* out) noexcept {
  using Double = typename Ops<L>::Double;
  const Double factor(scale), weight(divisor), inverse(1.0 / divisor);
  write_row<L>(
      sums, dims, out, [=](Double sum) __attribute__((always_inline)) {
        return Ops<L>::quotient(factor * sum, weight, inverse);
      });
}

template <class L>
void bitformer_finish(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerSums sums = BitformerWorkspace(arguments).sums;
  const Index dims = block.value_dim;
  const bool is_wide = sums.state->is_wide;
  // Row after row, their divisions would take as long as writing a row does.
  double weight[bitformer_most_rows];
  for (Index r = 0; r < block.rows; ++r) weight[r] = static_cast<double>(sums.weight<L>(r));
  FloatPair factor[bitformer_most_rows];
  for (Index r = 0; r < block.rows; ++r) factor[r] = FloatPair(arguments.value_scale / weight[r]);
  for (Index r = 0; r < block.rows; ++r) {
    float* out = block.out + r * block.out_stride;
    const std::int32_t* narrow = sums.sums + r * sums.stride;
    std::int64_t* wide = sums.wide_sums + r * sums.stride;
    if (weight[r] == 0) {  // the row sees no key
      write_zeros(dims, out);
    } else if (is_wide) {
      for (Index c = 0; c < dims; ++c) wide[c] += narrow[c];
      bitformer_means<L>(arguments.value_scale, weight[r], wide, dims, out);
    } else if (weight[r] * 127 > static_cast<double>(most_written_integer) ||
               !write_integers<L>(narrow, dims, factor[r], out)) {
      bitformer_means<L>(arguments.value_scale, weight[r], narrow, dims, out);
    }
  }
}

// Between parts of the keys (core/part.hpp) go minima, times -1, and sums of P and P v.
template <class L>
void bitformer_store_statistic(const BitformerArguments& arguments, double* statistic) noexcept {
  const BitformerSums sums = BitformerWorkspace(arguments).sums;
  for (Index r = 0; r < arguments.block.rows; ++r)
    statistic[r * statistic_numbers] = -static_cast<double>(sums.minimum[r]);
}
template <class L>
void bitformer_load_statistic(const BitformerArguments& arguments,
                              const double* statistic) noexcept {
  const BitformerSums sums = BitformerWorkspace(arguments).sums;
  for (Index r = 0; r < arguments.block.rows; ++r)
    sums.minimum[r] = static_cast<std::uint32_t>(-statistic[r * statistic_numbers]);
}
template <class L>
void bitformer_store_part(const BitformerArguments& arguments, PartRows<double> part) noexcept {
  const BitformerSums sums = BitformerWorkspace(arguments).sums;
  const bool is_wide = sums.state->is_wide, has_narrow = sums.state->tiles > 0;
  for (Index r = 0; r < arguments.block.rows; ++r) {
    part.weight(r) = static_cast<double>(sums.weight<L>(r));
    part.maximum(r) = part.kept(r) = 0;
    for (Index i = r * sums.stride, c = 0; c < part.value_dim; ++i, ++c)
      part.sums(r)[c] =
          static_cast<double>((is_wide ? sums.wide_sums[i] : 0) + (has_narrow ? sums.sums[i] : 0));
  }
}
template <class L>
void bitformer_finish_part(const BitformerArguments& arguments,
                           PartRows<const double> part) noexcept {
  const BlockArguments& block = arguments.block;
  for (Index r = 0; r < block.rows; ++r) {
    const double divisor = part.weight(r);
    float* out = block.out + r * block.out_stride;
    if (divisor > 0)
      bitformer_means<L>(arguments.value_scale, divisor, part.sums(r), block.value_dim, out);
    else  // the row sees no key
      write_zeros(block.value_dim, out);
  }
}

}  // namespace lowatt
