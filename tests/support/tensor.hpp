// Small tensors for tests, and how two of them are compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "lowatt/core/view.hpp"

namespace test {

using lowatt::Index;
using lowatt::View;

// Contiguous [batch, heads, tokens, dim].
template <class T = float>
struct Tensor {
  Index batch = 1, heads = 1, tokens = 1, dim = 1;
  std::vector<T> data;

  Tensor() = default;
  Tensor(Index batch_, Index heads_, Index tokens_, Index dim_)
      : batch(batch_),
        heads(heads_),
        tokens(tokens_),
        dim(dim_),
        data(static_cast<std::size_t>(batch_ * heads_ * tokens_ * dim_)) {}

  View<T> view() { return {data.data(), batch, heads, tokens, dim}; }
  View<const T> view() const { return {data.data(), batch, heads, tokens, dim}; }
  T& at(Index b, Index h, Index t, Index c) { return view().row(b, h, t)[c]; }
  const T& at(Index b, Index h, Index t, Index c) const { return view().row(b, h, t)[c]; }
};

// Standard normal numbers times `size`; the same for the same seed.
inline Tensor<> random_tensor(Index batch, Index heads, Index tokens, Index dim, unsigned seed,
                              float size = 1) {
  Tensor<> tensor(batch, heads, tokens, dim);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (float& x : tensor.data) x = size * normal(generator);
  return tensor;
}

// ||a - b|| / ||b||, or ||a|| where b is 0.
template <class A, class B>
double relative_l2(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace test
