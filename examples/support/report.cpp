#include "report.hpp"

#include <cstdarg>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

namespace support {
namespace {

std::string precision_name(const Mechanism& mechanism) {
  if (const auto* inhibitor = std::get_if<lowatt::Inhibitor>(&mechanism))
    return lowatt::precision_name(inhibitor->precision);
  if (std::holds_alternative<Latte>(mechanism)) return "int8";
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
  report["query_heads"] = tensors.q.heads;
  report["kv_heads"] = tensors.k.heads;
  report["queries"] = tensors.q.tokens;
  report["keys"] = tensors.k.tokens;
  report["head_dim"] = tensors.q.dim;
  report["value_dim"] = tensors.v.dim;
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

}  // namespace support
