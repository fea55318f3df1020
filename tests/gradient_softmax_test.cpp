// Gradients of softmax attention against differences.
#include <lowatt/softmax/reference.hpp>

#include "support/gradient_check.hpp"

namespace {

using lowatt::Softmax;

double loss(const Softmax& mechanism, const test::RealHead& head) {
  const lowatt::SoftmaxSteps steps{mechanism.scale.or_else(lowatt::default_scale(head.head_dim))};
  return test::loss_by_rows(head, [&](const double* query, auto visible, double* out) {
    lowatt::dot_product_attention_row(query, head.k, head.v, head.head_dim, head.value_dim, visible,
                                      steps, out);
  });
}

TEST(SoftmaxGradient, Differences) {
  for (const test::Case& c : test::gradient_cases()) test::expect_gradients(Softmax{}, c, loss);
}

TEST(SoftmaxGradient, LargeScores) {
  for (const test::Case& c : test::gradient_cases())
    test::expect_gradients(Softmax{.scale = 2.0}, c, loss, {}, {.step = 1e-6});
}

}  // namespace
