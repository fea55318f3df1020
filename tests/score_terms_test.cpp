// What a call may add to softmax's scores: soft cap, bias, ALiBi, sinks, alone and together,
// against the reference. LATTE's: latte_score_terms_test.cpp.
#include <lowatt/softmax/reference.hpp>

#include "support/float_check.hpp"

namespace {

using lowatt::Index;
using lowatt::Latte;
using lowatt::Options;
using lowatt::Precision;
using lowatt::Softmax;
using test::Case;
using test::Inputs;
using test::StridedTensor;

class ScoreTerms : public testing::TestWithParam<Precision> {
 protected:
  // Beyond fp32's bound only where tile registers would round weights; such calls do not use them.
  static constexpr double tolerance = 2e-5;

  void expect_near(const Softmax& mechanism, const Case& c, Inputs& inputs, Options options) {
    const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
    options.causal = c.causal;
    const lowatt::Status status = lowatt::softmax_reference(
        mechanism, q, k, v, inputs.expected.view(), c.causal, nullptr, options.score_terms());
    ASSERT_TRUE(status.ok()) << status.message;
    for (const lowatt::Level level : test::levels()) {
      options.level = level;
      inputs.out.for_each([](float& x) { x = -1e30f; });
      lowatt::attend(mechanism, q, k, v, inputs.out.view(), options);
      test::expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                         tolerance, test::describe(level, c));
      EXPECT_TRUE(inputs.out.gaps_are_untouched()) << test::describe(level, c);
    }
  }
};

// A sweep with some of the four drawn for each case.
TEST_P(ScoreTerms, Sweep) {
  for (const Case& c : test::sweep(61)) {
    std::mt19937 random(c.seed);
    Inputs inputs(c);
    Softmax mechanism{.precision = GetParam()};
    if (random() % 2 == 0) mechanism.soft_cap = random() % 2 == 0 ? 1.5 : 30.0;
    Options options;
    StridedTensor bias(random() % 2 == 0 ? c.shape.batch : 1,
                       random() % 2 == 0 ? c.shape.query_heads : 1, c.shape.queries, c.shape.keys,
                       c.layout);
    bias.fill_normal(random, 3);
    if (random() % 2 == 0) options.bias = std::as_const(bias).view();
    const std::vector<float> slopes{0.5f, 0.03f, 0, -0.01f}, sinks{1, -3, 8, 0};
    if (random() % 2 == 0) options.alibi_slopes = slopes.data();
    // At least a sink: with nothing the call would be another one.
    if (random() % 2 == 0 || !(mechanism.soft_cap.given || options.score_terms().any()))
      options.sinks = sinks.data();
    expect_near(mechanism, c, inputs, options);
  }
}

// One query per head: heads share a block.
TEST_P(ScoreTerms, GroupedHeadsInDecode) {
  const Case c{{2, 12, 2, 1, 333, 40, 24}};
  Inputs inputs(c);
  std::mt19937 random(3);
  StridedTensor shared(1, 1, 1, 333), each(2, 12, 1, 333, test::Layout::padded);
  shared.fill_normal(random, 2);
  each.fill_normal(random, 2);
  std::vector<float> slopes(12), sinks(12);
  for (std::size_t h = 0; h < 12; ++h) {
    slopes[h] = 0.01f * static_cast<float>(h);
    sinks[h] = static_cast<float>(h) - 6;
  }
  for (const auto bias : {std::as_const(shared).view(), std::as_const(each).view()})
    expect_near({.soft_cap = 20, .precision = GetParam()}, c, inputs,
                {.bias = bias, .alibi_slopes = slopes.data(), .sinks = sinks.data()});
}

// Keys in parts: terms follow the keys, and a sink counts once.
TEST_P(ScoreTerms, SplitKeys) {
  const Case c{{1, 2, 1, 2, 5000, 32, 16}, true};
  Inputs inputs(c);
  std::mt19937 random(4);
  StridedTensor bias(1, 2, 2, 5000);
  bias.fill_normal(random, 2);
  const float slopes[] = {0.001f, 0.1f}, sinks[] = {5, 9};
  expect_near({.precision = GetParam()}, c, inputs,
              {.bias = std::as_const(bias).view(), .alibi_slopes = slopes, .sinks = sinks});
}

// Biases of hidden keys are nothing to anybody.
TEST_P(ScoreTerms, HiddenBiasesReachNothing) {
  const Case c{{1, 1, 1, 20, 150, 16, 8}, true};
  Inputs inputs(c);
  StridedTensor bias(1, 1, 20, 150);
  std::mt19937 random(5);
  bias.fill_normal(random);
  const lowatt::View<float> view = bias.view();
  for (Index i = 0; i < 20; ++i)
    for (Index j = i + 131; j < 150; ++j)
      view.row(0, 0, i)[j] = std::numeric_limits<float>::quiet_NaN();
  expect_near({.precision = GetParam()}, c, inputs, {.bias = std::as_const(bias).view()});
  EXPECT_TRUE(std::isfinite(inputs.out.view().row(0, 0, 0)[0]));
}

// A bias of -infinity hides a key.
TEST_P(ScoreTerms, BiasOfMinusInfinity) {
  const Case c{{1, 1, 1, 9, 130, 16, 8}};
  Inputs inputs(c);
  StridedTensor bias(1, 1, 9, 130);
  bias.for_each([n = 0](float& x) mutable {
    x = ++n % 3 == 0 ? 0.5f : -std::numeric_limits<float>::infinity();
  });
  expect_near({.precision = GetParam()}, c, inputs, {.bias = std::as_const(bias).view()});
}

TEST_P(ScoreTerms, ExtremeCapsAndSinks) {
  const Case c{{1, 2, 2, 5, 70, 16, 8}};
  Inputs inputs(c);
  for (const double cap : {1e-30, 1e-3, 1e3, 1e37})
    expect_near({.scale = 3, .soft_cap = cap, .precision = GetParam()}, c, inputs, {});
  const float sinks[] = {-1e30f, 60};
  expect_near({.precision = GetParam()}, c, inputs, {.sinks = sinks});
  // All weight is the sink's.
  const float heavy[] = {1e30f, 3000};
  lowatt::attend(Softmax{.precision = GetParam()}, inputs.q.view(), inputs.k.view(),
                 inputs.v.view(), inputs.out.view(), {.sinks = heavy});
  inputs.out.for_each([](float& x) { EXPECT_EQ(x, 0); });
}

INSTANTIATE_TEST_SUITE_P(All, ScoreTerms,
                         testing::Values(Precision::fp32, Precision::bf16, Precision::f16,
                                         Precision::int8),
                         [](const auto& precision) {
                           return std::string(lowatt::precision_name(precision.param));
                         });

TEST(ScoreTermsRefusal, MechanismsAndNumbers) {
  StridedTensor q(2, 4, 3, 8), k(2, 2, 5, 8), v(2, 2, 5, 8), out(2, 4, 3, 8);
  const auto message = [&](const auto& mechanism, const Options& options) {
    return std::string(
        lowatt::try_attend(mechanism, q.view(), k.view(), v.view(), out.view(), options).message);
  };
  const std::vector<float> numbers(1000, 0.0f);
  const float odd[] = {0, 0, std::numeric_limits<float>::infinity(), 0};
  EXPECT_EQ(message(lowatt::Inhibitor{}, {.bias = {numbers.data(), 2, 4, 3, 5}}),
            "options.bias is given; only softmax and LATTE have scores to add to");
  EXPECT_EQ(message(lowatt::Inhibitor{}, {.alibi_slopes = numbers.data()}),
            "options.alibi_slopes is given; only softmax and LATTE have scores to add to");
  EXPECT_EQ(message(Latte{.theta = 1.0}, {.alibi_slopes = odd}),
            "alibi_slopes[2] is inf; it must be finite");
  EXPECT_EQ(message(Latte{.theta = 1.0}, {.bias = {numbers.data(), 2, 4, 3, 6}}),
            "bias.dim is 6 but the number of keys is 5");
  EXPECT_EQ(message(Latte{.theta = 1.0}, {.bias = {numbers.data(), 1, 1, 3, 5}}), "");
  EXPECT_EQ(message(lowatt::Bitformer{}, {.sinks = numbers.data()}),
            "options.sinks is given; only softmax and LATTE have scores to add to");
  EXPECT_EQ(message(Softmax{}, {.bias = {numbers.data(), 2, 4, 3, 6}}),
            "bias.dim is 6 but the number of keys is 5");
  EXPECT_EQ(message(Softmax{}, {.bias = {numbers.data(), 2, 3, 3, 5}}),
            "bias.heads is 3 but q.heads is 4");
  EXPECT_EQ(message(Softmax{}, {.sinks = odd}), "sinks[2] is inf; it must be finite");
  EXPECT_EQ(message(Softmax{.soft_cap = 0}, {}),
            "soft_cap is 0; it must be positive and finite in float32");
  EXPECT_EQ(message(Softmax{}, {.bias = {out.view().data, 1, 1, 3, 5}}),
            "out overlaps bias in memory");
  EXPECT_EQ(message(Softmax{}, {.bias = {numbers.data(), 1, 1, 3, 5}}), "");
}

}  // namespace
