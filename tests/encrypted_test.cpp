// Encrypted integers on a scheme that shows what it holds: results, intervals, noise, refusals; and
// what attention costs, as formulas of the numbers of tokens and channels (docs/encrypted.md).
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "encrypted_attention.hpp"
#include "support/plain_scheme.hpp"

namespace {

using lowatt::Circuit;
using lowatt::CountingScheme;
using lowatt::EncryptedInteger;
using lowatt::Index;
using lowatt::Interval;
using support::EncryptedKind;
using support::EncryptedShape;
using test::PlainScheme;

using Number = EncryptedInteger<PlainScheme>;
static_assert(lowatt::Scheme<PlainScheme> && lowatt::Scheme<CountingScheme>);
static_assert(lowatt::ArithmeticWithProduct<Number>);
static_assert(!std::is_default_constructible_v<Number> && !std::equality_comparable<Number>);

// The result as a client reads it.
std::int64_t decrypted(const PlainScheme& scheme, Circuit<PlainScheme>& circuit,
                       const Number& number) {
  return scheme.decrypt(circuit.output(number), number.interval().lowest);
}

TEST(Encrypted, WidthOfIntervals) {
  EXPECT_EQ(lowatt::width_of({5, 5}), 0);
  EXPECT_EQ(lowatt::width_of({0, 1}), 1);
  EXPECT_EQ(lowatt::width_of({-1, 1}), 2);
  EXPECT_EQ(lowatt::width_of({0, 15}), 4);
  EXPECT_EQ(lowatt::width_of({-3, 12}), 4);  // 16 integers wherever they begin
  EXPECT_EQ(lowatt::width_of({0, 16}), 5);
}

// All pairs from two ranges: each operation gives what integers give, within its interval, on the
// narrowest scheme that planning allows.
TEST(Encrypted, EveryOperationIsThatOfIntegers) {
  const auto check = [](const char* name, const auto& f) {
    const Interval range_a{-4, 3}, range_b{-2, 6};
    const CountingScheme counting;
    Circuit<CountingScheme> plan(counting);
    const auto planned = f(plan.input({}, range_a), plan.input({}, range_b));
    plan.output(planned);
    ASSERT_TRUE(plan.status().ok()) << name << ": " << plan.status().message;
    const PlainScheme scheme(plan.cost().width, plan.cost().noise);
    for (std::int64_t a = range_a.lowest; a <= range_a.highest; ++a)
      for (std::int64_t b = range_b.lowest; b <= range_b.highest; ++b) {
        Circuit<PlainScheme> circuit(scheme);
        const Number result =
            f(circuit.input(scheme.encrypt(a), range_a), circuit.input(scheme.encrypt(b), range_b));
        const std::int64_t expected = f(a, b);
        EXPECT_EQ(decrypted(scheme, circuit, result), expected) << name << ' ' << a << ' ' << b;
        EXPECT_TRUE(circuit.status().ok()) << circuit.status().message;
        EXPECT_EQ(circuit.cost(), plan.cost()) << name;
        EXPECT_EQ(result.interval(), planned.interval()) << name;
        EXPECT_GE(expected, result.interval().lowest) << name << ' ' << a << ' ' << b;
        EXPECT_LE(expected, result.interval().highest) << name << ' ' << a << ' ' << b;
      }
  };
  using lowatt::arithmetic::abs, lowatt::arithmetic::relu, lowatt::arithmetic::max,
      lowatt::arithmetic::lookup;
  using K = std::int64_t;
  check("+", [](const auto& a, const auto& b) { return a + b; });
  check("-", [](const auto& a, const auto& b) { return a - b; });
  check("negation", [](const auto& a, const auto&) { return -a; });
  check("+ 3", [](const auto& a, const auto&) { return a + K{3}; });
  check("* 3", [](const auto& a, const auto&) { return a * K{3}; });
  check("* -2", [](const auto& a, const auto&) { return a * K{-2}; });
  check("* 0", [](const auto& a, const auto&) { return a * K{0}; });
  check("abs", [](const auto& a, const auto&) { return abs(a); });
  check("relu", [](const auto& a, const auto&) { return relu(a); });
  check("max", [](const auto& a, const auto& b) { return max(a, b); });
  check("product", [](const auto& a, const auto& b) { return a * b; });
  check("square", [](const auto& a, const auto&) { return a * a; });
  check("lookup",
        [](const auto& a, const auto&) { return lookup(a, [](K x) { return x * x * x - 5; }); });
  check("all", [](const auto& a, const auto& b) {
    return max(abs(a) * b, lookup(b - a, [](K x) { return x % 3; }) * K{2}) - relu(b + K{-1});
  });
}

TEST(Encrypted, WhatEachOperationCosts) {
  const CountingScheme scheme;
  Circuit<CountingScheme> circuit(scheme);
  const auto a = circuit.input({}, {-3, 3}), b = circuit.input({}, {-3, 3});
  abs(a), relu(a), max(a, b), lookup(a, [](std::int64_t x) { return x; });
  a *b, a + b, a - b, -a, a + std::int64_t{1}, a *std::int64_t{2};
  EXPECT_EQ(circuit.cost(), (lowatt::CircuitCost{.additions = 2,
                                                 .negations = 1,
                                                 .constant_additions = 1,
                                                 .constant_products = 1,
                                                 .absolutes = 1,
                                                 .relus = 1,
                                                 .functions = 1,
                                                 .maxima = 1,
                                                 .products = 1,
                                                 .width = 4,
                                                 .noise = 2}));
  EXPECT_EQ(circuit.cost().bootstraps(), 6);
  EXPECT_EQ(circuit.cost().operations(), 10);
}

// Whatever is computed from whatever: values lie in their intervals (else PlainScheme's tables
// throw), and the bound of the noise is one.
TEST(Encrypted, IntervalsAndNoiseBoundRandomCircuits) {
  std::mt19937_64 random(7);
  const auto below = [&random](std::size_t end) { return random() % end; };
  const PlainScheme scheme(lowatt::widest_lookup);
  int checked = 0;
  for (int round = 0; round < 300; ++round) {
    Circuit<PlainScheme> circuit(scheme);
    std::vector<Number> numbers;
    std::vector<std::int64_t> plain;
    for (int i = 0; i < 4; ++i) {
      const auto lowest = -static_cast<std::int64_t>(below(5)),
                 highest = lowest + static_cast<std::int64_t>(below(6));
      plain.push_back(lowest + static_cast<std::int64_t>(
                                   below(static_cast<std::size_t>(highest - lowest) + 1)));
      numbers.push_back(circuit.input(scheme.encrypt(plain.back()), {lowest, highest}));
    }
    const auto apply = [&](std::size_t operation, auto& pool, std::size_t i, std::size_t j) {
      using lowatt::arithmetic::abs, lowatt::arithmetic::relu, lowatt::arithmetic::max,
          lowatt::arithmetic::lookup;
      const auto a = pool[i], b = pool[j];
      const auto k = static_cast<std::int64_t>(i) - 2;
      switch (operation) {
        case 0:
          pool.push_back(a + b);
          break;
        case 1:
          pool.push_back(a - b);
          break;
        case 2:
          pool.push_back(-a);
          break;
        case 3:
          pool.push_back(a + k);
          break;
        case 4:
          pool.push_back(a * k);
          break;
        case 5:
          pool.push_back(abs(a));
          break;
        case 6:
          pool.push_back(relu(a));
          break;
        case 7:
          pool.push_back(max(a, b));
          break;
        case 8:
          pool.push_back(a * b);
          break;
        default:
          pool.push_back(lookup(a, [](std::int64_t x) { return x % 5; }));
      }
    };
    for (int step = 0; step < 12 && circuit.cost().width <= 10; ++step) {
      const std::size_t operation = below(10), i = below(plain.size()), j = below(plain.size());
      apply(operation, plain, i, j);
      apply(operation, numbers, i, j);
      const Number& number = numbers.back();
      EXPECT_GE(plain.back(), number.interval().lowest) << operation;
      EXPECT_LE(plain.back(), number.interval().highest) << operation;
      EXPECT_LE(circuit.output(number).noise(), number.noise() * (1 + 1e-12)) << operation;
      EXPECT_EQ(decrypted(scheme, circuit, number), plain.back()) << operation;
      ++checked;
    }
    EXPECT_TRUE(circuit.status().ok()) << circuit.status().message;
  }
  EXPECT_GT(checked, 2000);
}

TEST(Encrypted, NoiseAddsAsVariancesOnlyWhereNothingIsShared) {
  const PlainScheme scheme(8);
  Circuit<PlainScheme> circuit(scheme);
  const Number a = circuit.input(scheme.encrypt(1), {0, 3}),
               b = circuit.input(scheme.encrypt(2), {0, 3}),
               c = circuit.input(scheme.encrypt(3), {0, 3});
  EXPECT_EQ((a + b).noise(), 2);
  EXPECT_EQ((a + b + c).noise(), 3);
  EXPECT_EQ((a + a).noise(), 4);
  EXPECT_EQ((a * std::int64_t{-3}).noise(), 9);
  EXPECT_EQ((a + c - b).noise(), 3 + 2 * std::sqrt(2.0));  // b lies between: it might be shared
  EXPECT_EQ(relu(a + a).noise(), 1);
  EXPECT_EQ((relu(a + a) + a).noise(), 2);

  // The same lookup twice is the same ciphertext, however its input came about.
  EXPECT_EQ((relu(a + b) + relu(b + a)).noise(), 4);
  EXPECT_EQ((relu(a + b) + relu(a + (b - c) + c + std::int64_t{0})).noise(), 4);
  EXPECT_EQ((relu(a - b) + relu(-b + a)).noise(), 4);
  EXPECT_EQ((relu(a * std::int64_t{2}) + relu(a + a)).noise(), 4);
  // Other tables and constants leave noise in common; other combinations do not.
  EXPECT_EQ((relu(a + b) + abs(a + b)).noise(), 4);
  EXPECT_EQ((relu(c + std::int64_t{1}) + relu(c + std::int64_t{2})).noise(), 4);
  EXPECT_EQ((relu(a - c) + relu(c - a)).noise(), 2);
}

TEST(Encrypted, NumbersOfTwoCircuitsAreRefused) {
  const PlainScheme scheme(8);
  Circuit<PlainScheme> one(scheme), other(scheme);
  const Number a = one.input(scheme.encrypt(1), {0, 3}), b = other.input(scheme.encrypt(2), {0, 3});
  a - b;
  EXPECT_STREQ(one.status().message, "two numbers are of different circuits");
}

// Real numbers need steps of their own: they do not compile instead of being cut to integers.
template <class A>
concept HasRealFactors = requires(const A& a) {
  a * 0.5;
};
static_assert(!HasRealFactors<Number> && HasRealFactors<double>);

TEST(Encrypted, TooNarrowASchemeIsRefusedBeforeAndWhileACircuitRuns) {
  const auto circuit_of = [](auto& circuit, const auto& x, const auto& y) {
    const auto a = circuit.input(x, {-3, 3}), b = circuit.input(y, {-3, 3});
    const auto result = abs(a) * b;  // 0..3 and -3..3: sums from -3 to 6, 10 integers
    circuit.output(result);
    return result;
  };
  const CountingScheme counting;
  Circuit<CountingScheme> plan(counting);
  circuit_of(plan, CountingScheme::Ciphertext{}, CountingScheme::Ciphertext{});
  EXPECT_TRUE(plan.status().ok());
  EXPECT_EQ(plan.cost().width, 5);  // the product, -9 to 9

  const PlainScheme wide(5), narrow(4);
  EXPECT_TRUE(lowatt::check_circuit(plan.cost(), wide).ok());
  const lowatt::Status before = lowatt::check_circuit(plan.cost(), narrow);
  EXPECT_STREQ(before.message, "the circuit needs messages of 5 bits; the scheme has 4");

  Circuit<PlainScheme> circuit(narrow);
  circuit_of(circuit, narrow.encrypt(3), narrow.encrypt(3));
  EXPECT_EQ(circuit.status().code, lowatt::StatusCode::out_of_capacity);
  EXPECT_STREQ(circuit.status().message, before.message);
  EXPECT_EQ(circuit.cost(), plan.cost());

  // A scheme that is far too narrow does not even look up: PlainScheme would throw.
  const PlainScheme tiny(1);
  Circuit<PlainScheme> hopeless(tiny);
  circuit_of(hopeless, tiny.encrypt(3), tiny.encrypt(3));
  EXPECT_STREQ(hopeless.status().message, "the circuit needs messages of 3 bits; the scheme has 1");
}

TEST(Encrypted, TooMuchNoiseIsRefused) {
  const PlainScheme scheme(6, 4.0);
  Circuit<PlainScheme> circuit(scheme);
  const Number a = circuit.input(scheme.encrypt(1), {0, 3});
  circuit.output(relu(a + a));
  EXPECT_TRUE(circuit.status().ok());
  relu(a + a + a);
  EXPECT_STREQ(circuit.status().message,
               "the circuit sums up 9 times the noise variance of a fresh ciphertext; at 6 bits "
               "the scheme allows 4");
}

TEST(Encrypted, RangesWithoutEndAreRefused) {
  const CountingScheme scheme;
  const auto message = [&scheme](const auto& f) {
    Circuit<CountingScheme> circuit(scheme);
    f(circuit);
    return std::string(circuit.status().message);
  };
  EXPECT_EQ(message([](auto& circuit) {
              circuit.input({}, {1, 0});
            }),
            "no integer lies in the range 1 to 0");
  const std::string far =
      "the circuit has numbers of more than 30 bits; no lookup has more than 20";
  const std::int64_t large = std::int64_t{1} << 62;
  EXPECT_EQ(message([&](auto& circuit) { circuit.input({}, {0, large}); }), far);
  EXPECT_EQ(message([&](auto& circuit) { circuit.input({}, {1, 2}) * large; }), far);
  EXPECT_EQ(message([&](auto& circuit) { circuit.input({}, {-2, 2}) * -large; }), far);
  EXPECT_EQ(message([&](auto& circuit) { circuit.input({}, {1, 2}) + INT64_MAX; }), far);
  EXPECT_EQ(message([](auto& circuit) {
              relu(circuit.input({}, {0, 1 << 25}));
            }),
            "the circuit needs messages of 26 bits; no lookup has more than 20");
}

constexpr EncryptedKind kinds[] = {EncryptedKind::inhibitor, EncryptedKind::product,
                                   EncryptedKind::softmax};

// Each mechanism on the narrowest scheme that its plan allows gives what it gives on int64.
TEST(Encrypted, AttentionIsThatOfIntegers) {
  std::map<EncryptedKind, int> nonzero;
  for (const int bits : {2, 3, 4})
    for (const bool is_signed : {true, false})
      for (const Index n : {1, 2, 3, 5})
        for (const Index d : {1, 2, 4}) {
          const auto inputs = support::random_inputs(n, d, bits, 0.5, is_signed,
                                                     static_cast<std::uint64_t>(100 * n + d));
          for (const EncryptedKind kind : kinds) {
            const auto plan = support::plan_row(kind, inputs.shape);
            ASSERT_TRUE(plan.status.ok()) << plan.status.message;
            const PlainScheme scheme(plan.cost.width, plan.cost.noise);
            std::vector<PlainScheme::Ciphertext> q, k, v;
            for (const auto x : inputs.q) q.push_back(scheme.encrypt(x));
            for (const auto x : inputs.k) k.push_back(scheme.encrypt(x));
            for (const auto x : inputs.v) v.push_back(scheme.encrypt(x));
            for (Index i = 0; i < n; ++i) {
              const auto from = static_cast<std::size_t>(i * d), dim = static_cast<std::size_t>(d);
              const auto row = support::encrypted_row<PlainScheme>(
                  scheme, kind, inputs.shape, std::span(q).subspan(from, dim), k, v);
              const auto expected = support::attention_row(
                  kind, inputs.shape, inputs.q.data() + from, inputs.k.data(), inputs.v.data());
              ASSERT_TRUE(row.status.ok()) << row.status.message;
              EXPECT_EQ(row.cost, plan.cost);
              for (std::size_t c = 0; c < dim; ++c) {
                EXPECT_EQ(scheme.decrypt(row.out[c], row.intervals[c].lowest), expected[c])
                    << bits << " bits, " << n << " tokens, dim " << d;
                nonzero[kind] += expected[c] != 0;
              }
            }
          }
        }
  for (const EncryptedKind kind : kinds) EXPECT_GT(nonzero[kind], 200);
}

// Bits that tell 2x + 1 integers apart: -x to x.
int bits_of_signed(std::int64_t x) {
  return lowatt::width_of({-x, x});
}

// The formulas in docs/encrypted.md, of one row; m is the largest absolute value of an input.
TEST(Encrypted, CostsFollowTheFormulas) {
  for (const int bits : {2, 3, 4})
    for (Index n = 1; n <= 8; ++n)
      for (Index d = 1; d <= 8; ++d) {
        for (const bool is_signed : {true, false}) {
          const EncryptedShape shape = support::random_inputs(n, d, bits, 1, is_signed, 1).shape;
          const std::int64_t m = shape.limit;
          const auto plan = support::plan_row(EncryptedKind::inhibitor, shape);
          ASSERT_TRUE(plan.status.ok()) << plan.status.message;
          EXPECT_EQ(plan.cost.bootstraps(), n * (d + 1 + (is_signed ? 2 * d : d)));
          EXPECT_EQ(plan.cost.products, 0);
          EXPECT_EQ(plan.cost.maxima, 0);
          // Differences; distances; what inhibition leaves of n values.
          EXPECT_EQ(plan.cost.width,
                    std::max({bits_of_signed(2 * m), lowatt::width_of({0, 2 * m * d}),
                              is_signed ? bits_of_signed(n * m) : lowatt::width_of({0, n * m})}));
          EXPECT_EQ(plan.cost.noise, std::max({Index{2}, d, is_signed ? 2 * n : n}));
        }
        const EncryptedShape shape = support::random_inputs(n, d, bits, 1, true, 1).shape;
        const std::int64_t m = shape.limit;
        const auto product = support::plan_row(EncryptedKind::product, shape);
        ASSERT_TRUE(product.status.ok()) << product.status.message;
        EXPECT_EQ(product.cost.bootstraps(), n * (4 * d + 1));
        EXPECT_EQ(product.cost.products, 2 * n * d);
        // Sums of query and key; dot products; sums of score and value; of n products.
        const std::int64_t score = support::ProductTables{shape}.scaled(d * m * m);
        EXPECT_LE(score, m);
        EXPECT_EQ(product.cost.width,
                  std::max({bits_of_signed(2 * m), bits_of_signed(d * m * m),
                            bits_of_signed(m + score), bits_of_signed(n * score * m)}));
        EXPECT_EQ(product.cost.noise, std::max({Index{2}, 2 * d, 2 * n}));

        const auto softmax = support::plan_row(EncryptedKind::softmax, shape);
        ASSERT_TRUE(softmax.status.ok()) << softmax.status.message;
        EXPECT_EQ(softmax.cost.products, 2 * n * d + d);
        EXPECT_EQ(softmax.cost.maxima, n - 1);
        EXPECT_EQ(softmax.cost.bootstraps(), n * (4 * d + 3) + 2 * d);
        // At the end the inverse, at most m, multiplies a sum of n weighted values.
        EXPECT_EQ(softmax.cost.width,
                  std::max({bits_of_signed(2 * m), bits_of_signed(d * m * m),
                            bits_of_signed(2 * score), bits_of_signed(n * m * m * m)}));
      }
}

}  // namespace
