// Softmax attention in training.
#pragma once

#include "gradient.hpp"
#include "softmax.hpp"

LOWATT_API_BEGIN

template <>
struct GradientAdapter<Softmax> {
  static constexpr TrainingParameters parameters{};

  static Status validate(const Softmax& mechanism, const Shape& shape) noexcept {
    if (Status status = Adapter<Softmax>::validate(mechanism, shape); !status.ok()) return status;
    return detail::check_trains(mechanism.precision);
  }
  static Status calibrate(const Softmax&, View<const float>, View<const float>, View<const float>,
                          const Mask&, Calibration&) noexcept {
    return {};
  }
  static Index workspace_bytes(const Softmax&, const Shape& shape) noexcept {
    return SoftmaxGradientWorkspace(nullptr, shape.keys, shape.head_dim, shape.value_dim).bytes();
  }
  static void forward(const KernelTable& table, const Softmax& mechanism, const Calibration&,
                      const HeadPosition&, const GradientArguments& head,
                      const TrainingOutputs&) noexcept {
    table.softmax_training.forward({head, scale(mechanism, head)});
  }
  static void gradient(const KernelTable& table, const Softmax& mechanism, const Calibration&,
                       const HeadPosition&, const GradientArguments& head,
                       const Gradients&) noexcept {
    table.softmax_training.gradient({head, scale(mechanism, head)});
  }

 private:
  static double scale(const Softmax& mechanism, const GradientArguments& head) noexcept {
    return mechanism.scale.or_else(default_scale(head.head_dim));
  }
};

LOWATT_API_END
