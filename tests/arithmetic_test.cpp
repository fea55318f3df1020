// The plain mechanisms on several number types: built-ins, and one that hides its value, cannot be
// compared or branched on, and counts what is done to it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "lowatt/inhibitor/reference.hpp"
#include "lowatt/softmax/reference.hpp"

namespace {

struct Operations {
  int additions = 0, constant_additions = 0, constant_products = 0, products = 0;
  int lookups = 0, absolutes = 0, relus = 0, maxima = 0;
  bool operator==(const Operations&) const = default;
};

Operations operations;

// What an encrypted integer can do and no more; with or without products of two of them.
template <bool has_product>
class Hidden {
 public:
  using Constant = std::int64_t;

  explicit Hidden(Constant value) : value_(value) {}
  Constant decrypted() const { return value_; }

  friend Hidden operator+(const Hidden& a, const Hidden& b) {
    ++operations.additions;
    return Hidden(a.value_ + b.value_);
  }
  friend Hidden operator-(const Hidden& a, const Hidden& b) {
    ++operations.additions;
    return Hidden(a.value_ - b.value_);
  }
  friend Hidden operator-(const Hidden& a) { return Hidden(-a.value_); }
  friend Hidden operator+(const Hidden& a, Constant k) {
    ++operations.constant_additions;
    return Hidden(a.value_ + k);
  }
  friend Hidden operator*(const Hidden& a, Constant k) {
    ++operations.constant_products;
    return Hidden(a.value_ * k);
  }
  friend Hidden operator*(const Hidden& a, const Hidden& b) requires has_product {
    ++operations.products;
    return Hidden(a.value_ * b.value_);
  }
  friend Hidden abs(const Hidden& a) {
    ++operations.absolutes;
    return Hidden(a.value_ < 0 ? -a.value_ : a.value_);
  }
  friend Hidden relu(const Hidden& a) {
    ++operations.relus;
    return Hidden(a.value_ < 0 ? 0 : a.value_);
  }
  friend Hidden max(const Hidden& a, const Hidden& b) {
    ++operations.maxima;
    return Hidden(a.value_ < b.value_ ? b.value_ : a.value_);
  }
  template <class F>
  friend Hidden lookup(const Hidden& a, F f) {
    ++operations.lookups;
    return Hidden(f(a.value_));
  }

 private:
  Constant value_;
};

using Counted = Hidden<true>;
using Additive = Hidden<false>;

static_assert(!std::is_default_constructible_v<Counted>);
static_assert(!std::is_convertible_v<Counted, bool> && !std::equality_comparable<Counted>);
static_assert(lowatt::Arithmetic<Counted> && lowatt::ArithmeticWithProduct<Counted>);
static_assert(lowatt::Arithmetic<Additive> && !lowatt::ArithmeticWithProduct<Additive>);
static_assert(lowatt::ArithmeticWithProduct<double> && lowatt::ArithmeticWithProduct<float>);
static_assert(lowatt::ArithmeticWithProduct<std::int32_t>);
static_assert(lowatt::ArithmeticWithProduct<std::int64_t>);
static_assert(!lowatt::Arithmetic<void*> && !lowatt::Arithmetic<std::vector<int>>);

using lowatt::Index;
using lowatt::VisibleRange;

constexpr Index head_dim = 3, value_dim = 2, keys = 4;
const std::vector<std::int64_t> query_data = {5, -3, 0};
const std::vector<std::int64_t> key_data = {5, -3, 0, 4, -3, 2, -5, 3, 1, 6, -2, 0};
const std::vector<std::int64_t> value_data = {50, -50, 20, 7, -90, 3, 0, -33};

template <class A>
std::vector<A> numbers(const std::vector<std::int64_t>& plain) {
  std::vector<A> result;
  for (const std::int64_t x : plain) result.push_back(static_cast<A>(x));
  return result;
}

template <class A>
double plain(const A& a) {
  if constexpr (std::is_arithmetic_v<A>)
    return static_cast<double>(a);
  else
    return static_cast<double>(a.decrypted());
}

template <class A, class Steps>
std::vector<double> inhibitor(bool is_signed, bool center, VisibleRange visible,
                              const Steps& steps) {
  const std::vector<A> q = numbers<A>(query_data), k = numbers<A>(key_data),
                       v = numbers<A>(value_data);
  std::vector<A> out(value_dim, static_cast<A>(0));
  lowatt::inhibitor_row(q.data(), k.data(), v.data(), head_dim, value_dim, visible, is_signed,
                        center, steps, out.data());
  std::vector<double> result;
  for (const A& x : out) result.push_back(plain(x));
  return result;
}

// Multiplies distances by 3 and shifts by 2: integers and real numbers agree.
const lowatt::InhibitorIntegerSteps integer_steps{{.multiplier = 3,
                                                   .shift = 0,
                                                   .rounding = 0,
                                                   .alpha = 2,
                                                   .score_cap = 1000,
                                                   .shifted_cap = 1000},
                                                  keys};
const lowatt::InhibitorRealSteps real_steps{3.0, 2.0, keys};

TEST(Arithmetic, InhibitorByHand) {
  // Distances 0, 3, 17, 2; scores 3 * distance - 2, at least 0: 0, 7, 49, 4.
  const VisibleRange all{0, keys};
  EXPECT_EQ((inhibitor<double>(true, false, all, real_steps)),
            (std::vector<double>{50 + 13 - 41, -50 - 29}));
  EXPECT_EQ((inhibitor<double>(false, false, all, real_steps)), (std::vector<double>{50 + 13, 0}));
}

TEST(Arithmetic, InhibitorIsTheSameForAllTypes) {
  for (const bool is_signed : {true, false})
    for (const VisibleRange visible :
         {VisibleRange{0, 4}, VisibleRange{1, 3}, VisibleRange{2, 3}}) {
      const auto expected = inhibitor<double>(is_signed, false, visible, real_steps);
      EXPECT_EQ((inhibitor<std::int32_t>(is_signed, false, visible, integer_steps)), expected);
      EXPECT_EQ((inhibitor<std::int64_t>(is_signed, false, visible, integer_steps)), expected);
      EXPECT_EQ((inhibitor<Counted>(is_signed, false, visible, integer_steps)), expected);
      EXPECT_EQ((inhibitor<Additive>(is_signed, false, visible, integer_steps)), expected);
    }
}

TEST(Arithmetic, CentredInhibitor) {
  // The mean distance is 22 / 4 = 5.5, and 5 in integers: left are 0, 0, 11.5 or 12, 0.
  const VisibleRange all{0, keys};
  EXPECT_EQ((inhibitor<double>(true, true, all, real_steps)),
            (std::vector<double>{50 + 20 - (90 - 32.5), -50 + 7 - 33}));
  const std::vector<double> expected = {50 + 20 - (90 - 34), -50 + 7 - 33};
  EXPECT_EQ((inhibitor<std::int32_t>(true, true, all, integer_steps)), expected);
  EXPECT_EQ((inhibitor<Counted>(true, true, all, integer_steps)), expected);
}

// The same function of a distance from the type's own operations with constants, without a table.
struct LinearSteps {
  template <class A>
  A mean(const A& sum) const {
    using lowatt::arithmetic::lookup;
    return lookup(sum, [](auto x) { return x / static_cast<decltype(x)>(keys); });
  }
  template <class A>
  A shifted(const A& distance) const {
    using lowatt::arithmetic::relu;
    using K = lowatt::Constant<A>;
    return relu(distance * K{3} + K{-2});
  }
};

TEST(Arithmetic, ConstantsCombineWithAllTypes) {
  const VisibleRange all{0, keys};
  const auto expected = inhibitor<double>(true, false, all, real_steps);
  EXPECT_EQ((inhibitor<double>(true, false, all, LinearSteps{})), expected);
  EXPECT_EQ((inhibitor<std::int32_t>(true, false, all, LinearSteps{})), expected);
  EXPECT_EQ((inhibitor<Additive>(true, false, all, LinearSteps{})), expected);
  operations = {};
  EXPECT_EQ((inhibitor<Counted>(true, false, all, LinearSteps{})), expected);
  EXPECT_EQ(operations.constant_products, keys);
  EXPECT_EQ(operations.constant_additions, keys);
  EXPECT_EQ(operations.lookups, 0);
}

TEST(Arithmetic, InhibitorCounts) {
  const int n = keys, d = head_dim, dv = value_dim;
  operations = {};
  inhibitor<Counted>(false, false, {0, keys}, integer_steps);
  EXPECT_EQ(operations, (Operations{.additions = n * (2 * d - 1) + n * dv + (n - 1) * dv,
                                    .lookups = n,
                                    .absolutes = n * d,
                                    .relus = n * dv}));
  operations = {};
  inhibitor<Counted>(true, false, {0, keys}, integer_steps);
  EXPECT_EQ(operations, (Operations{.additions = n * (2 * d - 1) + 3 * n * dv + (n - 1) * dv,
                                    .lookups = n,
                                    .absolutes = n * d,
                                    .relus = 4 * n * dv}));
  operations = {};
  inhibitor<Counted>(false, true, {0, keys}, integer_steps);
  EXPECT_EQ(operations,
            (Operations{.additions = 2 * n * (2 * d - 1) + (n - 1) + n + n * dv + (n - 1) * dv,
                        .lookups = n + 1,
                        .absolutes = 2 * n * d,
                        .relus = n + n * dv}));
}

// Softmax with powers of two for exponentials: integers hold the weights exactly.
struct PowerOfTwoSteps {
  static constexpr int one = 1 << 10;

  template <class A>
  A scaled(const A& dot) const {
    return dot * typename lowatt::Constant<A>{2};
  }
  template <class A>
  A weight(const A& difference) const {
    using lowatt::arithmetic::lookup;
    return lookup(difference, [](auto x) { return x < -10 ? 0 : one >> static_cast<int>(-x); });
  }
  // The sum lies in [one, keys * one]; its inverse is taken in steps of 1 / (8 * one).
  template <class A>
  A inverse(const A& sum_of_weights) const {
    using lowatt::arithmetic::lookup;
    return lookup(sum_of_weights, [](auto x) { return 8 * one / x; });
  }
};

template <class A, class Steps>
std::vector<double> dot_product_attention(VisibleRange visible, const Steps& steps) {
  const std::vector<A> q = numbers<A>(query_data), k = numbers<A>(key_data),
                       v = numbers<A>(value_data);
  std::vector<A> out(value_dim, static_cast<A>(0));
  lowatt::dot_product_attention_row(q.data(), k.data(), v.data(), head_dim, value_dim, visible,
                                    steps, out.data());
  std::vector<double> result;
  for (const A& x : out) result.push_back(plain(x));
  return result;
}

TEST(Arithmetic, DotProductAttentionOnAllTypes) {
  // Dot products 34, 29, -34, 36, doubled; differences from 72: -4, -14, -140, 0.
  const std::vector<double> expected = {64 * 50 * 7.0, (64 * -50 + 1024 * -33) * 7.0};
  const VisibleRange all{0, keys};
  EXPECT_EQ((dot_product_attention<std::int32_t>(all, PowerOfTwoSteps{})), expected);
  EXPECT_EQ((dot_product_attention<std::int64_t>(all, PowerOfTwoSteps{})), expected);
  operations = {};
  EXPECT_EQ((dot_product_attention<Counted>(all, PowerOfTwoSteps{})), expected);
  const int n = keys, d = head_dim, dv = value_dim;
  EXPECT_EQ(operations, (Operations{.additions = 2 * n * (d - 1) + n + (n - 1) * (1 + dv),
                                    .constant_products = 2 * n,
                                    .products = 2 * n * d + n * dv + dv,
                                    .lookups = n + 1,
                                    .maxima = n - 1}));
}

TEST(Arithmetic, DotProductAttentionInDouble) {
  const auto out = dot_product_attention<double>({0, keys}, lowatt::SoftmaxSteps{0.1});
  double total = 0, expected[value_dim] = {};
  for (Index j = 0; j < keys; ++j) {
    double dot = 0;
    for (Index c = 0; c < head_dim; ++c)
      dot += static_cast<double>(query_data[static_cast<std::size_t>(c)] *
                                 key_data[static_cast<std::size_t>(j * head_dim + c)]);
    const double weight = std::exp(0.1 * dot);
    total += weight;
    for (Index c = 0; c < value_dim; ++c)
      expected[c] +=
          weight * static_cast<double>(value_data[static_cast<std::size_t>(j * value_dim + c)]);
  }
  for (Index c = 0; c < value_dim; ++c)
    EXPECT_NEAR(out[static_cast<std::size_t>(c)], expected[c] / total, 1e-12);
}

TEST(Arithmetic, NaNStaysNaN) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(lowatt::arithmetic::relu(nan)));
  EXPECT_TRUE(std::isnan(lowatt::arithmetic::abs(nan)));
  EXPECT_TRUE(std::isnan(lowatt::arithmetic::max(nan, 1.0)));
  EXPECT_TRUE(std::isnan(lowatt::arithmetic::max(1.0, nan)));
}

}  // namespace
