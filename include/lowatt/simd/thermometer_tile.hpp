// Thermometer codes of 64 tokens and the distances of rows from them, however many planes there
// are: bit k of a channel says whether it reaches threshold k, and the distance of two codes is how
// many bits differ, which is how far apart the numbers of thresholds are that their channels reach.
// Up to three planes are kept as bits, from four on as levels. A sign is a thermometer of one
// plane.
//
// Overflow   exact distances have 8 bits up to 255 bits per code, 16 up to 65535 and 32 beyond, and
//            are summed in bytes for as many steps as always fit.
#pragma once

#include "bit_tile.hpp"
#include "level_tile.hpp"

namespace lowatt {

// Bits of up to three planes take less than levels, and no more time to compare.
inline constexpr int least_level_planes = 4;
LOWATT_ALWAYS_INLINE constexpr bool has_levels(int planes) noexcept {
  return planes >= least_level_planes;
}

// Bytes of a row's code; of a tile's.
LOWATT_ALWAYS_INLINE constexpr Index thermometer_row_bytes(int planes, Index dim) noexcept {
  return has_levels(planes) ? level_row_bytes(planes, dim) : bit_row_bytes(planes, dim);
}
LOWATT_ALWAYS_INLINE constexpr Index thermometer_tile_bytes(int planes, Index dim) noexcept {
  return thermometer_row_bytes(planes, dim) * tile_keys;
}

// Bytes of an encoded row, which no level needs more of.
LOWATT_ALWAYS_INLINE constexpr Index thermometer_query_bytes(int planes, Index dim) noexcept {
  const Index steps = thermometer_row_bytes(planes, dim);
  return has_levels(planes) ? level_query_bytes(planes, steps) : steps * broadcast_bytes;
}

// Bytes that hold any distance of two codes exactly.
LOWATT_ALWAYS_INLINE constexpr Index thermometer_distance_bytes(int planes, Index dim) noexcept {
  const Index largest = planes * dim;
  return largest <= 255 ? 1 : largest <= 65535 ? 2 : 4;
}

// Encodes a token into place `slot` (0..63) of a tile. `mean` is subtracted from x, in float32; it
// may be null. NaN reaches no threshold.
template <class L>
LOWATT_ALWAYS_INLINE void pack_thermometer(const float* x, const float* mean, Index dim, int planes,
                                           const float* thresholds, Index slot,
                                           std::uint8_t* tile) noexcept {
  if (has_levels(planes))
    pack_levels<L>(x, mean, dim, planes, thresholds, slot, tile);
  else
    pack_bits<L>(x, mean, dim, planes, thresholds, slot, tile);
}

// Encodes a row, in thermometer_query_bytes() at most.
template <class L>
LOWATT_ALWAYS_INLINE void encode_thermometer_row(const float* x, Index dim, int planes,
                                                 const float* thresholds,
                                                 std::uint8_t* row) noexcept {
  if (has_levels(planes))
    encode_level_row<L>(x, dim, planes, thresholds, row);
  else
    encode_bit_row<L>(x, dim, planes, thresholds, row);
}

// Limits a tile that does not come from packing to what packing writes.
LOWATT_ALWAYS_INLINE void limit_thermometer(std::byte* tile, int planes, Index dim) noexcept {
  if (has_levels(planes))
    limit_levels(reinterpret_cast<std::uint8_t*>(tile), planes, dim);
  else
    clear_spare_bits(tile, planes, dim);
}

// Calls sum_up(first step, count, sums) for `part` steps at a time, which sums of bytes hold, and
// adds the sums up in Distance. All are [Tiles][Rows * 64].
template <int Rows, int Tiles, class Distance, class SumUp>
LOWATT_ALWAYS_INLINE void sum_in_parts(Index steps, Index part, Distance* const* distances,
                                       SumUp&& sum_up) noexcept {
  constexpr Index width = Rows * tile_keys;
  alignas(64) std::uint8_t sums[Tiles][width];
  std::uint8_t* each_sums[Tiles];
  for (int t = 0; t < Tiles; ++t) each_sums[t] = sums[t];
  for (Index s = 0; s < steps; s += part) {
    sum_up(s, steps - s < part ? steps - s : part, each_sums);
    for (int t = 0; t < Tiles; ++t) {
      Distance* __restrict to = distances[t];
      if (s == 0)
        for (Index i = 0; i < width; ++i) to[i] = sums[t][i];
      else
        for (Index i = 0; i < width; ++i) to[i] = static_cast<Distance>(to[i] + sums[t][i]);
    }
  }
}

// What stores registers of sums into [Rows][64].
template <class L>
LOWATT_ALWAYS_INLINE auto store_into(std::uint8_t* sums) noexcept {
  return [=](int r, Index first, typename Ops<L>::Register sum) __attribute__((always_inline)) {
    Ops<L>::store(sums + r * tile_keys + first, sum);
  };
}

// Of bits, with one tile.
template <class L, int Rows, class Distance>
void bit_distances(const std::uint8_t* row, Index row_stride, const std::byte* bits, Index steps,
                   Distance* distances) noexcept {
  if constexpr (sizeof(Distance) == 1)
    count_bits<L, Rows>(row, row_stride, bits, steps, store_into<L>(distances));
  else
    sum_in_parts<Rows, 1>(steps, Index{255 / 8}, &distances,
                          [&](Index begin, Index count, std::uint8_t* const* sums) noexcept {
                            count_bits<L, Rows>(row + begin * broadcast_bytes, row_stride,
                                                bits + begin * tile_keys, count,
                                                store_into<L>(sums[0]));
                          });
}

// Of levels, by this method.
template <class L, LevelMethod method, int channels, int Rows, int Tiles, class Distance>
void level_distances(int planes, const std::uint8_t* row, Index row_stride,
                     const std::byte* const* tiles, Index steps,
                     Distance* const* distances) noexcept {
  static_assert(Tiles == 1 || method == LevelMethod::lookup);
  const auto sum_up = [=](Index begin, Index count, std::uint8_t* const* sums)
      __attribute__((always_inline)) {
    const std::byte* from[Tiles];
    for (int t = 0; t < Tiles; ++t) from[t] = tiles[t] + begin * tile_keys;
    if constexpr (method == LevelMethod::lookup) {
      look_up_levels<L, Rows, Tiles>(
          row + begin * broadcast_bytes, row_stride, from,
          count, [=](int t, int r, typename Ops<L>::Register sum) __attribute__((always_inline)) {
            store_into<L>(sums[t])(r, 0, sum);
          });
    } else if constexpr (method == LevelMethod::fields) {
      look_up_halves<L, 3, Rows>(field_distances<L>.table, row + begin * broadcast_bytes,
                                 row_stride, from[0], count, store_into<L>(sums[0]));
    } else {
      const Index part = begin / level_part_steps(planes);
      sum_minima<L, channels, Rows>(planes, row + begin * channels * broadcast_bytes,
                                    row + (steps * channels + part) * broadcast_bytes, row_stride,
                                    from[0], count, store_into<L>(sums[0]));
    }
  };
  if constexpr (sizeof(Distance) == 1)
    sum_up(0, steps, distances);
  else
    sum_in_parts<Rows, Tiles>(steps, level_part_steps(planes), distances, sum_up);
}

// Distances of Rows rows, as encode_thermometer_row() writes them, `row_stride` bytes apart, with
// the 64 tokens of a tile, of `steps` bytes a code: [Rows][64], in bytes, where 255 stands for all
// from there on; else Distance is what thermometer_distance_bytes() asks for.
template <class L, int Rows, class Distance>
LOWATT_ALWAYS_INLINE void thermometer_distances(int planes, const std::uint8_t* row,
                                                Index row_stride, const std::byte* tile,
                                                Index steps, Distance* distances) noexcept {
  if (!has_levels(planes)) return bit_distances<L, Rows>(row, row_stride, tile, steps, distances);
  if (level_channels(planes) == 2)
    level_distances<L, level_method<L>(most_paired_level), 2, Rows, 1>(planes, row, row_stride,
                                                                       &tile, steps, &distances);
  else
    level_distances<L, LevelMethod::minima, 1, Rows, 1>(planes, row, row_stride, &tile, steps,
                                                        &distances);
}

// Whether rows are faster with two tiles at a time: the same for each of `tiles`.
template <class L>
LOWATT_ALWAYS_INLINE constexpr bool looks_up_two_tiles(int planes) noexcept {
  return has_levels(planes) && level_method<L>(planes) == LevelMethod::lookup;
}
template <class L, int Rows, class Distance>
LOWATT_ALWAYS_INLINE void look_up_two_tiles(int planes, const std::uint8_t* row, Index row_stride,
                                            const std::byte* const* tiles, Index steps,
                                            Distance* const* distances) noexcept {
  level_distances<L, LevelMethod::lookup, 2, Rows, 2>(planes, row, row_stride, tiles, steps,
                                                      distances);
}

// Lowers each of 64 distances to another one.
template <class Distance>
LOWATT_ALWAYS_INLINE void lower_distances(Distance* __restrict to,
                                          const Distance* __restrict other) noexcept {
  for (Index j = 0; j < tile_keys; ++j) to[j] = other[j] < to[j] ? other[j] : to[j];
}

// The least of 64 distances.
template <class L, class Distance>
LOWATT_ALWAYS_INLINE Distance least_distance(const Distance* distances) noexcept {
  using Op = Ops<L>;
  if constexpr (sizeof(Distance) == 4) {
    Distance least = distances[0];
    for (Index j = 1; j < tile_keys; ++j) least = distances[j] < least ? distances[j] : least;
    return least;
  } else {
    constexpr bool is_byte = sizeof(Distance) == 1;
    constexpr Index width = Op::bytes / static_cast<Index>(sizeof(Distance));
    auto least = Op::load(distances);
    for (Index j = width; j < tile_keys; j += width) {
      const auto next = Op::load(distances + j);
      least = is_byte ? Op::min_u8(least, next) : Op::min_u16(least, next);
    }
    return static_cast<Distance>(is_byte ? Op::reduce_min_u8(least) : Op::reduce_min_u16(least));
  }
}

}  // namespace lowatt
