#include "trainer.hpp"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "export.hpp"
#include "file.hpp"

namespace training {
namespace {

std::string text_of(torch::serialize::OutputArchive& archive) {
  std::ostringstream text;
  archive.save_to(text);
  return text.str();
}

torch::serialize::InputArchive open_checkpoint(const std::string& path) {
  support::open_file(path);  // says what is wrong in words
  torch::serialize::InputArchive archive;
  try {
    archive.load_from(path);
    c10::IValue settings;
    archive.read("settings", settings);
  } catch (const c10::Error&) {
    throw support::InputError("'" + path + "' is not a checkpoint");
  }
  return archive;
}

// False where the archive has no such parameter. Names are paths through modules, which are
// archives within archives.
bool read_parameter(torch::serialize::InputArchive& archive, const std::string& name,
                    Tensor& result) {
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos) return archive.try_read(name, result);
  torch::serialize::InputArchive module;
  return archive.try_read(name.substr(0, dot), module) &&
         read_parameter(module, name.substr(dot + 1), result);
}

// Weights that both models have; the scalars of another attention start as the mechanism does.
void load_common_weights(Model& model, torch::serialize::InputArchive& weights,
                         const std::string& path) {
  const torch::NoGradGuard no_gradients;
  bool has_any = false;
  for (const auto& item : model->named_parameters()) {
    Tensor stored;
    if (!read_parameter(weights, item.key(), stored)) continue;
    if (stored.sizes() != item.value().sizes())
      throw support::InputError("'" + path + "' is for another model: the shape of " + item.key() +
                                " differs");
    item.value().copy_(stored);
    has_any = true;
  }
  if (!has_any) throw support::InputError("'" + path + "' holds no weights of this model");
}

// Means of what a step reports, over the steps since the last row.
struct Means {
  double loss = 0, accuracy = 0, filtered = 0;
  std::int64_t steps = 0;

  void add(double step_loss, double step_accuracy, double step_filtered) {
    loss += step_loss;
    accuracy += step_accuracy;
    filtered += step_filtered;
    ++steps;
  }
  double mean(double sum) const { return sum / static_cast<double>(steps); }
};

class Trainer {
 public:
  Trainer(Task& task, Model& model, const Run& run)
      : task_(task), model_(model), run_(run), optimiser_(groups(model, run.schedule)) {
    std::error_code error;
    std::filesystem::create_directories(run.folder, error);
    if (run.resume && std::filesystem::exists(checkpoint_path()))
      resume();
    else
      start();
  }

  // False when it stopped early.
  bool train() {
    model_->train();
    Means means;
    while (step_ < run_.schedule.steps) {
      means_of_step(means);
      ++step_;
      if (step_ % run_.log_every == 0 || step_ == run_.schedule.steps) {
        log(means);
        means = {};
      }
      if (step_ % run_.checkpoint_every == 0) save();
      if (step_ == run_.stop_after) return false;
    }
    save();
    return true;
  }

  double seconds() const { return seconds_before_ + elapsed_.seconds(); }

 private:
  using Adam = torch::optim::Adam;
  struct Clock {
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    double seconds() const {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  };

  static std::vector<torch::optim::OptimizerParamGroup> groups(Model& model,
                                                               const Schedule& schedule) {
    const auto options = [](double rate) {
      return std::make_unique<torch::optim::AdamOptions>(
          torch::optim::AdamOptions(rate).betas({0.9, 0.98}));
    };
    std::vector<torch::optim::OptimizerParamGroup> result;
    result.emplace_back(model->weights(), options(schedule.rate));
    result.emplace_back(model->attention_scalars(), options(schedule.scalar_rate));
    return result;
  }

  std::string checkpoint_path() const { return run_.folder + "/checkpoint.pt"; }
  std::string metrics_path() const { return run_.folder + "/metrics.csv"; }

  void start() {
    bool goes_on = false;
    if (!run_.from.empty()) {
      torch::serialize::InputArchive archive = open_checkpoint(run_.from), weights;
      archive.read("weights", weights);
      goes_on = has_learned_the_same(archive);
      if (goes_on)
        model_->load(weights);
      else
        load_common_weights(model_, weights, run_.from);
    }
    if (!goes_on) {
      // Judged at once, thresholds must fit the hard mask that they are judged with.
      const Mode first = run_.schedule.steps == 0 ? Mode{run_.arithmetic, 0} : mode();
      model_->start(task_.training_batch(0).input, first, run_.schedule.filtered);
    }
    support::write_file(metrics_path(), {"step,loss," + task_.measure + ",filtered,seconds\n"});
  }

  // Whether a checkpoint's attention is this run's, so that its scalars go on from where they are.
  bool has_learned_the_same(torch::serialize::InputArchive& archive) const {
    c10::IValue settings;
    archive.read("settings", settings);
    const auto theirs = nlohmann::json::parse(settings.toStringRef());
    const auto ours = nlohmann::json::parse(run_.settings);
    for (const char* key : {"task", "attention", "planes", "center", "sums"})
      if (theirs.value(key, nlohmann::json()) != ours.value(key, nlohmann::json())) return false;
    return true;
  }

  void resume() {
    torch::serialize::InputArchive archive = open_checkpoint(checkpoint_path()), weights, optimiser;
    c10::IValue settings, step, seconds;
    archive.read("settings", settings);
    if (settings.toStringRef() != run_.settings)
      throw support::InputError("'" + checkpoint_path() +
                                "' was made with other options: " + settings.toStringRef());
    archive.read("weights", weights);
    model_->load(weights);
    archive.read("optimiser", optimiser);
    optimiser_.load(optimiser);
    archive.read("step", step);
    step_ = step.toInt();
    archive.read("seconds", seconds);
    seconds_before_ = seconds.toDouble();
    keep_metrics_up_to(step_);
  }

  void save() const {
    torch::serialize::OutputArchive archive, weights, optimiser;
    model_->save(weights);
    optimiser_.save(optimiser);
    archive.write("weights", weights);
    archive.write("optimiser", optimiser);
    archive.write("step", c10::IValue(step_));
    archive.write("seconds", c10::IValue(seconds()));
    archive.write("settings", c10::IValue(run_.settings));
    support::write_file(checkpoint_path(), {text_of(archive)});
  }

  // Rows that a killed run wrote after its last checkpoint come again.
  void keep_metrics_up_to(std::int64_t step) const {
    support::InputFile file = support::open_file(metrics_path());
    std::string kept, line;
    for (bool is_header = true; std::getline(file.in, line); is_header = false)
      if (is_header || std::atoll(line.c_str()) <= step) kept += line + "\n";
    support::write_file(metrics_path(), {kept});
  }

  Mode mode() const {
    const Schedule& s = run_.schedule;
    const double done =
        std::min(1.0, static_cast<double>(step_) / (0.8 * static_cast<double>(s.steps)));
    return {run_.arithmetic, s.softness * std::pow(s.final_softness / s.softness, done)};
  }

  void set_rates() {
    const Schedule& s = run_.schedule;
    const double step = static_cast<double>(step_);
    const double rise = std::min(1.0, (step + 1) / static_cast<double>(s.warmup + 1));
    const double fall = 0.5 * (1 + std::cos(M_PI * step / static_cast<double>(s.steps)));
    const double rates[] = {s.rate, s.scalar_rate};
    for (std::size_t i = 0; i < 2; ++i)
      static_cast<torch::optim::AdamOptions&>(optimiser_.param_groups()[i].options())
          .lr(rates[i] * rise * fall);
  }

  void means_of_step(Means& means) {
    const Batch batch = task_.training_batch(step_);
    set_rates();
    optimiser_.zero_grad();
    const Prediction prediction = model_->forward(batch.input, mode());
    const Tensor loss = loss_of(task_, prediction.output, batch.target);
    double filtered = 0;
    if (prediction.survival.defined()) {
      filtered = 1 - prediction.survival.item<double>();
      (loss + run_.schedule.penalty * prediction.survival).backward();
    } else {
      loss.backward();
    }
    torch::nn::utils::clip_grad_norm_(model_->parameters(), 1.0);
    optimiser_.step();
    const double value = loss.item<double>();
    if (!std::isfinite(value))
      throw support::InputError("the loss is " + std::to_string(value) + " at step " +
                                std::to_string(step_) + "; a smaller --rate may help");
    means.add(value, accuracy_of(task_, prediction.output, batch.target).item<double>(), filtered);
  }

  void log(const Means& means) const {
    const double loss = means.mean(means.loss);
    const double measure =
        task_.measure == "perplexity" ? std::exp(loss) : means.mean(means.accuracy);
    char row[200];
    std::snprintf(row, sizeof row, "%lld,%.6g,%.6g,%.4f,%.1f\n", static_cast<long long>(step_),
                  loss, measure, means.mean(means.filtered), seconds());
    std::ofstream(metrics_path(), std::ios::app) << row;

    const double done = static_cast<double>(step_) / static_cast<double>(run_.schedule.steps);
    char text[200];
    std::snprintf(text, sizeof text, "step %lld of %lld, loss %.4f, %s %.4f, filtered %.3f, %.0f s",
                  static_cast<long long>(step_), static_cast<long long>(run_.schedule.steps), loss,
                  task_.measure.c_str(), measure, means.mean(means.filtered), seconds());
    if (::isatty(STDERR_FILENO) == 0) {
      std::cerr << text << '\n';
      return;
    }
    constexpr int width = 30;
    std::string bar(static_cast<std::size_t>(done * width), '=');
    bar.resize(width, ' ');
    std::cerr << "\r\x1b[K[" << bar << "] " << text << (done < 1 ? "" : "\n") << std::flush;
  }

  Task& task_;
  Model& model_;
  const Run& run_;
  Adam optimiser_;
  std::int64_t step_ = 0;
  double seconds_before_ = 0;
  Clock elapsed_;
};

void write_result(const Task& task, Model& model, const Run& run, double seconds,
                  const Judgement& exact, const Judgement& integer) {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(run.settings);
  std::int64_t parameters = 0;
  for (const Tensor& tensor : model->parameters()) parameters += tensor.numel();
  json["parameters"] = parameters;
  json["loss_float"] = exact.loss;
  json["loss_int8"] = integer.loss;
  if (task.measure == "perplexity") {
    json["perplexity_float"] = std::exp(exact.loss);
    json["perplexity_int8"] = std::exp(integer.loss);
  }
  json["accuracy_float"] = exact.accuracy;
  json["accuracy_int8"] = integer.accuracy;
  json["filtered"] = integer.filtered;
  json["seconds"] = seconds;
  const std::string line = json.dump() + "\n";
  support::write_file(run.folder + "/result.json", {line});
  std::cout << line;
}

}  // namespace

Judgement judge(Task& task, Model& model, Arithmetic arithmetic, std::int64_t limit) {
  const torch::NoGradGuard no_gradients;
  model->eval();
  const std::int64_t examples =
      limit > 0 ? std::min(limit, task.test_examples) : task.test_examples;
  constexpr std::int64_t most = 100;
  Judgement sum;
  for (std::int64_t from = 0; from < examples; from += most) {
    const std::int64_t count = std::min(most, examples - from);
    const Batch batch = task.test_batch(from, count);
    const Prediction prediction = model->forward(batch.input, {arithmetic, 0});
    const double share = static_cast<double>(count) / static_cast<double>(examples);
    sum.loss += share * loss_of(task, prediction.output, batch.target).item<double>();
    sum.accuracy += share * accuracy_of(task, prediction.output, batch.target).item<double>();
    if (prediction.survival.defined())
      sum.filtered += share * (1 - prediction.survival.item<double>());
  }
  return sum;
}

void train(Task& task, Model& model, const Run& run) {
  Trainer trainer(task, model, run);
  if (!trainer.train()) return;
  const double seconds = trainer.seconds();
  const Arithmetic exact =
      run.arithmetic == Arithmetic::straight_through ? Arithmetic::kernels : run.arithmetic;
  export_model(run.folder + "/model.safetensors", task, model);
  write_result(task, model, run, seconds, judge(task, model, exact, run.test_limit),
               judge(task, model, Arithmetic::integer, run.test_limit));
}

}  // namespace training
