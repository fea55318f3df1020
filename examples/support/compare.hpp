// Distance of an output from exact softmax attention, computed here in float64.
#pragma once

#include <optional>
#include <vector>

#include "tensor.hpp"

namespace support {

// Per query head; nothing where a figure is undefined (a zero or non-finite tensor).
struct Comparison {
  std::vector<std::optional<double>> rel_l2, cosine;
};

Comparison compare_with_softmax(const Tensors& tensors, const Tensor& out, double scale,
                                bool causal);

}  // namespace support
