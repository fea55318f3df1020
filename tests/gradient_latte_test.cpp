// LATTE's training form and its gradients against differences of the plain one; its soft mask
// against the integer kernel's survivors.
#include <cmath>
#include <lowatt/latte/reference.hpp>

#include "support/gradient_check.hpp"
#include "support/tensor.hpp"
#include "tensor.hpp"

namespace {

using lowatt::Index;
using lowatt::NibbleSplit;
using lowatt::SoftLatte;
using test::Case;

// What the gradients pass through: rounding to nibbles is x -> x near the inputs of a case.
class Form {
 public:
  explicit Form(const Case& c) : inputs_(c) {
    for (Index h = 0; h < c.shape.batch * c.shape.query_heads; ++h)
      of_survival.push_back(3.0 - static_cast<double>(h % 5));
  }

  // out . out_gradient + survival . of_survival of one head.
  double loss(const SoftLatte& mechanism, const test::RealHead& head) const {
    const lowatt::View<const float> q = inputs_.q.view(), k = inputs_.k.view();
    const Index b = head.batch, h = head.query_head, g = h / (q.heads / k.heads);
    lowatt::Array<double> low_q, low_k;
    if (mechanism.quantised) {
      const float key_absmax = lowatt::head_absmax(k, b, g);
      low_q = lowatt::latte_low_head(q, b, h, mechanism.split, nullptr);
      low_k = lowatt::latte_low_head(k, b, g, mechanism.split, &key_absmax);
      move_along(low_q, head.q, q, b, h);
      move_along(low_k, head.k, k, b, g);
    }
    const lowatt::SoftLatteSteps steps{
        {mechanism.scale.or_else(lowatt::default_scale(head.head_dim))},
        mechanism.theta[h],
        mechanism.softness};
    double masks = 0, pairs = 0;
    const double of_outputs =
        test::loss_by_rows(head, [&](const double* query, auto visible, double* out) {
          const lowatt::SoftLatteRow<double> row{
              query,          mechanism.quantised ? low_q.data() + (query - head.q) : query,
              head.k,         mechanism.quantised ? low_k.data() : head.k,
              head.v,         head.head_dim,
              head.value_dim, visible};
          masks += lowatt::soft_latte_row(row, steps, out);
          pairs += static_cast<double>(visible.count());
        });
    const double survival = pairs > 0 ? masks / pairs : 0;
    return of_outputs + survival * of_survival[static_cast<std::size_t>(b * q.heads + h)];
  }

  // Whether two keys come close to sharing a row's best low score, where the maximum has a kink.
  bool has_ties(const SoftLatte& mechanism, bool causal) const {
    if (!mechanism.quantised) return false;
    const lowatt::View<const float> q = inputs_.q.view(), k = inputs_.k.view();
    for (Index b = 0; b < q.batch; ++b)
      for (Index h = 0; h < q.heads; ++h) {
        const Index g = h / (q.heads / k.heads);
        const float key_absmax = lowatt::head_absmax(k, b, g);
        const auto low_q = lowatt::latte_low_head(q, b, h, mechanism.split, nullptr);
        const auto low_k = lowatt::latte_low_head(k, b, g, mechanism.split, &key_absmax);
        for (Index i = 0; i < q.tokens; ++i) {
          double best = -INFINITY, second = -INFINITY;
          for (Index j = 0; j < lowatt::visible_keys(causal, i, q.tokens, k.tokens).end; ++j) {
            double low = 0;
            for (Index c = 0; c < q.dim; ++c) low += low_q[i * q.dim + c] * low_k[j * q.dim + c];
            second = std::max(second, std::min(low, best));
            best = std::max(best, low);
          }
          if (best - second < 1e-2) return true;
        }
      }
    return false;
  }

  std::vector<double> of_survival;

 private:
  // low += x - the case's own values.
  static void move_along(lowatt::Array<double>& low, const double* x,
                         lowatt::View<const float> values, Index b, Index head) {
    for (Index i = 0; i < low.size(); ++i)
      low[i] += x[i] - static_cast<double>(values.row(b, head, i / values.dim)[i % values.dim]);
  }

  test::Inputs inputs_;
};

void expect_gradients(const SoftLatte& mechanism, Case c) {
  while (Form(c).has_ties(mechanism, c.causal)) ++c.seed;
  const Form form(c);
  test::expect_gradients(
      mechanism, c,
      [&](const SoftLatte& changed, const test::RealHead& head) {
        return form.loss(changed, head);
      },
      {{"theta", &lowatt::Gradients::theta, 1e-5,
        [](SoftLatte& changed, double x) { changed.theta = changed.theta.single + x; }}},
      {.survival = form.of_survival.data()});
}

TEST(LatteGradient, ExactLowScores) {
  for (const Case& c : test::gradient_cases()) {
    expect_gradients({.theta = 1.0, .quantised = false}, c);
    expect_gradients({.scale = 0.7, .theta = 0.0, .softness = 0.3, .quantised = false}, c);
  }
}

TEST(LatteGradient, LowScoresOnFourBits) {
  for (const Case& c : test::gradient_cases()) {
    expect_gradients({.theta = 1.0, .softness = 0.5}, c);
    expect_gradients({.theta = 0.2, .softness = 2.0, .split = NibbleSplit::truncate}, c);
  }
}

// The training form itself, in every direction that its gradients are not: thetas per head, and
// what is reported.
TEST(LatteGradient, TrainingFormMatchesReference) {
  const std::vector<double> thetas = {0.0, 0.4, 1.0, 3.0};
  for (const bool quantised : {false, true})
    for (const bool causal : {false, true}) {
      const Case c{{2, 4, 2, 37, 83, 24, 40}, causal, test::Layout::padded, 5};
      test::Inputs inputs(c);
      const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
      const SoftLatte mechanism{.theta = thetas, .softness = 0.4, .quantised = quantised};
      std::vector<double> survival(8), expected_survival;
      for (Index b = 0; b < 2; ++b)
        for (Index h = 0; h < 4; ++h) {
          const float key_absmax = lowatt::head_absmax(k, b, h / 2);
          const auto query = lowatt::contiguous_head<double>(q, b, h);
          const auto keys = lowatt::contiguous_head<double>(k, b, h / 2);
          const auto values = lowatt::contiguous_head<double>(v, b, h / 2);
          const auto low_query = lowatt::latte_low_head(q, b, h, mechanism.split, nullptr);
          const auto low_keys = lowatt::latte_low_head(k, b, h / 2, mechanism.split, &key_absmax);
          const lowatt::SoftLatteSteps steps{
              {lowatt::default_scale(24)}, thetas[static_cast<std::size_t>(h)], 0.4};
          double masks = 0, pairs = 0, row[40];
          for (Index i = 0; i < 37; ++i) {
            const auto visible = lowatt::visible_keys(causal, i, 37, 83);
            const lowatt::SoftLatteRow<double> one{query.data() + i * 24,
                                                   (quantised ? low_query : query).data() + i * 24,
                                                   keys.data(),
                                                   (quantised ? low_keys : keys).data(),
                                                   values.data(),
                                                   24,
                                                   40,
                                                   visible};
            masks += lowatt::soft_latte_row(one, steps, row);
            pairs += static_cast<double>(visible.count());
            for (Index x = 0; x < 40; ++x)
              inputs.expected.view().row(b, h, i)[x] = static_cast<float>(row[x]);
          }
          expected_survival.push_back(masks / pairs);
        }
      for (const lowatt::Level level : test::levels()) {
        lowatt::attend_training(mechanism, q, k, v, inputs.out.view(), {survival.data()},
                                {.causal = causal, .level = level});
        EXPECT_LE(test::relative_l2(std::as_const(inputs.out).view(),
                                    std::as_const(inputs.expected).view()),
                  1e-5)
            << test::describe(level, c);
        EXPECT_LE(test::relative_l2(survival, expected_survival), 1e-6) << test::describe(level, c);
        EXPECT_TRUE(inputs.out.gaps_are_untouched());
      }
    }
}

// With hardly any softness the mask is 0 or 1: 1 for the integer kernel's survivors. Values that
// are the identity show which keys have weight.
TEST(LatteGradient, HardMaskIsTheIntegerKernelsSurvivors) {
  for (const std::string set : {"latte-real-round-heads", "latte-real-truncate"}) {
    const std::string base = std::string(LOWATT_TEST_DATA) + "/" + set;
    const support::Tensors real =
        support::load_tensors(base + ".q.npy", base + ".k.npy", base + ".v.npy");
    const Index heads = real.q.heads, keys = real.k.tokens, queries = real.q.tokens;
    test::Tensor<> identity(1, real.k.heads, keys, keys), hard(1, heads, queries, keys),
        soft = hard;
    for (Index g = 0; g < real.k.heads; ++g)
      for (Index j = 0; j < keys; ++j) identity.at(0, g, j, j) = 1;
    for (const NibbleSplit split : {NibbleSplit::round, NibbleSplit::truncate})
      for (const bool causal : {false, true})
        for (const double theta : {0.3, 2.0, 6.0}) {
          std::vector<std::int64_t> kept(static_cast<std::size_t>(heads));
          lowatt::attend(
              lowatt::Latte{
                  .theta = theta, .split = split, .value_precision = lowatt::Precision::fp32},
              real.q.view(), real.k.view(), std::as_const(identity).view(), hard.view(),
              {.causal = causal, .kept = kept.data()});
          std::vector<double> survival(static_cast<std::size_t>(heads));
          lowatt::attend_training(SoftLatte{.theta = theta, .softness = 1e-7, .split = split},
                                  real.q.view(), real.k.view(), std::as_const(identity).view(),
                                  soft.view(), {survival.data()}, {.causal = causal});
          Index pairs = 0;
          for (Index i = 0; i < queries; ++i)
            pairs += lowatt::visible_keys(causal, i, queries, keys).count();
          for (Index h = 0; h < heads; ++h) {
            const auto entry = static_cast<std::size_t>(h);
            EXPECT_NEAR(survival[entry] * static_cast<double>(pairs),
                        static_cast<double>(kept[entry]), 0.01);
          }
          std::size_t different = 0;
          for (std::size_t i = 0; i < hard.data.size(); ++i)
            different += (hard.data[i] > 0) != (soft.data[i] > 0) ? 1 : 0;
          EXPECT_EQ(different, 0U) << set << " theta " << theta << " causal " << causal;
        }
  }
}

TEST(LatteGradient, Refusals) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::Inputs inputs(c);
  const auto refused = [&](const SoftLatte& mechanism) {
    return std::string(lowatt::try_attend_training(mechanism, std::as_const(inputs.q).view(),
                                                   std::as_const(inputs.k).view(),
                                                   std::as_const(inputs.v).view(),
                                                   inputs.out.view())
                           .message);
  };
  const std::vector<double> three = {1, 2, 3}, negative = {1, -2};
  EXPECT_EQ(refused({}), "theta is not given; training needs one, or one per query head");
  EXPECT_EQ(refused({.theta = three}),
            "theta has 3 entries; one, or one for each of the 2 query heads is needed");
  EXPECT_EQ(refused({.theta = negative}), "theta[1] is -2; it must be finite and not negative");
  EXPECT_EQ(refused({.theta = 1.0, .softness = 0}),
            "softness is 0; it must be finite and positive");
  EXPECT_EQ(refused({.scale = -1.0, .theta = 1.0}), "scale is -1; it must be finite and positive");
  double number = 0;
  test::GradientTensors gradients(c);
  lowatt::Gradients result = gradients.views();
  result.temperature = &number;
  EXPECT_FALSE(lowatt::try_attend_gradient(
                   SoftLatte{.theta = 1.0}, std::as_const(inputs.q).view(),
                   std::as_const(inputs.k).view(), std::as_const(inputs.v).view(),
                   std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(), result)
                   .ok());
}

// Keys and values that a query does not see reach neither its output nor its gradient.
TEST(LatteGradient, HiddenNonfiniteKeys) {
  for (const bool quantised : {false, true})
    test::expect_hidden_key_reaches_nothing(SoftLatte{.theta = 1.0, .quantised = quantised},
                                            [](test::GradientTensors&) {});
}

}  // namespace
