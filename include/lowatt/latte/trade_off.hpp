// What thresholds of one LATTE query head cost and save: figures of every candidate theta from one
// pass over the pairs.
//
// A pair survives where its gap to the row's best score is at most T_i(theta), which grows with
// theta: among candidates in rising order each pair has a first one that keeps it. What the pair
// changes by being kept is put down there, in a histogram; the figures of a candidate are sums over
// the entries behind its own. T_i is computed as the kernels compute it, so that the pairs counted
// are those that attending keeps, exactly.
#pragma once

#include "../core/array.hpp"
#include "params.hpp"

LOWATT_API_BEGIN

// What a threshold does to the outputs of a query head, over all its queries and batch entries.
// Sums over rows, which add up over heads.
struct LatteReport {
  Index kept = 0, visible = 0;  // pairs
  Index rows = 0;               // queries that see a key
  Index best_lost = 0;          // rows of which no key with the largest exact score survived
  double mass_lost = 0;         // softmax of the exact int8 scores, over dropped keys
  // Squared L2 norms of outputs and of their differences. Unfiltered: on the same int8 values, all
  // visible keys. Softmax: on the float tensors, in double.
  double filtered_less_unfiltered = 0, unfiltered = 0;
  double filtered_less_softmax = 0, unfiltered_less_softmax = 0, softmax = 0;

  // Shares: of pairs; of a row's softmax mass, the mean over rows; of rows.
  double filtered() const noexcept {
    return share(static_cast<double>(visible - kept), static_cast<double>(visible));
  }
  double mass_dropped() const noexcept { return share(mass_lost, static_cast<double>(rows)); }
  double best_keys_lost() const noexcept {
    return share(static_cast<double>(best_lost), static_cast<double>(rows));
  }
  // Relative L2 errors of the output: what filtering adds, and the distance from softmax with and
  // without it. The latter are not finite where softmax attention is not.
  double error() const noexcept { return root(share(filtered_less_unfiltered, unfiltered)); }
  double error_to_softmax() const noexcept { return root(share(filtered_less_softmax, softmax)); }
  double unfiltered_error_to_softmax() const noexcept {
    return root(share(unfiltered_less_softmax, softmax));
  }

  LatteReport& operator+=(const LatteReport& other) noexcept {
    kept += other.kept;
    visible += other.visible;
    rows += other.rows;
    best_lost += other.best_lost;
    mass_lost += other.mass_lost;
    filtered_less_unfiltered += other.filtered_less_unfiltered;
    unfiltered += other.unfiltered;
    filtered_less_softmax += other.filtered_less_softmax;
    unfiltered_less_softmax += other.unfiltered_less_softmax;
    softmax += other.softmax;
    return *this;
  }

 private:
  static double share(double part, double whole) noexcept { return part == 0 ? 0 : part / whole; }
  // Sums of differences may end below 0 by a rounding.
  static double root(double x) noexcept { return x < 0 ? 0 : __builtin_sqrt(x); }
};

// Candidates for theta: 0 and, over 24 octaves up to one that keeps every pair, all numbers of
// eleven significant bits (steps of at most 2^-10 of themselves). `unit` is the largest product 256
// * sq * sk * scale among the rows: what a step of a low-precision score stands for. Empty when
// memory runs out.
inline Array<double> latte_candidates(double unit, Index head_dim) noexcept {
  constexpr int bits = 10;  // behind the leading one
  constexpr int dropped_bits = 52 - bits;
  constexpr std::int64_t step = std::int64_t{1} << dropped_bits;
  constexpr std::int64_t most = std::int64_t{24} << bits;
  // Positive doubles are ordered as their bit patterns are. Scores beyond double end at its
  // largest.
  const double farthest = static_cast<double>(latte_largest_gap(head_dim)) * unit;
  const std::int64_t largest =
      __builtin_bit_cast(std::int64_t, farthest < __DBL_MAX__ ? farthest : __DBL_MAX__);
  // One more than reaches it, since quotients are rounded.
  const std::int64_t limit = __builtin_bit_cast(std::int64_t, __DBL_MAX__) / step;
  const std::int64_t wanted = largest / step + 2;
  const std::int64_t last = unit == 0 ? 0 : wanted < limit ? wanted : limit;
  const std::int64_t count = last < most ? last : most;
  Array<double> candidates(count + 1);
  for (std::int64_t i = 1; i < candidates.size(); ++i)
    candidates[i] = __builtin_bit_cast(double, (last - count + i) * step);
  return candidates;
}

// The histogram of one query head.
class LatteTradeOff {
 public:
  // What keeping the pairs of one entry changes.
  struct Entry {
    Index pairs = 0;
    Index best = 0;  // rows whose best key is among them
    double mass = 0;
    // By how much squared distances shrink.
    double to_unfiltered = 0, to_softmax = 0;
  };

  // For `candidates` thresholds; empty() when memory runs out.
  explicit LatteTradeOff(Index candidates) noexcept : entries_(candidates + 1) {}
  bool empty() const noexcept { return entries_.empty(); }

  Index candidates() const noexcept { return entries_.size() - 1; }
  // Entry candidates() is for pairs that no candidate keeps.
  Entry& operator[](Index candidate) noexcept { return entries_[candidate]; }
  // What does not depend on the threshold: pairs and rows seen, norms.
  LatteReport& whole() noexcept { return whole_; }

  void clear() noexcept {
    for (Entry& entry : entries_) entry = {};
    whole_ = {};
  }

  LatteReport report(Index candidate) const noexcept {
    LatteReport report = unfiltered();
    for (Index c = candidates(); c > candidate; --c) drop(report, c);
    return report;
  }

  // The largest candidate that drops at least this share of the pairs, or a smaller one that keeps
  // the same pairs; 0 where none drops as many.
  Index find_filtered(double share) const noexcept {
    Index c = candidates() - 1;
    LatteReport report = this->report(c);
    for (; c > 0 && report.filtered() < share; --c) drop(report, c);
    while (c > 0 && entries_[c].pairs == 0) --c;
    return c;
  }

  // The smallest candidate from which on the added error is at most this; the largest candidate
  // where there is none.
  Index find_error(double error) const noexcept {
    Index c = candidates() - 1;
    LatteReport report = this->report(c);
    for (; c > 0; --c) {
      drop(report, c);
      if (!(report.error() <= error)) break;
    }
    return c;
  }

 private:
  LatteReport unfiltered() const noexcept {
    LatteReport report = whole_;
    report.kept = whole_.visible;
    report.filtered_less_softmax = whole_.unfiltered_less_softmax;
    return report;
  }
  // From candidate c to the one before.
  void drop(LatteReport& report, Index c) const noexcept {
    const Entry& entry = entries_[c];
    report.kept -= entry.pairs;
    report.best_lost += entry.best;
    report.mass_lost += entry.mass;
    report.filtered_less_unfiltered += entry.to_unfiltered;
    report.filtered_less_softmax += entry.to_softmax;
  }

  Array<Entry> entries_;
  LatteReport whole_;
};

LOWATT_API_END
