// One attention computation on packed keys and values, timed.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "lowatt/lowatt.hpp"
#include "tensor.hpp"

namespace support {

// LATTE with thresholds that it owns (lowatt::Latte refers to the caller's).
struct Latte {
  std::vector<double> theta;  // one for all query heads, one for each, or none: calibrated
  lowatt::Latte parameters;
};

using Mechanism = std::variant<lowatt::Softmax, lowatt::Inhibitor, Latte, lowatt::Bitformer>;

struct JobOptions {
  bool causal = false;
  std::optional<double> scale;                     // default: 1 / sqrt(head_dim)
  std::optional<lowatt::Calibration> calibration;  // default: made from the tensors
  std::optional<std::string> level;                // default: the best one
  int threads = 1;
};

// f(the library's parameters).
template <class F>
auto with_parameters(const Mechanism& mechanism, const std::optional<double>& scale, F f) {
  const auto call = [&](auto parameters) {
    if (scale) parameters.scale = *scale;
    return f(parameters);
  };
  if (const auto* latte = std::get_if<Latte>(&mechanism)) {
    lowatt::Latte parameters = latte->parameters;
    if (latte->theta.size() == 1)
      parameters.theta = latte->theta[0];
    else
      parameters.theta = latte->theta;
    return call(parameters);
  }
  if (const auto* inhibitor = std::get_if<lowatt::Inhibitor>(&mechanism)) return call(*inhibitor);
  if (const auto* bitformer = std::get_if<lowatt::Bitformer>(&mechanism)) return call(*bitformer);
  return call(std::get<lowatt::Softmax>(mechanism));
}

class Job {
 public:
  virtual ~Job() = default;
  // Computes the output once, from float queries and packed keys and values. Returns seconds.
  virtual double run() = 0;
  // How much each key counts for each query, [query heads, queries, keys].
  virtual Tensor weights() = 0;

  Tensor out;
  double pack_seconds = 0;  // calibrating, creating the cache and appending all keys and values
  std::string level;        // the level that runs
  double bytes_per_cached_token = 0;         // for one KV head
  std::vector<lowatt::Index> kept, visible;  // per query head; LATTE only, after run()
  std::vector<double> temperature;           // per query head; Bitformer only
};

// `tensors` must outlive the job. Throws lowatt::Error for what the library refuses.
std::unique_ptr<Job> make_job(const Mechanism& mechanism, const Tensors& tensors,
                              const JobOptions& options);

// The level of an option --arch; none where it was not given. Throws InputError for other names.
lowatt::LevelSetting parse_level_name(const std::optional<std::string>& name);

// The levels that this CPU runs, lowest first.
std::vector<std::string> runnable_levels();

}  // namespace support
