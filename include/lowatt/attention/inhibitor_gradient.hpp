// The Inhibitor in training.
#pragma once

#include "gradient.hpp"
#include "inhibitor.hpp"

LOWATT_API_BEGIN

template <>
struct GradientAdapter<Inhibitor> {
  static constexpr TrainingParameters parameters{.scale = true, .alpha = true, .beta = true};

  static Status validate(const Inhibitor& mechanism, const Shape& shape) noexcept {
    if (Status status = Adapter<Inhibitor>::validate(mechanism, shape); !status.ok()) return status;
    return detail::check_trains(mechanism.precision);
  }
  static Status calibrate(const Inhibitor&, View<const float>, View<const float>, View<const float>,
                          const Mask&, Calibration&) noexcept {
    return {};
  }
  static Index workspace_bytes(const Inhibitor&, const Shape& shape) noexcept {
    return InhibitorGradientWorkspace(nullptr, shape.keys, shape.head_dim, shape.value_dim).bytes();
  }
  static void forward(const KernelTable& table, const Inhibitor& mechanism, const Calibration&,
                      const HeadPosition&, const GradientArguments& head,
                      const TrainingOutputs&) noexcept {
    table.inhibitor_training.forward(arguments(mechanism, head));
  }
  static void gradient(const KernelTable& table, const Inhibitor& mechanism, const Calibration&,
                       const HeadPosition& position, const GradientArguments& head,
                       const Gradients& result) noexcept {
    const auto entry = [&](double* all) {
      return all == nullptr ? nullptr : all + position.query_entry();
    };
    InhibitorTrainingArguments all = arguments(mechanism, head);
    all.scale_gradient = entry(result.scale);
    all.alpha_gradient = entry(result.alpha);
    all.beta_gradient = entry(result.beta);
    table.inhibitor_training.gradient(all);
  }

 private:
  static InhibitorTrainingArguments arguments(const Inhibitor& mechanism,
                                              const GradientArguments& head) noexcept {
    return {head,
            mechanism.scale.or_else(default_scale(head.head_dim)),
            mechanism.alpha,
            mechanism.beta,
            mechanism.is_signed,
            mechanism.center,
            mechanism.normalize};
  }
};

LOWATT_API_END
