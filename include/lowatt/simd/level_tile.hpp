// How the levels of 64 tokens lie in memory, and how to sum how far they are from others: a
// channel's level is how many of its thresholds it reaches, 0 to 64, so that the sum over channels
// of the difference of two levels is the Hamming distance of two thermometer codes.
//
//   levels  [steps][64 tokens] u8    up to level 7 two channels share a byte: of each 64 channels,
//                                    or what is left of them, the first half lies in bits 0 to 2,
//                                    the second in bits 3 to 5; beyond, a byte is one channel
//
// Lives on   for two channels in a byte, at avx512icl vpermb, which looks the byte up in 64
//            distances from the row's, and vpaddusb: two instructions for 64 tokens, where counting
//            the bits of four planes takes three. A row's table serves several tiles at once. At
//            avx2 and avx512 vpshufb, one channel at a time.
//            Otherwise minima: |a - b| = a + b - 2 min(a, b). Sums of a are kept with the row,
//            those of b serve all rows, so that two instructions (vpminub, vpaddb) are left.
// Overflow   minima are summed modulo 256, over no more steps than differ by 255; sums of these, as
//            those of what is looked up, stay at 255.
// Tail       channels that are not there have level 0 in rows and tiles alike, and so add nothing.
#pragma once

#include "bit_tile.hpp"

namespace lowatt {

// Levels up to this one have three bits, two to a byte.
inline constexpr int most_paired_level = 7;

LOWATT_ALWAYS_INLINE constexpr int level_channels(int planes) noexcept {
  return planes <= most_paired_level ? 2 : 1;
}
LOWATT_ALWAYS_INLINE constexpr Index level_row_bytes(int planes, Index dim) noexcept {
  return level_channels(planes) == 2 ? (dim + 1) / 2 : dim;
}

// Steps, that is, bytes of a row, over which distances are 255 at most.
LOWATT_ALWAYS_INLINE constexpr Index level_part_steps(int planes) noexcept {
  return 255 / (planes * level_channels(planes));
}

// How rows are compared with tiles.
enum class LevelMethod { lookup, fields, minima };
template <class L>
LOWATT_ALWAYS_INLINE constexpr LevelMethod level_method(int planes) noexcept {
  if (level_channels(planes) == 1) return LevelMethod::minima;
  if (Ops<L>::looks_up_64) return LevelMethod::lookup;
  return Ops<L>::counts_by_nibbles ? LevelMethod::fields : LevelMethod::minima;
}

// Bytes of an encoded row of so many steps, whatever the method: by minima four a channel, and four
// for the sum of each part, where others take four a step.
LOWATT_ALWAYS_INLINE constexpr Index level_query_bytes(int planes, Index steps) noexcept {
  const Index parts = (steps + level_part_steps(planes) - 1) / level_part_steps(planes);
  return (steps * level_channels(planes) + parts) * broadcast_bytes;
}

// Encodes one row: calls each(first, count, word) for `count` of its bytes from byte `first` on, at
// most eight, the first one lowest in `word`.
template <class L, class Each>
LOWATT_ALWAYS_INLINE void encode_levels(const float* x, const float* mean, Index dim, int planes,
                                        const float* thresholds, Each&& each) noexcept {
  for_channels(x, mean, dim, [&](Index c, Index count, const float* values) noexcept {
    alignas(64) std::uint8_t levels[channel_chunk];
    Ops<L>::count_not_below(values, thresholds, planes, levels);
    const Index channels = level_channels(planes), steps = level_row_bytes(planes, count);
    for (Index i = 0; i < steps; i += 8) {
      std::uint64_t word, high;
      __builtin_memcpy(&word, levels + i, sizeof word);
      if (channels == 2) {
        __builtin_memcpy(&high, levels + steps + i, sizeof high);
        word |= high << 3;
      }
      each(level_row_bytes(planes, c) + i, steps - i < 8 ? steps - i : Index{8}, word);
    }
  });
}

// Encodes a token into place `slot` (0..63) of a tile.
template <class L>
LOWATT_ALWAYS_INLINE void pack_levels(const float* x, const float* mean, Index dim, int planes,
                                      const float* thresholds, Index slot,
                                      std::uint8_t* tile) noexcept {
  encode_levels<L>(x, mean, dim, planes, thresholds,
                   [=](Index first, Index count, std::uint64_t word) noexcept {
                     scatter(tile + first * tile_keys + slot, count, word);
                   });
}

// Limits a tile that does not come from packing to what packing writes: levels up to `planes`, and
// 0 where a byte has a channel to spare.
LOWATT_ALWAYS_INLINE void limit_levels(std::uint8_t* tile, int planes, Index dim) noexcept {
  const Index steps = level_row_bytes(planes, dim);
  const bool is_paired = level_channels(planes) == 2;
  for (Index i = 0; i < steps; ++i, tile += tile_keys) {
    const int most_high = 2 * i + 1 < dim ? planes : 0;
    for (Index j = 0; j < tile_keys; ++j) {
      const int low = is_paired ? tile[j] & most_paired_level : tile[j];
      const int high = is_paired ? tile[j] >> 3 & most_paired_level : 0;
      tile[j] = static_cast<std::uint8_t>((low < planes ? low : planes) |
                                          (high < most_high ? high : most_high) << 3);
    }
  }
}

// Distances of the two levels in a byte from those in each other byte.
template <class L>
struct PairDistances {
  alignas(64) std::uint8_t table[64 * 64] = {};
  LOWATT_ALWAYS_INLINE constexpr PairDistances() noexcept {
    for (int a = 0; a < 64; ++a)
      for (int b = 0; b < 64; ++b) {
        const int low = a % 8 - b % 8, high = a / 8 - b / 8;
        table[a * 64 + b] =
            static_cast<std::uint8_t>((low < 0 ? -low : low) + (high < 0 ? -high : high));
      }
  }
};
template <class L>
inline constexpr PairDistances<L> pair_distances{};

// Distances of a level from those in the lower three bits of a nibble.
template <class L>
struct FieldDistances {
  std::uint8_t table[8 * 16] = {};
  LOWATT_ALWAYS_INLINE constexpr FieldDistances() noexcept {
    for (int a = 0; a < 8; ++a)
      for (int b = 0; b < 16; ++b)
        table[a * 16 + b] = static_cast<std::uint8_t>(a < b % 8 ? b % 8 - a : a - b % 8);
  }
};
template <class L>
inline constexpr FieldDistances<L> field_distances{};

// Encodes a row for tables, four bytes a step: where the byte's table begins, or in 16 bits each
// where those of its two levels do. Each threshold that a channel reaches moves that on by what is
// between the tables of two levels. Sums are below 2^24: float holds them exactly.
template <class L>
LOWATT_ALWAYS_INLINE void encode_table_row(const float* x, Index dim, int planes,
                                           const float* thresholds, std::uint8_t* row) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const Float of_low(Op::looks_up_64 ? 0x1p6f : 0x1p4f),
      of_high(Op::looks_up_64 ? 0x1p9f : 0x1p20f);
  for_channels(x, nullptr, dim, [&](Index c, Index count, const float* values) noexcept {
    const Index steps = level_row_bytes(planes, count);
    constexpr Index most_steps = channel_chunk / 2;
    constexpr int vectors = static_cast<int>(most_steps) / Op::lanes;
    Float begin[vectors];
    LOWATT_UNROLL
    for (int v = 0; v < vectors; ++v) begin[v] = Float(0.0f);
    for (int t = 0; t < planes; ++t) {
      const Float threshold(thresholds[t]);
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v) {
        const float* low = values + v * Op::lanes;
        begin[v] = Op::add_not_below(begin[v], Float::load_unaligned(low), threshold, of_low);
        begin[v] =
            Op::add_not_below(begin[v], Float::load_unaligned(low + steps), threshold, of_high);
      }
    }
    std::uint32_t fours[most_steps];
    LOWATT_UNROLL
    for (int v = 0; v < vectors; ++v) Op::store(fours + v * Op::lanes, Op::round_i32(begin[v]));
    copy_first(row + level_row_bytes(planes, c) * broadcast_bytes, fours, steps);
  });
}

// Encodes a row for minima: each level four times, so that it is broadcast from memory, then the
// sums of parts likewise.
template <class L>
LOWATT_ALWAYS_INLINE void encode_minima_row(const float* x, Index dim, int planes,
                                            const float* thresholds, std::uint8_t* row) noexcept {
  constexpr std::uint32_t copies = 0x01010101;
  constexpr std::uint64_t lowest_fields = most_paired_level * 0x0101010101010101u;
  const Index channels = level_channels(planes), part_steps = level_part_steps(planes);
  std::uint8_t* sums = row + level_row_bytes(planes, dim) * channels * broadcast_bytes;
  Index left = part_steps;
  std::uint64_t sum = 0;
  const auto end_part = [&]() __attribute__((always_inline)) {
    const std::uint32_t four = static_cast<std::uint8_t>(sum) * copies;
    __builtin_memcpy(sums, &four, broadcast_bytes);
    sums += broadcast_bytes;
    left = part_steps;
    sum = 0;
  };
  encode_levels<L>(x, nullptr, dim, planes, thresholds,
                   [&](Index first, Index count, std::uint64_t word) noexcept {
                     if (channels == 1) {
                       write_steps(row, first, count, word,
                                   [](std::uint32_t level) noexcept { return level * copies; });
                     } else {
                       std::uint8_t bytes[8];
                       __builtin_memcpy(bytes, &word, sizeof bytes);
                       std::uint32_t fours[16];
                       for (Index i = 0; i < 8; ++i) {
                         fours[2 * i] = (bytes[i] & most_paired_level) * copies;
                         fours[2 * i + 1] = (bytes[i] >> 3) * copies;
                       }
                       copy_first(row + first * 2 * broadcast_bytes, fours, 2 * count);
                       word = (word & lowest_fields) + (word >> 3 & lowest_fields);
                     }
                     for (Index i = 0; i < count;) {
                       const Index now = left < count - i ? left : count - i;
                       // Times ones, the highest byte is the sum: a byte holds that of a part.
                       const std::uint64_t part = word >> 8 * i << (64 - 8 * now);
                       sum += part * 0x0101010101010101u >> 56;
                       i += now;
                       left -= now;
                       if (left == 0) end_part();
                     }
                   });
  if (left < part_steps) end_part();
}

// Encodes a row by level_method().
template <class L>
LOWATT_ALWAYS_INLINE void encode_level_row(const float* x, Index dim, int planes,
                                           const float* thresholds, std::uint8_t* row) noexcept {
  if (level_method<L>(planes) == LevelMethod::minima)
    encode_minima_row<L>(x, dim, planes, thresholds, row);
  else
    encode_table_row<L>(x, dim, planes, thresholds, row);
}

// The following sum the distances of Rows encoded rows, `row_stride` bytes apart, from the tokens
// of tiles, over `steps` bytes; sums stay at 255. By fields look_up_halves() does.

// By lookup, of Tiles tiles: calls take(t, r, sums) with a register of sums of all tokens.
template <class L, int Rows, int Tiles, class Take>
LOWATT_ALWAYS_INLINE void look_up_levels(const std::uint8_t* row, Index row_stride,
                                         const std::byte* const* tiles, Index steps,
                                         Take&& take) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  static_assert(Op::bytes == tile_keys);
  Register sum[Rows][Tiles];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int t = 0; t < Tiles; ++t) sum[r][t] = Op::zero();
  }
  for (Index s = 0; s < steps; ++s) {
    Register levels[Tiles];
    LOWATT_UNROLL
    for (int t = 0; t < Tiles; ++t) levels[t] = Op::load(tiles[t] + s * tile_keys);
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      std::uint32_t offset;
      __builtin_memcpy(&offset, row + r * row_stride + s * broadcast_bytes, sizeof offset);
      const Register table = Op::load(pair_distances<L>.table + offset);
      LOWATT_UNROLL
      for (int t = 0; t < Tiles; ++t)
        sum[r][t] = Op::add_saturate_u8(sum[r][t], Op::lookup_64(table, levels[t]));
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int t = 0; t < Tiles; ++t) take(t, r, sum[r][t]);
  }
}

// By minima, of one tile with so many channels in a byte, from the beginning of a part on, where a
// row's levels and `sums` are: calls take(r, first, sums) with a register of sums for tokens from
// `first` on.
template <class L, int channels, int Rows, class Take>
LOWATT_ALWAYS_INLINE void sum_minima(int planes, const std::uint8_t* row, const std::uint8_t* sums,
                                     Index row_stride, const std::byte* tile, Index steps,
                                     Take&& take) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const Index part_steps = level_part_steps(planes);
  for (Index first = 0; first < tile_keys; first += Op::bytes) {
    const std::uint8_t *level = row, *part_sum = sums;
    Register sum[Rows];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) sum[r] = Op::zero();
    for (Index s = 0; s < steps; part_sum += broadcast_bytes) {
      Register of_tokens = Op::zero(), minima[Rows];
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) minima[r] = Op::zero();
        // One row alone has little to do in a step.
#pragma GCC unroll 4
      for (const Index end = s + part_steps < steps ? s + part_steps : steps; s < end; ++s) {
        Register token[channels];
        token[0] = Op::load(tile + s * tile_keys + first);
        if constexpr (channels == 2) {
          token[1] = Op::shift_right_u8(token[0], 3);
          token[0] = Op::bit_and(token[0], Op::fill_u8(most_paired_level));
        }
        LOWATT_UNROLL
        for (int c = 0; c < channels; ++c, level += broadcast_bytes) {
          of_tokens = Op::add_u8(of_tokens, token[c]);
          LOWATT_UNROLL
          for (int r = 0; r < Rows; ++r)
            minima[r] =
                Op::add_u8(minima[r], Op::min_u8(token[c], Op::broadcast4(level + r * row_stride)));
        }
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const Register both = Op::add_u8(Op::broadcast4(part_sum + r * row_stride), of_tokens);
        sum[r] =
            Op::add_saturate_u8(sum[r], Op::subtract_u8(both, Op::add_u8(minima[r], minima[r])));
      }
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) take(r, first, sum[r]);
  }
}

}  // namespace lowatt
