// Softmax attention at bf16 and int8 on the tile products of AMX. The sums are those of kernel.hpp.
// For a block of up to 64 queries:
//
//   scores   q . k with one tile of 64 keys, float32 (int8: int32)             tile_amx.hpp
//   weights  2^(factor * score - maximum), rounded to bf16 and laid out as     weights_amx.hpp
//            left operand of the next product
//   sums     += weights . v for four tiles of keys at a time                   values_amx.hpp
//
// The maximum is one so far, and is raised (which scales sums down) only for scores that lie
// 2^softmax_headroom above it; tiles that wait to be added are added first.
//
// Lives on     three things that take turns, since vector and tile code do not overlap: products
//              (16 cycles for 16 x 16 pairs and 32 dims; int8 scores: 64 dims), storing scores (16
//              cycles for 16 x 16 pairs), and weights (ten vector instructions for 16 pairs, two
//              per cycle). Scores of a block with a tile stay in the first-level cache.
// Layout       pack_half.hpp, pack_int8.hpp. int8 values are exact in bf16; they are expanded once
//              for a block of queries.
// Accuracy     relative L2 error 5e-3 against float64 on the same rounded inputs (about 1.5e-3 is
//              seen). A weight is off by up to 2^-8 of itself for its rounding and 2^-13.7 for the
//              polynomial; outputs are divided by the sum of the rounded weights. Sums are float32
//              over 64 tiles of keys and double beyond, so that errors do not grow with the number
//              of keys. Tile products take subnormal numbers for zero, among operands and
//              results: what values below 2^-100 add may be lost, and the precision of scores that
//              such products make up.
// Tails        rows up to a multiple of 16 hold anything and are not written out; hidden keys get a
//              score of -infinity; value_dim is padded when packed. NaN and infinity among values
//              are left out of the product and given to the rows that see them after it.
#pragma once

#include "values_amx.hpp"
#include "weights_amx.hpp"

#if LOWATT_HAS_TILES

namespace lowatt {

// Scales of int8 for sixteen rows of queries from `first` on, as symmetric_scale() has them: sets
// their factors, returns the inverses.
template <class L>
LOWATT_ALWAYS_INLINE __m512
softmax_amx_scales(const SoftmaxArguments& arguments, Index first,
                   const SoftmaxAmxWorkspace<SoftmaxInt8>& workspace) noexcept {
  const BlockArguments& block = arguments.block;
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  alignas(64) float largest[16][16] = {};
  for (Index r = 0; r < 16 && first + r < block.rows; ++r) {
    const float* query = block.query + (first + r) * block.query_stride;
    __m512 row = _mm512_setzero_ps();
    for (Index c = 0; c < block.head_dim; c += 16) {
      const __m512 magnitude =
          _mm512_abs_ps(_mm512_maskz_loadu_ps(softmax_lanes(block.head_dim - c), query + c));
      const __mmask16 is_finite = _mm512_cmp_ps_mask(magnitude, infinity, _CMP_LT_OQ);
      row = _mm512_mask_max_ps(row, is_finite, row, magnitude);
    }
    _mm512_store_ps(largest[r], row);
  }
  const __m512 absmax = softmax_maxima<SoftmaxScores<false>>(largest[0]);
  const __m512 steps = _mm512_set1_ps(static_cast<float>(int8_limit));
  const __mmask16 representable = _mm512_cmp_ps_mask(absmax, _mm512_set1_ps(0x1p-110f), _CMP_GE_OQ);
  alignas(64) float scale[16];
  _mm512_store_ps(scale, _mm512_maskz_div_ps(representable, absmax, steps));
  const double unit = static_cast<double>(arguments.key_scale) * arguments.scale;
  for (Index r = 0; r < 16; ++r) {
    const float factor = softmax_factor(static_cast<double>(scale[r]) * unit);
    workspace.factor[first + r] = factor < 0x1p90f ? factor : 0x1p90f;  // times 2^31, it is finite
  }
  return _mm512_maskz_div_ps(representable, steps, absmax);
}

// Encodes the block's queries as left operands and clears its sums.
template <class L, class Storage>
void softmax_amx_prepare(const SoftmaxArguments& arguments) noexcept {
  constexpr bool is_int8 = std::is_same_v<Storage, SoftmaxInt8>;
  using S = SoftmaxScores<is_int8>;
  const BlockArguments& block = arguments.block;
  const SoftmaxAmxWorkspace<Storage> workspace(block);
  const auto& layout = workspace.layout;
  const FloatSums& sums = workspace.sums.sums;
  *sums.state = {};
  alignas(64) float inverse[16];
  for (Index r = 0; r < block.rows; ++r) {
    if (r % 16 == 0) {
      S::store(workspace.sums.maximum + r, S::lowest());
      if constexpr (is_int8)
        _mm512_store_ps(inverse, softmax_amx_scales<L>(arguments, r, workspace));
      else
        _mm512_storeu_ps(workspace.factor + r, _mm512_set1_ps(softmax_factor(arguments.scale)));
    }
    _mm512_storeu_ps(sums.recent + r * sums.stride + layout.value_stride, _mm512_setzero_ps());

    const float* query = block.query + r * block.query_stride;
    std::byte* row = workspace.query + r / 16 * layout.steps * tiles::bytes + r % 16 * 64;
    for (Index s = 0; s < layout.steps; ++s, row += tiles::bytes) {
      const Index rest = block.head_dim - s * layout.step;
      const Index count = rest < layout.step ? rest : layout.step;
      const auto sixteen = [&](Index c) __attribute__((always_inline)) {
        return _mm512_maskz_loadu_ps(softmax_lanes(count - c), query + s * layout.step + c);
      };
      if constexpr (is_int8) {
        const __m512 highest = _mm512_set1_ps(127.0f), lowest = _mm512_set1_ps(-127.0f);
        for (Index c = 0; c < layout.step; c += 16) {
          __m512 x = _mm512_mul_ps(sixteen(c), _mm512_set1_ps(inverse[r % 16]));
          x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
          x = _mm512_min_ps(_mm512_max_ps(x, lowest), highest);
          _mm_storeu_si128(reinterpret_cast<__m128i*>(row + c),
                           _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
        }
      } else {
        _mm512_storeu_si512(row, (__m512i)_mm512_cvtne2ps_pbh(sixteen(16), sixteen(0)));
      }
    }
  }
}

// Scores of the block's queries with the keys of a tile.
template <class Storage>
LOWATT_ALWAYS_INLINE void softmax_amx_score(const BlockArguments& block, const std::byte* tile,
                                            const SoftmaxAmxWorkspace<Storage>& workspace) {
  using Workspace = SoftmaxAmxWorkspace<Storage>;
  constexpr bool is_int8 = std::is_same_v<Storage, SoftmaxInt8>;
  constexpr Index score_bytes = Workspace::score_stride * 4, key_stride = tile_keys * 4;
  const auto& layout = workspace.layout;
  const Index steps = layout.steps, query_bytes = steps * tiles::bytes;
  const Index step_bytes = layout.step * (is_int8 ? 1 : 2) * tile_keys;
  const auto query = [&](Index row_tile) __attribute__((always_inline)) {
    return tiles::Operand{workspace.query + row_tile * query_bytes, tiles::row_bytes, query_bytes};
  };
  const auto keys = [&](Index column) __attribute__((always_inline)) {
    return tiles::Operand{tile + Storage::Layout::keys_offset + column * tiles::row_bytes,
                          key_stride, step_bytes};
  };
  const auto sums = [&](Index row_tile, Index column) __attribute__((always_inline)) {
    return tiles::Sums{reinterpret_cast<std::byte*>(workspace.scores) +
                           row_tile * 16 * score_bytes + column * tiles::row_bytes,
                       score_bytes, 16 * score_bytes};
  };
  // Two tiles of rows at a time, then a last one. A result is stored while the next is computed.
  const auto run = [&]<class Rows>(Rows, Index begin, Index end) __attribute__((always_inline)) {
    constexpr Index row_tiles = 2 / Rows::columns, next = Rows::columns;
    for (Index r = begin; r < end; r += row_tiles)
      for (Index c = 0; c < 4; c += 2 * next) {
        Rows::template multiply<is_int8, 0>(query(r), tiles::bytes, keys(c), steps);
        if (c > 0)
          Rows::template store<1>(sums(r, c - next));
        else if (r > begin)
          Rows::template store<1>(sums(r - row_tiles, 4 - next));
        Rows::template multiply<is_int8, 1>(query(r), tiles::bytes, keys(c + next), steps);
        Rows::template store<0>(sums(r, c));
      }
    if (begin < end) Rows::template store<1>(sums(end - row_tiles, 4 - next));
  };
  const Index row_tiles = (block.rows + 15) / 16, even = row_tiles / 2 * 2;
  run(tiles::TwoRows{}, 0, even);
  run(tiles::OneRow{}, even, row_tiles);
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L, class Storage>
void softmax_amx_accumulate(const SoftmaxArguments& arguments) noexcept {
  constexpr bool is_int8 = std::is_same_v<Storage, SoftmaxInt8>;
  using S = SoftmaxScores<is_int8>;
  const BlockArguments& block = arguments.block;
  const SoftmaxAmxWorkspace<Storage> workspace(block);
  constexpr Index most_row_tiles = SoftmaxAmxWorkspace<Storage>::rows / 16;

  // Both products have the same tile registers, unless steps of queries are shorter.
  const Index tile_rows = block.rows < tiles::rows ? block.rows : tiles::rows;
  const Index depth_bytes = workspace.layout.step * (is_int8 ? 1 : 2);
  const bool is_whole = depth_bytes == tiles::row_bytes;
  tiles::configure(tile_rows, tiles::row_bytes);
  const auto add = [&](SoftmaxWaiting & waiting) __attribute__((always_inline)) {
    if (!is_whole) tiles::configure(tile_rows, tiles::row_bytes);
    softmax_amx_add<L>(block, waiting, workspace);
  };

  const VisibleRange common = block.common_range();
  SoftmaxWaiting waiting{};
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    const bool is_full = block.tile_is_whole(t, common);
    if (!is_full && !block.tile_is_visible(t)) continue;
    const std::byte* tile = block.tiles.tile(t);
    if (!is_whole) tiles::configure(tile_rows, depth_bytes);
    tiles::memory_barrier();
    softmax_amx_score(block, tile, workspace);
    tiles::memory_barrier();

    typename S::Register largest[most_row_tiles];
    __mmask16 raised[most_row_tiles];
    unsigned any_raised = 0;
    for (Index r = 0; r < block.rows; r += 16) {
      largest[r / 16] = softmax_largest(block, t, is_full, r, workspace);
      raised[r / 16] = softmax_above<S>(largest[r / 16], S::load(workspace.sums.maximum + r),
                                        _mm512_loadu_ps(workspace.factor + r)) &
                       softmax_lanes(block.rows - r);
      any_raised |= raised[r / 16];
    }
    if (any_raised != 0) {
      if (waiting.count > 0) add(waiting);  // with the maximum that their weights are relative to
      for (Index r = 0; r < block.rows; r += 16)
        softmax_raise<L>(r, raised[r / 16], largest[r / 16], workspace);
    }

    for (Index r = 0; r < block.rows; r += 16)
      softmax_amx_weigh(block, is_full, r, waiting.count, workspace);
    waiting.position[waiting.count] = t;
    waiting.tile[waiting.count++] = tile;
    if (waiting.count == softmax_most_waiting) add(waiting);
  }
  if (waiting.count > 0) add(waiting);
  tiles::release();
}

// Weighted values over weights.
template <class L, class Storage>
void softmax_amx_finish(const SoftmaxArguments& arguments) noexcept {
  constexpr bool is_int8 = std::is_same_v<Storage, SoftmaxInt8>;
  using Workspace = SoftmaxAmxWorkspace<Storage>;
  const BlockArguments& block = arguments.block;
  const Workspace workspace(block);
  const FloatSums& sums = workspace.sums.sums;
  const Index stride = sums.stride;
  // Expanded int8 values are 2^24 times what they stand for.
  constexpr float expansion = is_int8 ? 0x1p-24f : 1.0f;
  const float unit = is_int8 ? arguments.value_scale : 1.0f;
  if (sums.state->has_total) {
    for (Index i = 0; i < block.rows * stride; ++i)
      sums.recent[i] = static_cast<float>(sums.total[i] + static_cast<double>(sums.recent[i]));
  }
  // Expansion over weights first: the unit alone over many weights could be denormal.
  alignas(64) float inverse[Workspace::rows] = {};
  for (Index r = 0; r < block.rows; ++r)
    inverse[r] = _mm512_reduce_add_ps(
        _mm512_loadu_ps(sums.recent + r * stride + workspace.layout.value_stride));
  for (Index r = 0; r < block.rows; r += 16)
    _mm512_store_ps(inverse + r,
                    _mm512_div_ps(_mm512_set1_ps(expansion), _mm512_load_ps(inverse + r)));
  for (Index r = 0; r < block.rows; ++r) {
    const float* recent = sums.recent + r * stride;
    float* out = block.out + r * block.out_stride;
    const bool any = block.visible_count(r) > 0;
    const __m512 factor = _mm512_set1_ps(inverse[r]);
    Index c = 0;
    for (; any && c + 16 <= block.value_dim; c += 16)
      _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(recent + c), factor),
                                              _mm512_set1_ps(unit)));
    for (; c < block.value_dim; ++c) out[c] = any ? recent[c] * inverse[r] * unit : 0.0f;
  }
}

// log2 of what the weights of row r are relative to; -infinity where the row has seen no key.
template <class Storage>
LOWATT_ALWAYS_INLINE double softmax_amx_reference(
    Index r, const SoftmaxAmxWorkspace<Storage>& workspace) noexcept {
  const auto& layout = workspace.layout;
  const double factor = static_cast<double>(workspace.factor[r]);
  double score = static_cast<double>(workspace.sums.maximum[r]);
  if constexpr (std::is_same_v<Storage, SoftmaxInt8>) {
    const auto product = __builtin_bit_cast(std::int32_t, workspace.sums.maximum[r]);
    if (product == -2147483647 - 1) return -__builtin_inf();
    std::int64_t sum = 0;  // of the query: keys have an offset of 128
    const std::byte* row = workspace.query + r / 16 * layout.steps * tiles::bytes + r % 16 * 64;
    for (Index s = 0; s < layout.steps; ++s, row += tiles::bytes)
      for (Index c = 0; c < layout.step; ++c) sum += static_cast<std::int8_t>(row[c]);
    score = static_cast<double>(product - 128 * sum);
  }
  return score * factor + static_cast<double>(softmax_headroom);
}

// The block's sums as a part, as softmax_store_part() has them.
template <class L, class Storage>
void softmax_amx_store_part(const SoftmaxArguments& arguments, PartRows<double> part) noexcept {
  const SoftmaxAmxWorkspace<Storage> workspace(arguments.block);
  const FloatSums& sums = workspace.sums.sums;
  const FloatSums::State state = *sums.state;
  constexpr double expansion = std::is_same_v<Storage, SoftmaxInt8> ? 0x1p-24 : 1.0;
  for (Index r = 0; r < arguments.block.rows; ++r) {
    // Of sums that nothing has been added to only the columns of weights are numbers.
    const auto sum = [&](Index i, bool has_recent) {
      const double recent =
          has_recent ? static_cast<double>(sums.recent[r * sums.stride + i]) : 0.0;
      return state.has_total ? sums.total[r * sums.stride + i] + recent : recent;
    };
    part.weight(r) = part.kept(r) = 0;
    for (Index i = 0; i < SoftmaxSums::weight_columns; ++i)
      part.weight(r) += sum(workspace.layout.value_stride + i, true);
    part.maximum(r) = softmax_amx_reference(r, workspace);
    for (Index c = 0; c < part.value_dim; ++c)
      part.sums(r)[c] = sum(c, state.recent > 0) * expansion;
  }
}

// The way of kernel.hpp at level amx: for one or two queries, which do not repay expanding int8
// values to bf16, and where something is added to scores.
template <class Storage>
struct SoftmaxPlain : Storage {};

template <class Storage>
LOWATT_ALWAYS_INLINE bool softmax_is_plain(const SoftmaxArguments& arguments) noexcept {
  constexpr Index few_rows = std::is_same_v<Storage, SoftmaxInt8> ? 2 : 0;
  return arguments.block.rows <= few_rows || arguments.changes_scores() ||
         arguments.block.terms.sinks != nullptr;
}

template <>
inline void softmax_prepare<arch::amx, SoftmaxBf16>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxBf16>(arguments))
    softmax_prepare<arch::amx, SoftmaxPlain<SoftmaxBf16>>(arguments);
  else
    softmax_amx_prepare<arch::amx, SoftmaxBf16>(arguments);
}
template <>
inline void softmax_prepare<arch::amx, SoftmaxInt8>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxInt8>(arguments))
    softmax_prepare<arch::amx, SoftmaxPlain<SoftmaxInt8>>(arguments);
  else
    softmax_amx_prepare<arch::amx, SoftmaxInt8>(arguments);
}
template <>
inline void softmax_accumulate<arch::amx, SoftmaxBf16>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxBf16>(arguments))
    softmax_accumulate<arch::amx, SoftmaxPlain<SoftmaxBf16>>(arguments);
  else
    softmax_amx_accumulate<arch::amx, SoftmaxBf16>(arguments);
}
template <>
inline void softmax_accumulate<arch::amx, SoftmaxInt8>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxInt8>(arguments))
    softmax_accumulate<arch::amx, SoftmaxPlain<SoftmaxInt8>>(arguments);
  else
    softmax_amx_accumulate<arch::amx, SoftmaxInt8>(arguments);
}
template <>
inline void softmax_finish<arch::amx, SoftmaxBf16>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxBf16>(arguments))
    softmax_finish<arch::amx, SoftmaxPlain<SoftmaxBf16>>(arguments);
  else
    softmax_amx_finish<arch::amx, SoftmaxBf16>(arguments);
}
template <>
inline void softmax_finish<arch::amx, SoftmaxInt8>(const SoftmaxArguments& arguments) noexcept {
  if (softmax_is_plain<SoftmaxInt8>(arguments))
    softmax_finish<arch::amx, SoftmaxPlain<SoftmaxInt8>>(arguments);
  else
    softmax_amx_finish<arch::amx, SoftmaxInt8>(arguments);
}

template <>
inline void softmax_store_part<arch::amx, SoftmaxBf16>(const SoftmaxArguments& arguments,
                                                       PartRows<double> part) noexcept {
  if (softmax_is_plain<SoftmaxBf16>(arguments))
    softmax_store_part<arch::amx, SoftmaxPlain<SoftmaxBf16>>(arguments, part);
  else
    softmax_amx_store_part<arch::amx, SoftmaxBf16>(arguments, part);
}
template <>
inline void softmax_store_part<arch::amx, SoftmaxInt8>(const SoftmaxArguments& arguments,
                                                       PartRows<double> part) noexcept {
  if (softmax_is_plain<SoftmaxInt8>(arguments))
    softmax_store_part<arch::amx, SoftmaxPlain<SoftmaxInt8>>(arguments, part);
  else
    softmax_amx_store_part<arch::amx, SoftmaxInt8>(arguments, part);
}

}  // namespace lowatt

#endif
