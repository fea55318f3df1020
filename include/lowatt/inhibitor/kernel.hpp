// The Inhibitor at 8 bits (arXiv 2310.02041, signed form of the paper's section on signed values).
//
//   H_ik = sum_j sign(v_jk) * max(|v_jk| - z'_ij, 0),   z' = shifted, rescaled  sum_k |q_ik - k_jk|
//
// Lives on   vpminub + vpdpbusd (scores) and vpsubusb + vpdpbusd (inhibition): two instructions for
//            4 dims of 16 pairs each, bound by the byte unit's one per cycle at 512 bits. Below
//            avx512icl the dot product is maddubs + madd, at sse2 two pmaddwd.
// Layout     pack.hpp; the same for prefill and decode and at every level.
// Overflow   a distance is at most 254 * head_dim; where 254 * head_dim + R exceeds 65535, its
//            product with the multiplier M <= 65535 leaves 32 bits and is taken in 64. H gains at
//            most 127 per key: 32 bits hold 16.9 million keys. More are refused, as are head_dims
//            whose sums and R would leave 32 bits.
// Tails      head_dim and value_dim are padded with zeros when packed; hidden and absent keys get
//            z' = 255, above every magnitude; rows come four at a time, then one at a time.
#pragma once

#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

inline constexpr Index inhibitor_query_block = 32;
inline constexpr Index inhibitor_most_keys = 2147483647 / 127;
// R is at most 2^30, sums of q + k at most 510 * head_dim.
inline constexpr Index inhibitor_most_head_dim = (2147483647 - (1 << 30)) / 510;

struct InhibitorArguments {
  BlockArguments block;
  float query_inverse = 0;  // 1/s of keys and queries
  InhibitorConstants constants;
  bool is_signed = true, center = false, normalize = false;
  double value_scale = 0, beta = 1;
};

// What the phases of one block hand on to each other.
struct InhibitorWorkspace {
  std::uint8_t* query = nullptr;         // [rows][padded head_dim], q8 + 128
  std::int32_t* query_sum = nullptr;     // [rows]
  std::int64_t* distance_sum = nullptr;  // [rows], the row statistic
  std::int32_t* inhibited = nullptr;     // [rows][padded value_dim], H
  std::uint8_t* shifted = nullptr;       // [rows][64], z' of one tile
  std::uint8_t* magnitude = nullptr;     // one tile of values: |v8|
  std::int8_t* direction = nullptr;      // -1, 0, 1
  Index bytes = 0;

  LOWATT_ALWAYS_INLINE InhibitorWorkspace(std::byte* base, Index head_dim,
                                          Index value_dim) noexcept {
    WorkspaceCutter cutter{base};
    const Index rows = inhibitor_query_block;
    query = cutter.take<std::uint8_t>(rows * round_up(head_dim, key_group));
    query_sum = cutter.take<std::int32_t>(rows);
    distance_sum = cutter.take<std::int64_t>(rows);
    inhibited = cutter.take<std::int32_t>(rows * round_up(value_dim, value_block));
    shifted = cutter.take<std::uint8_t>(rows * tile_keys);
    magnitude = cutter.take<std::uint8_t>(value_tile_bytes(value_dim));
    direction = cutter.take<std::int8_t>(value_tile_bytes(value_dim));
    bytes = cutter.size();
  }
  LOWATT_ALWAYS_INLINE explicit InhibitorWorkspace(const BlockArguments& block) noexcept
      : InhibitorWorkspace(block.workspace, block.head_dim, block.value_dim) {}
};

// 2 sum_k min(q, k) of Rows queries with the 64 keys of a tile: what |q - k| sums lack to q + k
// sums.
template <class L, int Rows>
void inhibitor_common_sums(const std::uint8_t* query, Index padded_dim, const std::byte* keys,
                           std::int32_t (*sums)[tile_keys]) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  constexpr int vectors = Op::block_vectors;
  const Register twos = Op::fill_u8(2);
  for (Index first = 0; first < tile_keys; first += vectors * Op::lanes) {
    Register sum[Rows][vectors];
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] = Op::zero();
    for (Index c = 0; c < padded_dim; c += key_group) {
      Register key[vectors];
      for (int v = 0; v < vectors; ++v)
        key[v] = Op::load(keys + c * tile_keys + first * key_group + v * Op::bytes);
      for (int r = 0; r < Rows; ++r) {
        const Register q = Op::broadcast4(query + r * padded_dim + c);
        for (int v = 0; v < vectors; ++v)
          sum[r][v] = Op::dot4_narrow(sum[r][v], Op::min_u8(q, key[v]), twos);
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < vectors; ++v) Op::store(sums[r] + first + v * Op::lanes, sum[r][v]);
  }
}

// z' of one row from its distances: recentred, rescaled, shifted. Product is 32 bits wide where
// that is enough (see Overflow above). The pointers are apart, so that compilers vectorise the
// loop.
template <class L, class Product>
void inhibitor_shift_scores(const std::int32_t* __restrict common_sum,
                            const std::int32_t* __restrict key_sum, std::int32_t query_sum,
                            std::int32_t centre, const InhibitorConstants& constants,
                            std::uint8_t* __restrict shifted) noexcept {
  const auto multiplier = static_cast<Product>(constants.multiplier);
  const auto rounding = static_cast<std::int32_t>(constants.rounding);
  const int shift = constants.shift;
  const auto alpha = static_cast<std::int32_t>(constants.alpha);
  // clamp(z - alpha, 0, 255) = clamp(z, lowest, highest) - alpha, where no difference can wrap. The
  // spec's cap of z at 65535 lies above highest, since alpha is at most 65280.
  const auto lowest = static_cast<Product>(alpha > 0 ? alpha : 0);
  const auto highest = static_cast<Product>(alpha + 255);
  const std::int32_t base = query_sum - centre + rounding;
  for (Index j = 0; j < tile_keys; ++j) {
    const std::int32_t distance = base + key_sum[j] - common_sum[j];
    const auto rounded = static_cast<Product>(distance > rounding ? distance : rounding);
    Product z = (rounded * multiplier) >> shift;
    z = z < highest ? z : highest;
    z = z > lowest ? z : lowest;
    shifted[j] = static_cast<std::uint8_t>(static_cast<std::int32_t>(z) - alpha);
  }
}

// Splits a tile of values into what inhibition subtracts from and the direction of what is left.
// Unsigned, negative values have no direction: (sign + 1) saturating less 1 is 0 for them.
template <class L>
void inhibitor_split_values(const std::int8_t* values, Index bytes, bool is_signed,
                            std::uint8_t* magnitude, std::int8_t* direction) noexcept {
  using Op = Ops<L>;
  const auto one = Op::fill_u8(1);
  for (Index i = 0; i < bytes; i += Op::bytes) {
    const auto v = Op::load(values + i);
    auto sign = Op::sign_s8(v);
    if (!is_signed) sign = Op::subtract_saturate_u8(Op::add_u8(sign, one), one);
    Op::store(magnitude + i, Op::absolute_s8(v));
    Op::store(direction + i, sign);
  }
}

// Adds one tile's inhibited values of Rows queries, `vectors` registers of dims from `vector` on.
template <class L, int Rows, int Vectors>
void inhibitor_inhibit(const std::uint8_t* shifted, const std::uint8_t* magnitude,
                       const std::int8_t* direction, Index vector, std::int32_t* inhibited,
                       Index stride) noexcept {
  using Op = Ops<L>;
  using Register = typename Op::Register;
  Register sum[Rows][Vectors];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      sum[r][v] = Op::load(inhibited + r * stride + (vector + v) * Op::lanes);
  for (Index j = 0; j < tile_keys; j += value_group) {
    Register score[Rows];
    for (int r = 0; r < Rows; ++r) score[r] = Op::broadcast4(shifted + r * tile_keys + j);
    for (int v = 0; v < Vectors; ++v) {
      const Index at = value_vector_offset<L>(vector + v) + j / value_group * value_group_stride;
      const Register size = Op::load(magnitude + at);
      const Register sign = Op::load(direction + at);
      for (int r = 0; r < Rows; ++r)
        sum[r][v] = Op::dot4_narrow(sum[r][v], Op::subtract_saturate_u8(size, score[r]), sign);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vectors; ++v)
      Op::store(inhibited + r * stride + (vector + v) * Op::lanes, sum[r][v]);
}

// Encodes the block's queries and clears its accumulators.
template <class L>
void inhibitor_prepare(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(block);
  const Index padded_dim = round_up(block.head_dim, key_group);
  const Index padded_value_dim = round_up(block.value_dim, value_block);
  for (Index r = 0; r < block.rows; ++r) {
    std::uint8_t* query = workspace.query + r * padded_dim;
    auto* bytes = reinterpret_cast<std::int8_t*>(query);
    quantize_row<L>(block.query + r * block.query_stride, block.head_dim, arguments.query_inverse,
                    bytes);
    std::int32_t sum = 0;
    for (Index c = 0; c < block.head_dim; ++c) {
      query[c] = static_cast<std::uint8_t>(bytes[c] + 128);
      sum += query[c];
    }
    for (Index c = block.head_dim; c < padded_dim; ++c) query[c] = 0;
    workspace.query_sum[r] = sum;
    workspace.distance_sum[r] = 0;
  }
  for (Index i = 0; i < block.rows * padded_value_dim; ++i) workspace.inhibited[i] = 0;
}

// Calls each(row, common sums) for every row of the block with the keys of tile t.
template <class L, class Each>
void inhibitor_for_each_row(const InhibitorArguments& arguments,
                            const InhibitorWorkspace& workspace, const std::byte* keys,
                            Each&& each) noexcept {
  alignas(64) std::int32_t sums[4][tile_keys];
  const Index padded_dim = round_up(arguments.block.head_dim, key_group);
  Index r = 0;
  for (; r + 4 <= arguments.block.rows; r += 4) {
    inhibitor_common_sums<L, 4>(workspace.query + r * padded_dim, padded_dim, keys, sums);
    for (Index i = 0; i < 4; ++i) each(r + i, sums[i]);
  }
  for (; r < arguments.block.rows; ++r) {
    inhibitor_common_sums<L, 1>(workspace.query + r * padded_dim, padded_dim, keys, sums);
    each(r, sums[0]);
  }
}

// The row statistic of centring: sum of distances over visible keys.
template <class L>
void inhibitor_statistic(const InhibitorArguments& arguments) noexcept {
  if (!arguments.center) return;
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(block);
  const InhibitorTileLayout layout(block.head_dim, block.value_dim);
  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const std::byte* tile = block.tiles.tile(t);
    const auto* key_sum = reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset());
    inhibitor_for_each_row<L>(arguments, workspace, tile, [&](Index r, std::int32_t* common_sum) {
      for (Index j = 0; j < tile_keys; ++j)
        common_sum[j] = workspace.query_sum[r] + key_sum[j] - common_sum[j];
      hide(common_sum, block.visible_word(r, t), 0);
      std::int64_t sum = 0;
      for (Index j = 0; j < tile_keys; ++j) sum += common_sum[j];
      workspace.distance_sum[r] += sum;
    });
  }
}

// Adds the tiles [tile_begin, tile_end) to the block's H.
template <class L>
void inhibitor_accumulate(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(block);
  const InhibitorTileLayout layout(block.head_dim, block.value_dim);
  const InhibitorConstants& constants = arguments.constants;
  const Index stride = round_up(block.value_dim, value_block);
  const Index vectors = stride / Ops<L>::lanes;
  const bool narrow = 254 * block.head_dim + static_cast<Index>(constants.rounding) <= 65535;

  std::int32_t centre[inhibitor_query_block] = {};
  if (arguments.center)
    for (Index r = 0; r < block.rows; ++r) {
      const Index count = block.visible_count(r);
      if (count > 0) centre[r] = static_cast<std::int32_t>(workspace.distance_sum[r] / count);
    }

  for (Index t = block.tile_begin; t < block.tile_end; ++t) {
    if (!block.tile_is_visible(t)) continue;
    const std::byte* tile = block.tiles.tile(t);
    const auto* key_sum = reinterpret_cast<const std::int32_t*>(tile + layout.sums_offset());
    inhibitor_for_each_row<L>(
        arguments, workspace, tile, [&](Index r, const std::int32_t* common_sum) {
          std::uint8_t* shifted = workspace.shifted + r * tile_keys;
          if (narrow)
            inhibitor_shift_scores<L, std::uint32_t>(common_sum, key_sum, workspace.query_sum[r],
                                                     centre[r], constants, shifted);
          else
            inhibitor_shift_scores<L, std::uint64_t>(common_sum, key_sum, workspace.query_sum[r],
                                                     centre[r], constants, shifted);
          hide(shifted, block.visible_word(r, t), std::uint8_t{255});
        });

    const auto* values = reinterpret_cast<const std::int8_t*>(tile + layout.values_offset());
    inhibitor_split_values<L>(values, layout.value_bytes, arguments.is_signed, workspace.magnitude,
                              workspace.direction);
    const auto inhibit = [&]<int Rows>(Index r) {
      const std::uint8_t* shifted = workspace.shifted + r * tile_keys;
      std::int32_t* inhibited = workspace.inhibited + r * stride;
      constexpr int together = Ops<L>::block_vectors;
      Index v = 0;
      for (; v + together <= vectors; v += together)
        inhibitor_inhibit<L, Rows, together>(shifted, workspace.magnitude, workspace.direction, v,
                                             inhibited, stride);
      for (; v < vectors; ++v)
        inhibitor_inhibit<L, Rows, 1>(shifted, workspace.magnitude, workspace.direction, v,
                                      inhibited, stride);
    };
    Index r = 0;
    for (; r + 4 <= block.rows; r += 4) inhibit.template operator()<4>(r);
    for (; r < block.rows; ++r) inhibit.template operator()<1>(r);
  }
}

// H to float: in double, left to right, rounded once.
template <class L>
void inhibitor_finish(const InhibitorArguments& arguments) noexcept {
  const BlockArguments& block = arguments.block;
  const InhibitorWorkspace workspace(block);
  const Index stride = round_up(block.value_dim, value_block);
  for (Index r = 0; r < block.rows; ++r) {
    float* out = block.out + r * block.out_stride;
    const Index count = block.visible_count(r);
    const bool divide = arguments.normalize && count > 0;
    for (Index c = 0; c < block.value_dim; ++c) {
      double value = static_cast<double>(workspace.inhibited[r * stride + c]);
      value = value * arguments.value_scale * arguments.beta;
      if (divide) value /= static_cast<double>(count);
      out[c] = static_cast<float>(value);
    }
  }
}

}  // namespace lowatt
