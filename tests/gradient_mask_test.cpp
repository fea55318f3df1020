// Gradients see what the forward pass sees: NaN behind the causal mask reaches nothing. And bad
// input gets one sentence, with nothing written.
#include <cmath>

#include "support/gradient_check.hpp"

namespace {

using lowatt::Gradients;
using lowatt::Index;
using lowatt::Inhibitor;
using lowatt::Precision;
using lowatt::Softmax;
using lowatt::Status;
using lowatt::StatusCode;
using lowatt::View;

// Key, value and query `from` and all after it are NaN. In causal order (as many queries as keys)
// the queries before it do not see them, and have the gradients that they have without them.
template <class M>
void expect_mask_hides(const M& mechanism) {
  for (const Index from : {1, 7, 16, 40, 64, 66}) {
    const Index tokens = 67;
    const test::Case c{{1, 2, 1, tokens, tokens, 20, 12}, true};
    test::Inputs clean(c), spoilt(c);
    test::StridedTensor out_gradient(1, 2, tokens, 12);
    std::mt19937 random(3);
    out_gradient.fill_normal(random);
    // Only queries before `from` matter to the loss.
    for (Index h = 0; h < 2; ++h)
      for (Index t = from; t < tokens; ++t)
        for (Index d = 0; d < 12; ++d) out_gradient.view().row(0, h, t)[d] = 0;
    for (Index t = from; t < tokens; ++t) {
      for (Index d = 0; d < 20; ++d) spoilt.k.view().row(0, 0, t)[d] = std::nanf("");
      for (Index d = 0; d < 12; ++d) spoilt.v.view().row(0, 0, t)[d] = std::nanf("");
    }
    for (const lowatt::Level level : test::levels()) {
      const lowatt::Options options{.causal = true, .level = level};
      test::GradientTensors expected(c), actual(c);
      const auto run = [&](test::Inputs& inputs, test::GradientTensors& result) {
        lowatt::attend_training(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                                inputs.out.view(), {}, options);
        lowatt::attend_gradient(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                                inputs.out.view(), out_gradient.view(), result.views(), options);
      };
      run(clean, expected);
      run(spoilt, actual);
      const auto before = [&](test::StridedTensor& x) {
        View<float> part = x.view();
        part.tokens = from;
        return View<const float>(part);
      };
      const std::string what = test::describe(level, c) + " from " + std::to_string(from);
      test::expect_identical(before(spoilt.out), before(clean.out), what);
      test::expect_identical(before(actual.q), before(expected.q), "dq " + what);
    }
  }
}

TEST(MaskGradient, NaNBehindTheMaskReachesNothing) {
  expect_mask_hides(Softmax{});
  for (const bool center : {false, true})
    for (const bool is_signed : {false, true})
      expect_mask_hides(Inhibitor{.scale = 0.05,
                                  .alpha = -0.1,
                                  .is_signed = is_signed,
                                  .center = center,
                                  .precision = Precision::fp32});
}

// Rows that see no key: outputs and gradients are 0, of keys and values too where all rows are
// such.
TEST(MaskGradient, NoVisibleKey) {
  const test::Case c{{1, 1, 1, 20, 3, 8, 8}, true};
  test::Inputs inputs(c);
  test::StridedTensor out_gradient(1, 1, 20, 8);
  out_gradient.for_each([](float& x) { x = 1; });
  const auto check = [&](const auto& mechanism) {
    for (const lowatt::Level level : test::levels()) {
      const lowatt::Options options{.causal = true, .level = level};
      test::GradientTensors result(c);
      lowatt::attend_training(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                              inputs.out.view(), {}, options);
      lowatt::attend_gradient(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                              inputs.out.view(), out_gradient.view(), result.views(), options);
      for (Index t = 0; t < 17; ++t)
        for (Index d = 0; d < 8; ++d) {
          EXPECT_EQ(inputs.out.view().row(0, 0, t)[d], 0.0f);
          EXPECT_EQ(result.q.view().row(0, 0, t)[d], 0.0f);
        }
    }
  };
  check(Softmax{});
  check(Inhibitor{.center = true, .normalize = true, .precision = Precision::fp32});
}

// A call that would succeed; each test spoils one thing.
class RefusalGradient : public testing::Test {
 protected:
  RefusalGradient() : memory(4096, 1.0f), results(4096, -7.0f), numbers(8, -7.0) {
    q = {memory.data(), 4, 6, 8};
    k = {memory.data() + 1000, 2, 10, 8};
    v = {memory.data() + 2000, 2, 10, 5};
    out = {memory.data() + 3000, 4, 6, 5};
    out_gradient = {memory.data() + 3500, 4, 6, 5};
    result = {{results.data(), 4, 6, 8},
              {results.data() + 1000, 2, 10, 8},
              {results.data() + 2000, 2, 10, 5}};
  }
  template <class M>
  void expect(const M& mechanism, StatusCode code, const std::string& sentence) {
    const Status status =
        lowatt::try_attend_gradient(mechanism, q, k, v, out, out_gradient, result, options);
    EXPECT_EQ(status.code, code);
    EXPECT_EQ(std::string(status.message), sentence);
    for (const float x : results) ASSERT_EQ(x, -7.0f) << "something was written";
    for (const double x : numbers) ASSERT_EQ(x, -7.0) << "something was written";
  }

  std::vector<float> memory, results;
  std::vector<double> numbers;
  View<const float> q, k, v, out, out_gradient;
  Gradients result;
  lowatt::Options options;
};

TEST_F(RefusalGradient, TheUnspoiltCallSucceeds) {
  EXPECT_TRUE(
      lowatt::try_attend_gradient(Softmax{}, q, k, v, out, out_gradient, result, options).ok());
  EXPECT_NE(results[0], -7.0f);
}

TEST_F(RefusalGradient, ExtentsThatDisagree) {
  out_gradient.tokens = 5;
  expect(Softmax{}, StatusCode::invalid_shape, "out_gradient.tokens is 5 but q.tokens is 6");
  out_gradient.tokens = 6;
  result.v.dim = 4;
  expect(Softmax{}, StatusCode::invalid_shape, "gradients.v.dim is 4 but v.dim is 5");
  result.v.dim = 5;
  result.k.data = nullptr;
  expect(Softmax{}, StatusCode::invalid_argument, "gradients.k.data is null");
}

TEST_F(RefusalGradient, Overlap) {
  result.k = {results.data() + 100, 2, 10, 8};
  expect(Softmax{}, StatusCode::invalid_argument, "gradients.k overlaps gradients.q in memory");
  result.k = {memory.data() + 1000, 2, 10, 8};
  expect(Softmax{}, StatusCode::invalid_argument, "gradients.k overlaps k in memory");
}

TEST_F(RefusalGradient, ParametersThatTheMechanismLacks) {
  result.alpha = numbers.data();
  expect(Softmax{}, StatusCode::invalid_argument,
         "gradients.alpha is given, but this mechanism has none");
  result.alpha = nullptr;
  result.theta = numbers.data();
  expect(Inhibitor{.precision = Precision::fp32}, StatusCode::invalid_argument,
         "gradients.theta is given, but this mechanism has none");
}

TEST_F(RefusalGradient, Precision) {
  expect(Inhibitor{}, StatusCode::unsupported, "precision is int8; training is in fp32");
  expect(Softmax{.precision = Precision::bf16}, StatusCode::unsupported,
         "precision is bf16; training is in fp32");
}

TEST_F(RefusalGradient, OtherMasksThanCausalOrder) {
  options.window_left = 3;
  expect(Softmax{}, StatusCode::unsupported,
         "options.window_left is given; training knows causal order only");
}

TEST_F(RefusalGradient, Workspace) {
  const auto expect_exact = [&](const auto& mechanism) {
    const Index bytes = lowatt::training_workspace_bytes(mechanism, q, k, v, options);
    lowatt::Array<std::byte> workspace(bytes);
    options.workspace = workspace.data();
    options.workspace_bytes = bytes - 1;
    expect(mechanism, StatusCode::invalid_argument,
           "workspace_bytes is " + std::to_string(bytes - 1) + "; this call needs " +
               std::to_string(bytes));
    options.workspace_bytes = bytes;
    lowatt::attend_gradient(mechanism, q, k, v, out, out_gradient, result, options);
    std::fill(results.begin(), results.end(), -7.0f);
    options = {};
  };
  expect_exact(Softmax{});
  expect_exact(Inhibitor{.precision = Precision::fp32});
  expect_exact(lowatt::Bitformer{});
  expect_exact(lowatt::SoftLatte{.theta = 5.0});

  Index bytes = -1;
  k.dim = 7;
  EXPECT_EQ(
      std::string(lowatt::try_training_workspace_bytes(Softmax{}, q, k, v, options, bytes).message),
      "q.dim is 8 but k.dim is 7");
  EXPECT_EQ(bytes, -1);
}

}  // namespace
