// Bitformer's training form and its gradients against differences of the plain one; its outputs
// against the integer kernel's.
#include <cmath>
#include <lowatt/bitformer/reference.hpp>

#include "support/gradient_check.hpp"
#include "support/tensor.hpp"

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
    const lowatt::BitformerSteps steps{
        mechanism.temperature.or_else(calibration_.temperature[b * q.heads + h])};
    return test::loss_by_rows(head, [&](const double* query, auto visible, double* out) {
      lowatt::bitformer_training_row(query_bits.data() + (query - head.q) / head.head_dim * bits,
                                     key_bits.data(), head.v, bits, head.value_dim, visible, steps,
                                     out);
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
    parameters.push_back({"temperature", &lowatt::Gradients::temperature,
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

}  // namespace
