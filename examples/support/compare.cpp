#include "compare.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

namespace support {
namespace {

using lowatt::Index;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix head_matrix(const Tensor& tensor, Index head) {
  using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const Floats>(tensor.view().row(0, head, 0), tensor.tokens, tensor.dim)
      .cast<double>();
}

// Exact softmax attention of one head. A block of queries at a time, so that no array of
// queries x keys is held; keys that a query does not see do not reach its
// output.
Matrix softmax_attention(const Matrix& q, const Matrix& k, const Matrix& v, double scale,
                         bool causal) {
  constexpr Index block = 64;
  Matrix out = Matrix::Zero(q.rows(), v.cols());
  for (Index first = 0; first < q.rows(); first += block) {
    const Index rows = std::min(block, q.rows() - first);
    Matrix scores = scale * (q.middleRows(first, rows) * k.transpose());
    for (Index r = 0; r < rows; ++r) {
      const Index visible = causal ? first + r + 1 + k.rows() - q.rows() : k.rows();
      if (visible <= 0) continue;
      auto weights = scores.row(r).head(visible).array();
      weights = (weights - weights.maxCoeff()).exp();
      out.row(first + r) = scores.row(r).head(visible) * v.topRows(visible) / weights.sum();
    }
  }
  return out;
}

std::optional<double> quotient(double numerator, double denominator) {
  const double value = numerator / denominator;
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

Comparison compare_with_softmax(const Tensors& tensors, const Tensor& out, double scale,
                                bool causal) {
  Comparison comparison;
  const Index group = tensors.q.heads / tensors.k.heads;
  for (Index head = 0; head < out.heads; ++head) {
    const Matrix exact =
        softmax_attention(head_matrix(tensors.q, head), head_matrix(tensors.k, head / group),
                          head_matrix(tensors.v, head / group), scale, causal);
    const Matrix got = head_matrix(out, head);
    comparison.rel_l2.push_back(quotient((got - exact).norm(), exact.norm()));
    comparison.cosine.push_back(quotient(got.cwiseProduct(exact).sum(), got.norm() * exact.norm()));
  }
  return comparison;
}

}  // namespace support
