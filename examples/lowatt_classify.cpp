// Classifies images with a trained Transformer whose attention is this library's, end to end:
// `--json` reports accuracy and time, otherwise one image is drawn with the model's answer.
//
// Exit status: 0, or 2 with one line on stderr when options or input are wrong.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "classifier.hpp"
#include "failure.hpp"
#include "picture.hpp"

namespace {

using lowatt::Index;

struct Arguments {
  std::string model, images, labels;
  std::optional<std::string> mechanism;
  std::string precision = "int8";
  std::optional<Index> limit;
  std::optional<Index> index;
  support::ClassifierOptions options;
  bool json = false;
};

void parse(int argc, char** argv, CLI::App& app, Arguments& arguments) {
  app.add_option("--model", arguments.model, "trained weights: .safetensors")->required();
  app.add_option("--images", arguments.images, "IDX file, such as MNIST's")->required();
  app.add_option("--labels", arguments.labels, "IDX file, a label for each image")->required();
  app.add_option("--mechanism", arguments.mechanism,
                 "which attention (the one that the model was trained with)")
      ->check(CLI::IsMember({"softmax", "inhibitor", "latte", "bitformer"}));
  app.add_option("--precision", arguments.precision,
                 "of attention; latte: of its values, its scores are int8 (int8)")
      ->check(CLI::IsMember({"fp32", "int8"}));
  app.add_option("--limit", arguments.limit, "classify only so many images, from the first on")
      ->check(CLI::PositiveNumber);
  app.add_option("--index", arguments.index, "the image to draw (0)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--threads", arguments.options.threads, "threads to use (1)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--arch", arguments.options.level, "level to run at (the best)");
  app.add_flag("--json", arguments.json, "print one JSON object");
  app.parse(argc, argv);
}

void require_known_labels(const support::LabelledImages& images, Index classes,
                          const std::string& path) {
  for (std::size_t i = 0; i < images.labels.size(); ++i)
    if (images.labels[i] >= classes)
      throw support::InputError("'" + path + "' labels image " + std::to_string(i) + " as " +
                                std::to_string(images.labels[i]) + "; the model knows " +
                                std::to_string(classes) + " classes, from 0 on");
}

double accuracy_of(const support::Classification& result, const support::LabelledImages& images) {
  Index right = 0;
  for (Index i = 0; i < result.logits.rows(); ++i)
    right += support::answer(result.logits, i) == images.labels[static_cast<std::size_t>(i)];
  return static_cast<double>(right) / static_cast<double>(result.logits.rows());
}

void print_json(const Arguments& arguments, const std::string& mechanism,
                const support::Classification& result, double accuracy) {
  nlohmann::ordered_json report;
  report["mechanism"] = mechanism;
  report["precision"] = arguments.precision;
  report["arch"] = result.level;
  report["threads"] = arguments.options.threads;
  report["images"] = result.logits.rows();
  report["accuracy"] = accuracy;
  report["filtered"] = result.filtered;
  report["seconds"] = result.seconds;
  report["seconds_in_attention"] = result.seconds_in_attention;
  std::cout << report.dump() << '\n';
}

void print_summary(const Arguments& arguments, const std::string& mechanism,
                   const support::Classification& result, double accuracy) {
  std::printf("%td images: %.2f%% right, in %.3g s, of which %.3g s in attention\n",
              result.logits.rows(), 100 * accuracy, result.seconds, result.seconds_in_attention);
  std::printf("attention: %s, %s, level %s, threads %d", mechanism.c_str(),
              arguments.precision.c_str(), result.level.c_str(), arguments.options.threads);
  if (mechanism == "latte")
    std::printf("; %.1f%% of the query-key pairs dropped", 100 * result.filtered);
  std::printf("\n");
}

void run(int argc, char** argv) {
  CLI::App app("Classifies images with a trained Transformer and Lowatt's attention.",
               "lowatt_classify");
  Arguments arguments;
  try {
    parse(argc, argv, app, arguments);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return;
  } catch (const CLI::ParseError& error) {
    throw support::InputError(error.what());
  }
  if (arguments.json && arguments.index)
    throw support::InputError("--index and --json exclude each other");

  const support::Transformer model = support::read_transformer(arguments.model);
  const support::LabelledImages images =
      support::read_labelled_images(arguments.images, arguments.labels);
  require_known_labels(images, model.classes, arguments.labels);
  const Index index = arguments.index.value_or(0);
  if (index >= images.count)
    throw support::InputError("--index: there is no image " + std::to_string(index) + " among " +
                              std::to_string(images.count));

  lowatt::Precision precision{};
  lowatt::parse_precision(arguments.precision.c_str(), precision);
  const std::string mechanism = arguments.mechanism.value_or(model.attention);
  const support::LayerAttention attention = support::layer_attention(model, mechanism, precision);
  if (!attention.note.empty()) std::cerr << "note: " << attention.note << '\n';

  const Index count = std::min(arguments.limit.value_or(images.count), images.count);
  const support::Classification result =
      support::classify(model, attention, images, 0, count, arguments.options);
  const double accuracy = accuracy_of(result, images);
  if (arguments.json) {
    print_json(arguments, mechanism, result, accuracy);
    return;
  }
  const support::Classification one =
      support::classify(model, attention, images, index, 1, arguments.options);
  std::cout << support::picture(images, index, support::probabilities(one.logits, 0)) << '\n'
            << std::flush;
  print_summary(arguments, mechanism, result, accuracy);
}

}  // namespace

int main(int argc, char** argv) {
  return support::report_failure([&] { run(argc, argv); });
}
