// The Inhibitor in the attention layer: parameters checked, constants computed, kernels called.
#pragma once

#include "../core/rows.hpp"
#include "../inhibitor/kernel.hpp"
#include "../inhibitor/kernel_fp32.hpp"
#include "../inhibitor/kernel_int16.hpp"
#include "../inhibitor/params.hpp"
#include "../quant/bit_planes.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

template <>
struct Adapter<Inhibitor> {
  static constexpr bool heads_share_blocks = true;
  static constexpr bool has_log_sum_exp = false;
  static constexpr bool has_score_terms = false;
  static constexpr const char* mechanism_name = "inhibitor";

  static const char* layout(const Inhibitor& mechanism) noexcept {
    switch (mechanism.precision) {
      case Precision::fp32:
        return "inhibitor fp32 1";
      case Precision::int16:
        return "inhibitor int16 1";
      case Precision::int4:
        return "inhibitor int4 1";
      default:
        return mechanism.planes > 0 ? "inhibitor planes 2" : "inhibitor int8 1";
    }
  }
  template <class Each>
  static void each_parameter(Inhibitor& mechanism, Each&& each) noexcept {
    each(mechanism.scale);
    each(mechanism.alpha);
    each(mechanism.beta);
    each(mechanism.is_signed);
    each(mechanism.center);
    each(mechanism.normalize);
    each(mechanism.precision);
    each(mechanism.planes);
    each(mechanism.clip);
  }

  static Status validate(const Inhibitor& mechanism, const Shape& shape) noexcept {
    if (Status status = detail::check_scale(mechanism.scale); !status.ok()) return status;
    if (!__builtin_isfinite(mechanism.alpha))
      return failure(StatusCode::invalid_argument, "alpha is %g; it must be finite",
                     mechanism.alpha);
    if (!__builtin_isfinite(mechanism.beta))
      return failure(StatusCode::invalid_argument, "beta is %g; it must be finite", mechanism.beta);
    if (Status status = check_planes(mechanism); !status.ok()) return status;
    switch (mechanism.precision) {
      case Precision::fp32:
        return {};
      case Precision::int16:
        return check_most("head_dim", shape.head_dim, inhibitor_int16_most_head_dim);
      case Precision::int8:
      case Precision::int4:
        if (Status status = check_most("head_dim", shape.head_dim, inhibitor_most_head_dim);
            !status.ok())
          return status;
        return check_most("keys", shape.keys, inhibitor_most_keys);
      default:
        return failure(StatusCode::unsupported,
                       "precision is %s; the Inhibitor has fp32, int16, int8 and int4",
                       precision_name(mechanism.precision));
    }
  }

  static Status calibrate(const Inhibitor& mechanism, View<const float> q, View<const float> k,
                          View<const float> v, const Mask&, Calibration& calibration) noexcept {
    if (is_fp32(mechanism)) return {};
    calibration.value_absmax = absmax_per_head(v);
    bool is_whole = !calibration.value_absmax.empty();
    if (mechanism.planes > 0) {
      calibration.clip =
          mechanism.clip.given
              ? Array<float>(k.batch * k.heads, static_cast<float>(mechanism.clip.value))
              : shared_absmax_per_head(q, k);
      is_whole = is_whole && !calibration.clip.empty();
    } else {
      calibration.query_absmax = absmax_per_head(q);
      calibration.key_absmax = absmax_per_head(k);
      is_whole = is_whole && !calibration.query_absmax.empty() && !calibration.key_absmax.empty();
    }
    if (!is_whole)
      return failure(StatusCode::out_of_memory, "no memory for a calibration of %td heads",
                     q.heads);
    return {};
  }

  static Status check(const Inhibitor& mechanism, const Calibration& calibration,
                      const CacheShape& shape) noexcept {
    if (is_fp32(mechanism)) return {};
    const Index entries = shape.batch * shape.kv_heads;
    Status status{};
    if (mechanism.planes == 0)
      status = check_shared_scale(calibration, entries);
    else if (!mechanism.clip.given)
      status = detail::check_absmax("clip", calibration.clip, entries);
    return status.ok() ? detail::check_absmax("value_absmax", calibration.value_absmax, entries)
                       : status;
  }

  static Status check_queries(const Inhibitor& mechanism, const Calibration& calibration,
                              const CacheShape&, View<const float> q) noexcept {
    if (is_fp32(mechanism) || mechanism.planes > 0) return {};
    return detail::check_equal("q.batch * q.heads", q.batch * q.heads,
                               "the number of entries of calibration.query_absmax",
                               calibration.query_absmax.size());
  }
  static Status adopt(Inhibitor&, Calibration&, const CacheShape&, Array<std::uint8_t>&) noexcept {
    return {};
  }

  static Index tile_bytes(const Inhibitor& mechanism, Index head_dim, Index value_dim) noexcept {
    switch (mechanism.precision) {
      case Precision::fp32:
        return InhibitorFp32TileLayout(head_dim, value_dim).bytes();
      case Precision::int16:
        return InhibitorInt16TileLayout(head_dim, value_dim).bytes();
      default:
        return InhibitorTileLayout(head_dim, value_dim, width(mechanism)).bytes();
    }
  }
  static void erase(const Inhibitor& mechanism, Index head_dim, Index value_dim, std::byte* tile,
                    Index first) noexcept {
    switch (mechanism.precision) {
      case Precision::fp32:
        return InhibitorFp32TileLayout(head_dim, value_dim).erase(tile, first);
      case Precision::int16:
        return InhibitorInt16TileLayout(head_dim, value_dim).erase(tile, first);
      default: {
        const InhibitorTileLayout layout(head_dim, value_dim, width(mechanism));
        return inhibitor_erase(tile, layout, width(mechanism), first);
      }
    }
  }
  // Distances to a tile from elsewhere stay within those of codes.
  static void limit_codes(const Inhibitor& mechanism, Index head_dim, std::byte* tile) noexcept {
    if (mechanism.planes > 0) limit_thermometer(tile, mechanism.planes, head_dim);
  }
  static Index query_block(const Inhibitor& mechanism, const Shape&) noexcept {
    switch (mechanism.precision) {
      case Precision::fp32:
        return inhibitor_fp32_query_block;
      case Precision::int16:
        return inhibitor_int16_query_block;
      default:
        return inhibitor_query_block;
    }
  }
  static Index workspace_bytes(const Inhibitor& mechanism, const Shape& shape) noexcept {
    switch (mechanism.precision) {
      case Precision::fp32:
        return InhibitorFp32Workspace(nullptr, shape.head_dim, shape.value_dim).bytes();
      case Precision::int16:
        return InhibitorInt16Workspace(nullptr, shape.head_dim, shape.value_dim).bytes;
      default:
        return InhibitorWorkspace(nullptr, shape.head_dim, shape.value_dim, width(mechanism)).bytes;
    }
  }

  static void pack(const KernelTable& table, const Inhibitor& mechanism,
                   const Calibration& calibration, Index kv_entry,
                   const PackArguments& tokens) noexcept {
    if (is_fp32(mechanism)) {
      table.inhibitor_fp32.pack(tokens);
      return;
    }
    const float value_inverse = value_scale(mechanism, calibration, kv_entry).inverse;
    if (mechanism.planes > 0) {
      const BitThresholds thresholds = thresholds_of(mechanism, calibration, kv_entry);
      table.inhibitor_int8.pack({tokens, width(mechanism), 0, value_inverse, thresholds.value});
      return;
    }
    const float key_inverse = shared_scale(mechanism, calibration, kv_entry).inverse;
    if (mechanism.precision == Precision::int16)
      table.inhibitor_int16.pack({tokens, key_inverse, value_inverse});
    else
      table.inhibitor_int8.pack({tokens, width(mechanism), key_inverse, value_inverse});
  }

  static StatisticMerge statistic_merge(const Inhibitor& mechanism) noexcept {
    return mechanism.center ? StatisticMerge::sum : StatisticMerge::none;
  }
  static bool is_exact(const Inhibitor& mechanism) noexcept { return !is_fp32(mechanism); }
  static Index score_bytes(const Inhibitor&, Index) noexcept { return 0; }

  template <class F>
  static void with_kernel(const KernelTable& table, const Inhibitor& mechanism,
                          const Calibration& calibration, const HeadPosition& head,
                          const BlockArguments& block, const Array<std::uint8_t>&, F f) noexcept {
    const double scale = mechanism.scale.or_else(default_scale(block.head_dim));
    if (is_fp32(mechanism)) {
      f(table.inhibitor_fp32,
        InhibitorFp32Arguments{block, scale, mechanism.alpha, mechanism.beta, mechanism.is_signed,
                               mechanism.center, mechanism.normalize});
      return;
    }
    const SymmetricScale value = value_scale(mechanism, calibration, head.kv_entry());
    InhibitorArguments arguments{};
    arguments.block = block;
    arguments.width = width(mechanism);
    const auto run = [&](const auto& kernel, const InhibitorConstants& constants) {
      arguments.constants = constants;
      arguments.is_signed = mechanism.is_signed;
      arguments.center = mechanism.center;
      arguments.normalize = mechanism.normalize;
      arguments.value_scale = static_cast<double>(value.scale);
      arguments.beta = mechanism.beta;
      f(kernel, arguments);
    };
    if (mechanism.planes > 0) {
      const BitThresholds thresholds = thresholds_of(mechanism, calibration, head.kv_entry());
      const float step = thermometer_step(
          mechanism.planes, detail::head_clip(mechanism.clip, calibration, head.kv_entry()));
      arguments.thresholds = thresholds.value;
      run(table.inhibitor_int8, inhibitor_constants(scale, step, value.scale, mechanism.alpha));
      return;
    }
    const SymmetricScale shared = shared_scale(mechanism, calibration, head.kv_entry());
    arguments.query_inverse = shared.inverse;
    if (mechanism.precision == Precision::int16)
      run(table.inhibitor_int16,
          inhibitor_constants_int16(scale, shared.scale, value.scale, mechanism.alpha));
    else
      run(table.inhibitor_int8,
          inhibitor_constants(scale, shared.scale, value.scale, mechanism.alpha));
  }

 private:
  // At fp32 nothing depends on whole tensors: a cache needs an empty Calibration.
  static bool is_fp32(const Inhibitor& mechanism) noexcept {
    return mechanism.precision == Precision::fp32;
  }
  // Of the kernels for 8 and 4 bits.
  static InhibitorWidth width(const Inhibitor& mechanism) noexcept {
    return {mechanism.precision == Precision::int4, mechanism.planes};
  }
  static Status check_planes(const Inhibitor& mechanism) noexcept {
    if (mechanism.planes < 0 || mechanism.planes > max_planes)
      return failure(StatusCode::invalid_argument, "planes is %d; it must be from 0 to %d",
                     mechanism.planes, max_planes);
    if (Status status = detail::check_clip(mechanism.clip); !status.ok()) return status;
    if (mechanism.planes == 0 && mechanism.clip.given)
      return failure(StatusCode::invalid_argument,
                     "clip is %g but planes is 0; only thermometer codes have a clip",
                     mechanism.clip.value);
    if (mechanism.planes > 0 && mechanism.precision != Precision::int8)
      return failure(StatusCode::unsupported,
                     "precision is %s; with planes = %d it must be int8, that of values",
                     precision_name(mechanism.precision), mechanism.planes);
    return {};
  }
  static BitThresholds thresholds_of(const Inhibitor& mechanism, const Calibration& calibration,
                                     Index kv_entry) noexcept {
    return bit_thresholds(BitEncoding::thermometer, mechanism.planes,
                          detail::head_clip(mechanism.clip, calibration, kv_entry));
  }
  static Status check_most(const char* name, Index given, Index most) noexcept {
    if (given <= most) return {};
    return failure(StatusCode::invalid_shape, "%s is %td; 32-bit sums hold at most %td", name,
                   given, most);
  }
  // The largest step of an integer precision.
  static int limit(const Inhibitor& mechanism) noexcept {
    return mechanism.precision == Precision::int16 ? int16_limit : width(mechanism).limit();
  }
  static Status check_shared_scale(const Calibration& calibration, Index entries) noexcept {
    const Array<float>& query_absmax = calibration.query_absmax;
    if (query_absmax.empty() || query_absmax.size() % entries != 0)
      return failure(StatusCode::invalid_argument,
                     "calibration.query_absmax has %td entries; a multiple of batch * kv_heads = "
                     "%td is needed, since queries and keys share a scale",
                     query_absmax.size(), entries);
    if (Status status = detail::check_absmax("query_absmax", query_absmax, query_absmax.size());
        !status.ok())
      return status;
    return detail::check_absmax("key_absmax", calibration.key_absmax, entries);
  }
  // One scale for a KV head's keys and all its query heads: a distance needs one unit.
  static SymmetricScale shared_scale(const Inhibitor& mechanism, const Calibration& calibration,
                                     Index kv_entry) noexcept {
    const Index group = calibration.query_absmax.size() / calibration.key_absmax.size();
    return symmetric_scale(
        inhibitor_shared_absmax(calibration.query_absmax.data() + kv_entry * group, group,
                                calibration.key_absmax[kv_entry]),
        limit(mechanism));
  }
  static SymmetricScale value_scale(const Inhibitor& mechanism, const Calibration& calibration,
                                    Index kv_entry) noexcept {
    return symmetric_scale(calibration.value_absmax[kv_entry], limit(mechanism));
  }
};

LOWATT_API_END
