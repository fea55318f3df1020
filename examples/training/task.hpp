// What a model is trained for: data, and how answers are judged.
#pragma once

#include <memory>
#include <string>

#include "model.hpp"

namespace training {

struct Batch {
  Tensor input;   // [batch, tokens, features] float, or [batch, tokens] words
  Tensor target;  // [batch] or [batch, tokens] classes, or [batch] numbers
};

class Task {
 public:
  virtual ~Task() = default;
  // Batches of training are a function of the seed and the step: nothing to store in a checkpoint.
  virtual Batch training_batch(std::int64_t step) = 0;
  // Test examples [from, from + count).
  virtual Batch test_batch(std::int64_t from, std::int64_t count) = 0;

  std::string name;
  ModelShape shape;  // extents that the task decides and sizes that suit it
  std::int64_t training_examples = 0, test_examples = 0;
  std::int64_t batch = 0;
  bool is_regression = false;
  std::string measure = "accuracy";  // what is reported beside the loss; or "perplexity"
};

// `name` is adding, mnist, mails or prose; `folder` is what examples/training/fetch.sh filled.
// Throws support::InputError where the data is not there or is no good.
std::unique_ptr<Task> make_task(const std::string& name, const std::string& folder,
                                std::uint64_t seed);

// Loss to train with, mean over the batch.
Tensor loss_of(const Task& task, const Tensor& output, const Tensor& target);
// Share of right answers; of regression: share within 0.04 of the target.
Tensor accuracy_of(const Task& task, const Tensor& output, const Tensor& target);

}  // namespace training
