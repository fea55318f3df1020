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

// Mechanisms that compute in training and in judging alike. `learned` is what learned_scalars()
// gives.
lowatt::Inhibitor inhibitor_of(const AttentionForm& form, const std::vector<double>& learned,
                               lowatt::Precision precision) {
  return {.scale = learned[0],
          .alpha = learned[1],
          .beta = learned[2],
          .is_signed = form.is_signed,
          .center = form.center,
          .normalize = form.normalize,
          .precision = precision};
}

lowatt::Bitformer bitformer_of(const AttentionForm& form, const std::vector<double>& learned,
                               double clip) {
  return {
      .planes = form.planes, .center_keys = form.center, .clip = clip, .temperature = learned[0]};
}

// Pairs (query, key) of one head of one sequence that take part.
double visible_pairs(bool causal, Index queries, Index keys) {
  double pairs = 0;
  for (Index i = 0; i < queries; ++i)
    pairs += static_cast<double>(causal ? std::max<Index>(0, std::min(keys, i + 1 + keys - queries))
                                        : keys);
  return pairs;
}

// What the kernels take beside q, k and v and give no gradient for.
struct Constants {
  AttentionForm form;
  double scale = 1, clip = 1, softness = 1;  // scale: of the mechanisms that do not learn it
};

// What they give a gradient for, as one tensor: the Inhibitor's scale, alpha and beta; LATTE's
// theta per head; Bitformer's temperature; nothing for softmax.
Tensor learned_scalars(const AttentionForm& form, const AttentionScalars& scalars) {
  switch (form.mechanism) {
    case Mechanism::inhibitor:
      return torch::cat({scalars.scale, scalars.alpha, scalars.beta});
    case Mechanism::latte:
      return scalars.theta;
    case Mechanism::bitformer:
      return scalars.temperature;
    default:
      return torch::empty({0});
  }
}

// f(the mechanism whose training form the kernels compute).
template <class F>
void with_training_form(const Constants& constants, const Tensor& learned, F f) {
  const AttentionForm& form = constants.form;
  const std::vector<double> values = numbers(learned);
  switch (form.mechanism) {
    case Mechanism::softmax:
      return f(lowatt::Softmax{.scale = constants.scale});
    case Mechanism::inhibitor:
      return f(inhibitor_of(form, values, lowatt::Precision::fp32));
    case Mechanism::latte:
      return f(lowatt::SoftLatte{
          .scale = constants.scale, .theta = values, .softness = constants.softness});
    case Mechanism::bitformer:
      return f(bitformer_of(form, values, constants.clip));
  }
}

template <class Values>
double mean(const Values& values) {
  double sum = 0;
  for (const auto value : values) sum += static_cast<double>(value);
  return sum / static_cast<double>(values.size());
}

// Gives {out} or, of LATTE, {out, survival}.
class KernelAttention : public torch::autograd::Function<KernelAttention> {
 public:
  using Context = torch::autograd::AutogradContext;

  static std::vector<Tensor> forward(Context* context, const Tensor& q, const Tensor& k,
                                     const Tensor& v, const Tensor& learned,
                                     const Constants& constants) {
    const bool is_latte = constants.form.mechanism == Mechanism::latte;
    std::vector<Tensor> result{torch::empty_like(q)};
    std::vector<double> survival(static_cast<std::size_t>(q.size(0) * q.size(2)));
    with_training_form(constants, learned, [&](const auto& mechanism) {
      lowatt::attend_training(mechanism, view_of<const float>(q), view_of<const float>(k),
                              view_of<const float>(v), view_of<float>(result[0]),
                              {.survival = is_latte ? survival.data() : nullptr},
                              {.causal = constants.form.causal});
    });
    if (is_latte) result.push_back(torch::full({}, mean(survival)));
    context->save_for_backward({q, k, v, learned, result[0]});
    context->saved_data["form"] = pack(constants);
    return result;
  }

  static std::vector<Tensor> backward(Context* context, const std::vector<Tensor>& gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &learned = saved[3], &out = saved[4];
    const Constants constants = unpack(context->saved_data["form"]);
    const Mechanism mechanism_name = constants.form.mechanism;
    const std::int64_t batch = q.size(0), heads = q.size(2);
    const auto entries = static_cast<std::size_t>(batch * heads);

    const Tensor out_gradient = gradients[0].contiguous();
    const Tensor q_gradient = torch::empty_like(q), k_gradient = torch::empty_like(k),
                 v_gradient = torch::empty_like(v);
    lowatt::Gradients result{.q = view_of<float>(q_gradient),
                             .k = view_of<float>(k_gradient),
                             .v = view_of<float>(v_gradient)};
    // One row of entries for each learned scalar of the mechanism.
    std::vector<std::vector<double>> parameters(3, std::vector<double>(entries));
    std::vector<double> survival;
    if (mechanism_name == Mechanism::inhibitor) {
      result.scale = parameters[0].data();
      result.alpha = parameters[1].data();
      result.beta = parameters[2].data();
    }
    if (mechanism_name == Mechanism::bitformer) result.temperature = parameters[0].data();
    if (mechanism_name == Mechanism::latte) {
      result.theta = parameters[0].data();
      survival.assign(entries, gradients[1].defined()
                                   ? number(gradients[1]) / static_cast<double>(entries)
                                   : 0.0);
      result.survival = survival.data();
    }
    with_training_form(constants, learned, [&](const auto& mechanism) {
      lowatt::attend_gradient(mechanism, view_of<const float>(q), view_of<const float>(k),
                              view_of<const float>(v), view_of<const float>(out),
                              view_of<const float>(out_gradient), result,
                              {.causal = constants.form.causal});
    });

    const Tensor learned_gradient = torch::zeros_like(learned);
    for (std::int64_t i = 0; i < learned.numel(); ++i) {
      double sum = 0;
      for (std::size_t entry = 0; entry < entries; ++entry)
        if (mechanism_name != Mechanism::latte)
          sum += parameters[static_cast<std::size_t>(i)][entry];
        else if (static_cast<std::int64_t>(entry) % heads == i)
          sum += parameters[0][entry];
      learned_gradient[i] = sum;
    }
    return {q_gradient, k_gradient, v_gradient, learned_gradient, {}};
  }

 private:
  static c10::IValue pack(const Constants& c) {
    const AttentionForm& form = c.form;
    return c10::List<double>({static_cast<double>(form.mechanism), form.causal ? 1.0 : 0.0,
                              form.is_signed ? 1.0 : 0.0, form.normalize ? 1.0 : 0.0,
                              form.center ? 1.0 : 0.0, static_cast<double>(form.planes), c.scale,
                              c.clip, c.softness});
  }
  static Constants unpack(const c10::IValue& value) {
    const std::vector<double> x = value.toDoubleVector();
    return {{static_cast<Mechanism>(x[0]), x[1] != 0, x[2] != 0, x[3] != 0, x[4] != 0,
             static_cast<int>(x[5])},
            x[6],
            x[7],
            x[8]};
  }
};

}  // namespace

Attended attend_kernels(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v) {
  // The kernels' training form has no hard mask; only judging asks for it.
  if (form.mechanism == Mechanism::latte && scalars.softness == 0)
    return attend_formula(form, scalars, q, k, v);
  const Constants constants{form, number(scalars.scale), scalars.clip, scalars.softness};
  const std::vector<Tensor> result =
      KernelAttention::apply(q, k, v, learned_scalars(form, scalars), constants);
  return {result[0], result.size() > 1 ? result[1] : Tensor()};
}

Attended attend_integer(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v) {
  const torch::NoGradGuard no_gradients;
  const std::vector<double> learned = numbers(learned_scalars(form, scalars));
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
      run(inhibitor_of(form, learned, lowatt::Precision::int8));
      break;
    case Mechanism::bitformer:
      run(bitformer_of(form, learned, scalars.clip));
      break;
    case Mechanism::latte: {
      std::vector<std::int64_t> kept(static_cast<std::size_t>(q.size(0) * q.size(2)));
      options.kept = kept.data();
      run(lowatt::Latte{.scale = number(scalars.scale), .theta = learned});
      double sum = 0;
      for (const std::int64_t pairs : kept) sum += static_cast<double>(pairs);
      const double pairs = visible_pairs(form.causal, q.size(1), k.size(1));
      result.survival = torch::full({}, sum / (pairs * static_cast<double>(kept.size())));
      break;
    }
  }
  return result;
}

Attended attend_straight_through(const AttentionForm& form, const AttentionScalars& scalars,
                                 const Tensor& q, const Tensor& k, const Tensor& v) {
  Attended result = attend_kernels(form, scalars, q, k, v);
  const Tensor integer = attend_integer(form, scalars, q, k, v).out;
  result.out = straight_through(result.out, integer);
  return result;
}

Attended attend(Arithmetic arithmetic, const AttentionForm& form, const AttentionScalars& scalars,
                const Tensor& q, const Tensor& k, const Tensor& v) {
  switch (arithmetic) {
    case Arithmetic::formula:
      return attend_formula(form, scalars, q, k, v);
    case Arithmetic::kernels:
      return attend_kernels(form, scalars, q, k, v);
    case Arithmetic::straight_through:
      return attend_straight_through(form, scalars, q, k, v);
    default:
      return attend_integer(form, scalars, q, k, v);
  }
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
  BitformerStart start;
  // Sign encoding needs no clip, but its gradient ends there: twice the mean leaves out few.
  start.clip =
      form.planes == 1 ? 2 * k.detach().abs().mean().item<double>() : mean(calibration.clip);
  // Queries and keys that do not agree at all would start at 0, whose logarithm nothing can leave.
  start.temperature = std::max(mean(calibration.temperature), 1e-3);
  return start;
}

}  // namespace training
