// The shapes that are measured, and how results are named and counted.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "inputs.hpp"

namespace bench {

struct Extents {
  const char* phase;
  Index heads, queries, keys, dim;
};

constexpr Extents shapes[] = {
    {"prefill", 4, 128, 128, 64},  {"prefill", 2, 512, 512, 64},  {"prefill", 1, 2048, 2048, 64},
    {"prefill", 4, 128, 128, 128}, {"prefill", 2, 512, 512, 128}, {"prefill", 1, 2048, 2048, 128},
    {"decode", 1, 1, 4096, 64},    {"decode", 1, 1, 32768, 64},   {"decode", 1, 1, 4096, 128},
    {"decode", 1, 1, 32768, 128},
};

inline std::string name_of(const std::string& kernel, const std::string& level, const Extents& e) {
  return kernel + "/" + level + "/" + e.phase + "/" + std::to_string(e.keys) + "/" +
         std::to_string(e.dim);
}

inline void count_pairs(benchmark::State& state, const Inputs& inputs) {
  using benchmark::Counter;
  const double pairs = inputs.pairs();
  state.counters["ns_per_pair"] =
      Counter(pairs * 1e-9, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.counters["pairs_per_s"] = Counter(pairs, Counter::kIsIterationInvariantRate);
}

}  // namespace bench
