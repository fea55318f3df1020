// How the Inhibitor's keys and values lie in memory at fp32: as softmax's. Per tile of 64 keys:
//
//   nonfinite  u64, padded to 64 bytes     bit j: the value of key j holds NaN or infinity
//   keys       [head_dim][64 keys] f32
//   values     [64 keys][value_dim] f32    rows padded to 16 dims
//
// (simd/float_tile.hpp.) Floats are stored as they are given.
#pragma once

#include "../simd/float_tile.hpp"

namespace lowatt {

using InhibitorFp32TileLayout = FloatTileLayout;

template <class L>
void inhibitor_fp32_pack(const PackArguments& tokens) noexcept {
  float_pack<L>(tokens);
}

}  // namespace lowatt
