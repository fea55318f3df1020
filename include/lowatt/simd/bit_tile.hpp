// How the bits of 64 tokens lie in memory, and how to count those in which they differ from others:
//
//   bits    [planes][dim/8][64 tokens] u8             bit k % 8 of byte k / 8 is channel k
//
// A plane holds one bit per channel: 1 where the value reaches the plane's threshold. A register of
// bits holds eight channels of many tokens, so that a row's byte against it (xor, count, add) gives
// distances that lie in the order of the tokens. Bits beyond the last channel are 0 in rows and
// tiles alike: they cancel. A token is appended by scattering its bytes into the open tile.
//
// With thresholds that ascend from plane to plane, the distance of two rows is the sum over
// channels of the difference in the number of thresholds they reach.
//
// Overflow   a byte of a row adds at most 8; counts stay at 255.
#pragma once

#include "../core/tiles.hpp"
#include "ops.hpp"

namespace lowatt {

// Bytes of a row's bits in all planes.
LOWATT_ALWAYS_INLINE constexpr Index bit_row_bytes(int planes, Index dim) noexcept {
  return planes * ((dim + 7) / 8);
}

// Calls each(first, count, values) for the channels of a row, 64 at a time, from `first` on; values
// beyond `count` are NaN, which reaches no threshold. `mean` is subtracted from x, in float32; it
// may be null.
inline constexpr Index channel_chunk = 64;
template <class Each>
LOWATT_ALWAYS_INLINE void for_channels(const float* x, const float* mean, Index dim,
                                       Each&& each) noexcept {
  alignas(64) float part[channel_chunk];
  for (Index c = 0; c < dim; c += channel_chunk) {
    const Index count = dim - c < channel_chunk ? dim - c : channel_chunk;
    const float* source = x + c;
    if (mean != nullptr || count < channel_chunk) {
      for (Index k = 0; k < count; ++k)
        part[k] = mean != nullptr ? x[c + k] - mean[c + k] : x[c + k];
      for (Index k = count; k < channel_chunk; ++k) part[k] = __builtin_nanf("");
      source = part;
    }
    each(c, count, source);
  }
}

// Encodes one row: calls each(first, count, word) for `count` bytes of its bits from byte `first`
// on, at most eight, the first one lowest in `word`.
template <class L, class Each>
LOWATT_ALWAYS_INLINE void encode_bits(const float* x, const float* mean, Index dim, int planes,
                                      const float* thresholds, Each&& each) noexcept {
  for_channels(x, mean, dim, [&](Index c, Index count, const float* values) noexcept {
    for (int t = 0; t < planes; ++t)
      each(bit_row_bytes(t, dim) + c / 8, bit_row_bytes(1, count),
           Ops<L>::mask_not_below(values, thresholds[t]));
  });
}

// Writes `count` of eight bytes of a token's code, the first one lowest in `word`, into its place
// in the tile, of which `first` is the first of them.
LOWATT_ALWAYS_INLINE void scatter(std::uint8_t* first, Index count, std::uint64_t word) noexcept {
  if (count == 8)
    for (Index i = 0; i < 8; ++i) first[i * tile_keys] = static_cast<std::uint8_t>(word >> 8 * i);
  else
    for (Index i = 0; i < count; ++i)
      first[i * tile_keys] = static_cast<std::uint8_t>(word >> 8 * i);
}

// Copies the first `count` of so many numbers.
template <Index most>
LOWATT_ALWAYS_INLINE void copy_first(std::uint8_t* to, const std::uint32_t (&from)[most],
                                     Index count) noexcept {
  if (count == most)
    __builtin_memcpy(to, from, sizeof from);
  else
    __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof from[0]);
}

// Writes of_byte() of `count` of eight bytes of a row's code, the first one lowest in `word`, as
// the row's from step `first` on.
template <class OfByte>
LOWATT_ALWAYS_INLINE void write_steps(std::uint8_t* row, Index first, Index count,
                                      std::uint64_t word, OfByte&& of_byte) noexcept {
  std::uint8_t bytes[8];
  __builtin_memcpy(bytes, &word, sizeof bytes);
  std::uint32_t fours[8];
  for (Index i = 0; i < 8; ++i) fours[i] = of_byte(std::uint32_t{bytes[i]});
  copy_first(row + first * broadcast_bytes, fours, count);
}

// Encodes a token into place `slot` (0..63) of a tile.
template <class L>
LOWATT_ALWAYS_INLINE void pack_bits(const float* x, const float* mean, Index dim, int planes,
                                    const float* thresholds, Index slot,
                                    std::uint8_t* tile) noexcept {
  encode_bits<L>(x, mean, dim, planes, thresholds,
                 [=](Index first, Index count, std::uint64_t word) noexcept {
                   scatter(tile + first * tile_keys + slot, count, word);
                 });
}

// Clears the bits beyond the last channel of a tile that does not come from packing.
LOWATT_ALWAYS_INLINE void clear_spare_bits(std::byte* tile, int planes, Index dim) noexcept {
  if (dim % 8 == 0) return;
  const std::byte channels{static_cast<std::uint8_t>((1 << dim % 8) - 1)};
  for (int t = 1; t <= planes; ++t)
    for (Index i = 0; i < tile_keys; ++i)
      tile[(bit_row_bytes(t, dim) - 1) * tile_keys + i] &= channels;
}

// How many bits a nibble differs in from each of the sixteen: one table per nibble of a row, for
// levels that count by lookup.
template <class L>
struct NibbleDifferences {
  std::uint8_t table[16 * 16] = {};
  LOWATT_ALWAYS_INLINE constexpr NibbleDifferences() noexcept {
    for (int a = 0; a < 16; ++a)
      for (int b = 0; b < 16; ++b)
        for (int bit = 0; bit < 4; ++bit)
          table[a * 16 + b] = static_cast<std::uint8_t>(table[a * 16 + b] + (((a ^ b) >> bit) & 1));
  }
};
template <class L>
inline constexpr NibbleDifferences<L> nibble_differences{};

// Encodes a row as count_bits() reads it, four bytes for each of its own: the byte four times, so
// that it is broadcast from memory, or where the tables of its low and its high nibble begin.
template <class L>
LOWATT_ALWAYS_INLINE void encode_bit_row(const float* x, Index dim, int planes,
                                         const float* thresholds, std::uint8_t* row) noexcept {
  encode_bits<L>(x, nullptr, dim, planes, thresholds,
                 [=](Index first, Index count, std::uint64_t word) noexcept {
                   write_steps(row, first, count, word, [](std::uint32_t byte) noexcept {
                     return Ops<L>::counts_by_nibbles ? (byte & 15) << 4 | (byte & 0xf0) << 16
                                                      : byte * 0x01010101u;
                   });
                 });
}

// Sums what the tables of Rows rows, `row_stride` bytes apart, have for the low and the high part
// of each token's byte, over `steps` bytes of a tile; sums end at 255. The low part is a nibble,
// the high part begins at bit `shift`; a row has, for each step, where the tables of both begin.
// Calls take(r, first, sums) with a register of sums for tokens from `first` on.
template <class L, int shift, int Rows, class Take>
LOWATT_ALWAYS_INLINE void look_up_halves(const std::uint8_t* tables, const std::uint8_t* row,
                                         Index row_stride, const std::byte* tile, Index steps,
                                         Take&& take) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  // Splitting bytes serves all rows, finding a row's tables serves all tokens.
  constexpr int vectors = static_cast<int>(tile_keys / Op::bytes);
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
      low[v] = Op::load(tile + s * tile_keys + v * Op::bytes);
      high[v] = Op::shift_right_u8(low[v], shift);
      low[v] = Op::bit_and(low[v], Op::fill_u8(15));
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      std::uint16_t offset[2];
      __builtin_memcpy(offset, row + r * row_stride + s * broadcast_bytes, sizeof offset);
      const Register of_low = Op::broadcast16(tables + offset[0]);
      const Register of_high = Op::broadcast16(tables + offset[1]);
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v)
        sum[r][v] = Op::add_saturate_u8(
            sum[r][v], Op::add_u8(Op::shuffle16(of_low, low[v]), Op::shuffle16(of_high, high[v])));
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < vectors; ++v) take(r, v * Op::bytes, sum[r][v]);
  }
}

// Counts the bits in which Rows rows, `row_stride` bytes apart, differ from the tokens of a tile,
// over `steps` bytes of bits; counts end at 255. Calls take(r, first, counts) with a register of
// counts for tokens from `first` on.
template <class L, int Rows, class Take>
LOWATT_ALWAYS_INLINE void count_bits(const std::uint8_t* row, Index row_stride,
                                     const std::byte* bits, Index steps, Take&& take) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  if constexpr (Op::counts_by_nibbles) {
    look_up_halves<L, 4, Rows>(nibble_differences<L>.table, row, row_stride, bits, steps, take);
  } else {
    for (Index first = 0; first < tile_keys; first += Op::bytes) {
      Register count[Rows];
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) count[r] = Op::zero();
      for (Index s = 0; s < steps; ++s) {
        const Register token = Op::load(bits + s * tile_keys + first);
        LOWATT_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const Register differing =
              Op::bit_xor(Op::broadcast4(row + r * row_stride + s * broadcast_bytes), token);
          count[r] = Op::add_saturate_u8(count[r], Op::popcount_u8(differing));
        }
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) take(r, first, count[r]);
    }
  }
}

}  // namespace lowatt
