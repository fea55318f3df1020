#include "layer_attention.hpp"

#include <cmath>

namespace support {
namespace {

constexpr double default_theta = 5;
constexpr int default_planes = 4;

// Scores of the Inhibitor are distances, those of the others dot products: their scales differ.
double scale_of(const Transformer& model, const LearnedAttention& learned,
                const std::string& mechanism) {
  if ((mechanism == "inhibitor") == (model.attention == "inhibitor")) return learned.scale;
  const auto dim = static_cast<double>(model.head_dim());
  return mechanism == "inhibitor" ? 1 / dim : 1 / std::sqrt(dim);
}

lowatt::Softmax softmax(double scale, lowatt::Precision precision) {
  lowatt::Softmax softmax;
  softmax.scale = scale;
  softmax.precision = precision;
  return softmax;
}

lowatt::Inhibitor inhibitor(const Transformer& model, const LearnedAttention& learned, double scale,
                            lowatt::Precision precision) {
  const bool trained = model.attention == "inhibitor";
  lowatt::Inhibitor inhibitor;
  inhibitor.scale = scale;
  inhibitor.alpha = learned.alpha.value_or(0);
  inhibitor.beta = learned.beta.value_or(1);
  inhibitor.is_signed = !trained || model.is_signed;
  inhibitor.center = trained && model.center;
  inhibitor.normalize = !trained || model.normalize;
  inhibitor.precision = precision;
  return inhibitor;
}

Latte latte(const LearnedAttention& learned, double scale, lowatt::Precision precision) {
  Latte latte;
  latte.theta = learned.theta.empty() ? std::vector{default_theta} : learned.theta;
  latte.parameters.scale = scale;
  latte.parameters.value_precision = precision;
  return latte;
}

lowatt::Bitformer bitformer(const Transformer& model, const LearnedAttention& learned,
                            double scale) {
  lowatt::Bitformer bitformer;
  bitformer.scale = scale;
  bitformer.planes = model.attention == "bitformer" ? model.planes : default_planes;
  bitformer.center_keys = model.attention == "bitformer" && model.center;
  if (learned.temperature) bitformer.temperature = *learned.temperature;
  if (learned.clip && bitformer.planes > 1) bitformer.clip = *learned.clip;
  return bitformer;
}

Mechanism make(const Transformer& model, const LearnedAttention& learned,
               const std::string& mechanism, lowatt::Precision precision) {
  const double scale = scale_of(model, learned, mechanism);
  if (mechanism == "softmax") return softmax(scale, precision);
  if (mechanism == "inhibitor") return inhibitor(model, learned, scale, precision);
  if (mechanism == "latte") return latte(learned, scale, precision);
  return bitformer(model, learned, scale);
}

// What stands in for what the model has not learned; empty where nothing does.
std::string stand_ins(const LearnedAttention& learned, const std::string& mechanism) {
  if (mechanism == "inhibitor" && !learned.alpha)
    return " with alpha 0, beta 1 and scale 1/head_dim";
  if (mechanism == "latte" && learned.theta.empty()) return " with theta 5 for every head";
  if (mechanism == "bitformer" && !learned.temperature)
    return " with 4 planes, clip and temperature calibrated on each image";
  return "";
}

}  // namespace

LayerAttention layer_attention(const Transformer& model, const std::string& mechanism,
                               lowatt::Precision precision) {
  using lowatt::Precision;
  if (precision != Precision::fp32 && precision != Precision::int8)
    throw InputError("--precision: fp32 and int8 are offered, not " +
                     std::string(lowatt::precision_name(precision)));
  if (mechanism == "bitformer" && precision == Precision::fp32)
    throw InputError("--precision: bitformer has no fp32; it attends with bits and values of int8");

  LayerAttention attention;
  for (const TransformerLayer& layer : model.layers)
    attention.layers.push_back(make(model, layer.attention, mechanism, precision));
  if (mechanism != model.attention)
    attention.note = "the model was trained with " + model.attention + "; " + mechanism + " runs" +
                     stand_ins(model.layers[0].attention, mechanism);
  return attention;
}

}  // namespace support
