// The sweep that every kernel is held to: shapes that sit on and beside every boundary of tiles,
// blocks and registers, at every level that this CPU has.
//
// LOWATT_TEST_SAMPLE=N runs a random N percent of the cases (for slow builds), chosen by
// LOWATT_TEST_SEED (default 1); both are printed.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <lowatt/lowatt.hpp>
#include <string>
#include <vector>

#include "sample.hpp"
#include "strided_tensor.hpp"

namespace test {

struct Case {
  lowatt::Shape shape;
  bool causal = false;
  Layout layout = Layout::contiguous;
  unsigned seed = 0;

  std::string name() const {
    return "batch " + std::to_string(shape.batch) + " query heads " +
           std::to_string(shape.query_heads) + " kv heads " + std::to_string(shape.kv_heads) +
           " queries " + std::to_string(shape.queries) + " keys " + std::to_string(shape.keys) +
           " head_dim " + std::to_string(shape.head_dim) + " value_dim " +
           std::to_string(shape.value_dim) + (causal ? " causal" : "") + " layout " +
           std::to_string(static_cast<int>(layout)) + " seed " + std::to_string(seed);
  }
};

// Q, K, V of a case, and an output in the same kind of memory.
struct Inputs {
  explicit Inputs(const Case& c)
      : q(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.head_dim, c.layout),
        k(c.shape.batch, c.shape.kv_heads, c.shape.keys, c.shape.head_dim, c.layout),
        v(c.shape.batch, c.shape.kv_heads, c.shape.keys, c.shape.value_dim, c.layout),
        out(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.value_dim, c.layout),
        expected(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.value_dim) {
    std::mt19937 random(c.seed);
    q.fill_normal(random);
    k.fill_normal(random);
    v.fill_normal(random);
  }
  StridedTensor q, k, v, out, expected;
};

// Levels that this program can run here; those it cannot are named once.
inline const std::vector<lowatt::Level>& levels() {
  static const std::vector<lowatt::Level> available = [] {
    std::vector<lowatt::Level> found;
    const char* only = std::getenv("LOWATT_ARCH");
    for (int i = 0; i < lowatt::level_count; ++i) {
      const auto level = static_cast<lowatt::Level>(i);
      if (!lowatt::level_is_available(level))
        std::printf("SKIPPED level %s: this CPU (%s) cannot run it\n", lowatt::level_name(level),
                    lowatt::level_name(lowatt::cpu_level()));
      else if (only != nullptr && *only != '\0' && std::string(only) != lowatt::level_name(level))
        std::printf("SKIPPED level %s: LOWATT_ARCH=%s\n", lowatt::level_name(level), only);
      else
        found.push_back(level);
    }
    if (found.empty()) {
      std::fprintf(stderr, "LOWATT_ARCH is '%s': no such level can run here\n", only);
      std::exit(1);
    }
    return found;
  }();
  return available;
}

// Every length of the boundary list with every head_dim of the other; what else varies is drawn.
inline std::vector<Case> sweep(unsigned seed = 1) {
  constexpr Index lengths[] = {1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 200, 513};
  constexpr Index dims[] = {1, 3, 8, 31, 32, 40, 64, 80, 96, 128, 160, 256, 300};
  constexpr Index groups[][2] = {{1, 1}, {2, 2}, {4, 2}, {3, 1}};
  std::mt19937 random(seed);
  Sampler samples;
  const auto draw = [&](auto& list) -> auto& {
    return list[random() % std::size(list)];
  };
  std::vector<Case> cases;
  for (const Index length : lengths)
    for (const Index dim : dims) {
      Case c;
      const auto& heads = draw(groups);
      c.shape = {
          random() % 8 == 0 ? 2 : 1,           heads[0], heads[1], draw(lengths), length, dim,
          random() % 2 == 0 ? dim : draw(dims)};
      // The longest rows meet each other only now and then: they cost as much as all the rest.
      if (c.shape.queries * c.shape.keys * dim > 200 * 200 * 128) c.shape.queries = 17;
      c.causal = random() % 2 == 0;
      c.layout = static_cast<Layout>(random() % 3);
      c.seed = static_cast<unsigned>(random());
      if (samples()) cases.push_back(c);
      if (cases.empty() && length == lengths[std::size(lengths) - 1]) cases.push_back(c);
    }
  if (samples.percent < 100)
    std::printf("sampled %zu of %zu cases: LOWATT_TEST_SAMPLE=%d LOWATT_TEST_SEED=%u\n",
                cases.size(), std::size(lengths) * std::size(dims), samples.percent, samples.seed);
  return cases;
}

// |actual - expected| / |expected|, or |actual| where nothing is expected. NaN where only one is
// NaN.
inline double relative_l2(lowatt::View<const float> actual, lowatt::View<const float> expected) {
  double difference = 0, norm = 0;
  for (Index b = 0; b < actual.batch; ++b)
    for (Index h = 0; h < actual.heads; ++h)
      for (Index t = 0; t < actual.tokens; ++t)
        for (Index c = 0; c < actual.dim; ++c) {
          const double a = static_cast<double>(actual.row(b, h, t)[c]);
          const double e = static_cast<double>(expected.row(b, h, t)[c]);
          difference += (a - e) * (a - e);
          norm += e * e;
        }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// Equal float values everywhere; the first difference is reported.
inline void expect_identical(lowatt::View<const float> actual, lowatt::View<const float> expected,
                             const std::string& what) {
  for (Index b = 0; b < actual.batch; ++b)
    for (Index h = 0; h < actual.heads; ++h)
      for (Index t = 0; t < actual.tokens; ++t)
        for (Index c = 0; c < actual.dim; ++c) {
          const float a = actual.row(b, h, t)[c], e = expected.row(b, h, t)[c];
          if (a == e) continue;
          ADD_FAILURE() << what << ": batch " << b << " head " << h << " query " << t << " dim "
                        << c << " is " << a << ", expected " << e;
          return;
        }
}

// Calls each(inputs, zeroed) for every choice of tensors that are all zero: Q is bit 0 of zeroed, K
// bit 1, V bit 2.
template <class Each>
void for_zeroed_tensors(const Case& c, Each each) {
  for (int zeroed = 0; zeroed < 8; ++zeroed) {
    Inputs inputs(c);
    const auto clear = [](float& x) { x = 0; };
    if ((zeroed & 1) != 0) inputs.q.for_each(clear);
    if ((zeroed & 2) != 0) inputs.k.for_each(clear);
    if ((zeroed & 4) != 0) inputs.v.for_each(clear);
    each(inputs, zeroed);
  }
}

inline std::string describe(lowatt::Level level, const Case& c) {
  return std::string(lowatt::level_name(level)) + ", " + c.name();
}

}  // namespace test
