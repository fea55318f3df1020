// LATTE where few keys are filtered: not one survivor after the other, but all keys of a tile with
// softmax's dense int8 kernel, to which survivors are a mask. Scores, maxima and survivors are
// those of the first pass either way; only how the survivors are worked through differs.
//
//   is_worth   whether a block's survival, sampled, is above what dense work costs at this level
//   mark       scores to survivors, one bit per key, in their place
//   unpack     rows of a tile to the layout of dense kernels (simd/byte_tile.hpp)
//
// Lives on    shuffles, in unpack: four per 64 bytes of keys and four per 64 of values; then what
//             softmax lives on. At level amx it takes 0.42 of the time of survivors one by one
//             where all survive (64 dims, 2048 keys), and the same where 30% do. At avx512icl it
//             was faster only where all survive: there is none, nor below, where none was measured.
// Choice      per block of queries: it does not depend on threads. Queries in other company may be
//             worked through the other way, which changes outputs within their error.
// Accuracy    weights are bf16, off by at most 2^-8 of themselves, and outputs are divided by the
//             sum of the rounded weights: an output is off by at most 2^-8 of the weighted mean
//             distance of values from it. On normal tensors up to 1.9e-3 in relative L2 were
//             seen; where weights are alike and values even out, or few values count, more.
// Tails       values are read up to their padding and no further; of keys, what lies past head_dim
//             meets zeros of the query.
#pragma once

#include "../simd/byte_tile.hpp"
#include "scores_amx.hpp"

namespace lowatt {

// Fewer rows do not repay unpacking. Over few outputs the errors of bf16 weights do not even out.
inline constexpr Index latte_least_dense_rows = 16, latte_least_dense_values = 32;
// Tiles that are unpacked at a time.
inline constexpr Index latte_unpacked_tiles = 4;

// Whether shape and precision allow it.
LOWATT_ALWAYS_INLINE constexpr bool latte_may_be_dense(Index rows, Index head_dim, Index value_dim,
                                                       Precision values) noexcept {
  return rows >= latte_least_dense_rows && value_dim >= latte_least_dense_values &&
         head_dim <= latte_most_narrow_head_dim && values == Precision::int8;
}

struct LatteUnpackArguments {
  const std::byte* tile = nullptr;
  Index head_dim = 0, value_dim = 0;
  std::byte* keys = nullptr;  // [key_dims/4][64 keys][4]
  Index key_dims = 0;
  std::byte* values = nullptr;  // [value_dim/16][16 groups of keys][16][4]
};

struct LatteDenseKernel {
  bool (*is_worth)(const LatteArguments&) noexcept = nullptr;
  void (*mark)(const LatteArguments&) noexcept = nullptr;
  void (*unpack)(const LatteUnpackArguments&) noexcept = nullptr;
};

// Levels without dense kernels that are faster have none.
template <class L>
inline constexpr LatteDenseKernel latte_dense_kernel = {};

// Where marks of a block lie: one word per row and tile, in the place of the row's scores.
struct LatteMarks {
  std::uint64_t* words = nullptr;  // of the first row and tile_begin
  Index stride = 0;

  LOWATT_ALWAYS_INLINE explicit LatteMarks(const BlockArguments& block) noexcept {
    const LatteWorkspace workspace(block);
    words = reinterpret_cast<std::uint64_t*>(workspace.low);
    stride = workspace.low_stride * static_cast<Index>(sizeof(std::int16_t)) / 8;
  }
};

#if LOWATT_HAS_TILES

// Survival from which on dense work is faster, for 64 dims and for 128.
inline constexpr double latte_dense_survival = 0.3;

// A sample of a quarter of the rows and at most seven tiles.
template <class L>
bool latte_is_worth(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const Index tiles = block.tile_end - block.tile_begin, step = tiles < 4 ? 1 : tiles / 4;
  Index survivors = 0, seen = 0;
  for (Index r = 0; r < block.rows; r += 4) {
    const std::int16_t* low = workspace.low_row<std::int16_t>(r);
    const auto limit = latte_limit<std::int16_t>(workspace, r);
    for (Index t = 0; t < tiles; t += step) {
      const std::uint64_t visible = block.visible_word(r, block.tile_begin + t);
      if (visible == 0) continue;
      seen += __builtin_popcountll(visible);
      survivors += __builtin_popcountll(Ops<L>::mask_not_below(low + t * tile_keys, limit));
    }
  }
  return static_cast<double>(survivors) > latte_dense_survival * static_cast<double>(seen);
}

template <class L>
void latte_mark(const LatteArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const LatteWorkspace workspace(block);
  const LatteMarks marks(block);
  for (Index r = 0; r < block.rows; ++r) {
    const std::int16_t* low = workspace.low_row<std::int16_t>(r);
    const auto limit = latte_limit<std::int16_t>(workspace, r);
    for (Index t = 0; t < block.tile_end - block.tile_begin; ++t) {
      // A word covers scores that have been read already, or are read now.
      std::uint64_t word = 0;
      if (block.visible_word(r, block.tile_begin + t) != 0)
        word = Ops<L>::mask_not_below(low + t * tile_keys, limit);
      __builtin_memcpy(marks.words + r * marks.stride + t, &word, sizeof word);
      workspace.kept[r] += __builtin_popcountll(word);
    }
  }
}

// Sixteen registers of sixteen lanes: lane j of register i becomes lane i of register j.
LOWATT_ALWAYS_INLINE void latte_transpose(__m512i* r) noexcept {
  __m512i t[16];
  LOWATT_UNROLL
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  LOWATT_UNROLL
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  LOWATT_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    r[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

template <class L>
void latte_unpack(const LatteUnpackArguments& arguments) noexcept {
  using Op = Ops<L>;
  const LatteTileLayout layout(arguments.head_dim, arguments.value_dim);
  const std::byte* rows = arguments.tile + layout.nibble_bytes;
  for (Index key = 0; key < tile_keys; key += 16)
    for (Index c = 0; c < arguments.key_dims; c += 64) {
      __m512i dims[16];
      LOWATT_UNROLL
      for (int i = 0; i < 16; ++i) dims[i] = Op::load(rows + (key + i) * layout.row_bytes + c);
      latte_transpose(dims);
      std::byte* out = arguments.keys + c * tile_keys + key * 4;
      const Index groups = (arguments.key_dims - c) / 4;
      for (Index g = 0; g < 16 && g < groups; ++g) Op::store(out + g * tile_keys * 4, dims[g]);
    }

  const Index value_stride = round_up(arguments.value_dim, latte_row_padding);
  for (Index c = 0; c < value_stride; c += 64) {
    const Index blocks = value_stride - c < 64 ? (value_stride - c) / 16 : 4;
    const __mmask64 own = ~std::uint64_t{0} >> (64 - 16 * blocks);
    for (Index key = 0; key < tile_keys; key += value_group) {
      const std::byte* row = rows + key * layout.row_bytes + layout.value_offset + c;
      const auto load = [&](Index i) __attribute__((always_inline)) {
        return _mm512_maskz_loadu_epi8(own, row + i * layout.row_bytes);
      };
      typename Op::Register value[4];
      Op::interleave4(load(0), load(1), load(2), load(3), value);
      Op::separate4(value);
      std::byte* out = arguments.values + c * tile_keys + key / value_group * value_group_stride;
      for (Index b = 0; b < blocks; ++b) Op::store(out + b * value_block * tile_keys, value[b]);
    }
  }
}

template <>
inline constexpr LatteDenseKernel latte_dense_kernel<arch::amx> = {
    latte_is_worth<arch::amx>, latte_mark<arch::amx>, latte_unpack<arch::amx>};
#endif

}  // namespace lowatt
