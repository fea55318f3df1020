#include <lowatt/lowatt.hpp>

#include <cmath>

#include "attention.hpp"

namespace training {
namespace {

using lowatt::Index;

// Tokens of all heads lie side by side: strides do what a transposition would.
template <class T>
lowatt::View<T> view_of(const Tensor& x) {
  TORCH_CHECK(x.is_contiguous() && x.scalar_type() == torch::kFloat && x.dim() == 4,
              "attention needs contiguous float32 tensors of four dimensions");
  return {x.data_ptr<float>(), x.size(0),   x.size(2),   x.size(1),
          x.size(3),           x.stride(0), x.stride(2), x.stride(1)};
}

double number(const Tensor& scalar) {
  return scalar.item<double>();
}

std::vector<double> numbers(const Tensor& scalars) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < scalars.numel(); ++i) result.push_back(scalars[i].item<double>());
  return result;
}

lowatt::Inhibitor inhibitor_of(const AttentionForm& form, const AttentionScalars& scalars,
                               lowatt::Precision precision) {
  return {.scale = number(scalars.scale),
          .alpha = number(scalars.alpha),
          .beta = number(scalars.beta),
          .is_signed = form.is_signed,
          .center = form.center,
          .normalize = true,
          .precision = precision};
}

lowatt::Bitformer bitformer_of(const AttentionForm& form, const AttentionScalars& scalars) {
  return {.planes = form.planes,
          .center_keys = form.center,
          .clip = scalars.clip,
          .temperature = number(scalars.temperature)};
}

// Pairs (query, key) of one head of one sequence that take part.
double visible_pairs(bool causal, Index queries, Index keys) {
  double pairs = 0;
  for (Index i = 0; i < queries; ++i)
    pairs += static_cast<double>(causal ? std::max<Index>(0, std::min(keys, i + 1 + keys - queries))
                                        : keys);
  return pairs;
}

}  // namespace

Attended attend_integer(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v) {
  const torch::NoGradGuard no_gradients;
  Attended result{torch::empty_like(q), {}};
  lowatt::Options options{.causal = form.causal};
  const auto run = [&](const auto& mechanism) {
    lowatt::attend(mechanism, view_of<const float>(q), view_of<const float>(k),
                   view_of<const float>(v), view_of<float>(result.out), options);
  };
  switch (form.mechanism) {
    case Mechanism::softmax:
      run(lowatt::Softmax{.scale = number(scalars.scale), .precision = lowatt::Precision::int8});
      break;
    case Mechanism::inhibitor:
      run(inhibitor_of(form, scalars, lowatt::Precision::int8));
      break;
    case Mechanism::bitformer:
      run(bitformer_of(form, scalars));
      break;
    case Mechanism::latte: {
      const std::vector<double> theta = numbers(scalars.theta);
      std::vector<std::int64_t> kept(static_cast<std::size_t>(q.size(0) * q.size(2)));
      options.kept = kept.data();
      run(lowatt::Latte{.scale = number(scalars.scale), .theta = theta});
      double sum = 0;
      for (const std::int64_t pairs : kept) sum += static_cast<double>(pairs);
      const double pairs = visible_pairs(form.causal, q.size(1), k.size(1));
      result.survival = torch::full({}, sum / (pairs * static_cast<double>(kept.size())));
      break;
    }
  }
  return result;
}

std::vector<double> start_latte(const AttentionForm& form, double filtered, const Tensor& q,
                                const Tensor& k, const Tensor& v) {
  const lowatt::Latte mechanism{.filtered = filtered};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, view_of<const float>(q), view_of<const float>(k),
                        view_of<const float>(v), {.causal = form.causal});
  return {calibration.theta.data(), calibration.theta.data() + calibration.theta.size()};
}

BitformerStart start_bitformer(const AttentionForm& form, const Tensor& q, const Tensor& k) {
  const lowatt::Bitformer mechanism{
      .planes = form.planes, .center_keys = form.center, .calibrate_temperature = true};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, view_of<const float>(q), view_of<const float>(k),
                        view_of<const float>(k), {.causal = form.causal});
  const auto mean = [](const auto& values) {
    double sum = 0;
    for (Index i = 0; i < values.size(); ++i) sum += static_cast<double>(values[i]);
    return sum / static_cast<double>(values.size());
  };
  BitformerStart start;
  // Sign encoding needs no clip, but its gradient ends there: twice the mean leaves out few.
  start.clip =
      form.planes == 1 ? 2 * k.detach().abs().mean().item<double>() : mean(calibration.clip);
  // Queries and keys that do not agree at all would start at 0, whose logarithm nothing can leave.
  start.temperature = std::max(mean(calibration.temperature), 1e-3);
  return start;
}

}  // namespace training
