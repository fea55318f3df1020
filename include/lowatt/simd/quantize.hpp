// Vector form of quantize() (quant/scale.hpp) for a row of 8-bit values; tests hold the two equal.
#pragma once

#include "ops.hpp"

namespace lowatt {

// out[i] = clamp(round_half_even(x[i] * inverse), -127, 127); NaN gives 0. The product is converted
// directly, so there is no addition that a compiler could fuse it with.
template <class L>
void quantize_row(const float* x, Index count, float inverse, std::int8_t* out) noexcept {
  using Float = typename Ops<L>::Float;
  constexpr Index step = 16;
  const Float factor(inverse), lowest(-127.0f), highest(127.0f), zero(0.0f);
  for (Index i = 0; i < count; i += step) {
    const Index present = count - i < step ? count - i : step;
    alignas(64) float part[step] = {};
    alignas(64) std::int32_t rounded[step];
    const float* source = x + i;
    if (present < step) {
      for (Index j = 0; j < present; ++j) part[j] = x[i + j];
      source = part;
    }
    for (Index j = 0; j < step; j += Ops<L>::lanes) {
      Float product = Float::load_unaligned(source + j) * factor;
      product = xsimd::select(product == product, product, zero);
      product = xsimd::min(xsimd::max(product, lowest), highest);
      Ops<L>::store(rounded + j, Ops<L>::round_i32(product));
    }
    if (present == step) {
      for (Index j = 0; j < step; ++j) out[i + j] = static_cast<std::int8_t>(rounded[j]);
    } else {
      for (Index j = 0; j < present; ++j) out[i + j] = static_cast<std::int8_t>(rounded[j]);
    }
  }
}

}  // namespace lowatt
