#include "model.hpp"

#include <cmath>

namespace training {
namespace {

// Thresholds are softplus of what is learned: they stay positive.
double inverse_softplus(double x) {
  return x > 20 ? x : std::log(std::expm1(std::max(x, 1e-3)));
}

// The part of a parameter's name that says it is one of the scalars.
bool is_scalar(const std::string& name) {
  for (const char* scalar : {"log_scale", "alpha", "beta", "theta", "log_temperature"})
    if (name == scalar || name.ends_with("." + std::string(scalar))) return true;
  return false;
}

// Sines and cosines of many wave lengths (Vaswani et al., 2017), from which "the token before" is
// soon learned.
Tensor waves(std::int64_t tokens, std::int64_t dim) {
  const Tensor step = torch::arange(dim / 2, torch::kFloat) / static_cast<double>(dim / 2);
  const Tensor angle = torch::outer(torch::arange(tokens, torch::kFloat), torch::pow(1e-4, step));
  return torch::cat({torch::sin(angle), torch::cos(angle)}, 1);
}

}  // namespace

AttentionImpl::AttentionImpl(const ModelShape& shape, Tensor shared_theta)
    : form_(shape.form), heads_(shape.heads), head_dim_(shape.dim / shape.heads) {
  const auto linear = [&] { return torch::nn::Linear(shape.dim, shape.dim); };
  query = register_module("query", linear());
  key = register_module("key", linear());
  value = register_module("value", linear());
  output = register_module("output", linear());
  const Tensor log_scale = torch::full({1}, -0.5 * std::log(static_cast<double>(head_dim_)));
  if (form_.mechanism == Mechanism::inhibitor) {
    log_scale_ = register_parameter("log_scale", log_scale);
    alpha_ = register_parameter("alpha", torch::zeros({1}));
    beta_ = register_parameter("beta", torch::ones({1}));
    return;
  }
  log_scale_ = register_buffer("log_scale", log_scale);
  if (form_.mechanism == Mechanism::latte)
    theta_ = shared_theta.defined() ? shared_theta
                                    : register_parameter("theta", torch::full({heads_}, 6.0));
  if (form_.mechanism == Mechanism::bitformer) {
    log_temperature_ = register_parameter("log_temperature", torch::zeros({1}));
    clip_ = register_buffer("clip", torch::ones({1}));
  }
}

AttentionScalars AttentionImpl::scalars(double softness) const {
  AttentionScalars result;
  result.scale = log_scale_.exp();
  result.softness = softness;
  result.alpha = alpha_;
  result.beta = beta_;
  if (theta_.defined()) result.theta = torch::softplus(theta_).expand({heads_});
  if (log_temperature_.defined()) result.temperature = log_temperature_.exp();
  if (clip_.defined()) result.clip = clip_.item<double>();
  return result;
}

AttentionImpl::Projected AttentionImpl::project(const Tensor& x) {
  const std::vector<std::int64_t> split{x.size(0), x.size(1), heads_, head_dim_};
  return {query(x).view(split), key(x).view(split), value(x).view(split)};
}

Attended AttentionImpl::forward(const Tensor& x, const Mode& mode) {
  const Projected p = project(x);
  Attended result = attend(mode.arithmetic, form_, scalars(mode.softness), p.q, p.k, p.v);
  result.out = output(result.out.view(x.sizes()));
  return result;
}

void AttentionImpl::start(const Tensor& x, double filtered) {
  const torch::NoGradGuard no_gradients;
  const Projected p = project(x);
  switch (form_.mechanism) {
    case Mechanism::softmax:
      return;
    case Mechanism::inhibitor: {
      const InhibitorStart start = start_inhibitor(form_, p.q, p.k, p.v);
      log_scale_.fill_(std::log(start.scale));
      alpha_.fill_(start.alpha);
      beta_.fill_(start.beta);
      return;
    }
    case Mechanism::latte: {
      const std::vector<double> thetas = start_latte(form_, filtered, p.q, p.k, p.v);
      if (theta_.size(0) != heads_) {
        double sum = 0;
        for (const double theta : thetas) sum += theta;
        theta_.fill_(inverse_softplus(sum / static_cast<double>(heads_)));
        return;
      }
      for (std::int64_t h = 0; h < heads_; ++h)
        theta_[h].fill_(inverse_softplus(thetas[static_cast<std::size_t>(h)]));
      return;
    }
    case Mechanism::bitformer: {
      const BitformerStart start = start_bitformer(form_, p.q, p.k);
      clip_.fill_(start.clip);
      log_temperature_.fill_(std::log(start.temperature));
      return;
    }
  }
}

LayerImpl::LayerImpl(const ModelShape& shape, Tensor shared_theta) {
  const torch::nn::LayerNormOptions norm({shape.dim});
  norm1 = register_module("norm1", torch::nn::LayerNorm(norm));
  attention = register_module("attention", Attention(shape, shared_theta));
  norm2 = register_module("norm2", torch::nn::LayerNorm(norm));
  up = register_module("feed_forward_up", torch::nn::Linear(shape.dim, shape.feed_forward));
  down = register_module("feed_forward_down", torch::nn::Linear(shape.feed_forward, shape.dim));
}

Attended LayerImpl::forward(const Tensor& x, const Mode& mode) {
  Attended result = attention->forward(norm1(x), mode);
  const Tensor attended = x + result.out;
  result.out = attended + down(torch::relu(up(norm2(attended))));
  return result;
}

ModelImpl::ModelImpl(const ModelShape& shape) : shape_(shape) {
  if (shape.features > 0)
    features_ = register_module("embed", torch::nn::Linear(shape.features, shape.dim));
  else
    words_ = register_module("embed", torch::nn::Embedding(shape.vocabulary, shape.dim));
  // Where a token is counts as much as what it is, also at the start.
  position_ = register_parameter("position", 0.5 * torch::randn({shape.tokens, shape.dim}));
  if (words_) {
    torch::nn::init::normal_(words_->weight, 0, 0.5);
    const torch::NoGradGuard no_gradients;
    position_.copy_(waves(shape.tokens, shape.dim));
  }
  if (shape.global_threshold) theta_ = register_parameter("theta", torch::full({1}, 6.0));
  for (std::int64_t i = 0; i < shape.layers; ++i)
    layers_.push_back(register_module("layers_" + std::to_string(i), Layer(shape, theta_)));
  norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({shape.dim})));
  head_ = register_module("head", torch::nn::Linear(shape.dim, shape.outputs));
}

Tensor ModelImpl::embed(const Tensor& input) {
  return (shape_.features > 0 ? features_(input) : words_(input)) + position_;
}

Prediction ModelImpl::forward(const Tensor& input, const Mode& mode) {
  Tensor x = embed(input);
  Prediction prediction;
  for (Layer& layer : layers_) {
    const Attended result = layer->forward(x, mode);
    x = result.out;
    if (result.survival.defined())
      prediction.survival =
          prediction.survival.defined() ? prediction.survival + result.survival : result.survival;
  }
  if (prediction.survival.defined())
    prediction.survival = prediction.survival / static_cast<double>(layers_.size());
  x = norm_(x);
  if (shape_.pooling == Pooling::mean) x = x.mean(1);
  if (shape_.pooling == Pooling::last) x = x.select(1, x.size(1) - 1);
  prediction.output = head_(x);
  return prediction;
}

void ModelImpl::start(const Tensor& input, const Mode& mode, double filtered) {
  const torch::NoGradGuard no_gradients;
  Tensor x = embed(input);
  double theta_sum = 0;
  for (Layer& layer : layers_) {
    layer->attention->start(layer->norm1(x), filtered);
    if (theta_.defined()) theta_sum += theta_.item<double>();
    x = layer->forward(x, mode).out;
  }
  if (theta_.defined()) theta_.fill_(theta_sum / static_cast<double>(layers_.size()));
}

std::vector<Tensor> ModelImpl::attention_scalars() const {
  std::vector<Tensor> result;
  for (const auto& item : named_parameters())
    if (is_scalar(item.key())) result.push_back(item.value());
  return result;
}

std::vector<Tensor> ModelImpl::weights() const {
  std::vector<Tensor> result;
  for (const auto& item : named_parameters())
    if (!is_scalar(item.key())) result.push_back(item.value());
  return result;
}

std::vector<std::pair<std::string, Tensor>> ModelImpl::exported() const {
  const torch::NoGradGuard no_gradients;
  std::vector<std::pair<std::string, Tensor>> result;
  const auto add = [&](const std::string& prefix, const torch::nn::Module& module) {
    for (const auto& item : module.named_parameters())
      result.emplace_back(prefix + item.key(), item.value());
  };
  add("embed.", shape_.features > 0 ? static_cast<const torch::nn::Module&>(*features_) : *words_);
  result.emplace_back("position", position_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerImpl& layer = *layers_[i];
    const std::string prefix = "layers." + std::to_string(i) + ".";
    add(prefix + "norm1.", *layer.norm1);
    add(prefix + "norm2.", *layer.norm2);
    add(prefix + "feed_forward.up.", *layer.up);
    add(prefix + "feed_forward.down.", *layer.down);
    const std::string attention = prefix + "attention.";
    add(attention + "query.", *layer.attention->query);
    add(attention + "key.", *layer.attention->key);
    add(attention + "value.", *layer.attention->value);
    add(attention + "output.", *layer.attention->output);
    const AttentionScalars scalars = layer.attention->scalars(0);
    const auto scalar = [&](const char* name, const Tensor& tensor) {
      if (tensor.defined()) result.emplace_back(attention + name, tensor);
    };
    scalar("scale", scalars.scale);
    scalar("alpha", scalars.alpha);
    scalar("beta", scalars.beta);
    scalar("theta", scalars.theta);
    scalar("temperature", scalars.temperature);
    if (scalars.temperature.defined()) scalar("clip", torch::full({1}, scalars.clip));
  }
  add("norm.", *norm_);
  add("head.", *head_);
  return result;
}

}  // namespace training
