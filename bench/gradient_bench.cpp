// Forward plus backward of every mechanism's training form, against libtorch's autograd of the same
// formula, on one core. Names: mechanism/who/batch/heads/N/head_dim, who being lowatt or libtorch.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <functional>
#include <lowatt/lowatt.hpp>
#include <string>

// Of the BLAS that libtorch uses, where that is OpenBLAS: its threads are its own.
extern "C" void openblas_set_num_threads(int) __attribute__((weak));

namespace {

using lowatt::Index;
using torch::Tensor;

struct Shape {
  Index batch, heads, tokens, head_dim;

  std::string name() const {
    return std::to_string(batch) + "/" + std::to_string(heads) + "/" + std::to_string(tokens) +
           "/" + std::to_string(head_dim);
  }
  double pairs() const { return static_cast<double>(batch * heads * tokens * tokens); }
};

// Q, K, V and the gradient of the outputs, [batch, heads, tokens, head_dim].
struct Inputs {
  explicit Inputs(const Shape& s) {
    torch::manual_seed(1);
    for (Tensor* x : {&q, &k, &v, &out_gradient})
      *x = torch::randn({s.batch, s.heads, s.tokens, s.head_dim});
  }
  Tensor q, k, v, out_gradient;
};

lowatt::View<float> view(Tensor& x) {
  return {x.data_ptr<float>(), x.size(0), x.size(1), x.size(2), x.size(3)};
}

void report(benchmark::State& state, const Shape& shape) {
  state.counters["pairs_per_second"] =
      benchmark::Counter(shape.pairs(), benchmark::Counter::kIsIterationInvariantRate);
}

// `more` says which parameters' gradients are wanted, as libtorch computes them too.
template <class M>
void run_lowatt(benchmark::State& state, const Shape& shape, const M& mechanism,
                const std::function<void(lowatt::Gradients&, double*)>& more) {
  Inputs inputs(shape);
  Tensor out = torch::empty_like(inputs.q), q = torch::empty_like(inputs.q),
         k = torch::empty_like(inputs.k), v = torch::empty_like(inputs.v);
  std::vector<double> parameters(static_cast<std::size_t>(8 * shape.batch * shape.heads));
  lowatt::Gradients result{view(q), view(k), view(v)};
  if (more) more(result, parameters.data());
  for (auto _ : state) {
    lowatt::attend_training(mechanism, view(inputs.q), view(inputs.k), view(inputs.v), view(out));
    lowatt::attend_gradient(mechanism, view(inputs.q), view(inputs.k), view(inputs.v), view(out),
                            view(inputs.out_gradient), result);
    benchmark::DoNotOptimize(result.q.data);
  }
  report(state, shape);
}

using Formula = std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v)>;

void run_libtorch(benchmark::State& state, const Shape& shape, const Formula& formula) {
  Inputs inputs(shape);
  for (Tensor* x : {&inputs.q, &inputs.k, &inputs.v}) x->set_requires_grad(true);
  for (auto _ : state) {
    for (Tensor* x : {&inputs.q, &inputs.k, &inputs.v}) x->mutable_grad() = Tensor();
    formula(inputs.q, inputs.k, inputs.v).backward(inputs.out_gradient);
    benchmark::DoNotOptimize(inputs.q.grad().data_ptr<float>());
  }
  report(state, shape);
}

template <class M>
void add(const std::string& name, const M& mechanism, const Formula& formula,
         const std::function<void(lowatt::Gradients&, double*)>& more = nullptr) {
  for (const Shape& shape :
       {Shape{128, 2, 49, 32}, Shape{8, 4, 64, 32}, Shape{8, 4, 64, 64}, Shape{8, 4, 256, 32},
        Shape{8, 4, 256, 64}, Shape{8, 4, 512, 32}, Shape{8, 4, 512, 64}}) {
    benchmark::RegisterBenchmark(
        (name + "/lowatt/" + shape.name()).c_str(),
        [=](benchmark::State& state) { run_lowatt(state, shape, mechanism, more); })
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(
        (name + "/libtorch/" + shape.name()).c_str(),
        [=](benchmark::State& state) { run_libtorch(state, shape, formula); })
        ->Unit(benchmark::kMicrosecond);
  }
}

double scale_of(const Tensor& q) {
  return 1 / std::sqrt(static_cast<double>(q.size(-1)));
}

Tensor softmax(const Tensor& q, const Tensor& k, const Tensor& v) {
  return (q.matmul(k.transpose(-2, -1)) * scale_of(q)).softmax(-1).matmul(v);
}

// sum_j max(v_jk - z_ij, 0) = 1/2 sum_j (v_jk - z_ij + |v_jk - z_ij|), as published (2310.02041):
// the last sum is an L1 distance. Signed, the sums of z cancel.
constexpr double inhibitor_scale = 0.01;
Tensor scores(const Tensor& q, const Tensor& k) {
  return torch::cdist(q, k, 1) * inhibitor_scale;
}
Tensor inhibitor_unsigned(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor z = scores(q, k);
  return 0.5 * (v.sum(-2, true) - z.sum(-1, true) + torch::cdist(z, v.transpose(-2, -1), 1));
}
Tensor inhibitor_signed(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor z = scores(q, k), positive = v.relu(), negative = (-v).relu();
  return 0.5 * (v.sum(-2, true) + torch::cdist(z, positive.transpose(-2, -1), 1) -
                torch::cdist(z, negative.transpose(-2, -1), 1));
}

// A parameter of the mechanism, whose gradient libtorch computes too.
Tensor parameter(double value) {
  return torch::full({1}, value).requires_grad_(true);
}

constexpr double theta = 2, softness = 0.5, temperature = 0.01, clip = 1;
Tensor latte(const Tensor& s, const Tensor& low, const Tensor& v) {
  const Tensor x = (low - low.amax(-1, true) + parameter(theta)) / softness;
  return (s + torch::log_sigmoid(x)).softmax(-1).matmul(v);
}
Tensor latte_exact(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor s = q.matmul(k.transpose(-2, -1)) * scale_of(q);
  return latte(s, s, v);
}
// x on four bits, with the gradient of x.
Tensor on_four_bits(const Tensor& x, const Tensor& absmax) {
  const Tensor unit = absmax / 127 * 16, detached = x.detach();
  return x + ((detached / unit).round().clamp(-8, 7) * unit - detached);
}
Tensor latte_quantised(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor low_q = on_four_bits(q, q.detach().abs().amax(-1, true));
  const Tensor low_k = on_four_bits(k, k.detach().abs().amax({-2, -1}, true));
  return latte(q.matmul(k.transpose(-2, -1)) * scale_of(q),
               low_q.matmul(low_k.transpose(-2, -1)) * scale_of(q), v);
}

// The sum of products of bits, each of which has the gradient of x / clip within the clip.
Tensor bitformer(const Tensor& q, const Tensor& k, const Tensor& v, int planes) {
  const auto thresholds =
      lowatt::bit_thresholds(lowatt::BitEncoding::automatic, planes, static_cast<float>(clip));
  const Tensor passed_q = q.clamp(-clip, clip) / clip, passed_k = k.clamp(-clip, clip) / clip;
  Tensor scores;
  for (int t = 0; t < planes; ++t) {
    const auto bits = [&](const Tensor& x, const Tensor& passed) {
      return passed + ((x.detach() >= thresholds.value[t]) * 2.0f - 1.0f - passed.detach());
    };
    const Tensor product = bits(q, passed_q).matmul(bits(k, passed_k).transpose(-2, -1));
    scores = t == 0 ? product : scores + product;
  }
  return (scores * parameter(temperature)).softmax(-1).matmul(v);
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(1);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  add("softmax", lowatt::Softmax{}, softmax);
  const lowatt::Inhibitor inhibitor{.scale = inhibitor_scale, .precision = lowatt::Precision::fp32};
  add("inhibitor_signed", inhibitor, inhibitor_signed);
  lowatt::Inhibitor one_sided = inhibitor;
  one_sided.is_signed = false;
  add("inhibitor_unsigned", one_sided, inhibitor_unsigned);
  const auto of_theta = [](lowatt::Gradients& result, double* parameters) {
    result.theta = parameters;
  };
  lowatt::SoftLatte soft{.theta = theta, .softness = softness, .quantised = false};
  add("latte_exact", soft, latte_exact, of_theta);
  soft.quantised = true;
  add("latte", soft, latte_quantised, of_theta);
  for (const int planes : {1, 4})
    add(
        "bitformer_" + std::to_string(planes),
        lowatt::Bitformer{.planes = planes, .clip = clip, .temperature = temperature},
        [planes](const Tensor& q, const Tensor& k, const Tensor& v) {
          return bitformer(q, k, v, planes);
        },
        [](lowatt::Gradients& result, double* parameters) { result.temperature = parameters; });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
