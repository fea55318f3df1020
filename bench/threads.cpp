#include "threads.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <lowatt/interop/openmp.hpp>

#include "cases.hpp"

namespace bench {
namespace {

constexpr Index keys = 32768, dim = 128;

template <class M>
void add(const std::string& name, const M& mechanism) {
  const int most = std::max(2, lowatt::OpenMpExecutor().workers());
  for (int threads = 1; threads <= most; threads *= 2)
    benchmark::RegisterBenchmark(
        name_of(name, lowatt::level_name(lowatt::cpu_level()),
                {("decode-" + std::to_string(threads)).c_str(), 1, 1, keys, dim})
            .c_str(),
        [=](benchmark::State& state) {
          Inputs inputs(1, 1, keys, dim);
          lowatt::KvCache<M> cache({1, 1, dim, dim, keys},
                                   lowatt::calibrate(mechanism, inputs.q(), inputs.k(), inputs.v()),
                                   mechanism);
          cache.append(inputs.k(), inputs.v());
          const auto plan = lowatt::plan(mechanism, {1, 1, 1, 1, keys, dim, dim});
          lowatt::Array<std::byte> workspace(plan.workspace_size(threads));
          lowatt::OpenMpExecutor executor{threads};
          const lowatt::Options options{.executor = executor,
                                        .workspace = workspace.data(),
                                        .workspace_bytes = workspace.size()};
          for (auto _ : state) {
            lowatt::attend(inputs.q(), cache, inputs.out(), options);
            benchmark::ClobberMemory();
          }
        })
        ->UseRealTime();
}

}  // namespace

void add_threads() {
  add("threads-softmax/fp32", lowatt::Softmax{});
  add("threads-softmax/bf16", lowatt::Softmax{.precision = lowatt::Precision::bf16});
  add("threads-softmax/int8", lowatt::Softmax{.precision = lowatt::Precision::int8});
  add("threads-inhibitor/int8", lowatt::Inhibitor{.scale = 0.4 / static_cast<double>(dim)});
  add("threads-latte90/int8", lowatt::Latte{.filtered = 0.9});
  add("threads-bitformer4/int8", lowatt::Bitformer{.planes = 4, .center_keys = true});
}

}  // namespace bench
