// LATTE in the attention layer: parameters checked, thresholds handed to each head, survivors
// counted.
#pragma once

#include "../core/rows.hpp"
#include "../latte/calibrate.hpp"
#include "../latte/dense.hpp"
#include "../latte/kernel.hpp"
#include "../latte/params.hpp"
#include "../softmax/workspace_amx.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

// A theta that the mechanism gives goes before one of the Calibration.
template <>
struct Adapter<Latte> {
  static constexpr bool heads_share_blocks = false;
  static constexpr bool has_log_sum_exp = true;
  static constexpr bool has_score_terms = true;
  static constexpr const char* mechanism_name = "latte";

  static const char* layout(const Latte& mechanism) noexcept {
    return mechanism.value_precision == Precision::fp32 ? "latte fp32 values 1" : "latte int8 1";
  }
  template <class Each>
  static void each_parameter(Latte& mechanism, Each&& each) noexcept {
    each(mechanism.scale);
    each(mechanism.theta);
    each(mechanism.filtered);
    each(mechanism.error);
    each(mechanism.split);
    each(mechanism.value_precision);
  }

  static Status validate(const Latte& mechanism, const Shape& shape) noexcept {
    if (Status status = detail::check_scale(mechanism.scale); !status.ok()) return status;
    if (shape.head_dim > latte_most_head_dim)
      return failure(StatusCode::invalid_shape, "head_dim is %td; 32-bit scores hold at most %td",
                     shape.head_dim, latte_most_head_dim);
    if (shape.keys > latte_most_keys)
      return failure(StatusCode::invalid_shape, "keys is %td; 32-bit positions hold at most %td",
                     shape.keys, latte_most_keys);
    if (Status status = check_targets(mechanism); !status.ok()) return status;
    if (mechanism.value_precision != Precision::int8 &&
        mechanism.value_precision != Precision::fp32)
      return failure(StatusCode::unsupported,
                     "value_precision is %s; LATTE has kernels for int8 and fp32",
                     precision_name(mechanism.value_precision));
    const PerHead& theta = mechanism.theta;
    if (!theta.given()) return {};  // then it is the Calibration's: check()
    if (theta.data == nullptr) return check_thresholds("theta", &theta.single, 1);
    if (shape.query_heads > 0 && theta.count != shape.query_heads)
      return failure(StatusCode::invalid_argument,
                     "theta has %td entries; one, or one for each of the %td query heads is needed",
                     theta.count, shape.query_heads);
    return check_thresholds("theta", theta.data, theta.count);
  }

  static Status calibrate(const Latte& mechanism, View<const float> q, View<const float> k,
                          View<const float> v, const Mask& mask,
                          Calibration& calibration) noexcept {
    const bool targeted = mechanism.filtered.given || mechanism.error.given;
    const bool has_thetas = targeted || mechanism.theta.given();
    const bool needs_values = mechanism.value_precision == Precision::int8;
    calibration.key_absmax = absmax_per_head(k);
    if (needs_values) calibration.value_absmax = absmax_per_head(v);
    if (has_thetas) calibration.theta = Array<double>(q.heads);
    if (calibration.key_absmax.empty() || (needs_values && calibration.value_absmax.empty()) ||
        (has_thetas && calibration.theta.empty()))
      return failure(StatusCode::out_of_memory, "no memory for a calibration of %td heads",
                     q.heads);
    if (targeted)
      return try_choose_thetas(mechanism, q, k, v, mask, calibration, calibration.theta.data());
    for (Index h = 0; h < calibration.theta.size(); ++h) calibration.theta[h] = mechanism.theta[h];
    return {};
  }

  static Status check(const Latte& mechanism, const Calibration& calibration,
                      const CacheShape& shape) noexcept {
    const Array<double>& theta = calibration.theta;
    if (!mechanism.theta.given() && theta.empty())
      return failure(StatusCode::invalid_argument,
                     "theta is not given; LATTE needs one, or one per query head, or a target that "
                     "calibration chooses it for");
    if (theta.size() % shape.kv_heads != 0)
      return failure(StatusCode::invalid_argument,
                     "calibration.theta has %td entries; a multiple of the %td KV heads is needed",
                     theta.size(), shape.kv_heads);
    if (Status status = check_thresholds("calibration.theta", theta.data(), theta.size());
        !status.ok())
      return status;
    const Index entries = shape.batch * shape.kv_heads;
    if (Status status = detail::check_absmax("key_absmax", calibration.key_absmax, entries);
        !status.ok())
      return status;
    if (mechanism.value_precision == Precision::fp32) return {};
    return detail::check_absmax("value_absmax", calibration.value_absmax, entries);
  }

  static Status check_queries(const Latte&, const Calibration& calibration, const CacheShape&,
                              View<const float> q) noexcept {
    if (calibration.theta.empty()) return {};
    return detail::check_equal("q.heads", q.heads, "the number of thetas",
                               calibration.theta.size());
  }

  // Afterwards per-head thetas lie in the Calibration alone, and a single one in the mechanism.
  static Status adopt(Latte& mechanism, Calibration& calibration, const CacheShape&,
                      Array<std::uint8_t>&) noexcept {
    const PerHead& theta = mechanism.theta;
    if (!theta.given()) return {};
    calibration.theta = {};
    if (theta.data == nullptr) return {};
    Array<double> copy(theta.count);
    if (copy.size() != theta.count)
      return failure(StatusCode::out_of_memory, "no memory for %td thetas", theta.count);
    for (Index h = 0; h < theta.count; ++h) copy[h] = theta[h];
    calibration.theta = static_cast<Array<double>&&>(copy);
    mechanism.theta = {};
    return {};
  }

  static Index tile_bytes(const Latte& mechanism, Index head_dim, Index value_dim) noexcept {
    return LatteTileLayout(head_dim, value_dim, mechanism.value_precision).bytes();
  }
  static void erase(const Latte& mechanism, Index head_dim, Index value_dim, std::byte* tile,
                    Index first) noexcept {
    LatteTileLayout(head_dim, value_dim, mechanism.value_precision).erase(tile, first);
  }
  static Index query_block(const Latte&, const Shape& shape) noexcept {
    return latte_query_block(shape.head_dim);
  }
  static Index workspace_bytes(const Latte& mechanism, const Shape& shape) noexcept {
    const Index most = latte_query_block(shape.head_dim);
    const Index rows = shape.queries < most ? shape.queries : most;
    const Index tiles = tile_count(shape.keys);
    const Index bytes = LatteWorkspace(nullptr, rows, shape.head_dim, shape.value_dim, tiles).bytes;
    if (!latte_may_be_dense(rows, shape.head_dim, shape.value_dim, mechanism.value_precision))
      return bytes;
    return bytes + latte_unpacked_tiles * dense_tile_bytes(shape.head_dim, shape.value_dim) +
           softmax_workspace_bytes<SoftmaxInt8>(shape.head_dim, shape.value_dim);
  }

  static void pack(const KernelTable& table, const Latte& mechanism, const Calibration& calibration,
                   Index kv_entry, const PackArguments& tokens) noexcept {
    table.latte.pack({tokens, detail::head_scale(calibration.key_absmax, kv_entry).inverse,
                      value_scale(mechanism, calibration, kv_entry).inverse, mechanism.split,
                      mechanism.value_precision});
  }

  static StatisticMerge statistic_merge(const Latte&) noexcept { return StatisticMerge::maximum; }
  static bool is_exact(const Latte&) noexcept { return false; }
  static Index score_bytes(const Latte&, Index head_dim) noexcept {
    return latte_score_bytes(head_dim);
  }

  template <class F>
  static void with_kernel(const KernelTable& table, const Latte& mechanism,
                          const Calibration& calibration, const HeadPosition& head,
                          const BlockArguments& block, const Array<std::uint8_t>&, F f) noexcept {
    LatteArguments arguments{};
    arguments.block = block;
    arguments.split = mechanism.split;
    arguments.theta = calibration.theta.empty() || mechanism.theta.given()
                          ? mechanism.theta[head.query_head]
                          : calibration.theta[head.query_head];
    arguments.scale = mechanism.scale.or_else(default_scale(block.head_dim));
    arguments.key_scale = detail::head_scale(calibration.key_absmax, head.kv_entry()).scale;
    arguments.value_scale = value_scale(mechanism, calibration, head.kv_entry()).scale;
    arguments.value_precision = mechanism.value_precision;
    LatteKernel kernel{table};
    f(kernel, arguments);
  }

 private:
  // At most one way to thetas, and targets that can be met.
  static Status check_targets(const Latte& mechanism) noexcept {
    const Setting &filtered = mechanism.filtered, &error = mechanism.error;
    const char* const given[] = {mechanism.theta.given() ? "theta" : nullptr,
                                 filtered.given ? "filtered" : nullptr,
                                 error.given ? "error" : nullptr};
    const char* first = nullptr;
    for (const char* const name : given) {
      if (name == nullptr) continue;
      if (first != nullptr)
        return failure(StatusCode::invalid_argument,
                       "%s and %s are both given; LATTE takes one of theta, filtered and error",
                       first, name);
      first = name;
    }
    if (filtered.given && !(filtered.value >= 0 && filtered.value < 1))
      return failure(StatusCode::invalid_argument,
                     "filtered is %g; it must be from 0 to less than 1, since the best key of a "
                     "row always survives",
                     filtered.value);
    if (error.given && !(__builtin_isfinite(error.value) && error.value >= 0))
      return failure(StatusCode::invalid_argument,
                     "error is %g; it must be finite and not negative", error.value);
    return {};
  }
  static Index dense_tile_bytes(Index head_dim, Index value_dim) noexcept {
    return round_up(SoftmaxInt8Layout(head_dim, value_dim).bytes(), 64);
  }

  // The level's kernel, and where many keys survive softmax's dense one in the place of its second
  // pass (latte/dense.hpp).
  struct LatteKernel {
    const KernelTable& table;
    SoftmaxArguments dense{};
    bool is_dense = false;

    void prepare(const LatteArguments& arguments) const noexcept { table.latte.prepare(arguments); }
    void statistic(const LatteArguments& arguments) const noexcept {
      table.latte.statistic(arguments);
    }
    void store_statistic(const LatteArguments& arguments, double* statistic) const noexcept {
      table.latte.store_statistic(arguments, statistic);
    }
    void load_statistic(const LatteArguments& arguments, const double* statistic) const noexcept {
      table.latte.load_statistic(arguments, statistic);
    }
    void accumulate(const LatteArguments& arguments) noexcept {
      const BlockArguments& block = arguments.block;
      is_dense = table.latte_dense.is_worth != nullptr && !block.terms.any() &&
                 latte_may_be_dense(block.rows, block.head_dim, block.value_dim,
                                    arguments.value_precision) &&
                 table.latte_dense.is_worth(arguments);
      if (is_dense)
        accumulate_densely(arguments);
      else
        table.latte.accumulate(arguments);
    }
    void finish(const LatteArguments& arguments) const noexcept {
      if (is_dense)
        table.softmax_int8.finish(dense);
      else
        table.latte.finish(arguments);
    }
    void store_part(const LatteArguments& arguments, PartRows<double> part) const noexcept {
      if (!is_dense) {
        table.latte.store_part(arguments, part);
        return;
      }
      table.softmax_int8.store_part(dense, part);
      const LatteWorkspace workspace(arguments.block);
      for (Index r = 0; r < arguments.block.rows; ++r)
        part.kept(r) = static_cast<double>(workspace.kept[r]);
    }
    void finish_part(const LatteArguments& arguments, PartRows<const double> part) const noexcept {
      table.latte.finish_part(arguments, part);
    }

    // Softmax over the survivors of a block whose scores are known, a few tiles at a time.
    void accumulate_densely(const LatteArguments& arguments) noexcept {
      table.latte_dense.mark(arguments);
      const BlockArguments& block = arguments.block;
      const LatteMarks marks(block);
      const SoftmaxInt8Layout layout(block.head_dim, block.value_dim);
      const Index tile_bytes = dense_tile_bytes(block.head_dim, block.value_dim);
      std::byte* unpacked = block.workspace + LatteWorkspace(block).bytes;
      dense.block = block;
      dense.block.visible_words = marks.words - block.tile_begin;
      dense.block.visible_words_stride = marks.stride;
      dense.block.workspace = unpacked + latte_unpacked_tiles * tile_bytes;
      dense.scale = arguments.scale;
      dense.key_scale = arguments.key_scale;
      dense.value_scale = arguments.value_scale;
      table.softmax_int8.prepare(dense);
      for (Index t = block.tile_begin; t < block.tile_end; t += latte_unpacked_tiles) {
        const Index rest = block.tile_end - t;
        const Index count = rest < latte_unpacked_tiles ? rest : latte_unpacked_tiles;
        for (Index i = 0; i < count; ++i)
          if (dense.block.tile_is_visible(t + i)) {
            std::byte* keys = unpacked + i * tile_bytes;
            table.latte_dense.unpack({block.tiles.tile(t + i), block.head_dim, block.value_dim,
                                      keys, layout.steps * layout.step,
                                      keys + layout.values_offset()});
          }
        dense.block.tiles = {unpacked - t * tile_bytes, tile_bytes, nullptr};
        dense.block.tile_begin = t;
        dense.block.tile_end = t + count;
        table.softmax_int8.accumulate(dense);
      }
    }
  };

  static SymmetricScale value_scale(const Latte& mechanism, const Calibration& calibration,
                                    Index kv_entry) noexcept {
    if (mechanism.value_precision == Precision::fp32) return {1.0f, 1.0f};
    return detail::head_scale(calibration.value_absmax, kv_entry);
  }
  static Status check_thresholds(const char* name, const double* theta, Index count) noexcept {
    for (Index h = 0; h < count; ++h)
      if (!(__builtin_isfinite(theta[h]) && theta[h] >= 0))
        return failure(StatusCode::invalid_argument,
                       "%s[%td] is %g; it must be finite and not negative", name, h, theta[h]);
    return {};
  }
};

LOWATT_API_END
