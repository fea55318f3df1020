// Bitformer in the attention layer: parameters checked, tables built, kernels called.
#pragma once

#include "../bitformer/calibrate.hpp"
#include "../bitformer/kernel.hpp"
#include "../bitformer/params.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

template <>
struct Adapter<Bitformer> {
  static constexpr bool heads_share_blocks = false;
  static constexpr bool has_log_sum_exp = false;
  static constexpr bool has_score_terms = false;
  static constexpr const char* mechanism_name = "bitformer";

  static const char* layout(const Bitformer&) noexcept { return "bitformer 2"; }
  template <class Each>
  static void each_parameter(Bitformer& mechanism, Each&& each) noexcept {
    each(mechanism.scale);
    each(mechanism.planes);
    each(mechanism.encoding);
    each(mechanism.center_keys);
    each(mechanism.clip);
    each(mechanism.temperature);
    each(mechanism.calibrate_temperature);
  }

  static Status validate(const Bitformer& mechanism, const Shape& shape) noexcept {
    if (Status status = detail::check_scale(mechanism.scale); !status.ok()) return status;
    if (mechanism.planes < 1 || mechanism.planes > max_planes)
      return failure(StatusCode::invalid_argument, "planes is %d; it must be from 1 to %d",
                     mechanism.planes, max_planes);
    if (mechanism.encoding == BitEncoding::sign && mechanism.planes != 1)
      return failure(StatusCode::invalid_argument, "planes is %d; sign encoding has one plane",
                     mechanism.planes);
    if (Status status = detail::check_clip(mechanism.clip); !status.ok()) return status;
    if (mechanism.temperature.given && !is_temperature(mechanism.temperature.value))
      return failure(StatusCode::invalid_argument,
                     "temperature is %g; it must be finite and not negative",
                     mechanism.temperature.value);
    if (shape.head_dim > bitformer_most_bits / mechanism.planes)
      return failure(StatusCode::invalid_shape,
                     "head_dim is %td; distances over %d planes of it need more than 32 bits",
                     shape.head_dim, mechanism.planes);
    return {};
  }

  static Status calibrate(const Bitformer& mechanism, View<const float> q, View<const float> k,
                          View<const float> v, const Mask& mask,
                          Calibration& calibration) noexcept {
    calibration.value_absmax = absmax_per_head(v);
    if (mechanism.center_keys) calibration.key_mean = channel_means(k);
    if (has_clip(mechanism))
      calibration.clip =
          mechanism.clip.given
              ? Array<float>(k.batch * k.heads, static_cast<float>(mechanism.clip.value))
              : default_clips(k, calibration.key_mean.data());
    calibration.temperature = Array<double>(q.batch * q.heads);
    if (calibration.value_absmax.empty() || calibration.temperature.empty() ||
        (mechanism.center_keys && calibration.key_mean.empty()) ||
        (has_clip(mechanism) && calibration.clip.empty()))
      return failure(StatusCode::out_of_memory, "no memory for a calibration of %td heads",
                     q.heads);
    return try_temperatures(mechanism, q, k, calibration.key_mean.data(), calibration.clip.data(),
                            mask, calibration.temperature.data());
  }

  // A clip or temperature that the mechanism gives goes before the Calibration's.
  static Status check(const Bitformer& mechanism, const Calibration& calibration,
                      const CacheShape& shape) noexcept {
    const Index entries = shape.batch * shape.kv_heads;
    if (Status status = detail::check_absmax("value_absmax", calibration.value_absmax, entries);
        !status.ok())
      return status;
    if (mechanism.center_keys)
      if (Status status = check_key_mean(calibration.key_mean, entries * shape.head_dim);
          !status.ok())
        return status;
    if (has_clip(mechanism) && !mechanism.clip.given)
      if (Status status = detail::check_absmax("clip", calibration.clip, entries); !status.ok())
        return status;
    if (mechanism.temperature.given) return {};
    const Array<double>& temperature = calibration.temperature;
    if (temperature.empty() || temperature.size() % entries != 0)
      return failure(StatusCode::invalid_argument,
                     "calibration.temperature has %td entries; one per query head is needed, a "
                     "multiple of batch * kv_heads = %td",
                     temperature.size(), entries);
    for (Index i = 0; i < temperature.size(); ++i)
      if (!is_temperature(temperature[i]))
        return failure(StatusCode::invalid_argument,
                       "calibration.temperature[%td] is %g; it must be finite and not negative", i,
                       temperature[i]);
    return {};
  }

  static Status check_queries(const Bitformer& mechanism, const Calibration& calibration,
                              const CacheShape&, View<const float> q) noexcept {
    if (mechanism.temperature.given) return {};
    return detail::check_equal("q.batch * q.heads", q.batch * q.heads,
                               "the number of entries of calibration.temperature",
                               calibration.temperature.size());
  }

  // A table of probabilities for each temperature.
  static Status adopt(Bitformer& mechanism, Calibration& calibration, const CacheShape& shape,
                      Array<std::uint8_t>& tables) noexcept {
    const bool shared = mechanism.temperature.given;
    const Index count = shared ? 1 : calibration.temperature.size();
    const Index bytes = bitformer_table_bytes(mechanism.planes, shape.head_dim);
    tables = Array<std::uint8_t>(count * bytes);
    if (tables.size() != count * bytes)
      return failure(StatusCode::out_of_memory, "no memory for %td tables of %td bytes", count,
                     bytes);
    for (Index i = 0; i < count; ++i)
      bitformer_probabilities(shared ? mechanism.temperature.value : calibration.temperature[i],
                              mechanism.planes * shape.head_dim, tables.data() + i * bytes);
    return {};
  }

  static Index tile_bytes(const Bitformer& mechanism, Index head_dim, Index value_dim) noexcept {
    return BitformerTileLayout(mechanism.planes, head_dim, value_dim).bytes();
  }
  static void erase(const Bitformer& mechanism, Index head_dim, Index value_dim, std::byte* tile,
                    Index first) noexcept {
    BitformerTileLayout(mechanism.planes, head_dim, value_dim).erase(tile, first);
  }
  // Distances to a tile from elsewhere stay within the tables.
  static void limit_codes(const Bitformer& mechanism, Index head_dim, std::byte* tile) noexcept {
    limit_thermometer(tile, mechanism.planes, head_dim);
  }
  static Index query_block(const Bitformer& mechanism, const Shape& shape) noexcept {
    return bitformer_query_block(mechanism.planes, shape.head_dim);
  }
  static Index workspace_bytes(const Bitformer& mechanism, const Shape& shape) noexcept {
    return bitformer_workspace_bytes(mechanism.planes, shape.head_dim, shape.value_dim,
                                     shape.queries, shape.keys);
  }

  static void pack(const KernelTable& table, const Bitformer& mechanism,
                   const Calibration& calibration, Index kv_entry,
                   const PackArguments& tokens) noexcept {
    const BitThresholds thresholds = thresholds_of(mechanism, calibration, kv_entry);
    BitformerPackArguments arguments{};
    arguments.tokens = tokens;
    arguments.planes = thresholds.planes;
    arguments.thresholds = thresholds.value;
    if (mechanism.center_keys)
      arguments.key_mean = calibration.key_mean.data() + kv_entry * tokens.head_dim;
    arguments.value_inverse = detail::head_scale(calibration.value_absmax, kv_entry).inverse;
    table.bitformer.pack(arguments);
  }

  static StatisticMerge statistic_merge(const Bitformer&) noexcept {
    return StatisticMerge::maximum;
  }
  static bool is_exact(const Bitformer&) noexcept { return true; }
  static Index score_bytes(const Bitformer& mechanism, Index head_dim) noexcept {
    return bitformer_kept_bytes(mechanism.planes, head_dim);
  }

  template <class F>
  static void with_kernel(const KernelTable& table, const Bitformer& mechanism,
                          const Calibration& calibration, const HeadPosition& head,
                          const BlockArguments& block, const Array<std::uint8_t>& tables,
                          F f) noexcept {
    const BitThresholds thresholds = thresholds_of(mechanism, calibration, head.kv_entry());
    const Index table_bytes = bitformer_table_bytes(mechanism.planes, block.head_dim);
    const Index entry = mechanism.temperature.given ? 0 : head.query_entry();
    BitformerArguments arguments{};
    arguments.block = block;
    arguments.planes = thresholds.planes;
    arguments.thresholds = thresholds.value;
    arguments.table = tables.data() + entry * table_bytes;
    arguments.table_entries = leading_nonzeros(arguments.table, table_bytes);
    arguments.value_scale =
        static_cast<double>(detail::head_scale(calibration.value_absmax, head.kv_entry()).scale);
    f(table.bitformer, arguments);
  }

 private:
  static bool is_temperature(double value) noexcept {
    return __builtin_isfinite(value) && value >= 0;
  }
  static bool has_clip(const Bitformer& mechanism) noexcept {
    return resolve(mechanism.encoding, mechanism.planes) == BitEncoding::thermometer;
  }
  static Status check_key_mean(const Array<float>& mean, Index expected) noexcept {
    if (mean.size() != expected)
      return failure(StatusCode::invalid_argument,
                     "calibration.key_mean has %td entries; %td are needed", mean.size(), expected);
    for (Index i = 0; i < expected; ++i)
      if (!__builtin_isfinite(mean[i]))
        return failure(StatusCode::invalid_argument,
                       "calibration.key_mean[%td] is %g; it must be finite", i,
                       static_cast<double>(mean[i]));
    return {};
  }
  static BitThresholds thresholds_of(const Bitformer& mechanism, const Calibration& calibration,
                                     Index kv_entry) noexcept {
    const float clip =
        has_clip(mechanism) ? detail::head_clip(mechanism.clip, calibration, kv_entry) : 0.0f;
    return bit_thresholds(mechanism.encoding, mechanism.planes, clip);
  }
  // How many entries of a table, which never grow, come before the zeros.
  static Index leading_nonzeros(const std::uint8_t* table, Index size) noexcept {
    Index low = 0, high = size;
    while (low < high) {
      const Index middle = low + (high - low) / 2;
      if (table[middle] != 0)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

LOWATT_API_END
