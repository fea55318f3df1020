// The body of the Eigen baseline. The units that include it rename Eigen's namespace per level,
// since its functions would otherwise be shared between units with different flags.
#pragma once

#include <Eigen/Dense>
#include <cmath>
#include <lowatt/core/view.hpp>

namespace bench {

// One contiguous head: q [queries, dim], k and v [keys, dim].
static inline void eigen_head(const float* q, const float* k, const float* v, float* out,
                              lowatt::Index queries, lowatt::Index keys, lowatt::Index dim) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Input = Eigen::Map<const Matrix>;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  Matrix scores = Input(q, queries, dim) * Input(k, keys, dim).transpose();
  scores *= scale;
  scores.colwise() -= scores.rowwise().maxCoeff().eval();
  scores = scores.array().exp();
  const Eigen::VectorXf sums = scores.rowwise().sum();
  Eigen::Map<Matrix> result(out, queries, dim);
  result.noalias() = scores * Input(v, keys, dim);
  result.array().colwise() /= sums.array();
}

}  // namespace bench
