// Computes what an attention mechanism's cache freezes (absolute maxima, key means, clips,
// temperatures, thresholds) from sample tensors, reports what LATTE's thresholds do to them, and
// writes a file that `attend --calibration` reads. `attend_calibrate --help` lists the options.
//
// Exit status: 0, or 2 with one line on stderr and no output file when options or input are wrong.
#include <iostream>

#include "calibrate.hpp"
#include "failure.hpp"
#include "report.hpp"

namespace {

void run(int argc, char** argv) {
  const support::CallOptions options = support::parse_calibrate_options(argc, argv);
  if (options.help) {
    std::cout << *options.help;
    return;
  }
  const support::Tensors tensors = options.tensors();
  const support::Calibrated calibrated = support::calibrate(options, tensors);
  const std::string report = options.json ? support::json_report(options, tensors, calibrated)
                                          : support::readable_report(options, tensors, calibrated);
  if (options.out_path)
    support::write_file(*options.out_path, {support::calibration_text(calibrated.file)});
  std::cout << report;
}

}  // namespace

int main(int argc, char** argv) {
  return support::report_failure([&] { run(argc, argv); });
}
