// What the benchmarks attend: standard normal Q, K, V, the same in every run.
#pragma once

#include <lowatt/lowatt.hpp>
#include <random>
#include <vector>

namespace bench {

using lowatt::Index;

struct Inputs {
  Inputs(Index heads_, Index queries_, Index keys_, Index dim_)
      : heads(heads_),
        queries(queries_),
        keys(keys_),
        dim(dim_),
        q_data(numbers(heads * queries * dim, 1)),
        k_data(numbers(heads * keys * dim, 2)),
        v_data(numbers(heads * keys * dim, 3)),
        out_data(q_data.size()) {}

  lowatt::View<const float> q() const { return {q_data.data(), heads, queries, dim}; }
  lowatt::View<const float> k() const { return {k_data.data(), heads, keys, dim}; }
  lowatt::View<const float> v() const { return {v_data.data(), heads, keys, dim}; }
  lowatt::View<float> out() { return {out_data.data(), heads, queries, dim}; }
  double pairs() const { return static_cast<double>(heads * queries * keys); }

  // Moves queries and keys to twenty clusters. Keys of a cluster are neighbours; queries belong to
  // any.
  void cluster() {
    constexpr Index clusters = 20;
    const std::vector<float> centres = numbers(clusters * dim, 4);
    std::mt19937 random(5);
    const auto move = [&](std::vector<float>& data, Index tokens, auto cluster_of) {
      for (Index i = 0; i < heads * tokens; ++i) {
        const Index cluster = cluster_of(i % tokens);
        for (Index c = 0; c < dim; ++c) {
          float& x = data[static_cast<std::size_t>(i * dim + c)];
          x = 0.1f * x + centres[static_cast<std::size_t>(cluster * dim + c)];
        }
      }
    };
    move(q_data, queries, [&](Index) { return static_cast<Index>(random() % clusters); });
    move(k_data, keys, [&](Index key) { return key * clusters / keys; });
  }

  Index heads, queries, keys, dim;
  std::vector<float> q_data, k_data, v_data, out_data;

 private:
  static std::vector<float> numbers(Index count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& x : values) x = normal(random);
    return values;
  }
};

}  // namespace bench
