// LATTE on int8 values (arXiv 2404.07519): softmax over the keys whose low-precision score comes
// close to the row's best.
//
//   low_ij = q_high_i . k_high_j           every visible key, on the high nibbles alone
//   survivors of row i: max_j low_ij - low_ij <= T_i
//   out_i = sum_j p_ij v_j,  p_ij = softmax over survivors of sq_i * sk * scale * (q8_i . k8_j)
//
// Lives on    vpdpbusd: one for 4 dims of 16 pairs in the first pass. Of a survivor, 64 dims of the
//             key take a load, a vpdpbusd and a share of a transposing sum; 64 dims of the value
//             two unpacks and three vpdpbusd (weights of 24 bits), below avx512icl a conversion and
//             a multiply-add per register. There dot products are maddubs + madd (nibbles) and two
//             madd (bytes).
// Layout      pack.hpp; the same for prefill and decode and at every level.
// Exactness   scores, maximum and survivors are integers, the same on every level. Weights are
//             float32, or integers of 24 bits, off by at most 2^-11 of themselves.
// Overflow    the largest sum is that of 255 * 127 over head_dim: 32 bits hold
//             latte_most_head_dim. Positions of survivors are unsigned 32-bit numbers. Sums of
//             weights are double across batches of survivors.
// Tails       queries are padded with zeros, values are when packed; hidden keys score the lowest
//             integer.
#pragma once

#include "../simd/exp2.hpp"
#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

inline constexpr Index latte_query_block = 16;
inline constexpr Index latte_most_head_dim = 2147483647 / (255 * 127);
inline constexpr Index latte_most_keys = 4294967295;

struct LatteArguments {
  BlockArguments block;
  NibbleSplit split = NibbleSplit::round;
  double theta = 0;  // of this query head
  double scale = 1;
  float key_scale = 0, value_scale = 0;
  std::int64_t* kept = nullptr;  // optional: the number of surviving pairs is added to it
};

// Survivors are worked off in batches of at least this many, the last one of a row excepted.
inline constexpr Index latte_batch = 256;
inline constexpr Index latte_largest_batch = latte_batch + tile_keys;

// Weights as integers: in units of 1/latte_fixed_one, cut into bytes. Used where no weight is less
// than 2^-14 (of the best), so that rounding changes none by more than 2^-11 of itself.
inline constexpr int latte_weight_bytes = 3;
inline constexpr float latte_fixed_one = 16777215.0f;
inline constexpr float latte_fixed_range = 14;

// What the phases of one block hand on to each other.
struct LatteWorkspace {
  static constexpr std::int32_t no_key = -2147483647 - 1;  // below every score

  std::int8_t* query = nullptr;       // [rows][query_stride], q8
  std::int8_t* query_high = nullptr;  // [rows][query_stride], high nibbles
  std::int32_t* threshold = nullptr;  // [rows], T
  float* unit = nullptr;              // [rows], what one step of a dot product adds to log2(weight)

  std::int32_t* low = nullptr;       // [rows][low_stride], scores of the tile range
  std::int32_t* best_low = nullptr;  // [rows], the row statistic: their maximum over visible keys

  // Accumulators: maximum of the exact dot products, and, with weight = exp(logit - the maximum's),
  std::int32_t* best = nullptr;  // [rows]
  double* weight_sum = nullptr;  // [rows], sum of weights
  float* weighted = nullptr;     // [rows][value_stride], sum of weight * v8

  // One batch of survivors of one row.
  std::uint32_t* survivors = nullptr;  // positions in the tile range
  const std::byte** found = nullptr;   // where they lie in their tiles
  std::int32_t* dots = nullptr;        // dot products
  float* weights = nullptr;
  std::uint8_t* weight_bytes = nullptr;  // [latte_weight_bytes][latte_largest_batch]

  Index query_stride = 0, value_stride = 0, low_stride = 0;
  Index bytes = 0;

  // For `tiles` tiles of keys: at most 64 bytes per key and a constant.
  LOWATT_ALWAYS_INLINE LatteWorkspace(std::byte* base, Index rows, Index head_dim, Index value_dim,
                                      Index tiles) noexcept
      : query_stride(round_up(head_dim, latte_query_padding)),
        value_stride(round_up(value_dim, latte_row_padding)),
        // One cache line more than the scores, lest rows compete for the same places in the cache.
        low_stride(tiles * tile_keys + 16) {
    WorkspaceCutter cutter{base};
    const Index batch = latte_largest_batch;
    query = cutter.take<std::int8_t>(rows * query_stride);
    query_high = cutter.take<std::int8_t>(rows * query_stride);
    threshold = cutter.take<std::int32_t>(rows);
    unit = cutter.take<float>(rows);
    best_low = cutter.take<std::int32_t>(rows);
    best = cutter.take<std::int32_t>(rows);
    weight_sum = cutter.take<double>(rows);
    weighted = cutter.take<float>(rows * value_stride);
    survivors = cutter.take<std::uint32_t>(batch + 16);  // store_positions writes past the last
    found = cutter.take<const std::byte*>(batch);
    dots = cutter.take<std::int32_t>(batch);
    weights = cutter.take<float>(batch);
    weight_bytes = cutter.take<std::uint8_t>(latte_weight_bytes * batch);
    low = cutter.take<std::int32_t>(rows * low_stride);
    bytes = cutter.size();
  }
  LOWATT_ALWAYS_INLINE explicit LatteWorkspace(const BlockArguments& block) noexcept
      : LatteWorkspace(block.workspace, block.rows, block.head_dim, block.value_dim,
                       block.tile_end - block.tile_begin) {}
};

// Encodes the block's queries and clears its statistic and accumulators.
template <class L>
void latte_prepare(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const Index stride = workspace.query_stride;
  for (Index r = 0; r < block.rows; ++r) {
    const float* query = block.query + r * block.query_stride;
    std::int8_t* bytes = workspace.query + r * stride;
    std::int8_t* high = workspace.query_high + r * stride;
    const SymmetricScale query_scale =
        symmetric_scale(finite_absmax(query, block.head_dim), int8_limit);
    quantize_row<L>(query, block.head_dim, query_scale.inverse, bytes);
    for (Index c = block.head_dim; c < stride; ++c) bytes[c] = 0;
    for (Index c = 0; c < stride; c += latte_query_padding)
      for (Index j = 0; j < latte_query_padding; ++j)
        high[c + j] = static_cast<std::int8_t>(high_nibble(bytes[c + j], arguments.split));
    workspace.threshold[r] = static_cast<std::int32_t>(latte_threshold(
        arguments.theta, query_scale.scale, arguments.key_scale, arguments.scale, block.head_dim));
    // Differences of dot products are integers: from 1e25 on only the maximum has weight, and no
    // product below leaves the range of float.
    constexpr double log2_e = 1.4426950408889634;
    const double unit = static_cast<double>(query_scale.scale) *
                        static_cast<double>(arguments.key_scale) * arguments.scale * log2_e;
    workspace.unit[r] = unit < 1e25 ? static_cast<float>(unit) : 1e25f;
    workspace.best_low[r] = LatteWorkspace::no_key;
    workspace.best[r] = LatteWorkspace::no_key;
    workspace.weight_sum[r] = 0;
  }
  for (Index i = 0; i < block.rows * workspace.value_stride; ++i) workspace.weighted[i] = 0;
}

// Low-precision scores of Rows queries with the 64 keys of a tile. The nibbles' offset of 8 adds
// the same to all scores of a row, so nothing that compares them sees it.
template <class L, int Rows, int Vectors>
void latte_low_scores(const std::int8_t* query_high, Index query_stride, Index head_dim,
                      const std::byte* nibbles, std::int32_t* low, Index low_stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const Register low_half = Op::fill_u8(15);
  for (Index first = 0; first < tile_keys; first += Vectors * Op::lanes) {
    Register sum[Rows][Vectors];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Op::zero();
    }
    for (Index c = 0; c < head_dim; c += nibble_group) {
      Register front[Vectors], back[Vectors];  // the first and the last four of eight dims
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const Register both =
            Op::load(nibbles + c / 2 * tile_keys + first * nibble_group / 2 + v * Op::bytes);
        front[v] = Op::bit_and(both, low_half);
        back[v] = Op::high_nibbles(both);
      }
      LOWATT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const std::int8_t* query = query_high + r * query_stride + c;
        const Register query_front = Op::broadcast4(query);
        const Register query_back = Op::broadcast4(query + nibble_group / 2);
        LOWATT_UNROLL
        for (int v = 0; v < Vectors; ++v) {
          sum[r][v] = Op::dot4_narrow(sum[r][v], front[v], query_front);
          sum[r][v] = Op::dot4_narrow(sum[r][v], back[v], query_back);
        }
      }
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        Op::store(low + r * low_stride + first + v * Op::lanes, sum[r][v]);
    }
  }
}

// The row statistic: scores of the tile range, kept for latte_accumulate, and their maximum.
template <class L>
void latte_statistic(const LatteArguments& arguments) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  alignas(64) std::int32_t best[latte_query_block][Op::lanes];  // lane by lane until the end
  for (Index r = 0; r < block.rows; ++r) Op::store(best[r], Op::fill_i32(workspace.best_low[r]));

  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const std::byte* nibbles = block.tiles.tile(t);
    std::int32_t* low = workspace.low + (t - block.tile_begin) * tile_keys;
    const auto score = [&]<int Rows, int Vectors>(Index r) {
      latte_low_scores<L, Rows, Vectors>(workspace.query_high + r * workspace.query_stride,
                                         workspace.query_stride, block.head_dim, nibbles,
                                         low + r * workspace.low_stride, workspace.low_stride);
    };
    Index r = 0;
    for (; r + 4 <= block.rows; r += 4) score.template operator()<4, Op::block_vectors>(r);
    for (; r < block.rows; ++r) score.template operator()<1, Op::block_vectors>(r);
    for (r = 0; r < block.rows; ++r) {
      std::int32_t* scores = low + r * workspace.low_stride;
      hide(scores, block.visible_word(r, t), LatteWorkspace::no_key);
      Register largest = Op::load(best[r]);
      for (Index j = 0; j < tile_keys; j += Op::lanes)
        largest = Op::max_i32(largest, Op::load(scores + j));
      Op::store(best[r], largest);
    }
  }

  for (Index r = 0; r < block.rows; ++r)
    for (int l = 0; l < Op::lanes; ++l)
      if (best[r][l] > workspace.best_low[r]) workspace.best_low[r] = best[r][l];
}

// Exact dot products of one query with a batch of keys; count is a multiple of four. The keys'
// offset of 128 adds the same to all of them, so that only differences mean something.
template <class L>
void latte_dots(const std::int8_t* query, Index head_dim, const std::byte* const* rows, Index count,
                std::int32_t* dots) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  for (Index i = 0; i < count; i += 4) {
    Register sum[4];
    LOWATT_UNROLL
    for (int k = 0; k < 4; ++k) sum[k] = Op::zero();
    for (Index c = 0; c < head_dim; c += Op::bytes) {
      const Register q = Op::load(query + c);
      LOWATT_UNROLL
      for (int k = 0; k < 4; ++k) sum[k] = Op::dot4(sum[k], Op::load(rows[i + k] + c), q);
    }
    Op::reduce4(sum[0], sum[1], sum[2], sum[3], dots + i);
  }
}

// sums[c] = sums[c] * keep + sum_j weights[j] * value_j[c], for Vectors registers of dims.
template <class L, int Vectors>
void latte_add_values(const std::byte* const* rows, Index offset, const float* weights, Index count,
                      float keep, float* sums) noexcept {
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
    Op::multiply_add(Float::load_unaligned(s), Float(keep), sum[v]).store_unaligned(s);
  }
}

// Weights as bytes, lowest first: [latte_weight_bytes][latte_largest_batch]. Writes up to the next
// multiple of Op::lanes.
template <class L>
void latte_cut_weights(const float* weights, Index count, std::uint8_t* weight_bytes) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  for (Index i = 0; i < count; i += Op::lanes) {
    alignas(64) std::int32_t whole[Op::lanes];
    const Float scaled = Float::load_unaligned(weights + i) * Float(latte_fixed_one);
    Op::store(whole, Op::round_i32(scaled));
    for (int b = 0; b < latte_weight_bytes; ++b)
      for (int l = 0; l < Op::lanes; ++l)
        weight_bytes[b * latte_largest_batch + i + l] =
            static_cast<std::uint8_t>(whole[l] >> (8 * b));
  }
}

// latte_add_values with weights as bytes, for as many dims as a register has bytes: four keys at a
// time. `rows` and weights are read up to the next multiple of four. 32 bits hold all sums.
template <class L>
void latte_add_values_fixed(const std::byte* const* rows, Index offset,
                            const std::uint8_t* weight_bytes, Index count, float keep,
                            float* sums) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  using Float = typename Op::Float;
  Register sum[latte_weight_bytes][4];
  LOWATT_UNROLL
  for (int b = 0; b < latte_weight_bytes; ++b) {
    LOWATT_UNROLL
    for (int v = 0; v < 4; ++v) sum[b][v] = Op::zero();
  }
  for (Index i = 0; i < count; i += 4) {
    Register value[4];
    Op::interleave4(Op::load(rows[i] + offset), Op::load(rows[i + 1] + offset),
                    Op::load(rows[i + 2] + offset), Op::load(rows[i + 3] + offset), value);
    LOWATT_UNROLL
    for (int b = 0; b < latte_weight_bytes; ++b) {
      const Register weight = Op::broadcast4(weight_bytes + b * latte_largest_batch + i);
      LOWATT_UNROLL
      for (int v = 0; v < 4; ++v) sum[b][v] = Op::dot4(sum[b][v], weight, value[v]);
    }
  }
  alignas(64) float total[4][Op::lanes];
  LOWATT_UNROLL
  for (int v = 0; v < 4; ++v) {
    Float high = Op::to_float(sum[latte_weight_bytes - 1][v]);
    for (int b = latte_weight_bytes - 2; b >= 0; --b)
      high = Op::multiply_add(high, Float(256.0f), Op::to_float(sum[b][v]));
    (high * Float(1.0f / latte_fixed_one)).store_aligned(total[v]);
  }
  for (Index v = 0; v < 4; ++v)
    for (Index l = 0; l < Op::lanes; l += 4) {
      float* s = sums + interleaved(v, l);  // where four dims lie side by side
      for (Index c = 0; c < 4; ++c) s[c] = s[c] * keep + total[v][l + c];
    }
}

// Adds a batch of survivors to the accumulators of row r: softmax with a running maximum, which is
// an integer here.
template <class L>
void latte_add_batch(const LatteWorkspace& workspace, const BlockArguments& block,
                     const LatteTileLayout& layout, Index r, Index count) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  using Float = typename Op::Float;
  for (Index i = 0; i < count; ++i) {
    const Index position = workspace.survivors[i];
    workspace.found[i] = block.tiles.tile(block.tile_begin + position / tile_keys) +
                         layout.row_offset(position % tile_keys);
  }
  // Up to whole registers the last survivor is repeated, to be given no weight.
  const Index padded = round_up(count, Op::lanes);
  for (Index i = count; i < padded; ++i) workspace.found[i] = workspace.found[count - 1];
  latte_dots<L>(workspace.query + r * workspace.query_stride, block.head_dim, workspace.found,
                padded, workspace.dots);

  const std::int32_t previous = workspace.best[r];
  Register largest = Op::fill_i32(previous);
  for (Index i = 0; i < padded; i += Op::lanes)
    largest = Op::max_i32(largest, Op::load(workspace.dots + i));
  const std::int32_t best = Op::reduce_max_i32(largest);
  const float unit = workspace.unit[r];
  // What was summed so far shrinks by this much.
  const float keep = previous == LatteWorkspace::no_key
                         ? 0.0f
                         : exp2<L>(static_cast<float>(previous - best) * unit);

  constexpr float numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Float lane = Float::load_unaligned(numbers);
  Float sum(0.0f), farthest(0.0f);
  for (Index i = 0; i < padded; i += Op::lanes) {
    const Register gap = Op::add_i32(Op::load(workspace.dots + i), Op::fill_i32(-best));
    const Float exponent = Op::to_float(gap) * Float(unit);
    const Float weight =
        xsimd::select(lane < Float(static_cast<float>(count - i)), exp2<L>(exponent), Float(0.0f));
    weight.store_unaligned(workspace.weights + i);
    sum += weight;
    farthest = xsimd::max(farthest, -exponent);
  }
  workspace.weight_sum[r] = workspace.weight_sum[r] * static_cast<double>(keep) +
                            static_cast<double>(Op::reduce_add(sum));
  workspace.best[r] = best;

  float* sums = workspace.weighted + r * workspace.value_stride;
  Index dim = 0;
  // Where dot4 is one instruction, integers are faster than floats.
  if constexpr (Op::dot4_parts == 1)
    if (workspace.value_stride >= Op::bytes && Op::reduce_max(farthest) <= latte_fixed_range) {
      latte_cut_weights<L>(workspace.weights, padded, workspace.weight_bytes);
      for (; dim + Op::bytes <= workspace.value_stride; dim += Op::bytes)
        latte_add_values_fixed<L>(workspace.found, layout.value_offset + dim,
                                  workspace.weight_bytes, count, keep, sums + dim);
    }
  const auto add = [&]<int Vectors>() {
    for (; dim + Vectors * Op::lanes <= workspace.value_stride; dim += Vectors * Op::lanes)
      latte_add_values<L, Vectors>(workspace.found, layout.value_offset + dim, workspace.weights,
                                   count, keep, sums + dim);
  };
  add.template operator()<8>();
  add.template operator()<4>();
  add.template operator()<1>();
}

// Adds the survivors of the tile range, whose scores latte_statistic left in this workspace.
template <class L>
void latte_accumulate(const LatteArguments& arguments) noexcept {
  using Op = Ops<L>;
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const LatteTileLayout layout(block.head_dim, block.value_dim);
  for (Index r = 0; r < block.rows; ++r) {
    if (workspace.best_low[r] == LatteWorkspace::no_key) continue;
    const std::int32_t limit = workspace.best_low[r] - workspace.threshold[r];
    const std::int32_t* low = workspace.low + r * workspace.low_stride;
    Index count = 0, kept = 0;
    for (Index t = block.tile_begin; t < block.tile_end; ++t) {
      const std::uint64_t visible = block.visible_word(r, t);
      if (visible == 0) continue;
      const Index first = (t - block.tile_begin) * tile_keys;
      const std::uint64_t survives = visible & Op::mask_not_below(low + first, limit);
      count += Op::store_positions(survives, static_cast<std::uint32_t>(first),
                                   workspace.survivors + count);
      if (count >= latte_batch) {
        latte_add_batch<L>(workspace, block, layout, r, count);
        kept += count;
        count = 0;
      }
    }
    if (count > 0) latte_add_batch<L>(workspace, block, layout, r, count);
    if (arguments.kept != nullptr) *arguments.kept += kept + count;
  }
}

// Sums to float.
template <class L>
void latte_finish(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  for (Index r = 0; r < block.rows; ++r) {
    const float* sums = workspace.weighted + r * workspace.value_stride;
    const double sum = workspace.weight_sum[r];
    const double unit = sum > 0 ? static_cast<double>(arguments.value_scale) / sum : 0.0;
    float* out = block.out + r * block.out_stride;
    for (Index c = 0; c < block.value_dim; ++c)
      out[c] = static_cast<float>(static_cast<double>(sums[c]) * unit);
  }
}

}  // namespace lowatt
