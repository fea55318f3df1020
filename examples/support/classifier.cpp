#include "classifier.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>

#include "matrix_product.hpp"
#include "thread_pool.hpp"
#include "timing.hpp"

namespace support {
namespace {

using lowatt::Index;

// Enough rows for products to run at full speed, few enough to stay in a core's second cache.
constexpr Index most_images = 32;

constexpr float pixel_mean = 0.1307F, pixel_deviation = 0.3081F;
constexpr float epsilon = 1e-5F;

std::array<float, 256> normalized_pixels() {
  std::array<float, 256> table{};
  for (std::size_t i = 0; i < table.size(); ++i)
    table[i] = (static_cast<float>(i) / 255 - pixel_mean) / pixel_deviation;
  return table;
}

void normalize(const LayerNorm& norm, const Matrix& x, Matrix& y) {
  y.resize(x.rows(), x.cols());
  for (Index row = 0; row < x.rows(); ++row) {
    const float mean = x.row(row).mean();
    y.row(row) = x.row(row).array() - mean;
    const float variance = y.row(row).squaredNorm() / static_cast<float>(x.cols());
    y.row(row) *= 1 / std::sqrt(variance + epsilon);
    y.row(row) = y.row(row).cwiseProduct(norm.weight) + norm.bias;
  }
}

// One thread's forward passes over batches of images; all matrices have a row per token.
class Forward {
 public:
  Forward(const Transformer& model, const LayerAttention& attention, const LabelledImages& images,
          lowatt::Level level)
      : model_(model), attention_(attention), images_(images), level_(level) {
    options_.level = level;
  }

  // Logits of images [first, first + count).
  Matrix run(Index first, Index count) {
    patches_.resize(count * model_.tokens, model_.patch * model_.patch);
    for (Index i = 0; i < count; ++i) cut_into_patches(images_.image(first + i), i);
    apply(model_.embed, patches_, tokens_);
    for (Index i = 0; i < count; ++i)
      tokens_.middleRows(i * model_.tokens, model_.tokens) += model_.position;
    for (std::size_t i = 0; i < model_.layers.size(); ++i)
      add_layer(model_.layers[i], attention_.layers[i], count);

    normalize(model_.norm, tokens_, normalized_);
    Matrix means(count, model_.dim);
    for (Index i = 0; i < count; ++i)
      means.row(i) = normalized_.middleRows(i * model_.tokens, model_.tokens).colwise().mean();
    Matrix logits;
    apply(model_.head, means, logits);
    return logits;
  }

  double seconds_in_attention = 0;
  std::int64_t kept = 0;  // pairs that LATTE left

 private:
  void apply(const Linear& linear, const Matrix& x, Matrix& y) const {
    y.resize(x.rows(), linear.weight.rows());
    matrix_product(level_, x.data(), linear.weight.data(), y.data(), x.rows(), x.cols(), y.cols());
    y.rowwise() += linear.bias;
  }

  void cut_into_patches(const std::uint8_t* image, Index position) {
    static const std::array<float, 256> normalized = normalized_pixels();
    const Index patch = model_.patch, across = images_.columns / patch;
    for (Index token = 0; token < model_.tokens; ++token) {
      const std::uint8_t* corner =
          image + token / across * patch * images_.columns + token % across * patch;
      float* to = patches_.row(position * model_.tokens + token).data();
      for (Index y = 0; y < patch; ++y)
        for (Index x = 0; x < patch; ++x) *to++ = normalized[corner[y * images_.columns + x]];
    }
  }

  void add_layer(const TransformerLayer& layer, const Mechanism& mechanism, Index count) {
    normalize(layer.norm1, tokens_, normalized_);
    apply(layer.query_key_value, normalized_, query_key_value_);
    attended_.resize(tokens_.rows(), model_.dim);
    seconds_in_attention += seconds_of([&] { attend(mechanism, count); });
    apply(layer.output, attended_, change_);
    tokens_ += change_;

    normalize(layer.norm2, tokens_, normalized_);
    apply(layer.up, normalized_, hidden_);
    hidden_ = hidden_.cwiseMax(0);
    apply(layer.down, hidden_, change_);
    tokens_ += change_;
  }

  // Queries, keys and values are column blocks of one matrix, read where they lie.
  void attend(const Mechanism& mechanism, Index count) {
    const auto part = [&](Index which) {
      return by_image<const float>(query_key_value_.data() + which * model_.dim, count,
                                   3 * model_.dim);
    };
    kept_.assign(static_cast<std::size_t>(count * model_.heads), 0);
    options_.kept = std::holds_alternative<Latte>(mechanism) ? kept_.data() : nullptr;
    with_parameters(mechanism, std::nullopt, [&](const auto& parameters) {
      lowatt::attend(parameters, part(0), part(1), part(2),
                     by_image<float>(attended_.data(), count, model_.dim), options_);
    });
    for (const std::int64_t pairs : kept_) kept += pairs;
  }

  template <class T>
  lowatt::View<T> by_image(T* data, Index count, Index token_stride) const {
    return {data,
            count,
            model_.heads,
            model_.tokens,
            model_.head_dim(),
            model_.tokens * token_stride,
            model_.head_dim(),
            token_stride};
  }

  const Transformer& model_;
  const LayerAttention& attention_;
  const LabelledImages& images_;
  lowatt::Level level_;
  lowatt::Options options_;
  Matrix patches_, tokens_, normalized_, query_key_value_, attended_, change_, hidden_;
  std::vector<std::int64_t> kept_;
};

void require_fit(const Transformer& model, const LabelledImages& images) {
  const Index patch = model.patch;
  if (images.rows % patch == 0 && images.columns % patch == 0 &&
      images.rows / patch * (images.columns / patch) == model.tokens)
    return;
  throw InputError("images are " + std::to_string(images.rows) + " x " +
                   std::to_string(images.columns) + "; the model is for " +
                   std::to_string(model.tokens) + " patches of " + std::to_string(patch) + " x " +
                   std::to_string(patch));
}

// The level that runs; refuses, before any thread starts, what the library refuses.
lowatt::Level planned_level(const Transformer& model, const LayerAttention& attention,
                            const lowatt::LevelSetting& wanted) {
  const lowatt::Shape shape{.query_heads = model.heads,
                            .kv_heads = model.heads,
                            .queries = model.tokens,
                            .keys = model.tokens,
                            .head_dim = model.head_dim(),
                            .value_dim = model.head_dim()};
  lowatt::Level level{};
  for (const Mechanism& mechanism : attention.layers)
    level = with_parameters(mechanism, std::nullopt, [&](const auto& parameters) {
      return lowatt::plan(parameters, shape, {.level = wanted}).level();
    });
  return level;
}

}  // namespace

Classification classify(const Transformer& model, const LayerAttention& attention,
                        const LabelledImages& images, Index first, Index count,
                        const ClassifierOptions& options) {
  require_fit(model, images);
  const lowatt::Level level = planned_level(model, attention, parse_level_name(options.level));
  Classification result;
  result.level = lowatt::level_name(level);
  result.logits.resize(count, model.classes);

  ThreadPool pool(options.threads);
  const auto workers = static_cast<std::size_t>(options.threads);
  std::vector<Forward> forwards(workers, Forward(model, attention, images, level));
  std::vector<std::exception_ptr> failures(workers);
  const Index batches = (count + most_images - 1) / most_images;
  result.seconds = seconds_of([&] {
    pool.run(batches, [&](Index batch, Index worker) {
      const Index begin = batch * most_images, size = std::min(most_images, count - begin);
      const auto w = static_cast<std::size_t>(worker);
      try {
        result.logits.middleRows(begin, size) = forwards[w].run(first + begin, size);
      } catch (...) {
        failures[w] = std::current_exception();
      }
    });
  });
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);

  std::int64_t kept = 0;
  for (const Forward& forward : forwards) {
    result.seconds_in_attention += forward.seconds_in_attention / options.threads;
    kept += forward.kept;
  }
  if (std::holds_alternative<Latte>(attention.layers[0])) {
    const Index pairs =
        count * static_cast<Index>(model.layers.size()) * model.heads * model.tokens * model.tokens;
    result.filtered = 1 - static_cast<double>(kept) / static_cast<double>(pairs);
  }
  return result;
}

Index answer(const Matrix& logits, Index image) {
  Index best = 0;
  logits.row(image).maxCoeff(&best);
  return best;
}

std::vector<double> probabilities(const Matrix& logits, Index image) {
  std::vector<double> shares;
  double sum = 0;
  const float largest = logits.row(image).maxCoeff();
  for (const float logit : logits.row(image)) {
    shares.push_back(std::exp(static_cast<double>(logit - largest)));
    sum += shares.back();
  }
  for (double& share : shares) share /= sum;
  return shares;
}

}  // namespace support
