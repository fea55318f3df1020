// What the integer kernels of the Inhibitor take, whatever their width, and how they write results.
#pragma once

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
  const double value_scale = arguments.value_scale, beta = arguments.beta;
  for (Index r = 0; r < block.rows; ++r) {
    const H* __restrict row = inhibited + r * stride;
    float* __restrict out = block.out + r * block.out_stride;
    const Index count = block.visible_count(r);
    if (arguments.normalize && count > 0) {
      const auto divisor = static_cast<double>(count);
      for (Index c = 0; c < block.value_dim; ++c)
        out[c] = static_cast<float>(static_cast<double>(row[c]) * value_scale * beta / divisor);
    } else {
      for (Index c = 0; c < block.value_dim; ++c)
        out[c] = static_cast<float>(static_cast<double>(row[c]) * value_scale * beta);
    }
  }
}

}  // namespace lowatt
