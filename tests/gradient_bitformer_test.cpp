// Bitformer's training form and its gradients against differences of the plain one; its outputs
// against the integer kernel's.
#include <cmath>
#include <lowatt/bitformer/reference.hpp>

#include "support/gradient_check.hpp"
#include "tensor.hpp"

namespace {

using lowatt::BitEncoding;
using lowatt::Bitformer;
using lowatt::Index;
using test::Case;

// What the gradients pass through: around the inputs of a case a bit is -1 or 1 plus (x - its
// value) / clip where the value is within the clip, and a constant elsewhere. Differences move
// inputs by less than any comes close to the clip.
class Form {
 public:
  Form(const Bitformer& mechanism, const Case& c)
      : inputs_(c),
        calibration_(lowatt::calibrate(mechanism, std::as_const(inputs_.q).view(),
                                       std::as_const(inputs_.k).view(),
                                       std::as_const(inputs_.v).view(), {.causal = c.causal})) {}

  const lowatt::Calibration& calibration() const { return calibration_; }

  float clip(const Bitformer& mechanism, Index kv_entry) const {
    if (lowatt::resolve(mechanism.encoding, mechanism.planes) == BitEncoding::sign)
      return static_cast<float>(mechanism.clip.or_else(1));
    return calibration_.clip[kv_entry];
  }

  double loss(const Bitformer& mechanism, const test::RealHead& head) const {
    const lowatt::View<const float> q = inputs_.q.view(), k = inputs_.k.view();
    const Index b = head.batch, h = head.query_head, g = h / (q.heads / k.heads);
    const Index kv_entry = b * k.heads + g, bits = mechanism.planes * head.head_dim;
    const float* mean =
        mechanism.center_keys ? calibration_.key_mean.data() + kv_entry * k.dim : nullptr;
    const auto query_bits = bits_of(mechanism, q, b, h, nullptr, head.q, clip(mechanism, kv_entry));
    const auto key_bits = bits_of(mechanism, k, b, g, mean, head.k, clip(mechanism, kv_entry));
    const lowatt::SoftmaxSteps steps{
        mechanism.temperature.or_else(calibration_.temperature[b * q.heads + h])};
    return test::loss_by_rows(head, [&](const double* query, auto visible, double* out) {
      lowatt::dot_product_attention_row(query_bits.data() + (query - head.q) / head.head_dim * bits,
                                        key_bits.data(), head.v, bits, head.value_dim, visible,
                                        steps, out);
    });
  }

 private:
  // [tokens][planes][dim] of values x near those of the case.
  static lowatt::Array<double> bits_of(const Bitformer& mechanism, lowatt::View<const float> values,
                                       Index b, Index head, const float* mean, const double* x,
                                       float clip) {
    const lowatt::BitThresholds thresholds =
        lowatt::bit_thresholds(mechanism.encoding, mechanism.planes, clip);
    const lowatt::BitformerHead at(values, b, head, mean, thresholds);
    lowatt::Array<double> bits = lowatt::bitformer_signs(at.values, values.dim, thresholds);
    const Index tokens = values.tokens, dim = values.dim;
    for (Index c = 0; c < dim; ++c) {
      double mean_moved = 0;  // by how much the channel's mean has been moved
      const auto moved = [&](Index t) {
        return x[t * dim + c] - static_cast<double>(values.row(b, head, t)[c]);
      };
      if (mean != nullptr)
        for (Index t = 0; t < tokens; ++t) mean_moved += moved(t) / static_cast<double>(tokens);
      for (Index t = 0; t < tokens; ++t)
        if (std::fabs(at.values[t * dim + c]) <= clip && clip > 0)
          for (Index plane = 0; plane < mechanism.planes; ++plane)
            bits[(t * mechanism.planes + plane) * dim + c] +=
                (moved(t) - mean_moved) / static_cast<double>(clip);
    }
    return bits;
  }

  test::Inputs inputs_;
  lowatt::Calibration calibration_;
};

void expect_gradients(const Bitformer& mechanism, const Case& c) {
  const Form form(mechanism, c);
  std::vector<test::GradientParameter<Bitformer>> parameters;
  if (mechanism.temperature.given)
    parameters.push_back({"temperature", &lowatt::Gradients::temperature, 1e-5,
                          [](Bitformer& changed, double x) { changed.temperature.value += x; }});
  test::expect_gradients(
      mechanism, c,
      [&](const Bitformer& changed, const test::RealHead& head) {
        return form.loss(changed, head);
      },
      parameters);
}

TEST(BitformerGradient, Sign) {
  for (const Case& c : test::gradient_cases()) {
    expect_gradients({.temperature = 0.05}, c);
    expect_gradients({.center_keys = true, .clip = 0.8, .temperature = 0.1}, c);
    expect_gradients({}, c);
  }
}

TEST(BitformerGradient, Thermometer) {
  for (const Case& c : test::gradient_cases()) {
    expect_gradients({.planes = 2, .clip = 1.5, .temperature = 0.03}, c);
    expect_gradients({.planes = 4, .center_keys = true, .temperature = 0.02}, c);
    expect_gradients({.planes = 9}, c);
    expect_gradients(
        {.planes = 1, .encoding = BitEncoding::thermometer, .clip = 1.0, .temperature = 0.1}, c);
  }
}

// The integer kernel rounds probabilities and values to 8 bits; what it gives differs from the
// training form by that alone. Measured on these tensors: 0.015 at most, relative L2.
TEST(BitformerGradient, TrainingFormAgreesWithTheIntegerKernel) {
  for (const std::string set : {"bitformer-real-sign", "bitformer-real-thermometer"}) {
    const std::string base = std::string(LOWATT_TEST_DATA) + "/" + set;
    const support::Tensors real =
        support::load_tensors(base + ".q.npy", base + ".k.npy", base + ".v.npy");
    for (const int planes : {1, 2, 4, 9})
      for (const bool center_keys : {false, true})
        for (const bool causal : {false, true}) {
          const Bitformer mechanism{.planes = planes, .center_keys = center_keys};
          support::Tensor integer = real.make_output(), training = real.make_output();
          lowatt::attend(mechanism, real.q.view(), real.k.view(), real.v.view(), integer.view(),
                         {.causal = causal});
          for (const lowatt::Level level : test::levels()) {
            lowatt::attend_training(mechanism, real.q.view(), real.k.view(), real.v.view(),
                                    training.view(), {}, {.causal = causal, .level = level});
            EXPECT_LE(
                test::relative_l2(std::as_const(training).view(), std::as_const(integer).view()),
                0.02)
                << set << ", " << planes << " planes, " << lowatt::level_name(level);
          }
        }
  }
}

// Temperatures at which all keys weigh the same, or the best ones alone.
TEST(BitformerGradient, ExtremeTemperatures) {
  const Case c{{1, 2, 1, 20, 70, 24, 8}, true, test::Layout::padded, 3};
  test::Inputs inputs(c);
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  for (const double temperature : {0.0, 1e300})
    for (const lowatt::Level level : test::levels()) {
      const Bitformer mechanism{.planes = 3, .clip = 1.0, .temperature = temperature};
      const std::string what = test::describe(level, c);
      lowatt::attend_training(mechanism, q, k, v, inputs.out.view(), {},
                              {.causal = true, .level = level});
      lowatt::attend(mechanism, q, k, v, inputs.expected.view(), {.causal = true});
      EXPECT_LE(test::relative_l2(std::as_const(inputs.out).view(),
                                  std::as_const(inputs.expected).view()),
                0.02)
          << what;
      test::GradientTensors gradients(c);
      std::vector<double> of_temperature(2);
      lowatt::Gradients result = gradients.views();
      result.temperature = of_temperature.data();
      lowatt::attend_gradient(mechanism, q, k, v, std::as_const(inputs.out).view(),
                              std::as_const(inputs.expected).view(), result,
                              {.causal = true, .level = level});
      for (test::StridedTensor* x : {&gradients.q, &gradients.k, &gradients.v})
        x->for_each([&](float& e) { ASSERT_TRUE(std::isfinite(e)) << what; });
      for (const double x : of_temperature) EXPECT_TRUE(std::isfinite(x)) << what;
    }
}

TEST(BitformerGradient, Refusals) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::Inputs inputs(c);
  const lowatt::View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  const auto refused = [&](const Bitformer& mechanism) {
    return std::string(lowatt::try_attend_training(mechanism, q, k, v, inputs.out.view()).message);
  };
  EXPECT_EQ(refused({.planes = 65}), "planes is 65; it must be from 1 to 64");
  EXPECT_EQ(refused({.planes = 2, .clip = -1.0}),
            "clip is -1; it must be not negative and finite in float32");
  EXPECT_EQ(refused({.temperature = -1.0}),
            "temperature is -1; it must be finite and not negative");
  double number = 0;
  lowatt::TrainingOutputs more;
  more.survival = &number;
  EXPECT_EQ(std::string(
                lowatt::try_attend_training(Bitformer{}, q, k, v, inputs.out.view(), more).message),
            "survival is given, but this mechanism has none");
  test::GradientTensors gradients(c);
  lowatt::Gradients result = gradients.views();
  result.theta = &number;
  EXPECT_EQ(std::string(lowatt::try_attend_gradient(Bitformer{}, q, k, v,
                                                    std::as_const(inputs.out).view(),
                                                    std::as_const(inputs.expected).view(), result)
                            .message),
            "gradients.theta is given, but this mechanism has none");
}

// A value that a query does not see reaches neither its output nor its gradient; keys that are not
// finite have bits, but no gradient.
TEST(BitformerGradient, HiddenNonfiniteKeys) {
  test::expect_hidden_key_reaches_nothing(Bitformer{.planes = 3, .clip = 1.0, .temperature = 0.1},
                                          [](test::GradientTensors& gradients) {
                                            for (Index x = 0; x < 20; ++x)
                                              EXPECT_EQ(gradients.k.view().row(0, 0, 69)[x], 0.0f);
                                          });
}

}  // namespace
