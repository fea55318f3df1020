#include "report.hpp"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

namespace support {
namespace {

using lowatt::Index;

std::string precision_name(const Mechanism& mechanism) {
  if (const auto* inhibitor = std::get_if<lowatt::Inhibitor>(&mechanism))
    return inhibitor->planes > 0 ? std::to_string(inhibitor->planes) + "-bit"
                                 : lowatt::precision_name(inhibitor->precision);
  if (const auto* latte = std::get_if<Latte>(&mechanism))
    return latte->parameters.value_precision == lowatt::Precision::fp32 ? "int8, fp32 values"
                                                                        : "int8";
  if (const auto* bitformer = std::get_if<lowatt::Bitformer>(&mechanism))
    return std::to_string(bitformer->planes) + "-bit";
  return lowatt::precision_name(std::get<lowatt::Softmax>(mechanism).precision);
}

nlohmann::ordered_json with_nulls(const std::vector<std::optional<double>>& values) {
  auto array = nlohmann::ordered_json::array();
  for (const auto& value : values)
    array.push_back(value ? nlohmann::ordered_json(*value) : nullptr);
  return array;
}

__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...) {
  char buffer[256];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

void add_extents(nlohmann::ordered_json& report, const Tensors& tensors) {
  report["query_heads"] = tensors.q.heads;
  report["kv_heads"] = tensors.k.heads;
  report["queries"] = tensors.q.tokens;
  report["keys"] = tensors.k.tokens;
  report["head_dim"] = tensors.q.dim;
  report["value_dim"] = tensors.v.dim;
}

std::string text(const std::optional<double>& value, const char* format) {
  if (!value) return "-";
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, *value);
  return buffer;
}

std::string sizes_text(const Tensor& tensor) {
  return text("%td heads, %td tokens, dim %td", tensor.heads, tensor.tokens, tensor.dim);
}

// One line per query head of what is known about it.
std::string per_head_table(const Job& job, const std::optional<Comparison>& comparison) {
  std::string table = "  head";
  if (comparison) table += "  rel L2 to softmax  cosine to softmax";
  if (!job.kept.empty()) table += "        kept of visible keys";
  if (!job.temperature.empty()) table += "  temperature";
  table += "\n";
  for (lowatt::Index head = 0; head < job.out.heads; ++head) {
    const auto h = static_cast<std::size_t>(head);
    table += text("  %4td", head);
    if (comparison)
      table += text("  %17s  %17s", text(comparison->rel_l2[h], "%.3e").c_str(),
                    text(comparison->cosine[h], "%.6f").c_str());
    if (!job.kept.empty()) table += text("  %12td of %11td", job.kept[h], job.visible[h]);
    if (!job.temperature.empty()) table += text("  %11.6g", job.temperature[h]);
    table += "\n";
  }
  return table;
}

// The figures of a report on LATTE's thresholds, as they are called in JSON and in a table.
struct Figure {
  const char* name;
  const char* title;
  double (lowatt::LatteReport::*value)() const noexcept;
};
constexpr Figure figures[] = {
    {"filtered", "filtered", &lowatt::LatteReport::filtered},
    {"mass_dropped", "mass dropped", &lowatt::LatteReport::mass_dropped},
    {"best_keys_lost", "best key lost", &lowatt::LatteReport::best_keys_lost},
    {"error", "error added", &lowatt::LatteReport::error},
    {"error_to_softmax", "to softmax", &lowatt::LatteReport::error_to_softmax},
    {"unfiltered_error_to_softmax", "unfiltered",
     &lowatt::LatteReport::unfiltered_error_to_softmax},
};

std::optional<double> finite(double value) {
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

lowatt::LatteReport sum_of(const std::vector<lowatt::LatteReport>& reports) {
  lowatt::LatteReport sum;
  for (const lowatt::LatteReport& report : reports) sum += report;
  return sum;
}

std::string threshold_table(const Calibrated& calibrated) {
  std::string table = "  head       theta";
  for (const Figure& figure : figures) table += text("  %13s", figure.title);
  table += "\n";
  const auto row = [&](const std::string& start, const lowatt::LatteReport& report) {
    table += start;
    for (const Figure& figure : figures)
      table += text("  %13s", text(finite((report.*figure.value)()), "%.5g").c_str());
    table += "\n";
  };
  for (std::size_t h = 0; h < calibrated.reports.size(); ++h)
    row(text("  %4zu  %10.6g", h, calibrated.file.calibration.theta[static_cast<Index>(h)]),
        calibrated.reports[h]);
  row("   all            ", sum_of(calibrated.reports));
  return table;
}

// Arrays with an entry for each query head or KV head.
std::string entries_text(const char* name, const auto& values) {
  if (values.empty()) return "";
  std::string line = text("  %-18s", name);
  for (const auto value : values) line += text("  %.6g", static_cast<double>(value));
  return line + "\n";
}

}  // namespace

double ns_per_pair(double seconds, const Tensors& tensors) {
  return seconds * 1e9 / static_cast<double>(tensors.q.heads) /
         static_cast<double>(tensors.q.tokens) / static_cast<double>(tensors.k.tokens);
}

std::string json_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                        double seconds, const std::optional<Comparison>& comparison) {
  nlohmann::ordered_json report;
  report["mechanism"] = options.mechanism_name;
  report["precision"] = precision_name(options.mechanism);
  report["arch"] = job.level;
  add_extents(report, tensors);
  report["threads"] = options.job.threads;
  report["seconds"] = seconds;
  report["pack_seconds"] = job.pack_seconds;
  report["ns_per_pair"] = ns_per_pair(seconds, tensors);
  report["bytes_per_cached_token"] = job.bytes_per_cached_token;
  if (!job.kept.empty()) {
    report["kept"] = job.kept;
    report["visible"] = job.visible;
  }
  if (!job.temperature.empty()) report["temperature"] = job.temperature;
  if (comparison) {
    report["rel_l2_vs_softmax"] = with_nulls(comparison->rel_l2);
    report["cosine_vs_softmax"] = with_nulls(comparison->cosine);
  }
  return report.dump() + "\n";
}

std::string readable_report(const AttendOptions& options, const Tensors& tensors, const Job& job,
                            double seconds, const std::optional<Comparison>& comparison) {
  std::string report = options.mechanism_name + ", " + precision_name(options.mechanism) +
                       ", level " + job.level + text(", threads %d\n", options.job.threads);
  report += "  queries             " + sizes_text(tensors.q) + "\n";
  report += "  keys                " + sizes_text(tensors.k) + "\n";
  report += "  values              " + sizes_text(tensors.v) + "\n";
  report += text("  attend              %.3f ms (median of %d), %.3f ns per query-key pair\n",
                 seconds * 1e3, options.repeat, ns_per_pair(seconds, tensors));
  report += text("  pack K and V        %.3f ms\n", job.pack_seconds * 1e3);
  report +=
      text("  cache               %.6g bytes per token and KV head\n", job.bytes_per_cached_token);
  if (comparison || !job.kept.empty() || !job.temperature.empty())
    report += per_head_table(job, comparison);
  return report;
}

std::string json_report(const CallOptions& options, const Tensors& tensors,
                        const Calibrated& calibrated) {
  nlohmann::ordered_json report;
  report["mechanism"] = options.mechanism_name;
  report["precision"] = precision_name(options.mechanism);
  add_extents(report, tensors);
  report["seconds"] = calibrated.seconds;
  report["ns_per_pair"] = ns_per_pair(calibrated.seconds, tensors);
  const auto add = [&report](const char* name, const auto& values) {
    if (!values.empty()) report[name] = std::vector<double>(values.begin(), values.end());
  };
  const lowatt::Calibration& calibration = calibrated.file.calibration;
  add("query_absmax", calibration.query_absmax);
  add("key_absmax", calibration.key_absmax);
  add("value_absmax", calibration.value_absmax);
  add("clip", calibration.clip);
  add("temperature", calibration.temperature);
  add("theta", calibration.theta);
  if (calibrated.reports.empty()) return report.dump() + "\n";
  for (const lowatt::LatteReport& head : calibrated.reports) {
    report["kept"].push_back(head.kept);
    report["visible"].push_back(head.visible);
    report["unfiltered_norm"].push_back(std::sqrt(head.unfiltered));
  }
  const lowatt::LatteReport sum = sum_of(calibrated.reports);
  nlohmann::ordered_json all{{"kept", sum.kept}, {"visible", sum.visible}};
  for (const Figure& figure : figures) {
    std::vector<std::optional<double>> values;
    for (const lowatt::LatteReport& head : calibrated.reports)
      values.push_back(finite((head.*figure.value)()));
    report[figure.name] = with_nulls(values);
    all[figure.name] = with_nulls({finite((sum.*figure.value)())})[0];
  }
  report["all_heads"] = all;
  return report.dump() + "\n";
}

std::string readable_report(const CallOptions& options, const Tensors& tensors,
                            const Calibrated& calibrated) {
  std::string report = options.mechanism_name + ", " + precision_name(options.mechanism) + "\n";
  report += "  queries             " + sizes_text(tensors.q) + "\n";
  report += "  keys                " + sizes_text(tensors.k) + "\n";
  report += "  values              " + sizes_text(tensors.v) + "\n";
  report += text("  calibrate           %.3f ms, %.3f ns per query-key pair\n",
                 calibrated.seconds * 1e3, ns_per_pair(calibrated.seconds, tensors));
  const lowatt::Calibration& calibration = calibrated.file.calibration;
  report += entries_text("query absmax", calibration.query_absmax);
  report += entries_text("key absmax", calibration.key_absmax);
  report += entries_text("value absmax", calibration.value_absmax);
  report += entries_text("clip", calibration.clip);
  report += entries_text("temperature", calibration.temperature);
  if (!calibrated.reports.empty()) report += threshold_table(calibrated);
  return report;
}

}  // namespace support
