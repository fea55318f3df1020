// Views of Eigen's matrices: extents and strides, element types, and what is refused at compile
// time.
#include <gtest/gtest.h>

#include "lowatt/interop/eigen.hpp"

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using lowatt::View;
using lowatt::view;

// Checks a view of tokens x (heads * dim) by address.
template <class M>
void expect_views(M&& m, lowatt::Index heads) {
  const auto v = view(m, heads);
  ASSERT_EQ(v.batch, 1);
  ASSERT_EQ(v.heads, heads);
  ASSERT_EQ(v.tokens, m.rows());
  ASSERT_EQ(v.dim * heads, m.cols());
  for (lowatt::Index head = 0; head < heads; ++head)
    for (lowatt::Index token = 0; token < v.tokens; ++token)
      EXPECT_EQ(v.row(0, head, token), &m.coeffRef(token, head * v.dim));
}

TEST(EigenView, CoversMatricesMapsAndBlocks) {
  Matrix matrix(6, 8);
  expect_views(matrix, 1);
  expect_views(matrix, 2);
  expect_views(matrix.middleRows(2, 3), 4);
  expect_views(matrix.middleCols(2, 6), 3);
  expect_views(matrix.row(1), 2);
  Eigen::Ref<Matrix> reference(matrix);
  expect_views(reference, 2);
  Eigen::Matrix<float, 3, 4, Eigen::RowMajor> fixed;
  expect_views(fixed, 2);

  float memory[64];
  Eigen::Map<Matrix> map(memory, 4, 8);
  expect_views(map, 2);
  Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>> padded(memory, 4, 6,
                                                                    Eigen::OuterStride<>(16));
  expect_views(padded, 3);
}

TEST(EigenView, KeepsConstness) {
  Matrix matrix(6, 8);
  const Matrix& constant = matrix;
  static_assert(std::is_same_v<decltype(view(matrix)), View<float>>);
  static_assert(std::is_same_v<decltype(view(constant)), View<const float>>);
  static_assert(std::is_same_v<decltype(view(matrix.leftCols(4))), View<float>>);
  static_assert(std::is_same_v<decltype(view(constant.leftCols(4))), View<const float>>);
  static_assert(
      std::is_same_v<decltype(view(std::declval<Eigen::Map<const Matrix>>())), View<const float>>);
}

// A temporary matrix would be gone before its view is used; a temporary Map only refers to memory.
static_assert(lowatt::EigenViewable<Matrix&>);
static_assert(lowatt::EigenViewable<const Matrix&>);
static_assert(lowatt::EigenViewable<Eigen::Map<Matrix>>);
static_assert(!lowatt::EigenViewable<Matrix>);
static_assert(!lowatt::EigenViewable<const Matrix>);
static_assert(!lowatt::EigenViewable<float*>);

// Entry points refuse a view with no channels.
TEST(EigenView, HeadsThatDoNotDivideLeaveNoChannels) {
  Matrix matrix(6, 8);
  EXPECT_EQ(view(matrix, 3).dim, 0);
  EXPECT_EQ(view(matrix, 0).dim, 0);
  EXPECT_EQ(view(matrix, -2).dim, 0);
}

}  // namespace
