// Gradients of the Inhibitor against differences.
#include <lowatt/inhibitor/reference.hpp>

#include "support/gradient_check.hpp"

namespace {

using lowatt::Gradients;
using lowatt::Index;
using lowatt::Inhibitor;
using lowatt::Precision;

double scale_of(const Inhibitor& mechanism, Index head_dim) {
  return mechanism.scale.or_else(lowatt::default_scale(head_dim));
}

double loss(const Inhibitor& mechanism, const test::RealHead& head) {
  return test::loss_by_rows(head, [&](const double* query, auto visible, double* out) {
    const auto count = static_cast<double>(visible.count());
    lowatt::inhibitor_row(query, head.k, head.v, head.head_dim, head.value_dim, visible,
                          mechanism.is_signed, mechanism.center,
                          lowatt::InhibitorRealSteps{scale_of(mechanism, head.head_dim),
                                                     mechanism.alpha, visible.count()},
                          out);
    for (Index c = 0; c < head.value_dim; ++c)
      out[c] *= mechanism.beta / (mechanism.normalize ? count : 1.0);
  });
}

const std::vector<test::GradientParameter<Inhibitor>> parameters = {
    {"scale", &Gradients::scale, 1e-9, [](Inhibitor& m, double x) { m.scale = m.scale.value + x; }},
    {"alpha", &Gradients::alpha, 1e-8, [](Inhibitor& m, double x) { m.alpha += x; }},
    {"beta", &Gradients::beta, 1e-5, [](Inhibitor& m, double x) { m.beta += x; }},
};

// At all shapes, with a scale that lets scores meet values half-way. The step is small: no kink
// may lie within.
void expect_gradients(Inhibitor mechanism) {
  mechanism.precision = Precision::fp32;
  for (const test::Case& c : test::gradient_cases()) {
    mechanism.scale = (mechanism.center ? 3.0 : 0.5) / static_cast<double>(c.shape.head_dim);
    test::expect_gradients(mechanism, c, loss, parameters, {.step = 1e-7});
  }
}

TEST(InhibitorGradient, Signed) {
  expect_gradients({.alpha = 0.2});
}

TEST(InhibitorGradient, Unsigned) {
  expect_gradients({.alpha = 0.2, .is_signed = false});
}

TEST(InhibitorGradient, NegativeAlphaGainNormalize) {
  expect_gradients({.alpha = -0.1, .beta = -1.7, .normalize = true});
}

TEST(InhibitorGradient, Centered) {
  expect_gradients({.alpha = 0.1, .center = true});
  expect_gradients({.alpha = -0.1, .is_signed = false, .center = true, .normalize = true});
}

TEST(InhibitorGradient, NoGain) {
  expect_gradients({.alpha = 0.1, .beta = 0.0});
  expect_gradients({.alpha = 0.1, .beta = 0.0, .normalize = true});
}

}  // namespace
