#include "task.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "file.hpp"
#include "idx.hpp"
#include "mails.hpp"

namespace training {
namespace {

// A generator for one use of random numbers.
std::mt19937_64 generator(std::uint64_t seed, std::uint64_t use) {
  std::seed_seq sequence{seed, seed >> 32, use, use >> 32};
  return std::mt19937_64(sequence);
}

// Uniform in [0, bound); the same on every machine, which std's distributions are not.
std::int64_t below(std::mt19937_64& random, std::int64_t bound) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
}

Tensor words_tensor(const std::vector<std::int64_t>& words, std::vector<std::int64_t> shape) {
  return torch::tensor(words, torch::kLong).view(shape);
}

// Which examples a batch takes: each epoch all of them in another order.
class Order {
 public:
  Order(std::uint64_t seed, std::int64_t examples) : seed_(seed), examples_(examples) {}

  Tensor batch(std::int64_t step, std::int64_t size) {
    const std::int64_t batches = examples_ / size, epoch = step / batches;
    if (epoch != epoch_) shuffle(epoch);
    return order_.narrow(0, step % batches * size, size);
  }

 private:
  void shuffle(std::int64_t epoch) {
    std::mt19937_64 random = generator(seed_, static_cast<std::uint64_t>(epoch));
    std::vector<std::int64_t> order(static_cast<std::size_t>(examples_));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t i = examples_ - 1; i > 0; --i)
      std::swap(order[static_cast<std::size_t>(i)],
                order[static_cast<std::size_t>(below(random, i + 1))]);
    order_ = words_tensor(order, {-1});
    epoch_ = epoch;
  }

  std::uint64_t seed_;
  std::int64_t examples_, epoch_ = -1;
  Tensor order_;
};

// The adding problem: each token is a number in [0, 1) and a mark; two tokens are marked, and the
// sum of their numbers is asked of the last one, which only attention tells of the others.
class Adding : public Task {
 public:
  explicit Adding(std::uint64_t seed) : seed_(seed) {
    shape.tokens = 100;
    shape.features = 2;
    shape.outputs = 1;
    shape.pooling = Pooling::last;
    shape.dim = 32;
    shape.heads = 1;
    shape.layers = 1;
    shape.feed_forward = 64;
    training_examples = 100'000;
    test_examples = 2000;
    batch = 100;
    is_regression = true;
  }
  Batch training_batch(std::int64_t step) override {
    return make(generator(seed_, static_cast<std::uint64_t>(step) + 1'000'000), batch);
  }
  Batch test_batch(std::int64_t from, std::int64_t count) override {
    // One generator for each example: batches may be cut anywhere. No training seed is this one.
    std::vector<Tensor> inputs, targets;
    for (std::int64_t i = from; i < from + count; ++i) {
      const Batch one = make(generator(~std::uint64_t{0}, static_cast<std::uint64_t>(i)), 1);
      inputs.push_back(one.input);
      targets.push_back(one.target);
    }
    return {torch::cat(inputs), torch::cat(targets)};
  }

 private:
  Batch make(std::mt19937_64 random, std::int64_t count) const {
    Batch result{torch::zeros({count, shape.tokens, 2}), torch::zeros({count})};
    auto input = result.input.accessor<float, 3>();
    auto target = result.target.accessor<float, 1>();
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t t = 0; t < shape.tokens; ++t)
        input[i][t][0] = static_cast<float>(random() >> 40) * 0x1p-24f;
      const std::int64_t first = below(random, shape.tokens / 2);
      const std::int64_t second = shape.tokens / 2 + below(random, shape.tokens / 2);
      for (const std::int64_t marked : {first, second}) {
        input[i][marked][1] = 1;
        target[i] += input[i][marked][0];
      }
    }
    return result;
  }

  std::uint64_t seed_;
};

// Examples that are all in memory, with classes.
class Labelled : public Task {
 public:
  Batch training_batch(std::int64_t step) override {
    const Tensor chosen = order_.batch(step, batch);
    return {prepare(train_input_.index_select(0, chosen)), train_target_.index_select(0, chosen)};
  }
  Batch test_batch(std::int64_t from, std::int64_t count) override {
    return {prepare(test_input_.narrow(0, from, count)), test_target_.narrow(0, from, count)};
  }

 protected:
  void set_examples(Tensor train_input, Tensor train_target, Tensor test_input, Tensor test_target,
                    std::uint64_t seed) {
    train_input_ = train_input;
    train_target_ = train_target;
    test_input_ = test_input;
    test_target_ = test_target;
    training_examples = train_input.size(0);
    test_examples = test_input.size(0);
    order_ = Order(seed, training_examples);
  }

 private:
  virtual Tensor prepare(const Tensor& input) const { return input; }

  Tensor train_input_, train_target_, test_input_, test_target_;
  Order order_{0, 1};
};

class Mnist : public Labelled {
 public:
  Mnist(const std::string& folder, std::uint64_t seed) {
    shape.tokens = 49;
    shape.features = 16;
    shape.outputs = 10;
    batch = 128;
    const Digits train = read(folder + "/train"), test = read(folder + "/t10k");
    set_examples(train.images, train.labels, test.images, test.labels, seed);
  }

 private:
  struct Digits {
    Tensor images;  // [images, 49, 16] bytes: patches of 4 x 4 pixels
    Tensor labels;
  };
  static Digits read(const std::string& path) {
    support::LabelledImages read =
        support::read_labelled_images(path + "-images-idx3-ubyte", path + "-labels-idx1-ubyte");
    if (read.rows != 28 || read.columns != 28)
      throw support::InputError("'" + path + "-images-idx3-ubyte' holds images of " +
                                std::to_string(read.rows) + " x " + std::to_string(read.columns) +
                                " pixels; 28 x 28 are needed");
    const auto bytes = [](std::vector<std::uint8_t>& from) {
      return torch::from_blob(from.data(), {static_cast<std::int64_t>(from.size())}, torch::kByte);
    };
    return {
        bytes(read.pixels).view({-1, 7, 4, 7, 4}).permute({0, 1, 3, 2, 4}).reshape({-1, 49, 16}),
        bytes(read.labels).to(torch::kLong)};
  }
  Tensor prepare(const Tensor& input) const override {
    return (input.to(torch::kFloat) / 255 - 0.1307) / 0.3081;
  }
};

class MailTask : public Labelled {
 public:
  MailTask(const std::string& folder, std::uint64_t seed) {
    shape.tokens = 128;
    shape.vocabulary = 4000;
    shape.outputs = 2;
    shape.dim = 48;
    shape.heads = 2;
    shape.feed_forward = 96;
    batch = 32;
    const Mails mails = read_mails(folder, shape.tokens, shape.vocabulary);
    set_examples(words_tensor(mails.train.words, {-1, shape.tokens}),
                 words_tensor(mails.train.spam, {-1}),
                 words_tensor(mails.test.words, {-1, shape.tokens}),
                 words_tensor(mails.test.spam, {-1}), seed);
  }
};

// Characters of a novel: each token is to say the next one.
class Prose : public Task {
 public:
  Prose(const std::string& path, std::uint64_t seed) : seed_(seed) {
    shape.tokens = 256;
    shape.vocabulary = 128;
    shape.outputs = 128;
    shape.pooling = Pooling::none;
    shape.form.causal = true;
    batch = 16;
    measure = "perplexity";
    const std::vector<std::int64_t> text = ascii_of(path);
    const Tensor all = words_tensor(text, {-1});
    const std::int64_t trained = all.size(0) * 9 / 10;
    train_ = all.narrow(0, 0, trained);
    test_ = all.narrow(0, trained, all.size(0) - trained);
    training_examples = (train_.size(0) - 1) / shape.tokens;
    test_examples = (test_.size(0) - 1) / shape.tokens;
    if (test_examples < 1) throw support::InputError("'" + path + "' is too short to train on");
  }
  Batch training_batch(std::int64_t step) override {
    std::mt19937_64 random = generator(seed_, static_cast<std::uint64_t>(step));
    std::vector<std::int64_t> starts;
    for (std::int64_t i = 0; i < batch; ++i)
      starts.push_back(below(random, train_.size(0) - shape.tokens));
    return pieces(train_, starts);
  }
  Batch test_batch(std::int64_t from, std::int64_t count) override {
    std::vector<std::int64_t> starts;
    for (std::int64_t i = from; i < from + count; ++i) starts.push_back(i * shape.tokens);
    return pieces(test_, starts);
  }

 private:
  Batch pieces(const Tensor& text, const std::vector<std::int64_t>& starts) const {
    std::vector<Tensor> inputs, targets;
    for (const std::int64_t start : starts) {
      inputs.push_back(text.narrow(0, start, shape.tokens));
      targets.push_back(text.narrow(0, start + 1, shape.tokens));
    }
    return {torch::stack(inputs), torch::stack(targets)};
  }
  // Typographic quotes and dashes become those of a typewriter; what else is not ASCII goes.
  static std::vector<std::int64_t> ascii_of(const std::string& path) {
    support::InputFile file = support::open_file(path);
    const std::string text{std::istreambuf_iterator<char>(file.in), {}};
    std::vector<std::int64_t> result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto c = static_cast<unsigned char>(text[i]);
      if (c < 128) {
        result.push_back(c);
        continue;
      }
      for (const auto& [typographic, plain] :
           {std::pair("\xe2\x80\x98", "'"), std::pair("\xe2\x80\x99", "'"),
            std::pair("\xe2\x80\x9c", "\""), std::pair("\xe2\x80\x9d", "\""),
            std::pair("\xe2\x80\x94", "--")})
        if (text.compare(i, 3, typographic) == 0)
          for (const char* p = plain; *p != '\0'; ++p) result.push_back(*p);
    }
    return result;
  }

  std::uint64_t seed_;
  Tensor train_, test_;
};

}  // namespace

std::unique_ptr<Task> make_task(const std::string& name, const std::string& folder,
                                std::uint64_t seed) {
  std::unique_ptr<Task> task;
  if (name == "adding") task = std::make_unique<Adding>(seed);
  if (name == "mnist") task = std::make_unique<Mnist>(folder + "/mnist", seed);
  if (name == "mails") task = std::make_unique<MailTask>(folder + "/mails", seed);
  if (name == "prose") task = std::make_unique<Prose>(folder + "/prose/data.txt", seed);
  if (task == nullptr)
    throw support::InputError("--task is " + support::in_quotes(name) +
                              "; it must be adding, mnist, mails or prose");
  task->name = name;
  return task;
}

Tensor loss_of(const Task& task, const Tensor& output, const Tensor& target) {
  if (task.is_regression) return torch::mse_loss(output.squeeze(-1), target);
  return torch::nn::functional::cross_entropy(output.reshape({-1, output.size(-1)}),
                                              target.reshape({-1}));
}

Tensor accuracy_of(const Task& task, const Tensor& output, const Tensor& target) {
  const torch::NoGradGuard no_gradients;
  const Tensor right = task.is_regression ? (output.squeeze(-1) - target).abs() <= 0.04
                                          : output.argmax(-1) == target;
  return right.to(torch::kFloat).mean();
}

}  // namespace training
