// One table of all mechanisms and precisions on the same tensors: time, memory, and distance from
// exact softmax attention. Without --q, --k and --v it takes the sample tensors in examples/data.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>

#include "compare.hpp"
#include "failure.hpp"
#include "job.hpp"
#include "report.hpp"
#include "timing.hpp"

namespace {

struct Arguments {
  std::string q_path, k_path, v_path;
  support::JobOptions job;
  int repeat = 101;
};

struct Row {
  std::string name;
  support::Mechanism mechanism;
  std::unique_ptr<support::Job> job;
  std::vector<double> seconds;
};

support::Mechanism softmax(lowatt::Precision precision) {
  lowatt::Softmax parameters;
  parameters.precision = precision;
  return parameters;
}

support::Mechanism inhibitor(lowatt::Precision precision) {
  lowatt::Inhibitor parameters;
  parameters.alpha = 8;  // at 0 nearly every output on the sample tensors is 0
  parameters.precision = precision;
  return parameters;
}

support::Mechanism bitformer(int planes) {
  lowatt::Bitformer parameters;
  parameters.planes = planes;
  parameters.center_keys = true;
  return parameters;
}

// Thresholds are calibrated on the tensors.
support::Mechanism latte(double filtered) {
  support::Latte latte;
  latte.parameters.filtered = filtered;
  return latte;
}

std::vector<Row> make_rows() {
  std::vector<Row> rows;
  const auto add = [&rows](const char* name, support::Mechanism mechanism) {
    rows.push_back({name, std::move(mechanism), nullptr, {}});
  };
  add("softmax fp32", softmax(lowatt::Precision::fp32));
  add("softmax bf16", softmax(lowatt::Precision::bf16));
  add("softmax int8", softmax(lowatt::Precision::int8));
  add("LATTE, 50% filtered", latte(0.5));
  add("LATTE, 80% filtered", latte(0.8));
  add("LATTE, 90% filtered", latte(0.9));
  add("Inhibitor fp32, alpha 8", inhibitor(lowatt::Precision::fp32));
  add("Inhibitor int16, alpha 8", inhibitor(lowatt::Precision::int16));
  add("Inhibitor int8, alpha 8", inhibitor(lowatt::Precision::int8));
  add("Inhibitor int4, alpha 8", inhibitor(lowatt::Precision::int4));
  add("Bitformer sign, 1 plane", bitformer(1));
  add("Bitformer thermometer, 4 planes", bitformer(4));
  return rows;
}

// Mean over heads as text; a dash when no head has the figure.
std::string mean_text(const std::vector<std::optional<double>>& values, const char* format) {
  double sum = 0;
  int count = 0;
  for (const auto& value : values) {
    if (!value) continue;
    sum += *value;
    ++count;
  }
  if (count == 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, format, sum / count);
  return text;
}

std::string filtered_text(const support::Job& job) {
  if (job.kept.empty()) return "-";
  const auto kept = std::accumulate(job.kept.begin(), job.kept.end(), 0.0);
  const auto visible = std::accumulate(job.visible.begin(), job.visible.end(), 0.0);
  return mean_text({100 * (1 - kept / visible)}, "%.1f%%");
}

void print_table(const std::string& title, const support::Tensors& tensors,
                 const Arguments& arguments) {
  std::vector<Row> rows = make_rows();
  for (Row& row : rows) {
    row.job = support::make_job(row.mechanism, tensors, arguments.job);
    row.job->run();  // untimed: first touch of memory and code
  }
  // Mechanisms take turns, so that whatever else the machine does hits all of them alike.
  for (int i = 0; i < arguments.repeat; ++i)
    for (Row& row : rows) row.seconds.push_back(row.job->run());

  std::printf("%s: %td query heads, %td KV heads, %td queries, %td keys, head_dim %td%s\n",
              title.c_str(), tensors.q.heads, tensors.k.heads, tensors.q.tokens, tensors.k.tokens,
              tensors.q.dim, arguments.job.causal ? ", causal" : "");
  std::printf("level %s, threads %d, median of %d runs; keys and values already packed\n\n",
              rows[0].job->level.c_str(), arguments.job.threads, arguments.repeat);
  std::printf("%-31s  %7s  %10s  %11s  %8s  %8s  %8s\n", "", "ns per", "speed", "bytes per",
              "rel L2", "cosine", "keys");
  std::printf("%-31s  %7s  %10s  %11s  %17s   %8s\n", "mechanism", "pair", "vs softmax",
              "token, head", "to exact softmax ", "filtered");
  const double baseline = support::median(rows[0].seconds);
  const double scale = 1 / std::sqrt(static_cast<double>(tensors.q.dim));
  for (const Row& row : rows) {
    const double seconds = support::median(row.seconds);
    const auto comparison =
        support::compare_with_softmax(tensors, row.job->out, scale, arguments.job.causal);
    std::printf("%-31s  %7.3f  %9.2fx  %11.1f  %8s  %8s  %8s\n", row.name.c_str(),
                support::ns_per_pair(seconds, tensors), baseline / seconds,
                row.job->bytes_per_cached_token, mean_text(comparison.rel_l2, "%.2g").c_str(),
                mean_text(comparison.cosine, "%.4f").c_str(), filtered_text(*row.job).c_str());
  }
  std::printf("\n");
}

Arguments parse(int argc, char** argv, CLI::App& app) {
  Arguments arguments;
  auto* q = app.add_option("--q", arguments.q_path, "queries: float32 .npy");
  auto* k = app.add_option("--k", arguments.k_path, "keys");
  auto* v = app.add_option("--v", arguments.v_path, "values");
  q->needs(k, v);
  k->needs(q, v);
  v->needs(q, k);
  app.add_flag("--causal", arguments.job.causal, "query i sees keys j <= i + keys - queries");
  app.add_option("--arch", arguments.job.level, "level to run at (the best)");
  app.add_option("--threads", arguments.job.threads, "(1)")->check(CLI::Range(1, 1024));
  app.add_option("--repeat", arguments.repeat, "timed runs of each mechanism (101)")
      ->check(CLI::Range(1, 1'000'000));
  app.parse(argc, argv);
  return arguments;
}

void run(int argc, char** argv) {
  CLI::App app("Compares all attention mechanisms on the same tensors.", "attend_compare");
  Arguments arguments;
  try {
    arguments = parse(argc, argv, app);
  } catch (const CLI::CallForHelp&) {
    std::printf("%s", app.help().c_str());
    return;
  }
  if (!arguments.q_path.empty()) {
    print_table(arguments.q_path,
                support::load_tensors(arguments.q_path, arguments.k_path, arguments.v_path),
                arguments);
  } else {
    const std::filesystem::path folder = LOWATT_SAMPLE_DATA;
    for (const char* layer : {"layer0", "layer1"}) {
      const std::string start = (folder / layer).string();
      print_table(std::string("Sample tensors, ") + layer,
                  support::load_tensors(start + "_q.npy", start + "_k.npy", start + "_v.npy"),
                  arguments);
    }
  }
  std::printf(
      "LATTE approximates softmax attention and works on a trained model as it is. The Inhibitor\n"
      "and Bitformer do not approximate softmax attention, they replace it: a model is trained\n"
      "with them, and their distance from softmax on tensors of a softmax model, as here, says\n"
      "nothing about the quality of such a model.\n");
}

}  // namespace

int main(int argc, char** argv) {
  return support::report_failure([&] { run(argc, argv); });
}
