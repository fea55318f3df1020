// LATTE's second pass: what is left of the rows, a batch at a time. See kernel.hpp.
#pragma once

#include "../simd/exp2.hpp"
#include "workspace.hpp"

namespace lowatt {

struct LatteRange {
  std::int32_t least, most;
};

// Exact dot products of one query with `count` keys, and their range. `rows` and dots go up to the
// next multiple of Op::lanes. The keys' offset of 128 adds the same to all of them, so that only
// differences mean something.
template <class L>
LatteRange latte_dots(const std::int8_t* query, Index head_dim, const std::byte* const* rows,
                      Index count, std::int32_t* dots) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const auto four = [&](const std::byte* const* row) __attribute__((always_inline)) {
    Register sum[4];
    LOWATT_UNROLL
    for (int k = 0; k < 4; ++k) sum[k] = Op::zero();
    for (Index c = 0; c < head_dim; c += Op::bytes) {
      const Register q = Op::load(query + c);
      LOWATT_UNROLL
      for (int k = 0; k < 4; ++k) sum[k] = Op::dot4(sum[k], Op::load(row[k] + c), q);
    }
    return Op::add_across4(sum[0], sum[1], sum[2], sum[3]);
  };
  Register least = Op::fill_i32(2147483647), most = Op::fill_i32(LatteWorkspace::no_key);
  for (Index i = 0; i < count; i += Op::lanes) {
    Register part[Op::lanes / 4];
    LOWATT_UNROLL
    for (int p = 0; p < Op::lanes / 4; ++p) part[p] = four(rows + i + 4 * p);
    const Register dot = Op::add_blocks(part);
    Op::store(dots + i, dot);
    least = Op::min_i32(least, dot);
    most = Op::max_i32(most, dot);
  }
  // Of all integers, not(x) has the order reversed.
  return {~Op::reduce_max_i32(Op::bit_xor(least, Op::fill_i32(-1))), Op::reduce_max_i32(most)};
}

// sums[c] = sums[c] * keep + sum_j weights[j] * value_j[c], for Vectors registers of dims. Without
// `keep`, what was in sums does not count.
template <class L, class Value, int Vectors>
void latte_add_values(const std::byte* const* rows, Index offset, const float* weights, Index count,
                      const float* keep, float* sums) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr Index lane_bytes = Op::lanes * static_cast<Index>(sizeof(Value));
  const auto load = [](const std::byte* at) __attribute__((always_inline)) {
    if constexpr (sizeof(Value) == 1)
      return Op::load_i8_as_float(at);
    else
      return Float::load_unaligned(reinterpret_cast<const float*>(at));
  };
  Float sum[Vectors];
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) sum[v] = Float(0.0f);
  for (Index i = 0; i < count; ++i) {
    const std::byte* value = rows[i] + offset;
    const Float weight(weights[i]);
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[v] = Op::multiply_add(weight, load(value + v * lane_bytes), sum[v]);
  }
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    float* s = sums + v * Op::lanes;
    if (keep != nullptr) sum[v] = Op::multiply_add(Float::load_unaligned(s), Float(*keep), sum[v]);
    sum[v].store_unaligned(s);
  }
}

// Weights as integers of so many bytes, in units of 1/latte_fixed_one. They are used where no
// weight of a segment is less than 2^-latte_fixed_range, so that rounding changes none by more than
// 2^-10 of itself. Of four bytes a sign takes one bit, and 2^31 - 1 is no float.
template <int Bytes>
inline constexpr float latte_fixed_one = static_cast<float>((1 << 8 * Bytes) - 1);
template <>
inline constexpr float latte_fixed_one<4> = 0x1.fffffep30f;
template <int Bytes>
inline constexpr float latte_fixed_range = (Bytes < 4 ? 8 * Bytes : 31) - 9;

// latte_add_values with weights as integers, their bytes apart: [Bytes][latte_largest_batch], for
// as many dims as Registers have bytes. Eight keys at a time: `rows` and weights are read up to
// there. 32 bits hold all sums.
template <class L, int Bytes, int Registers>
void latte_add_values_fixed(const std::byte* const* rows, Index offset,
                            const std::uint8_t* weight_bytes, Index count, const float* keep,
                            float* sums) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  using Float = typename Op::Float;
  static_assert(Op::lanes >= 8, "weights past the last survivor are zero to a whole register");
  Register sum[Registers][Bytes][4];
  LOWATT_UNROLL
  for (int r = 0; r < Registers; ++r) {
    LOWATT_UNROLL
    for (int b = 0; b < Bytes; ++b) {
      LOWATT_UNROLL
      for (int v = 0; v < 4; ++v) sum[r][b][v] = Op::zero();
    }
  }
  for (Index i = 0; i < count; i += 8) {
    LOWATT_UNROLL
    for (int half = 0; half < 8; half += 4) {
      const std::byte* const* four = rows + i + half;
      LOWATT_UNROLL
      for (int r = 0; r < Registers; ++r) {
        const Index at = offset + r * Op::bytes;
        Register value[4];
        Op::interleave4(Op::load(four[0] + at), Op::load(four[1] + at), Op::load(four[2] + at),
                        Op::load(four[3] + at), value);
        LOWATT_UNROLL
        for (int b = 0; b < Bytes; ++b) {
          const Register weight = Op::broadcast4(weight_bytes + b * latte_largest_batch + i + half);
          LOWATT_UNROLL
          for (int v = 0; v < 4; ++v) sum[r][b][v] = Op::dot4(sum[r][b][v], weight, value[v]);
        }
      }
    }
  }
  LOWATT_UNROLL
  for (int r = 0; r < Registers; ++r) {
    Float total[4];
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) {
      total[v] = Op::to_float(sum[r][Bytes - 1][v]);
      LOWATT_UNROLL
      for (int b = Bytes - 2; b >= 0; --b)
        total[v] = Op::multiply_add(total[v], Float(256.0f), Op::to_float(sum[r][b][v]));
    }
    Op::separate4(total);
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) {
      float* s = sums + r * Op::bytes + v * Op::lanes;
      Float scaled = total[v] * Float(1.0f / latte_fixed_one<Bytes>);
      if (keep != nullptr)
        scaled = Op::multiply_add(Float::load_unaligned(s), Float(*keep), scaled);
      scaled.store_unaligned(s);
    }
  }
}

// Softmax with a running maximum, which is an integer here: a segment's dot products, and how they
// change what its row has so far.
template <class L>
LOWATT_ALWAYS_INLINE void latte_measure(const LatteWorkspace& workspace, Index head_dim,
                                        bool may_be_fixed, LatteSegment& segment) noexcept {
  const LatteRange range =
      latte_dots<L>(workspace.query + segment.row * workspace.query_stride, head_dim,
                    workspace.found + segment.begin, segment.count, workspace.dots + segment.begin);
  std::int32_t& best = workspace.best[segment.row];
  const std::int32_t previous = best;
  if (range.most > previous) best = range.most;
  segment.most = best;
  segment.is_first = previous == LatteWorkspace::no_key;
  const float unit = workspace.unit[segment.row];
  if (!segment.is_first) segment.keep = exp2<L>(static_cast<float>(previous - best) * unit);
  segment.weight_bytes = 0;
  if (may_be_fixed) {
    const float farthest = static_cast<float>(best - range.least) * unit;
    segment.weight_bytes = farthest <= latte_fixed_range<2>   ? 2
                           : farthest <= latte_fixed_range<3> ? 3
                           : farthest <= latte_fixed_range<4> ? 4
                                                              : 0;
  }
}

// Weights of a segment, in float32 and as integers of so many bytes, and their sum. Those past the
// last survivor are 0.
template <class L, int Bytes>
LOWATT_ALWAYS_INLINE void latte_weigh(const LatteWorkspace& workspace,
                                      const LatteSegment& segment) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const float unit = workspace.unit[segment.row];
  const std::int32_t* dots = workspace.dots + segment.begin;
  float* weights = workspace.weights + segment.begin;
  std::uint8_t* bytes = workspace.weight_bytes + segment.begin;
  const auto weigh = [&](Index i) __attribute__((always_inline)) {
    const auto gap = Op::add_i32(Op::load(dots + i), Op::fill_i32(-segment.most));
    const Float exponent = Op::to_float(gap) * Float(unit);
    return Bytes > 0 ? coarse_exp2<L>(exponent) : exp2<L>(exponent);
  };
  const auto put = [&](Index i, Float weight) __attribute__((always_inline)) {
    weight.store_unaligned(weights + i);
    if constexpr (Bytes > 0) {
      const auto whole = Op::round_i32(weight * Float(latte_fixed_one<Bytes>));
      for (int b = 0; b < Bytes; ++b)
        Op::store_bytes(bytes + b * latte_largest_batch + i, whole, 8 * b);
    }
    return weight;
  };
  Float sum(0.0f);
  Index i = 0;
  for (; i + Op::lanes < segment.count; i += Op::lanes) sum += put(i, weigh(i));
  sum += put(i, Op::first_lanes(weigh(i), segment.count - i));
  double& total = workspace.weight_sum[segment.row];
  total = static_cast<double>(Op::reduce_add(sum)) +
          (segment.is_first ? 0.0 : total * static_cast<double>(segment.keep));
}

// Values of a segment, times its weights, into its row.
template <class L, class Value, int Bytes>
LOWATT_ALWAYS_INLINE void latte_add_segment(const LatteWorkspace& workspace, Index value_offset,
                                            const LatteSegment& segment) noexcept {
  using Op = Ops<L>;
  const std::byte* const* found = workspace.found + segment.begin;
  const float* keep = segment.is_first ? nullptr : &segment.keep;
  float* sums = workspace.weighted + segment.row * workspace.value_stride;
  Index dim = 0;
  const auto add_fixed = [&]<int Registers>() __attribute__((always_inline)) {
    for (; dim + Registers * Op::bytes <= workspace.value_stride; dim += Registers * Op::bytes)
      latte_add_values_fixed<L, Bytes, Registers>(found, value_offset + dim,
                                                  workspace.weight_bytes + segment.begin,
                                                  segment.count, keep, sums + dim);
  };
  // The loop's end is guessed wrong for most segments: the fewer loops, the better.
  if constexpr (Bytes == 2) add_fixed.template operator()<2>();
  if constexpr (Bytes > 0) add_fixed.template operator()<1>();
  const auto add = [&]<int Vectors>() __attribute__((always_inline)) {
    for (; dim + Vectors * Op::lanes <= workspace.value_stride; dim += Vectors * Op::lanes)
      latte_add_values<L, Value, Vectors>(
          found, value_offset + dim * static_cast<Index>(sizeof(Value)),
          workspace.weights + segment.begin, segment.count, keep, sums + dim);
  };
  add.template operator()<8>();
  add.template operator()<4>();
  add.template operator()<1>();
}

// Adds a batch of survivors to the accumulators of their rows. Step by step for all of its rows:
// one row's steps wait for each other, those of several rows do not. What one row's weights are
// like does not depend on other rows: so its output does not, either.
template <class L>
void latte_add_batch(const LatteWorkspace& workspace, const BlockArguments& block,
                     const LatteTileLayout& layout, Index segments) noexcept {
  LatteSegment* const begin = workspace.segments;
  LatteSegment* const end = begin + segments;
  // Where dot4 is one instruction, integers are faster than floats.
  const bool may_be_fixed = Ops<L>::dot4_parts == 1 && !layout.has_float_values &&
                            workspace.value_stride >= Ops<L>::bytes;
  for (LatteSegment* s = begin; s < end; ++s)
    latte_measure<L>(workspace, block.head_dim, may_be_fixed, *s);
  // Calls f.operator()<bytes of the segment's weights>().
  const auto with_bytes = [](const LatteSegment& s, auto f) __attribute__((always_inline)) {
    if constexpr (Ops<L>::dot4_parts == 1) {
      if (s.weight_bytes == 2) return f.template operator()<2>();
      if (s.weight_bytes == 3) return f.template operator()<3>();
      if (s.weight_bytes == 4) return f.template operator()<4>();
    }
    f.template operator()<0>();
  };
  for (const LatteSegment* s = begin; s < end; ++s)
    with_bytes(
        *s, [&]<int Bytes>()
                __attribute__((always_inline)) { latte_weigh<L, Bytes>(workspace, *s); });
  const Index offset = layout.value_offset;
  if (layout.has_float_values) {
    for (const LatteSegment* s = begin; s < end; ++s)
      latte_add_segment<L, float, 0>(workspace, offset, *s);
    return;
  }
  for (const LatteSegment* s = begin; s < end; ++s)
    with_bytes(
        *s, [&]<int Bytes>() __attribute__((always_inline)) {
          latte_add_segment<L, std::int8_t, Bytes>(workspace, offset, *s);
        });
}

// Gathers survivors until there are enough for a batch.
template <class L>
class LatteGatherer {
 public:
  LOWATT_ALWAYS_INLINE LatteGatherer(const LatteWorkspace& workspace, const BlockArguments& block,
                                     const LatteTileLayout& layout) noexcept
      : workspace_(workspace), block_(block), layout_(layout) {}

  // Adds the survivors of row r among the keys of tile t, one bit each.
  LOWATT_ALWAYS_INLINE void add(Index r, Index t, std::uint64_t survivors) noexcept {
    end_ += Ops<L>::store_addresses(survivors, block_.tiles.tile(t) + layout_.nibble_bytes,
                                    layout_.row_bytes, workspace_.found + end_);
    if (end_ - begin_ >= latte_batch) {
      close(r);
      work_off();
    }
  }
  // Ends a row.
  LOWATT_ALWAYS_INLINE void end_row(Index r) noexcept {
    close(r);
    if (end_ >= latte_batch / 2) work_off();
  }
  LOWATT_ALWAYS_INLINE void work_off() noexcept {
    if (segments_ == 0) return;
    latte_add_batch<L>(workspace_, block_, layout_, segments_);
    segments_ = begin_ = end_ = 0;
  }

 private:
  // Makes a segment of what has been gathered of row r.
  LOWATT_ALWAYS_INLINE void close(Index r) noexcept {
    if (end_ == begin_) return;
    LatteSegment& segment = workspace_.segments[segments_++];
    segment.row = r;
    segment.begin = begin_;
    segment.count = end_ - begin_;
    workspace_.kept[r] += end_ - begin_;
    // Up to whole registers the last survivor is repeated, to be given no weight.
    const std::byte** next = workspace_.found + end_;
    const std::byte* last = next[-1];
    for (Index i = 0; i < latte_batch_padding; ++i) next[i] = last;
    begin_ = end_ = round_up(end_, latte_batch_padding);
  }

  const LatteWorkspace& workspace_;
  const BlockArguments& block_;
  const LatteTileLayout& layout_;
  Index segments_ = 0, begin_ = 0, end_ = 0;
};

}  // namespace lowatt
