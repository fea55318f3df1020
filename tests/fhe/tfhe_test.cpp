// The small TFHE: products of polynomials, encryption, lookups of all messages, noise against
// formulas, long chains of operations, refusals.
//
// LOWATT_TEST_SAMPLE=N looks up N percent of the messages and repeats what is random that much
// less; LOWATT_TFHE_OPERATIONS is how many operations the chain has, 200 unless given. Widths from
// 6 on take minutes: ctest runs them under the label long.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fhe/keys.hpp"
#include "fhe/noise.hpp"
#include "support/sample.hpp"

namespace {

using namespace lowatt;
using Table = std::vector<std::int64_t>;

// So many, or as many percent of them as are asked for.
int sampled(int count) {
  return std::max(1, count * test::Sampler().percent / 100);
}

// Keys take seconds to make: one pair per width, shared by the tests.
struct Keys {
  explicit Keys(int width) : client(*fhe::smallest_set(width, 1), 1), server(client) {}
  fhe::ClientKey client;
  fhe::ServerKey server;
};

Keys& keys(int width) {
  static std::map<int, std::unique_ptr<Keys>> made;
  std::unique_ptr<Keys>& one = made[width];
  if (!one) one = std::make_unique<Keys>(width);
  return *one;
}

class TfheWidth : public testing::TestWithParam<int> {
 protected:
  const int width = GetParam();
  const std::int64_t size = std::int64_t{1} << width;
};

INSTANTIATE_TEST_SUITE_P(Widths, TfheWidth, testing::Range(2, 9),
                         testing::PrintToStringParamName());

// The mean square of noise must be what formulas say within what so many samples allow: six times
// the standard deviation of their mean square, which is sqrt(2 / samples) of it for a normal
// distribution.
void expect_variance(const std::vector<double>& noise, double expected, const char* what) {
  double sum = 0;
  for (const double x : noise) sum += x * x;
  const double measured = sum / static_cast<double>(noise.size());
  const double tolerance = 6 * std::sqrt(2 / static_cast<double>(noise.size()));
  std::printf("%s: standard deviation 2^%.2f, expected 2^%.2f\n", what, std::log2(measured) / 2,
              std::log2(expected) / 2);
  EXPECT_LT(measured, expected * (1 + tolerance)) << what;
  EXPECT_GT(measured, expected * std::max(0.2, 1 - tolerance)) << what;
}

TEST(TfhePolynomial, ProductWithKeyIsExact) {
  fhe::Random random(1, 0);
  for (const std::size_t n : {4u, 64u, 2048u, 4096u}) {
    const fhe::Transform transform(n);
    std::vector<fhe::Torus> x(n), key(n), product(n), expected(n, 0);
    for (std::size_t j = 0; j < n; ++j) {
      x[j] = random.uniform();
      key[j] = random.bit();
    }
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        const fhe::Torus part = x[i] * key[j];
        expected[(i + j) % n] += i + j < n ? part : fhe::Torus{0} - part;
      }
    }
    fhe::Complexes key_values(n / 2);
    transform.forward([&](std::size_t j) { return static_cast<double>(key[j]); },
                      key_values.data());
    fhe::multiply_by_key(transform, x.data(), key_values.data(), product.data());
    EXPECT_EQ(product, expected) << n;
  }
}

// Products by digits lose what noise.cpp takes for granted.
TEST(TfhePolynomial, ProductWithDigitsIsAsExactAsExpected) {
  fhe::Random random(2, 0);
  constexpr std::size_t n = 2048;
  const fhe::Transform transform(n);
  const fhe::Decomposition decomposition(15, 2);
  std::vector<fhe::Torus> x(n), digits(n), expected(n, 0);
  for (std::size_t j = 0; j < n; ++j) {
    x[j] = random.uniform();
    digits[j] = random.uniform();
  }
  for (std::size_t i = 0; i < n; ++i) {
    const auto digit = static_cast<fhe::Torus>(decomposition.digit(digits[i], 2));
    for (std::size_t j = 0; j < n; ++j) {
      expected[(i + j) % n] += i + j < n ? digit * x[j] : fhe::Torus{0} - digit * x[j];
    }
  }
  fhe::Complexes values(n / 2), other(n / 2), sums(n / 2);
  transform.forward([&](std::size_t j) { return decomposition.real_digit(2)(digits[j]); },
                    values.data());
  transform.forward([&](std::size_t j) { return fhe::to_real(x[j]); }, other.data());
  fhe::add_product(values.data(), other.data(), n / 2, sums.data());
  std::vector<double> errors(n);
  transform.backward(sums.data(), [&](std::size_t j, double product) {
    errors[j] = fhe::to_real(fhe::to_torus(product) - expected[j]);
  });
  expect_variance(errors, n * 0x1p30 / 144 * 1.25 * std::log2(n) * 0x1p-106, "product with digits");
}

TEST(Tfhe, DecompositionIsWithinHalfOfItsLastLevel) {
  fhe::Random random(3, 0);
  for (const auto& [base_bits, levels] :
       {std::pair{23, 1}, {15, 2}, {9, 4}, {4, 5}, {2, 11}, {1, 22}}) {
    const fhe::Decomposition decomposition(base_bits, levels);
    const std::int64_t half_base = std::int64_t{1} << (base_bits - 1);
    for (int i = 0; i < 1000; ++i) {
      const fhe::Torus t = i < 2 ? fhe::Torus{0} - static_cast<fhe::Torus>(i) : random.uniform();
      fhe::Torus sum = 0;
      for (int level = 1; level <= levels; ++level) {
        const std::int64_t digit = decomposition.digit(t + decomposition.offset(), level);
        EXPECT_EQ(decomposition.real_digit(level)(t + decomposition.offset()),
                  static_cast<double>(digit));
        EXPECT_GE(digit, -half_base);
        EXPECT_LT(digit, half_base);
        sum += static_cast<fhe::Torus>(digit) * decomposition.factor(level);
      }
      EXPECT_LE(std::abs(fhe::to_real(t - sum)), std::ldexp(0.5, -base_bits * levels));
    }
  }
}

TEST_P(TfheWidth, DecryptsAllMessagesInAllKindsOfWindows) {
  fhe::ClientKey& client = keys(width).client;
  for (const std::int64_t lowest :
       {std::int64_t{0}, -size / 2, 1 - size, std::int64_t{5}, -3 * size}) {
    for (std::int64_t m = lowest; m < lowest + size; ++m) {
      EXPECT_EQ(client.decrypt(client.encrypt(m), lowest), m) << "window from " << lowest;
    }
  }
}

TEST_P(TfheWidth, LinearOperationsMoveTheWindow) {
  auto& [client, server] = keys(width);
  const std::int64_t half = size / 2;
  const auto a = client.encrypt(half - 1), b = client.encrypt(-half);
  EXPECT_EQ(client.decrypt(server.add(a, b), -half), -1);
  EXPECT_EQ(client.decrypt(server.subtract(a, b), 0), size - 1);
  EXPECT_EQ(client.decrypt(server.negate(b), 0), half);
  EXPECT_EQ(client.decrypt(server.add_constant(a, -size), -size), -half - 1);
  EXPECT_EQ(client.decrypt(server.multiply_constant(client.encrypt(-1), half), -half), -half);
}

TEST_P(TfheWidth, LooksUpAllMessages) {
  fhe::ClientKey& client = keys(width).client;
  const fhe::ServerKey& server = keys(width).server;
  std::mt19937 random(static_cast<unsigned>(width));
  const std::int64_t lowest = -size / 2;
  Table identity, square, absolute, relu, drawn;
  for (std::int64_t m = lowest; m < lowest + size; ++m) {
    identity.push_back(m);
    square.push_back(m * m / 4 % size);
    absolute.push_back(std::abs(m));
    relu.push_back(std::max<std::int64_t>(m, 0));
    drawn.push_back(static_cast<std::int64_t>(random() % static_cast<unsigned>(size)) - 1);
  }
  // The cheap widths try all functions, the others one: what differs is only what is in the
  // polynomial.
  std::vector<const Table*> tables = {&drawn};
  if (width <= 4) tables = {&identity, &square, &absolute, &relu, &drawn};
  test::Sampler in_sample;
  for (const Table* table : tables) {
    const std::int64_t lowest_result = *std::min_element(table->begin(), table->end());
    std::vector<std::size_t> entries;
    for (std::size_t i = 0; i < table->size(); ++i) {
      if (in_sample()) entries.push_back(i);
    }
    std::vector<fhe::Ciphertext> inputs, results(entries.size());
    for (const std::size_t i : entries)
      inputs.push_back(client.encrypt(lowest + static_cast<std::int64_t>(i)));
    // Several threads may use a key at once.
    const auto look_up = [&](std::size_t first) {
      for (std::size_t i = first; i < inputs.size(); i += 2) {
        results[i] = server.lookup(inputs[i], lowest, *table);
      }
    };
    std::thread other(look_up, 1);
    look_up(0);
    other.join();
    for (std::size_t i = 0; i < results.size(); ++i) {
      ASSERT_EQ(client.decrypt(results[i], lowest_result), (*table)[entries[i]])
          << "entry " << entries[i];
    }
  }
}

TEST_P(TfheWidth, NoiseIsWhatFormulasSay) {
  auto& [client, server] = keys(width);
  const fhe::Parameters& p = client.parameters();
  const Table table(static_cast<std::size_t>(size), 1);
  std::vector<double> fresh, sums, results, scaled;
  for (int i = 0; i < 200; ++i) {
    const auto a = client.encrypt(0), b = client.encrypt(0);
    fresh.push_back(client.noise(a, 0));
    sums.push_back(client.noise(server.subtract(server.multiply_constant(a, 3), b), 0));
  }
  for (int i = 0; i < std::max(20, sampled(width <= 4 ? 60 : 20)); ++i) {
    const auto result = server.lookup(client.encrypt(i % size), 0, table);
    results.push_back(client.noise(result, 1));
    scaled.push_back(client.noise(server.multiply_constant(result, -2), -2));
  }
  // Noise is rounded to 2^-64: what the smallest published deviation, 2^-62, has more by that is
  // below 1 %.
  const double encryption = p.glwe_noise * p.glwe_noise;
  expect_variance(fresh, encryption, "encryption");
  expect_variance(sums, 10 * encryption, "three times one less another");
  expect_variance(results, fhe::lookup_variance(p), "lookup");
  expect_variance(scaled, 4 * fhe::lookup_variance(p), "twice a lookup");
}

// With the largest linear work that a set allows for, lookups still succeed: the noise goes up to
// the bound.
TEST_P(TfheWidth, LooksUpAtTheNoiseLimit) {
  auto& [client, server] = keys(width);
  const auto factor = static_cast<std::int64_t>(std::sqrt(server.noise_limit()));
  Table next(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < next.size(); ++i)
    next[i] = static_cast<std::int64_t>((i + 1) % next.size());
  const Table zeros(next.size(), 0);
  for (int i = 0; i < sampled(width <= 4 ? 16 : 4); ++i) {
    const auto noisy = server.multiply_constant(server.lookup(client.encrypt(1), 0, zeros), factor);
    const std::int64_t m = i * 5 % size;
    EXPECT_EQ(client.decrypt(server.lookup(server.add_constant(noisy, m), 0, next), 0),
              (m + 1) % size);
  }
}

// Random additions, subtractions, scalings and lookups on a few integers, beside plain ones.
TEST(Tfhe, ChainsOfOperationsDecrypt) {
  const int operations = test::environment_number("LOWATT_TFHE_OPERATIONS", sampled(200));
  auto& [client, server] = keys(4);
  constexpr std::int64_t size = 16;
  struct Value {
    fhe::Ciphertext encrypted;
    std::int64_t plain, lowest, highest;
    double squared_norm;
  };
  std::mt19937 random(7);
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<unsigned>(n));
  };
  std::vector<Value> values;
  for (int i = 0; i < 6; ++i) {
    const std::int64_t lowest = below(9) - 4, plain = lowest + below(4);
    values.push_back({client.encrypt(plain), plain, lowest, lowest + 3, 1});
  }
  for (int done = 0; done < operations;) {
    const Value& a = values[static_cast<std::size_t>(below(6))];
    const Value& b = values[static_cast<std::size_t>(below(6))];
    Value result;
    switch (below(3)) {
      case 0:
        result = {server.add(a.encrypted, b.encrypted), a.plain + b.plain, a.lowest + b.lowest,
                  a.highest + b.highest, (&a == &b ? 4 : 1) * (a.squared_norm + b.squared_norm)};
        break;
      case 1:
        result = {server.add_constant(server.multiply_constant(a.encrypted, -2), 3),
                  3 - 2 * a.plain, 3 - 2 * a.highest, 3 - 2 * a.lowest, 4 * a.squared_norm};
        break;
      default: {
        // A random function to a quarter of a window: room for additions.
        const std::int64_t lowest = below(9) - 4;
        Table table(static_cast<std::size_t>(a.highest - a.lowest + 1));
        for (std::int64_t& entry : table) entry = lowest + below(4);
        result = {server.lookup(a.encrypted, a.lowest, table),
                  table[static_cast<std::size_t>(a.plain - a.lowest)], lowest, lowest + 3, 1};
      }
    }
    // What shares a part with another has a larger norm than the sum: counted as if all of it were
    // shared.
    if (result.highest - result.lowest >= size || 2 * result.squared_norm > server.noise_limit())
      continue;
    ASSERT_EQ(client.decrypt(result.encrypted, result.lowest), result.plain)
        << "operation " << done;
    values[static_cast<std::size_t>(below(6))] = result;
    ++done;
  }
}

// The formulas are those that the published sets were chosen by.
TEST(Tfhe, PublishedProbabilitiesOfFailureHold) {
  for (const fhe::Parameters& set : fhe::parameter_sets()) {
    const double expected = fhe::log2_lookup_failure(set, set.noise_limit);
    EXPECT_LT(expected, set.log2_lookup_failure + 0.1) << set.name;
    EXPECT_GT(expected, set.log2_lookup_failure - 4) << set.name;
    EXPECT_NO_THROW(fhe::check(set)) << set.name;
  }
}

TEST(Tfhe, SmallestSetIsTheFirstThatFits) {
  int width = 0;
  for (const fhe::Parameters& set : fhe::parameter_sets()) {
    EXPECT_GE(set.width, width) << set.name;
    width = set.width;
    const fhe::Parameters* found = fhe::smallest_set(set.width, set.noise_limit);
    ASSERT_NE(found, nullptr);
    EXPECT_LE(found, &set);
    EXPECT_GE(found->noise_limit, set.noise_limit);
  }
  EXPECT_EQ(fhe::smallest_set(4, 25)->name, std::string("V1_0_MESSAGE_2_CARRY_2_2M40"));
  EXPECT_EQ(fhe::smallest_set(4, 26)->name, std::string("V0_11_MESSAGE_1_CARRY_3_2M64"));
  EXPECT_EQ(fhe::smallest_set(9, 1), nullptr);
  EXPECT_EQ(fhe::smallest_set(8, 85.0 * 85 + 1), nullptr);
}

// Calls each() and returns what it refuses with.
template <class Each>
std::string refusal(Each each) {
  try {
    each();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing was refused";
}

TEST(Tfhe, RefusesWhatItCannotDo) {
  fhe::ClientKey& client = keys(3).client;
  const fhe::ServerKey& server = keys(3).server;
  const auto a = client.encrypt(0);
  EXPECT_EQ(refusal([&] { server.lookup(a, 0, Table(9)); }),
            "table has 9 entries, but a lookup at width 3 takes 1 to 8.");
  EXPECT_EQ(refusal([&] { server.lookup(a, 0, {}); }),
            "table has 0 entries, but a lookup at width 3 takes 1 to 8.");
  EXPECT_EQ(refusal([&] {
              server.add(a, fhe::Ciphertext{{1, 2, 3}});
            }),
            "ciphertext has 3 elements, but under this key it has 2049.");
  EXPECT_EQ(refusal([&] { static_cast<void>(client.decrypt({}, 0)); }),
            "ciphertext has 0 elements, but under this key it has 2049.");

  const auto refused_with = [&](auto change) {
    fhe::Parameters p = client.parameters();
    change(p);
    return refusal([&] { fhe::ClientKey(p, 1); });
  };
  EXPECT_EQ(refused_with([](fhe::Parameters& p) { p.polynomial_size = 1000; }),
            "TFHE parameter polynomial_size is 1000 but must be a power of two from 4 to 32768.");
  EXPECT_EQ(
      refused_with([](fhe::Parameters& p) { p.width = 11; }),
      "TFHE parameter width is 11 but must be from 1 to 15, and 2^width at most polynomial_size.");
  EXPECT_EQ(refused_with([](fhe::Parameters& p) { p.bootstrap_levels = 3; }),
            "TFHE parameter bootstrap_levels is 3 but must be positive, and bootstrap_levels * "
            "bootstrap_base_bits "
            "below 64.");
}

}  // namespace
