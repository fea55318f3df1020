// lowatt_peers_bench: our kernels and what users would otherwise pick, in the same run.
//
// Names are mechanism/precision/level/phase/N/d as in lowatt_bench. "+pack" after the precision
// means that the clock starts at plain float keys and values; without it they were packed before.
// Pin it: taskset -c 0 build/bench/peers/lowatt_peers_bench
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <lowatt/softmax/reference.hpp>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "attention.hpp"
#include "bench/cases.hpp"

namespace {

using bench::Attention;
using bench::Contender;
using bench::Extents;
using bench::Index;
using bench::Inputs;

template <class M>
class Ours final : public Attention {
 public:
  Ours(Inputs& inputs, const M& mechanism)
      : in_(inputs),
        mechanism_(mechanism),
        calibration_(lowatt::calibrate(mechanism, in_.q(), in_.k(), in_.v())),
        options_{.level = lowatt::cpu_level()} {
    const lowatt::Shape shape{1, in_.heads, in_.heads, in_.queries, in_.keys, in_.dim, in_.dim};
    workspace_.emplace(lowatt::plan(mechanism_, shape, options_).workspace_size(1));
    options_.workspace = workspace_->data();
    options_.workspace_bytes = workspace_->size();
  }

  void pack() override {
    cache_.emplace(lowatt::CacheShape{1, in_.heads, in_.dim, in_.dim, in_.keys}, calibration_,
                   mechanism_, options_.level);
    cache_->append(in_.k(), in_.v());
  }

  void attend() override { lowatt::attend(in_.q(), *cache_, in_.out(), options_); }

 private:
  Inputs& in_;
  M mechanism_;
  lowatt::Calibration calibration_;  // once per model, not per call
  lowatt::Options options_;
  std::optional<lowatt::Array<std::byte>> workspace_;
  std::optional<lowatt::KvCache<M>> cache_;
};

constexpr double not_softmax = std::numeric_limits<double>::infinity();

// Both rows of one of our kernels; make_mechanism is called with the head_dim.
template <class Make>
void add_ours(std::vector<Contender>& contenders, const std::string& kernel, double tolerance,
              Make make_mechanism) {
  using M = decltype(make_mechanism(Index{}));
  for (const bool packs_in_clock : {false, true})
    contenders.push_back({kernel, lowatt::level_name(lowatt::cpu_level()), packs_in_clock,
                          tolerance, [=](Inputs& inputs) {
                            return std::make_unique<Ours<M>>(inputs, make_mechanism(inputs.dim));
                          }});
}

std::vector<Contender> all_contenders() {
  std::vector<Contender> all;
  add_ours(all, "softmax/fp32", 1e-4, [](Index) { return lowatt::Softmax{}; });
  for (const auto precision : {lowatt::Precision::bf16, lowatt::Precision::int8})
    add_ours(all, std::string("softmax/") + lowatt::precision_name(precision), 2e-2,
             [precision](Index) { return lowatt::Softmax{.scale = {}, .precision = precision}; });
  add_ours(all, "inhibitor/int8", not_softmax, [](Index dim) {
    return lowatt::Inhibitor{.scale = 0.4 / static_cast<double>(dim),
                             .precision = lowatt::Precision::int8};
  });
  for (const int filtered : {90, 95})
    add_ours(all, "latte" + std::to_string(filtered) + "/int8", not_softmax,
             [filtered](Index) { return lowatt::Latte{.filtered = 0.01 * filtered}; });
  for (const int planes : {1, 4})
    add_ours(all, "bitformer" + std::to_string(planes) + "/int8", not_softmax,
             [planes](Index) { return lowatt::Bitformer{.planes = planes, .center_keys = true}; });
  const auto append = [&](std::vector<Contender> more) {
    for (Contender& contender : more) all.push_back(std::move(contender));
  };
#ifdef LOWATT_PEERS_ONEDNN
  append(bench::onednn_contenders());
  benchmark::AddCustomContext("oneDNN", bench::onednn_version());
#endif
#ifdef LOWATT_PEERS_OPENBLAS
  append(bench::openblas_contenders());
  benchmark::AddCustomContext("OpenBLAS", bench::openblas_version());
#endif
  return all;
}

// Exact softmax of the inputs of these extents, computed once.
const std::vector<float>& exact_softmax(const Extents& e) {
  static std::map<const Extents*, std::vector<float>> known;
  std::vector<float>& exact = known[&e];
  if (exact.empty()) {
    Inputs inputs(e.heads, e.queries, e.keys, e.dim);
    if (!lowatt::softmax_reference(lowatt::Softmax{}, inputs.q(), inputs.k(), inputs.v(),
                                   inputs.out())
             .ok()) {
      std::fputs("lowatt: the softmax reference refused the benchmark's inputs\n", stderr);
      std::exit(1);
    }
    exact = inputs.out_data;
  }
  return exact;
}

// A wrong result must not be measured: ends the program.
void check(const std::string& name, const Contender& contender, const Extents& e,
           const Inputs& inputs) {
  const std::vector<float>& exact = exact_softmax(e);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double difference = inputs.out_data[i] - exact[i];
    error += difference * difference;
    size += static_cast<double>(exact[i]) * exact[i];
  }
  const double relative = std::sqrt(error / size);
  if (relative <= contender.tolerance) return;
  std::fprintf(stderr, "lowatt: %s is wrong: relative L2 distance to softmax is %g, not %g\n",
               name.c_str(), relative, contender.tolerance);
  std::exit(1);
}

void run(benchmark::State& state, const std::string& name, const Contender& contender,
         const Extents& e) {
  Inputs inputs(e.heads, e.queries, e.keys, e.dim);
  std::unique_ptr<Attention> attention;
  try {
    attention = contender.make(inputs);
    attention->pack();
    attention->attend();
  } catch (const std::exception& failure) {  // oneDNN: no such kernel for this CPU
    state.SkipWithError(failure.what());
    return;
  }
  static std::set<std::string> checked;
  if (std::isfinite(contender.tolerance) && checked.insert(name).second)
    check(name, contender, e, inputs);
  for (auto _ : state) {
    if (contender.packs_in_clock) attention->pack();
    attention->attend();
    benchmark::ClobberMemory();
  }
  bench::count_pairs(state, inputs);
}

// For the script that measures ONNX Runtime, so that shapes are written once.
void print_shapes() {
  const char* separator = "[";
  for (const Extents& e : bench::shapes) {
    std::printf("%s{\"phase\":\"%s\",\"heads\":%td,\"queries\":%td,\"keys\":%td,\"dim\":%td}",
                separator, e.phase, e.heads, e.queries, e.keys, e.dim);
    separator = ",\n";
  }
  std::puts("]");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--shapes") {
    print_shapes();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("best level", lowatt::level_name(lowatt::cpu_level()));
  const std::vector<Contender> contenders = all_contenders();
  // Shape by shape, so that what is compared is measured close together.
  for (const Extents& e : bench::shapes)
    for (const Contender& contender : contenders) {
      const std::string kernel = contender.kernel + (contender.packs_in_clock ? "+pack" : "");
      const std::string name = bench::name_of(kernel, contender.level, e);
      benchmark::RegisterBenchmark(
          name.c_str(), [&, name](benchmark::State& state) { run(state, name, contender, e); });
    }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
