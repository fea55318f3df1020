// Softmax attention in the attention layer. Nothing depends on whole tensors: a cache needs an
// empty Calibration.
#pragma once

#include "../core/rows.hpp"
#include "../softmax/kernel.hpp"
#include "../softmax/params.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

template <>
struct Adapter<Softmax> {
  static constexpr bool heads_share_blocks = true;

  static Status validate(const Softmax& mechanism, const Shape&) noexcept {
    return detail::check_scale(mechanism.scale);
  }
  static Status calibrate(const Softmax&, View<const float>, View<const float>, View<const float>,
                          bool, Calibration&) noexcept {
    return {};
  }
  static Status check(const Softmax&, const Calibration&, const CacheShape&) noexcept { return {}; }
  static Status check_queries(const Softmax&, const Calibration&, const CacheShape&,
                              View<const float>) noexcept {
    return {};
  }
  static Status adopt(Softmax&, Calibration&, const CacheShape&, Array<std::uint8_t>&) noexcept {
    return {};
  }

  static Index tile_bytes(const Softmax&, Index head_dim, Index value_dim) noexcept {
    return SoftmaxTileLayout(head_dim, value_dim).bytes();
  }
  static Index query_block(const Softmax&, const Shape&) noexcept { return softmax_query_block; }
  static Index workspace_bytes(const Softmax&, const Shape& shape) noexcept {
    return SoftmaxWorkspace(nullptr, shape.head_dim, shape.value_dim).bytes();
  }

  static void pack(const KernelTable& table, const Softmax&, const Calibration&, Index,
                   const PackArguments& tokens) noexcept {
    table.softmax_fp32.pack(tokens);
  }

  static void attend_block(const KernelTable& table, const Softmax& mechanism, const Calibration&,
                           const HeadPosition&, const BlockArguments& block,
                           const Array<std::uint8_t>&, std::int64_t*) noexcept {
    detail::run_phases(table.softmax_fp32,
                       {block, mechanism.scale.or_else(default_scale(block.head_dim))});
  }
};

LOWATT_API_END
