// A small Transformer: pre-norm residual blocks, relu, attention by a flag.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention.hpp"

namespace training {

enum class Pooling { mean, last, none };  // what the head reads: one vector, or each token's

struct ModelShape {
  std::int64_t tokens = 0;
  std::int64_t features = 0;    // numbers per token; 0: tokens are words
  std::int64_t vocabulary = 0;  // number of words
  std::int64_t outputs = 0;
  Pooling pooling = Pooling::mean;
  std::int64_t dim = 64, heads = 2, layers = 2, feed_forward = 128;
  bool global_threshold = false;  // LATTE: one theta for the whole model
  AttentionForm form;
};

// What is not learned and changes from step to step, or between training and evaluation.
struct Mode {
  Arithmetic arithmetic = Arithmetic::formula;
  double softness = 0;  // LATTE; 0: the hard mask
};

class AttentionImpl : public torch::nn::Module {
 public:
  // `shared_theta` is the model's own threshold where there is only one.
  AttentionImpl(const ModelShape& shape, Tensor shared_theta);
  Attended forward(const Tensor& x, const Mode& mode);
  // Chooses the scalars from what the layer computes for x; `filtered` is LATTE's share to drop.
  void start(const Tensor& x, double filtered);
  AttentionScalars scalars(double softness) const;

  torch::nn::Linear query{nullptr}, key{nullptr}, value{nullptr}, output{nullptr};

 private:
  struct Projected {
    Tensor q, k, v;
  };
  Projected project(const Tensor& x);

  AttentionForm form_;
  std::int64_t heads_, head_dim_;
  Tensor log_scale_, alpha_, beta_, theta_, log_temperature_, clip_;
};
TORCH_MODULE(Attention);

class LayerImpl : public torch::nn::Module {
 public:
  LayerImpl(const ModelShape& shape, Tensor shared_theta);
  Attended forward(const Tensor& x, const Mode& mode);

  torch::nn::LayerNorm norm1{nullptr}, norm2{nullptr};
  Attention attention{nullptr};
  torch::nn::Linear up{nullptr}, down{nullptr};
};
TORCH_MODULE(Layer);

struct Prediction {
  Tensor output;    // [batch, outputs], or [batch, tokens, outputs] without pooling
  Tensor survival;  // scalar: mean over layers; LATTE only
};

class ModelImpl : public torch::nn::Module {
 public:
  explicit ModelImpl(const ModelShape& shape);
  Prediction forward(const Tensor& input, const Mode& mode);
  void start(const Tensor& input, const Mode& mode, double filtered);

  const ModelShape& shape() const { return shape_; }
  // Parameters that mechanisms add, which take larger steps than weights, and all others.
  std::vector<Tensor> attention_scalars() const;
  std::vector<Tensor> weights() const;
  // By names of the exported file.
  std::vector<std::pair<std::string, Tensor>> exported() const;

 private:
  Tensor embed(const Tensor& input);

  ModelShape shape_;
  torch::nn::Linear features_{nullptr};
  torch::nn::Embedding words_{nullptr};
  Tensor position_, theta_;
  std::vector<Layer> layers_;
  torch::nn::LayerNorm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};
TORCH_MODULE(Model);

}  // namespace training
