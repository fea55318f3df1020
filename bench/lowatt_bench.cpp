// lowatt_bench: every mechanism, precision and level against softmax and Eigen in the same run.
//
// Names are mechanism/precision/level/phase/N/d; README.md beside this file says what the counters
// mean. Pin it: taskset -c 0 build/bench/lowatt_bench --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <lowatt/bitformer/reference.hpp>
#include <lowatt/inhibitor/reference.hpp>
#include <lowatt/latte/reference.hpp>
#include <lowatt/softmax/reference.hpp>
#include <map>
#include <string>

#include "cases.hpp"
#include "ceiling.hpp"
#include "eigen_baseline.hpp"
#include "masks.hpp"
#include "threads.hpp"

namespace {

using bench::count_pairs;
using bench::Extents;
using bench::Index;
using bench::Inputs;
using bench::name_of;
using bench::shapes;
using bench::Work;
using lowatt::Level;

template <class T>
double as_double(T value) {
  return static_cast<double>(value);
}

// How many registers' worth of work one query-key pair needs, at least: the sum over a kernel's
// loops.
struct Bound {
  Work work;
  double bytes_per_pair;  // in operands of `work`
};

// Percent of the ceiling: the time that the bounding instructions take at best, by the time taken.
void count_ceiling(benchmark::State& state, const Inputs& inputs, Level level,
                   const std::vector<Bound>& bounds) {
  double nanoseconds = 0;
  for (const Bound& bound : bounds)
    nanoseconds += bound.bytes_per_pair / bench::register_bytes(level) *
                   bench::nanoseconds_per_register(level, bound.work);
  state.counters["percent_of_ceiling"] = benchmark::Counter(
      100e-9 * nanoseconds * inputs.pairs(), benchmark::Counter::kIsIterationInvariantRate);
}

// For a sample of queries and every key, the scale from which on the key adds nothing: its largest
// |value| by its distance. Ascending.
std::vector<double> inhibiting_scales(const Inputs& inputs) {
  std::vector<double> scales;
  for (Index i = 0; i < inputs.queries; i += std::max<Index>(1, inputs.queries / 32))
    for (Index j = 0; j < inputs.keys; ++j) {
      double distance = 0, greatest = 0;
      for (Index c = 0; c < inputs.dim; ++c) {
        distance +=
            std::abs(as_double(inputs.q().row(0, 0, i)[c]) - as_double(inputs.k().row(0, 0, j)[c]));
        greatest = std::max(greatest, std::abs(as_double(inputs.v().row(0, 0, j)[c])));
      }
      scales.push_back(greatest / distance);
    }
  std::sort(scales.begin(), scales.end());
  return scales;
}

// Scale at which this fraction of the keys adds nothing.
double scale_for(const Inputs& inputs, double inhibited) {
  const std::vector<double> scales = inhibiting_scales(inputs);
  return scales[static_cast<std::size_t>(inhibited * as_double(scales.size() - 1))];
}

// One kernel: how it is set up for extents, and what bounds it.
template <class M>
struct Subject {
  std::string name;
  std::function<M(const Inputs&)> make;
  std::function<std::vector<Bound>(Index dim)> bounds;
  bool clustered = false;                                         // inputs
  std::function<std::vector<Bound>(Index dim)> tile_bounds = {};  // at level amx, if others
};

template <class M>
void run_attend(benchmark::State& state, const Subject<M>& subject, Level level, const Extents& e) {
  Inputs inputs(e.heads, e.queries, e.keys, e.dim);
  if (subject.clustered) inputs.cluster();
  const M mechanism = subject.make(inputs);
  lowatt::KvCache<M> cache({1, e.heads, e.dim, e.dim, e.keys},
                           lowatt::calibrate(mechanism, inputs.q(), inputs.k(), inputs.v()),
                           mechanism, level);
  cache.append(inputs.k(), inputs.v());
  const auto plan = lowatt::plan(mechanism, {1, e.heads, e.heads, e.queries, e.keys, e.dim, e.dim},
                                 {.level = level});
  lowatt::Array<std::byte> workspace(plan.workspace_size(1));
  std::vector<std::int64_t> kept(static_cast<std::size_t>(e.heads));
  const lowatt::Options options{
      .level = level, .workspace = workspace.data(), .workspace_bytes = workspace.size()};
  for (auto _ : state) {
    lowatt::attend(inputs.q(), cache, inputs.out(), options);
    benchmark::ClobberMemory();
  }
  count_pairs(state, inputs);
  const bool on_tiles = level == Level::amx && subject.tile_bounds;
  count_ceiling(state, inputs, level,
                on_tiles ? subject.tile_bounds(e.dim) : subject.bounds(e.dim));
  if (e.queries == 1)
    state.counters["cache_GB_per_s"] =
        benchmark::Counter(1e-9 * cache.bytes_per_token() * static_cast<double>(e.heads * e.keys),
                           benchmark::Counter::kIsIterationInvariantRate);
  if constexpr (std::is_same_v<M, lowatt::Inhibitor>) {
    const std::vector<double> scales = inhibiting_scales(inputs);
    const auto inhibited =
        std::upper_bound(scales.begin(), scales.end(), mechanism.scale.value) - scales.begin();
    state.counters["percent_inhibited"] = 100 * as_double(inhibited) / as_double(scales.size());
  }
  if constexpr (std::is_same_v<M, lowatt::Latte>) {
    lowatt::Options counting = options;
    counting.kept = kept.data();
    lowatt::attend(inputs.q(), cache, inputs.out(), counting);
    double total = 0;
    for (const std::int64_t count : kept) total += static_cast<double>(count);
    state.counters["percent_filtered"] = 100 * (1 - total / inputs.pairs());
  }
}

template <class M>
void run_pack(benchmark::State& state, const Subject<M>& subject, Level level, const Extents& e) {
  Inputs inputs(e.heads, 64, e.keys, e.dim);
  const M mechanism = subject.make(inputs);
  const auto calibration = lowatt::calibrate(mechanism, inputs.q(), inputs.k(), inputs.v());
  const lowatt::CacheShape shape{1, e.heads, e.dim, e.dim, e.keys};
  for (auto _ : state) {
    state.PauseTiming();
    lowatt::KvCache<M> cache(shape, calibration, mechanism, level);
    state.ResumeTiming();
    cache.append(inputs.k(), inputs.v());
    benchmark::ClobberMemory();
  }
  state.counters["ns_per_token"] = benchmark::Counter(
      static_cast<double>(e.heads * e.keys) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

template <class M>
void add(const Subject<M>& subject) {
  for (int i = 0; i < lowatt::level_count; ++i) {
    const auto level = static_cast<Level>(i);
    if (!lowatt::level_is_available(level)) continue;
    for (const Extents& e : shapes)
      benchmark::RegisterBenchmark(
          name_of(subject.name, lowatt::level_name(level), e).c_str(),
          [=](benchmark::State& state) { run_attend(state, subject, level, e); });
    for (const Index dim : {Index{64}, Index{128}}) {
      const Extents e{"pack", 1, 0, 2048, dim};
      benchmark::RegisterBenchmark(
          name_of(subject.name, lowatt::level_name(level), e).c_str(),
          [=](benchmark::State& state) { run_pack(state, subject, level, e); });
    }
  }
}

// A scalar reference, compiled at -O3 without level flags, at one modest shape per head_dim.
void add_reference(const std::string& name,
                   const std::function<lowatt::Status(Inputs&)>& reference) {
  for (const Index dim : {Index{64}, Index{128}}) {
    const Extents e{"prefill", 1, 128, 128, dim};
    benchmark::RegisterBenchmark(name_of(name, "reference", e).c_str(),
                                 [=](benchmark::State& state) {
                                   Inputs inputs(e.heads, e.queries, e.keys, e.dim);
                                   for (auto _ : state)
                                     if (!reference(inputs).ok()) state.SkipWithError("failed");
                                   count_pairs(state, inputs);
                                 });
  }
}

void add_eigen() {
  for (int i = 0; i < lowatt::level_count; ++i) {
    const auto level = static_cast<Level>(i);
    if (!lowatt::level_is_available(level)) continue;
    for (const Extents& e : shapes)
      benchmark::RegisterBenchmark(name_of("eigen/fp32", lowatt::level_name(level), e).c_str(),
                                   [=](benchmark::State& state) {
                                     Inputs inputs(e.heads, e.queries, e.keys, e.dim);
                                     for (auto _ : state) {
                                       bench::eigen_softmax(level, inputs.q(), inputs.k(),
                                                            inputs.v(), inputs.out());
                                       benchmark::ClobberMemory();
                                     }
                                     count_pairs(state, inputs);
                                   });
  }
}

// Distances that meet the values half-way: most keys add something.
lowatt::Inhibitor dense_inhibitor(Index dim, lowatt::Precision precision) {
  return {.scale = 0.4 / as_double(dim), .precision = precision};
}

// The distance of two thermometer codes.
Bound code_bound(int planes, Index d) {
  const double bytes = as_double(lowatt::thermometer_row_bytes(planes, d));
  if (!lowatt::has_levels(planes)) return {Work::popcount, bytes};
  return {lowatt::level_channels(planes) == 2 ? Work::level_pair : Work::level_minimum, bytes};
}

lowatt::Bitformer bitformer(int planes) {
  return {.planes = planes, .center_keys = true};
}

void add_all() {
  add(Subject<lowatt::Softmax>{"softmax/fp32", [](const Inputs&) { return lowatt::Softmax{}; },
                               [](Index d) {
                                 return std::vector<Bound>{{Work::multiply_add, 8 * as_double(d)}};
                               }});
  // Of 256 pairs at a time, so many bytes deep.
  const auto products = [](double depth) { return Bound{Work::tile_product, depth / 256}; };
  const auto softmax = [](lowatt::Precision precision) {
    return
        [precision](const Inputs&) { return lowatt::Softmax{.scale = {}, .precision = precision}; };
  };
  const auto as_fp32 = [](Index d) {
    return std::vector<Bound>{{Work::multiply_add, 8 * as_double(d)}};
  };
  add(Subject<lowatt::Softmax>{
      "softmax/bf16", softmax(lowatt::Precision::bf16), as_fp32, false,
      [=](Index d) { return std::vector<Bound>{products(4 * as_double(d))}; }});
  add(Subject<lowatt::Softmax>{"softmax/f16", softmax(lowatt::Precision::f16), as_fp32});
  add(Subject<lowatt::Softmax>{
      "softmax/int8", softmax(lowatt::Precision::int8),
      [](Index d) {
        return std::vector<Bound>{{Work::dot, as_double(d)},
                                  {Work::multiply_add, 4 * as_double(d)}};
      },
      false, [=](Index d) { return std::vector<Bound>{products(3 * as_double(d))}; }});
  add_eigen();
  for (const auto precision : {lowatt::Precision::int8, lowatt::Precision::int4})
    add(Subject<lowatt::Inhibitor>{
        std::string("inhibitor/") + lowatt::precision_name(precision),
        [precision](const Inputs& in) { return dense_inhibitor(in.dim, precision); },
        [](Index d) {
          return std::vector<Bound>{{Work::minimum_dot, 2 * as_double(d)}};
        }});
  // Queries and keys as thermometer codes.
  for (const int planes : {1, 2, 4, 8})
    add(Subject<lowatt::Inhibitor>{
        "inhibitor-planes" + std::to_string(planes) + "/int8",
        [planes](const Inputs& in) {
          lowatt::Inhibitor mechanism = dense_inhibitor(in.dim, lowatt::Precision::int8);
          mechanism.planes = planes;
          return mechanism;
        },
        [planes](Index d) {
          return std::vector<Bound>{code_bound(planes, d), {Work::minimum_dot, as_double(d)}};
        }});
  // Scores of all keys, inhibition of those that are left; of clustered ones not even all scores.
  add(Subject<lowatt::Inhibitor>{
      "inhibitor90/int8",
      [](const Inputs& in) { return lowatt::Inhibitor{.scale = scale_for(in, 0.9)}; },
      [](Index d) {
        return std::vector<Bound>{{Work::minimum_dot, 1.1 * as_double(d)}};
      }});
  add(Subject<lowatt::Inhibitor>{
      "inhibitor95-clustered/int8",
      [](const Inputs& in) { return lowatt::Inhibitor{.scale = scale_for(in, 0.95)}; },
      [](Index d) {
        return std::vector<Bound>{{Work::minimum_dot, 0.1 * as_double(d)}};
      },
      true});
  add(Subject<lowatt::Inhibitor>{
      "inhibitor/int16",
      [](const Inputs& in) { return dense_inhibitor(in.dim, lowatt::Precision::int16); },
      [](Index d) {
        return std::vector<Bound>{{Work::minimum_dot2, 4 * as_double(d)}};
      }});
  add(Subject<lowatt::Inhibitor>{
      "inhibitor/fp32",
      [](const Inputs& in) { return dense_inhibitor(in.dim, lowatt::Precision::fp32); },
      [](Index d) {
        return std::vector<Bound>{{Work::absolute_sum, 4 * as_double(d)},
                                  {Work::inhibited_sum, 4 * as_double(d)}};
      }});
  // Thresholds are calibrated on what is timed.
  const auto add_latte = [&](const std::string& name, int filtered, lowatt::Precision values) {
    const double kept = 1 - 0.01 * filtered;
    const auto completion = [kept](Index d) {
      return std::vector<Bound>{{Work::dot, kept * as_double(d)},
                                {Work::multiply_add, 4 * kept * as_double(d)}};
    };
    add(Subject<lowatt::Latte>{name + std::to_string(filtered) + "/int8",
                               [filtered, values](const Inputs&) {
                                 return lowatt::Latte{.filtered = 0.01 * filtered,
                                                      .value_precision = values};
                               },
                               [=](Index d) {
                                 std::vector<Bound> bounds = completion(d);
                                 bounds.push_back({Work::dot, as_double(d)});
                                 return bounds;
                               },
                               false,
                               [=](Index d) {
                                 std::vector<Bound> bounds = completion(d);
                                 bounds.push_back(products(as_double(d)));
                                 return bounds;
                               }});
  };
  for (const int filtered : {50, 80, 85, 90, 95})
    add_latte("latte", filtered, lowatt::Precision::int8);
  add_latte("latte-fp32-values", 90, lowatt::Precision::fp32);
  for (const int planes : {1, 2, 4})
    add(Subject<lowatt::Bitformer>{
        "bitformer" + std::to_string(planes) + "/int8",
        [planes](const Inputs&) { return bitformer(planes); },
        [planes](Index d) {
          return std::vector<Bound>{code_bound(planes, d), {Work::dot, as_double(d)}};
        },
        false,
        [=](Index d) {
          return std::vector<Bound>{code_bound(planes, d), products(as_double(d))};
        }});

  add_reference("softmax/fp32", [](Inputs& in) {
    return lowatt::softmax_reference(lowatt::Softmax{}, in.q(), in.k(), in.v(), in.out());
  });
  for (const auto precision :
       {lowatt::Precision::int8, lowatt::Precision::int16, lowatt::Precision::fp32})
    add_reference(std::string("inhibitor/") + lowatt::precision_name(precision),
                  [precision](Inputs& in) {
                    return lowatt::inhibitor_reference(dense_inhibitor(in.dim, precision), in.q(),
                                                       in.k(), in.v(), in.out());
                  });
  add_reference("latte90/int8", [](Inputs& in) {
    static std::map<Index, lowatt::Calibration> known;  // by head_dim: not made in every iteration
    const auto [found, is_new] = known.try_emplace(in.dim);
    lowatt::Calibration& calibration = found->second;
    if (is_new)
      calibration = lowatt::calibrate(lowatt::Latte{.filtered = 0.9}, in.q(), in.k(), in.v());
    return lowatt::latte_reference(lowatt::Latte{.theta = calibration.theta}, in.q(), in.k(),
                                   in.v(), in.out());
  });
  for (const int planes : {1, 2, 4})
    add_reference("bitformer" + std::to_string(planes) + "/int8", [planes](Inputs& in) {
      return lowatt::bitformer_reference(bitformer(planes), in.q(), in.k(), in.v(), in.out());
    });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("best level", lowatt::level_name(lowatt::cpu_level()));
  add_all();
  bench::add_masks();
  bench::add_threads();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
