// LATTE in training: SoftLatte.
#pragma once

#include "../latte/gradient.hpp"
#include "gradient.hpp"
#include "latte.hpp"

LOWATT_API_BEGIN

template <>
struct GradientAdapter<SoftLatte> {
  static constexpr TrainingParameters parameters{.theta = true, .survival = true};

  static Status validate(const SoftLatte& mechanism, const Shape& shape) noexcept {
    const Latte hard{.scale = mechanism.scale, .theta = mechanism.theta};
    if (Status status = Adapter<Latte>::validate(hard, shape); !status.ok()) return status;
    if (!mechanism.theta.given())
      return failure(StatusCode::invalid_argument,
                     "theta is not given; training needs one, or one per query head");
    if (!(__builtin_isfinite(mechanism.softness) && mechanism.softness > 0))
      return failure(StatusCode::invalid_argument, "softness is %g; it must be finite and positive",
                     mechanism.softness);
    if (shape.keys > soft_latte_most_keys)
      return failure(StatusCode::invalid_shape,
                     "keys is %td; positions in float32 hold at most %td", shape.keys,
                     soft_latte_most_keys);
    return {};
  }
  static Status calibrate(const SoftLatte& mechanism, View<const float>, View<const float> k,
                          View<const float>, const Mask&, Calibration& calibration) noexcept {
    if (!mechanism.quantised) return {};
    calibration.key_absmax = absmax_per_head(k);
    if (calibration.key_absmax.empty())
      return failure(StatusCode::out_of_memory, "no memory for a calibration of %td heads",
                     k.heads);
    return {};
  }
  static Index workspace_bytes(const SoftLatte& mechanism, const Shape& shape) noexcept {
    return SoftLatteWorkspace(nullptr, shape.keys, shape.head_dim, shape.value_dim,
                              mechanism.quantised)
        .bytes();
  }
  static void forward(const KernelTable& table, const SoftLatte& mechanism,
                      const Calibration& calibration, const HeadPosition& head,
                      const GradientArguments& rows, const TrainingOutputs& more) noexcept {
    SoftLatteTrainingArguments arguments = arguments_of(mechanism, calibration, head, rows);
    if (more.survival != nullptr) arguments.survival = more.survival + head.query_entry();
    table.soft_latte_training.forward(arguments);
  }
  static void gradient(const KernelTable& table, const SoftLatte& mechanism,
                       const Calibration& calibration, const HeadPosition& head,
                       const GradientArguments& rows, const Gradients& result) noexcept {
    SoftLatteTrainingArguments arguments = arguments_of(mechanism, calibration, head, rows);
    if (result.survival != nullptr)
      arguments.survival_gradient = result.survival[head.query_entry()];
    if (result.theta != nullptr) arguments.theta_gradient = result.theta + head.query_entry();
    table.soft_latte_training.gradient(arguments);
  }

 private:
  static SoftLatteTrainingArguments arguments_of(const SoftLatte& mechanism,
                                                 const Calibration& calibration,
                                                 const HeadPosition& head,
                                                 const GradientArguments& rows) noexcept {
    SoftLatteTrainingArguments arguments{};
    static_cast<GradientArguments&>(arguments) = rows;
    arguments.scale = mechanism.scale.or_else(default_scale(rows.head_dim));
    arguments.theta = mechanism.theta[head.query_head];
    arguments.softness = mechanism.softness;
    arguments.quantised = mechanism.quantised;
    arguments.split = mechanism.split;
    if (mechanism.quantised)
      arguments.key_scale = detail::head_scale(calibration.key_absmax, head.kv_entry());
    return arguments;
  }
};

LOWATT_API_END
