// Trains a small Transformer with one of the attention mechanisms, and judges it in float and with
// the integer kernels. `train --help` lists the options; scripts/train.sh runs all of
// docs/accuracy.md.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "failure.hpp"
#include "trainer.hpp"

namespace {

using training::Mechanism;

struct Options {
  std::string task, attention, data = "build/training-data", kernels = "lowatt";
  training::Run run;
  bool center = false, sums = false;
  int planes = 1;
  double epochs = 0;
  std::int64_t batch = 0;
};

training::AttentionForm form_of(const Options& options, bool causal) {
  training::AttentionForm form;
  form.causal = causal;
  form.center = options.center;
  form.normalize = !options.sums;
  form.planes = options.planes;
  const std::string& name = options.attention;
  if (name.starts_with("inhibitor")) form.mechanism = Mechanism::inhibitor;
  if (name.starts_with("latte")) form.mechanism = Mechanism::latte;
  if (name == "bitformer") form.mechanism = Mechanism::bitformer;
  form.is_signed = name != "inhibitor-unsigned";
  return form;
}

// What decides the result: a checkpoint is resumed only with the same.
std::string settings_of(const Options& options, const training::Task& task) {
  const training::Schedule& schedule = options.run.schedule;
  nlohmann::ordered_json json;
  json["task"] = options.task;
  json["attention"] = options.attention;
  if (options.attention == "bitformer") json["planes"] = options.planes;
  if (options.center) json["center"] = true;
  if (options.sums) json["sums"] = true;
  json["seed"] = options.run.seed;
  json["steps"] = schedule.steps;
  json["batch"] = task.batch;
  json["rate"] = schedule.rate;
  if (options.attention != "softmax") json["scalar_rate"] = schedule.scalar_rate;
  json["warmup"] = schedule.warmup;
  if (options.attention.starts_with("latte")) {
    json["penalty"] = schedule.penalty;
    json["softness"] = {schedule.softness, schedule.final_softness};
    json["filtered_at_start"] = schedule.filtered;
  }
  json["from"] = options.run.from.empty() ? "scratch" : "checkpoint";
  json["kernels"] = options.kernels;
  return json.dump();
}

void run(int argc, char** argv) {
  Options options;
  training::Run& run = options.run;
  training::Schedule& schedule = run.schedule;
  CLI::App app("Trains a small Transformer and judges it in float and with integer attention.");
  app.add_option("--task", options.task, "what to learn")
      ->required()
      ->check(CLI::IsMember({"adding", "mnist", "mails", "prose"}));
  app.add_option("--attention", options.attention, "the mechanism")
      ->required()
      ->check(CLI::IsMember(
          {"softmax", "inhibitor", "inhibitor-unsigned", "latte", "latte-global", "bitformer"}));
  app.add_option("--out", run.folder, "folder for checkpoint, metrics, model and result")
      ->required();
  app.add_option("--data", options.data, "folder that examples/training/fetch.sh filled")
      ->capture_default_str();
  app.add_option("--seed", run.seed, "of weights and of the order of examples")
      ->capture_default_str();
  app.add_option("--from", run.from, "checkpoint whose weights to start from");
  auto* steps = app.add_option("--steps", schedule.steps, "steps to train; 0: judge only")
                    ->check(CLI::NonNegativeNumber);
  app.add_option("--epochs", options.epochs, "instead of steps: passes over the examples")
      ->check(CLI::NonNegativeNumber)
      ->excludes(steps);
  app.add_option("--batch", options.batch, "examples per step; default: the task's")
      ->check(CLI::PositiveNumber);
  app.add_option("--rate", schedule.rate, "learning rate of weights")->capture_default_str();
  app.add_option("--scalar-rate", schedule.scalar_rate,
                 "learning rate of what the mechanism adds: scale, alpha, beta, theta, temperature")
      ->capture_default_str();
  app.add_option("--warmup", schedule.warmup, "steps over which the rates rise")
      ->capture_default_str();
  app.add_option("--planes", options.planes, "Bitformer: bits per number")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--center", options.center, "Inhibitor: centre scores; Bitformer: centre keys");
  app.add_flag("--sums", options.sums,
               "Inhibitor: outputs are sums over the keys that a query sees, not means");
  app.add_option("--penalty", schedule.penalty, "LATTE: loss per share of surviving pairs")
      ->capture_default_str();
  app.add_option("--softness", schedule.softness, "LATTE: of the mask at the start, in logits")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--final-softness", schedule.final_softness, "LATTE: of the mask at the end")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--filtered", schedule.filtered,
                 "LATTE: share of pairs that thresholds are calibrated to drop before training")
      ->check(CLI::Range(0.0, 0.999))
      ->capture_default_str();
  app.add_option("--kernels", options.kernels,
                 "arithmetic of attention in training; integer: what inference runs forwards, "
                 "Lowatt's gradients backwards")
      ->check(CLI::IsMember({"lowatt", "torch", "integer"}))
      ->capture_default_str();
  app.add_flag("--resume", run.resume, "continue from the checkpoint in --out, if there is one");
  app.add_option("--log-every", run.log_every, "steps per row of metrics")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--checkpoint-every", run.checkpoint_every, "steps; a multiple of --log-every")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--stop-after", run.stop_after, "end after this step, as if killed");
  app.add_option("--test-limit", run.test_limit, "judge so many examples; 0: all")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return;
  } catch (const CLI::ParseError& error) {
    throw support::InputError(error.what());
  }
  if (run.checkpoint_every % run.log_every != 0)
    throw support::InputError("--checkpoint-every is " + std::to_string(run.checkpoint_every) +
                              "; it must be a multiple of --log-every " +
                              std::to_string(run.log_every));

  // The same sums in the same order whatever the machine; two runs use two cores better than one.
  torch::set_num_threads(1);
  torch::manual_seed(run.seed);
  const auto task = training::make_task(options.task, options.data, run.seed);
  if (options.batch > 0) task->batch = options.batch;
  if (task->batch > task->training_examples)
    throw support::InputError("--batch is " + std::to_string(task->batch) + "; the task has " +
                              std::to_string(task->training_examples) + " examples");
  if (options.epochs > 0)
    schedule.steps = static_cast<std::int64_t>(
        options.epochs * static_cast<double>(task->training_examples / task->batch));
  if (options.kernels == "torch") run.arithmetic = training::Arithmetic::formula;
  if (options.kernels == "integer") run.arithmetic = training::Arithmetic::straight_through;
  if (options.center && options.attention == "bitformer" && task->shape.form.causal)
    throw support::InputError(
        "--center: the mean over all keys tells a token what comes after it; "
        "bitformer takes it on tasks without causal order only");
  const bool is_inhibitor = options.attention.starts_with("inhibitor");
  if (options.sums && !is_inhibitor)
    throw support::InputError("--sums: " + options.attention + " has none, the Inhibitor alone");
  if (options.center && !is_inhibitor && options.attention != "bitformer")
    throw support::InputError("--center: " + options.attention +
                              " has none, the Inhibitor and Bitformer alone");
  run.settings = settings_of(options, *task);
  training::ModelShape shape = task->shape;
  shape.form = form_of(options, task->shape.form.causal);
  shape.global_threshold = options.attention == "latte-global";
  training::Model model(shape);
  training::train(*task, model, run);
}

}  // namespace

int main(int argc, char** argv) {
  return support::report_failure([&] { run(argc, argv); });
}
