// Training one model and judging it, with checkpoints.
#pragma once

#include <memory>
#include <string>

#include "task.hpp"

namespace training {

struct Schedule {
  std::int64_t steps = 0;
  std::int64_t warmup = 100;    // steps over which the rate rises; then it falls to 0 as a cosine
  double rate = 2e-3;           // of weights
  double scalar_rate = 1e-2;    // of the attention's scalars
  double penalty = 0;           // LATTE: loss per share of surviving pairs
  double softness = 1;          // LATTE's soft mask, in logits, at the start ...
  double final_softness = 0.3;  // ... and from 80% of the steps on, falling geometrically
  double filtered = 0.5;        // LATTE: share that the thresholds drop at the start
};

struct Run {
  Schedule schedule;
  Arithmetic arithmetic = Arithmetic::kernels;
  std::uint64_t seed = 0;
  std::string folder;           // for checkpoint.pt, metrics.csv, model.safetensors and result.json
  std::string settings;         // JSON: what a checkpoint must have been made with to be resumed
  std::string from;             // checkpoint whose weights to start from; empty: random ones
  bool resume = false;          // continue from the folder's checkpoint, where there is one
  std::int64_t log_every = 50;  // steps for each row of metrics
  std::int64_t checkpoint_every = 200;  // steps; a multiple of log_every
  std::int64_t stop_after = 0;          // ends after so many steps, as if killed; 0: never
  std::int64_t test_limit = 0;          // judge so many examples; 0: all
};

// Mean over the test examples.
struct Judgement {
  double loss = 0, accuracy = 0;
  double filtered = 0;  // LATTE: share of pairs dropped
};
Judgement judge(Task& task, Model& model, Arithmetic arithmetic, std::int64_t limit);

// Trains, judges and writes everything into the run's folder. Throws support::InputError for a
// checkpoint that cannot be used.
void train(Task& task, Model& model, const Run& run);

}  // namespace training
