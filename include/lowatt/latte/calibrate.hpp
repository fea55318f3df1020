// Thresholds of LATTE's query heads, chosen from sample tensors for a target, in one pass over the
// pairs (see trade_off.hpp). Targets hold for each query head over all its queries and batch
// entries:
//
//   filtered   dropped pairs / visible pairs: at least the target. The largest candidate theta that
//              filters as much, or a smaller one that keeps the same pairs. Where ties with the
//              row's best keep too many, theta is 0.
//   error      |filtered - unfiltered| / |unfiltered|, L2 norms of the head's outputs on the same
//              numbers (keys int8, values as they are stored), all visible keys surviving in the
//              unfiltered one: at most the target. The smallest candidate theta from which on that
//              is so. The largest candidate keeps every pair (but of rows whose scores are
//              infinite), so that any target is reached; it is chosen too where outputs are not
//              finite.
//
// Rows are plain code in double. Memory: as much as K and V of a head take, 36 bytes per key, 40
// bytes per candidate.
#pragma once

#include "../core/mask.hpp"
#include "../core/status.hpp"
#include "../quant/calibration.hpp"
#include "trade_off.hpp"

LOWATT_API_BEGIN

namespace detail {

inline std::int32_t integer_dot(const std::int16_t* a, const std::int16_t* b, Index n) noexcept {
  std::int32_t sum = 0;
  for (Index c = 0; c < n; ++c) sum += a[c] * b[c];
  return sum;
}

inline double dot(const double* a, const float* b, Index n) noexcept {
  return sum_in_lanes(n, [&](Index c) { return a[c] * static_cast<double>(b[c]); });
}
inline double squared_norm(const double* x, Index n) noexcept {
  return sum_in_lanes(n, [&](Index c) { return x[c] * x[c]; });
}
inline double squared_distance(const double* x, const double* y, Index n) noexcept {
  return sum_in_lanes(n, [&](Index c) { return (x[c] - y[c]) * (x[c] - y[c]); });
}

inline void add_row(double* sums, double weight, const float* row, Index n) noexcept {
  for (Index c = 0; c < n; ++c) sums[c] += weight * static_cast<double>(row[c]);
}

// out = sum of weights[j] * row j over the `count` positions j, four at a time to spare loads and
// stores.
inline void weighted_sum(const double* weights, const Index* positions, Index count,
                         const float* rows, Index stride, double* out, Index n) noexcept {
  for (Index c = 0; c < n; ++c) out[c] = 0;
  Index i = 0;
  for (; i + 4 <= count; i += 4) {
    const Index j[4] = {positions[i], positions[i + 1], positions[i + 2], positions[i + 3]};
    const float* const row[4] = {rows + j[0] * stride, rows + j[1] * stride, rows + j[2] * stride,
                                 rows + j[3] * stride};
    for (Index c = 0; c < n; ++c)
      out[c] += weights[j[0]] * static_cast<double>(row[0][c]) +
                weights[j[1]] * static_cast<double>(row[1][c]) +
                weights[j[2]] * static_cast<double>(row[2][c]) +
                weights[j[3]] * static_cast<double>(row[3][c]);
  }
  for (; i < count; ++i) add_row(out, weights[positions[i]], rows + positions[i] * stride, n);
}

struct LatteGap {
  std::uint32_t gap, key;
};

// Sorts by gap, a byte at a time from the lowest. Returns where the result lies: in `gaps` or in
// `other`, which has room for as many.
inline LatteGap* sort_by_gap(LatteGap* gaps, LatteGap* other, Index count,
                             std::uint32_t largest) noexcept {
  for (int shift = 0; shift < 32 && largest >> shift != 0; shift += 8) {
    Index place[256] = {};
    for (Index i = 0; i < count; ++i) ++place[gaps[i].gap >> shift & 255];
    Index before = 0;
    for (Index& first : place) {
      const Index here = first;
      first = before;
      before += here;
    }
    for (Index i = 0; i < count; ++i) other[place[gaps[i].gap >> shift & 255]++] = gaps[i];
    LatteGap* const sorted = other;
    other = gaps;
    gaps = sorted;
  }
  return gaps;
}

}  // namespace detail

enum class LatteFigures {
  pairs,  // kept and visible alone, for which the scores of the nibbles are enough
  all
};

// Puts rows of query heads down in their histograms. Holds keys and values of one KV head as LATTE
// sees them, and the working memory of a row.
class LatteMeter {
 public:
  // Keys and values of KV head g of batch entry b; k and v must outlive the meter's use. Without
  // value_absmax values are float32.
  Status try_assign(View<const float> k, View<const float> v, Index b, Index g, float key_absmax,
                    const float* value_absmax, NibbleSplit split) noexcept {
    k_ = k, v_ = v, b_ = b, g_ = g, split_ = split;
    key_scale_ = symmetric_scale(key_absmax, int8_limit);
    value_scale_ = value_absmax != nullptr ? symmetric_scale(*value_absmax, int8_limit)
                                           : SymmetricScale{1.0f, 1.0f};
    if (dots_.size() != k.tokens || query_.size() != k.dim || output_.size() != v.dim) {
      key_ = key_high_ = Array<std::int16_t>(k.tokens * k.dim);
      value_ = Array<float>(k.tokens * v.dim);
      query_ = query_high_ = Array<std::int16_t>(k.dim);
      gaps_ = Array<detail::LatteGap>(2 * k.tokens);
      seen_ = Array<Index>(k.tokens);
      dots_ = Array<std::int32_t>(k.tokens);
      weights_ = logits_ = Array<double>(k.tokens);
      query_values_ = Array<double>(k.dim);
      survivors_sum_ = output_ = unfiltered_ = softmax_ = Array<double>(v.dim);
    }
    // Of arrays that were assigned together the first is the last to be made.
    if (key_.empty() || value_.empty() || query_.empty() || query_values_.empty() ||
        gaps_.empty() || seen_.empty() || dots_.empty() || weights_.empty() ||
        survivors_sum_.empty())
      return failure(StatusCode::out_of_memory, "no memory to measure thresholds on %td keys",
                     k.tokens);
    for (Index j = 0; j < k.tokens; ++j) {
      encode(k.row(b, g, j), key_scale_.inverse, key_.data() + j * k.dim,
             key_high_.data() + j * k.dim);
      const float* value = v.row(b, g, j);
      for (Index c = 0; c < v.dim; ++c)
        value_[j * v.dim + c] =
            value_absmax != nullptr
                ? static_cast<float>(quantize(value[c], value_scale_.inverse, int8_limit))
                : value[c];
    }
    return {};
  }

  // One query of q's head h and what it sees. `trade_off` is over `candidates`.
  void add(View<const float> q, Index h, Index token, const Mask& mask, double scale,
           const Array<double>& candidates, LatteFigures figures,
           LatteTradeOff& trade_off) noexcept {
    const float* query = q.row(b_, h, token);
    const Index visible = mask.list(b_, h, token, q.tokens, k_.tokens, seen_.data());
    if (visible == 0) return;
    LatteReport& whole = trade_off.whole();
    whole.visible += visible;
    ++whole.rows;
    const SymmetricScale query_scale = symmetric_scale(finite_absmax(query, k_.dim), int8_limit);
    encode(query, query_scale.inverse, query_.data(), query_high_.data());
    const detail::LatteGap* gaps = ranked(visible);
    const auto threshold = [&](Index candidate) {
      return latte_threshold(candidates[candidate], query_scale.scale, key_scale_.scale, scale,
                             k_.dim);
    };
    // What a step of low-precision and of exact scores stands for.
    const double step = latte_unit(query_scale.scale, key_scale_.scale, scale);
    const double unit =
        static_cast<double>(query_scale.scale) * static_cast<double>(key_scale_.scale) * scale;
    if (figures == LatteFigures::pairs) {
      for_each_first(gaps, visible, candidates, step, threshold,
                     [&](Index candidate, Index begin, Index end) {
                       trade_off[candidate].pairs += end - begin;
                     });
      return;
    }

    weigh(visible, unit);
    attend_softmax(query, visible, scale);
    const double rounding = detail::squared_distance(unfiltered_.data(), softmax_.data(), v_.dim);
    whole.unfiltered += detail::squared_norm(unfiltered_.data(), v_.dim);
    whole.softmax += detail::squared_norm(softmax_.data(), v_.dim);
    whole.unfiltered_less_softmax += rounding;

    clear_survivors();
    bool has_best = false;
    double to_unfiltered = 0, to_softmax = 0;  // squared distances with the survivors so far
    const auto keep = [&](Index candidate, Index begin, Index end) {
      LatteTradeOff::Entry& entry = trade_off[candidate];
      const bool had_best = has_best;
      for (Index i = begin; i < end; ++i) {
        const Index j = gaps[i].key;
        entry.mass += weights_[j] / total_weight_;
        has_best = has_best || dots_[j] == best_dot_;
        add_survivor(j, unit);
      }
      write_survivors(output_.data());
      // All keys survive at last: no rounding is left over then.
      const double now_to_unfiltered =
          end == visible ? 0 : detail::squared_distance(output_.data(), unfiltered_.data(), v_.dim);
      const double now_to_softmax =
          end == visible ? rounding
                         : detail::squared_distance(output_.data(), softmax_.data(), v_.dim);
      entry.pairs += end - begin;
      entry.best += has_best && !had_best ? 1 : 0;
      entry.to_unfiltered += to_unfiltered - now_to_unfiltered;
      entry.to_softmax += to_softmax - now_to_softmax;
      to_unfiltered = now_to_unfiltered;
      to_softmax = now_to_softmax;
    };
    for_each_first(gaps, visible, candidates, step, threshold, keep);
  }

 private:
  // A row as int8 and its high nibbles, in the width that dot products take.
  void encode(const float* row, float inverse, std::int16_t* bytes,
              std::int16_t* high) const noexcept {
    for (Index c = 0; c < k_.dim; ++c) {
      const int value = quantize(row[c], inverse, int8_limit);
      bytes[c] = static_cast<std::int16_t>(value);
      high[c] = static_cast<std::int16_t>(high_nibble(value, split_));
    }
  }

  // Gaps of the query's low-precision scores to the best one, smallest first.
  const detail::LatteGap* ranked(Index visible) noexcept {
    std::int32_t best = INT32_MIN, least = INT32_MAX;
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      const std::int32_t low =
          detail::integer_dot(query_high_.data(), key_high_.data() + j * k_.dim, k_.dim);
      dots_[j] = low;
      best = low > best ? low : best;
      least = low < least ? low : least;
    }
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      gaps_[n] = {static_cast<std::uint32_t>(best - dots_[j]), static_cast<std::uint32_t>(j)};
    }
    return detail::sort_by_gap(gaps_.data(), gaps_.data() + k_.tokens, visible,
                               static_cast<std::uint32_t>(best - least));
  }

  // f(candidate, begin, end) for each candidate that is the first to keep some gaps, [begin, end);
  // candidates.size() where none does. threshold(candidate) is the largest gap that it keeps, about
  // theta / step.
  template <class Threshold, class F>
  static void for_each_first(const detail::LatteGap* gaps, Index count,
                             const Array<double>& candidates, double step, Threshold threshold,
                             F f) noexcept {
    Index candidate = 0;
    for (Index begin = 0, end = 0; begin < count; begin = end) {
      const auto gap = static_cast<Index>(gaps[begin].gap);
      // Those up to `candidate` do not keep it. The estimate is off by a rounding at most.
      const double theta = static_cast<double>(gap) * step;
      const Index least = candidate;
      Index beyond = candidates.size();
      while (candidate < beyond) {
        const Index middle = candidate + (beyond - candidate) / 2;
        if (candidates[middle] < theta)
          candidate = middle + 1;
        else
          beyond = middle;
      }
      while (candidate > least && threshold(candidate - 1) >= gap) --candidate;
      while (candidate < candidates.size() && threshold(candidate) < gap) ++candidate;
      const Index most = candidate < candidates.size() ? threshold(candidate) : INT32_MAX;
      while (end < count && static_cast<Index>(gaps[end].gap) <= most) ++end;
      f(candidate, begin, end);
    }
  }

  // Exact scores, softmax weights relative to the best, and the output with all visible keys.
  void weigh(Index visible, double unit) noexcept {
    best_dot_ = INT32_MIN;
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      dots_[j] = detail::integer_dot(query_.data(), key_.data() + j * k_.dim, k_.dim);
      best_dot_ = dots_[j] > best_dot_ ? dots_[j] : best_dot_;
    }
    total_weight_ = 0;
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      weights_[j] = weight(dots_[j], best_dot_, unit);
      total_weight_ += weights_[j];
    }
    detail::weighted_sum(weights_.data(), seen_.data(), visible, value_.data(), v_.dim,
                         unfiltered_.data(), v_.dim);
    const double step = static_cast<double>(value_scale_.scale) / total_weight_;
    for (double& sum : unfiltered_) sum *= step;
  }

  // exp(unit * (dot - best)). Units may be infinite where the difference is 0.
  static double weight(std::int32_t dot, std::int32_t best, double unit) noexcept {
    return dot == best ? 1.0 : __builtin_exp(unit * static_cast<double>(dot - best));
  }

  // Softmax over the survivors added so far, relative to the best of them.
  void clear_survivors() noexcept {
    survivors_best_ = INT32_MIN;
    survivors_weight_ = 0;
    for (double& sum : survivors_sum_) sum = 0;
  }
  void add_survivor(Index j, double unit) noexcept {
    if (dots_[j] > survivors_best_) {
      if (survivors_weight_ > 0) {
        const double shrink = weight(survivors_best_, dots_[j], unit);
        survivors_weight_ *= shrink;
        for (double& sum : survivors_sum_) sum *= shrink;
      }
      survivors_best_ = dots_[j];
    }
    const double added =
        survivors_best_ == best_dot_ ? weights_[j] : weight(dots_[j], survivors_best_, unit);
    survivors_weight_ += added;
    detail::add_row(survivors_sum_.data(), added, value_.data() + j * v_.dim, v_.dim);
  }
  void write_survivors(double* out) const noexcept {
    const double step = static_cast<double>(value_scale_.scale) / survivors_weight_;
    for (Index c = 0; c < v_.dim; ++c) out[c] = survivors_sum_[c] * step;
  }

  // Softmax attention on the float tensors.
  void attend_softmax(const float* query, Index visible, double scale) noexcept {
    for (Index c = 0; c < k_.dim; ++c) query_values_[c] = static_cast<double>(query[c]);
    double best = -__builtin_inf();
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      const double logit = scale * detail::dot(query_values_.data(), k_.row(b_, g_, j), k_.dim);
      logits_[j] = logit;
      best = logit > best ? logit : best;
    }
    double total = 0;
    for (Index n = 0; n < visible; ++n) {
      const Index j = seen_[n];
      total += logits_[j] = __builtin_exp(logits_[j] - best);
    }
    detail::weighted_sum(logits_.data(), seen_.data(), visible, v_.row(b_, g_, 0), v_.token_stride,
                         softmax_.data(), v_.dim);
    for (double& sum : softmax_) sum /= total;
  }

  View<const float> k_, v_;
  Index b_ = 0, g_ = 0;
  NibbleSplit split_ = NibbleSplit::round;
  SymmetricScale key_scale_{}, value_scale_{};
  Array<std::int16_t> key_, key_high_;  // [tokens][head_dim]
  Array<float> value_;                  // [tokens][value_dim]: integers, or fp32 as given

  // Of one row.
  Array<std::int16_t> query_, query_high_;
  Array<double> query_values_;
  Array<Index> seen_;             // positions of visible keys
  Array<detail::LatteGap> gaps_;  // [2][tokens]
  Array<std::int32_t> dots_;      // low-precision scores, then exact ones
  std::int32_t best_dot_ = 0;
  Array<double> weights_;  // softmax of the exact scores times total_weight_
  double total_weight_ = 0;
  Array<double> logits_;                         // of the float tensors, then their softmax
  Array<double> unfiltered_, softmax_, output_;  // [value_dim]
  Array<double> survivors_sum_;                  // [value_dim], weights times values
  double survivors_weight_ = 0;
  std::int32_t survivors_best_ = 0;
};

// Measures query head h over `candidates`. The calibration holds absolute maxima of keys and
// values.
inline Status try_measure(LatteTradeOff& trade_off, LatteMeter& meter, const Latte& mechanism,
                          View<const float> q, View<const float> k, View<const float> v, Index h,
                          const Mask& mask, const Calibration& calibration,
                          const Array<double>& candidates, LatteFigures figures) noexcept {
  const double scale = mechanism.scale.or_else(default_scale(q.dim));
  const Index g = h / (q.heads / k.heads);
  trade_off.clear();
  for (Index b = 0; b < q.batch; ++b) {
    const Index entry = b * k.heads + g;
    const float* value_absmax = mechanism.value_precision == Precision::int8
                                    ? calibration.value_absmax.data() + entry
                                    : nullptr;
    if (Status status = meter.try_assign(k, v, b, g, calibration.key_absmax[entry], value_absmax,
                                         mechanism.split);
        !status.ok())
      return status;
    for (Index i = 0; i < q.tokens; ++i)
      meter.add(q, h, i, mask, scale, candidates, figures, trade_off);
  }
  return {};
}

// Thetas of all query heads for the mechanism's target: theta[query_heads].
inline Status try_choose_thetas(const Latte& mechanism, View<const float> q, View<const float> k,
                                View<const float> v, const Mask& mask,
                                const Calibration& calibration, double* theta) noexcept {
  // The largest unit that a row can have.
  float query_absmax = 0, key_absmax = 0;
  for (Index b = 0; b < q.batch; ++b)
    for (Index h = 0; h < q.heads; ++h) {
      const float absmax = head_absmax(q, b, h);
      query_absmax = absmax > query_absmax ? absmax : query_absmax;
    }
  for (const float absmax : calibration.key_absmax)
    key_absmax = absmax > key_absmax ? absmax : key_absmax;
  const double unit = latte_unit(symmetric_scale(query_absmax, int8_limit).scale,
                                 symmetric_scale(key_absmax, int8_limit).scale,
                                 mechanism.scale.or_else(default_scale(q.dim)));

  const Array<double> candidates = latte_candidates(unit, q.dim);
  LatteTradeOff trade_off(candidates.size());
  if (candidates.empty() || trade_off.empty())
    return failure(StatusCode::out_of_memory, "no memory for candidates of theta");
  LatteMeter meter;
  const bool by_error = mechanism.error.given;
  for (Index h = 0; h < q.heads; ++h) {
    if (Status status = try_measure(trade_off, meter, mechanism, q, k, v, h, mask, calibration,
                                    candidates, by_error ? LatteFigures::all : LatteFigures::pairs);
        !status.ok())
      return status;
    theta[h] = candidates[by_error ? trade_off.find_error(mechanism.error.value)
                                   : trade_off.find_filtered(mechanism.filtered.value)];
  }
  return {};
}

// What given thetas do: reports[query_heads].
inline Status try_report_thetas(const Latte& mechanism, View<const float> q, View<const float> k,
                                View<const float> v, const Mask& mask,
                                const Calibration& calibration, PerHead theta,
                                LatteReport* reports) noexcept {
  Array<double> candidates(1);
  LatteTradeOff trade_off(1);
  if (candidates.empty() || trade_off.empty())
    return failure(StatusCode::out_of_memory, "no memory for a report on theta");
  LatteMeter meter;
  for (Index h = 0; h < q.heads; ++h) {
    candidates[0] = theta[h];
    if (Status status = try_measure(trade_off, meter, mechanism, q, k, v, h, mask, calibration,
                                    candidates, LatteFigures::all);
        !status.ok())
      return status;
    reports[h] = trade_off.report(0);
  }
  return {};
}

LOWATT_API_END
