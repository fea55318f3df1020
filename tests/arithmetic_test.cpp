// The plain mechanisms on several number types: built-ins, one that hides its value and cannot be
// compared or branched on, and one that has none and counts what is done to it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "lowatt/inhibitor/reference.hpp"
#include "lowatt/interop/encrypted.hpp"
#include "lowatt/softmax/reference.hpp"

namespace {

// What an encrypted integer can do and no more; with or without products of two of them.
template <bool has_product>
class Hidden {
 public:
  using Constant = std::int64_t;

  explicit Hidden(Constant value) : value_(value) {}
  Constant decrypted() const { return value_; }

  friend Hidden operator+(const Hidden& a, const Hidden& b) { return Hidden(a.value_ + b.value_); }
  friend Hidden operator-(const Hidden& a, const Hidden& b) { return Hidden(a.value_ - b.value_); }
  friend Hidden operator-(const Hidden& a) { return Hidden(-a.value_); }
  friend Hidden operator+(const Hidden& a, Constant k) { return Hidden(a.value_ + k); }
  friend Hidden operator*(const Hidden& a, Constant k) { return Hidden(a.value_ * k); }
  friend Hidden operator*(const Hidden& a, const Hidden& b) requires has_product {
    return Hidden(a.value_ * b.value_);
  }
  friend Hidden abs(const Hidden& a) { return Hidden(a.value_ < 0 ? -a.value_ : a.value_); }
  friend Hidden relu(const Hidden& a) { return Hidden(a.value_ < 0 ? 0 : a.value_); }
  friend Hidden max(const Hidden& a, const Hidden& b) {
    return Hidden(a.value_ < b.value_ ? b.value_ : a.value_);
  }
  template <class F>
  friend Hidden lookup(const Hidden& a, F f) {
    return Hidden(f(a.value_));
  }

 private:
  Constant value_;
};

using Multiplicative = Hidden<true>;
using Additive = Hidden<false>;
using Counted = lowatt::EncryptedInteger<lowatt::CountingScheme>;

static_assert(!std::is_default_constructible_v<Multiplicative>);
static_assert(!std::is_convertible_v<Multiplicative, bool>);
static_assert(!std::equality_comparable<Multiplicative>);
static_assert(lowatt::Arithmetic<Multiplicative> && lowatt::ArithmeticWithProduct<Multiplicative>);
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

// What `row` costs, given inputs from -10 to 10: row(query, keys, values, out).
template <class Row>
lowatt::CircuitCost cost_of(const Row& row) {
  const lowatt::CountingScheme scheme;
  lowatt::Circuit<lowatt::CountingScheme> circuit(scheme);
  const auto inputs = [&](std::size_t count) {
    std::vector<Counted> result;
    for (std::size_t i = 0; i < count; ++i) result.push_back(circuit.input({}, {-10, 10}));
    return result;
  };
  const std::vector<Counted> q = inputs(query_data.size()), k = inputs(key_data.size()),
                             v = inputs(value_data.size());
  std::vector<Counted> out(v.begin(), v.begin() + value_dim);
  row(q.data(), k.data(), v.data(), out.data());
  EXPECT_TRUE(circuit.status().ok()) << circuit.status().message;
  return circuit.cost();
}

template <class Steps>
lowatt::CircuitCost inhibitor_cost(bool is_signed, bool center, const Steps& steps) {
  return cost_of([&](const Counted* q, const Counted* k, const Counted* v, Counted* out) {
    lowatt::inhibitor_row(q, k, v, head_dim, value_dim, VisibleRange{0, keys}, is_signed, center,
                          steps, out);
  });
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
      EXPECT_EQ((inhibitor<Multiplicative>(is_signed, false, visible, integer_steps)), expected);
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
  EXPECT_EQ((inhibitor<Multiplicative>(true, true, all, integer_steps)), expected);
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
  const lowatt::CircuitCost cost = inhibitor_cost(true, false, LinearSteps{});
  EXPECT_EQ(cost.constant_products, keys);
  EXPECT_EQ(cost.constant_additions, keys);
  EXPECT_EQ(cost.functions, 0);
}

TEST(Arithmetic, InhibitorCounts) {
  const int n = keys, d = head_dim, dv = value_dim;
  const auto without_bounds = [](lowatt::CircuitCost cost) {
    cost.width = 0;
    cost.noise = 0;
    return cost;
  };
  EXPECT_EQ(without_bounds(inhibitor_cost(false, false, integer_steps)),
            (lowatt::CircuitCost{.additions = n * (2 * d - 1) + n * dv + (n - 1) * dv,
                                 .absolutes = n * d,
                                 .relus = n * dv,
                                 .functions = n}));
  EXPECT_EQ(without_bounds(inhibitor_cost(true, false, integer_steps)),
            (lowatt::CircuitCost{.additions = n * (2 * d - 1) + 3 * n * dv + (n - 1) * dv,
                                 .negations = n * dv,
                                 .absolutes = n * d,
                                 .relus = 2 * n * dv,
                                 .functions = n}));
  EXPECT_EQ(
      without_bounds(inhibitor_cost(false, true, integer_steps)),
      (lowatt::CircuitCost{.additions = 2 * n * (2 * d - 1) + (n - 1) + n + n * dv + (n - 1) * dv,
                           .absolutes = 2 * n * d,
                           .relus = n + n * dv,
                           .functions = n + 1}));
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
    return lookup(difference, [](auto x) {
      return x > 0 ? one : x < -10 ? 0 : one >> static_cast<int>(-x);
    });
  }
  // The sum lies in [one, keys * one]; its inverse is taken in steps of 1 / (8 * one).
  template <class A>
  A inverse(const A& sum_of_weights) const {
    using lowatt::arithmetic::lookup;
    return lookup(sum_of_weights, [](auto x) { return x < one ? 8 : 8 * one / x; });
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
  EXPECT_EQ((dot_product_attention<Multiplicative>(all, PowerOfTwoSteps{})), expected);

  lowatt::CircuitCost cost = cost_of([&](const Counted* q, const Counted* k, const Counted* v,
                                         Counted* out) {
    lowatt::dot_product_attention_row(q, k, v, head_dim, value_dim, all, PowerOfTwoSteps{}, out);
  });
  cost.width = 0;
  cost.noise = 0;
  const int n = keys, d = head_dim, dv = value_dim;
  EXPECT_EQ(cost, (lowatt::CircuitCost{.additions = 2 * n * (d - 1) + n + (n - 1) * (1 + dv),
                                       .constant_products = 2 * n,
                                       .functions = n + 1,
                                       .maxima = n - 1,
                                       .products = 2 * n * d + n * dv + dv}));
}

TEST(Arithmetic, AttentionWithoutSoftmax) {
  // Dot products 34, 29, -34, 36, doubled.
  const std::vector<double> expected = {68 * 50 + 58 * 20 - 68 * -90 + 72 * 0.0,
                                        68 * -50 + 58 * 7 - 68 * 3 + 72 * -33.0};
  const auto attend = [](auto zero) {
    using A = decltype(zero);
    const std::vector<A> q = numbers<A>(query_data), k = numbers<A>(key_data),
                         v = numbers<A>(value_data);
    std::vector<A> out(value_dim, zero);
    lowatt::scaled_product_attention_row(q.data(), k.data(), v.data(), head_dim, value_dim,
                                         VisibleRange{0, keys}, PowerOfTwoSteps{}, out.data());
    return std::vector<double>{plain(out[0]), plain(out[1])};
  };
  EXPECT_EQ(attend(std::int32_t{0}), expected);
  EXPECT_EQ(attend(0.0), expected);
  EXPECT_EQ(attend(Multiplicative(0)), expected);
}

// relu(relu(v) - z) - relu(relu(-v) - z) is the definition; the reference has two of the relus.
TEST(Arithmetic, SignedInhibitionIsWhatItsDefinitionSays) {
  using lowatt::arithmetic::relu;
  const auto defined = [](auto v, auto z) { return relu(relu(v) - z) - relu(relu(-v) - z); };
  for (std::int32_t v = -128; v < 128; ++v)
    for (std::int32_t z = 0; z < 256; ++z)
      ASSERT_EQ(lowatt::inhibited(v, z, true), defined(v, z)) << v << " at " << z;
  const double infinity = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  const double reals[] = {0.0, 1e-310, 0.1, 1.0, 3.7, 1e16, 1e308, infinity, nan};
  for (const double magnitude : reals)
    for (const double v : {magnitude, -magnitude})
      for (const double z : reals) {
        const double found = lowatt::inhibited(v, z, true), expected = defined(v, z);
        EXPECT_EQ(std::isnan(found), std::isnan(expected)) << v << " at " << z;
        if (std::isnan(expected)) continue;
        EXPECT_EQ(found, expected) << v << " at " << z;
        EXPECT_EQ(std::signbit(found), std::signbit(expected)) << v << " at " << z;
      }
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
