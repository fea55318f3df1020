// Bitformer at level amx, the second pass over blocks of some rows, on tile registers:
//
//   P      by table lookup, 32 rows of 64 keys at a time: left operands
//   sums   += P . v for a batch of tiles of keys; the right operand is the values as they lie
//
// Lives on   products: 16 cycles for 16 rows, 64 keys and 16 dims. Finding P of a tile while the
//            products of the one before run was no faster.
// Layout     pack.hpp.
// Overflow   as in kernel.hpp; distances of 32 bits take its way.
// Tails      rows up to a multiple of 16 hold anything and are not written out; hidden keys get
//            P = 0.
//
// Distances stay on vectors. As products of 1 and -1 with bits expanded to bytes, expanding and
// multiplying took half the time of counting 256 bits, which are compared as levels since, faster;
// writing 16-bit distances of 64 rows between products, to lines that are no longer in L1, took the
// other half, fetched ahead or not. Beside a busy neighbour on the core, products lose more.
#pragma once

#include "kernel.hpp"

#if LOWATT_HAS_TILES

#include "../simd/ops_amx.hpp"
#include "../simd/tiles_amx.hpp"

namespace lowatt {

// Measured at 64 and 128 dims: four rows lose by tiles, six gain.
inline constexpr Index bitformer_amx_least_rows = 6;
inline constexpr Index bitformer_amx_weight_bytes = 32 * tile_keys;

// The table of probabilities: fewer than 64 entries are kept in a register.
struct BitformerSmallTable {
  __m512i entries;

  LOWATT_ALWAYS_INLINE explicit BitformerSmallTable(const BitformerArguments& arguments) noexcept
      : entries(_mm512_loadu_si512(arguments.table)) {}
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i differences) const noexcept {
    return _mm512_permutexvar_epi8(_mm512_min_epu8(differences, _mm512_set1_epi8(63)), entries);
  }
};
struct BitformerTable {
  const std::uint8_t* entries;
  Index count;

  LOWATT_ALWAYS_INLINE explicit BitformerTable(const BitformerArguments& arguments) noexcept
      : entries(arguments.table), count(arguments.table_entries) {}
  // Of differences of 8 bits; of 16, by bytes.
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i low) const noexcept {
    return Ops<arch::amx>::lookup_u8(entries, static_cast<int>(count < 256 ? count : 256), low);
  }
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i low, __m512i high) const noexcept {
    __m512i p = _mm512_setzero_si512();
    for (Index first = 0; first < count; first += 256) {
      const __mmask64 inside =
          _mm512_cmpeq_epi8_mask(high, _mm512_set1_epi8(static_cast<char>(first >> 8)));
      const Index rest = count - first;
      p = _mm512_mask_mov_epi8(
          p, inside,
          Ops<arch::amx>::lookup_u8(entries + first, static_cast<int>(rest < 256 ? rest : 256),
                                    low));
    }
    return p;
  }
};

// P of 64 keys at these distances.
template <class Table>
LOWATT_ALWAYS_INLINE __m512i bitformer_amx_look_up(const std::uint8_t* distances,
                                                   std::uint32_t minimum,
                                                   const Table& table) noexcept {
  return table.lookup(
      _mm512_sub_epi8(_mm512_loadu_si512(distances), _mm512_set1_epi8(static_cast<char>(minimum))));
}
template <class Table>
LOWATT_ALWAYS_INLINE __m512i bitformer_amx_look_up(const std::uint16_t* distances,
                                                   std::uint32_t minimum,
                                                   const Table& table) noexcept {
  const __m512i least = _mm512_set1_epi16(static_cast<short>(minimum));
  const __m512i first = _mm512_sub_epi16(_mm512_loadu_si512(distances), least);
  const __m512i second = _mm512_sub_epi16(_mm512_loadu_si512(distances + 32), least);
  // Bytes are packed by parts of 128 bits, and brought into order after the lookup.
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m512i lower_byte = _mm512_set1_epi16(255);
  if constexpr (std::is_same_v<Table, BitformerTable>) {
    if (table.count > 255) {
      const __m512i low = _mm512_packus_epi16(_mm512_and_si512(first, lower_byte),
                                              _mm512_and_si512(second, lower_byte));
      const __m512i high =
          _mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8));
      return _mm512_permutexvar_epi64(order, table.lookup(low, high));
    }
  }
  // Entry 255 is 0: differences that are larger may be cut to it.
  const __m512i cut = _mm512_packus_epi16(_mm512_min_epu16(first, lower_byte),
                                          _mm512_min_epu16(second, lower_byte));
  return _mm512_permutexvar_epi64(order, table.lookup(cut));
}

// Which keys of tile t each of 32 rows from `first` on sees.
struct BitformerVisible {
  std::uint64_t words[32];
  LOWATT_ALWAYS_INLINE const std::uint64_t* see(const BlockArguments& block, Index first,
                                                Index count, Index t) noexcept {
    for (Index r = 0; r < count; ++r) words[r] = block.visible_word(first + r, t);
    return words;
  }
};

// Finds P of `count` rows with a tile of keys and adds it to parts of sum P, `stride` from row to
// row. `visible` is null where all rows see all keys.
template <class L, class Table, class Distance>
void bitformer_amx_weigh(Table table, Index count, const Distance* distances,
                         const std::uint32_t* minimum, const std::uint64_t* visible,
                         std::byte* weights, std::int32_t* totals, Index stride) noexcept {
  const auto weigh = [&](bool is_full) __attribute__((always_inline)) {
    const Table entries = table;
    for (Index r = 0; r < count; ++r) {
      __m512i p = bitformer_amx_look_up(distances + r * tile_keys, minimum[r], entries);
      if (!is_full) p = _mm512_maskz_mov_epi8(visible[r], p);
      _mm512_storeu_si512(weights + r * tiles::row_bytes, p);
      std::int32_t* total = totals + r * stride;
      _mm512_storeu_si512(total,
                          _mm512_dpbusd_epi32(_mm512_loadu_si512(total), p, _mm512_set1_epi8(1)));
    }
  };
  if (visible == nullptr)
    weigh(true);
  else
    weigh(false);
}

// Adds a batch to the sums of one or two tiles of rows from `first` on and of Block's columns of
// dims from `column` on. weigh(t) finds the weights of a tile before they are used.
template <class Block, class Weigh>
LOWATT_ALWAYS_INLINE void bitformer_amx_add(const BitformerBatch& batch, bool is_first, Index first,
                                            Index column, const BitformerSums& all,
                                            const std::byte* weights, Weigh&& weigh) noexcept {
  const tiles::Sums sums{
      reinterpret_cast<std::byte*>(all.sums + first * all.stride + column * value_block),
      all.stride * 4, 16 * all.stride * 4};
  if (is_first)
    tiles::clear();
  else
    Block::load(sums);
  for (Index t = 0; t < batch.count; ++t) {
    weigh(t);
    tiles::memory_barrier();
    Block::template multiply<true, true>(
        {weights + t * bitformer_amx_weight_bytes, tiles::row_bytes, tiles::bytes},
        {batch.data[t] + column * tiles::bytes, tiles::row_bytes, tiles::bytes});
    tiles::memory_barrier();
  }
  Block::store(sums);
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L, class Distance, class Table>
void bitformer_amx_accumulate_of(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const Table table(arguments);
  const BitformerWorkspace workspace(arguments);
  const BitformerSums& sums = workspace.sums;
  const Index columns = sums.dims / value_block;
  alignas(64) std::byte weights[BitformerBatch::most * bitformer_amx_weight_bytes];
  tiles::configure(block.rows < tiles::rows ? block.rows : tiles::rows, tiles::row_bytes);
  for_bitformer_batches(arguments, sums, [&](const BitformerBatch& batch, bool is_first) noexcept {
    for (Index r = 0; r < block.rows; r += 32) {
      const Index count = block.rows - r < 32 ? block.rows - r : 32;
      const auto weigh = [&](Index t) __attribute__((always_inline)) {
        BitformerVisible visible;
        const Index position = batch.position[t];
        bitformer_amx_weigh<L>(
            table, count, workspace.tile_distances<Distance>(block.rows, position) + r * tile_keys,
            sums.minimum + r, batch.is_full[t] ? nullptr : visible.see(block, r, count, position),
            weights + t * bitformer_amx_weight_bytes, sums.sums + r * sums.stride + sums.dims,
            sums.stride);
      };
      const auto none = [](Index) __attribute__((always_inline)){};
      const auto add = [&]<class Two, class One>(Two, One) __attribute__((always_inline)) {
        constexpr Index together = Two::columns;
        Index column = 0;
        if (columns >= together) {
          bitformer_amx_add<Two>(batch, is_first, r, 0, sums, weights, weigh);
          column = together;
        } else {
          bitformer_amx_add<One>(batch, is_first, r, 0, sums, weights, weigh);
          column = 1;
        }
        for (; column + together <= columns; column += together)
          bitformer_amx_add<Two>(batch, is_first, r, column, sums, weights, none);
        for (; column < columns; ++column)
          bitformer_amx_add<One>(batch, is_first, r, column, sums, weights, none);
        tiles::memory_barrier();
      };
      if (block.rows - r > 16)
        add(tiles::TwoByTwo{}, tiles::TwoByOne{});
      else
        add(tiles::OneByFour{}, tiles::OneByOne{});
    }
  });
  tiles::release();
}

template <class L, class Distance>
void bitformer_amx_accumulate(const BitformerArguments& arguments) noexcept {
  if (arguments.table_entries < 64)
    bitformer_amx_accumulate_of<L, Distance, BitformerSmallTable>(arguments);
  else
    bitformer_amx_accumulate_of<L, Distance, BitformerTable>(arguments);
}

// Whether a distance that was cut may weigh something in any row.
template <class L>
bool bitformer_amx_weighs_cut(const BitformerArguments& arguments) noexcept {
  if (!arguments.cuts_distances()) return false;
  const BitformerWorkspace workspace(arguments);
  const Index rows = arguments.block.rows;
  bool weighs = false;
  for (Index r = 0; r < rows && !weighs; ++r)
    if (arguments.weighs_cut(workspace.sums.minimum[r]))
      for_visible_tiles(arguments.block, [&](Index t, bool) noexcept {
        weighs = weighs || has_cut_distance<L>(workspace.tile_distances<std::uint8_t>(rows, t) +
                                               r * tile_keys);
      });
  return weighs;
}

template <>
inline void bitformer_accumulate<arch::amx>(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const Index kept_bytes = bitformer_kept_bytes(arguments.planes, block.head_dim);
  if (block.rows < bitformer_amx_least_rows || kept_bytes > 2 ||
      bitformer_amx_weighs_cut<arch::amx>(arguments))
    bitformer_accumulate_rows<arch::amx>(arguments);
  else if (kept_bytes == 1)
    bitformer_amx_accumulate<arch::amx, std::uint8_t>(arguments);
  else
    bitformer_amx_accumulate<arch::amx, std::uint16_t>(arguments);
}

}  // namespace lowatt

#endif
