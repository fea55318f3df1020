// Lowatt on Eigen's matrices, without copies: the hidden states of a small layer are projected to
// queries, keys and values, heads side by side in each row, and attention writes into a matrix.
//
//   find_package(lowatt REQUIRED)
//   find_package(Eigen3 REQUIRED)
//   add_executable(app 02_eigen.cpp)
//   target_link_libraries(app PRIVATE Eigen3::Eigen)
//   lowatt_add_dispatch(app)
#include <lowatt/interop/eigen.hpp>
#include <lowatt/lowatt.hpp>

#include <cmath>
#include <cstdio>

namespace {

// Row-major: one token per row. Eigen's default is column-major, which lowatt::view() refuses.
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Eigen::Index tokens = 80, hidden = 96, heads = 3, head_dim = 32;

// Plain softmax attention of all heads, for comparison.
Matrix softmax_attention(const Matrix& q, const Matrix& k, const Matrix& v) {
  Matrix out(q.rows(), q.cols());
  for (Eigen::Index h = 0; h < heads; ++h) {
    const auto columns = Eigen::seqN(h * head_dim, head_dim);
    Matrix scores = q(Eigen::all, columns) * k(Eigen::all, columns).transpose();
    scores *= 1 / std::sqrt(static_cast<float>(head_dim));
    const Matrix weights = (scores.colwise() - scores.rowwise().maxCoeff()).array().exp();
    const Matrix sums = weights.rowwise().sum().replicate(1, head_dim);
    out(Eigen::all, columns) = (weights * v(Eigen::all, columns)).cwiseQuotient(sums);
  }
  return out;
}

float relative_error(const Matrix& got, const Matrix& expected) {
  return (got - expected).norm() / expected.norm();
}

}  // namespace

int main() {
  std::srand(1);
  const Matrix states = Matrix::Random(tokens, hidden);
  const Matrix projection = Matrix::Random(hidden, 3 * heads * head_dim) / 5;

  // Q, K and V are column blocks of one product; a view of a block needs no copy.
  const Matrix qkv = states * projection;
  const auto q = qkv.leftCols(heads * head_dim);
  const auto k = qkv.middleCols(heads * head_dim, heads * head_dim);
  const auto v = qkv.rightCols(heads * head_dim);
  const Matrix expected = softmax_attention(q, k, v);

  Matrix out(tokens, heads * head_dim);
  lowatt::attend(lowatt::Softmax{}, lowatt::view(q, heads), lowatt::view(k, heads),
                 lowatt::view(v, heads), lowatt::view(out, heads));
  const float softmax_error = relative_error(out, expected);
  std::printf("softmax: relative error %.2g against Eigen\n", static_cast<double>(softmax_error));

  // LATTE approximates softmax attention: keys whose four-bit score is far below the row's best are
  // left out, the others are computed in int8.
  lowatt::attend(lowatt::Latte{.theta = 5.0}, lowatt::view(q, heads), lowatt::view(k, heads),
                 lowatt::view(v, heads), lowatt::view(out, heads));
  const float latte_error = relative_error(out, expected);
  std::printf("LATTE:   relative error %.2g against Eigen\n", static_cast<double>(latte_error));

  return softmax_error < 1e-4F && latte_error < 0.1F ? 0 : 1;
}
