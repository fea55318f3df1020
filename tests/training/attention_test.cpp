// The kernels and the formulas in libtorch's operations train alike: outputs, survival, and
// gradients of inputs and of every learned scalar. Integers forwards keep those gradients.
#include "attention.hpp"

#include <gtest/gtest.h>

#include <ostream>

namespace training {

struct Case {
  const char* name;
  AttentionForm form;
};

void PrintTo(const Case& one, std::ostream* out) {
  *out << one.name;
}

namespace {

struct Result {
  Tensor out, survival;
  std::vector<Tensor> gradients;  // of q, k, v, then of the scalars
};

class Attention : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { torch::manual_seed(7); }

  Result run(Arithmetic arithmetic, const Tensor& q, const Tensor& k, const Tensor& v) const {
    std::vector<Tensor> leaves;
    const auto learned = [&](const Tensor& value) {
      leaves.push_back(value.clone().requires_grad_());
      return leaves.back();
    };
    learned(q);
    learned(k);
    learned(v);
    const AttentionForm& form = GetParam().form;
    AttentionScalars scalars;
    scalars.scale = torch::full({1}, 0.25);
    if (form.mechanism == Mechanism::inhibitor) {
      scalars.scale = learned(torch::full({1}, 0.11));
      scalars.alpha = learned(torch::full({1}, form.center ? 0.05 : 1.6));
      scalars.beta = learned(torch::full({1}, 2.5));
    }
    if (form.mechanism == Mechanism::latte) {
      scalars.theta = learned(torch::tensor({1.0f, 2.0f}));
      scalars.softness = 0.7;
    }
    if (form.mechanism == Mechanism::bitformer) {
      scalars.temperature = learned(torch::full({1}, 0.07));
      scalars.clip = 1.3;
    }
    const Attended attended = attend(arithmetic, form, scalars, leaves[0], leaves[1], leaves[2]);
    Tensor loss =
        (attended.out * torch::linspace(-1, 1, attended.out.numel()).view_as(attended.out)).sum();
    if (attended.survival.defined()) loss = loss + 3 * attended.survival;
    if (loss.requires_grad()) loss.backward();
    Result result{attended.out.detach(), attended.survival, {}};
    for (const Tensor& leaf : leaves) result.gradients.push_back(leaf.grad());
    return result;
  }
};

double distance(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / (b.norm() + 1e-12)).item<double>();
}

TEST_P(Attention, KernelsTrainAsTheFormulaDoes) {
  const std::vector<std::int64_t> shape{3, 37, 2, 16};
  const Tensor q = torch::randn(shape), k = torch::randn(shape), v = torch::randn(shape);
  const Result kernels = run(Arithmetic::kernels, q, k, v);
  const Result formula = run(Arithmetic::formula, q, k, v);
  EXPECT_LT(distance(kernels.out, formula.out), 1e-4);
  ASSERT_EQ(kernels.survival.defined(), formula.survival.defined());
  if (kernels.survival.defined()) {
    EXPECT_NEAR(kernels.survival.item<double>(), formula.survival.item<double>(), 1e-5);
  }
  for (std::size_t i = 0; i < formula.gradients.size(); ++i) {
    EXPECT_GT(formula.gradients[i].norm().item<double>(), 0) << "gradient " << i;
    EXPECT_LT(distance(kernels.gradients[i], formula.gradients[i]), 1e-4) << "gradient " << i;
  }
}

// Loss of the same slope at any output: gradients are those of the float kernels.
TEST_P(Attention, StraightThroughIntegersForwardsAndFloatGradientsBackwards) {
  const std::vector<std::int64_t> shape{3, 37, 2, 16};
  const Tensor q = torch::randn(shape), k = torch::randn(shape), v = torch::randn(shape);
  const Result straight = run(Arithmetic::straight_through, q, k, v);
  const Result kernels = run(Arithmetic::kernels, q, k, v);
  EXPECT_LT(distance(straight.out, run(Arithmetic::integer, q, k, v).out), 1e-6);
  EXPECT_GT(distance(straight.out, kernels.out), 1e-4);
  for (std::size_t i = 0; i < kernels.gradients.size(); ++i)
    EXPECT_TRUE(torch::equal(straight.gradients[i], kernels.gradients[i])) << "gradient " << i;
}

AttentionForm with(Mechanism mechanism, bool causal, bool is_signed = true, bool center = false,
                   int planes = 1, bool normalize = true) {
  return {.mechanism = mechanism,
          .causal = causal,
          .is_signed = is_signed,
          .normalize = normalize,
          .center = center,
          .planes = planes};
}

INSTANTIATE_TEST_SUITE_P(
    All, Attention,
    testing::Values(Case{"softmax", with(Mechanism::softmax, false)},
                    Case{"softmax_causal", with(Mechanism::softmax, true)},
                    Case{"inhibitor", with(Mechanism::inhibitor, false)},
                    Case{"inhibitor_causal", with(Mechanism::inhibitor, true)},
                    Case{"inhibitor_unsigned", with(Mechanism::inhibitor, false, false)},
                    Case{"inhibitor_centred", with(Mechanism::inhibitor, true, true, true)},
                    Case{"inhibitor_sums",
                         with(Mechanism::inhibitor, true, true, false, 1, /*normalize=*/false)},
                    Case{"latte", with(Mechanism::latte, false)},
                    Case{"latte_causal", with(Mechanism::latte, true)},
                    Case{"bitformer_1", with(Mechanism::bitformer, false)},
                    Case{"bitformer_4", with(Mechanism::bitformer, true, true, false, 4)}),
    [](const auto& one) { return std::string(one.param.name); });

}  // namespace
}  // namespace training
