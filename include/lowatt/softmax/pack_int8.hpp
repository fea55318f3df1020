// How softmax's keys and values lie in memory at int8. Per tile of 64 keys (simd/byte_tile.hpp):
//
//   keys    [head_dim/4][64 keys][4 dims] u8                 k8 + 128
//   values  [value_dim/16][16 key groups][16 dims][4 keys]   v8, s8
//
// The offset of 128 makes keys the unsigned side of a dot product at every level: vpdpbusd and
// tdpbsud take no two signed ones alike. It adds 128 * sum(q8) to all scores of a query. head_dim
// is padded so that equal steps of at most 64 dims cover it, each a tile register of AMX; what keys
// hold there meets zeros of the query.
#pragma once

#include "../quant/scale.hpp"
#include "../simd/byte_tile.hpp"
#include "../simd/float_tile.hpp"

namespace lowatt {

struct SoftmaxInt8Layout {
  static constexpr Index keys_offset = 0;
  static constexpr Index most_step = 64;
  Index head_dim = 0, steps = 0, step = 0;  // head_dim is covered by `steps` times `step` dims
  Index value_stride = 0;                   // in elements

  LOWATT_ALWAYS_INLINE SoftmaxInt8Layout(Index head_dim_, Index value_dim) noexcept
      : head_dim(head_dim_),
        steps((head_dim_ + most_step - 1) / most_step),
        step(round_up((head_dim_ + steps - 1) / steps, key_group)),
        value_stride(round_up(value_dim, value_block)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept { return steps * step * tile_keys; }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    return values_offset() + value_stride * tile_keys;
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    erase_keys(tile, values_offset(), first);
    erase_values(tile + values_offset(), value_stride * tile_keys, first);
  }
};

struct SoftmaxInt8PackArguments {
  PackArguments tokens;
  float key_inverse = 0;    // 1/sk
  float value_inverse = 0;  // 1/sv
};

template <class L>
void softmax_int8_pack(const SoftmaxInt8PackArguments& arguments) noexcept {
  const PackArguments& tokens = arguments.tokens;
  const SoftmaxInt8Layout layout(tokens.head_dim, tokens.value_dim);
  alignas(64) std::int8_t bytes[quantize_chunk];
  std::uint8_t biased[quantize_chunk];  // 0 where head_dim lacks to a multiple of four
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    count_saturated<L>(tokens, i, arguments.key_inverse, arguments.value_inverse, int8_limit);
    for (Index c = 0; c < tokens.head_dim; c += quantize_chunk) {
      const Index rest = tokens.head_dim - c;
      const Index count = rest < quantize_chunk ? rest : quantize_chunk;
      quantize_row<L>(tokens.key + i * tokens.key_stride + c, count, arguments.key_inverse, bytes);
      for (Index j = 0; j < quantize_chunk; ++j)
        biased[j] = j < count ? static_cast<std::uint8_t>(bytes[j] + 128) : std::uint8_t{0};
      scatter_key(biased, count, slot, reinterpret_cast<std::uint8_t*>(tile) + c * tile_keys);
    }
    pack_value<L>(tokens.value + i * tokens.value_stride, tokens.value_dim, arguments.value_inverse,
                  slot, reinterpret_cast<std::int8_t*>(tile + layout.values_offset()));
  }
}

// The tile's values in float32, as [64][value_stride] in `scratch`; its keys are left out.
template <class L>
FloatTile expand_tile(const SoftmaxInt8Layout& layout, const std::byte* tile,
                      float* scratch) noexcept {
  const auto* words = reinterpret_cast<const std::uint32_t*>(tile + layout.values_offset());
  for (Index c = 0; c < layout.value_stride; c += value_block)
    for (Index j = 0; j < tile_keys; j += value_group, words += value_block) {
      float* values = scratch + j * layout.value_stride + c;
      for (Index b = 0; b < value_group; ++b)
        for (Index i = 0; i < value_block; ++i)
          values[b * layout.value_stride + i] =
              static_cast<float>(static_cast<std::int32_t>(words[i] << (24 - 8 * b)) >> 24);
    }
  return {nullptr, scratch, 0};
}

// Numbers of float32 that an expanded tile takes.
LOWATT_ALWAYS_INLINE Index expanded_size(const SoftmaxInt8Layout& layout) noexcept {
  return tile_keys * layout.value_stride;
}

}  // namespace lowatt
