// What the attention layer asks of a mechanism. One specialisation per mechanism, in the file of
// its name beside this one; validation, caches and planning are written once over them.
#pragma once

#include "../core/part.hpp"
#include "../core/tiles.hpp"
#include "../quant/calibration.hpp"
#include "options.hpp"
#include "validate.hpp"

LOWATT_API_BEGIN

// Which head a block of queries belongs to. Entries of a Calibration are per batch entry and head.
struct HeadPosition {
  Index batch = 0, query_head = 0, kv_head = 0;
  Index query_heads = 0, kv_heads = 0;

  Index query_entry() const noexcept { return batch * query_heads + query_head; }
  Index kv_entry() const noexcept { return batch * kv_heads + kv_head; }
};

// template <> struct Adapter<M> {
//   static constexpr const char* mechanism_name;
//   static const char* layout(const M&) noexcept;
//       How its tiles are drawn in pack*.hpp. The number at its end goes up when that changes.
//   static void each_parameter(M&, Each&&) noexcept;
//       Calls each(parameter) for every one, in an order that saved caches rely on.
//   static constexpr bool heads_share_blocks;
//       Whether the rows of a block may belong to different query heads of one KV head.
//   static Status validate(const M&, const Shape&) noexcept;
//       Parameters alone and against extents; one sentence names argument and value. Shape.queries
//       and Shape.query_heads are 0 while only a cache is being made.
//   static Status calibrate(const M&, View<const float> q, k, v, const Mask&, Calibration&)
//   noexcept;
//       Fills the entries that packing and attending need, from the tensors.
//   static Status check(const M&, const Calibration&, const CacheShape&) noexcept;
//       Whether a Calibration has those entries, in number and value.
//   static Status check_queries(const M&, const Calibration&, const CacheShape&,
//                               View<const float> q) noexcept;
//       Whether the Calibration fits these queries too.
//   static Status adopt(M&, Calibration&, const CacheShape&, Array<std::uint8_t>& tables) noexcept;
//       What a cache keeps: copies per-head arrays that the parameters refer to into the
//       Calibration, and computes what would else be computed for every block of queries.
//   static Index tile_bytes(const M&, Index head_dim, Index value_dim) noexcept;
//   static void erase(const M&, Index head_dim, Index value_dim, std::byte* tile, Index first)
//   noexcept;
//       Makes the tokens of a tile from `first` on padding again, 1 <= first < 64.
//   static void limit_codes(const M&, Index head_dim, std::byte* tile) noexcept;
//       Limits a tile from elsewhere to codes that packing could have written. Only where kernels
//       rely on that.
//   static Index query_block(const M&, const Shape&) noexcept;      rows per task
//   static Index workspace_bytes(const M&, const Shape&) noexcept;  per worker, a multiple of 64
//   static void pack(const KernelTable&, const M&, const Calibration&, Index kv_entry,
//                    const PackArguments&) noexcept;   kv_entry = batch * kv_heads + kv head
//   static StatisticMerge statistic_merge(const M&) noexcept;
//       How statistics of parts of a row's keys merge; none where rows need none.
//   static Index score_bytes(const M&, Index head_dim) noexcept;
//       Bytes per row and key that statistic leaves for accumulate; 0 where it leaves none.
//   static bool is_exact(const M&) noexcept;
//       Whether parts merge to the same bits however keys are split.
//   static constexpr bool has_log_sum_exp;
//   static constexpr bool has_score_terms;
//       Whether biases, slopes and sinks may be added to scores.
//   template <class F>
//   static void with_kernel(const KernelTable&, const M&, const Calibration&, const HeadPosition&,
//                           const BlockArguments&, const Array<std::uint8_t>& tables, F f)
//                           noexcept;
//       f(kernel, its arguments), where kernel has the functions of Kernel (dispatch/table.hpp).
// };
template <class M>
struct Adapter;

namespace detail {

template <class M>
Status check_score_terms(const CallScoreTerms& terms, const Shape& shape, Index keys) noexcept {
  const struct {
    const char* name;
    const void* given;
    const float* per_head;
  } all[] = {{"bias", terms.bias.data, nullptr},
             {"alibi_slopes", terms.slopes, terms.slopes},
             {"sinks", terms.sinks, terms.sinks}};
  for (const auto& term : all) {
    if (term.given != nullptr && !Adapter<M>::has_score_terms)
      return failure(StatusCode::unsupported,
                     "options.%s is given; only softmax and LATTE have scores to add to",
                     term.name);
    for (Index h = 0; term.per_head != nullptr && h < shape.query_heads; ++h)
      if (!__builtin_isfinite(term.per_head[h]))
        return failure(StatusCode::invalid_argument, "%s[%td] is %g; it must be finite", term.name,
                       h, static_cast<double>(term.per_head[h]));
  }
  return check_per_pair("bias", terms.bias, shape, keys, "the number of keys");
}

inline Status check_scale(const Setting& scale) noexcept {
  if (scale.given && !(__builtin_isfinite(scale.value) && scale.value > 0))
    return failure(StatusCode::invalid_argument, "scale is %g; it must be finite and positive",
                   scale.value);
  return {};
}

inline Status check_clip(const Setting& clip) noexcept {
  if (clip.given && !(clip.value >= 0 && clip.value <= __FLT_MAX__))
    return failure(StatusCode::invalid_argument,
                   "clip is %g; it must be not negative and finite in float32", clip.value);
  return {};
}

// A given clip goes before the Calibration's.
inline float head_clip(const Setting& clip, const Calibration& calibration,
                       Index kv_entry) noexcept {
  return clip.given ? static_cast<float>(clip.value) : calibration.clip[kv_entry];
}

// The 8-bit scale of one head.
inline SymmetricScale head_scale(const Array<float>& absmax, Index entry) noexcept {
  return symmetric_scale(absmax[entry], int8_limit);
}

// Absolute maxima of a calibration: one per entry, finite and not negative.
inline Status check_absmax(const char* name, const Array<float>& values, Index expected) noexcept {
  if (values.size() != expected)
    return failure(StatusCode::invalid_argument, "calibration.%s has %td entries; %td are needed",
                   name, values.size(), expected);
  for (Index i = 0; i < expected; ++i)
    if (!(__builtin_isfinite(values[i]) && values[i] >= 0))
      return failure(StatusCode::invalid_argument,
                     "calibration.%s[%td] is %g; it must be finite and not negative", name, i,
                     static_cast<double>(values[i]));
  return {};
}

}  // namespace detail

LOWATT_API_END
