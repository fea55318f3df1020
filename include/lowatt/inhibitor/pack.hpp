// How the Inhibitor's keys and values lie in memory at 8 bits, at 4 bits, and with keys as
// thermometer codes. Per tile of 64 keys:
//
// clang-format off
//   keys      [head_dim/4][64 keys][4 dims] u8             k8 + 128            (simd/byte_tile.hpp)
//   sums      [64 keys] i32                                of those bytes over the dims
//   greatest  [64 keys] u8                                 largest |v8| of the key's value
//   box       [2][head_dim] u8                             least and largest k8 + 128 of the tile per
//                                                          dim; each row padded to 64 dims
//   values    [value_dim/16][16 key groups][16 dims][4 keys] s8               (simd/byte_tile.hpp)
//
// At 4 bits there are k4 + 8 and v4 + 8, and two share a byte:
//
//   keys      [head_dim/8][64 keys][4 bytes]               low half: dims 0-3 of the 8, high half: 4-7
//   values    [value_dim/16][8 key groups][16 dims][4 keys]  low half: key groups 0-7 of the tile,
//                                                          high half: 8-15
//
// As thermometer codes keys have no sums and no box, and values are those of 8 bits:
//
//   keys      [row bytes][64 keys] u8                                 (simd/thermometer_tile.hpp)
// clang-format on
//
// Keys are unsigned so that |q - k| = q + k - 2 min(q, k) needs one unsigned minimum and one dot
// product with ones. Signs and magnitudes of values are derived per tile and block of queries.
// Unused slots are zero and hidden from every query. `greatest` and `box` tell which keys, and
// which tiles, cannot add anything to a row (tile.hpp).
#pragma once

#include "../quant/scale.hpp"
#include "../simd/byte_tile.hpp"
#include "../simd/thermometer_tile.hpp"

namespace lowatt {

inline constexpr Index inhibitor_box_step = 64;  // dims that a row of the box is padded to

// What the encodings differ in.
struct InhibitorWidth {
  bool is_half = false;  // two steps a byte
  int planes = 0;        // from 1 on: keys are thermometer codes of so many bit planes

  LOWATT_ALWAYS_INLINE int limit() const noexcept { return is_half ? int4_limit : int8_limit; }
  LOWATT_ALWAYS_INLINE int bias() const noexcept { return limit() + 1; }
  // Dims that lie together.
  LOWATT_ALWAYS_INLINE Index dim_step() const noexcept {
    return is_half ? 2 * key_group : key_group;
  }
  LOWATT_ALWAYS_INLINE Index stored(Index bytes) const noexcept {
    return is_half ? bytes / 2 : bytes;
  }
  LOWATT_ALWAYS_INLINE Index key_bytes(Index head_dim) const noexcept {
    return planes > 0 ? thermometer_tile_bytes(planes, head_dim)
                      : stored(key_tile_bytes(round_up(head_dim, dim_step())));
  }
  // The largest distance that there can be.
  LOWATT_ALWAYS_INLINE Index greatest_distance(Index head_dim) const noexcept {
    return planes > 0 ? planes * head_dim : 2 * limit() * head_dim;
  }
};

struct InhibitorTileLayout {
  Index key_bytes = 0, sum_bytes = 0, value_bytes = 0, box_dims = 0;

  LOWATT_ALWAYS_INLINE InhibitorTileLayout(Index head_dim, Index value_dim,
                                           InhibitorWidth width) noexcept
      : key_bytes(width.key_bytes(head_dim)),
        sum_bytes(width.planes > 0 ? 0 : tile_keys * Index{sizeof(std::int32_t)}),
        value_bytes(width.stored(value_tile_bytes(value_dim))),
        box_dims(width.planes > 0 ? 0 : round_up(head_dim, inhibitor_box_step)) {}

  LOWATT_ALWAYS_INLINE Index sums_offset() const noexcept { return key_bytes; }
  LOWATT_ALWAYS_INLINE Index greatest_offset() const noexcept { return sums_offset() + sum_bytes; }
  LOWATT_ALWAYS_INLINE Index box_offset() const noexcept { return greatest_offset() + tile_keys; }
  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept { return box_offset() + 2 * box_dims; }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return values_offset() + value_bytes; }
};

// One tile, to read.
struct InhibitorTile {
  const std::uint8_t* keys = nullptr;
  const std::int32_t* sums = nullptr;
  const std::uint8_t* greatest = nullptr;
  const std::uint8_t* least_key = nullptr;  // the box
  const std::uint8_t* largest_key = nullptr;
  const std::int8_t* values = nullptr;
  Index next = 0;  // bytes to the tile that comes after

  LOWATT_ALWAYS_INLINE InhibitorTile(const std::byte* tile,
                                     const InhibitorTileLayout& layout) noexcept
      : keys(reinterpret_cast<const std::uint8_t*>(tile)),
        sums(reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset())),
        greatest(reinterpret_cast<const std::uint8_t*>(tile + layout.greatest_offset())),
        least_key(reinterpret_cast<const std::uint8_t*>(tile + layout.box_offset())),
        largest_key(least_key + layout.box_dims),
        values(reinterpret_cast<const std::int8_t*>(tile + layout.values_offset())) {}

  // Sums and greatest values of the next tile; kernels fetch its keys and values as they go.
  LOWATT_ALWAYS_INLINE void fetch_next_scalars() const noexcept {
    const Index bytes = tile_keys * Index{sizeof *sums + sizeof *greatest};
    for (Index i = 0; i < bytes; i += 64) fetch_ahead(sums, next + i);
  }
};

// The box of a tile's first `count` keys, one at least, from their bytes.
LOWATT_ALWAYS_INLINE void inhibitor_narrow_box(std::byte* tile, const InhibitorTileLayout& layout,
                                               InhibitorWidth width, Index count) noexcept {
  const auto* keys = reinterpret_cast<const std::uint8_t*>(tile);
  auto* least = reinterpret_cast<std::uint8_t*>(tile + layout.box_offset());
  auto* largest = least + layout.box_dims;
  const Index step = width.dim_step();
  const unsigned mask = width.is_half ? 15 : 255;
  for (Index c = 0; c * tile_keys < layout.key_bytes * step / key_group; ++c) {
    const std::uint8_t* group = keys + c / step * key_group * tile_keys + c % key_group;
    const int shift = c % step < key_group ? 0 : 4;
    for (Index t = 0; t < count; ++t) {
      const auto key = static_cast<std::uint8_t>(unsigned{group[t * key_group]} >> shift & mask);
      least[c] = t == 0 || key < least[c] ? key : least[c];
      largest[c] = t == 0 || key > largest[c] ? key : largest[c];
    }
  }
}

// Makes the tokens of a tile from `first` on padding again; at least one stays.
LOWATT_ALWAYS_INLINE void inhibitor_erase(std::byte* tile, const InhibitorTileLayout& layout,
                                          InhibitorWidth width, Index first) noexcept {
  erase_tokens(tile + layout.greatest_offset(), 1, 1, first);
  if (width.planes > 0) {
    erase_tokens(tile, layout.key_bytes / tile_keys, 1, first);
  } else {
    erase_keys(tile, layout.key_bytes, first);
    erase_tokens(tile + layout.sums_offset(), 1, Index{sizeof(std::int32_t)}, first);
    inhibitor_narrow_box(tile, layout, width, first);
  }
  std::byte* values = tile + layout.values_offset();
  if (!width.is_half) {
    erase_values(values, layout.value_bytes, first);
    return;
  }
  constexpr Index half = tile_keys / 2;
  for (Index block = 0; block < layout.value_bytes; block += value_block * half)
    for (Index t = first; t < tile_keys; ++t)
      for (Index i = 0; i < value_block; ++i)
        values[block + t % half / value_group * value_group_stride + i * value_group +
               t % value_group] &= std::byte{t < half ? std::uint8_t{0xf0} : std::uint8_t{0x0f}};
}

struct InhibitorPackArguments {
  PackArguments tokens;
  InhibitorWidth width;
  float key_inverse = 0;              // 1/s of keys and queries; 0 of thermometer codes
  float value_inverse = 0;            // 1/sv
  const float* thresholds = nullptr;  // of thermometer codes, one per plane
};

// Writes key `slot` of a tile whose bytes hold two dims. What head_dim lacks to a multiple of eight
// is read too and should be zero.
LOWATT_ALWAYS_INLINE void inhibitor_scatter_half_key(const std::uint8_t* key, Index head_dim,
                                                     Index slot, std::uint8_t* tile) noexcept {
  for (Index c = 0; c < head_dim; c += 2 * key_group) {
    std::uint32_t low, high;
    __builtin_memcpy(&low, key + c, key_group);
    __builtin_memcpy(&high, key + c + key_group, key_group);
    low |= high << 4;  // no byte exceeds 15
    __builtin_memcpy(tile + c / 2 * tile_keys + slot * key_group, &low, key_group);
  }
}

// Writes value `slot` of a tile whose bytes hold two keys; the other key's half stays.
LOWATT_ALWAYS_INLINE void inhibitor_scatter_half_value(const std::int8_t* value, Index first_dim,
                                                       Index count, Index slot,
                                                       std::uint8_t* tile) noexcept {
  constexpr Index half = tile_keys / 2;
  const int shift = slot < half ? 0 : 4;
  const auto others = static_cast<std::uint8_t>(0xf0 >> shift);
  tile += slot % half / value_group * value_group_stride + slot % value_group;
  for (Index c = 0; c < count; ++c) {
    const Index dim = first_dim + c;
    std::uint8_t& byte =
        tile[dim / value_block * value_block * half + dim % value_block * value_group];
    byte = static_cast<std::uint8_t>((byte & others) | (value[c] + 8) << shift);
  }
}

// Quantises dims [first, first + count) of a row, count at most quantize_chunk; the rest of `bytes`
// is zero.
template <class L>
LOWATT_ALWAYS_INLINE void inhibitor_quantize_chunk(const float* row, Index first, Index count,
                                                   float inverse, int limit,
                                                   std::int8_t* bytes) noexcept {
  quantize_row<L>(row + first, count, inverse, bytes, limit);
  for (Index j = count; j < quantize_chunk; ++j) bytes[j] = 0;
}

// Quantises and writes one key with its sum, and widens the tile's box by it.
template <class L>
void inhibitor_pack_key(const float* key, const InhibitorPackArguments& arguments,
                        const InhibitorTileLayout& layout, Index slot, std::byte* tile) noexcept {
  using Op = Ops<L>;
  const InhibitorWidth width = arguments.width;
  const Index head_dim = arguments.tokens.head_dim;
  auto* keys = reinterpret_cast<std::uint8_t*>(tile);
  auto* least = reinterpret_cast<std::uint8_t*>(tile + layout.box_offset());
  auto* largest = least + layout.box_dims;
  alignas(64) std::int8_t bytes[quantize_chunk];
  alignas(64) std::uint8_t biased[quantize_chunk];
  const auto bias = Op::fill_u8(width.bias()), one = Op::fill_u8(1);
  auto sum = Op::zero();
  for (Index c = 0; c < head_dim; c += quantize_chunk) {
    const Index count = head_dim - c < quantize_chunk ? head_dim - c : quantize_chunk;
    inhibitor_quantize_chunk<L>(key, c, count, arguments.key_inverse, width.limit(), bytes);
    for (Index j = 0; j < quantize_chunk; j += Op::bytes)
      Op::store(biased + j, Op::add_u8(Op::load(bytes + j), bias));
    for (Index j = count; j < quantize_chunk; ++j) biased[j] = 0;
    for (Index j = 0; j < quantize_chunk; j += Op::bytes) {
      const auto dims = Op::load(biased + j);
      sum = Op::dot4_narrow(sum, dims, one);
      const bool is_first = slot == 0;
      Op::store(least + c + j, is_first ? dims : Op::min_u8(dims, Op::load(least + c + j)));
      Op::store(largest + c + j, is_first ? dims : Op::max_u8(dims, Op::load(largest + c + j)));
    }
    if (width.is_half)
      inhibitor_scatter_half_key(biased, count, slot, keys + width.stored(c * tile_keys));
    else
      scatter_key(biased, count, slot, keys + c * tile_keys);
  }
  reinterpret_cast<std::int32_t*>(tile + layout.sums_offset())[slot] = Op::reduce_add_i32(sum);
}

// Quantises and writes one value and its largest magnitude.
template <class L>
void inhibitor_pack_value(const float* value, const InhibitorPackArguments& arguments,
                          const InhibitorTileLayout& layout, Index slot, std::byte* tile) noexcept {
  using Op = Ops<L>;
  const InhibitorWidth width = arguments.width;
  const Index value_dim = arguments.tokens.value_dim;
  std::byte* values = tile + layout.values_offset();
  alignas(64) std::int8_t bytes[quantize_chunk];
  alignas(64) std::uint8_t sizes[Op::bytes];
  auto size = Op::zero();
  for (Index c = 0; c < value_dim; c += quantize_chunk) {
    const Index count = value_dim - c < quantize_chunk ? value_dim - c : quantize_chunk;
    inhibitor_quantize_chunk<L>(value, c, count, arguments.value_inverse, width.limit(), bytes);
    for (Index j = 0; j < quantize_chunk; j += Op::bytes)
      size = Op::max_u8(size, Op::absolute_s8(Op::load(bytes + j)));
    if (width.is_half)
      inhibitor_scatter_half_value(bytes, c, count, slot, reinterpret_cast<std::uint8_t*>(values));
    else
      scatter_value(bytes, c, count, slot, reinterpret_cast<std::int8_t*>(values));
  }
  Op::store(sizes, size);
  std::uint8_t greatest = 0;
  for (const std::uint8_t s : sizes) greatest = s > greatest ? s : greatest;
  reinterpret_cast<std::uint8_t*>(tile + layout.greatest_offset())[slot] = greatest;
}

template <class L>
void inhibitor_pack(const InhibitorPackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const InhibitorTileLayout layout(tokens.head_dim, tokens.value_dim, arguments.width);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    const float* key = tokens.key + i * tokens.key_stride;
    count_saturated<L>(tokens, i, arguments.key_inverse, arguments.value_inverse,
                       arguments.width.limit());
    if (arguments.width.planes > 0)
      pack_thermometer<L>(key, nullptr, tokens.head_dim, arguments.width.planes,
                          arguments.thresholds, slot, reinterpret_cast<std::uint8_t*>(tile));
    else
      inhibitor_pack_key<L>(key, arguments, layout, slot, tile);
    inhibitor_pack_value<L>(tokens.value + i * tokens.value_stride, arguments, layout, slot, tile);
  }
}

}  // namespace lowatt
