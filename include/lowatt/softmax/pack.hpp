// How softmax's keys and values lie in memory at fp32. Per tile of 64 keys:
//
//   nonfinite  u64, padded to 64 bytes     bit j: the value of key j holds NaN or infinity
//   keys       [head_dim][64 keys] f32
//   values     [64 keys][value_dim] f32    rows padded to 16 dims
//
// (simd/float_tile.hpp; the Inhibitor at fp32 has the same.) Floats are stored as they are given.
#pragma once

#include "../simd/float_tile.hpp"

namespace lowatt {

using SoftmaxTileLayout = FloatTileLayout;

template <class L>
void softmax_pack(const PackArguments& tokens) noexcept {
  float_pack<L>(tokens);
}

}  // namespace lowatt
