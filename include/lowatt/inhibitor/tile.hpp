// One tile of 64 keys against some rows of a block of queries, at 8 bits: distances, shifted
// scores, inhibition, and what of these can be left out without changing a bit.
//
// A key whose shifted score z' is at least its largest |v8| adds nothing to a row. So
//   - where few groups of four keys are left of a row, only those are walked;
//   - where even the distance from the query to the box around the tile's keys, which is no larger
//     than any key's, makes z' reach the largest |v8| of the tile, the row skips the tile.
#pragma once

#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

// A tile's keys at 4 bits as they would lie at 8: `stored` bytes become twice as many.
template <class L>
void inhibitor_unpack_keys(const std::uint8_t* keys, Index stored,
                           std::uint8_t* unpacked) noexcept {
  using Op = Ops<L>;
  constexpr Index half = tile_keys * key_group;  // bytes of four dims
  const auto low_bits = Op::fill_u8(15);
  for (Index c = 0; c < stored; c += half)
    for (Index i = 0; i < half; i += Op::bytes) {
      const auto two = Op::load(keys + c + i);
      Op::store(unpacked + 2 * c + i, Op::bit_and(two, low_bits));
      Op::store(unpacked + 2 * c + half + i, Op::shift_right_u8(two, 4));
    }
}

// Likewise values of some blocks of dims.
template <class L>
void inhibitor_unpack_values(const std::int8_t* values, Index stored,
                             std::int8_t* unpacked) noexcept {
  using Op = Ops<L>;
  constexpr Index half = value_block * tile_keys / 2;  // bytes of one block of dims
  const auto low_bits = Op::fill_u8(15), bias = Op::fill_u8(8);
  for (Index c = 0; c < stored; c += half)
    for (Index i = 0; i < half; i += Op::bytes) {
      const auto two = Op::load(values + c + i);
      Op::store(unpacked + 2 * c + i, Op::subtract_u8(Op::bit_and(two, low_bits), bias));
      Op::store(unpacked + 2 * c + half + i, Op::subtract_u8(Op::shift_right_u8(two, 4), bias));
    }
}

// Distances of Rows queries to the 64 keys of a tile: |q - k| = q + k - 2 min(q, k), and the sums
// of k are known. base[r] is the sum of q and whatever else the caller wants to be added.
template <class L, int Rows>
void inhibitor_distances(const std::uint8_t* const (&query)[Rows],
                         const std::int32_t* const (&base)[Rows], Index padded_dim,
                         const InhibitorTile& tile,
                         std::int32_t* const (&distances)[Rows]) noexcept {
  using Op = Ops<L>;
  using Sum = TwiceSubtracted<L>;
  using Register = typename Op::Register;
  constexpr int vectors = Op::block_vectors;
  constexpr Index step = Op::narrow_steps * key_group;
  const Register minus_twos = Op::fill_u8(-2);
  for (Index first = 0; first < tile_keys; first += vectors * Op::lanes)
    for (Index begin = 0; begin < padded_dim; begin += step) {
      const Index end = padded_dim - begin < step ? padded_dim : begin + step;
      // What the sums so far are: read before the loop or after it, so as not to take registers.
      const auto total = [&](int r, int v) __attribute__((always_inline)) {
        const Index at = first + v * Op::lanes;
        return begin == 0 ? Op::add_i32(Op::broadcast4(base[r]), Op::load(tile.sums + at))
                          : Op::load(distances[r] + at);
      };
      Register sum[Rows][vectors];
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        LOWATT_UNROLL
        for (int v = 0; v < vectors; ++v) sum[r][v] = Sum::begin(total(r, v));
      }
      for (Index c = begin; c < end; c += key_group) {
        Register key[vectors];
        LOWATT_UNROLL
        for (int v = 0; v < vectors; ++v) {
          const std::uint8_t* at = tile.keys + c * tile_keys + first * key_group + v * Op::bytes;
          key[v] = Op::load(at);
          // A single query waits for memory: its next tile is on the way while it takes this one.
          if constexpr (Rows == 1) fetch_ahead(at, tile.next);
        }
        LOWATT_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const Register q = Op::broadcast4(query[r] + c);
          LOWATT_UNROLL
          for (int v = 0; v < vectors; ++v)
            sum[r][v] = Sum::add(sum[r][v], Op::min_u8(q, key[v]), minus_twos);
        }
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        LOWATT_UNROLL
        for (int v = 0; v < vectors; ++v)
          Op::store(distances[r] + first + v * Op::lanes, Sum::end(total(r, v), sum[r][v]));
      }
    }
}

// Distances of one query straight from keys at 4 bits. High halves stay 16 times what they mean.
template <class L>
void inhibitor_half_distances(const std::uint8_t* query, const std::int32_t* base, Index stored,
                              const InhibitorTile& tile, std::int32_t* distances) noexcept {
  using Op = Ops<L>;
  using Sum = TwiceSubtracted<L>;
  using Register = typename Op::Register;
  constexpr int vectors = Op::block_vectors;
  constexpr Index row = tile_keys * key_group, step = Op::narrow_steps * row;
  const Register minus_twos = Op::fill_u8(-2);
  const Register low_bits = Op::fill_u8(0x0f), high_bits = Op::fill_u8(0xf0);
  for (Index first = 0; first < tile_keys; first += vectors * Op::lanes)
    for (Index begin = 0; begin < stored; begin += step) {
      const Index end = stored - begin < step ? stored : begin + step;
      Register low[vectors], high[vectors];
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v) low[v] = high[v] = Sum::begin(Op::zero());
      for (Index c = begin; c < end; c += row) {
        const std::uint8_t* eight = query + c / row * 2 * key_group;
        const Register q_low = Op::broadcast4(eight);
        const Register q_high = Op::raise_nibbles(Op::broadcast4(eight + key_group));
        LOWATT_UNROLL
        for (int v = 0; v < vectors; ++v) {
          const std::uint8_t* at = tile.keys + c + first * key_group + v * Op::bytes;
          const Register two = Op::load(at);
          fetch_ahead(at, tile.next);
          low[v] = Sum::add(low[v], Op::min_u8(q_low, Op::bit_and(two, low_bits)), minus_twos);
          high[v] = Sum::add(high[v], Op::min_u8(q_high, Op::bit_and(two, high_bits)), minus_twos);
        }
      }
      LOWATT_UNROLL
      for (int v = 0; v < vectors; ++v) {
        const Index at = first + v * Op::lanes;
        const Register so_far = begin == 0
                                    ? Op::add_i32(Op::broadcast4(base), Op::load(tile.sums + at))
                                    : Op::load(distances + at);
        const Register sum = Op::add_i32(Sum::end(Op::zero(), low[v]),
                                         Op::divide_by_16_i32(Sum::end(Op::zero(), high[v])));
        Op::store(distances + at, Op::add_i32(so_far, sum));
      }
    }
}

// z' that no magnitude exceeds.
inline constexpr int inhibitor_out_of_reach = 127;

// z' of rows in 16-bit arithmetic: where distances + R stay below 65536 and z below 32768, which is
// so from a shift of 17 on. Made once per block of queries.
template <class L>
struct InhibitorNarrowShift {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register rounding, multiplier, added, subtracted, out_of_reach;
  int shift;
  bool adds;

  LOWATT_ALWAYS_INLINE explicit InhibitorNarrowShift(const InhibitorConstants& constants) noexcept
      : rounding(Op::fill_u16(static_cast<int>(constants.rounding))),
        multiplier(Op::fill_u16(static_cast<int>(constants.multiplier))),
        added(Op::fill_u16(constants.alpha < 0 ? -static_cast<int>(constants.alpha) : 0)),
        subtracted(Op::fill_u16(constants.alpha > 0 ? static_cast<int>(constants.alpha) : 0)),
        out_of_reach(Op::fill_u16(inhibitor_out_of_reach)),
        shift(constants.shift - 16),
        adds(constants.alpha < 0) {}

  // `greatest` is the largest distance that there can be.
  static LOWATT_ALWAYS_INLINE bool fits(const InhibitorConstants& constants,
                                        Index greatest) noexcept {
    return greatest + static_cast<Index>(constants.rounding) <= 65535 && constants.shift >= 17;
  }

  // Distances are less the row's centre: packing turns negative ones into 0.
  LOWATT_ALWAYS_INLINE void operator()(const std::int32_t* distances,
                                       std::uint8_t* shifted) const noexcept {
    for (Index j = 0; j < tile_keys; j += Op::bytes)
      Op::store(shifted + j, Op::restore_order(Op::pack_u8(two(distances + j),
                                                           two(distances + j + Op::bytes / 2))));
  }

 private:
  LOWATT_ALWAYS_INLINE Register two(const std::int32_t* distances) const noexcept {
    Register z = Op::pack_u16(Op::load(distances), Op::load(distances + Op::lanes));
    z = Op::multiply_high_u16(Op::add_saturate_u16(z, rounding), multiplier);
    z = Op::shift_right_u16(z, shift);
    // Bytes are packed from signed numbers: the sum must not reach the sign.
    return adds ? Op::add_saturate_u16(Op::min_u16(z, out_of_reach), added)
                : Op::subtract_saturate_u16(z, subtracted);
  }
};

// The same for any distance and shift, in integers that hold the scaled distances.
template <class L, class Unsigned>
void inhibitor_shift_wide(const std::int32_t* __restrict distances,
                          const InhibitorConstants& constants,
                          std::uint8_t* __restrict shifted) noexcept {
  const auto multiplier = static_cast<Unsigned>(constants.multiplier);
  const auto rounding = static_cast<Unsigned>(constants.rounding);
  const int shift = constants.shift;
  const auto alpha = static_cast<std::int32_t>(constants.alpha);
  // clamp(z - alpha, 0, 127) = clamp(z, lowest, highest) - alpha, where no difference can wrap. The
  // spec's cap of z at 65535 lies above highest, since alpha is at most 65280.
  const auto lowest = static_cast<Unsigned>(alpha > 0 ? alpha : 0);
  const auto highest =
      static_cast<Unsigned>(alpha > -inhibitor_out_of_reach ? alpha + inhibitor_out_of_reach : 0);
  for (Index j = 0; j < tile_keys; ++j) {
    const auto distance = static_cast<Unsigned>(distances[j] > 0 ? distances[j] : 0);
    Unsigned z = ((distance + rounding) * multiplier) >> shift;
    z = z < highest ? z : highest;
    z = z > lowest ? z : lowest;
    std::int32_t difference = static_cast<std::int32_t>(z) - alpha;
    difference = difference < inhibitor_out_of_reach ? difference : inhibitor_out_of_reach;
    shifted[j] = static_cast<std::uint8_t>(difference);
  }
}

// Whether 32 bits hold (distance + R) * M for distances up to `greatest`.
LOWATT_ALWAYS_INLINE bool inhibitor_shift_fits_32_bits(const InhibitorConstants& constants,
                                                       Index greatest) noexcept {
  return (greatest + static_cast<Index>(constants.rounding)) * constants.multiplier <= 0xffffffff;
}

// Bit g of the result: whether a key among 4g .. 4g + 3 adds anything to the row.
template <class L>
LOWATT_ALWAYS_INLINE unsigned inhibitor_open_groups(const std::uint8_t* shifted,
                                                    const std::uint8_t* greatest) noexcept {
  using Op = Ops<L>;
  unsigned open = 0;
  for (Index j = 0; j < tile_keys; j += Op::bytes)
    open |=
        Op::nonzero_lanes(Op::subtract_saturate_u8(Op::load(greatest + j), Op::load(shifted + j)))
        << j / value_group;
  return open;
}

// The smallest distance, centred, from which on z' >= size; the largest integer where none is.
LOWATT_ALWAYS_INLINE std::int64_t inhibitor_closing_distance(const InhibitorConstants& constants,
                                                             int size) noexcept {
  const std::int64_t wanted = size + constants.alpha;
  if (wanted <= 0) return 0;
  if (constants.multiplier == 0) return INT64_MAX;
  const std::int64_t product = wanted << constants.shift;
  return (product + constants.multiplier - 1) / constants.multiplier - constants.rounding;
}

// Distances of four queries to the box around a tile's keys.
template <class L>
void inhibitor_box_distances(const std::uint8_t* const (&query)[4], const InhibitorTile& tile,
                             Index box_dims, std::int32_t* distances) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const Register one = Op::fill_u8(1);
  Register sum[4] = {Op::zero(), Op::zero(), Op::zero(), Op::zero()};
  for (Index c = 0; c < box_dims; c += Op::bytes) {
    const Register least = Op::load(tile.least_key + c), largest = Op::load(tile.largest_key + c);
    for (int r = 0; r < 4; ++r) {
      const Register q = Op::load(query[r] + c);
      // One of the two is 0.
      const Register gap =
          Op::add_u8(Op::subtract_saturate_u8(least, q), Op::subtract_saturate_u8(q, largest));
      sum[r] = Op::dot4_narrow(sum[r], gap, one);
    }
  }
  Op::reduce4(sum[0], sum[1], sum[2], sum[3], distances);
}

// Splits a tile of values into what inhibition subtracts from and the direction of what is left:
// 1 or, where values are negative, -1; unsigned 0. Of a value of 0 nothing is left.
template <class L>
void inhibitor_split_values(const std::int8_t* values, Index bytes, bool is_signed,
                            std::uint8_t* magnitude, std::int8_t* direction) noexcept {
  using Op = Ops<L>;
  const auto positive = Op::fill_u8(1), negative = Op::fill_u8(is_signed ? -1 : 0);
  for (Index i = 0; i < bytes; i += Op::bytes) {
    const auto v = Op::load(values + i);
    Op::store(magnitude + i, Op::absolute_s8(v));
    Op::store(direction + i, Op::choose_negative(v, negative, positive));
  }
}

// The groups of four keys to walk: all up to the last that may add something, or only those.
struct GroupsToLast {
  Index count = 0, next = 0;
  LOWATT_ALWAYS_INLINE explicit GroupsToLast(unsigned open) noexcept
      : count(32 - __builtin_clz(open)) {}
  LOWATT_ALWAYS_INLINE bool has_more() const noexcept { return next < count; }
  LOWATT_ALWAYS_INLINE Index group() const noexcept { return next; }
  LOWATT_ALWAYS_INLINE void advance() noexcept { ++next; }
};
struct OpenGroups {
  unsigned open = 0;
  LOWATT_ALWAYS_INLINE bool has_more() const noexcept { return open != 0; }
  LOWATT_ALWAYS_INLINE Index group() const noexcept { return __builtin_ctz(open); }
  LOWATT_ALWAYS_INLINE void advance() noexcept { open &= open - 1; }
};

// Adds a split tile's inhibited values to Rows rows of H, `Vectors` registers of dims from `vector`
// on.
template <class L, int Rows, int Vectors, class Groups>
void inhibitor_inhibit(const std::uint8_t* const (&shifted)[Rows],
                       std::int32_t* const (&inhibited)[Rows], const std::uint8_t* magnitude,
                       const std::int8_t* direction, Index vector, Groups groups) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register sum[Rows][Vectors];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = Op::narrow_begin(Op::load(inhibited[r] + (vector + v) * Op::lanes));
  }
  for (; groups.has_more(); groups.advance()) {
    const Index group = groups.group();
    Register score[Rows];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) score[r] = Op::broadcast4(shifted[r] + group * value_group);
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Index at = value_vector_offset<L>(vector + v) + group * value_group_stride;
      const Register size = Op::load(magnitude + at);
      const Register sign = Op::load(direction + at);
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r)
        sum[r][v] = Op::narrow_add(sum[r][v], Op::subtract_saturate_u8(size, score[r]), sign);
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      std::int32_t* at = inhibited[r] + (vector + v) * Op::lanes;
      Op::store(at, Op::narrow_end(Op::load(at), sum[r][v]));
    }
  }
}

// The same straight from values as they are stored, for one row: for so few, splitting costs more
// than it saves. v - clamp(v, -z, z) is what inhibition leaves of v; unsigned, max(v, z) - z.
template <class L, int Vectors>
void inhibitor_inhibit_one(const std::uint8_t* shifted, std::int32_t* inhibited,
                           const std::int8_t* values, Index next, bool is_signed, Index vector,
                           OpenGroups groups) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const Register one = Op::fill_u8(1), reach = Op::fill_u8(inhibitor_out_of_reach);
  Register sum[Vectors];
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v)
    sum[v] = Op::narrow_begin(Op::load(inhibited + (vector + v) * Op::lanes));
  for (; groups.has_more(); groups.advance()) {
    const Index group = groups.group();
    const Register score = Op::min_u8(Op::broadcast4(shifted + group * value_group), reach);
    const Register least = is_signed ? Op::subtract_u8(Op::zero(), score) : score;
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const std::int8_t* at =
          values + value_vector_offset<L>(vector + v) + group * value_group_stride;
      const Register value = Op::load(at);
      fetch_ahead(at, next);
      const Register kept =
          is_signed ? Op::subtract_u8(value, Op::max_s8(Op::min_s8(value, score), least))
                    : Op::subtract_u8(Op::max_s8(value, score), score);
      sum[v] = Op::narrow_add(sum[v], one, kept);
    }
  }
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    std::int32_t* at = inhibited + (vector + v) * Op::lanes;
    Op::store(at, Op::narrow_end(Op::load(at), sum[v]));
  }
}

// Likewise from values at 4 bits: v + 8 is clamped to [8 - z, 8 + z]. Of each byte the low half
// belongs to a group of `groups`, which are those of the tile's first half, the high half to the
// group eight further on; high halves stay 16 times what they mean.
template <class L, int Vectors>
void inhibitor_inhibit_half(const std::uint8_t* shifted, std::int32_t* inhibited,
                            const std::int8_t* values, Index next, bool is_signed, Index vector,
                            OpenGroups groups) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr Index per_block = value_group_stride / Op::bytes;
  constexpr Index block_bytes = value_block * tile_keys / 2, half = tile_keys / 2;
  const Register one = Op::fill_u8(1), bias = Op::fill_u8(8), high_bias = Op::fill_u8(0x80);
  const Register low_bits = Op::fill_u8(0x0f), high_bits = Op::fill_u8(0xf0);
  Register low[Vectors], high[Vectors];
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) low[v] = high[v] = Op::narrow_begin(Op::zero());
  for (; groups.has_more(); groups.advance()) {
    const std::uint8_t* at_scores = shifted + groups.group() * value_group;
    const Register score = Op::min_u8(Op::broadcast4(at_scores), bias);
    const Register high_score =
        Op::raise_nibbles(Op::min_u8(Op::broadcast4(at_scores + half), bias));
    const Register top = Op::add_u8(bias, score), bottom = Op::subtract_u8(bias, score);
    const Register high_top = Op::add_saturate_u8(high_bias, high_score);
    const Register high_bottom = Op::subtract_u8(high_bias, high_score);
    const auto kept = [&](Register value, Register most, Register least)
        __attribute__((always_inline)) {
      return is_signed ? Op::subtract_u8(value, Op::max_u8(Op::min_u8(value, most), least))
                       : Op::subtract_saturate_u8(value, most);
    };
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Index at_vector = vector + v;
      const std::int8_t* at = values + at_vector / per_block * block_bytes +
                              at_vector % per_block * Op::bytes +
                              groups.group() * value_group_stride;
      const Register two = Op::load(at);
      fetch_ahead(at, next);
      low[v] = Op::narrow_add(low[v], one, kept(Op::bit_and(two, low_bits), top, bottom));
      high[v] =
          Op::narrow_add(high[v], one, kept(Op::bit_and(two, high_bits), high_top, high_bottom));
    }
  }
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    std::int32_t* at = inhibited + (vector + v) * Op::lanes;
    const Register sum = Op::add_i32(Op::narrow_end(Op::zero(), low[v]),
                                     Op::divide_by_16_i32(Op::narrow_end(Op::zero(), high[v])));
    Op::store(at, Op::add_i32(Op::load(at), sum));
  }
}

}  // namespace lowatt
