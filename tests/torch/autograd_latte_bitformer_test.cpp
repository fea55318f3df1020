// Gradients of LATTE's and Bitformer's training forms against libtorch's autograd of the same
// formulas in double.
#include <torch/torch.h>

#include <lowatt/lowatt.hpp>

#include "support/gradient_check.hpp"

namespace {

using lowatt::Bitformer;
using lowatt::Index;
using lowatt::SoftLatte;
using test::Case;
using torch::Tensor;

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {{1, 1, 1, 16, 64, 16, 16}},
      {{2, 4, 2, 33, 70, 24, 40}, true, test::Layout::padded, 1},
      {{2, 3, 1, 50, 129, 64, 32}, false, test::Layout::token_major, 2}};
  return all;
}

// A copy in double, each KV head repeated for its query heads.
Tensor in_torch(lowatt::View<const float> x) {
  Tensor all = torch::empty({x.batch, x.heads, x.tokens, x.dim}, torch::kFloat64);
  auto element = all.accessor<double, 4>();
  for (Index b = 0; b < x.batch; ++b)
    for (Index h = 0; h < x.heads; ++h)
      for (Index t = 0; t < x.tokens; ++t)
        for (Index c = 0; c < x.dim; ++c)
          element[b][h][t][c] = static_cast<double>(x.row(b, h, t)[c]);
  return all;
}
Tensor repeated(const Tensor& x, Index query_heads) {
  return x.repeat_interleave(query_heads / x.size(1), 1);
}

// Scores of pairs that a query does not see become -infinity. All queries of the cases see a key.
Tensor masked(const Tensor& scores, bool causal) {
  if (!causal) return scores;
  const Index queries = scores.size(-2), keys = scores.size(-1);
  const Tensor hidden = torch::ones({queries, keys}, torch::kBool).triu(keys - queries + 1);
  return scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
}

double distance(lowatt::View<const float> actual, const Tensor& expected) {
  return ((in_torch(actual) - expected).norm() / expected.norm()).item<double>();
}
double distance(const std::vector<double>& actual, const Tensor& expected) {
  const Tensor numbers = torch::tensor(actual, torch::kFloat64).view_as(expected);
  return ((numbers - expected).norm() / expected.norm()).item<double>();
}

struct Problem {
  explicit Problem(const Case& c)
      : inputs(c),
        of_out(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.value_dim, c.layout) {
    std::mt19937 random(c.seed + 1);
    of_out.fill_normal(random);
    q = in_torch(std::as_const(inputs.q).view()).requires_grad_(true);
    k = in_torch(std::as_const(inputs.k).view()).requires_grad_(true);
    v = in_torch(std::as_const(inputs.v).view()).requires_grad_(true);
    out_gradient = in_torch(std::as_const(of_out).view());
  }
  test::Inputs inputs;
  test::StridedTensor of_out;
  Tensor q, k, v, out_gradient;
};

// Runs the kernels at every level and compares with what autograd left in the problem's tensors.
template <class M>
void expect_close(const M& mechanism, const Case& c, Problem& problem, const Tensor& out,
                  double* lowatt::Gradients::*parameter, const Tensor& of_parameter,
                  const double* of_survival = nullptr) {
  const lowatt::View<const float> q = problem.inputs.q.view(), k = problem.inputs.k.view(),
                                  v = problem.inputs.v.view();
  for (const lowatt::Level level : test::levels()) {
    const std::string what = test::describe(level, c);
    const lowatt::Options options{.causal = c.causal, .level = level};
    test::GradientTensors gradients(c);
    lowatt::Gradients result = gradients.views();
    std::vector<double> numbers(static_cast<std::size_t>(of_parameter.numel()));
    result.*parameter = numbers.data();
    result.survival = of_survival;
    lowatt::attend_training(mechanism, q, k, v, problem.inputs.out.view(), {}, options);
    lowatt::attend_gradient(mechanism, q, k, v, std::as_const(problem.inputs.out).view(),
                            std::as_const(problem.of_out).view(), result, options);
    EXPECT_LE(distance(std::as_const(problem.inputs.out).view(), out), 1e-5) << what;
    EXPECT_LE(distance(gradients.q.view(), problem.q.grad()), 1e-4) << "q, " << what;
    EXPECT_LE(distance(gradients.k.view(), problem.k.grad()), 1e-4) << "k, " << what;
    EXPECT_LE(distance(gradients.v.view(), problem.v.grad()), 1e-4) << "v, " << what;
    EXPECT_LE(distance(numbers, of_parameter), 1e-4) << "parameter, " << what;
  }
}

TEST(LatteGradient, Autograd) {
  for (const Case& c : cases()) {
    Problem problem(c);
    const Index batch = c.shape.batch, heads = c.shape.query_heads;
    const double scale = 0.5, softness = 0.7;
    // One theta per (batch, head), all equal, so that each has a gradient of its own.
    const Tensor theta =
        torch::full({batch, heads, 1, 1}, 0.6, torch::kFloat64).requires_grad_(true);
    const Tensor of_survival =
        torch::arange(batch * heads, torch::kFloat64).view({batch, heads}) - 1.5;

    const Tensor scores =
        masked(problem.q.matmul(repeated(problem.k, heads).transpose(-2, -1)) * scale, c.causal);
    const Tensor visible = scores > -std::numeric_limits<double>::infinity();
    const Tensor x = (scores - scores.amax(-1, true) + theta) / softness;
    const Tensor finite_x = torch::where(visible, x, torch::zeros_like(x));
    const Tensor mask = torch::where(visible, finite_x.sigmoid(), torch::zeros_like(x));
    const Tensor out =
        (scores + torch::log_sigmoid(finite_x)).softmax(-1).matmul(repeated(problem.v, heads));
    const Tensor survival = mask.sum({-2, -1}) / visible[0][0].sum();
    ((out * problem.out_gradient).sum() + (survival * of_survival).sum()).backward();

    const std::vector<double> weights(of_survival.data_ptr<double>(),
                                      of_survival.data_ptr<double>() + of_survival.numel());
    expect_close(SoftLatte{.scale = scale, .theta = 0.6, .softness = softness, .quantised = false},
                 c, problem, out.detach(), &lowatt::Gradients::theta, theta.grad(), weights.data());
  }
}

// Bits of -1 and 1, [planes, batch, heads, tokens, dim], with gradient 1 / clip within the clip.
Tensor bits(const Tensor& x, const lowatt::BitThresholds& thresholds, double clip) {
  std::vector<Tensor> planes;
  const Tensor passed = torch::where(x.abs() <= clip, x / clip, torch::zeros_like(x));
  for (int t = 0; t < thresholds.planes; ++t) {
    const Tensor hard = (x >= static_cast<double>(thresholds.value[t])).to(torch::kFloat64) * 2 - 1;
    planes.push_back(hard + passed - passed.detach());
  }
  return torch::stack(planes);
}

TEST(BitformerGradient, Autograd) {
  for (const Case& c : cases())
    for (const int planes : {1, 2, 4}) {
      Problem problem(c);
      const Index batch = c.shape.batch, heads = c.shape.query_heads;
      const double clip = 1.25;
      const Tensor temperature =
          torch::full({batch, heads, 1, 1}, 0.03, torch::kFloat64).requires_grad_(true);
      const auto thresholds =
          lowatt::bit_thresholds(lowatt::BitEncoding::automatic, planes, static_cast<float>(clip));
      const Tensor keys = bits(repeated(problem.k, heads), thresholds, clip);
      const Tensor products = bits(problem.q, thresholds, clip).matmul(keys.transpose(-2, -1));
      const Tensor out = masked(products.sum(0) * temperature, c.causal)
                             .softmax(-1)
                             .matmul(repeated(problem.v, heads));
      (out * problem.out_gradient).sum().backward();
      expect_close(Bitformer{.planes = planes, .clip = clip, .temperature = 0.03}, c, problem,
                   out.detach(), &lowatt::Gradients::temperature, temperature.grad());
    }
}

}  // namespace
