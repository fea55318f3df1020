// Bitformer in training. A temperature, clip or key mean that inference derives from the tensors is
// derived in the same way; gradients take temperature and clip for constants.
#pragma once

#include "../bitformer/gradient.hpp"
#include "bitformer.hpp"
#include "gradient.hpp"

LOWATT_API_BEGIN

template <>
struct GradientAdapter<Bitformer> {
  static constexpr TrainingParameters parameters{.temperature = true};

  static Status validate(const Bitformer& mechanism, const Shape& shape) noexcept {
    if (Status status = Adapter<Bitformer>::validate(mechanism, shape); !status.ok()) return status;
    if (shape.head_dim > bitformer_most_training_bits / mechanism.planes)
      return failure(StatusCode::invalid_shape,
                     "head_dim is %td; scores over %d planes of it are not exact in float32",
                     shape.head_dim, mechanism.planes);
    return {};
  }
  static Status calibrate(const Bitformer& mechanism, View<const float> q, View<const float> k,
                          View<const float> v, const Mask& mask,
                          Calibration& calibration) noexcept {
    return Adapter<Bitformer>::calibrate(mechanism, q, k, v, mask, calibration);
  }
  static Index workspace_bytes(const Bitformer&, const Shape& shape) noexcept {
    return BitformerTrainingWorkspace(nullptr, shape.keys, shape.head_dim, shape.value_dim).bytes();
  }
  static void forward(const KernelTable& table, const Bitformer& mechanism,
                      const Calibration& calibration, const HeadPosition& head,
                      const GradientArguments& rows, const TrainingOutputs&) noexcept {
    table.bitformer_training.forward(arguments_of(mechanism, calibration, head, rows));
  }
  static void gradient(const KernelTable& table, const Bitformer& mechanism,
                       const Calibration& calibration, const HeadPosition& head,
                       const GradientArguments& rows, const Gradients& result) noexcept {
    BitformerTrainingArguments arguments = arguments_of(mechanism, calibration, head, rows);
    if (result.temperature != nullptr)
      arguments.temperature_gradient = result.temperature + head.query_entry();
    table.bitformer_training.gradient(arguments);
  }

 private:
  static BitformerTrainingArguments arguments_of(const Bitformer& mechanism,
                                                 const Calibration& calibration,
                                                 const HeadPosition& head,
                                                 const GradientArguments& rows) noexcept {
    BitformerTrainingArguments arguments{};
    static_cast<GradientArguments&>(arguments) = rows;
    const bool is_sign = resolve(mechanism.encoding, mechanism.planes) == BitEncoding::sign;
    arguments.clip = is_sign ? static_cast<float>(mechanism.clip.or_else(1))
                             : detail::head_clip(mechanism.clip, calibration, head.kv_entry());
    arguments.thresholds = bit_thresholds(mechanism.encoding, mechanism.planes, arguments.clip);
    if (mechanism.center_keys)
      arguments.key_mean = calibration.key_mean.data() + head.kv_entry() * rows.head_dim;
    arguments.temperature = calibration.temperature[head.query_entry()];
    return arguments;
  }
};

LOWATT_API_END
