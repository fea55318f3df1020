// Weights on request: what references give for values of 1 at one key, at every level, for every
// mechanism and mask; and that outputs are values times weights.
#include <lowatt/bitformer/reference.hpp>
#include <lowatt/inhibitor/reference.hpp>
#include <lowatt/latte/reference.hpp>
#include <lowatt/softmax/reference.hpp>

#include "support/float_check.hpp"
#include "support/mechanisms.hpp"
#include "support/visible.hpp"

namespace {

using lowatt::Calibration;
using lowatt::Index;
using lowatt::Options;
using lowatt::Precision;
using lowatt::View;
using Tensor = test::StridedTensor;

lowatt::Status reference(const lowatt::Softmax& m, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given) {
  return lowatt::softmax_reference(m, q, k, v, out, true, &given);
}
lowatt::Status reference(const lowatt::Inhibitor& m, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given) {
  return lowatt::inhibitor_reference(m, q, k, v, out, true, &given);
}
lowatt::Status reference(const lowatt::Latte& m, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given) {
  return lowatt::latte_reference(m, q, k, v, out, true, nullptr, &given);
}
lowatt::Status reference(const lowatt::Bitformer& m, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given) {
  return lowatt::bitformer_reference(m, q, k, v, out, true, nullptr, &given);
}

// Kernels with weights of bf16 round each of them; tests of cut calls compare sums.
template <class Example>
inline constexpr double weight_tolerance =
    std::is_same_v<Example, test::SoftmaxExample<Precision::bf16>> ||
            std::is_same_v<Example, test::SoftmaxExample<Precision::int8>>
        ? 5e-3
        : test::tolerance_of<Example>;

constexpr Index batch = 2, query_heads = 4, kv_heads = 2, queries = 18, keys = 150, head_dim = 24,
                value_dim = 40;

template <class Example>
class Weights : public testing::Test {
 protected:
  using M = typename Example::Mechanism;
  static constexpr bool is_inhibitor = std::is_same_v<M, lowatt::Inhibitor>;
  Weights() {
    std::mt19937 random(17);
    for (Tensor* x : {&query, &key, &value}) x->fill_normal(random);
  }
  Tensor query{batch, query_heads, queries, head_dim}, key{batch, kv_heads, keys, head_dim},
      value{batch, kv_heads, keys, value_dim},
      weights{batch, query_heads, queries, keys, test::Layout::padded};
  M mechanism = Example::make();
};
TYPED_TEST_SUITE(Weights, test::Examples);

TYPED_TEST(Weights, AreThoseOfTheReference) {
  const lowatt::View<const float> q = this->query.view(), k = this->key.view(),
                                  v = this->value.view();
  Calibration calibration = lowatt::calibrate(this->mechanism, q, k, v, {.causal = true});
  // The reference on the unit matrix as values.
  Tensor units(batch, kv_heads, keys, keys);
  const lowatt::Array<float> largest = lowatt::absmax_per_head(v);
  for (Index b = 0; b < batch; ++b)
    for (Index g = 0; g < kv_heads; ++g)
      for (Index j = 0; j < keys; ++j)
        units.view().row(b, g, j)[j] = TestFixture::is_inhibitor ? largest[b * kv_heads + g] : 1;
  Tensor expected(batch, query_heads, queries, keys);
  Calibration of_units = calibration;
  if (!TestFixture::is_inhibitor)
    for (float& absmax : of_units.value_absmax) absmax = 1;
  const lowatt::Status status =
      reference(this->mechanism, q, k, units.view(), expected.view(), of_units);
  ASSERT_TRUE(status.ok()) << status.message;
  if (TestFixture::is_inhibitor)
    for (Index b = 0; b < batch; ++b)
      for (Index h = 0; h < query_heads; ++h)
        for (Index i = 0; i < queries; ++i)
          for (Index j = 0; j < keys; ++j)
            expected.view().row(b, h, i)[j] /= largest[b * kv_heads + h / 2];
  for (const lowatt::Level level : test::levels()) {
    this->weights.for_each([](float& x) { x = -1e30f; });
    lowatt::attention_weights(this->mechanism, calibration, q, k, v, this->weights.view(),
                              {.causal = true, .level = level});
    test::expect_close(std::as_const(this->weights).view(), std::as_const(expected).view(),
                       weight_tolerance<TypeParam>, lowatt::level_name(level));
    EXPECT_TRUE(this->weights.gaps_are_untouched());
  }
}

// With masks: hidden keys have none, and outputs are values times weights.
TYPED_TEST(Weights, GiveTheOutputs) {
  std::mt19937 random(18);
  std::vector<std::uint8_t> booleans(queries * keys);
  for (std::uint8_t& x : booleans) x = random() % 3 == 0 ? 1 : 0;
  for (Index j = 0; j < keys; ++j) booleans[5 * keys + static_cast<std::size_t>(j)] = 0;
  const Index lengths[] = {90, 0};
  const lowatt::View<const float> q = this->query.view(), k = this->key.view(),
                                  v = this->value.view();
  for (const Options& options :
       {Options{.causal = true, .window_left = 70}, Options{.key_lengths = lengths},
        Options{.mask = {booleans.data(), 1, 1, queries, keys}}}) {
    lowatt::attention_weights(this->mechanism, q, k, v, this->weights.view(), options);
    Tensor out(batch, query_heads, queries, value_dim),
        expected(batch, query_heads, queries, value_dim);
    lowatt::attend(this->mechanism, q, k, v, out.view(), options);
    double largest_sum = 0, least_sum = 2;
    for (Index b = 0; b < batch; ++b)
      for (Index h = 0; h < query_heads; ++h)
        for (Index i = 0; i < queries; ++i) {
          const float* row = this->weights.view().row(b, h, i);
          double sum = 0;
          Index seen = 0;
          for (Index j = 0; j < keys; ++j) {
            const bool is_seen = test::sees(options, queries, keys, b, h, i, j);
            seen += is_seen ? 1 : 0;
            if (!is_seen) {
              EXPECT_EQ(row[j], 0);
            }
            EXPECT_GE(row[j], 0);
            EXPECT_LE(row[j], 1.0001f);
            sum += static_cast<double>(row[j]);
            for (Index c = 0; c < value_dim; ++c)
              expected.view().row(b, h, i)[c] += row[j] * v.row(b, h / 2, j)[c];
          }
          if (seen == 0) continue;
          largest_sum = std::max(largest_sum, sum);
          least_sum = std::min(least_sum, sum);
        }
    if (TestFixture::is_inhibitor) continue;
    EXPECT_NEAR(largest_sum, 1, 1e-2);
    EXPECT_NEAR(least_sum, 1, 1e-2);
    // Values of int8 are rounded, the ones here are not.
    EXPECT_LE(test::relative_l2(std::as_const(out).view(), std::as_const(expected).view()), 2e-2);
  }
}

TEST(WeightsOf, SinksAndBiases) {
  Tensor q(1, 2, 5, 16), k(1, 1, 70, 16), v(1, 1, 70, 8), bias(1, 1, 5, 70), weights(1, 2, 5, 70);
  std::mt19937 random(19);
  for (Tensor* x : {&q, &k, &bias}) x->fill_normal(random);  // of all values being 0, too
  const float sinks[] = {2, 200};
  for (const auto& check : {0, 1}) {
    const Options options{.bias = std::as_const(bias).view(), .sinks = sinks};
    if (check == 0)
      lowatt::attention_weights(lowatt::Softmax{}, q.view(), k.view(), v.view(), weights.view(),
                                options);
    else
      lowatt::attention_weights(lowatt::Latte{.theta = 1e6}, q.view(), k.view(), v.view(),
                                weights.view(), options);
    for (Index i = 0; i < 5; ++i) {
      double sum = 0, exponentials = 0;
      for (Index j = 0; j < 70; ++j) {
        sum += static_cast<double>(weights.view().row(0, 0, i)[j]);
        double score = 0;
        for (Index c = 0; c < 16; ++c)
          score += static_cast<double>(q.view().row(0, 0, i)[c] * k.view().row(0, 0, j)[c]);
        exponentials += std::exp(score / 4 + static_cast<double>(bias.view().row(0, 0, i)[j]));
        EXPECT_EQ(weights.view().row(0, 1, i)[j], 0) << "the sink takes all";
      }
      EXPECT_NEAR(sum, exponentials / (exponentials + std::exp(2.0)), 1e-2);
    }
  }
}

TEST(WeightsRefusal, ExtentsAndMemory) {
  Tensor q(2, 4, 3, 8), k(2, 2, 5, 8), v(2, 2, 5, 8), weights(2, 4, 3, 5);
  const auto message = [&](View<float> w, const Options& options = {}) {
    return std::string(
        lowatt::try_attention_weights(lowatt::Softmax{}, q.view(), k.view(), v.view(), w, options)
            .message);
  };
  EXPECT_EQ(message(weights.view()), "");
  weights.for_each([](float& x) { x = 7; });
  EXPECT_EQ(message({weights.view().data, 2, 4, 3, 4}), "weights.dim is 4 but k.tokens is 5");
  EXPECT_EQ(message({weights.view().data, 2, 4, 2, 5}), "weights.tokens is 2 but q.tokens is 3");
  EXPECT_EQ(message({weights.view().data, 2, 2, 3, 5}), "weights.heads is 2 but q.heads is 4");
  EXPECT_EQ(message({}), "weights.batch is 0; it must be at least 1");
  EXPECT_EQ(message({k.view().data, 2, 4, 3, 5}), "weights overlaps k in memory");
  EXPECT_EQ(message(weights.view(), {.bias = {weights.view().data, 1, 1, 3, 5}}),
            "weights overlaps bias in memory");
  EXPECT_EQ(message(weights.view(), {.alibi_slopes = weights.view().data}),
            "weights overlaps alibi_slopes in memory");
  const float odd[] = {0, 0, 0, std::numeric_limits<float>::infinity()};
  EXPECT_EQ(message(weights.view(), {.sinks = odd}), "sinks[3] is inf; it must be finite");
  alignas(64) std::byte little[64];
  EXPECT_EQ(message(weights.view(), {.workspace = little, .workspace_bytes = 64})
                .find("workspace_bytes is 64; this call needs"),
            0U);
  weights.for_each([](float& x) { EXPECT_EQ(x, 7); });
}

}  // namespace
