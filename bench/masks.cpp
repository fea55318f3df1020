#include "masks.hpp"

#include <benchmark/benchmark.h>

#include "cases.hpp"

namespace bench {
namespace {

constexpr Index tokens = 2048, words = tokens / 64, dim = 64, window = 256;

// Booleans and bits that hide nothing but what causal order hides: their own cost, on the same
// keys.
const std::vector<std::uint8_t>& causal_booleans() {
  static const std::vector<std::uint8_t> booleans = [] {
    std::vector<std::uint8_t> made(static_cast<std::size_t>(tokens * tokens));
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j <= i; ++j) made[static_cast<std::size_t>(i * tokens + j)] = 1;
    return made;
  }();
  return booleans;
}
const std::vector<std::uint64_t>& causal_bits() {
  static const std::vector<std::uint64_t> bits = [] {
    std::vector<std::uint64_t> made(static_cast<std::size_t>(tokens * words));
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j <= i; ++j)
        made[static_cast<std::size_t>(i * words + j / 64)] |= std::uint64_t{1} << (j % 64);
    return made;
  }();
  return bits;
}

// ALiBi that leaves a key 256 tokens away a weight of exp(-8).
constexpr float slope = 8.0f / 256;

template <class M>
void add(const std::string& name, const M& mechanism) {
  struct Call {
    const char* phase;
    lowatt::Options options;
  };
  std::vector<Call> calls = {
      {"full", {}},
      {"causal", {.causal = true}},
      {"window256", {.causal = true, .window_left = window - 1}},
      {"causal-booleans",
       {.causal = true, .mask = {causal_booleans().data(), 1, 1, tokens, tokens}}},
      {"causal-bits", {.causal = true, .mask_bits = {causal_bits().data(), 1, 1, tokens, words}}},
  };
  if (lowatt::Adapter<M>::has_score_terms)
    calls.push_back({"causal-alibi", {.causal = true, .alibi_slopes = &slope}});
  const char* level = lowatt::level_name(lowatt::cpu_level());
  for (const Call& call : calls)
    benchmark::RegisterBenchmark(
        name_of(name, level, {call.phase, 1, tokens, tokens, dim}).c_str(),
        [=, options = call.options](benchmark::State& state) mutable {
          Inputs inputs(1, tokens, tokens, dim);
          // Calibrated without the mask: the same thetas in every row of the table.
          lowatt::KvCache<M> cache({1, 1, dim, dim, tokens},
                                   lowatt::calibrate(mechanism, inputs.q(), inputs.k(), inputs.v()),
                                   mechanism);
          cache.append(inputs.k(), inputs.v());
          const auto plan = lowatt::plan(mechanism, {1, 1, 1, tokens, tokens, dim, dim}, options);
          lowatt::Array<std::byte> workspace(plan.workspace_size(1));
          options.workspace = workspace.data();
          options.workspace_bytes = workspace.size();
          for (auto _ : state) {
            lowatt::attend(inputs.q(), cache, inputs.out(), options);
            benchmark::ClobberMemory();
          }
        });
}

}  // namespace

void add_masks() {
  add("mask-softmax/fp32", lowatt::Softmax{});
  add("mask-softmax/int8", lowatt::Softmax{.precision = lowatt::Precision::int8});
  add("mask-softmax-capped/fp32", lowatt::Softmax{.soft_cap = 30});
  add("mask-softmax-capped/int8",
      lowatt::Softmax{.soft_cap = 30, .precision = lowatt::Precision::int8});
  add("mask-inhibitor/int8", lowatt::Inhibitor{.scale = 0.4 / static_cast<double>(dim)});
  add("mask-latte90/int8", lowatt::Latte{.filtered = 0.9});
  add("mask-bitformer4/int8", lowatt::Bitformer{.planes = 4, .center_keys = true});
}

}  // namespace bench
