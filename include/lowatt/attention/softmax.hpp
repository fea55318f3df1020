// Softmax attention in the attention layer: parameters checked, kernels of the precision called.
#pragma once

#include "../core/rows.hpp"
#include "../softmax/kernel.hpp"
#include "../softmax/params.hpp"
#include "../softmax/workspace_amx.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

// Only at int8 does anything depend on whole tensors; otherwise a cache needs an empty Calibration.
template <>
struct Adapter<Softmax> {
  static constexpr bool heads_share_blocks = true;
  static constexpr bool has_log_sum_exp = true;
  static constexpr bool has_score_terms = true;
  static constexpr const char* mechanism_name = "softmax";

  static const char* layout(const Softmax& mechanism) noexcept {
    switch (mechanism.precision) {
      case Precision::bf16:
        return "softmax bf16 1";
      case Precision::f16:
        return "softmax f16 1";
      case Precision::int8:
        return "softmax int8 1";
      default:
        return "softmax fp32 1";
    }
  }
  template <class Each>
  static void each_parameter(Softmax& mechanism, Each&& each) noexcept {
    each(mechanism.scale);
    each(mechanism.soft_cap);
    each(mechanism.precision);
  }

  static Status validate(const Softmax& mechanism, const Shape& shape) noexcept {
    if (Status status = detail::check_scale(mechanism.scale); !status.ok()) return status;
    const Setting& cap = mechanism.soft_cap;
    if (cap.given && !(cap.value >= __FLT_MIN__ && cap.value <= largest_soft_cap))
      return failure(StatusCode::invalid_argument,
                     "soft_cap is %g; it must be positive and finite in float32", cap.value);
    switch (mechanism.precision) {
      case Precision::fp32:
      case Precision::bf16:
      case Precision::f16:
        return {};
      case Precision::int8:
        if (shape.head_dim > softmax_most_int8_head_dim)
          return failure(StatusCode::invalid_shape,
                         "head_dim is %td; 32-bit scores hold at most %td", shape.head_dim,
                         softmax_most_int8_head_dim);
        return {};
      case Precision::int16:
      case Precision::int4:
        break;
    }
    return failure(StatusCode::unsupported,
                   "precision is %s; softmax has kernels for fp32, bf16, f16 and int8",
                   precision_name(mechanism.precision));
  }

  static Status calibrate(const Softmax& mechanism, View<const float>, View<const float> k,
                          View<const float> v, const Mask&, Calibration& calibration) noexcept {
    if (mechanism.precision != Precision::int8) return {};
    calibration.key_absmax = absmax_per_head(k);
    calibration.value_absmax = absmax_per_head(v);
    if (calibration.key_absmax.empty() || calibration.value_absmax.empty())
      return failure(StatusCode::out_of_memory, "no memory for a calibration of %td heads",
                     k.heads);
    return {};
  }

  static Status check(const Softmax& mechanism, const Calibration& calibration,
                      const CacheShape& shape) noexcept {
    if (mechanism.precision != Precision::int8) return {};
    const Index entries = shape.batch * shape.kv_heads;
    if (Status status = detail::check_absmax("key_absmax", calibration.key_absmax, entries);
        !status.ok())
      return status;
    return detail::check_absmax("value_absmax", calibration.value_absmax, entries);
  }
  static Status check_queries(const Softmax&, const Calibration&, const CacheShape&,
                              View<const float>) noexcept {
    return {};
  }
  static Status adopt(Softmax&, Calibration&, const CacheShape&, Array<std::uint8_t>&) noexcept {
    return {};
  }

  static Index tile_bytes(const Softmax& mechanism, Index head_dim, Index value_dim) noexcept {
    return with_storage(mechanism, [&]<class Storage>(Storage) {
      return typename Storage::Layout(head_dim, value_dim).bytes();
    });
  }
  static void erase(const Softmax& mechanism, Index head_dim, Index value_dim, std::byte* tile,
                    Index first) noexcept {
    with_storage(mechanism, [&]<class Storage>(Storage) {
      typename Storage::Layout(head_dim, value_dim).erase(tile, first);
      return Index{0};
    });
  }
  static Index query_block(const Softmax& mechanism, const Shape&) noexcept {
    return with_storage(mechanism, []<class Storage>(Storage) { return Storage::query_block; });
  }
  static Index workspace_bytes(const Softmax& mechanism, const Shape& shape) noexcept {
    return with_storage(mechanism, [&]<class Storage>(Storage) {
      return softmax_workspace_bytes<Storage>(shape.head_dim, shape.value_dim);
    });
  }

  static void pack(const KernelTable& table, const Softmax& mechanism,
                   const Calibration& calibration, Index kv_entry,
                   const PackArguments& tokens) noexcept {
    if (mechanism.precision == Precision::int8)
      table.softmax_int8.pack({tokens, detail::head_scale(calibration.key_absmax, kv_entry).inverse,
                               detail::head_scale(calibration.value_absmax, kv_entry).inverse});
    else
      float_kernel(table, mechanism).pack(tokens);
  }

  static StatisticMerge statistic_merge(const Softmax&) noexcept { return StatisticMerge::none; }
  static bool is_exact(const Softmax&) noexcept { return false; }
  static Index score_bytes(const Softmax&, Index) noexcept { return 0; }

  template <class F>
  static void with_kernel(const KernelTable& table, const Softmax& mechanism,
                          const Calibration& calibration, const HeadPosition& head,
                          const BlockArguments& block, const Array<std::uint8_t>&, F f) noexcept {
    SoftmaxArguments arguments{};
    arguments.block = block;
    arguments.scale = mechanism.scale.or_else(default_scale(block.head_dim));
    if (mechanism.soft_cap.given)
      arguments.cap = static_cast<float>(mechanism.soft_cap.value * 0x1.71547652b82fep+0);
    if (mechanism.precision != Precision::int8) {
      f(float_kernel(table, mechanism), arguments);
      return;
    }
    arguments.key_scale = detail::head_scale(calibration.key_absmax, head.kv_entry()).scale;
    arguments.value_scale = detail::head_scale(calibration.value_absmax, head.kv_entry()).scale;
    f(table.softmax_int8, arguments);
  }

 private:
  static constexpr double largest_soft_cap = 0x1p126;  // as a logarithm to base 2 it is a float too

  // f(how the mechanism's precision is stored).
  template <class F>
  static Index with_storage(const Softmax& mechanism, F f) noexcept {
    switch (mechanism.precision) {
      case Precision::bf16:
        return f(SoftmaxBf16{});
      case Precision::f16:
        return f(SoftmaxF16{});
      case Precision::int8:
        return f(SoftmaxInt8{});
      default:
        return f(SoftmaxFp32{});
    }
  }
  static const Kernel<PackArguments, SoftmaxArguments>& float_kernel(
      const KernelTable& table, const Softmax& mechanism) noexcept {
    switch (mechanism.precision) {
      case Precision::bf16:
        return table.softmax_bf16;
      case Precision::f16:
        return table.softmax_f16;
      default:
        return table.softmax_fp32;
    }
  }
};

LOWATT_API_END
