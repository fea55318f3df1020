#include "calibrate.hpp"

#include <nlohmann/json.hpp>

#include "timing.hpp"

namespace support {
namespace {

// What numbers of a calibration depend on beside the extents.
std::map<std::string, std::string> settings_of(const Mechanism& mechanism) {
  const auto json = [](const auto& value) { return nlohmann::json(value).dump(); };
  if (const auto* latte = std::get_if<Latte>(&mechanism)) {
    const bool round = latte->parameters.split == lowatt::NibbleSplit::round;
    return {{"split", json(round ? "round" : "truncate")},
            {"value_precision", json(lowatt::precision_name(latte->parameters.value_precision))}};
  }
  if (const auto* inhibitor = std::get_if<lowatt::Inhibitor>(&mechanism)) {
    if (inhibitor->planes > 0) return {{"planes", json(inhibitor->planes)}};
    return {{"precision", json(lowatt::precision_name(inhibitor->precision))}};
  }
  if (const auto* bitformer = std::get_if<lowatt::Bitformer>(&mechanism)) {
    const bool sign =
        lowatt::resolve(bitformer->encoding, bitformer->planes) == lowatt::BitEncoding::sign;
    return {{"planes", json(bitformer->planes)},
            {"encoding", json(sign ? "sign" : "thermometer")},
            {"center_keys", json(bitformer->center_keys)}};
  }
  const auto& softmax = std::get<lowatt::Softmax>(mechanism);
  return {{"precision", json(lowatt::precision_name(softmax.precision))}};
}

// All but the numbers.
CalibrationFile file_for(const CallOptions& options, const Tensors& tensors) {
  CalibrationFile file;
  file.mechanism = options.mechanism_name;
  file.query_heads = tensors.q.heads;
  file.kv_heads = tensors.k.heads;
  file.head_dim = tensors.q.dim;
  file.value_dim = tensors.v.dim;
  file.scale = options.job.scale.value_or(lowatt::default_scale(tensors.q.dim));
  file.settings = settings_of(options.mechanism);
  return file;
}

}  // namespace

Calibrated calibrate(const CallOptions& options, const Tensors& tensors) {
  Calibrated calibrated{file_for(options, tensors), 0, {}};
  const auto q = tensors.q.view(), k = tensors.k.view(), v = tensors.v.view();
  lowatt::Options library_options;
  library_options.causal = options.job.causal;
  with_parameters(options.mechanism, options.job.scale, [&]<class M>(const M& mechanism) {
    lowatt::Calibration& calibration = calibrated.file.calibration;
    calibrated.seconds =
        seconds_of([&] { calibration = lowatt::calibrate(mechanism, q, k, v, library_options); });
    if constexpr (std::is_same_v<M, lowatt::Latte>) {
      const auto reports = lowatt::report(mechanism, calibration, q, k, v, library_options);
      calibrated.reports.assign(reports.begin(), reports.end());
    }
  });
  return calibrated;
}

lowatt::Calibration load_calibration(const std::string& path, const CallOptions& options,
                                     const Tensors& tensors) {
  CalibrationFile file = read_calibration(path);
  require_same_call(file, path, file_for(options, tensors));
  return std::move(file.calibration);
}

}  // namespace support
