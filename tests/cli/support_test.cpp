// The parts that the programs share, apart from the .npy reader.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "compare.hpp"
#include "number.hpp"
#include "timing.hpp"

namespace {

TEST(Median, IsTheMiddle) {
  EXPECT_EQ(support::median({3}), 3);
  EXPECT_EQ(support::median({3, 1, 2}), 2);
  EXPECT_EQ(support::median({4, 1, 3, 2}), 2.5);
}

TEST(ParseNumber, TakesFiniteNumbersAlone) {
  EXPECT_EQ(support::parse_number("--x", "-0.25"), -0.25);
  EXPECT_EQ(support::parse_number("--x", "1e-3"), 1e-3);
  EXPECT_EQ(support::parse_numbers("--x", "1,2.5,-3"), (std::vector<double>{1, 2.5, -3}));
  EXPECT_EQ(support::parse_integers("--x", "1,-2"), (std::vector<long long>{1, -2}));
  for (const char* bad : {"", " 1", "1 ", "nan", "inf", "1e999", "one"})
    EXPECT_THROW(support::parse_number("--x", bad), support::InputError) << bad;
  for (const char* bad : {"", ",", "1,", ",1", "1,,2", "1;2"})
    EXPECT_THROW(support::parse_numbers("--x", bad), support::InputError) << bad;
}

// Two query heads on one KV head, two keys. Scores of query (a, 0) are scale * a * (1, 0).
TEST(CompareWithSoftmax, MatchesAComputationByHand) {
  support::Tensors tensors;
  tensors.q = {2, 2, 2, {1, 0, 2, 0, 3, 0, -1, 0}};
  tensors.k = {1, 2, 2, {1, 5, 0, 7}};
  tensors.v = {1, 2, 1, {10, 20}};
  const auto expected = [](double score) {
    const double weight = 1 / (1 + std::exp(-score));
    return static_cast<float>(10 * weight + 20 * (1 - weight));
  };
  support::Tensor out{2, 2, 1, {expected(0.5), expected(1), expected(1.5), expected(-0.5)}};
  auto comparison = support::compare_with_softmax(tensors, out, 0.5, false);
  for (std::size_t head = 0; head < 2; ++head) {
    EXPECT_LT(comparison.rel_l2[head].value(), 1e-6);
    EXPECT_NEAR(comparison.cosine[head].value(), 1, 1e-9);
  }
  out.data[0] *= 2;
  comparison = support::compare_with_softmax(tensors, out, 0.5, false);
  EXPECT_NEAR(comparison.rel_l2[0].value(), 1 / std::hypot(1, expected(1) / expected(0.5)), 1e-6);
  EXPECT_LT(comparison.rel_l2[1].value(), 1e-6);
}

TEST(CompareWithSoftmax, HiddenKeysDoNotCount) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  support::Tensors tensors;
  tensors.q = {1, 3, 1, {1, 1, 1}};
  tensors.k = {1, 2, 1, {1, nan}};
  tensors.v = {1, 2, 1, {10, nan}};
  // The first query sees nothing and yields 0, the second sees key 0 alone, the third the NaN.
  const support::Tensor out{1, 3, 1, {0, 10, 0}};
  EXPECT_EQ(support::compare_with_softmax(tensors, out, 1, true).rel_l2[0], std::nullopt);
  tensors.q.tokens = 2;
  tensors.k.tokens = tensors.v.tokens = 1;
  EXPECT_EQ(support::compare_with_softmax(tensors, {1, 2, 1, {0, 10}}, 1, true).rel_l2[0], 0);
}

}  // namespace
