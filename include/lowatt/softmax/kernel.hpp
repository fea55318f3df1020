// Softmax attention, one tile of keys at a time with a running maximum:
//
//   out_i = sum_j p_ij v_j / sum_j p_ij,   p_ij = exp(scale * q_i . k_j - m_i)
//
// m_i is the largest score so far; when a tile raises it, what row i has summed up is multiplied
// with exp(old m_i - new m_i). No row statistic is needed beforehand. Keys and values of 16 and 8
// bits are computed with in float32: a tile is expanded once for a block of queries. (At level amx
// bf16 and int8 go another way: tile_amx.hpp.)
//
// Lives on       fused multiply-add, two per cycle: 2 * head_dim + 2 * value_dim flops per pair; at
//                int8 the scores on 4-byte dot products. exp is a polynomial (simd/exp2.hpp).
// Layout         pack.hpp, pack_half.hpp, pack_int8.hpp; the same for prefill and decode and at
//                every level.
// Accuracy       relative L2 error 2e-5 for scores up to 100, any number of keys, against float64
//                on the same rounded inputs: see simd/float_tile.hpp for the sums. Queries are
//                scaled beforehand; int8 scores are exact integers until then.
// Overflow       int8: the largest sum is that of 127 * 255 over head_dim, which 32 bits hold to
//                softmax_most_int8_head_dim.
// Tails          value_dim is padded with zeros when packed; hidden and absent keys get the score
//                -infinity, and so p = 0; rows come four at a time, then one at a time.
#pragma once

#include "../core/half.hpp"
#include "../core/part.hpp"
#include "../quant/query_scales.hpp"
#include "../simd/exp2.hpp"
#include "../simd/write_row.hpp"
#include "pack.hpp"
#include "pack_half.hpp"
#include "pack_int8.hpp"
#include "params.hpp"
#include "score_terms.hpp"

namespace lowatt {

inline constexpr Index softmax_most_int8_head_dim = 2147483647 / (127 * 255);

// What scores are multiplied with so that exp(score) becomes 2^score, within a range in which no
// product with a finite score is NaN. Beyond 2^100 nearly all weight is on the largest score, and
// below 2^-126 all scores weigh nearly the same, unless queries and keys are as extreme.
LOWATT_ALWAYS_INLINE float softmax_factor(double scale) noexcept {
  constexpr double log2_e = 0x1.71547652b82fep+0, smallest = 0x1p-126, largest = 0x1p100;
  const double wanted = scale * log2_e;
  return static_cast<float>(wanted < smallest ? smallest : wanted < largest ? wanted : largest);
}

// Queries as float32, scaled.
struct SoftmaxFloatQueries {
  float* rows = nullptr;
  Index stride = 0;

  LOWATT_ALWAYS_INLINE SoftmaxFloatQueries(WorkspaceCutter& cutter, Index count,
                                           Index head_dim) noexcept
      : rows(cutter.take<float>(count * head_dim)), stride(head_dim) {}

  template <class L, class Storage>
  void encode(const SoftmaxArguments& arguments) const noexcept {
    const BlockArguments& block = arguments.block;
    const float factor = softmax_factor(arguments.scale);
    for (Index r = 0; r < block.rows; ++r) {
      const float* query = block.query + r * block.query_stride;
      float* row = rows + r * stride;
      for (Index c = 0; c < block.head_dim; ++c) row[c] = factor * Storage::round_query(query[c]);
    }
  }
  // scores[rows][64] with the keys of a tile.
  template <class L>
  LOWATT_ALWAYS_INLINE void score(const BlockArguments& block, const std::byte*,
                                  const FloatTile& tile, float* scores) const noexcept {
    float_scores<L, MultiplyStep<L>>({rows, stride}, block.rows, block.head_dim, tile, scores);
  }
};

// Queries as int8, each with a scale of its own.
inline constexpr Index softmax_int8_query_block = 64;
struct SoftmaxInt8Queries {
  std::int8_t* rows = nullptr;
  float* factor = nullptr;         // per row, what a step of the dot product adds to log2(weight)
  std::int32_t* offset = nullptr;  // per row, what the keys' offset adds to dot products
  Index stride = 0;

  LOWATT_ALWAYS_INLINE SoftmaxInt8Queries(WorkspaceCutter& cutter, Index count,
                                          Index head_dim) noexcept
      : rows(cutter.take<std::int8_t>(count * round_up(head_dim, key_group))),
        factor(cutter.take<float>(count)),
        offset(cutter.take<std::int32_t>(count)),
        stride(round_up(head_dim, key_group)) {}

  template <class L, class>
  void encode(const SoftmaxArguments& arguments) const noexcept {
    const BlockArguments& block = arguments.block;
    SymmetricScale scales[softmax_int8_query_block];
    int8_query_scales(block, scales);
    for (Index r = 0; r < block.rows; ++r) {
      std::int8_t* row = rows + r * stride;
      quantize_row<L>(block.query + r * block.query_stride, block.head_dim, scales[r].inverse, row);
      for (Index c = block.head_dim; c < stride; ++c) row[c] = 0;
    }
    for (Index r = 0; r < block.rows; ++r) {
      using Op = Ops<L>;
      const std::int8_t* row = rows + r * stride;
      auto sums = Op::zero();
      Index c = 0;
      for (; c + Op::bytes <= stride; c += Op::bytes)
        sums = Op::dot4_narrow(sums, Op::fill_u8(1), Op::load(row + c));
      std::int32_t sum = Op::reduce_add_i32(sums);
      for (; c < stride; ++c) sum += row[c];
      offset[r] = 128 * sum;
      const float wanted =
          softmax_factor(static_cast<double>(scales[r].scale) *
                         static_cast<double>(arguments.key_scale) * arguments.scale);
      factor[r] = wanted < 0x1p90f ? wanted : 0x1p90f;  // times 2^31, it is finite
    }
  }
  template <class L>
  void score(const BlockArguments& block, const std::byte* keys, const FloatTile&,
             float* scores) const noexcept {
    constexpr int vectors = Ops<L>::block_vectors;
    for (Index first = 0; first < tile_keys; first += vectors * Ops<L>::lanes) {
      Index r = 0;
      for (; r + 4 <= block.rows; r += 4)
        score_rows<L, 4, vectors>(r, keys + first * key_group, scores + first);
      for (; r < block.rows; ++r)
        score_rows<L, 1, vectors>(r, keys + first * key_group, scores + first);
    }
  }

 private:
  // Rows queries from `first` on with Vectors registers of keys.
  template <class L, int Rows, int Vectors>
  void score_rows(Index first, const std::byte* keys, float* scores) const noexcept {
    using Op = Ops<L>;
    using Register = typename Op::Register;
    using Float = typename Op::Float;
    Register sum[Rows][Vectors];
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[r][v] = Op::fill_i32(-offset[first + r]);
    }
    for (Index c = 0; c < stride; c += key_group) {
      Register key[Vectors];
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v) key[v] = Op::load(keys + c * tile_keys + v * Op::bytes);
      LOWATT_UNROLL
      for (int p = 0; p < Op::dot4_parts; ++p) {
        Register part[Vectors];
        LOWATT_UNROLL
        for (int v = 0; v < Vectors; ++v) part[v] = Op::split_u8(key[v], p);
        LOWATT_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const Register query = Op::split_s8(Op::broadcast4(rows + (first + r) * stride + c), p);
          LOWATT_UNROLL
          for (int v = 0; v < Vectors; ++v) sum[r][v] = Op::dot4_part(sum[r][v], part[v], query);
        }
      }
    }
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      LOWATT_UNROLL
      for (int v = 0; v < Vectors; ++v)
        (Op::to_float(sum[r][v]) * Float(factor[first + r]))
            .store_unaligned(scores + (first + r) * tile_keys + v * Op::lanes);
    }
  }
};

// What a tile of each precision is: its layout, the queries that meet it, and how many of them are
// run as one block. The work of expanding a tile is shared by a block. Tile products are those of
// AMX: tile_amx.hpp.
struct SoftmaxFp32 {
  using Layout = SoftmaxTileLayout;
  using Queries = SoftmaxFloatQueries;
  static constexpr Index query_block = 32;
  static constexpr bool has_tile_products = false;
  static LOWATT_ALWAYS_INLINE float round_query(float x) noexcept { return x; }
};
struct SoftmaxF16 {
  using Layout = SoftmaxF16Layout;
  using Queries = SoftmaxFloatQueries;
  static constexpr Index query_block = 64;
  static constexpr bool has_tile_products = false;
  static LOWATT_ALWAYS_INLINE float round_query(float x) noexcept { return x; }
};
struct SoftmaxBf16 {
  using Layout = SoftmaxBf16Layout;
  using Queries = SoftmaxFloatQueries;
  static constexpr Index query_block = 64;
  static constexpr bool has_tile_products = true;
  static LOWATT_ALWAYS_INLINE float round_query(float x) noexcept {
    return float_from_bf16(bf16_from_float(x));
  }
};
struct SoftmaxInt8 {
  using Layout = SoftmaxInt8Layout;
  using Queries = SoftmaxInt8Queries;
  static constexpr Index query_block = softmax_int8_query_block;
  static constexpr bool has_tile_products = true;
};

// Tiles of float32 need no expansion.
template <class L>
LOWATT_ALWAYS_INLINE FloatTile expand_tile(const FloatTileLayout& layout, const std::byte* tile,
                                           float*) noexcept {
  return {tile, layout};
}
LOWATT_ALWAYS_INLINE Index expanded_size(const FloatTileLayout&) noexcept {
  return 0;
}

// The running maximum of each row and what has been summed up relative to it. Beside its weighted
// values a row sums up its weights, in the 16 columns after value_stride (any of them: their sum
// counts).
struct SoftmaxSums {
  static constexpr Index weight_columns = 16;
  Index value_stride = 0;
  float* maximum = nullptr;  // [rows], the largest score so far
  FloatSums sums;

  LOWATT_ALWAYS_INLINE SoftmaxSums(WorkspaceCutter& cutter, Index rows,
                                   Index value_stride_) noexcept
      : value_stride(value_stride_),
        maximum(cutter.take<float>(rows)),
        sums(cutter, rows, value_stride_ + weight_columns) {}

  LOWATT_ALWAYS_INLINE void clear(Index rows) const noexcept {
    for (Index r = 0; r < rows; ++r) maximum[r] = -__builtin_inff();
    sums.clear(rows);
  }
};

// What the phases of one block hand on to each other.
template <class Storage>
struct SoftmaxWorkspace {
  typename Storage::Layout layout;
  WorkspaceCutter cutter;
  typename Storage::Queries queries;
  SoftmaxSums sums;
  float* scores = nullptr;    // [rows][64], scores and then weights of one tile
  float* expanded = nullptr;  // one tile

  LOWATT_ALWAYS_INLINE SoftmaxWorkspace(std::byte* base, Index head_dim, Index value_dim) noexcept
      : layout(head_dim, value_dim),
        cutter{base},
        queries(cutter, Storage::query_block, head_dim),
        sums(cutter, Storage::query_block, layout.value_stride),
        scores(cutter.take<float>(Storage::query_block * tile_keys)),
        expanded(cutter.take<float>(expanded_size(layout))) {}
  LOWATT_ALWAYS_INLINE explicit SoftmaxWorkspace(const BlockArguments& block) noexcept
      : SoftmaxWorkspace(block.workspace, block.head_dim, block.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// Encodes the block's queries and clears its sums.
template <class L, class Storage>
void softmax_prepare(const SoftmaxArguments& arguments) noexcept {
  const SoftmaxWorkspace<Storage> workspace(arguments.block);
  workspace.queries.template encode<L, Storage>(arguments);
  workspace.sums.clear(arguments.block.rows);
}

// Turns the scores of row r with 64 keys into weights 2^(score - maximum). Nothing but the
// subtraction is done to a score here, so that the weight of the largest is exactly 1.
template <class L>
void softmax_weigh(float* scores, std::uint64_t visible, Index r,
                   const SoftmaxSums& so_far) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  if (visible == 0) {
    for (Index j = 0; j < tile_keys; ++j) scores[j] = 0;
    return;
  }
  hide(scores, visible, -__builtin_inff());

  Float largest = Float::load_unaligned(scores);
  for (Index j = Op::lanes; j < tile_keys; j += Op::lanes)
    largest = xsimd::max(largest, Float::load_unaligned(scores + j));
  const float highest = Op::reduce_max(largest);
  float& maximum = so_far.maximum[r];
  if (highest > maximum) {
    if (maximum > -__builtin_inff()) so_far.sums.multiply_row(r, exp2<L>(maximum - highest));
    maximum = highest;
  }

  // As long as all scores are -infinity, any finite number does in the maximum's place.
  const Float subtracted(maximum > -__builtin_inff() ? maximum : 0.0f);
  Float sum(0.0f);
  for (Index j = 0; j < tile_keys; j += Op::lanes) {
    const Float weight = exp2<L>(Float::load_unaligned(scores + j) - subtracted);
    weight.store_unaligned(scores + j);
    sum = sum + weight;
  }
  float* weights = so_far.sums.recent + r * so_far.sums.stride + so_far.value_stride;
  (Float::load_unaligned(weights) + sum).store_unaligned(weights);
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L, class Storage>
void softmax_accumulate(const SoftmaxArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const SoftmaxWorkspace<Storage> workspace(block);
  const auto& layout = workspace.layout;
  const FloatSums& sums = workspace.sums.sums;
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const std::byte* stored = block.tiles.tile(t);
    const FloatTile tile = expand_tile<L>(layout, stored, workspace.expanded);
    workspace.queries.template score<L>(block, stored, tile, workspace.scores);
    if (arguments.changes_scores()) softmax_change_scores<L>(arguments, t, workspace.scores);
    for (Index r = 0; r < block.rows; ++r)
      softmax_weigh<L>(workspace.scores + r * tile_keys, block.visible_word(r, t), r,
                       workspace.sums);
    float_add_values<L, MultiplyStep<L>>(block, t, tile, layout.value_stride, workspace.scores,
                                         sums);
    sums.count_addition(block.rows);
  }
}

// Weighted values over weights.
template <class L, class Storage>
void softmax_finish(const SoftmaxArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const SoftmaxWorkspace<Storage> workspace(block);
  const FloatSums& sums = workspace.sums.sums;
  const double unit = std::is_same_v<typename Storage::Layout, SoftmaxInt8Layout>
                          ? static_cast<double>(arguments.value_scale)
                          : 1.0;
  if (sums.state->has_total) sums.fold(block.rows);
  for (Index r = 0; r < block.rows; ++r) {
    const auto sum = sums.row(r);
    double weights = 0;
    for (Index i = 0; i < SoftmaxSums::weight_columns; ++i)
      weights += sum(workspace.layout.value_stride + i);
    const double maximum = static_cast<double>(workspace.sums.maximum[r]);
    const double inverse = unit / (weights + block.terms.sink_weight(r, maximum));
    const bool any = block.visible_count(r) > 0;
    float* out = block.out + r * block.out_stride;
    if (!any)
      write_zeros(block.value_dim, out);
    else if (sums.state->has_total)
      write_scaled<L>(sums.total + r * sums.stride, block.value_dim, inverse, out);
    else
      write_scaled<L>(sums.recent + r * sums.stride, block.value_dim, inverse, out);
  }
}

// The block's sums as a part (core/part.hpp). Scores and maxima are logarithms to base 2.
template <class L, class Storage>
void softmax_store_part(const SoftmaxArguments& arguments, PartRows<double> part) noexcept {
  const SoftmaxWorkspace<Storage> workspace(arguments.block);
  const FloatSums& sums = workspace.sums.sums;
  for (Index r = 0; r < arguments.block.rows; ++r) {
    const auto sum = sums.row(r);
    part.weight(r) = part.kept(r) = 0;
    for (Index i = 0; i < SoftmaxSums::weight_columns; ++i)
      part.weight(r) += sum(workspace.layout.value_stride + i);
    part.maximum(r) = static_cast<double>(workspace.sums.maximum[r]);
    for (Index c = 0; c < part.value_dim; ++c) part.sums(r)[c] = sum(c);
  }
}

// Merged parts to outputs, at any level.
template <class L, class Storage>
void softmax_finish_part(const SoftmaxArguments& arguments, PartRows<const double> part) noexcept {
  const BlockArguments& block = arguments.block;
  const double unit =
      std::is_same_v<Storage, SoftmaxInt8> ? static_cast<double>(arguments.value_scale) : 1.0;
  for (Index r = 0; r < block.rows; ++r) {
    const double sink = block.terms.sink_weight(r, part.maximum(r));
    const double inverse = unit / (part.weight(r) + sink);
    const bool any = block.visible_count(r) > 0;
    float* out = block.out + r * block.out_stride;
    if (any)
      write_scaled<L>(part.sums(r), block.value_dim, inverse, out);
    else
      write_zeros(block.value_dim, out);
  }
}

}  // namespace lowatt
