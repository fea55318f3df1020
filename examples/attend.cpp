// Runs one attention mechanism on query, key and value tensors and reports time, memory and
// distance from exact softmax attention. `attend --help` lists the options.
//
// Exit status: 0, or 2 with one line on stderr and no output file when options or
// input are wrong.
#include <cmath>
#include <filesystem>
#include <iostream>
#include <optional>

#include "calibrate.hpp"
#include "compare.hpp"
#include "failure.hpp"
#include "options.hpp"
#include "report.hpp"
#include "timing.hpp"

namespace {

double scale_of(const support::AttendOptions& options, const support::Tensors& tensors) {
  return options.job.scale.value_or(1 / std::sqrt(static_cast<double>(tensors.q.dim)));
}

void run(int argc, char** argv) {
  support::AttendOptions options = support::parse_attend_options(argc, argv);
  if (options.help) {
    std::cout << *options.help;
    return;
  }
  if (options.list_arch) {
    for (const std::string& level : support::runnable_levels()) std::cout << level << '\n';
    return;
  }

  const support::Tensors tensors = options.tensors();
  if (options.calibration_path)
    options.job.calibration =
        support::load_calibration(*options.calibration_path, options, tensors);
  const auto job = support::make_job(options.mechanism, tensors, options.job);
  std::vector<double> seconds(static_cast<std::size_t>(options.repeat));
  for (double& one : seconds) one = job->run();

  std::optional<support::Comparison> comparison;
  if (options.compare)
    comparison = support::compare_with_softmax(tensors, job->out, scale_of(options, tensors),
                                               options.job.causal);
  const double middle = support::median(seconds);
  const std::string report =
      options.json ? support::json_report(options, tensors, *job, middle, comparison)
                   : support::readable_report(options, tensors, *job, middle, comparison);
  if (options.weights_path) {
    const support::Tensor weights = job->weights();
    support::write_npy(*options.weights_path, weights.shape(), weights.data);
  }
  try {
    if (options.out_path) support::write_npy(*options.out_path, job->out.shape(), job->out.data);
  } catch (...) {  // both files or none
    if (options.weights_path) std::filesystem::remove(*options.weights_path);
    throw;
  }
  std::cout << report;
}

}  // namespace

int main(int argc, char** argv) {
  return support::report_failure([&] { run(argc, argv); });
}
