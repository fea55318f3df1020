// One block of queries through a kernel: at once, or a part of its keys at a time.
#pragma once

#include "../core/part.hpp"
#include "adapter.hpp"

LOWATT_API_BEGIN

// What a call gives beside its outputs, where it is asked for. Rows are [batch, query_heads,
// queries].
struct RowOutputs {
  std::int64_t* kept = nullptr;  // [batch * query_heads], to be added to
  float* log_sum_exp = nullptr;  // one per row
};

namespace detail {

inline constexpr Index most_block_rows = 64;

template <class M>
struct Block {
  const KernelTable& table;
  const M& mechanism;
  const Calibration& calibration;
  const Array<std::uint8_t>& tables;
  HeadPosition head;
  Index queries = 1, row = 0;  // query tokens of a head; the block's first among all rows
  BlockArguments arguments;

  // f(kernel, its arguments): see Adapter.
  template <class F>
  void with_kernel(F f) const noexcept {
    Adapter<M>::with_kernel(table, mechanism, calibration, head, arguments, tables, f);
  }
  bool has_statistic() const noexcept {
    return Adapter<M>::statistic_merge(mechanism) != StatisticMerge::none;
  }
};

// Of rows whose parts are merged, sums left out or not. The numbers of keys that two blocks of one
// head keep are added at the same time.
inline void write_row_outputs(PartRows<const double> part, Index rows, Index row, Index queries,
                              const RowOutputs& outputs) noexcept {
  constexpr double ln_2 = 0x1.62e42fefa39efp-1;
  for (Index r = 0; r < rows; ++r) {
    if (outputs.kept != nullptr)
      __atomic_fetch_add(outputs.kept + (row + r) / queries,
                         static_cast<std::int64_t>(part.kept(r)), __ATOMIC_RELAXED);
    if (outputs.log_sum_exp != nullptr)
      outputs.log_sum_exp[row + r] =
          static_cast<float>(ln_2 * (part.maximum(r) + __builtin_log2(part.weight(r))));
  }
}

// The whole block at once.
template <class M>
void attend_block(const Block<M>& block, const RowOutputs& outputs) noexcept {
  block.with_kernel([&](auto& kernel, const auto& arguments) {
    kernel.prepare(arguments);
    if (block.has_statistic()) kernel.statistic(arguments);
    kernel.accumulate(arguments);
    if (outputs.kept != nullptr || outputs.log_sum_exp != nullptr) {
      double headers[most_block_rows * PartRows<double>::header];
      kernel.store_part(arguments, PartRows<double>{headers, 0});
      write_row_outputs({headers, 0}, block.arguments.rows, block.row, block.queries, outputs);
    }
    kernel.finish(arguments);
  });
}

// The statistic of the block's rows with its range of tiles.
template <class M>
void find_statistic(const Block<M>& block, double* statistic) noexcept {
  block.with_kernel([&](auto& kernel, const auto& arguments) {
    kernel.prepare(arguments);
    kernel.statistic(arguments);
    kernel.store_statistic(arguments, statistic);
  });
  const bool counts = Adapter<M>::statistic_merge(block.mechanism) == StatisticMerge::sum;
  for (Index r = 0; r < block.arguments.rows; ++r)
    statistic[r * statistic_numbers + 1] =
        counts ? static_cast<double>(block.arguments.visible_count_in_tiles(r)) : 0.0;
}

// What its range of tiles adds to the block's rows, given the statistic of all keys. Scores that
// find_statistic() did not leave are found once more.
template <class M>
void find_part(Block<M>& block, const double* statistic, PartRows<double> part) noexcept {
  BlockArguments& own = block.arguments;
  Index counts[most_block_rows];
  if (Adapter<M>::statistic_merge(block.mechanism) == StatisticMerge::sum) {
    for (Index r = 0; r < own.rows; ++r)
      counts[r] = static_cast<Index>(statistic[r * statistic_numbers + 1]);
    own.visible_counts = counts;
  }
  const bool needs_scores = Adapter<M>::score_bytes(block.mechanism, own.head_dim) > 0;
  block.with_kernel([&](auto& kernel, const auto& arguments) {
    kernel.prepare(arguments);
    if (needs_scores && own.scores == nullptr) kernel.statistic(arguments);
    if (block.has_statistic()) kernel.load_statistic(arguments, statistic);
    kernel.accumulate(arguments);
    kernel.store_part(arguments, part);
  });
  for (Index r = 0; r < own.rows; ++r)
    part.visible(r) = static_cast<double>(own.visible_count_in_tiles(r));
}

// Outputs from merged parts.
template <class M>
void finish_block(Block<M>& block, PartRows<const double> part,
                  const RowOutputs& outputs) noexcept {
  Index counts[most_block_rows];
  for (Index r = 0; r < block.arguments.rows; ++r) counts[r] = static_cast<Index>(part.visible(r));
  block.arguments.visible_counts = counts;
  block.with_kernel(
      [&](auto& kernel, const auto& arguments) { kernel.finish_part(arguments, part); });
  write_row_outputs(part, block.arguments.rows, block.row, block.queries, outputs);
}

}  // namespace detail

LOWATT_API_END
