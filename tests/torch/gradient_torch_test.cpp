// Gradients against libtorch's autograd of the same formulas, in float64.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <lowatt/lowatt.hpp>

namespace {

using lowatt::Index;
using torch::Tensor;

using Formula = std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v)>;

lowatt::View<float> view(Tensor& x) {
  return {x.data_ptr<float>(), x.size(0), x.size(1), x.size(2), x.size(3)};
}

double relative_l2(const Tensor& actual, const Tensor& expected) {
  const Tensor wide = actual.to(torch::kFloat64);
  return ((wide - expected).norm() / expected.norm()).item<double>();
}

// Outputs and gradients of `mechanism` against `formula`.
template <class M>
void expect_same(const M& mechanism, const Formula& formula) {
  torch::manual_seed(5);
  for (const auto& [queries, keys, head_dim, value_dim] :
       {std::array<Index, 4>{5, 9, 8, 8}, std::array<Index, 4>{49, 49, 32, 32},
        std::array<Index, 4>{70, 130, 24, 40}}) {
    Tensor q = torch::randn({2, 3, queries, head_dim}), k = torch::randn({2, 3, keys, head_dim}),
           v = torch::randn({2, 3, keys, value_dim}),
           of_out = torch::randn({2, 3, queries, value_dim});
    Tensor out = torch::zeros_like(of_out), dq = torch::zeros_like(q), dk = torch::zeros_like(k),
           dv = torch::zeros_like(v);
    lowatt::attend_training(mechanism, view(q), view(k), view(v), view(out));
    lowatt::attend_gradient(mechanism, view(q), view(k), view(v), view(out), view(of_out),
                            {view(dq), view(dk), view(dv)});

    const auto leaf = [](const Tensor& x) { return x.to(torch::kFloat64).set_requires_grad(true); };
    const Tensor q64 = leaf(q), k64 = leaf(k), v64 = leaf(v);
    const Tensor expected = formula(q64, k64, v64);
    expected.backward(of_out.to(torch::kFloat64));
    EXPECT_LE(relative_l2(out, expected.detach()), 2e-5) << queries;
    EXPECT_LE(relative_l2(dq, q64.grad()), 1e-4) << queries;
    EXPECT_LE(relative_l2(dk, k64.grad()), 1e-4) << queries;
    EXPECT_LE(relative_l2(dv, v64.grad()), 1e-4) << queries;
  }
}

TEST(TorchGradient, Softmax) {
  expect_same(lowatt::Softmax{}, [](const Tensor& q, const Tensor& k, const Tensor& v) {
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
    return (q.matmul(k.transpose(-2, -1)) * scale).softmax(-1).matmul(v);
  });
}

// [batch, heads, queries, keys, value_dim] all at once: small shapes only.
Tensor inhibitor(const Tensor& z, const Tensor& v, bool is_signed) {
  const Tensor score = z.unsqueeze(-1), value = v.unsqueeze(-3);
  if (!is_signed) return (value - score).relu().sum(-2);
  return ((value.relu() - score).relu() - ((-value).relu() - score).relu()).sum(-2);
}

TEST(TorchGradient, Inhibitor) {
  for (const bool is_signed : {true, false})
    for (const bool center : {true, false}) {
      const double scale = 0.05, alpha = 0.1, beta = 0.7;
      expect_same(lowatt::Inhibitor{.scale = scale,
                                    .alpha = alpha,
                                    .beta = beta,
                                    .is_signed = is_signed,
                                    .center = center,
                                    .precision = lowatt::Precision::fp32},
                  [&](const Tensor& q, const Tensor& k, const Tensor& v) {
                    Tensor z = (q.unsqueeze(-2) - k.unsqueeze(-3)).abs().sum(-1) * scale;
                    if (center) z = (z - z.mean(-1, true)).relu();
                    return inhibitor((z - alpha).relu(), v, is_signed) * beta;
                  });
    }
}

}  // namespace
