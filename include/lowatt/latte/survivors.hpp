// LATTE's second pass: what is left of one row, a batch at a time. See kernel.hpp.
#pragma once

#include "../simd/exp2.hpp"
#include "workspace.hpp"

namespace lowatt {

struct LatteRange {
  std::int32_t least, most;
};

// Exact dot products of one query with a batch of keys, and their range. `rows` and dots go up to
// the next multiple of Op::lanes. The keys' offset of 128 adds the same to all of them, so that
// only differences mean something.
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
  // not(x) is monotonous the other way round.
  return {~Op::reduce_max_i32(Op::bit_xor(least, Op::fill_i32(-1))), Op::reduce_max_i32(most)};
}

// Weights of a batch, 2^(unit * (dot - most)), 0 from `count` on; returns their sum. Each gets
// every register of them.
template <class L, class Each>
LOWATT_ALWAYS_INLINE float latte_weigh(const std::int32_t* dots, Index count, std::int32_t most,
                                       float unit, Each each) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  constexpr float numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Float lane = Float::load_unaligned(numbers);
  Float sum(0.0f);
  for (Index i = 0; i < count; i += Op::lanes) {
    const auto gap = Op::add_i32(Op::load(dots + i), Op::fill_i32(-most));
    const Float weight = xsimd::select(lane < Float(static_cast<float>(count - i)),
                                       exp2<L>(Op::to_float(gap) * Float(unit)), Float(0.0f));
    each(i, weight);
    sum += weight;
  }
  return Op::reduce_add(sum);
}

// sums[c] = sums[c] * keep + sum_j weights[j] * value_j[c], for Vectors registers of dims. Without
// `keep`, what was in sums does not count.
template <class L, int Vectors>
void latte_add_values(const std::byte* const* rows, Index offset, const float* weights, Index count,
                      const float* keep, float* sums) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  Float sum[Vectors];
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) sum[v] = Float(0.0f);
  for (Index i = 0; i < count; ++i) {
    const std::byte* value = rows[i] + offset;
    const Float weight(weights[i]);
    LOWATT_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[v] = Op::multiply_add(weight, Op::load_i8_as_float(value + v * Op::lanes), sum[v]);
  }
  LOWATT_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    float* s = sums + v * Op::lanes;
    if (keep != nullptr) sum[v] = Op::multiply_add(Float::load_unaligned(s), Float(*keep), sum[v]);
    sum[v].store_unaligned(s);
  }
}

// Weights as integers of so many bytes, in units of 1/latte_fixed_one. They are used where no
// weight is less than 2^-latte_fixed_range, so that rounding changes none by more than 2^-10 of
// itself.
template <int Bytes>
inline constexpr float latte_fixed_one = static_cast<float>((1 << (8 * Bytes)) - 1);
template <int Bytes>
inline constexpr float latte_fixed_range = 8 * Bytes - 9;

// latte_add_values with weights as integers, their bytes apart: [Bytes][latte_largest_batch], for
// as many dims as a register has bytes. Eight keys at a time: `rows` and weights are read up to
// there. 32 bits hold all sums.
template <class L, int Bytes>
void latte_add_values_fixed(const std::byte* const* rows, Index offset,
                            const std::uint8_t* weight_bytes, Index count, const float* keep,
                            float* sums) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  using Float = typename Op::Float;
  Register sum[Bytes][4];
  LOWATT_UNROLL
  for (int b = 0; b < Bytes; ++b) {
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) sum[b][v] = Op::zero();
  }
  for (Index i = 0; i < count; i += 8) {
    LOWATT_UNROLL
    for (int half = 0; half < 8; half += 4) {
      const std::byte* const* four = rows + i + half;
      Register value[4];
      Op::interleave4(Op::load(four[0] + offset), Op::load(four[1] + offset),
                      Op::load(four[2] + offset), Op::load(four[3] + offset), value);
      LOWATT_UNROLL
      for (int b = 0; b < Bytes; ++b) {
        const Register weight = Op::broadcast4(weight_bytes + b * latte_largest_batch + i + half);
        LOWATT_UNROLL
        for (int v = 0; v < 4; ++v) sum[b][v] = Op::dot4(sum[b][v], weight, value[v]);
      }
    }
  }
  Float total[4];
  LOWATT_UNROLL
  for (int v = 0; v < 4; ++v) {
    total[v] = Op::to_float(sum[Bytes - 1][v]);
    LOWATT_UNROLL
    for (int b = Bytes - 2; b >= 0; --b)
      total[v] = Op::multiply_add(total[v], Float(256.0f), Op::to_float(sum[b][v]));
  }
  Op::separate4(total);
  LOWATT_UNROLL
  for (int v = 0; v < 4; ++v) {
    float* s = sums + v * Op::lanes;
    Float scaled = total[v] * Float(1.0f / latte_fixed_one<Bytes>);
    if (keep != nullptr) scaled = Op::multiply_add(Float::load_unaligned(s), Float(*keep), scaled);
    scaled.store_unaligned(s);
  }
}

// What one batch adds to one row.
struct LatteBatch {
  const std::byte* const* found;
  Index value_offset, count;
  std::int32_t most;  // of the dot products so far
  float unit;
  const float* keep;  // what was summed so far shrinks by this much, if there is anything
};

// Weights of a batch as integers, and the dims that fill registers added with them: `dim` moves
// past these. Returns the sum of weights.
template <class L, int Bytes>
LOWATT_ALWAYS_INLINE float latte_add_fixed(const LatteWorkspace& workspace, const LatteBatch& batch,
                                           float* sums, Index& dim) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const auto cut = [&](Index i, Float weight) __attribute__((always_inline)) {
    weight.store_unaligned(workspace.weights + i);
    const auto whole = Op::round_i32(weight * Float(latte_fixed_one<Bytes>));
    for (int b = 0; b < Bytes; ++b)
      Op::store_bytes(workspace.weight_bytes + b * latte_largest_batch + i, whole, 8 * b);
  };
  const float sum = latte_weigh<L>(workspace.dots, batch.count, batch.most, batch.unit, cut);
  for (; dim + Op::bytes <= workspace.value_stride; dim += Op::bytes)
    latte_add_values_fixed<L, Bytes>(batch.found, batch.value_offset + dim, workspace.weight_bytes,
                                     batch.count, batch.keep, sums + dim);
  return sum;
}

// Adds a batch of survivors to the accumulators of row r: softmax with a running maximum, which is
// an integer here.
template <class L>
void latte_add_batch(const LatteWorkspace& workspace, const BlockArguments& block,
                     const LatteTileLayout& layout, Index r, Index count) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const std::byte* const* found = workspace.found;
  // Up to whole registers the last survivor is repeated, to be given no weight.
  for (Index i = 0; i < latte_batch_padding; ++i) workspace.found[count + i] = found[count - 1];
  const LatteRange range = latte_dots<L>(workspace.query + r * workspace.query_stride,
                                         block.head_dim, found, count, workspace.dots);

  const float unit = workspace.unit[r];
  const std::int32_t previous = workspace.best[r];
  const std::int32_t most = range.most > previous ? range.most : previous;
  workspace.best[r] = most;
  LatteBatch batch{found, layout.value_offset, count, most, unit, nullptr};
  float keep = 0;
  if (previous != LatteWorkspace::no_key) {
    keep = exp2<L>(static_cast<float>(previous - most) * unit);
    batch.keep = &keep;
  }

  float* sums = workspace.weighted + r * workspace.value_stride;
  float sum = 0;
  Index dim = 0;
  bool is_fixed = false;
  // Where dot4 is one instruction, integers are faster than floats.
  if constexpr (Op::dot4_parts == 1) {
    const float farthest = static_cast<float>(most - range.least) * unit;
    is_fixed = workspace.value_stride >= Op::bytes && farthest <= latte_fixed_range<3>;
    if (is_fixed)
      sum = farthest <= latte_fixed_range<2> ? latte_add_fixed<L, 2>(workspace, batch, sums, dim)
                                             : latte_add_fixed<L, 3>(workspace, batch, sums, dim);
  }
  if (!is_fixed)
    sum = latte_weigh<L>(
        workspace.dots, count, most,
        unit, [&](Index i, Float weight) __attribute__((always_inline)) {
          weight.store_unaligned(workspace.weights + i);
        });
  double& total = workspace.weight_sum[r];
  total =
      static_cast<double>(sum) + (batch.keep == nullptr ? 0.0 : total * static_cast<double>(keep));

  const auto add = [&]<int Vectors>() __attribute__((always_inline)) {
    for (; dim + Vectors * Op::lanes <= workspace.value_stride; dim += Vectors * Op::lanes)
      latte_add_values<L, Vectors>(found, layout.value_offset + dim, workspace.weights, count,
                                   batch.keep, sums + dim);
  };
  add.template operator()<8>();
  add.template operator()<4>();
  add.template operator()<1>();
}

}  // namespace lowatt
