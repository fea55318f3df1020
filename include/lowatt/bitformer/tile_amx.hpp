// Bitformer at level amx: both products on tile registers. The sums are those of kernel.hpp. For a
// block of up to 64 queries:
//
//   distances  q . k with one tile of 64 keys, q in {1, -1}, k in {0, 1}: how many bits differ less
//              how many of q are 1. One product holds two keys: the second one has 128 for 1 and
//              finds 2 (or 64) times q, so that a 32-bit sum is x + 256 x' (or x + 8192 x').
//   P          by table lookup, 32 rows of 64 keys at a time: left operands
//   sums       += P . v for a batch of tiles of keys, in tile registers; the right operand is the
//              values as they lie
//
// Lives on   products (16 cycles for 16 x 16 pairs and 64 bits or keys), tile stores (16 cycles for
//            two distances of 16 x 16 pairs) and vector code: expanding the bits of keys (one
//            vpmultishiftqb, one vpand and a store for 64 bits, once for all rows of a block),
//            splitting products into distances, table lookups. Products can run beside vector code,
//            tile stores cannot. Doing one before the other by hand (splitting the products before
//            last, weighing a tile ahead) was no faster, or slower.
// Layout     pack.hpp. Bits stay bits in memory, 512 of a key are expanded at a time.
// Overflow   a product of two keys holds x < 256 for distances of a byte, else x < 8192: rows of
//            more bits take the way of kernel.hpp.
// Tails      rows up to a multiple of 16 hold anything and are not written out; bits up to a
//            multiple of 64 have q = 0 against anything; hidden keys get P = 0.
// Blocks of few rows do not repay expanding: they take the way of kernel.hpp.
#pragma once

#include "workspace_amx.hpp"

#if LOWATT_HAS_TILES

#include "../simd/ops_amx.hpp"
#include "../simd/tiles_amx.hpp"

namespace lowatt {

// Measured at 64 and 256 bits of a row: 8 rows lose by tiles, 16 gain, 12 are about even.
inline constexpr Index bitformer_amx_least_rows = 12;

LOWATT_ALWAYS_INLINE bool bitformer_takes_tiles(const BitformerArguments& arguments) noexcept {
  return arguments.block.rows >= bitformer_amx_least_rows &&
         arguments.planes * arguments.block.head_dim <= bitformer_amx_most_bits;
}

// How a product holds two keys, by the width of distances: the second one's from bit `shift` on. Of
// keys 4n to 4n + 3, `order` says which ones are in the first and in the second column of products.
template <class Distance>
struct BitformerFields;

// For eight bytes of a right operand, four bits each of two keys among eight, the first bits that
// vpmultishiftqb takes from the 64 bits of the eight: `half` of the bits of keys `key` and
// `key` + 4. The bit wanted is the lowest of eight, or the highest.
LOWATT_ALWAYS_INLINE constexpr std::uint64_t bitformer_first_bits(int key, int half,
                                                                  bool is_highest) noexcept {
  std::uint64_t bytes = 0;
  for (int i = 0; i < 8; ++i) {
    const int bit = (key + i / 4 * 4) * 8 + half * 4 + i % 4 - (is_highest ? 7 : 0);
    bytes |= static_cast<std::uint64_t>(bit & 63) << 8 * i;
  }
  return bytes;
}

template <>
struct BitformerFields<std::uint8_t> {
  static constexpr int shift = 8;
  static constexpr int order[4] = {0, 1, 2, 3};
  static constexpr std::uint32_t ones = 0x01010101u;  // adds 1 to every distance
};
template <>
struct BitformerFields<std::uint16_t> {
  static constexpr int shift = 13;
  static constexpr int order[4] = {0, 2, 1, 3};
  static constexpr std::uint32_t ones = 0x2001u;
};

// Encodes the block's queries as left operands and clears its statistic and sums.
template <class L, class Distance>
void bitformer_amx_prepare(const BitformerArguments& arguments) noexcept {
  using Fields = BitformerFields<Distance>;
  const BlockArguments& block = arguments.block;
  const BitformerAmxWorkspace workspace(arguments);
  const __m512i one = _mm512_set1_epi8(1), minus_one = _mm512_set1_epi8(-1);
  constexpr char second = 1 << (Fields::shift - 7);  // keys have 2^7
  const __m512i many = _mm512_set1_epi8(second), minus_many = _mm512_set1_epi8(-second);
  for (Index r = 0; r < block.rows; ++r) {
    encode_bits<L>(block.query + r * block.query_stride, nullptr, block.head_dim, arguments.planes,
                   arguments.thresholds,
                   [&](Index first, Index count, std::uint64_t word) noexcept {
                     if (count == 8)
                       __builtin_memcpy(workspace.packed + first, &word, sizeof word);
                     else
                       for (Index i = 0; i < count; ++i, word >>= 8)
                         workspace.packed[first + i] = static_cast<std::uint8_t>(word);
                   });
    std::byte* step = workspace.query + r / 16 * workspace.steps * workspace.query_step_bytes +
                      r % 16 * tiles::row_bytes;
    Index set = 0;
    for (Index i = 0; i < workspace.row_bytes; i += 8, step += workspace.query_step_bytes) {
      const Index rest = workspace.row_bytes - i;
      const std::uint64_t used = ~std::uint64_t{0} >> (rest < 8 ? 64 - rest * 8 : 0);
      std::uint64_t word;
      __builtin_memcpy(&word, workspace.packed + i, sizeof word);
      word &= used;
      set += __builtin_popcountll(word);
      _mm512_storeu_si512(step,
                          _mm512_maskz_mov_epi8(used, _mm512_mask_mov_epi8(one, word, minus_one)));
      _mm512_storeu_si512(
          step + tiles::bytes,
          _mm512_maskz_mov_epi8(used, _mm512_mask_mov_epi8(many, word, minus_many)));
    }
    workspace.bias[r] = static_cast<std::uint32_t>(set) * Fields::ones;
    workspace.sums.minimum[r] = UINT32_MAX;
  }
  workspace.sums.clear(block.rows);
  *workspace.sums.state = {};
}

// Expands `count` bytes of the bits of 64 keys to right operands: bit i of the key in byte j of
// eight becomes 1 or 128 in one of four operands, by the key's place among four.
template <class L, class Distance>
void bitformer_amx_expand(const std::byte* bits, Index count, std::byte* keys) noexcept {
  using Fields = BitformerFields<Distance>;
  __m512i first_bit[4][2];
  LOWATT_UNROLL
  for (int group = 0; group < 4; ++group) {
    LOWATT_UNROLL
    for (int half = 0; half < 2; ++half)
      first_bit[group][half] = _mm512_set1_epi64(
          static_cast<long long>(bitformer_first_bits(Fields::order[group], half, group % 2 == 1)));
  }
  const __m512i value[2] = {_mm512_set1_epi8(1), _mm512_set1_epi8(-128)};
  for (Index s = 0; s < count; ++s, bits += tile_keys) {
    const __m512i eight_bits = _mm512_loadu_si512(bits);
    std::byte* out = keys + s / 8 * BitformerAmxWorkspace::key_step_bytes + s % 8 * 128;
    LOWATT_UNROLL
    for (int group = 0; group < 4; ++group) {
      LOWATT_UNROLL
      for (int half = 0; half < 2; ++half)
        _mm512_storeu_si512(
            out + group * tiles::bytes + half * tiles::row_bytes,
            _mm512_and_si512(_mm512_multishift_epi64_epi8(first_bit[group][half], eight_bits),
                             value[group % 2]));
    }
  }
}

// Products of one or two tiles of rows from `row_tile` on with the expanded keys, `steps` steps of
// depth from `first` on.
template <class Block>
LOWATT_ALWAYS_INLINE void bitformer_amx_multiply(const BitformerAmxWorkspace& workspace,
                                                 Index row_tile, Index first, Index steps,
                                                 std::byte* products) noexcept {
  const Index query_tile_bytes = workspace.steps * workspace.query_step_bytes;
  const tiles::Sums sums{products, 128, 16 * 128};
  if (first == 0)
    tiles::clear();
  else
    Block::load(sums);
  const std::byte* query =
      workspace.query + row_tile * query_tile_bytes + first * workspace.query_step_bytes;
  const std::byte* keys = workspace.keys;
  for (Index s = 0; s < steps; ++s) {
    for (Index i = 0; i < 2; ++i)
      Block::template multiply<true>({query + i * tiles::bytes, tiles::row_bytes, query_tile_bytes},
                                     {keys + i * tiles::bytes, tiles::row_bytes, 2 * tiles::bytes});
    query += workspace.query_step_bytes;
    keys += workspace.key_step_bytes;
  }
  Block::store(sums);
}

// Rows' minima by slot, and distances in memory, from the products of a row: 64 bytes, or those of
// even keys and those of odd ones as 32 numbers of 16 bits each.
template <class Distance>
struct BitformerRow;
template <>
struct BitformerRow<std::uint8_t> {
  static constexpr Index registers = 1;
  static LOWATT_ALWAYS_INLINE void split(const std::byte* products, std::uint32_t bias,
                                         __m512i* out) noexcept {
    const __m512i low = _mm512_loadu_si512(products);
    const __m512i high = _mm512_loadu_si512(products + 64);
    out[0] = _mm512_add_epi32(_mm512_add_epi32(low, _mm512_slli_epi32(high, 16)),
                              _mm512_set1_epi32(static_cast<int>(bias)));
  }
  static LOWATT_ALWAYS_INLINE __m512i min(__m512i a, __m512i b) noexcept {
    return _mm512_min_epu8(a, b);
  }
  static LOWATT_ALWAYS_INLINE void hide(std::uint64_t visible, __m512i* distances) noexcept {
    distances[0] = _mm512_mask_mov_epi8(_mm512_set1_epi8(-1), visible, distances[0]);
  }
  // P in the order of keys.
  template <class Table>
  static LOWATT_ALWAYS_INLINE __m512i weigh(const std::uint8_t* distances, std::uint32_t minimum,
                                            const Table& table) noexcept {
    return table.lookup(_mm512_sub_epi8(_mm512_loadu_si512(distances),
                                        _mm512_set1_epi8(static_cast<char>(minimum))));
  }
};
template <>
struct BitformerRow<std::uint16_t> {
  static constexpr Index registers = 2;
  static LOWATT_ALWAYS_INLINE void split(const std::byte* products, std::uint32_t bias,
                                         __m512i* out) noexcept {
    LOWATT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m512i both = _mm512_add_epi32(_mm512_loadu_si512(products + i * 64),
                                            _mm512_set1_epi32(static_cast<int>(bias)));
      // The upper one moves from bit 13 to bit 16.
      const __m512i upper = _mm512_and_si512(_mm512_slli_epi32(both, 3), _mm512_set1_epi32(-65536));
      out[i] = _mm512_or_si512(upper, _mm512_and_si512(both, _mm512_set1_epi32(8191)));
    }
  }
  static LOWATT_ALWAYS_INLINE __m512i min(__m512i a, __m512i b) noexcept {
    return _mm512_min_epu16(a, b);
  }
  static LOWATT_ALWAYS_INLINE void hide(std::uint64_t visible, __m512i* distances) noexcept {
    const __m512i farthest = _mm512_set1_epi8(-1);
    constexpr std::uint64_t even = 0x5555555555555555u;
    for (int i = 0; i < 2; ++i)
      distances[i] = _mm512_mask_mov_epi16(
          farthest, static_cast<__mmask32>(_pext_u64(visible, even << i)), distances[i]);
  }
  template <class Table>
  static LOWATT_ALWAYS_INLINE __m512i weigh(const std::uint16_t* distances, std::uint32_t minimum,
                                            const Table& table) noexcept {
    const __m512i least = _mm512_set1_epi16(static_cast<short>(minimum));
    const __m512i even = _mm512_sub_epi16(_mm512_loadu_si512(distances), least);
    const __m512i odd = _mm512_sub_epi16(_mm512_loadu_si512(distances + 32), least);
    // Where lower_byte is set the second, else the third operand.
    const __m512i lower_byte = _mm512_set1_epi16(255);
    return table.lookup(
        _mm512_ternarylogic_epi32(lower_byte, even, _mm512_slli_epi16(odd, 8), 0xca),
        _mm512_ternarylogic_epi32(lower_byte, _mm512_srli_epi16(even, 8), odd, 0xca));
  }
};

// The table of probabilities: fewer than 64 entries are kept in a register.
struct BitformerSmallTable {
  __m512i entries;

  LOWATT_ALWAYS_INLINE explicit BitformerSmallTable(const BitformerArguments& arguments) noexcept
      : entries(_mm512_loadu_si512(arguments.table)) {}
  // Of differences of 8 bits; of 16, by bytes.
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i low) const noexcept {
    return _mm512_permutexvar_epi8(_mm512_min_epu8(low, _mm512_set1_epi8(63)), entries);
  }
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i low, __m512i high) const noexcept {
    return _mm512_maskz_mov_epi8(_mm512_testn_epi8_mask(high, high), lookup(low));
  }
};
struct BitformerTable {
  const std::uint8_t* entries;
  Index count;

  LOWATT_ALWAYS_INLINE explicit BitformerTable(const BitformerArguments& arguments) noexcept
      : entries(arguments.table), count(arguments.table_entries) {}
  LOWATT_ALWAYS_INLINE __m512i lookup(__m512i low) const noexcept {
    return Ops<arch::amx>::lookup_u8(entries, static_cast<int>(count), low);
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

// Splits products of `count` rows with a tile into distances, and takes slots' minima. `visible` is
// null where all rows see all keys; `ahead` registers from the distances lie those of the next
// tile.
template <class L, class Distance>
void bitformer_amx_split(const std::byte* products, const std::uint32_t* bias,
                         const std::uint64_t* visible, Index count, Index ahead,
                         Distance* distances, Distance* minimum) noexcept {
  using Row = BitformerRow<Distance>;
  const auto split = [&](bool is_full) __attribute__((always_inline)) {
    auto* out = reinterpret_cast<__m512i*>(distances);
    auto* least = reinterpret_cast<__m512i*>(minimum);
    for (Index r = 0; r < count; ++r) {
      __m512i row[Row::registers];
      Row::split(products + r * 128, bias[r], row);
      if (!is_full) Row::hide(visible[r], row);
      LOWATT_UNROLL
      for (Index i = 0; i < Row::registers; ++i, ++out, ++least) {
        __builtin_prefetch(out + ahead, 1);
        _mm512_storeu_si512(out, row[i]);
        _mm512_store_si512(least, Row::min(_mm512_load_si512(least), row[i]));
      }
    }
  };
  if (visible == nullptr)
    split(true);
  else
    split(false);
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

// The row statistic: distances with all visible tiles, kept, and their minimum over visible keys.
template <class L, class Distance>
void bitformer_amx_statistic(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const BitformerAmxWorkspace workspace(arguments);
  const Index row_tiles = (block.rows + 15) / 16;
  alignas(64) Distance minimum[bitformer_most_rows / sizeof(Distance)][tile_keys];
  for (Index r = 0; r < row_tiles * 16; ++r)
    for (Index j = 0; j < tile_keys; ++j) minimum[r][j] = static_cast<Distance>(~Distance{0});

  tiles::configure(block.rows < tiles::rows ? block.rows : tiles::rows, tiles::row_bytes);
  for_visible_tiles(block, [&](Index t, bool is_full) noexcept {
    constexpr Index most_steps = BitformerAmxWorkspace::most_steps;
    const std::byte* bits = block.tiles.tile(t);
    for (Index first = 0; first < workspace.steps; first += most_steps) {
      const Index steps =
          workspace.steps - first < most_steps ? workspace.steps - first : most_steps;
      const Index rest = workspace.row_bytes - first * 8;
      bitformer_amx_expand<L, Distance>(bits + first * 8 * tile_keys,
                                        rest < steps * 8 ? rest : steps * 8, workspace.keys);
      tiles::memory_barrier();
      for (Index row_tile = 0; row_tile < row_tiles; row_tile += 2) {
        const Index r = row_tile * 16;
        std::byte* products = workspace.products + r * 128;
        if (row_tile + 1 < row_tiles)
          bitformer_amx_multiply<tiles::TwoByTwo>(workspace, row_tile, first, steps, products);
        else
          bitformer_amx_multiply<tiles::OneByTwo>(workspace, row_tile, first, steps, products);
        tiles::memory_barrier();
        if (first + steps < workspace.steps) continue;
        const Index count = block.rows - r < 32 ? block.rows - r : 32;
        constexpr Index register_keys = 64 / static_cast<Index>(sizeof(Distance));
        BitformerVisible visible;
        bitformer_amx_split<L>(
            products, workspace.bias + r, is_full ? nullptr : visible.see(block, r, count, t),
            count, row_tiles * 16 * tile_keys / register_keys,
            workspace.tile_distances<Distance>(row_tiles * 16, r, t), minimum[r]);
      }
    }
  });
  tiles::release();

  for (Index r = 0; r < block.rows; ++r) {
    const Distance least = least_distance<L>(minimum[r]);
    if (least < workspace.sums.minimum[r]) workspace.sums.minimum[r] = least;
  }
}

// Finds P of `count` rows with a tile of keys and adds it to parts of sum P, `stride` from row to
// row. `visible` is null where all rows see all keys.
template <class L, class Table, class Distance>
void bitformer_amx_weigh(Table table, Index count, const Distance* distances,
                         const std::uint32_t* minimum, const std::uint64_t* visible,
                         std::byte* weights, std::int32_t* totals, Index stride) noexcept {
  const auto weigh = [&](bool is_full) __attribute__((always_inline)) {
    const Table entries = table;
    for (Index r = 0; r < count; ++r) {
      __m512i p = BitformerRow<Distance>::weigh(distances + r * tile_keys, minimum[r], entries);
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
                                            Index column, const BitformerAmxWorkspace& workspace,
                                            Weigh&& weigh) noexcept {
  const BitformerSums& all = workspace.sums;
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
        {workspace.weights + t * workspace.weight_bytes, tiles::row_bytes, tiles::bytes},
        {batch.values[t] + column * tiles::bytes, tiles::row_bytes, tiles::bytes});
    tiles::memory_barrier();
  }
  Block::store(sums);
}

// Adds the tiles [tile_begin, tile_end) to the block's sums.
template <class L, class Distance, class Table>
void bitformer_amx_accumulate_of(const BitformerArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const Table table(arguments);
  const BitformerAmxWorkspace workspace(arguments);
  const BitformerSums& sums = workspace.sums;
  const Index columns = sums.dims / value_block;
  tiles::configure(block.rows < tiles::rows ? block.rows : tiles::rows, tiles::row_bytes);
  for_bitformer_batches(arguments, sums, [&](const BitformerBatch& batch, bool is_first) noexcept {
    for (Index r = 0; r < block.rows; r += 32) {
      const Index count = block.rows - r < 32 ? block.rows - r : 32;
      const auto weigh = [&](Index t) __attribute__((always_inline)) {
        BitformerVisible visible;
        const Index position = batch.position[t];
        bitformer_amx_weigh<L>(
            table, count, workspace.tile_distances<Distance>(round_up(block.rows, 16), r, position),
            sums.minimum + r, batch.is_full[t] ? nullptr : visible.see(block, r, count, position),
            workspace.weights + t * workspace.weight_bytes, sums.sums + r * sums.stride + sums.dims,
            sums.stride);
      };
      const auto none = [](Index) __attribute__((always_inline)){};
      const auto add = [&]<class Two, class One>(Two, One) __attribute__((always_inline)) {
        constexpr Index together = Two::columns;
        Index column = 0;
        if (columns >= together)
          bitformer_amx_add<Two>(batch, is_first, r, 0, workspace, weigh), column = together;
        else
          bitformer_amx_add<One>(batch, is_first, r, 0, workspace, weigh), column = 1;
        for (; column + together <= columns; column += together)
          bitformer_amx_add<Two>(batch, is_first, r, column, workspace, none);
        for (; column < columns; ++column)
          bitformer_amx_add<One>(batch, is_first, r, column, workspace, none);
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

template <>
inline void bitformer_prepare<arch::amx>(const BitformerArguments& arguments) noexcept {
  if (!bitformer_takes_tiles(arguments)) return bitformer_prepare_rows<arch::amx>(arguments);
  with_bitformer_distance(arguments, [&]<class Distance>() noexcept {
    if constexpr (sizeof(Distance) < 4) bitformer_amx_prepare<arch::amx, Distance>(arguments);
  });
}
template <>
inline void bitformer_statistic<arch::amx>(const BitformerArguments& arguments) noexcept {
  if (!bitformer_takes_tiles(arguments)) return bitformer_statistic_rows<arch::amx>(arguments);
  with_bitformer_distance(arguments, [&]<class Distance>() noexcept {
    if constexpr (sizeof(Distance) < 4) bitformer_amx_statistic<arch::amx, Distance>(arguments);
  });
}
template <>
inline void bitformer_accumulate<arch::amx>(const BitformerArguments& arguments) noexcept {
  if (!bitformer_takes_tiles(arguments)) return bitformer_accumulate_rows<arch::amx>(arguments);
  with_bitformer_distance(arguments, [&]<class Distance>() noexcept {
    if constexpr (sizeof(Distance) < 4) bitformer_amx_accumulate<arch::amx, Distance>(arguments);
  });
}

}  // namespace lowatt

#endif
