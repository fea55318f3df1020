// How softmax's keys and values lie in memory at 16 bits, rounded to nearest even. Per tile of 64
// keys:
//
//   nonfinite  u64, padded to 64 bytes                       bit j: the value of key j holds NaN or
//                                                            infinity, once it is rounded
//   f16:   keys    [head_dim][64 keys]
//          values  [64 keys][value_dim]                      rows padded to 16 dims
//   bf16:  keys    [head_dim/2][64 keys][2 dims]
//          values  [value_dim/16][32 pairs of keys][16 dims][2 keys]
//
// bf16 lies as operand B of an AMX product needs it: 16 rows of keys at a stride of 256 bytes and
// 16 rows of values (1 KiB) are a tile register. head_dim is padded with zeros so that equal steps
// of at most 32 dims cover it; value_dim to a multiple of 16.
#pragma once

#include "../core/half.hpp"
#include "../simd/float_tile.hpp"

namespace lowatt {

inline constexpr Index half_pair = 2;  // numbers of 16 bits that an AMX product adds up at once

struct SoftmaxF16Layout {
  static constexpr Index keys_offset = 64;
  Index head_dim = 0, value_stride = 0;  // value_stride in elements

  LOWATT_ALWAYS_INLINE SoftmaxF16Layout(Index head_dim_, Index value_dim) noexcept
      : head_dim(head_dim_), value_stride(round_up(value_dim, 16)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept {
    return keys_offset + head_dim * tile_keys * Index{sizeof(std::uint16_t)};
  }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    return values_offset() + tile_keys * value_stride * Index{sizeof(std::uint16_t)};
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    erase_bits(tile, first);
    erase_tokens(tile + keys_offset, head_dim, Index{sizeof(std::uint16_t)}, first);
    erase_tokens(tile + values_offset(), 1, value_stride * Index{sizeof(std::uint16_t)}, first);
  }
};

struct SoftmaxBf16Layout {
  static constexpr Index keys_offset = 64;
  static constexpr Index most_step = 32;
  static constexpr Index value_block = 16;
  static constexpr Index value_block_bytes = value_block * tile_keys * 2;
  Index head_dim = 0, steps = 0, step = 0;  // head_dim is covered by `steps` times `step` dims
  Index value_stride = 0;                   // in elements

  LOWATT_ALWAYS_INLINE SoftmaxBf16Layout(Index head_dim_, Index value_dim) noexcept
      : head_dim(head_dim_),
        steps((head_dim_ + most_step - 1) / most_step),
        step(round_up((head_dim_ + steps - 1) / steps, half_pair)),
        value_stride(round_up(value_dim, value_block)) {}

  LOWATT_ALWAYS_INLINE Index values_offset() const noexcept {
    return keys_offset + steps * step * tile_keys * Index{sizeof(std::uint16_t)};
  }
  LOWATT_ALWAYS_INLINE Index bytes() const noexcept {
    return values_offset() + value_stride * tile_keys * Index{sizeof(std::uint16_t)};
  }
  LOWATT_ALWAYS_INLINE void erase(std::byte* tile, Index first) const noexcept {
    constexpr Index bytes = sizeof(std::uint16_t);
    erase_bits(tile, first);
    erase_tokens(tile + keys_offset, steps * step / half_pair, half_pair * bytes, first);
    erase_tokens_together(tile + values_offset(), value_stride / value_block, half_pair,
                          value_block, bytes, first);
  }
};

// Notes in a tile's first word whether the value at `slot` holds NaN or infinity.
LOWATT_ALWAYS_INLINE void mark_nonfinite(std::byte* tile, Index slot, bool is_nonfinite) noexcept {
  std::uint64_t word;
  __builtin_memcpy(&word, tile, sizeof word);
  word &= ~(std::uint64_t{1} << slot);
  word |= std::uint64_t{is_nonfinite} << slot;
  __builtin_memcpy(tile, &word, sizeof word);
}

// Rounds a row to half precision.
template <class L>
void round_to_f16(const float* x, Index count, std::uint16_t* out) noexcept {
  using Op = Ops<L>;
  Index i = 0;
  for (; i + Op::lanes <= count; i += Op::lanes)
    Op::store_f16(out + i, Op::Float::load_unaligned(x + i));
  for (; i < count; ++i) out[i] = f16_from_float(x[i]);
}

template <class L>
void softmax_f16_pack(const PackArguments& tokens) noexcept {
  constexpr Index chunk = 64;
  const SoftmaxF16Layout layout(tokens.head_dim, tokens.value_dim);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    auto* keys = reinterpret_cast<std::uint16_t*>(tile + SoftmaxF16Layout::keys_offset) + slot;
    const float* key = tokens.key + i * tokens.key_stride;
    for (Index first = 0; first < tokens.head_dim; first += chunk) {
      std::uint16_t rounded[chunk];
      const Index rest = tokens.head_dim - first, count = rest < chunk ? rest : chunk;
      round_to_f16<L>(key + first, count, rounded);
      for (Index c = 0; c < count; ++c) keys[(first + c) * tile_keys] = rounded[c];
    }
    auto* values = reinterpret_cast<std::uint16_t*>(tile + layout.values_offset()) +
                   slot * layout.value_stride;
    round_to_f16<L>(tokens.value + i * tokens.value_stride, tokens.value_dim, values);
    bool is_nonfinite = false;
    for (Index c = 0; c < tokens.value_dim; ++c) is_nonfinite |= (values[c] & 0x7c00u) == 0x7c00u;
    mark_nonfinite(tile, slot, is_nonfinite);
  }
}

template <class L>
void softmax_bf16_pack(const PackArguments& tokens) noexcept {
  constexpr Index block = SoftmaxBf16Layout::value_block;
  const SoftmaxBf16Layout layout(tokens.head_dim, tokens.value_dim);
  for (Index i = 0; i < tokens.count; ++i) {
    const Index slot = (tokens.first + i) % tile_keys;
    std::byte* tile = tokens.tile((tokens.first + i) / tile_keys);
    auto* keys = reinterpret_cast<std::uint16_t*>(tile + SoftmaxBf16Layout::keys_offset);
    const float* key = tokens.key + i * tokens.key_stride;
    for (Index c = 0; c < tokens.head_dim; ++c)
      keys[(c / half_pair * tile_keys + slot) * half_pair + c % half_pair] =
          bf16_from_float(key[c]);
    auto* values = reinterpret_cast<std::uint16_t*>(tile + layout.values_offset()) +
                   slot / half_pair * block * half_pair + slot % half_pair;
    const float* value = tokens.value + i * tokens.value_stride;
    bool is_nonfinite = false;
    for (Index c = 0; c < tokens.value_dim; ++c) {
      const std::uint16_t rounded = bf16_from_float(value[c]);
      values[c / block * block * tile_keys + c % block * half_pair] = rounded;
      is_nonfinite |= (rounded & 0x7f80u) == 0x7f80u;
    }
    mark_nonfinite(tile, slot, is_nonfinite);
  }
}

LOWATT_ALWAYS_INLINE std::uint64_t nonfinite_word(const std::byte* tile) noexcept {
  std::uint64_t word;
  __builtin_memcpy(&word, tile, sizeof word);
  return word;
}

// The tile in float32, as [head_dim][64] keys and [64][value_stride] values in `scratch`.
template <class L>
FloatTile expand_tile(const SoftmaxF16Layout& layout, const std::byte* tile,
                      float* scratch) noexcept {
  using Op = Ops<L>;
  const auto* half = reinterpret_cast<const std::uint16_t*>(tile + SoftmaxF16Layout::keys_offset);
  const Index keys = layout.head_dim * tile_keys, values = tile_keys * layout.value_stride;
  for (Index i = 0; i < keys + values; i += Op::lanes)
    Op::load_f16(half + i).store_unaligned(scratch + i);
  return {scratch, scratch + keys, nonfinite_word(tile)};
}

template <class L>
FloatTile expand_tile(const SoftmaxBf16Layout& layout, const std::byte* tile,
                      float* scratch) noexcept {
  constexpr Index block = SoftmaxBf16Layout::value_block, word_bytes = sizeof(std::uint32_t);
  // Two numbers of a pair: the upper half of a float32 in the lower and in the upper half of a
  // word.
  const auto split = [](const std::byte* words, Index count, float* lower, float* upper) {
    for (Index i = 0; i < count; ++i) {
      std::uint32_t word;
      __builtin_memcpy(&word, words + i * word_bytes, sizeof word);
      lower[i] = __builtin_bit_cast(float, word << 16);
      upper[i] = __builtin_bit_cast(float, word & 0xffff0000u);
    }
  };
  const std::byte* words = tile + SoftmaxBf16Layout::keys_offset;
  const Index pairs = layout.steps * layout.step / half_pair;
  for (Index c = 0; c < pairs; ++c)
    split(words + c * tile_keys * word_bytes, tile_keys, scratch + 2 * c * tile_keys,
          scratch + (2 * c + 1) * tile_keys);

  float* values = scratch + half_pair * pairs * tile_keys;
  words = tile + layout.values_offset();
  for (Index c = 0; c < layout.value_stride; c += block)
    for (Index j = 0; j < tile_keys; j += half_pair, words += block * word_bytes)
      split(words, block, values + j * layout.value_stride + c,
            values + (j + 1) * layout.value_stride + c);
  return {scratch, values, nonfinite_word(tile)};
}

// Numbers of float32 that an expanded tile takes.
LOWATT_ALWAYS_INLINE Index expanded_size(const SoftmaxF16Layout& layout) noexcept {
  return tile_keys * (layout.head_dim + layout.value_stride);
}
LOWATT_ALWAYS_INLINE Index expanded_size(const SoftmaxBf16Layout& layout) noexcept {
  return tile_keys * (layout.steps * layout.step + layout.value_stride);
}

}  // namespace lowatt
