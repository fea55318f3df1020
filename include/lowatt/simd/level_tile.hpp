// How the levels of 64 tokens lie in memory, and how to sum how far they are from others: a
// channel's level is how many of its thresholds it reaches, 0 to 63, so that the sum over channels
// of the difference of two levels is the Hamming distance of two thermometer codes.
//
//   levels  [steps][64 tokens] u8    up to level 7 two channels share a byte: bits 0 to 2 of byte i
//                                    are channel i, bits 3 to 5 channel steps + i; beyond, a byte
//                                    is one channel
//
// With four thresholds a byte is as much as their bits would take, with more it is less.
//
// Lives on   at avx512icl vpermb, which looks a token's byte up in 64 distances from the row's,
//            and vpaddusb: two instructions for 64 tokens and two channels, where counting the
//            bits of four planes takes three. A row's table serves several tiles at once. Below
//            that vpshufb by fields up to level 7; else differences that saturate at 0.
// Overflow   a byte of a row adds at most 14 where two channels share it, else 63; sums stay at
//            255.
// Tail       channels that are not there have level 0 in rows and tiles alike, and so add
//            nothing.
#pragma once

#include "../core/tiles.hpp"
#include "ops.hpp"

namespace lowatt {

// Levels up to this one have three bits, others six.
inline constexpr int most_paired_level = 7;
inline constexpr int most_level = 63;

LOWATT_ALWAYS_INLINE constexpr Index level_channels(int planes) noexcept {
  return planes <= most_paired_level ? 2 : 1;
}
LOWATT_ALWAYS_INLINE constexpr Index level_row_bytes(int planes, Index dim) noexcept {
  return (dim + level_channels(planes) - 1) / level_channels(planes);
}

inline constexpr Index level_chunk = 32;
// Levels of a row: calls each(first, count, bytes) for `count` of its bytes from `first` on, each
// in 32 bits. `mean` is subtracted from x, in float32; it may be null. NaN reaches no threshold.
template <class L, class Each>
LOWATT_ALWAYS_INLINE void encode_levels(const float* x, const float* mean, Index dim, int planes,
                                        const float* thresholds, Each&& each) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr Index chunk = level_chunk;
  const Index steps = level_row_bytes(planes, dim);
  for (Index i = 0; i < steps; i += chunk) {
    alignas(64) std::uint32_t bytes[chunk] = {};
    Float unit(1.0f);
    for (Index begin = i; begin < dim; begin += steps, unit *= Float(8.0f)) {
      alignas(64) float part[chunk];
      const Index end = begin - i + steps < dim ? begin - i + steps : dim;
      const Index count = end - begin < chunk ? end - begin : chunk;
      const float* source = x + begin;
      if (mean != nullptr || count < chunk) {
        for (Index k = 0; k < count; ++k)
          part[k] = mean != nullptr ? x[begin + k] - mean[begin + k] : x[begin + k];
        for (Index k = count; k < chunk; ++k) part[k] = __builtin_nanf("");
        source = part;
      }
      for (Index k = 0; k < chunk; k += Op::lanes) {
        const auto value = Float::load_unaligned(source + k);
        Float level(0.0f);
        for (int t = 0; t < planes; ++t)
          level += xsimd::select(value >= Float(thresholds[t]), unit, Float(0.0f));
        Op::store(bytes + k, Op::add_i32(Op::load(bytes + k), Op::round_i32(level)));
      }
    }
    each(i, steps - i < chunk ? steps - i : chunk, bytes);
  }
}

// Encodes a token into place `slot` (0..63) of a tile.
template <class L>
LOWATT_ALWAYS_INLINE void pack_levels(const float* x, const float* mean, Index dim, int planes,
                                      const float* thresholds, Index slot,
                                      std::uint8_t* tile) noexcept {
  encode_levels<L>(x, mean, dim, planes, thresholds,
                   [&](Index first, Index count, const std::uint32_t* bytes) noexcept {
                     for (Index i = 0; i < count; ++i)
                       tile[(first + i) * tile_keys + slot] = static_cast<std::uint8_t>(bytes[i]);
                   });
}

// Takes from a tile that does not come from packing what packing would not write.
LOWATT_ALWAYS_INLINE void limit_levels(std::byte* tile, int planes, Index dim) noexcept {
  const Index steps = level_row_bytes(planes, dim), channels = level_channels(planes);
  const int bits = channels == 2 ? 3 : 6;
  for (Index i = 0; i < steps * tile_keys; ++i) {
    const int byte = std::to_integer<int>(tile[i]);
    int limited = 0;
    for (int c = 0; c < channels; ++c) {
      const int level = byte >> c * bits & ((1 << bits) - 1);
      const bool is_there = c * steps + i / tile_keys < dim;
      limited |= (!is_there ? 0 : level < planes ? level : planes) << c * bits;
    }
    tile[i] = static_cast<std::byte>(limited);
  }
}

// Distances of each byte from each: of two fields of three bits, or of one of six.
template <class L, int bits>
struct LevelTables {
  alignas(64) std::uint8_t table[64][64] = {};
  LOWATT_ALWAYS_INLINE constexpr LevelTables() noexcept {
    for (int a = 0; a < 64; ++a)
      for (int b = 0; b < 64; ++b)
        for (int shift = 0; shift < 6; shift += bits) {
          const int mask = (1 << bits) - 1, difference = (a >> shift & mask) - (b >> shift & mask);
          table[a][b] =
              static_cast<std::uint8_t>(table[a][b] + (difference < 0 ? -difference : difference));
        }
  }
};
template <class L, int bits>
inline constexpr LevelTables<L, bits> level_tables{};

// The same of one field of three bits, from any nibble.
template <class L>
struct FieldDistances {
  std::uint8_t table[8][16] = {};
  LOWATT_ALWAYS_INLINE constexpr FieldDistances() noexcept {
    for (int a = 0; a < 8; ++a)
      for (int b = 0; b < 16; ++b) table[a][b] = static_cast<std::uint8_t>(a < b ? b - a : a - b);
  }
};
template <class L>
inline constexpr FieldDistances<L> field_distances{};

// Encodes a row as add_level_distances() reads it, four bytes for each of its own: where the byte's
// table begins, where those of its two fields do, or the byte four times.
template <class L>
LOWATT_ALWAYS_INLINE void encode_level_row(const float* x, Index dim, int planes,
                                           const float* thresholds, std::uint8_t* row) noexcept {
  const bool by_fields = Ops<L>::counts_by_nibbles && planes <= most_paired_level;
  encode_levels<L>(x, nullptr, dim, planes, thresholds,
                   [&](Index first, Index count, std::uint32_t* bytes) noexcept {
                     for (Index i = 0; i < level_chunk; ++i)
                       bytes[i] = Ops<L>::looks_up_64 ? bytes[i] * 64
                                  : by_fields         ? (bytes[i] & 7) << 4 | (bytes[i] >> 3) << 20
                                                      : bytes[i] * 0x01010101u;
                     std::uint8_t* four = row + first * 4;
                     if (count == level_chunk)
                       __builtin_memcpy(four, bytes, level_chunk * 4);
                     else
                       __builtin_memcpy(four, bytes, static_cast<std::size_t>(count * 4));
                   });
}

// Bits 3 to 5 of each byte, of which bits 6 and 7 are 0.
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Register high_field(
    typename Ops<L>::Register bytes) noexcept {
  return Ops<L>::high_nibbles(Ops<L>::add_u8(bytes, bytes));
}
template <class L>
LOWATT_ALWAYS_INLINE typename Ops<L>::Register absolute_difference_u8(
    typename Ops<L>::Register a, typename Ops<L>::Register b) noexcept {
  using Op = Ops<L>;
  return Op::add_u8(Op::subtract_saturate_u8(a, b), Op::subtract_saturate_u8(b, a));
}

// Sums the distances of Rows rows, `row_stride` bytes apart, from the tokens of Tiles tiles, over
// `steps` bytes of `bits` bits a level; sums end at 255. Calls take(tile, r, first, sums) with a
// register of sums for tokens from `first` on.
template <class L, int bits, int Rows, int Tiles, class Take>
LOWATT_ALWAYS_INLINE void add_level_distances(const std::uint8_t* row, Index row_stride,
                                              const std::byte* const* tiles, Index steps,
                                              Take&& take) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int per_tile = static_cast<int>(tile_keys / Op::bytes);
  // Registers of tokens that a row's tables serve.
  constexpr int vectors = Op::looks_up_64 ? Tiles : Op::counts_by_nibbles ? per_tile : 1;
  for (int first = 0; first < Tiles * per_tile; first += vectors) {
    Register sum[Rows][vectors];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v) sum[r][v] = Op::zero();
    }
    for (Index s = 0; s < steps; ++s) {
      Register low[vectors], high[vectors];
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v) {
        low[v] = Op::load(tiles[(first + v) / per_tile] + s * tile_keys +
                          (first + v) % per_tile * Op::bytes);
        if constexpr (bits == 3 && !Op::looks_up_64) {
          high[v] = high_field<L>(low[v]);
          low[v] = Op::bit_and(low[v], Op::fill_u8(most_paired_level));
        }
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const std::uint8_t* four = row + r * row_stride + s * 4;
        if constexpr (Op::looks_up_64) {
          std::uint32_t offset;
          __builtin_memcpy(&offset, four, sizeof offset);
          const Register table = Op::load(level_tables<L, bits>.table[0] + offset);
          LOWATT_UNROLL
          for (int v = 0; v < vectors; ++v)
            sum[r][v] = Op::add_saturate_u8(sum[r][v], Op::lookup_64(table, low[v]));
        } else if constexpr (bits == 3 && Op::counts_by_nibbles) {
          std::uint16_t offset[2];
          __builtin_memcpy(offset, four, sizeof offset);
          const std::uint8_t* tables = field_distances<L>.table[0];
          const Register of_low = Op::broadcast16(tables + offset[0]);
          const Register of_high = Op::broadcast16(tables + offset[1]);
          LOWATT_UNROLL
          for (int v = 0; v < vectors; ++v)
            sum[r][v] = Op::add_saturate_u8(sum[r][v], Op::add_u8(Op::shuffle16(of_low, low[v]),
                                                                  Op::shuffle16(of_high, high[v])));
        } else {
          const Register byte = Op::broadcast4(four);
          LOWATT_UNROLL
          for (int v = 0; v < vectors; ++v) {
            if constexpr (bits == 3) {
              const Register row_low = Op::bit_and(byte, Op::fill_u8(most_paired_level));
              sum[r][v] = Op::add_saturate_u8(
                  sum[r][v], Op::add_u8(absolute_difference_u8<L>(row_low, low[v]),
                                        absolute_difference_u8<L>(high_field<L>(byte), high[v])));
            } else {
              sum[r][v] = Op::add_saturate_u8(sum[r][v], absolute_difference_u8<L>(byte, low[v]));
            }
          }
        }
      }
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v)
        take((first + v) / per_tile, r, (first + v) % per_tile * Op::bytes, sum[r][v]);
    }
  }
}

}  // namespace lowatt
