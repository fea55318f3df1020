// LATTE with thresholds from a target: calibrated once on samples of what is usual, then frozen in
// a cache for tokens that come later. Says what it filtered and how far it is from softmax.
//
//   find_package(lowatt REQUIRED)
//   add_executable(app 04_calibrated_latte.cpp)
//   lowatt_add_dispatch(app)
#include <lowatt/lowatt.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

using lowatt::Index;

constexpr Index heads = 4, tokens = 512, head_dim = 64;

// Contiguous [heads, tokens, head_dim]. Tokens are of sixteen kinds, which the heads tell apart
// more or less sharply: attention in head 0 is spread out, in head 3 it is almost a lookup.
struct Tokens {
  std::vector<float> q, k, v;

  explicit Tokens(unsigned seed)
      : q(static_cast<std::size_t>(heads * tokens * head_dim)), k(q.size()), v(q.size()) {
    std::mt19937 random(seed), kinds(7);  // the same kinds for every seed
    std::normal_distribution<float> normal;
    std::vector<float> kind(16 * head_dim);
    for (float& x : kind) x = normal(kinds);
    for (Index row = 0; row < heads * tokens; ++row) {
      const float sharpness = static_cast<float>(row / tokens + 1) * 0.4f;
      const float* q_kind = &kind[random() % 16 * head_dim];
      const float* k_kind = &kind[random() % 16 * head_dim];
      for (Index c = 0; c < head_dim; ++c) {
        const auto at = static_cast<std::size_t>(row * head_dim + c);
        q[at] = sharpness * (q_kind[c] + 0.5f * normal(random));
        k[at] = k_kind[c] + 0.5f * normal(random);
        v[at] = normal(random);
      }
    }
  }

  static lowatt::View<const float> view(const std::vector<float>& tensor) {
    return {tensor.data(), heads, tokens, head_dim};
  }
};

double relative_error(const std::vector<float>& actual, const std::vector<float>& exact,
                      Index head) {
  double difference = 0, size = 0;
  for (Index i = head * tokens * head_dim; i < (head + 1) * tokens * head_dim; ++i) {
    const auto at = static_cast<std::size_t>(i);
    difference += std::pow(static_cast<double>(actual[at]) - static_cast<double>(exact[at]), 2);
    size += std::pow(static_cast<double>(exact[at]), 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace

int main() {
  // 1. Calibrate: which threshold of each head drops nine pairs in ten of the samples. A target of
  // {.error = 0.02} instead asks for the highest threshold whose outputs stay that close.
  const lowatt::Latte latte{.filtered = 0.9};
  const Tokens samples(1);
  const lowatt::Calibration calibration =
      lowatt::calibrate(latte, Tokens::view(samples.q), Tokens::view(samples.k),
                        Tokens::view(samples.v), {.causal = true});

  // 2. Freeze: the cache copies thresholds and scales; nothing that comes later changes them.
  lowatt::KvCache<lowatt::Latte> cache(
      {.kv_heads = heads, .head_dim = head_dim, .value_dim = head_dim, .capacity = tokens},
      calibration, latte);

  // 3. Use it on other tokens of the same kind. `kept` receives the surviving pairs of each head.
  const Tokens later(2);
  cache.append(Tokens::view(later.k), Tokens::view(later.v));
  std::vector<float> out(later.q.size()), exact(later.q.size());
  std::vector<std::int64_t> kept(heads);
  lowatt::attend(Tokens::view(later.q), cache,
                 lowatt::View<float>(out.data(), heads, tokens, head_dim),
                 {.causal = true, .kept = kept.data()});

  lowatt::attend(lowatt::Softmax{}, Tokens::view(later.q), Tokens::view(later.k),
                 Tokens::view(later.v), lowatt::View<float>(exact.data(), heads, tokens, head_dim),
                 {.causal = true});
  constexpr double pairs = tokens * (tokens + 1) / 2.0;
  bool near_target = true;
  for (Index h = 0; h < heads; ++h) {
    const double filtered = 1 - static_cast<double>(kept[static_cast<std::size_t>(h)]) / pairs;
    std::printf("head %td: theta %.2f, %.1f%% of pairs filtered, error beside softmax %.3f\n", h,
                calibration.theta[h], 100 * filtered, relative_error(out, exact, h));
    near_target = near_target && std::fabs(filtered - 0.9) < 0.03;
  }
  std::printf(near_target ? "thresholds hold for tokens that calibration has not seen\n"
                          : "thresholds do not hold for these tokens: calibrate on others\n");
  return near_target ? 0 : 1;
}
