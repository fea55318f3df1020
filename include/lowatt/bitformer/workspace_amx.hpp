// What Bitformer keeps between its phases at level amx (tile_amx.hpp), and how much memory a block
// of queries needs at any level. No instructions of AMX: the attention layer measures workspaces
// with it.
#pragma once

#include "kernel.hpp"

namespace lowatt {

// Two distances share 32 bits of a product: up to this many bits of a row.
inline constexpr Index bitformer_amx_most_bits = 8191;

// It takes the place of BitformerWorkspace.
struct BitformerAmxWorkspace {
  // 64 bits of a row make one step of depth; the operands of so many are expanded at a time.
  static constexpr Index most_steps = 8;
  static constexpr Index query_step_bytes = 2 * 1024;  // of 16 rows
  static constexpr Index key_step_bytes = 4 * 1024;    // of 64 keys
  static constexpr Index weight_bytes = 2 * 1024;      // of 32 rows and 64 keys

  WorkspaceCutter cutter;
  BitformerSums sums;
  Index rows = 0, row_bytes = 0, steps = 0;
  std::uint8_t* packed = nullptr;  // [row_bytes], a row's bits, then room for eight bytes
  std::byte* query = nullptr;      // [rows/16][steps][2 weights][16 rows][64 bits] s8
  std::uint32_t* bias = nullptr;   // [rows]
  std::byte* keys = nullptr;       // [most_steps][4 key groups][16][16 keys][4 bits] u8
  std::byte* products = nullptr;   // [rows][2][16] i32, each with two keys
  std::byte* weights = nullptr;    // [batch][32 rows][64 keys] u8
  std::byte* distances = nullptr;  // [tiles][rows][64], u8 or u16; the last array

  LOWATT_ALWAYS_INLINE BitformerAmxWorkspace(std::byte* base, int planes, Index head_dim,
                                             Index value_dim) noexcept
      : cutter{base},
        sums(cutter, bitformer_query_block(planes, head_dim), value_dim),
        rows(bitformer_query_block(planes, head_dim)),
        row_bytes(bit_row_bytes(planes, head_dim)),
        steps((row_bytes + 7) / 8),
        packed(cutter.take<std::uint8_t>(row_bytes + 8)),
        query(cutter.take<std::byte>(rows / 16 * steps * query_step_bytes)),
        bias(cutter.take<std::uint32_t>(rows)),
        keys(cutter.take<std::byte>((steps < most_steps ? steps : most_steps) * key_step_bytes)),
        products(cutter.take<std::byte>(rows * 128)),
        weights(cutter.take<std::byte>(BitformerBatch::most * weight_bytes)),
        distances(cutter.take<std::byte>(0)) {}
  LOWATT_ALWAYS_INLINE explicit BitformerAmxWorkspace(const BitformerArguments& arguments) noexcept
      : BitformerAmxWorkspace(arguments.block.workspace, arguments.planes, arguments.block.head_dim,
                              arguments.block.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
  // Distances of row `row` of so many with the keys of tile t.
  template <class T>
  LOWATT_ALWAYS_INLINE T* tile_distances(Index of_rows, Index row, Index t) const noexcept {
    return reinterpret_cast<T*>(distances) + (t * of_rows + row) * tile_keys;
  }
};

// Bytes of workspace for blocks of a head's queries against so many keys, at any level.
LOWATT_ALWAYS_INLINE Index bitformer_workspace_bytes(int planes, Index head_dim, Index value_dim,
                                                     Index queries, Index keys) noexcept {
  // Distances need as many rows as a block can have, those that fill a tile register included.
  const Index block = bitformer_query_block(planes, head_dim);
  const Index rows = queries < block ? round_up(queries, queries > 1 ? 16 : 1) : block;
  Index bytes = BitformerWorkspace(nullptr, planes, head_dim, value_dim).bytes();
  if (planes * head_dim <= bitformer_amx_most_bits) {
    const Index amx_bytes = BitformerAmxWorkspace(nullptr, planes, head_dim, value_dim).bytes();
    bytes = bytes > amx_bytes ? bytes : amx_bytes;
  }
  return bytes + rows * round_up(keys, tile_keys) * bit_distance_bytes(planes, head_dim);
}

}  // namespace lowatt
