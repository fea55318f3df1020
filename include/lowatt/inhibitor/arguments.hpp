// What the integer kernels of the Inhibitor take, whatever their width, and how they write results.
#pragma once

#include "../core/part.hpp"
#include "../simd/write_row.hpp"
#include "pack.hpp"
#include "params.hpp"

namespace lowatt {

struct InhibitorArguments {
  BlockArguments block;
  InhibitorWidth width;               // 8 bits, 4 bits or codes; 16 bits have a kernel of their own
  float query_inverse = 0;            // 1/s of keys and queries
  const float* thresholds = nullptr;  // of thermometer codes, one per plane
  InhibitorConstants constants;
  bool is_signed = true, center = false, normalize = false;
  double value_scale = 0, beta = 1;
};

// H, [rows][stride], to float: in double, left to right, rounded once.
template <class L, class H>
void inhibitor_write(const InhibitorArguments& arguments, const H* inhibited,
                     Index stride) noexcept {
  const BlockArguments& block = arguments.block;
  using Double = typename Ops<L>::Double;
  const Double value_scale(arguments.value_scale), beta(arguments.beta);
  for (Index r = 0; r < block.rows; ++r) {
    const H* row = inhibited + r * stride;
    float* out = block.out + r * block.out_stride;
    const Index count = block.visible_count(r);
    const auto write = [&](auto of_sum) __attribute__((always_inline)) {
      write_row<L>(row, block.value_dim, out, of_sum);
    };
    if (arguments.normalize && count > 0) {
      const Double divisor(static_cast<double>(count));
      write([=](Double sum)
                __attribute__((always_inline)) { return sum * value_scale * beta / divisor; });
    } else {
      write([=](Double sum) __attribute__((always_inline)) { return sum * value_scale * beta; });
    }
  }
}

// Between parts of the keys go sums of distances, where rows are centred, and H: see core/part.hpp.
// The number of keys beside a sum of distances is not the kernel's.
template <class L, class Sum>
void inhibitor_store_statistic(const BlockArguments& block, const Sum* distance_sum,
                               double* statistic) noexcept {
  for (Index r = 0; r < block.rows; ++r)
    statistic[r * statistic_numbers] = static_cast<double>(distance_sum[r]);
}
template <class L, class Sum>
void inhibitor_load_statistic(const BlockArguments& block, const double* statistic,
                              Sum* distance_sum) noexcept {
  for (Index r = 0; r < block.rows; ++r)
    distance_sum[r] = static_cast<Sum>(statistic[r * statistic_numbers]);
}
template <class L, class H>
void inhibitor_store_rows(const BlockArguments& block, const H* inhibited, Index stride,
                          PartRows<double> part) noexcept {
  for (Index r = 0; r < block.rows; ++r) {
    part.weight(r) = part.maximum(r) = part.kept(r) = 0;
    for (Index c = 0; c < part.value_dim; ++c)
      part.sums(r)[c] = static_cast<double>(inhibited[r * stride + c]);
  }
}
template <class L>
void inhibitor_finish_part(const InhibitorArguments& arguments,
                           PartRows<const double> part) noexcept {
  inhibitor_write<L>(arguments, part.sums(0), part.stride());
}

}  // namespace lowatt
